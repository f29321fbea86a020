// gpu_attn/linear_many_rows.cu - matrices times many rows, by f16 and the tensor cores.
//
// Formula   out[i, j] = scale_i * sum_k x16[i, k] w16[j, k]; x16 = f16(x / scale), scale a power of
//           two per row that puts the row's largest magnitude into [2^14, 2^15); w16 = f16(w).
// Shapes    x [n_rows, n_in] f32 to x16 once; then each matrix to w16 [n_panels * 16, n_in]
//           (panel_to_f16.cuh) and the product, one matrix after the other through the same
//           scratch, kDeviceLinearPart outputs at a time. n_in is a multiple of 32; n_rows and
//           n_out are any.
// Threads   a product's block computes a tile of out; a warp 64 x 64 of it (32 x 32 in the small
//           form), so that a fragment read from shared memory serves four products: at fewer,
//           shared memory would bound the tensor cores. See Tiling for the forms.
// Memory    stages of 32 columns of x16 and w16, filled by cp.async while earlier ones are
//           multiplied; fragments of the next 16 columns are read while these are multiplied, also
//           across the barrier between stages.
// Bytes     wide_linear_bytes(); arithmetic wide_linear_flop(): 2 per weight and row.
// Numbers   products of f16 are exact, sums are f32. Weights and inputs beyond f16 become its
//           largest number.
#include <algorithm>

#include "base/check.h"
#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/gpu.cuh"
#include "gpu_attn/kernels.h"
#include "gpu_attn/panel_to_f16.cuh"
#include "gpu_attn/tensor_tiles.cuh"

