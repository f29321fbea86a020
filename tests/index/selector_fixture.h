// tests/index/selector_fixture.h - keys in blocks, and what a method makes of them beside the
// truth.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "base/half.h"
#include "base/host_memory.h"
#include "cpu_attn/kernels.h"
#include "index/method.h"

namespace strata::index::testing {

/// Keys [n_blocks * 32][head_dim] of one stream and their blocks, V zero unless drawn.
class Keys {
 public:
  Keys(const KvLayout& layout, uint32_t n_blocks, const KernelTable& kernels)
      : layout_(layout),
        kernels_(kernels),
        values_(uint64_t{n_blocks} * kBlockPositions * layout.head_dim),
        memory_(HostMemory::reserve(uint64_t{n_blocks} * layout.block_bytes)) {}

  uint32_t n_blocks() const {
    return static_cast<uint32_t>(values_.size() / kBlockPositions / layout_.head_dim);
  }
  float* key(uint32_t pos) { return values_.data() + uint64_t{pos} * layout_.head_dim; }
  std::byte* block(uint32_t idx) const {
    return memory_.data() + uint64_t{idx} * layout_.block_bytes;
  }
  /// Encodes every key; afterwards keys are what the blocks hold.
  void store() {
    const std::vector<float> v(layout_.head_dim, 0.0f);
    std::vector<float> decoded(uint64_t{layout_.head_dim} * kBlockPositions);
    for (uint32_t idx = 0; idx < n_blocks(); ++idx) {
      for (uint32_t row = 0; row < kBlockPositions; ++row)
        kernels_.store_kv(layout_, block(idx), row, key(idx * kBlockPositions + row), v.data());
      kernels_.index.load_k(layout_, block(idx), decoded.data());
      for (uint32_t row = 0; row < kBlockPositions; ++row)
        for (uint32_t d = 0; d < layout_.head_dim; ++d)
          key(idx * kBlockPositions + row)[d] = decoded[uint64_t{d} * kBlockPositions + row];
    }
  }
  /// Normal values with a few dimensions that are ten times as wide, as real keys have.
  void draw(std::mt19937_64& random) {
    std::normal_distribution<float> normal;
    for (uint32_t pos = 0; pos < n_blocks() * kBlockPositions; ++pos)
      for (uint32_t d = 0; d < layout_.head_dim; ++d)
        key(pos)[d] = normal(random) * (d % 29 == 3 ? 4.0f : 0.4f);
    store();
  }
  /// Of layouts in f16, after store(): normal values, each block around a mean of its own.
  void draw_values(std::mt19937_64& random) {
    std::normal_distribution<float> normal;
    std::vector<float> v(layout_.head_dim);
    for (uint32_t pos = 0; pos < n_blocks() * kBlockPositions; ++pos) {
      for (uint32_t d = 0; d < layout_.head_dim; ++d)
        v[d] = normal(random) + std::sin(static_cast<float>(pos / kBlockPositions * 7 + d));
      kernels_.store_kv(layout_, block(pos / kBlockPositions), pos % kBlockPositions, key(pos),
                        v.data());
    }
  }
  /// Of layouts in f16.
  double mean_value(uint32_t block_idx, uint32_t d) const {
    double sum = 0;
    for (uint32_t row = 0; row < kBlockPositions; ++row) {
      uint16_t half;
      std::memcpy(&half, block(block_idx) + layout_.v_offset + (row * layout_.head_dim + d) * 2, 2);
      sum += f16_to_f32(half);
    }
    return sum / kBlockPositions;
  }
  double score(const float* q, uint32_t pos) {
    double sum = 0;
    for (uint32_t d = 0; d < layout_.head_dim; ++d) sum += double{q[d]} * double{key(pos)[d]};
    return sum;
  }

 private:
  KvLayout layout_;
  const KernelTable& kernels_;
  std::vector<float> values_;
  HostMemory memory_;
};

inline std::vector<float> drawn_queries(uint32_t n, uint32_t head_dim, std::mt19937_64& random) {
  std::normal_distribution<float> normal(0, 0.5f);
  std::vector<float> q(uint64_t{n} * head_dim);
  for (float& x : q) x = normal(random);
  return q;
}

/// estimate() of blocks [0, n_blocks()) in pieces of whole extents, [n_queries][n_blocks()].
inline std::vector<float> estimates(const Selector& selector, StreamIdx stream,
                                    std::span<const float> q, uint32_t n_queries,
                                    uint32_t piece_blocks = 1u << 20) {
  const uint32_t n = selector.n_blocks();
  const uint32_t stride = (n + kExtentBlocks - 1) / kExtentBlocks * kExtentBlocks;
  HostMemory scratch = HostMemory::reserve(selector.scratch_floats(n_queries) * sizeof(float) + 64);
  std::vector<float> padded(uint64_t{n_queries} * stride, std::nanf(""));
  for (uint32_t first = 0; first < n; first += piece_blocks)
    selector.estimate({.stream = stream,
                       .q = q.data(),
                       .n_queries = n_queries,
                       .first_block = first,
                       .end_block = std::min(n, first + piece_blocks),
                       .scratch = scratch.as<float>(selector.scratch_floats(n_queries)).data(),
                       .log_weights = padded.data(),
                       .weight_stride = stride});
  std::vector<float> weights;
  for (uint32_t query = 0; query < n_queries; ++query)
    weights.insert(weights.end(), padded.begin() + query * stride,
                   padded.begin() + query * stride + n);
  return weights;
}

inline void observe_all(Selector& selector, StreamIdx stream, const Keys& keys) {
  for (uint32_t block = 0; block < keys.n_blocks(); ++block)
    selector.observe(stream, block, keys.block(block));
}

}  // namespace strata::index::testing
