#include "engine/answer.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "engine/context_size.h"
#include "engine/grammar/answer_constraint.h"
#include "engine/token_scores.h"

namespace strata::engine {
namespace {

double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
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

// Lists of an answer do not grow while it has fewer tokens; a longer one's do as it grows.
constexpr uint64_t kReservedTokens = 1 << 14;
constexpr uint64_t kReservedTokenBytes = 16;  // of text; a token of English is 4 on average

/// Refuses what leaves no room for an answer, before anything is made for it.
GenerationRequest checked(GenerationRequest request) {
  STRATA_CHECK(!request.prompt.empty(), "a prompt has at least one token");
  check_prompt_fits(request.prompt.size(), request.n_ctx,
                    std::max(request.n_ctx, request.n_ctx_train));
  return request;
}

}  // namespace

bool AnswerText::push(TokenId token, const GenerationEvents& events, Generation& answer) {
  answer.tokens.push_back(token);
  return say(stops_.push(decoder_.push(token)), events, answer);
}

bool AnswerText::finish(const GenerationEvents& events, Generation& answer) {
  bool goes_on = true;
  if (!stops_.is_hit()) goes_on = say(stops_.push(decoder_.finish()), events, answer);
  return say(stops_.finish(), events, answer) && goes_on;
}

bool AnswerText::say(std::string_view text, const GenerationEvents& events, Generation& answer) {
  if (text.empty()) return true;
  answer.text += text;
  if (events.on_text && !is_cancelled_) is_cancelled_ = !events.on_text(text);
  return !is_cancelled_;
}

Answer::Answer(Sequence& sequence, const Tokenizer& tokenizer, const GenerationRequest& request,
               const GenerationEvents& events)
    : sequence_(sequence),
      tokenizer_(tokenizer),
      request_(checked(request)),
      events_(events),
      sampler_(sampler_options(request, tokenizer), request.vocab_size),
      text_(tokenizer, request.stop),
      start_(Clock::now()),
      decode_start_(start_),
      n_most_(std::min(request.n_predict, request.n_ctx - request.prompt.size())),
      draft_length_(request.n_draft_max) {
  answer_.usage.prompt_tokens = request_.prompt.size();
  const uint64_t n_reserved = std::min(n_most_, kReservedTokens);
  answer_.tokens.reserve(n_reserved);
  answer_.times.lone_steps.reserve(n_reserved);
  answer_.text.reserve(n_reserved * kReservedTokenBytes);
  draft_.reserve(std::min(request_.n_draft_max, kExtentPositions));
  keep_common_prefix();
  const uint64_t n_cached = sequence_.n_pos(), n_rest = request_.prompt.size() - n_cached;
  const bool is_question = n_cached > n_rest && n_rest <= kQuestionTokensMax;
  is_sparse_ = request_.attention == Attention::kSelected && !is_question &&
               request_.sparse_from < request_.prompt.size();
  // Before request_.sparse_from everything is read exactly.
  const bool has_sparse = request_.sparse_from != kNeverSparse;
  if (is_question)
    question_from_ = has_sparse ? std::max<uint64_t>(n_cached, request_.sparse_from) : n_cached;
  else if (is_sparse_)
    question_from_ = std::max(
        request_.sparse_from,
        request_.prompt.size() - std::min(request_.prompt.size(), size_t{kQuestionTokensMax}));
}

Attention Answer::attention() const {
  if (!is_reading() || sequence_.n_pos() >= question_from_) return request_.attention;
  if (!is_sparse_) return Attention::kExact;
  return next_chunk(sequence_.n_pos(), request_.chunk_rows, request_.sparse_from).attention;
}

/// Leaves in the sequence what it shares with the prompt, without the prompt's last token: its
/// logits are wanted.
void Answer::keep_common_prefix() {
  const auto& held = sequence_.tokens();
  const auto differs = std::ranges::mismatch(held, request_.prompt);
  const auto common = static_cast<uint32_t>(differs.in1 - held.begin());
  const uint32_t wanted = std::min(common, static_cast<uint32_t>(request_.prompt.size() - 1));
  const uint32_t kept = wanted < sequence_.n_pos() ? sequence_.truncate(wanted) : wanted;
  answer_.usage.cached_tokens = kept;
  answer_.usage.recomputed_tokens = common - kept;
}

bool Answer::is_cancelled() const {
  return events_.cancel != nullptr && events_.cancel->load(std::memory_order_relaxed);
}

void Answer::restore(Walk& walk) {
  // What selects takes restored blocks into its index first, and a device into its memory, so both
  // read all of them.
  if (has_ended() || attention() != Attention::kExact || walk.device() != nullptr) return;
  const auto on_restored = [&](uint64_t done) {
    return (!events_.on_prefill || events_.on_prefill(done, request_.prompt.size())) &&
           !is_cancelled();
  };
  try {
    answer_.meeting = meet_in_the_middle(walk, sequence_, request_.chunk_rows, on_restored);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) throw;
    return cancel();
  }
  answer_.usage.cached_tokens -= answer_.meeting.computed_tokens;
  answer_.usage.recomputed_tokens += answer_.meeting.computed_tokens;
}