namespace strata::gpu_attn {
namespace {

// ---- Rows to f16.
struct RowsToF16 {
  const float* x;
  uint16_t* out;
  float* scales;
  uint32_t n_in;
};

constexpr uint32_t kRowThreads = 256;
constexpr uint32_t kRowWarps = kRowThreads / 32;
constexpr int32_t kTopExponent = 14;      // of a row's largest magnitude in f16
constexpr int32_t kLeastExponent = -100;  // of a row that is not zero; below it 2^14 / x overflows

__device__ __forceinline__ float power_of_two(int32_t exponent) {
  return bits_to_float(static_cast<uint32_t>(127 + exponent) << 23);
}

/// A block does one row. Reads it twice; the second time it is in the cache.
__global__ void __launch_bounds__(kRowThreads) rows_to_f16(const RowsToF16 args) {
  GPU_SHARED(uint32_t, of_warps, [kRowWarps]);
  const auto* row = reinterpret_cast<const float4*>(args.x + uint64_t{blockIdx.x} * args.n_in);
  auto* out = reinterpret_cast<uint2*>(args.out + uint64_t{blockIdx.x} * args.n_in);
  const uint32_t n_vectors = args.n_in / 4;
  uint32_t largest = 0;  // bits of a magnitude order as integers do
  for (uint32_t i = threadIdx.x; i < n_vectors; i += kRowThreads) {
    const float4 v = row[i];
    const uint32_t low = max(float_to_bits(v.x) & 0x7fffffffu, float_to_bits(v.y) & 0x7fffffffu);
    const uint32_t high = max(float_to_bits(v.z) & 0x7fffffffu, float_to_bits(v.w) & 0x7fffffffu);
    largest = max(largest, max(low, high));
  }
  largest = __reduce_max_sync(kFullMask, largest);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = largest;
  __syncthreads();
  for (uint32_t i = 0; i < kRowWarps; ++i) largest = max(largest, of_warps[i]);
  const int32_t exponent = max(static_cast<int32_t>(largest >> 23) - 127, kLeastExponent);
  const float to_f16 = power_of_two(kTopExponent - exponent);
  if (threadIdx.x == 0) args.scales[blockIdx.x] = power_of_two(exponent - kTopExponent);
  for (uint32_t i = threadIdx.x; i < n_vectors; i += kRowThreads) {
    const float4 v = row[i];
    out[i] = make_uint2(floats_to_f16x2(v.x * to_f16, v.y * to_f16),
                        floats_to_f16x2(v.z * to_f16, v.w * to_f16));
  }
}

// ---- The product.
struct Product {
  const std::byte* x;   // [n_rows, n_in] f16
  const std::byte* w;   // [n_w_rows, n_in] f16
  const float* scales;  // of x's rows
  float* out;           // [n_rows, out_stride]
  uint32_t out_stride;
  uint32_t n_rows;
  uint32_t n_out;
  uint32_t n_w_rows;  // n_out, rounded up to panels
  uint32_t n_in;
};

constexpr uint32_t kSlabColumns = 32;  // of a stage, for each slice of columns
constexpr uint32_t kSlabChunks = kSlabColumns * 2 / kChunk;

/// A form of the product: a tile of kTileRows rows of x by kTileOuts rows of w. Warps stand
/// kWarpsDown x kWarpsAcross on it, kSlices times: slices multiply different columns and are summed
/// at the end, which keeps 64 x 64 per warp where a tile has fewer warps than a multiprocessor
/// needs.
template <uint32_t kRows, uint32_t kOuts, uint32_t kDown, uint32_t kAcross, uint32_t kSliceCount,
          uint32_t kStageCount>
struct Tiling {
  static constexpr uint32_t kTileRows = kRows;
  static constexpr uint32_t kTileOuts = kOuts;
  static constexpr uint32_t kWarpsAcross = kAcross;
  static constexpr uint32_t kSlices = kSliceCount;
  static constexpr uint32_t kStages = kStageCount;
  static constexpr uint32_t kWarpsOfSlice = kDown * kAcross;
  static constexpr uint32_t kThreads = 32 * kWarpsOfSlice * kSlices;
  static constexpr uint32_t kRowTiles = kRows / kDown / 16;    // of a warp
  static constexpr uint32_t kOutPairs = kOuts / kAcross / 16;  // of a warp: two times 8 rows of w
  static constexpr uint32_t kSlabRows = kRows + kOuts;
  static constexpr uint32_t kSlabBytes = kSlabRows * kSlabColumns * 2;
  static constexpr uint32_t kStageBytes = kSlabBytes * kSlices;
  static constexpr uint32_t kStageColumns = kSlabColumns * kSlices;
  static constexpr uint32_t kSharedBytes = kStageBytes * kStages;
  // Rows that all threads copy at once, and how often.
  static constexpr uint32_t kRowsAtOnce = kThreads / (kSlabChunks * kSlices);
  static constexpr uint32_t kCopiesOfX = kTileRows / kRowsAtOnce;
  static constexpr uint32_t kCopies = kSlabRows / kRowsAtOnce;
  static_assert(kTileRows % kRowsAtOnce == 0 && kTileOuts % kRowsAtOnce == 0 && kCopies <= 32);
};

using Wide = Tiling<128, 256, 2, 4, 1, 4>;    // large products: least traffic
using Middle = Tiling<128, 128, 2, 2, 2, 3>;  // twice the tiles
using Small = Tiling<64, 64, 2, 2, 1, 4>;     // few rows or few outputs

/// What one thread copies into each stage: one chunk of rows kRowsAtOnce apart of x, then of w.
template <class T>
struct StageCopies {
  const std::byte* x;  // of this thread's first row
  const std::byte* w;
  uint64_t hop_bytes;    // to the next of its rows
  uint32_t column;       // first, in the stage
  uint32_t to;           // in the stage
  uint32_t is_real = 0;  // bit i: copy i lies inside of x or w

  __device__ __forceinline__ StageCopies(const Product& args, uint32_t first_row,
                                         uint32_t first_out) {
    const uint32_t chunk = threadIdx.x % (kSlabChunks * T::kSlices);
    const uint32_t row = threadIdx.x / (kSlabChunks * T::kSlices);
    const uint64_t row_bytes = uint64_t{args.n_in} * 2;
    x = args.x + (first_row + row) * row_bytes + chunk * kChunk;
    w = args.w + (first_out + row) * row_bytes + chunk * kChunk;
    hop_bytes = T::kRowsAtOnce * row_bytes;
    column = chunk * (kChunk / 2);
    to = chunk / kSlabChunks * T::kSlabBytes + permuted<kSlabChunks>(row, chunk % kSlabChunks);
#pragma unroll
    for (uint32_t i = 0; i < T::kCopies; ++i) {
      const bool is_in =
          i < T::kCopiesOfX
              ? first_row + row + i * T::kRowsAtOnce < args.n_rows
              : first_out + row + (i - T::kCopiesOfX) * T::kRowsAtOnce < args.n_w_rows;
      is_real |= uint32_t{is_in} << i;
    }
  }

