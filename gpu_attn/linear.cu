// gpu_attn/linear.cu - linear layers of up to eight rows, straight from the CPU's packed panels.
//
// Formula   out[r, j] = sum_k w[j, k] x[r, k]. Quantised: a group's codes times int8 activations in
//           whole numbers, the zero point through their negated sums, times scale and dx; float:
//           fused multiply-adds in f32.
// Shapes    base/device_kernels.h; panels of 16 outputs as base/panel_layout.inc lays them out
// Threads   a thread block computes a panel of one of up to three matrices. Its warps share the
//           inputs, a lane four outputs of one chunk of 32 inputs (linear_one_row.cuh), a warp
//           eight rows at once by the tensor cores (linear_tile.cuh), or four or eight outputs of
//           float panels (linear_float.cuh)
// Order     lanes are joined by a tree, warps one after another: the same bits every time
// Bytes     linear_bytes(args): every panel once
// Measured  on an H200 (November 2026) one row reaches 71-75 % of a copy's rate for 4-bit matrices
//           of 14336 x 4096, 86 % for Q8_0, 88 % for F16; 4096 x 4096 alone is too little to fill
//           the card: 42 %
#include <algorithm>

#include "base/check.h"
#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/kernels.h"
#include "gpu_attn/linear_float.cuh"
#include "gpu_attn/linear_one_row.cuh"
#include "gpu_attn/linear_tile.cuh"

