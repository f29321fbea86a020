// engine/text/pattern_set.h - many byte strings searched at once, one step per byte of text.
// Why: special tokens and stop strings must be found in time linear in the text whatever the
// strings are. Source: Aho and Corasick, "Efficient string matching: an aid to bibliographic
// search", CACM 18(6), 1975.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace strata::engine {

/// An automaton over bytes. A state stands for the longest suffix of what was read that begins some
/// pattern. Immutable after construction. Empty patterns are never found; of equal patterns the
/// first is.
class PatternSet {
 public:
  using State = uint32_t;
  static constexpr State kStart = 0;
  static constexpr int32_t kNone = -1;

  /// Errors: kBadFile where edges collide, which chance does not do.
  explicit PatternSet(std::span<const std::string> patterns);

  bool empty() const { return depth_.size() == 1; }
  /// Amortised constant time: a text of n bytes costs at most 2n edge look-ups.
  State step(State state, uint8_t byte) const;
  /// The index of the longest pattern that ends here, or kNone.
  int32_t longest(State state) const { return longest_[state]; }
  /// Bytes of the suffix that the state stands for.
  uint32_t depth(State state) const { return depth_[state]; }

 private:
  struct Edge {
    uint64_t key = kNoKey;  // state << 8 | byte
    State to = 0;
  };
  static constexpr uint64_t kNoKey = ~uint64_t{0};
  State child(State state, uint8_t byte) const;  // kStart where there is none
  State add_child(State state, uint8_t byte);
  void insert_edge(uint64_t key, State to);
  void link();

  std::array<State, 256> root_{};
  std::vector<Edge> edges_;  // open addressing, a power of two
  uint64_t n_edges_ = 0;
  std::vector<State> fail_;
  std::vector<State> parent_;
  std::vector<uint8_t> byte_;
  std::vector<uint32_t> depth_;
  std::vector<int32_t> longest_;
};

}  // namespace strata::engine
