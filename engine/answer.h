// engine/answer.h - one answer on its way, as a state machine: which rows it wants walked next, and
// what it makes of their logits. Who walks them, alone or beside others, changes no bit (law L1).
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "engine/draft_length.h"
#include "engine/generator.h"
#include "engine/prompt_lookup.h"
#include "engine/sampler.h"
#include "engine/text/stop_matcher.h"

namespace strata::engine {

/// An answer as it grows: tokens become text, stop texts end it, the caller hears it.
class AnswerText {
 public:
  AnswerText(const Tokenizer& tokenizer, const std::vector<std::string>& stops)
      : decoder_(tokenizer), stops_(stops) {}

  /// Both append to `answer` and say what is new. False where the caller cancelled.
  bool push(TokenId token, const GenerationEvents& events, Generation& answer);
  bool finish(const GenerationEvents& events, Generation& answer);
  bool is_stopped() const { return stops_.is_hit(); }
  std::string stop_text() const { return stops_.hit(); }

 private:
  bool say(std::string_view text, const GenerationEvents& events, Generation& answer);
  StreamDecoder decoder_;
  StopMatcher stops_;
  bool is_cancelled_ = false;  // by on_text, which then hears no more
};

/// reading -> answering -> ended; cancel() and fail() end it at any time. Not movable: callbacks
/// may know where it is. Threads: one at a time.
class Answer {
 public:
  /// Leaves in `sequence` what it shares with the prompt. The sequence, the tokenizer and the
  /// prompt are borrowed. Errors: ContextLengthError, those of Sampler and StopMatcher.
  Answer(Sequence& sequence, const Tokenizer& tokenizer, const GenerationRequest& request,
         const GenerationEvents& events);
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;

  /// Before the first step, where nobody else waits for the walk: brings a restored beginning into
  /// memory from both ends. Errors: those of meet_in_the_middle() but for kCancelled, which ends
  /// it; exceptions of the callbacks.
  void restore(Walk& walk);

  bool is_reading() const { return state_ == State::kReading; }
  bool has_ended() const { return state_ == State::kEnded; }
  const Sequence& sequence() const { return sequence_; }
  const GenerationRequest& request() const { return request_; }
  const TokenUsage& usage() const { return answer_.usage; }
  /// Tokens of the answer so far.
  const std::vector<TokenId>& tokens() const { return answer_.tokens; }
  /// What its next rows attend.
  Attention attention() const;
  /// Whether its next rows are a chunk that selects, which is walked whole.
  bool reads_sparsely() const {
    return is_reading() && sequence_.n_pos() < question_from_ &&
           attention() == Attention::kSelected;
  }
  /// Positions from the prompt's beginning that it reads exactly where it does not read a question.
  uint64_t n_read_exactly() const {
    return is_sparse_ ? request_.sparse_from : request_.prompt.size();
  }
  /// Appends the rows of its next step, n_rows_max at most: several of a prompt, else one and a
  /// draft. It has not ended. Returns how many of them want logits: the last ones.
  uint32_t append_rows(uint32_t n_rows_max, std::vector<StepRow>& rows);
  /// The draft will not be walked: its rows, the last ones, were too many. Returns their number.
  uint32_t drop_draft();
  /// These rows were walked; `logits` are those that were wanted. Rows of a draft that did not come
  /// leave the sequence. Errors: those of Sampler::pick; exceptions of the callbacks, after which
  /// the sequence holds all that was walked.
  void take_step(std::span<const float> logits);

  /// Ends it with what it has; nothing where it has ended.
  void cancel();
  /// Ends it without a result.
  void fail(std::exception_ptr error);
  /// Why it failed; null = it did not.
  const std::exception_ptr& failure() const { return failure_; }
  /// After its end.
  Generation take_result() { return std::move(answer_); }

 private:
  enum class State : uint8_t { kReading, kAnswering, kEnded };
  using Clock = std::chrono::steady_clock;
  bool is_cancelled() const;
  void keep_common_prefix();
  void make_draft(uint32_t n_most);
  void take_rows(std::span<const float> logits);
  TokenId take_token(std::span<const float> logits);
  std::optional<FinishReason> reason_to_end(bool goes_on) const;
  void end(FinishReason reason);

  Sequence& sequence_;
  const Tokenizer& tokenizer_;
  GenerationRequest request_;
  GenerationEvents events_;
  Sampler sampler_;
  AnswerText text_;
  Clock::time_point start_;
  Clock::time_point decode_start_;
  Clock::time_point last_token_;
  State state_ = State::kReading;
  bool is_sparse_ = false;  // what is read from request_.sparse_from on selects
  // From this position on the prompt is a question: what remains behind a long beginning that was
  // there, or the end of a prompt that is read sparsely, where the question most likely stands. Its
  // rows are scored one by one: the mean of a few would not find what one of them asks for.
  uint64_t question_from_ = UINT64_MAX;
  uint64_t n_most_ = 0;                 // tokens of the answer
  std::optional<PromptLookup> lookup_;  // of prompt and answer, from the first draft on
  DraftLength draft_length_;
  std::vector<TokenId> draft_;  // of the step that is walked next
  Generation answer_;
  std::exception_ptr failure_;
};

}  // namespace strata::engine