  /// Starts the copies of stage number `step` of the columns, zeros outside of the matrices.
  __device__ __forceinline__ void start(const Product& args, uint32_t step,
                                        unsigned char* stage) const {
    const uint32_t first_column = step * T::kStageColumns;
    const uint32_t real = first_column + column < args.n_in ? is_real : 0;
#pragma unroll
    for (uint32_t i = 0; i < T::kCopies; ++i) {
      const std::byte* from =
          i < T::kCopiesOfX ? x + i * hop_bytes : w + (i - T::kCopiesOfX) * hop_bytes;
      cp_async16_or_zero(stage + to + i * T::kRowsAtOnce * kSlabChunks * kChunk,
                         from + uint64_t{first_column} * 2, (real >> i & 1) != 0);
    }
    cp_async_commit();
  }
};

template <class T>
using Sums = float[T::kRowTiles][2 * T::kOutPairs][4];

/// 16 columns of a warp's rows of x and w.
template <class T>
struct Fragments {
  uint32_t x[T::kRowTiles][4];
  uint32_t w[T::kOutPairs][4];

  __device__ __forceinline__ void read(const LaneRows<kSlabChunks>& x_rows,
                                       const LaneRows<kSlabChunks>& w_rows, uint32_t stage,
                                       uint32_t half) {
#pragma unroll
    for (uint32_t i = 0; i < T::kRowTiles; ++i) ldmatrix_x4(x[i], x_rows.at(i, half) + stage);
#pragma unroll
    for (uint32_t j = 0; j < T::kOutPairs; ++j) ldmatrix_x4(w[j], w_rows.at(j, half) + stage);
  }

  __device__ __forceinline__ void multiply(Sums<T>& sums) const {
#pragma unroll
    for (uint32_t j = 0; j < T::kOutPairs; ++j) {
      const uint32_t upper[2] = {w[j][0], w[j][1]};
      const uint32_t lower[2] = {w[j][2], w[j][3]};
#pragma unroll
      for (uint32_t i = 0; i < T::kRowTiles; ++i) {
        mma_f16(sums[i][2 * j], x[i], upper);
        mma_f16(sums[i][2 * j + 1], x[i], lower);
      }
    }
  }
};

/// Adds what the second slice has summed to the first's sums, through shared memory.
template <class T>
__device__ __forceinline__ void add_slices(unsigned char* shared, Sums<T>& sums) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  auto* mine = reinterpret_cast<float4*>(shared) +
               warp % T::kWarpsOfSlice * T::kRowTiles * 2 * T::kOutPairs * 32 + lane;
  __syncthreads();  // the stages have been read
  if (warp >= T::kWarpsOfSlice) {
#pragma unroll
    for (uint32_t i = 0; i < T::kRowTiles; ++i)
#pragma unroll
      for (uint32_t j = 0; j < 2 * T::kOutPairs; ++j)
        mine[(i * 2 * T::kOutPairs + j) * 32] =
            make_float4(sums[i][j][0], sums[i][j][1], sums[i][j][2], sums[i][j][3]);
  }
  __syncthreads();
  if (warp >= T::kWarpsOfSlice) return;
#pragma unroll
  for (uint32_t i = 0; i < T::kRowTiles; ++i)
#pragma unroll
    for (uint32_t j = 0; j < 2 * T::kOutPairs; ++j) {
      const float4 other = mine[(i * 2 * T::kOutPairs + j) * 32];
      sums[i][j][0] += other.x;
      sums[i][j][1] += other.y;
      sums[i][j][2] += other.z;
      sums[i][j][3] += other.w;
    }
}

/// Writes a warp's sums times the rows' scales; row0 and out0 are the warp's first.
template <class T>
__device__ __forceinline__ void write_sums(const Product& args, uint32_t row0, uint32_t out0,
                                           const Sums<T>& sums) {
  const uint32_t lane = threadIdx.x % 32;
  const bool is_paired = args.out_stride % 2 == 0;  // else rows are not 8-byte aligned
#pragma unroll
  for (uint32_t i = 0; i < T::kRowTiles; ++i)
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
      const uint32_t row = row0 + 16 * i + 8 * h + lane / 4;
      if (row >= args.n_rows) continue;
      const float scale = args.scales[row];
      float* to = args.out + uint64_t{row} * args.out_stride;
#pragma unroll
      for (uint32_t j = 0; j < 2 * T::kOutPairs; ++j) {
        const uint32_t at = out0 + 8 * j + 2 * (lane % 4);
        const float2 pair = make_float2(sums[i][j][2 * h] * scale, sums[i][j][2 * h + 1] * scale);
        if (is_paired && at + 1 < args.n_out) {
          *reinterpret_cast<float2*>(to + at) = pair;
        } else {
          if (at < args.n_out) to[at] = pair.x;
          if (at + 1 < args.n_out) to[at + 1] = pair.y;
        }
      }
    }
}

