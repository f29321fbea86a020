// gpu_attn/linear_one_row.cuh - a warp's part of one quantised panel times one row of activations.
//
// A thread takes four output rows of one chunk: every 16-byte load is wholly its own, a group's
// integer sum never leaves it, and the eight chunks of a warp are 256 inputs, one unit of the
// K-quants. Instructions per thread and chunk of Q4_K (72 bytes): 32 products, 48 to unpack, 50 for
// scales and minima, 20 for loads and addresses.
#pragma once

#include "gpu_attn/linear_few_rows.cuh"

namespace strata::gpu_attn {
namespace {

template <TensorType kType>
__device__ __forceinline__ void add_one_row(const FewRowsArgs& args, const WarpWork& work) {
  using Codes = ChunkCodes<kType>;
  using Scales = ChunkScales<kType>;
  const uint32_t n_chunks = args.n_in / kChunkInputs;
  const uint32_t quarter = work.lane % kQuarters;
  float acc[kLaneRows] = {};
  for (uint32_t chunk = work.warp * kWarpChunks + work.lane / kQuarters; chunk < n_chunks;
       chunk += work.n_warps * kWarpChunks) {
    Codes codes;
    Scales scales;
    codes.load(work.codes, chunk, quarter);
    scales.load(work.panel, chunk, quarter);
    const float dx = args.quant.scales[chunk];
    const uint2 halves = reinterpret_cast<const uint2*>(args.quant.neg_sums)[chunk];
#pragma unroll
    for (uint32_t group = 0; group < Scales::kGroups; ++group) {
      const auto* x = reinterpret_cast<const int4*>(args.quant.q) + uint64_t{chunk} * 2 + group;
      const int4 x0 = x[0], x1 = x[Scales::kGroups == 1];  // the second of groups of 32 alone
      const int32_t x_quads[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
      const auto neg_sum = static_cast<int32_t>(Scales::kGroups == 1 ? halves.x + halves.y
                                                : group == 0         ? halves.x
                                                                     : halves.y);
      float scale[kLaneRows], minimum[kLaneRows];
      scales.scales(group, scale);
      if constexpr (Codes::kLayout.has_min) scales.minima(group, minimum);
#pragma unroll
      for (uint32_t e = 0; e < kLaneRows; ++e) {
        uint32_t quads[Codes::kQuads];
        codes.unpack(group, e, quads);
        int32_t sum = kSumStart;
        if constexpr (!Codes::kLayout.has_min) sum += neg_sum * (1 << Codes::kLayout.zero_shift);
#pragma unroll
        for (uint32_t t = 0; t < Codes::kQuads; ++t) sum = dot4_us(quads[t], x_quads[t], sum);
        acc[e] = fmaf(sum_to_float(sum), scale[e] * dx, acc[e]);
        if constexpr (Codes::kLayout.has_min)
          acc[e] = fmaf(minimum[e], dx * static_cast<float>(neg_sum), acc[e]);
      }
    }
  }
  store_joined<1, kLaneRows>(acc, work.lane, work.sums);
}

}  // namespace
}  // namespace strata::gpu_attn
