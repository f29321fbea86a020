// tiers/hash_kernels.h - XXH3 compiled once per instruction set. Why: the baseline alone reads a
// block slower than DRAM gives it. Not for callers of block_tag.h, but for its source, its tests
// and its bench.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tiers/block_tag.h"

namespace strata::tiers {

/// How far ahead of the bytes it hashes a kernel asks DRAM for more. It has to cover the end of a
/// hash too, a chain of multiplications during which nothing is read: the library's own 384 to 512
/// bytes do not (docs/measurements.md).
inline constexpr size_t kHashPrefetchBytes = 2048;

/// Asks DRAM for the beginning of the block that is hashed after `block`, unless it follows it in
/// memory: then the kernel's own prefetches reach it, and others only disturb them.
void prefetch_next_block(std::span<const std::byte> block, std::span<const std::byte> next);

struct HashKernel {
  const char* name = nullptr;  // "scalar", "avx2", "avx512": the words of --cpu-isa
  Hash128 (*hash)(const std::byte* bytes, uint64_t n_bytes) = nullptr;
};

/// Those this CPU can run, narrowest first; never empty. All give the same values.
std::span<const HashKernel> available_hash_kernels();

Hash128 hash_scalar(const std::byte* bytes, uint64_t n_bytes);
Hash128 hash_avx2(const std::byte* bytes, uint64_t n_bytes);
Hash128 hash_avx512(const std::byte* bytes, uint64_t n_bytes);

}  // namespace strata::tiers
