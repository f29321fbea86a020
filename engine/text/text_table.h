// engine/text/text_table.h - from a token's text to its id.
// Why: encoding looks up every candidate merge; a flat table of 8-byte entries costs one cache line
// where a node map costs three.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace strata::engine {

/// Open addressing over texts that the caller keeps and hands in again on every call. Of equal
/// texts the lowest index is found; empty texts never are.
class TextTable {
 public:
  /// Errors: kBadFile where more than kMaxProbes texts collide, which chance does not do.
  explicit TextTable(std::span<const std::string> texts);
  /// The first text that equals an earlier one, as (earlier, later); of none, (-1, -1).
  std::pair<int32_t, int32_t> repeat() const { return repeat_; }
  /// The index of the text equal to `text`, or -1.
  int32_t find(std::span<const std::string> texts, std::string_view text) const;

 private:
  struct Entry {
    uint32_t fingerprint = 0;
    int32_t index = -1;
  };
  std::vector<Entry> entries_;  // a power of two
  std::pair<int32_t, int32_t> repeat_{-1, -1};
};

}  // namespace strata::engine