/// Guesses for the next step. None of them is the last one of an extent: what does not come is
/// neither written to a spill file nor leaves an extent in pieces. None ends the answer, by its
/// length or as an end token: nothing would come of it.
void Answer::make_draft(uint32_t n_most) {
  draft_.clear();
  if (n_most == 0 || request_.n_draft_max == 0 || request_.attention != Attention::kExact) return;
  if (!lookup_) {
    lookup_.emplace(request_.prompt.size() + n_most_);
    for (const TokenId token : request_.prompt) lookup_->append(token);
    for (const TokenId token : answer_.tokens) lookup_->append(token);
  }
  const uint32_t in_extent = sequence_.n_pos() % kExtentPositions;
  const uint64_t n_left = n_most_ - answer_.tokens.size() - 1;
  const uint32_t n = std::min({draft_length_.next(), n_most,
                               kExtentPositions - 1 - std::min(in_extent + 1, kExtentPositions - 1),
                               static_cast<uint32_t>(std::min<uint64_t>(n_left, UINT32_MAX))});
  lookup_->propose(n, draft_);
  const auto is_end = [&](TokenId token) { return tokenizer_.is_end(token); };
  draft_.erase(std::ranges::find_if(draft_, is_end), draft_.end());
}

uint32_t Answer::drop_draft() {
  const auto n = static_cast<uint32_t>(draft_.size());
  draft_.clear();
  return n;
}

uint32_t Answer::append_rows(uint32_t n_rows_max, std::vector<StepRow>& rows) {
  STRATA_CHECK(!has_ended() && n_rows_max > 0, "an answer that wants no rows");
  if (!is_reading()) {
    make_draft(n_rows_max - 1);
    rows.push_back({&sequence_, answer_.tokens.back(), true});
    for (const TokenId token : draft_) rows.push_back({&sequence_, token, true});
    return 1 + static_cast<uint32_t>(draft_.size());
  }
  const auto rest = request_.prompt.subspan(sequence_.n_pos());
  const uint64_t sparse_from = is_sparse_ ? request_.sparse_from : kNeverSparse;
  const PromptChunk chunk = next_chunk(sequence_.n_pos(), request_.chunk_rows, sparse_from);
  size_t n = std::min<size_t>({rest.size(), n_rows_max, chunk.n_rows});
  if (sequence_.n_pos() < question_from_)
    n = std::min<size_t>(n, question_from_ - sequence_.n_pos());
  for (size_t i = 0; i < n; ++i) rows.push_back({&sequence_, rest[i], i + 1 == rest.size()});
  return n == rest.size() ? 1 : 0;
}

void Answer::take_step(std::span<const float> logits) {
  STRATA_CHECK(!has_ended(), "a step of an answer that has ended");
  if (!is_reading()) {
    ++answer_.times.n_decode_steps;
    if (draft_.empty())
      answer_.times.lone_steps.push_back(
          {sequence_.n_pos() - 1, static_cast<float>(ms_since(last_token_))});
    return take_rows(logits);
  }
  const uint64_t n_read = sequence_.n_pos();
  const bool goes_on = !events_.on_prefill || events_.on_prefill(n_read, request_.prompt.size());
  answer_.times.prefill_ms = ms_since(start_);
  if (!goes_on || is_cancelled()) return cancel();
  if (n_read < request_.prompt.size()) return;
  state_ = State::kAnswering;
  for (const TokenId token : request_.prompt) sampler_.accept(token);
  if (n_most_ == 0) return end(FinishReason::kLength);
  take_token(logits);
}