/// Block x: tile, those of the same rows of w first.
template <class T>
__global__ void __launch_bounds__(T::kThreads) multiply_f16(const Product args) {
  GPU_DYN_SHARED(shared);
  const uint32_t n_row_tiles = (args.n_rows + T::kTileRows - 1) / T::kTileRows;
  const uint32_t first_row = blockIdx.x % n_row_tiles * T::kTileRows;
  const uint32_t first_out = blockIdx.x / n_row_tiles * T::kTileOuts;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t down = warp % T::kWarpsOfSlice / T::kWarpsAcross * 16 * T::kRowTiles;
  const uint32_t across = warp % T::kWarpsAcross * 16 * T::kOutPairs;
  const unsigned char* slab = shared + warp / T::kWarpsOfSlice * T::kSlabBytes;
  const LaneRows<kSlabChunks> x_rows(slab + down * kSlabChunks * kChunk);
  const auto w_rows = LaneRows<kSlabChunks>::of_right_operand(slab + (T::kTileRows + across) *
                                                                         kSlabChunks * kChunk);
  const StageCopies<T> copies(args, first_row, first_out);
  const uint32_t n_steps = (args.n_in + T::kStageColumns - 1) / T::kStageColumns;

  Sums<T> sums;
#pragma unroll
  for (uint32_t i = 0; i < T::kRowTiles; ++i)
#pragma unroll
    for (uint32_t j = 0; j < 2 * T::kOutPairs; ++j)
#pragma unroll
      for (uint32_t e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;

#pragma unroll
  for (uint32_t step = 0; step + 1 < T::kStages; ++step)
    copies.start(args, step, shared + step * T::kStageBytes);
  cp_async_wait<T::kStages - 2>();
  __syncthreads();  // the first stage is there
  Fragments<T> even, odd;
  even.read(x_rows, w_rows, 0, 0);
  uint32_t stage = 0;
  uint32_t free_stage = T::kSharedBytes - T::kStageBytes;
  for (uint32_t step = 0; step < n_steps; ++step) {
    odd.read(x_rows, w_rows, stage, 1);
    copies.start(args, step + T::kStages - 1, shared + free_stage);
    even.multiply(sums);
    free_stage = stage;
    stage = stage + T::kStageBytes == T::kSharedBytes ? 0 : stage + T::kStageBytes;
    cp_async_wait<T::kStages - 2>();
    __syncthreads();  // the next stage is there, and this one has been read
    even.read(x_rows, w_rows, stage, 0);
    odd.multiply(sums);
  }
  cp_async_wait<0>();
  if constexpr (T::kSlices == 2) add_slices<T>(shared, sums);
  if (warp < T::kWarpsOfSlice) write_sums<T>(args, first_row + down, first_out + across, sums);
}

template <class T>
uint64_t tiles_of(const Product& args) {
  return uint64_t{(args.n_rows + T::kTileRows - 1) / T::kTileRows} *
         ((args.n_out + T::kTileOuts - 1) / T::kTileOuts);
}

template <class T>
int launch_product(Stream stream, const Product& args) {
  return launch(multiply_f16<T>, dim3(static_cast<uint32_t>(tiles_of<T>(args))), dim3(T::kThreads),
                T::kSharedBytes, stream, args);
}

/// The largest tile of which there are enough for most multiprocessors of a large card.
int launch_product(Stream stream, const Product& args) {
  if (args.n_rows > Small::kTileRows && tiles_of<Wide>(args) >= 100)
    return launch_product<Wide>(stream, args);
  if (args.n_rows > Small::kTileRows && tiles_of<Middle>(args) >= 64)
    return launch_product<Middle>(stream, args);
  return launch_product<Small>(stream, args);
}

/// Panels [first, first + n) of a matrix to f16.
int launch_decoding(Stream stream, const PackedMatrix& matrix, uint32_t first, uint32_t n,
                    uint16_t* out) {
  const PanelToF16 args{
      .panels = reinterpret_cast<const uint8_t*>(matrix.bytes) + first * matrix.panel_bytes,
      .panel_bytes = matrix.panel_bytes,
      .codes_offset = 0,
      .out = out,
      .n_in = matrix.n_in};
  switch (matrix.type) {
    case TensorType::kF32:
      return launch_panel_to_f16<TensorType::kF32>(stream, args, n);
    case TensorType::kF16:
      return launch_panel_to_f16<TensorType::kF16>(stream, args, n);
    case TensorType::kBF16:
      return launch_panel_to_f16<TensorType::kBF16>(stream, args, n);
    case TensorType::kQ4_0:
      return launch_panel_to_f16<TensorType::kQ4_0>(stream, args, n);
    case TensorType::kQ4_1:
      return launch_panel_to_f16<TensorType::kQ4_1>(stream, args, n);
    case TensorType::kQ5_0:
      return launch_panel_to_f16<TensorType::kQ5_0>(stream, args, n);
    case TensorType::kQ5_1:
      return launch_panel_to_f16<TensorType::kQ5_1>(stream, args, n);
    case TensorType::kQ8_0:
      return launch_panel_to_f16<TensorType::kQ8_0>(stream, args, n);
    case TensorType::kQ2_K:
      return launch_panel_to_f16<TensorType::kQ2_K>(stream, args, n);
    case TensorType::kQ3_K:
      return launch_panel_to_f16<TensorType::kQ3_K>(stream, args, n);
    case TensorType::kQ4_K:
      return launch_panel_to_f16<TensorType::kQ4_K>(stream, args, n);
    case TensorType::kQ5_K:
      return launch_panel_to_f16<TensorType::kQ5_K>(stream, args, n);
    case TensorType::kQ6_K:
      return launch_panel_to_f16<TensorType::kQ6_K>(stream, args, n);
    case TensorType::kIQ4_NL:
      return launch_panel_to_f16<TensorType::kIQ4_NL>(stream, args, n);
    case TensorType::kIQ4_XS:
      return launch_panel_to_f16<TensorType::kIQ4_XS>(stream, args, n);
  }
  STRATA_CHECK(false, "tensor type %u", static_cast<uint32_t>(matrix.type));
}

static_assert(kDeviceLinearPart % kPanelRows == 0);

constexpr uint64_t aligned256(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

int linear_many_rows(DeviceStream* stream, const DeviceLinearArgs& args) {
  STRATA_CHECK(args.n_matrices >= 1 && args.n_matrices <= kDeviceLinearMax, "%u matrices",
               args.n_matrices);
  const uint32_t n_in = args.w[0].n_in;
  STRATA_CHECK(n_in % kSlabColumns == 0, "n_in=%u", n_in);
  STRATA_CHECK(args.scratch != nullptr, "%u rows without scratch", args.n_rows);
  if (args.n_rows == 0) return 0;
  // The order of device_linear_scratch_bytes().
  std::byte* x16 = args.scratch;
  std::byte* scales = x16 + aligned256(uint64_t{args.n_rows} * n_in * 2);
  std::byte* w16 = scales + aligned256(uint64_t{args.n_rows} * 4);
  int error = launch(rows_to_f16, dim3(args.n_rows), dim3(kRowThreads), 0, stream->handle,
                     RowsToF16{.x = args.x,
                               .out = reinterpret_cast<uint16_t*>(x16),
                               .scales = reinterpret_cast<float*>(scales),
                               .n_in = n_in});
  for (uint32_t i = 0; i < args.n_matrices; ++i) {
    const PackedMatrix& matrix = args.w[i];
    STRATA_CHECK(matrix.n_in == n_in, "n_in=%u beside %u", matrix.n_in, n_in);
    for (uint32_t first = 0; first < matrix.n_out && error == 0; first += kDeviceLinearPart) {
      const uint32_t n_out = std::min(kDeviceLinearPart, matrix.n_out - first);
      const uint32_t n_panels = (n_out + kPanelRows - 1) / kPanelRows;
      error = launch_decoding(stream->handle, matrix, first / kPanelRows, n_panels,
                              reinterpret_cast<uint16_t*>(w16));
      if (error != 0) return error;
      error = launch_product(stream->handle, Product{.x = x16,
                                                     .w = w16,
                                                     .scales = reinterpret_cast<float*>(scales),
                                                     .out = args.out[i] + first,
                                                     .out_stride = matrix.n_out,
                                                     .n_rows = args.n_rows,
                                                     .n_out = n_out,
                                                     .n_w_rows = n_panels * kPanelRows,
                                                     .n_in = n_in});
    }
  }
  return error;
}

}  // namespace strata::gpu_attn