namespace strata::gpu_attn {
namespace {

constexpr uint32_t kOneRowWarps = 16;
constexpr uint32_t kTileWarps = 8;

/// Calls body.template operator()<type>(): the same type for the whole thread block.
#define STRATA_CASE(name) \
  case TensorType::name:  \
    return body.template operator()<TensorType::name>();
template <class Body>
__device__ __forceinline__ void with_quantised(TensorType type, const Body& body) {
  switch (type) {
    STRATA_CASE(kQ4_0)
    STRATA_CASE(kQ4_1)
    STRATA_CASE(kQ5_0)
    STRATA_CASE(kQ5_1)
    STRATA_CASE(kQ8_0)
    STRATA_CASE(kQ2_K)
    STRATA_CASE(kQ3_K)
    STRATA_CASE(kQ4_K)
    STRATA_CASE(kQ5_K)
    STRATA_CASE(kQ6_K)
    STRATA_CASE(kIQ4_NL)
    STRATA_CASE(kIQ4_XS)
    default:
      break;
  }
}
template <class Body>
__device__ __forceinline__ void with_float(TensorType type, const Body& body) {
  switch (type) {
    STRATA_CASE(kF32)
    STRATA_CASE(kF16)
    STRATA_CASE(kBF16)
    default:
      break;
  }
}
#undef STRATA_CASE

/// The panel of this thread block.
struct BlockPanel {
  FewRowsMatrix w;
  uint32_t panel;
};

__device__ __forceinline__ BlockPanel find_panel(const FewRowsArgs& args) {
  const uint32_t block = blockIdx.x;
  if (block < args.w[0].end_block) return {args.w[0], block};
  if (block < args.w[1].end_block) return {args.w[1], block - args.w[0].end_block};
  return {args.w[2], block - args.w[1].end_block};
}

/// `sums` is the first warp's, that of the others kStride floats further each.
template <uint32_t kStride>
__device__ __forceinline__ WarpWork warp_work(const BlockPanel& at, float* sums) {
  const uint8_t* panel = at.w.panels + at.panel * at.w.panel_bytes;
  const uint32_t warp = threadIdx.x / 32;
  return {panel, panel + at.w.codes_offset, sums + warp * kStride,
          warp,  blockDim.x / 32,           threadIdx.x % 32};
}

/// Adds up the warps' sums in order and writes what is of the matrix.
template <uint32_t kRows, uint32_t kWarpsMax, uint32_t kStride>
__device__ __forceinline__ void store_panel(const BlockPanel& at, const float* sums,
                                            uint32_t n_rows) {
  constexpr uint32_t kSums = kRows * kPanelRows;
  const uint32_t n_warps = blockDim.x / 32;
  for (uint32_t i = threadIdx.x; i < kSums; i += blockDim.x) {
    float sum = sums[i];
#pragma unroll
    for (uint32_t warp = 1; warp < kWarpsMax; ++warp)
      if (warp < n_warps) sum += sums[warp * kStride + i];
    const uint32_t row = i / kPanelRows, column = at.panel * kPanelRows + i % kPanelRows;
    if (row < n_rows && column < at.w.n_out) at.w.out[uint64_t{row} * at.w.n_out + column] = sum;
  }
}

__global__ void __launch_bounds__(kOneRowWarps * 32, 2) multiply_one_row(const FewRowsArgs args) {
  GPU_SHARED(float, sums, [kOneRowWarps * kPanelRows]);
  const BlockPanel at = find_panel(args);
  const WarpWork work = warp_work<kPanelRows>(at, sums);
  with_quantised(at.w.type, [&]<TensorType kType>() { add_one_row<kType>(args, work); });
  __syncthreads();
  store_panel<1, kOneRowWarps, kPanelRows>(at, sums, 1);
}

__global__ void __launch_bounds__(kTileWarps * 32, 2) multiply_row_tile(const FewRowsArgs args) {
  constexpr uint32_t kStride = sizeof(TileStage) / sizeof(float);
  GPU_SHARED(TileStage, stages, [kTileWarps]);
  const BlockPanel at = find_panel(args);
  const WarpWork work = warp_work<kStride>(at, stages[0].sums);
  with_quantised(at.w.type,
                 [&]<TensorType kType>() { add_row_tile<kType>(args, work, stages[work.warp]); });
  __syncthreads();
  store_panel<kTileRows, kTileWarps, kStride>(at, stages[0].sums, args.n_rows);
}

template <uint32_t kRows>
constexpr uint32_t kFloatWarps = kRows == 1 ? kOneRowWarps : kTileWarps;

template <uint32_t kRows>
__global__ void __launch_bounds__(kFloatWarps<kRows> * 32, 2)
    multiply_floats(const FewRowsArgs args) {
  constexpr uint32_t kStride = kRows * kPanelRows;
  GPU_SHARED(float, sums, [kFloatWarps<kRows> * kStride]);
  const BlockPanel at = find_panel(args);
  const WarpWork work = warp_work<kStride>(at, sums);
  with_float(at.w.type, [&]<TensorType kType>() { add_float_rows<kType, kRows>(args, work); });
  __syncthreads();
  store_panel<kRows, kFloatWarps<kRows>, kStride>(at, sums, args.n_rows);
}

/// Warps that divide the inputs of a matrix as evenly as `n_warps_max` allow.
uint32_t n_warps_for(const PackedMatrix& w, uint32_t n_warps_max) {
  const uint32_t step = w.type == TensorType::kF32 ? kFloatStep<TensorType::kF32>
                        : is_float_type(w.type)    ? kFloatStep<TensorType::kF16>
                                                   : kWarpChunks * kChunkInputs;
  const uint32_t n_steps = (w.n_in + step - 1) / step;
  const uint32_t n_rounds = (n_steps + n_warps_max - 1) / n_warps_max;
  return (n_steps + n_rounds - 1) / n_rounds;
}

void check_matrix(const DeviceLinearArgs& args, const PackedMatrix& w) {
  STRATA_CHECK(w.n_in == args.w[0].n_in && w.n_in > 0 && w.n_out > 0, "n_in=%u, %u n_out=%u",
               w.n_in, args.w[0].n_in, w.n_out);
  STRATA_CHECK(reinterpret_cast<uintptr_t>(w.bytes) % 64 == 0, "bytes=%p",
               static_cast<const void*>(w.bytes));
  if (is_float_type(w.type)) {
    STRATA_CHECK(args.x != nullptr, "a float matrix of %u inputs without x", w.n_in);
    const uint64_t bytes = uint64_t{w.n_in} * kPanelRows * (w.type == TensorType::kF32 ? 4 : 2);
    STRATA_CHECK(w.panel_bytes == (bytes + 63) / 64 * 64, "panel_bytes=%lu",
                 static_cast<unsigned long>(w.panel_bytes));
    return;
  }
  const PanelLayout layout = panel_layout(w.type);
  STRATA_CHECK(w.n_in % layout.unit == 0 && w.panel_bytes == layout.panel_bytes(w.n_in),
               "n_in=%u unit=%u panel_bytes=%lu", w.n_in, layout.unit,
               static_cast<unsigned long>(w.panel_bytes));
  STRATA_CHECK(args.quant.q != nullptr && reinterpret_cast<uintptr_t>(args.quant.q) % 16 == 0 &&
                   reinterpret_cast<uintptr_t>(args.quant.neg_sums) % 8 == 0,
               "q=%p neg_sums=%p", static_cast<const void*>(args.quant.q),
               static_cast<const void*>(args.quant.neg_sums));
}

FewRowsMatrix few_rows_matrix(const PackedMatrix& w, float* out, uint32_t end_block) {
  const uint64_t codes_offset =
      is_float_type(w.type) ? 0 : panel_layout(w.type).codes_offset(w.n_in);
  return {.panels = reinterpret_cast<const uint8_t*>(w.bytes),
          .out = out,
          .panel_bytes = w.panel_bytes,
          .codes_offset = static_cast<uint32_t>(codes_offset),
          .n_out = w.n_out,
          .end_block = end_block,
          .type = w.type};
}

/// Queues the matrices of one kind.
int multiply(DeviceStream* stream, const DeviceLinearArgs& args, bool is_float) {
  FewRowsArgs few{
      .w = {}, .x = args.x, .quant = args.quant, .n_in = args.w[0].n_in, .n_rows = args.n_rows};
  const uint32_t n_warps_max = args.n_rows == 1 ? kOneRowWarps : kTileWarps;
  uint32_t n_blocks = 0, n_warps = 1, n_matrices = 0;
  for (uint32_t j = 0; j < args.n_matrices; ++j) {
    const PackedMatrix& w = args.w[j];
    if (is_float_type(w.type) != is_float) continue;
    n_blocks += w.n_panels();
    n_warps = std::max(n_warps, n_warps_for(w, n_warps_max));
    few.w[n_matrices++] = few_rows_matrix(w, args.out[j], n_blocks);
  }
  if (n_matrices == 0) return 0;
  const auto kernel = args.n_rows == 1 ? is_float ? multiply_floats<1> : multiply_one_row
                      : is_float       ? multiply_floats<kTileRows>
                                       : multiply_row_tile;
  return launch(kernel, dim3(n_blocks), dim3(n_warps * 32), 0, stream->handle, few);
}

}  // namespace

int linear(DeviceStream* stream, const DeviceLinearArgs& args) {
  if (args.n_rows > kDeviceFewRows) return linear_many_rows(stream, args);
  STRATA_CHECK(args.n_matrices >= 1 && args.n_matrices <= kDeviceLinearMax, "n_matrices=%u",
               args.n_matrices);
  if (args.n_rows == 0) return 0;
  for (uint32_t j = 0; j < args.n_matrices; ++j) check_matrix(args, args.w[j]);
  const int error = multiply(stream, args, false);
  return error != 0 ? error : multiply(stream, args, true);
}

}  // namespace strata::gpu_attn
