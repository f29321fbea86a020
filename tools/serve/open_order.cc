#include "tools/serve/open_order.h"

#include <new>

#include "base/error.h"

namespace strata::serve {
namespace {

Error as_error(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return {ErrorCode::kOutOfMemory, "the system gave no memory", "", "free memory, try again"};
  } catch (const std::exception& error) {
    return {ErrorCode::kIo, error.what()};
  }
}

}  // namespace

void OpenOrder::add_scores(const engine::Tokenizer& tokenizer, const engine::TokenScores& scores) {
  const auto named = [&](const engine::TokenLogprob& of) {
    return TokenLogprob{of.token, tokenizer.piece(of.token, true), of.logprob};
  };
  ScoredToken& token = scored.emplace_back(ScoredToken{named(scores.token), {}});
  for (const engine::TokenLogprob& of : scores.likeliest) token.likeliest.push_back(named(of));
}

void OpenOrder::tell_prompt(uint64_t n_read, uint64_t n_prompt) {
  AnswerEvent event;
  event.n_read = n_read;
  event.n_prompt = n_prompt;
  event.n_cached = n_cached;
  channel->tell(std::move(event));
}

void OpenOrder::tell_text(std::string_view text) {
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kText;
  event.text = text;
  event.tokens = std::exchange(scored, {});
  channel->tell(std::move(event));
}

void OpenOrder::tell_end(const engine::Generation& answer) {
  if (!scored.empty()) tell_text("");
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kEnd;
  event.finish_reason = answer.finish_reason;
  event.stop_text = answer.stop_text;
  event.usage = answer.usage;
  event.times = answer.times;
  event.drafts = answer.drafts;
  channel->tell(std::move(event));
}

void OpenOrder::tell_failure(const std::exception_ptr& failure) {
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kError;
  event.error = as_error(failure);
  channel->tell(std::move(event));
}

}  // namespace strata::serve
