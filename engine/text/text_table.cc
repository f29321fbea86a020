#include "engine/text/text_table.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "base/error.h"
#include "engine/text/hashing.h"

namespace strata::engine {
namespace {

uint64_t hash_of(std::string_view text) { return mix_bits(std::hash<std::string_view>{}(text)); }

uint32_t fingerprint_of(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }

}  // namespace

TextTable::TextTable(std::span<const std::string> texts)
    : entries_(std::bit_ceil(std::max<size_t>(texts.size() * 2, 16))) {
  const uint64_t mask = entries_.size() - 1;
  for (size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].empty()) continue;
    const uint64_t hash = hash_of(texts[i]);
    uint64_t slot = hash & mask;
    bool is_known = false;
    for (uint32_t probe = 0; entries_[slot].index >= 0 && !is_known; ++probe) {
      if (probe == kMaxProbes)
        throw Error(ErrorCode::kBadFile, "the texts of the vocabulary collide on purpose",
                    "tokenizer.ggml.tokens", "Use a model file from a source you trust.");
      const Entry& entry = entries_[slot];
      is_known = entry.fingerprint == fingerprint_of(hash) &&
                 texts[static_cast<size_t>(entry.index)] == texts[i];
      if (!is_known) slot = (slot + 1) & mask;
    }
    if (is_known && repeat_.first < 0) repeat_ = {entries_[slot].index, static_cast<int32_t>(i)};
    if (!is_known) entries_[slot] = {fingerprint_of(hash), static_cast<int32_t>(i)};
  }
}

int32_t TextTable::find(std::span<const std::string> texts, std::string_view text) const {
  const uint64_t hash = hash_of(text);
  const uint64_t mask = entries_.size() - 1;
  uint64_t slot = hash & mask;
  for (uint32_t probe = 0; probe <= kMaxProbes; ++probe, slot = (slot + 1) & mask) {
    const Entry& entry = entries_[slot];
    if (entry.index < 0) return -1;
    if (entry.fingerprint == fingerprint_of(hash) &&
        texts[static_cast<size_t>(entry.index)] == text)
      return entry.index;
  }
  return -1;
}

}  // namespace strata::engine
