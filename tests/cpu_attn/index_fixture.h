// tests/cpu_attn/index_fixture.h - the kernels of retrieval of every instruction set this CPU has,
// and random inputs for them.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/half.h"
#include "base/kernel_table.h"
#include "cpu_attn/index.h"
#include "tests/cpu_attn/attend_fixture.h"

namespace strata::cpu_attn {

/// Also AVX-512 without BF16 and VBMI, which the table of this CPU may not have.
inline std::vector<KernelTable> index_tables() {
  std::vector<KernelTable> tables(1);
  fill_index_scalar(tables[0]);
  tables[0].name = "scalar";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    fill_index_avx2(tables.emplace_back());
    tables.back().name = "avx2";
  }
  if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vnni"))
    return tables;
  fill_index_avx512(tables.emplace_back());
  tables.back().name = "avx512";
  const KernelTable plain = tables.back();
  if (__builtin_cpu_supports("avx512bf16")) {
    fill_index_digest_avx512bf16(tables.emplace_back(plain));
    tables.back().name = "avx512bf16";
  }
  if (__builtin_cpu_supports("avx512vbmi")) {
    fill_index_pq_avx512vbmi(tables.emplace_back(plain));
    tables.back().name = "avx512vbmi";
  }
  return tables;
}

inline constexpr uint32_t kIndexSeed = 4711;

/// Normal values as bf16, cut off instead of rounded.
inline std::vector<uint16_t> normal_bf16(uint64_t n, Random& random) {
  std::vector<uint16_t> halves;
  for (const float x : normal_floats(random, n, 1.0f)) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    halves.push_back(static_cast<uint16_t>(bits >> 16));
  }
  return halves;
}

/// Tiles of equal size, each at a multiple of 64 bytes and none beside its neighbour.
class Tiles {
 public:
  Tiles(uint32_t n_tiles, uint64_t tile_bytes) : bytes_(n_tiles * (tile_bytes + 192) + 64) {
    const uint64_t first = (64 - reinterpret_cast<uintptr_t>(bytes_.data()) % 64) % 64;
    const uint64_t step = (tile_bytes + 191) / 64 * 64;
    for (uint32_t t = 0; t < n_tiles; ++t) tiles_.push_back(bytes_.data() + first + t * step);
  }
  std::byte* tile(uint32_t t) { return tiles_[t]; }
  const std::byte* const* pointers() const { return tiles_.data(); }

 private:
  std::vector<std::byte> bytes_;
  std::vector<std::byte*> tiles_;
};

}  // namespace strata::cpu_attn
