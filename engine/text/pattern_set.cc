#include "engine/text/pattern_set.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/error.h"
#include "engine/text/hashing.h"

namespace strata::engine {

PatternSet::PatternSet(std::span<const std::string> patterns)
    : edges_(16), fail_{kStart}, parent_{kStart}, byte_{0}, depth_{0}, longest_{kNone} {
  for (size_t i = 0; i < patterns.size(); ++i) {
    State state = kStart;
    for (const char c : patterns[i]) state = add_child(state, static_cast<uint8_t>(c));
    if (state != kStart && longest_[state] == kNone) longest_[state] = static_cast<int32_t>(i);
  }
  link();
}

PatternSet::State PatternSet::child(State state, uint8_t byte) const {
  if (state == kStart) return root_[byte];
  const uint64_t key = uint64_t{state} << 8 | byte;
  const uint64_t mask = edges_.size() - 1;
  for (uint64_t slot = mix_bits(key) & mask;; slot = (slot + 1) & mask) {
    if (edges_[slot].key == key) return edges_[slot].to;
    if (edges_[slot].key == kNoKey) return kStart;
  }
}

void PatternSet::insert_edge(uint64_t key, State to) {
  const uint64_t mask = edges_.size() - 1;
  uint64_t slot = mix_bits(key) & mask;
  for (uint32_t probe = 0; edges_[slot].key != kNoKey; ++probe, slot = (slot + 1) & mask)
    if (probe == kMaxProbes)
      throw Error(ErrorCode::kBadFile, "the texts of the special tokens collide on purpose",
                  "tokenizer.ggml.tokens", "Use a model file from a source you trust.");
  edges_[slot] = {key, to};
}

PatternSet::State PatternSet::add_child(State state, uint8_t byte) {
  const State known = child(state, byte);
  if (known != kStart) return known;
  const auto added = static_cast<State>(depth_.size());
  STRATA_CHECK(added != 0, "more states than 32 bits number");
  fail_.push_back(kStart);
  parent_.push_back(state);
  byte_.push_back(byte);
  depth_.push_back(depth_[state] + 1);
  longest_.push_back(kNone);
  if (state == kStart) {
    root_[byte] = added;
    return added;
  }
  if (++n_edges_ * 2 > edges_.size()) {
    std::vector<Edge> smaller(edges_.size() * 2);
    smaller.swap(edges_);
    for (const Edge& edge : smaller)
      if (edge.key != kNoKey) insert_edge(edge.key, edge.to);
  }
  insert_edge(uint64_t{state} << 8 | byte, added);
  return added;
}

void PatternSet::link() {
  // A state's failure link leads to a shallower state, so links are made in order of depth.
  std::vector<State> order(depth_.size());
  std::iota(order.begin(), order.end(), State{0});
  std::sort(order.begin(), order.end(), [&](State a, State b) { return depth_[a] < depth_[b]; });
  for (const State state : order) {
    if (depth_[state] > 1) fail_[state] = step(fail_[parent_[state]], byte_[state]);
    if (longest_[state] == kNone) longest_[state] = longest_[fail_[state]];
  }
}

PatternSet::State PatternSet::step(State state, uint8_t byte) const {
  for (;;) {
    const State to = child(state, byte);
    if (to != kStart || state == kStart) return to;
    state = fail_[state];
  }
}

}  // namespace strata::engine
