// tests/cpu_attn/rabitq_tile.h - tiles of rotated keys taken apart, and the rotation, by the
// definitions of base/index_kernels.h and base/key_rotation.h, in double precision.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/index_kernels.h"

namespace strata::testing {

/// Reads a tile of rows.
class RabitqReader {
 public:
  RabitqReader(const std::byte* tile, uint32_t head_dim) : tile_(tile), head_dim_(head_dim) {
    std::memcpy(&steps_, tile + rabitq_tile_bytes(head_dim) - sizeof(steps_), sizeof(steps_));
  }
  const RabitqSteps& steps() const { return steps_; }
  /// 0 to 7.
  uint32_t level(uint32_t block, uint32_t key, uint32_t dim) const {
    const uint32_t group = dim / 32, quad = dim % 32 / 4, byte = dim % 4;
    if (quad < 6) return word(block, key, group, quad / 2) >> (8 * byte + quad % 2 * 3) & 7u;
    uint32_t level = 0;
    for (uint32_t bit = 0; bit < 3; ++bit) {
      const uint32_t i = quad % 2 * 3 + bit;
      level |= (word(block, key, group, i / 2) >> (8 * byte + 6 + i % 2) & 1u) << bit;
    }
    return level;
  }
  uint32_t factor(uint32_t block, uint32_t key) const {
    return at(rabitq_codes_bytes(head_dim_) + uint64_t{key} * 8 + block);
  }
  uint32_t centre(uint32_t block, uint32_t dim) const {
    return at(rabitq_codes_bytes(head_dim_) + 256 + uint64_t{dim / 4} * 32 + block * 4 + dim % 4);
  }
  /// The rotated key that the codes stand for.
  std::vector<double> key(uint32_t block, uint32_t key) const {
    std::vector<double> out(head_dim_);
    for (uint32_t d = 0; d < head_dim_; ++d)
      out[d] = double{steps_.centre[block]} * (double{static_cast<float>(centre(block, d))} - 64) +
               double{steps_.factor[block]} * factor(block, key) * (level(block, key, d) - 3.5);
    return out;
  }

 private:
  uint32_t at(uint64_t offset) const { return std::to_integer<uint32_t>(tile_[offset]); }
  uint32_t word(uint32_t block, uint32_t key, uint32_t group, uint32_t idx) const {
    const uint64_t line = (uint64_t{key / 2} * rabitq_groups(head_dim_) + group) * 3 + idx;
    uint32_t value;
    std::memcpy(&value, tile_ + line * 64 + uint64_t{key % 2} * 32 + block * 4, sizeof(value));
    return value;
  }

  const std::byte* tile_;
  uint32_t head_dim_;
  RabitqSteps steps_;
};

inline double rabitq_sign(uint32_t dim, uint32_t transform) {
  uint32_t x = 2 * dim + transform + 1;
  x = (x ^ x >> 16) * 0x85ebca6bu;
  x = (x ^ x >> 13) * 0xc2b2ae35u;
  return ((x ^ x >> 16) & 1u) != 0 ? 1 : -1;
}

/// Rows of the matrix by their definition: entry (i, j) is (-1)^popcount(i & j) / sqrt(n).
inline void rabitq_transform(std::vector<double>& x, uint32_t first, uint32_t n,
                             uint32_t transform) {
  std::vector<double> out(n);
  for (uint32_t i = 0; i < n; ++i)
    for (uint32_t j = 0; j < n; ++j)
      out[i] += (std::popcount(i & j) % 2 == 0 ? 1 : -1) * rabitq_sign(first + j, transform) *
                x[first + j] / std::sqrt(n);
  std::copy(out.begin(), out.end(), x.begin() + first);
}

inline std::vector<double> rabitq_rotated(const float* x, uint32_t head_dim) {
  std::vector<double> out(x, x + head_dim);
  const uint32_t n = std::bit_floor(head_dim);
  rabitq_transform(out, 0, n, 0);
  if (n < head_dim) rabitq_transform(out, head_dim - n, n, 1);
  return out;
}

}  // namespace strata::testing
