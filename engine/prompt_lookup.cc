#include "engine/prompt_lookup.h"

#include <algorithm>

#include "base/check.h"

namespace strata::engine {
namespace {

/// Two of three slots are taken at most: a run that is new looks at five, on average.
uint64_t slots_for(uint64_t n_tokens_max) { return n_tokens_max + n_tokens_max / 2 + 1; }

/// Source of the constants: SplitMix64 (Steele, Lea, Flood 2014).
uint64_t mixed(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
  return bits ^ (bits >> 31);
}

}  // namespace

PromptLookup::PromptLookup(uint64_t n_tokens_max) : n_slots_(slots_for(n_tokens_max)) {
  STRATA_CHECK(n_tokens_max < UINT32_MAX, "a text of %lu tokens",
               static_cast<unsigned long>(n_tokens_max));
  text_.reserve(n_tokens_max);
  ends_.resize(kLengths * n_slots_);
}

uint64_t PromptLookup::bytes(uint64_t n_tokens_max) {
  return n_tokens_max * sizeof(TokenId) + kLengths * slots_for(n_tokens_max) * sizeof(uint32_t);
}

/// The slot of the text's last `run` tokens: that of an earlier occurrence, or a free one.
uint32_t& PromptLookup::slot_of_last(uint32_t run) {
  const auto last = text_.end() - run;
  uint64_t hash = run;
  for (uint32_t i = 0; i < run; ++i)
    hash = mixed(hash * 0x9E3779B97F4A7C15u + static_cast<uint32_t>(last[i]));
  uint32_t* table = ends_.data() + (run - kRunMin) * n_slots_;
  uint64_t idx = ((hash >> 32) * n_slots_) >> 32;
  while (table[idx] != 0 &&
         !std::equal(last, text_.end(), text_.begin() + (std::ptrdiff_t{table[idx]} - run)))
    idx = idx + 1 == n_slots_ ? 0 : idx + 1;
  return table[idx];
}

void PromptLookup::append(TokenId token) {
  STRATA_CHECK(text_.size() < text_.capacity(), "more than the %zu tokens it was made for",
               text_.capacity());
  text_.push_back(token);
  const auto n = static_cast<uint32_t>(text_.size());
  for (uint32_t run = kRunMin; run <= std::min(kRunMax, n); ++run) {
    uint32_t& end = slot_of_last(run);
    earlier_[run - kRunMin] = end;
    end = n;
  }
}

void PromptLookup::propose(uint32_t n, std::vector<TokenId>& draft) const {
  const auto longest =
      std::find_if(earlier_.rbegin(), earlier_.rend(), [](uint32_t end) { return end != 0; });
  if (longest == earlier_.rend()) return;
  const size_t first = draft.size();
  for (size_t at = *longest; draft.size() < first + n; ++at)
    draft.push_back(at < text_.size() ? text_[at] : draft[first + at - text_.size()]);
}

}  // namespace strata::engine
