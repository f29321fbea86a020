// gpu_attn/scan_queries.cuh - queries of a scan, turned and rounded by the thread block that asks.
// Why: a launch of their own would cost more than all thread blocks that do the same.
//
// Formula  base/key_rotation.h in f32, in the order of cpu_attn/index_rabitq_encode.inc; scale =
//          max|x| / 127, code = x * (127 / max|x|) to nearest, ties away from zero: the CPU's bits
// Threads  a warp per query, which lies in shared memory: lane l has pairs l, l + 32, .. of a stage
#pragma once

#include "base/device_kernels.h"
#include "base/index_kernels.h"
#include "base/key_rotation.h"
#include "gpu_attn/row_quant.cuh"
#include "gpu_attn/scan_plan.h"

namespace strata::gpu_attn {
namespace {

constexpr uint32_t kSignWords = kDeviceScanHeadDimMax / 32;
constexpr uint32_t kInfinityBits = 0x7f800000u;

/// What the kernel of a scan is given, its host's arithmetic included.
struct ScanArgs {
  DeviceScanArgs of;
  uint32_t is_negative[2][kSignWords];  // the signs of both transforms, a bit per dimension
  float norm;                           // of a transform
  uint32_t n_at_once;                   // dimensions of a transform
  uint32_t n_groups;
  uint32_t n_padded;    // queries, up to a multiple of what a pass takes
  uint32_t step_bytes;  // codes of a tile that a warp takes at once
  uint32_t rest_at;     // in a tile: what stands behind its codes
  uint32_t rest_bytes;  // factors, centres, steps
};

/// What a thread block knows of its queries: codes [n_padded][query_words] u32, scales and sums
/// [n_padded]. Queries that are none are zeros.
struct ScanQueries {
  uint32_t* codes;
  float* scales;
  int32_t* sums;
  uint32_t query_words;  // whole chunks of groups
};

/// The first (0) or the second transform of row[first_dim ..]. The whole warp calls it.
__device__ __forceinline__ void transform(const ScanArgs& args, float* row, uint32_t first_dim,
                                          uint32_t which) {
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t d = first_dim + lane; d < first_dim + args.n_at_once; d += 32) {
    const bool is_negative = (args.is_negative[which][d / 32] >> d % 32 & 1) != 0;
    row[d] *= is_negative ? -args.norm : args.norm;
  }
  __syncwarp();
  for (uint32_t half = 1; half < args.n_at_once; half *= 2) {
    for (uint32_t i = lane; i < args.n_at_once / 2; i += 32) {
      float* a = row + first_dim + 2 * i - (i & (half - 1));
      const float x = a[0], y = a[half];
      a[0] = x + y;
      a[half] = x - y;
    }
    __syncwarp();
  }
}

/// Turns a query and rounds it. The whole warp calls it; `row` [head_dim] is its own.
__device__ __forceinline__ void put_query(const ScanArgs& args, const ScanQueries& to,
                                          uint32_t query, float* row) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t head_dim = args.of.head_dim;
  auto* codes = reinterpret_cast<int8_t*>(to.codes + query * to.query_words);
  float largest = 0.0f, per_one = 0.0f;
  bool is_finite = true;
  if (query < args.of.n_queries) {
    const float* q = args.of.q + (uint64_t{blockIdx.y} * args.of.n_queries + query) * head_dim;
    for (uint32_t d = lane; d < head_dim; d += 32) row[d] = q[d];
    __syncwarp();
    transform(args, row, 0, 0);
    if (args.n_at_once < head_dim) transform(args, row, head_dim - args.n_at_once, 1);
    // Bits of |x| order as integers do, infinities and NaN last.
    uint32_t largest_bits = 0;
    for (uint32_t d = lane; d < head_dim; d += 32)
      largest_bits = max(largest_bits, float_to_bits(row[d]) & kMagnitudeBits);
    largest_bits = __reduce_max_sync(kFullMask, largest_bits);
    is_finite = largest_bits < kInfinityBits;
    largest = bits_to_float(largest_bits);
    if (is_finite && largest >= kRotatedLeast) per_one = kQueryCodeMax / largest;
  }
  int32_t sum = 0;
  for (uint32_t d = lane; d < to.query_words * 4; d += 32) {
    int32_t code = 0;
    if (d < head_dim && per_one > 0) {
      const float x = mul_rounded(row[d], per_one);
      code = static_cast<int32_t>(x + (x < 0 ? -0.5f : 0.5f));
    }
    codes[d] = static_cast<int8_t>(code);
    sum += code;
  }
  sum = __reduce_add_sync(kFullMask, sum);
  if (lane != 0) return;
  to.sums[query] = sum;
  to.scales[query] = !is_finite    ? bits_to_float(kMagnitudeBits)  // NaN
                     : per_one > 0 ? largest / kQueryCodeMax
                                   : 0.0f;
}

}  // namespace
}  // namespace strata::gpu_attn