/// Row i of a step is what comes after the first i tokens of the draft, so its logits count where
/// those have come. Each token is drawn as it would be alone: what comes does not depend on the
/// draft.
void Answer::take_rows(std::span<const float> logits) {
  const size_t n_drafted = draft_.size();
  size_t n_taken = 0, n_accepted = 0;
  for (bool goes_on = true; goes_on;) {
    const TokenId token =
        take_token(logits.subspan(n_taken * request_.vocab_size, request_.vocab_size));
    ++answer_.times.n_decode_tokens;
    const bool is_accepted = n_taken < n_drafted && token == draft_[n_taken];
    if (is_accepted) ++n_accepted;
    ++n_taken;
    goes_on = is_accepted && !has_ended();
  }
  draft_length_.take(static_cast<uint32_t>(n_drafted), static_cast<uint32_t>(n_accepted));
  answer_.drafts.proposed += n_drafted;
  answer_.drafts.accepted += n_accepted;
  const auto n_kept = sequence_.n_pos() - static_cast<uint32_t>(1 + n_drafted - n_taken);
  const uint32_t n_left = sequence_.truncate(n_kept);
  STRATA_CHECK(n_left == n_kept, "%u positions left of %u", n_left, n_kept);
}

TokenId Answer::take_token(std::span<const float> logits) {
  last_token_ = Clock::now();
  std::span<const uint64_t> allowed;
  if (request_.constraint) allowed = request_.constraint->allowed();
  const TokenId token = sampler_.pick(logits, allowed);
  if (answer_.tokens.empty()) {
    answer_.times.ttft_ms = ms_since(start_);
    decode_start_ = last_token_;
  }
  if (!request_.ignore_eos && tokenizer_.is_end(token)) {
    end(FinishReason::kStop);
    return token;
  }
  sampler_.accept(token);
  if (request_.constraint) request_.constraint->accept(token);
  if (lookup_) lookup_->append(token);
  if (request_.n_logprobs && events_.on_scores)
    events_.on_scores(score_token(logits, token, *request_.n_logprobs));
  const bool goes_on = text_.push(token, events_, answer_);
  if (const auto reason = reason_to_end(goes_on)) end(*reason);
  return token;
}

/// After a token that did not end the answer by itself.
std::optional<FinishReason> Answer::reason_to_end(bool goes_on) const {
  if (text_.is_stopped()) return FinishReason::kStop;
  if (!goes_on) return FinishReason::kCancelled;
  if (request_.constraint && request_.constraint->is_over()) return FinishReason::kStop;
  if (answer_.tokens.size() == n_most_) return FinishReason::kLength;
  if (is_cancelled()) return FinishReason::kCancelled;
  return std::nullopt;
}

void Answer::cancel() {
  if (is_reading()) answer_.times.prefill_ms = ms_since(start_);
  if (!has_ended()) end(FinishReason::kCancelled);
}

void Answer::fail(std::exception_ptr error) {
  if (has_ended()) return;
  failure_ = std::move(error);
  state_ = State::kEnded;
}

void Answer::end(FinishReason reason) {
  const uint64_t room = request_.n_ctx - request_.prompt.size();
  const bool goes_on = text_.finish(events_, answer_);
  answer_.finish_reason = goes_on ? reason : FinishReason::kCancelled;
  answer_.stop_text = text_.stop_text();
  if (answer_.times.n_decode_steps > 0) answer_.times.decode_ms = ms_since(decode_start_);
  answer_.context_full = answer_.finish_reason == FinishReason::kLength &&
                         answer_.tokens.size() == room && room < request_.n_predict;
  answer_.usage.completion_tokens = answer_.tokens.size();
  state_ = State::kEnded;
}

}  // namespace strata::engine
