// gpu_attn/tensor_tiles.cuh - rows of f16 in shared memory as the tensor cores read them. Why:
// ldmatrix reads 16 bytes of each of eight neighbouring rows at once; in rows of a power of two
// bytes they would lie in the same banks, so that 16-byte chunks are permuted within a row.
#pragma once

#include "gpu_attn/gpu.cuh"

namespace strata::gpu_attn {

inline constexpr uint32_t kChunk =
    16;  // bytes: what ldmatrix reads of a row, and one thread copies

/// Where chunk `chunk` of row `row` of an array [..][kChunks] of chunks lies: the same chunk of
/// eight neighbouring rows, the first a multiple of eight, falls into eight different groups of
/// banks, for odd kChunks without doing anything.
template <uint32_t kChunks>
__device__ __forceinline__ uint32_t permuted(uint32_t row, uint32_t chunk) {
  if constexpr (kChunks % 8 == 0)
    chunk ^= row & 7;
  else if constexpr (kChunks % 4 == 0)
    chunk ^= (row >> 1) & 3;
  else if constexpr (kChunks % 2 == 0)
    chunk ^= (row >> 2) & 1;
  return (row * kChunks + chunk) * kChunk;
}

/// What a lane gives to ldmatrix_x4 for 16 rows and 16 columns. Few addresses are kept; the others
/// are a constant away.
template <uint32_t kChunks>
struct LaneRows {
  static constexpr uint32_t kKept = kChunks % 8 == 0 ? 4 : kChunks % 4 == 0 ? 2 : 1;
  const unsigned char* kept[kKept];

  /// The registers in the order: upper left, lower left, upper right, lower right 8 x 8. Such is a
  /// left operand, and a right one that lies [k][n] and is transposed.
  __device__ __forceinline__ explicit LaneRows(const unsigned char* rows)
      : LaneRows(rows, threadIdx.x % 16, threadIdx.x % 32 / 16) {}
  /// Upper left, upper right, lower left, lower right: two right operands that lie [n][k].
  static __device__ __forceinline__ LaneRows of_right_operand(const unsigned char* rows) {
    return LaneRows(rows, threadIdx.x % 32 / 16 * 8 + threadIdx.x % 8, threadIdx.x / 8 % 2);
  }
  /// Rows 16 k .. 16 k + 15, columns 16 pair .. 16 pair + 15.
  __device__ __forceinline__ const unsigned char* at(uint32_t k, uint32_t pair) const {
    return kept[pair % kKept] + (16 * k * kChunks + pair / kKept * kKept * 2) * kChunk;
  }

 private:
  __device__ __forceinline__ LaneRows(const unsigned char* rows, uint32_t row, uint32_t chunk) {
#pragma unroll
    for (uint32_t i = 0; i < kKept; ++i) kept[i] = rows + permuted<kChunks>(row, 2 * i + chunk);
  }
};

}  // namespace strata::gpu_attn
