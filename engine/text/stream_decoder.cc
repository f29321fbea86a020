#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

namespace strata::engine {

std::string StreamDecoder::push(TokenId token) {
  pending_ += tokenizer_->piece(token);
  std::string out;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Step step = utf8_step(rest);
    if (step.status == Utf8Status::kUnfinished) break;
    out += step.status == Utf8Status::kWhole ? rest.substr(0, step.bytes) : kReplacementCharacter;
    rest.remove_prefix(step.bytes);
  }
  pending_ = std::string(rest);
  return out;
}

std::string StreamDecoder::finish() {
  if (pending_.empty()) return {};
  pending_.clear();
  return std::string(kReplacementCharacter);
}

}  // namespace strata::engine
