#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

namespace strata::engine {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {
  pending_.reserve(kLongTokenBytes);
  shown_.reserve(kLongTokenBytes);
}

std::string_view StreamDecoder::push(TokenId token) {
  tokenizer_->append_piece(token, pending_);
  shown_.clear();
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Step step = utf8_step(rest);
    if (step.status == Utf8Status::kUnfinished) break;
    shown_ +=
        step.status == Utf8Status::kWhole ? rest.substr(0, step.bytes) : kReplacementCharacter;
    rest.remove_prefix(step.bytes);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return shown_;
}

std::string_view StreamDecoder::finish() {
  if (pending_.empty()) return {};
  pending_.clear();
  return kReplacementCharacter;
}

}  // namespace strata::engine
