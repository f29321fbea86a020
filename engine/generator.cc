#include "engine/generator.h"

#include "engine/answer_batch.h"

namespace strata::engine {
namespace {

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
  return n_decode_tokens > 0 ? decode_ms / static_cast<double>(n_decode_tokens) : 0;
}

double GenerationTimes::decode_tokens_per_s() const {
  return decode_ms > 0 ? static_cast<double>(n_decode_tokens) * 1000.0 / decode_ms : 0;
}

Generation generate(Walk& walk, Sequence& sequence, const Tokenizer& tokenizer,
                    const GenerationRequest& request, const GenerationEvents& events) {
  Answer answer(sequence, tokenizer, request, events);
  const CancelScope cancels(walk, events.cancel);
  answer.restore(walk);
  AnswerBatch alone(walk);
  Answer* const answers[] = {&answer};
  while (!answer.has_ended()) alone.step(answers);
  if (answer.failure()) std::rethrow_exception(answer.failure());
  return answer.take_result();
}

}  // namespace strata::engine
