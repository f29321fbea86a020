#include "tiers/hash_kernels.h"

#include <algorithm>
#include <array>

namespace strata::tiers {
namespace {

struct Kernels {
  std::array<HashKernel, 3> all{};
  size_t n = 0;

  // What is asked here are the flags of the files (CMakeLists.txt); the answer covers the registers
  // that the system saves.
  Kernels() {
    all[n++] = {"scalar", hash_scalar};
    if (__builtin_cpu_supports("avx2")) all[n++] = {"avx2", hash_avx2};
    if (__builtin_cpu_supports("avx512f")) all[n++] = {"avx512", hash_avx512};
  }
};

}  // namespace

std::span<const HashKernel> available_hash_kernels() {
  static const Kernels kernels;
  return {kernels.all.data(), kernels.n};
}

void prefetch_next_block(std::span<const std::byte> block, std::span<const std::byte> next) {
  constexpr size_t kBeginningBytes = 1024;  // with 2048 random blocks of 4 KiB are slower
  constexpr size_t kLineBytes = 64;
  if (next.data() == block.data() + block.size()) return;
  for (size_t at = 0; at < std::min(next.size(), kBeginningBytes); at += kLineBytes)
    __builtin_prefetch(next.data() + at);
}

}  // namespace strata::tiers
