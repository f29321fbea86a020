#include "engine/generator.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "engine/context_size.h"
#include "engine/grammar/answer_constraint.h"
#include "engine/text/stop_matcher.h"

namespace strata::engine {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

bool is_cancelled(const GenerationEvents& events) {
  return events.cancel != nullptr && events.cancel->load(std::memory_order_relaxed);
}

/// The caller's sampler options, and the end tokens barred where the answer must not end.
SamplerOptions sampler_options(const GenerationRequest& request, const Tokenizer& tokenizer) {
  SamplerOptions options = request.sampler;
  if (!request.ignore_eos) return options;
  for (uint32_t token = 0; token < tokenizer.vocab_size(); ++token) {
    const auto id = static_cast<TokenId>(token);
    if (tokenizer.is_end(id))
      options.logit_bias.emplace_back(id, -std::numeric_limits<double>::infinity());
  }
  return options;
}

/// Leaves in the sequence what it shares with the prompt, without the prompt's last token: its
/// logits are wanted.
void keep_common_prefix(Sequence& sequence, std::span<const TokenId> prompt, TokenUsage& usage) {
  const auto& held = sequence.tokens();
  const auto differs = std::ranges::mismatch(held, prompt);
  const auto common = static_cast<uint32_t>(differs.in1 - held.begin());
  const uint32_t wanted = std::min(common, static_cast<uint32_t>(prompt.size() - 1));
  const uint32_t kept = wanted < sequence.n_pos() ? sequence.truncate(wanted) : wanted;
  usage.cached_tokens = kept;
  usage.recomputed_tokens = common - kept;
}

/// The answer as it grows: tokens become text, stop texts end it, the caller hears it.
class AnswerStream {
 public:
  AnswerStream(const Tokenizer& tokenizer, const GenerationRequest& request,
               const GenerationEvents& events)
      : decoder_(tokenizer), stops_(request.stop), events_(&events) {}

  /// False where the caller cancelled.
  bool push(TokenId token, Generation& answer) {
    answer.tokens.push_back(token);
    return say(stops_.push(decoder_.push(token)), answer);
  }
  bool finish(Generation& answer) {
    bool goes_on = true;
    if (!stops_.is_hit()) goes_on = say(stops_.push(decoder_.finish()), answer);
    return say(stops_.finish(), answer) && goes_on;
  }
  bool stopped() const { return stops_.is_hit(); }

 private:
  bool say(const std::string& text, Generation& answer) {
    if (text.empty()) return true;
    answer.text += text;
    if (events_->on_text && !is_cancelled_) is_cancelled_ = !events_->on_text(text);
    return !is_cancelled_;
  }
  StreamDecoder decoder_;
  StopMatcher stops_;
  const GenerationEvents* events_;
  bool is_cancelled_ = false;  // by on_text, which then hears no more
};

/// The walk looks at the caller's flag while this lives.
class CancelScope {
 public:
  CancelScope(Walk& walk, const std::atomic<bool>* flag) : walk_(walk) { walk_.set_cancel(flag); }
  ~CancelScope() { walk_.set_cancel(nullptr); }
  CancelScope(const CancelScope&) = delete;
  CancelScope& operator=(const CancelScope&) = delete;

 private:
  Walk& walk_;
};

/// One call of generate(): what it works on, and the answer it builds.
struct Run {
  Walk& walk;
  Sequence& sequence;
  const Tokenizer& tokenizer;
  const GenerationRequest& request;
  const GenerationEvents& events;
  Clock::time_point start;
  AnswerStream stream;
  Generation answer;

  bool read_prompt();
  bool walk_last_token();
  FinishReason answer_tokens(Sampler& sampler);
};

/// False where it was cancelled.
bool Run::read_prompt() {
  keep_common_prefix(sequence, request.prompt, answer.usage);
  const uint64_t n_cached = answer.usage.cached_tokens;
  const auto on_restored = [&](uint64_t done) {
    return (!events.on_prefill || events.on_prefill(done, request.prompt.size())) &&
           !is_cancelled(events);
  };
  bool goes_on = true;  // prefill() has nothing left to stop after the last chunk
  const auto on_chunk = [&](uint64_t done, uint64_t) {
    goes_on = !events.on_prefill || events.on_prefill(n_cached + done, request.prompt.size());
    goes_on = goes_on && !is_cancelled(events);
    return goes_on;
  };
  const auto rest = request.prompt.subspan(n_cached);
  const bool is_question = n_cached > rest.size() && rest.size() <= kQuestionTokensMax;
  const Attention attention = is_question ? request.attention : Attention::kExact;
  try {
    // What selects takes restored blocks into its index first, and a device into its memory, so
    // both read all of them.
    if (attention == Attention::kExact && walk.device() == nullptr) {
      answer.meeting = meet_in_the_middle(walk, sequence, request.chunk_rows, on_restored);
      answer.usage.cached_tokens -= answer.meeting.computed_tokens;
      answer.usage.recomputed_tokens += answer.meeting.computed_tokens;
    }
    prefill(walk, sequence, rest, request.chunk_rows, on_chunk, attention);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) throw;
    return false;
  }
  return goes_on;
}

