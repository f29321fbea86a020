#include "tiers/text_match.h"

#include "base/check.h"

namespace strata::tiers {

bool TextMatch::is_between_characters(uint64_t at) const {
  return at == text_.size() || (static_cast<uint8_t>(text_[at]) & 0xC0u) != 0x80u;
}

uint32_t TextMatch::follow(uint32_t pos, std::span<const int32_t> tokens,
                           std::span<const uint8_t> is_generated) {
  STRATA_CHECK(pos <= tokens_.size() && tokens.size() == is_generated.size(),
               "position %u of %zu, %zu tokens, %zu marks", pos, tokens_.size(), tokens.size(),
               is_generated.size());
  tokens_.resize(pos);
  is_generated_.resize(pos);
  ends_.resize(pos);
  uint64_t at = pos == 0 ? 0 : ends_.back();
  size_t n_best = 0;
  std::string bytes;
  for (size_t i = 0; i < tokens.size(); ++i) {
    bytes.clear();
    bytes_of_(tokens[i], bytes);
    if (!text_.substr(at).starts_with(bytes)) break;
    at += bytes.size();
    tokens_.push_back(tokens[i]);
    is_generated_.push_back(is_generated[i]);
    ends_.push_back(at);
    if (is_generated[i] != 0 && at > best_.n_bytes && is_between_characters(at)) {
      best_.n_bytes = at;
      n_best = tokens_.size();
    }
  }
  if (n_best > 0) {
    const auto n = static_cast<std::ptrdiff_t>(n_best);
    best_.tokens.assign(tokens_.begin(), tokens_.begin() + n);
    best_.is_generated.assign(is_generated_.begin(), is_generated_.begin() + n);
  }
  return static_cast<uint32_t>(tokens_.size());
}

}  // namespace strata::tiers
