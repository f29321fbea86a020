// tests/tools/drawn_trace.h - traces of attention whose keys, values and queries a test knows.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "base/half.h"
#include "tools/eval/attention_trace.h"

namespace strata::rivals::testing {

inline void put_half(std::byte* block, uint64_t idx, float value) {
  const uint16_t half = f32_to_f16(value);
  std::memcpy(block + idx * sizeof(half), &half, sizeof(half));
}

inline void put_position(eval::AttentionTrace& trace, uint32_t stream, uint32_t pos,
                         std::span<const float> key, std::span<const float> value) {
  const KvLayout layout = trace.layout();
  std::byte* block =
      trace.blocks[stream].data() + uint64_t{pos / kBlockPositions} * layout.block_bytes;
  const uint64_t row = pos % kBlockPositions;
  for (uint64_t d = 0; d < layout.head_dim; ++d) {
    put_half(block, d * kBlockPositions + row, key[d]);
    put_half(block + layout.v_offset, row * layout.head_dim + d, value[d]);
  }
}

struct DrawnShape {
  uint32_t n_kv_heads = 1, group = 2, head_dim = 16, n_positions = 512, n_steps = 8;
};

inline std::vector<float> drawn(std::mt19937_64& random, size_t n, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(n);
  for (float& x : values) x = normal(random);
  return values;
}

/// Of one layer; scores have a deviation of about `scale`.
inline eval::AttentionTrace drawn_trace(const DrawnShape& shape, uint64_t seed, float scale = 1) {
  eval::AttentionTrace trace{.n_kv_heads = shape.n_kv_heads,
                             .group = shape.group,
                             .head_dim = shape.head_dim,
                             .n_positions = shape.n_positions,
                             .n_steps = shape.n_steps,
                             .layers = {0},
                             .blocks = {},
                             .queries = {}};
  std::mt19937_64 random(seed);
  const float q_scale = scale / std::sqrt(static_cast<float>(shape.head_dim));
  for (uint32_t stream = 0; stream < shape.n_kv_heads; ++stream) {
    trace.blocks.emplace_back(uint64_t{trace.n_blocks()} * trace.layout().block_bytes);
    for (uint32_t pos = 0; pos < shape.n_positions; ++pos)
      put_position(trace, stream, pos, drawn(random, shape.head_dim, 1),
                   drawn(random, shape.head_dim, 1));
    auto& queries = trace.queries.emplace_back();
    const uint64_t n_queries = uint64_t{shape.n_steps} * shape.group * shape.head_dim;
    for (const float x : drawn(random, n_queries, q_scale)) queries.push_back(f32_to_f16(x));
  }
  return trace;
}

}  // namespace strata::rivals::testing