/// False where it was cancelled.
bool Run::walk_last_token() {
  const StepRow row{&sequence, answer.tokens.back(), true};
  try {
    walk.step(std::span(&row, 1), request.attention);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) throw;
    return false;
  }
  ++answer.times.n_decode_steps;
  return true;
}

/// Samples until something ends the answer; says what.
FinishReason Run::answer_tokens(Sampler& sampler) {
  const uint64_t room = request.n_ctx - request.prompt.size();
  const uint64_t n_most = std::min(request.n_predict, room);
  Clock::time_point decode_start = start;
  FinishReason reason = FinishReason::kLength;
  for (uint64_t i = 0; i < n_most; ++i) {
    if (is_cancelled(events) || (i > 0 && !walk_last_token())) {
      reason = FinishReason::kCancelled;
      break;
    }
    std::span<const uint64_t> allowed;
    if (request.constraint) allowed = request.constraint->allowed();
    const TokenId token = sampler.pick(walk.logits(0), allowed);
    if (i == 0) {
      answer.times.ttft_ms = ms_since(start);
      decode_start = Clock::now();
    }
    if (!request.ignore_eos && tokenizer.is_end(token)) {
      reason = FinishReason::kStop;
      break;
    }
    sampler.accept(token);
    if (request.constraint) request.constraint->accept(token);
    const bool goes_on = stream.push(token, answer);
    const bool is_over = request.constraint && request.constraint->is_over();
    if (stream.stopped() || is_over || !goes_on) {
      reason = stream.stopped() || is_over ? FinishReason::kStop : FinishReason::kCancelled;
      break;
    }
  }
  if (!stream.finish(answer)) reason = FinishReason::kCancelled;
  if (answer.times.n_decode_steps > 0) answer.times.decode_ms = ms_since(decode_start);
  answer.context_full =
      reason == FinishReason::kLength && answer.tokens.size() == room && room < request.n_predict;
  return reason;
}

}  // namespace

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

double GenerationTimes::prefill_tokens_per_s(const TokenUsage& usage) const {
  const auto n_read = static_cast<double>(usage.prompt_tokens - usage.cached_tokens);
  return prefill_ms > 0 ? n_read * 1000.0 / prefill_ms : 0;
}

double GenerationTimes::tpot_ms() const {
  return n_decode_steps > 0 ? decode_ms / static_cast<double>(n_decode_steps) : 0;
}

double GenerationTimes::decode_tokens_per_s() const {
  return decode_ms > 0 ? static_cast<double>(n_decode_steps) * 1000.0 / decode_ms : 0;
}

Generation generate(Walk& walk, Sequence& sequence, const Tokenizer& tokenizer,
                    const GenerationRequest& request, const GenerationEvents& events) {
  STRATA_CHECK(!request.prompt.empty(), "a prompt has at least one token");
  check_prompt_fits(request.prompt.size(), request.n_ctx,
                    std::max(request.n_ctx, request.n_ctx_train));
  Sampler sampler(sampler_options(request, tokenizer), request.vocab_size);
  Run run{walk,
          sequence,
          tokenizer,
          request,
          events,
          Clock::now(),
          AnswerStream(tokenizer, request, events),
          {}};
  const CancelScope cancels(walk, events.cancel);
  run.answer.usage.prompt_tokens = request.prompt.size();
  const bool was_read = run.read_prompt();
  run.answer.times.prefill_ms = ms_since(run.start);
  if (!was_read) {
    run.answer.finish_reason = FinishReason::kCancelled;
    return std::move(run.answer);
  }
  for (const TokenId token : request.prompt) sampler.accept(token);
  run.answer.finish_reason = run.answer_tokens(sampler);
  run.answer.usage.completion_tokens = run.answer.tokens.size();
  return std::move(run.answer);
}

}  // namespace strata::engine
