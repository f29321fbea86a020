// Merging the partials of decode attention.
//
// Formula, per query and dimension: M = max m_s; out = sum exp(m_s - M) o_s / sum exp(m_s - M) l_s
//   over the splits s; 0 where no split has anything. The int8 form as gpu_attn/row_quant.cuh.
// Shapes   base/device_kernels.h, DeviceMergeArgs: o lies by split, KV head, row, query of the
//          group; out by row and head, so columns of out are cut, not heads.
// Threads  block (x, y): columns [128 x, 128 x + 128) of row y. Lane = four columns, which are of
//          one head; warp w = the w-th run of splits. Each keeps a running maximum, so that m, l
//          and o of several splits are asked for at once and nothing waits for M. The warps' sums
//          meet in shared memory and the first warp adds them in order.
// Bytes    merge_bytes(args).
// Numbers  f32; exp as exp2 of a product (2 ulp). The order of sums depends on n_splits alone.
#include <algorithm>

#include "base/check.h"
#include "gpu_attn/attend_partial.cuh"
#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/kernels.h"
#include "gpu_attn/row_quant.cuh"

namespace strata::gpu_attn {
namespace {

constexpr uint32_t kMaxWarps = 16;
constexpr uint32_t kColumns = 128;     // of a thread block
constexpr uint32_t kSplitsAtOnce = 4;  // that a lane asks for

/// Sums relative to exp(top). Nothing has been added while l is 0: top alone does not say so, for a
/// NaN is no maximum.
struct Running {
  float top;
  float l;
  float4 o;
};

__device__ __forceinline__ void add(Running& to, float factor, float l, float4 o) {
  to.l = fmaf(factor, l, to.l);
  to.o.x = fmaf(factor, o.x, to.o.x);
  to.o.y = fmaf(factor, o.y, to.o.y);
  to.o.z = fmaf(factor, o.z, to.o.z);
  to.o.w = fmaf(factor, o.w, to.o.w);
}

/// Makes the sums relative to `top`, which is no less than theirs.
__device__ __forceinline__ void raise(Running& running, float top) {
  const float shrink = running.l == 0 ? 0 : exp2_approx((running.top - top) * kLog2E);
  running.top = top;
  running.l *= shrink;
  running.o = scale4(running.o, shrink);
}

/// Splits [begin, end) of the query whose partials begin at m[query], l[query] and o[element].
__device__ __forceinline__ Running run_of_splits(const DeviceMergeArgs& args, uint32_t begin,
                                                 uint32_t end, uint64_t query, uint64_t element) {
  const uint64_t n_queries = uint64_t{args.n_kv_heads} * args.n_rows * args.group;
  Running running{minus_infinity(), 0, zero4()};
  for (uint32_t first = begin; first < end; first += kSplitsAtOnce) {
    float m[kSplitsAtOnce], l[kSplitsAtOnce];
    float4 o[kSplitsAtOnce];
    float top = running.top;
    float l_sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < kSplitsAtOnce; ++i) {
      const uint64_t split = min(first + i, end - 1);
      m[i] = args.m[split * n_queries + query];
      l[i] = first + i < end ? args.l[split * n_queries + query] : 0;
      o[i] = load4(args.o + split * n_queries * args.head_dim + element, 0);
      top = fmaxf(top, m[i]);
      l_sum += l[i];
    }
    if (l_sum == 0) continue;
    raise(running, top);
#pragma unroll
    for (uint32_t i = 0; i < kSplitsAtOnce; ++i)
      if (l[i] != 0) add(running, exp2_approx((m[i] - top) * kLog2E), l[i], o[i]);
  }
  return running;
}

__global__ void __launch_bounds__(kMaxWarps * 32) merge_splits(const DeviceMergeArgs args) {
  GPU_SHARED(Running, runs, [kMaxWarps][32]);
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t n_warps = blockDim.x / 32;
  const uint32_t width = args.n_kv_heads * args.group * args.head_dim;
  const uint32_t column = blockIdx.x * kColumns + lane * 4;
  const bool is_real = column < width;
  const uint32_t head = is_real ? column / args.head_dim : 0;
  const uint32_t dim = is_real ? column % args.head_dim : 0;
  const uint64_t query =
      (uint64_t{head / args.group} * args.n_rows + blockIdx.y) * args.group + head % args.group;

  const uint32_t per_warp = (args.n_splits + n_warps - 1) / n_warps;
  const uint32_t begin = min(warp * per_warp, args.n_splits);
  runs[warp][lane] = run_of_splits(args, begin, min(begin + per_warp, args.n_splits), query,
                                   query * args.head_dim + dim);
  __syncthreads();
  if (warp != 0) return;
  Running all = runs[0][lane];
  for (uint32_t w = 1; w < n_warps; ++w) {
    const Running& next = runs[w][lane];
    if (next.l == 0) continue;
    const float top = fmaxf(all.top, next.top);
    raise(all, top);
    add(all, exp2_approx((next.top - top) * kLog2E), next.l, next.o);
  }
  const bool is_empty = all.l == 0;
  const float4 out =
      is_empty ? zero4()
               : make_float4(all.o.x / all.l, all.o.y / all.l, all.o.z / all.l, all.o.w / all.l);
  const uint64_t at = uint64_t{blockIdx.y} * width + column;
  if (is_real) store4(args.out, at / 4, out);
  if (args.quant.q != nullptr) store_quant4(args.quant, at, out, is_real);
}

}  // namespace

int merge(DeviceStream* stream, const DeviceMergeArgs& args) {
  const uint64_t width = uint64_t{args.n_kv_heads} * args.group * args.head_dim;
  STRATA_CHECK(args.head_dim > 0 && args.head_dim % 8 == 0, "head_dim=%u", args.head_dim);
  STRATA_CHECK(args.group > 0 && args.group <= kDeviceGroupMax, "group=%u", args.group);
  STRATA_CHECK(width <= INT32_MAX && args.n_rows <= 65535, "width=%llu n_rows=%u",
               static_cast<unsigned long long>(width), args.n_rows);
  STRATA_CHECK(args.quant.q == nullptr || width % kActGroup == 0, "width=%llu",
               static_cast<unsigned long long>(width));
  const auto bits = reinterpret_cast<uintptr_t>(args.o) | reinterpret_cast<uintptr_t>(args.out);
  STRATA_CHECK(bits % 16 == 0, "o=%p out=%p", static_cast<const void*>(args.o),
               static_cast<const void*>(args.out));
  if (args.n_rows == 0 || width == 0) return 0;
  const auto n_blocks = static_cast<uint32_t>(div_up(width, kColumns));
  const uint32_t n_warps = std::clamp<uint32_t>(
      static_cast<uint32_t>(div_up(args.n_splits, kSplitsAtOnce)), 1, kMaxWarps);
  return launch(merge_splits, dim3(n_blocks, args.n_rows), dim3(n_warps * 32), 0, stream->handle,
                args);
}

}  // namespace strata::gpu_attn
