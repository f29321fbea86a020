// base/key_rotation.h - by which rotation keys of codes and of clusters are turned, and queries
// with them (cpu_attn/index_rabitq_encode.inc, gpu_attn/scan_codes.cu). Why: rows of an index that
// one device made are asked by queries that another has turned, so there is one place that says
// how.
//
// Rotation  signs and a Walsh-Hadamard transform over the first P dimensions, P being
//           rotated_at_once(); where P < head_dim once more over the last P. Orthogonal: q . k
//           stays. The signs are those of rotation_sign(), for all streams and for ever.
// Inlined   always: files of an instruction set of their own call them (cpu_attn), and a copy that
//           a linker chose from one of these would run where that set is missing.
#pragma once

#include <cstdint>

namespace strata {

/// A square, or a largest value, below it is zero.
inline constexpr float kRotatedLeast = 1e-30f;
/// Of a query's codes, which are whole numbers from its negative on.
inline constexpr float kQueryCodeMax = 127.0f;

/// The largest power of two that is not above head_dim, a multiple of 8 above 0.
[[gnu::always_inline]] constexpr uint32_t rotated_at_once(uint32_t head_dim) {
  uint32_t n = 8;
  while (2 * n <= head_dim) n *= 2;
  return n;
}

/// The sign of a dimension in the first or second transform (0, 1): a bit of a mixing function that
/// maps no two numbers to one (the last steps of MurmurHash3).
[[gnu::always_inline]] constexpr float rotation_sign(uint32_t dim, uint32_t transform) {
  uint32_t x = 2 * dim + transform + 1;
  x = (x ^ x >> 16) * 0x85ebca6bu;
  x = (x ^ x >> 13) * 0xc2b2ae35u;
  return ((x ^ x >> 16) & 1u) != 0 ? 1.0f : -1.0f;
}

}  // namespace strata
