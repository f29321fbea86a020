// gpu_attn/row_ops.cu - what stands between projections: residual and norm, activation, int8 form,
// and the choice of a token.
//
// Formula  norm      p = projected + bias; p = p / rms(p) post_norm; residual += p;
//                    normed = residual / rms(residual) weight; rms(x) = sqrt(mean(x^2) + eps)
//          activate  gate / (1 + exp(-gate)) up;  gate / (1 + exp(-2u)) up with
//                    u = sqrt(2 / pi) (gate + 0.044715 gate^3): gelu's tanh form without
//                    cancellation where tanh nears -1
//          quantize  gpu_attn/row_quant.cuh
//          argmax    the first of the largest; a NaN is above every number
// Shapes   rows [n_rows, n] f32, n a multiple of 4, of 32 where the int8 form is wanted; argmax:
//          any n
// Threads  norm: a block per row; thread t owns float4 t, t + threads, .. and keeps them in
//          registers between the passes, so that memory is read once; up to 1024 threads for few
//          rows, a quarter of them for many, where other blocks fill the waits. Rows longer than
//          registers hold are read again (kRegisterRow). activate, quantize: a float4 or two per
//          thread, rows run together. argmax: a block per row, eight values per thread under way
// Bytes    gpu_attn/row_bytes.h
// Numbers  sums of squares: 4 kVecs fused adds in a thread, then trees over lanes and warps;
//          1 / sqrt by rsqrtf (2 ulp). Order is fixed by n and by whether rows are few, so a launch
//          repeated gives the same bits
// Measured  on an H200 (November 2026): a row of 4096 takes 3.2 us normed and 2.1 us quantised,
//          which is about a launch; 512 rows of it 75 % of a copy's rate
#include "base/check.h"
#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/kernels.h"
#include "gpu_attn/row_quant.cuh"

namespace strata::gpu_attn {
namespace {

constexpr uint32_t kRowThreadsMax = 1024;
constexpr uint32_t kFlatThreads = 256;
constexpr uint32_t kVecsMax = 4;                                  // float4 in registers
constexpr uint32_t kRegisterRow = kRowThreadsMax * kVecsMax * 4;  // longest row of norm_rows
constexpr uint32_t kFewRows = 32;                                 // fewer leave cores idle
constexpr uint64_t kManyValues = uint64_t{1} << 20;               // more fill every core twice over

__device__ __forceinline__ float rms_factor(float sum, uint32_t n, float eps) {
  return rsqrtf(sum / static_cast<float>(n) + eps);
}

template <uint32_t kVecs>
__global__ void __launch_bounds__(kRowThreadsMax) norm_rows(const DeviceNormArgs args) {
  GPU_SHARED(float, sums, [2][32]);
  const uint64_t row_at = uint64_t{blockIdx.x} * args.n;
  const uint32_t n_vecs = args.n / 4;
  float4 sum[kVecs];  // of residual and what is added
  float4 other[kVecs];
#pragma unroll
  for (uint32_t j = 0; j < kVecs; ++j) {
    const uint32_t i = j * blockDim.x + threadIdx.x;
    const bool is_real = i < n_vecs;
    sum[j] = is_real ? load4(args.residual + row_at, i) : zero4();
    other[j] = is_real && args.projected != nullptr ? load4(args.projected + row_at, i) : zero4();
    if (is_real && args.bias != nullptr) other[j] = add4(other[j], load4(args.bias, i));
  }
  if (args.post_norm != nullptr) {
    float squares = 0.0f;
#pragma unroll
    for (uint32_t j = 0; j < kVecs; ++j) squares = add_squares(other[j], squares);
    const float factor = rms_factor(block_sum(squares, sums[0]), args.n, args.eps);
#pragma unroll
    for (uint32_t j = 0; j < kVecs; ++j) {
      const uint32_t i = j * blockDim.x + threadIdx.x;
      if (i < n_vecs) other[j] = mul4(scale4(other[j], factor), load4(args.post_norm, i));
    }
  }
  float squares = 0.0f;
#pragma unroll
  for (uint32_t j = 0; j < kVecs; ++j) {
    const uint32_t i = j * blockDim.x + threadIdx.x;
    const bool is_real = i < n_vecs;
    sum[j] = add4(sum[j], other[j]);
    if (is_real && args.projected != nullptr) store4(args.residual + row_at, i, sum[j]);
    squares = add_squares(sum[j], squares);
    other[j] = is_real ? load4(args.weight, i) : zero4();  // under way while the block adds up
  }
  const float factor = rms_factor(block_sum(squares, sums[1]), args.n, args.eps);
#pragma unroll
  for (uint32_t j = 0; j < kVecs; ++j) {
    const uint32_t i = j * blockDim.x + threadIdx.x;
    const float4 normed = mul4(scale4(sum[j], factor), other[j]);
    if (i < n_vecs) store4(args.normed + row_at, i, normed);
    if (args.quant.q != nullptr)
      store_quant4(args.quant, row_at + uint64_t{i} * 4, normed, i < n_vecs);
  }
}

__device__ __forceinline__ float4 projected_at(const DeviceNormArgs& args, uint64_t row_at,
                                               uint32_t i) {
  const float4 x = load4(args.projected + row_at, i);
  return args.bias != nullptr ? add4(x, load4(args.bias, i)) : x;
}

/// As norm_rows(), of any length: each pass reads again.
__global__ void __launch_bounds__(kRowThreadsMax) norm_long_rows(const DeviceNormArgs args) {
  GPU_SHARED(float, sums, [2][32]);
  const uint64_t row_at = uint64_t{blockIdx.x} * args.n;
  const uint32_t n_vecs = args.n / 4;
  float post_factor = 1.0f;
  if (args.post_norm != nullptr) {
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < n_vecs; i += blockDim.x)
      squares = add_squares(projected_at(args, row_at, i), squares);
    post_factor = rms_factor(block_sum(squares, sums[0]), args.n, args.eps);
  }
  float squares = 0.0f;
  for (uint32_t i = threadIdx.x; i < n_vecs; i += blockDim.x) {
    float4 sum = load4(args.residual + row_at, i);
    if (args.projected != nullptr) {
      float4 added = projected_at(args, row_at, i);
      if (args.post_norm != nullptr)
        added = mul4(scale4(added, post_factor), load4(args.post_norm, i));
      sum = add4(sum, added);
      store4(args.residual + row_at, i, sum);
    }
    squares = add_squares(sum, squares);
  }
  const float factor = rms_factor(block_sum(squares, sums[1]), args.n, args.eps);
  for (uint32_t begin = 0; begin < n_vecs; begin += blockDim.x) {  // whole warps quantise
    const uint32_t i = begin + threadIdx.x;
    float4 normed = zero4();
    if (i < n_vecs) {
      normed = mul4(scale4(load4(args.residual + row_at, i), factor), load4(args.weight, i));
      store4(args.normed + row_at, i, normed);
    }
    if (args.quant.q != nullptr)
      store_quant4(args.quant, row_at + uint64_t{i} * 4, normed, i < n_vecs);
  }
}

__device__ __forceinline__ float activated(float gate, float up, DeviceActivation kind) {
  constexpr float kLinear = -1.5957691216057308f;  // -2 sqrt(2 / pi)
  constexpr float kCubic = kLinear * 0.044715f;
  const float exponent =
      kind == DeviceActivation::kSiluMul ? -gate : gate * fmaf(gate * gate, kCubic, kLinear);
  return gate / (1.0f + expf(exponent)) * up;
}

/// Of n values, rows run together.
struct FlatArgs {
  const float* x;
  const float* up;  // null: x as it is
  float* out;       // null: the int8 form alone
  QuantRows quant;
  uint64_t n_vecs;
  DeviceActivation kind;
};

template <uint32_t kVecs>
__global__ void __launch_bounds__(kFlatThreads) flat_rows(const FlatArgs args) {
  const uint64_t begin = uint64_t{blockIdx.x} * (kFlatThreads * kVecs) + threadIdx.x;
  float4 x[kVecs];
  float4 up[kVecs];
#pragma unroll
  for (uint32_t j = 0; j < kVecs; ++j) {
    const uint64_t i = begin + j * kFlatThreads;
    x[j] = i < args.n_vecs ? load4(args.x, i) : zero4();
    up[j] = i < args.n_vecs && args.up != nullptr ? load4(args.up, i) : zero4();
  }
#pragma unroll
  for (uint32_t j = 0; j < kVecs; ++j) {
    const uint64_t i = begin + j * kFlatThreads;
    if (args.up != nullptr)
      x[j] =
          make_float4(activated(x[j].x, up[j].x, args.kind), activated(x[j].y, up[j].y, args.kind),
                      activated(x[j].z, up[j].z, args.kind), activated(x[j].w, up[j].w, args.kind));
    if (args.out != nullptr && i < args.n_vecs) store4(args.out, i, x[j]);
    if (args.quant.q != nullptr) store_quant4(args.quant, i * 4, x[j], i < args.n_vecs);
  }
}

int launch_flat(DeviceStream* stream, const FlatArgs& args) {
  const bool is_many = args.n_vecs * 4 >= kManyValues;
  const uint64_t per_block = kFlatThreads * (is_many ? 2 : 1);
  const uint64_t n_blocks = (args.n_vecs + per_block - 1) / per_block;
  STRATA_CHECK(n_blocks > 0 && n_blocks < (uint64_t{1} << 31), "%llu values",
               static_cast<unsigned long long>(args.n_vecs * 4));
  return launch(is_many ? flat_rows<2> : flat_rows<1>, dim3(static_cast<uint32_t>(n_blocks)),
                dim3(kFlatThreads), 0, stream->handle, args);
}

/// Whether (x, i) comes before (best, best_i): a NaN before every number, then the larger value,
/// then the smaller place.
__device__ __forceinline__ bool is_before(float x, uint32_t i, float best, uint32_t best_i) {
  if (x == best) return i < best_i;
  if (best != best) return x != x && i < best_i;
  return x > best || x != x;
}

__device__ __forceinline__ void warp_argmax(float& best, uint32_t& best_i) {
  for (int mask = 16; mask > 0; mask /= 2) {
    const float x = __shfl_xor_sync(kFullMask, best, mask);
    const uint32_t i = __shfl_xor_sync(kFullMask, best_i, mask);
    if (is_before(x, i, best, best_i)) {
      best = x;
      best_i = i;
    }
  }
}

/// A block per row. A vocabulary of 151,936 takes 22.5 us on an H200 (November 2026), 1 % of a
/// token of an 8B model; several blocks per row and a launch that merges them would take half of
/// that.
__global__ void __launch_bounds__(kRowThreadsMax) argmax_rows(const DeviceArgmaxArgs args) {
  constexpr uint32_t kUnrolled = 8;
  GPU_SHARED(float, values, [32]);
  GPU_SHARED(uint32_t, places, [32]);
  const float* row = args.x + uint64_t{blockIdx.x} * args.n;
  float best = row[0];
  uint32_t best_i = 0;
  for (uint32_t begin = threadIdx.x; begin < args.n; begin += kUnrolled * blockDim.x) {
    float x[kUnrolled];
#pragma unroll
    for (uint32_t j = 0; j < kUnrolled; ++j) {
      const uint64_t i = begin + uint64_t{blockDim.x} * j;
      x[j] = i < args.n ? row[i] : best;  // again what is known, at a later place
    }
#pragma unroll
    for (uint32_t j = 0; j < kUnrolled; ++j) {
      const uint32_t i = begin + blockDim.x * j;
      if (i < args.n && is_before(x[j], i, best, best_i)) {
        best = x[j];
        best_i = i;
      }
    }
  }
  const uint32_t lane = threadIdx.x % 32;
  warp_argmax(best, best_i);
  if (lane == 0) {
    values[threadIdx.x / 32] = best;
    places[threadIdx.x / 32] = best_i;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  const uint32_t from = lane < blockDim.x / 32 ? lane : 0;
  best = values[from];
  best_i = places[from];
  warp_argmax(best, best_i);
  if (lane == 0) {
    args.value[blockIdx.x] = best;
    args.index[blockIdx.x] = static_cast<int32_t>(best_i);
  }
}

void check_rows(uint32_t n_rows, uint32_t n, const QuantRows& quant) {
  STRATA_CHECK(n_rows >= 1 && n >= 4 && n % (quant.q != nullptr ? kActGroup : 4) == 0,
               "n_rows=%u n=%u", n_rows, n);
}

uint32_t whole_warps(uint64_t threads) { return static_cast<uint32_t>((threads + 31) / 32 * 32); }

}  // namespace

int norm(DeviceStream* stream, const DeviceNormArgs& args) {
  check_rows(args.n_rows, args.n, args.quant);
  STRATA_CHECK(args.projected != nullptr || (args.bias == nullptr && args.post_norm == nullptr),
               "%s", "a bias or a norm of nothing");
  const dim3 grid(args.n_rows);
  const uint32_t n_vecs = args.n / 4;
  if (args.n > kRegisterRow)
    return launch(norm_long_rows, grid, dim3(kRowThreadsMax), 0, stream->handle, args);
  const bool are_few = args.n_rows < kFewRows;
  const uint32_t vecs = are_few ? (n_vecs + kRowThreadsMax - 1) / kRowThreadsMax : kVecsMax;
  const auto kernel = vecs == 1 ? norm_rows<1> : vecs == 2 ? norm_rows<2> : norm_rows<kVecsMax>;
  const uint32_t of_thread = vecs <= 2 ? vecs : kVecsMax;
  const dim3 block(whole_warps((n_vecs + of_thread - 1) / of_thread));
  return launch(kernel, grid, block, 0, stream->handle, args);
}

int quantize(DeviceStream* stream, const DeviceQuantizeArgs& args) {
  check_rows(args.n_rows, args.n, args.out);
  return launch_flat(stream, {.x = args.x,
                              .up = nullptr,
                              .out = nullptr,
                              .quant = args.out,
                              .n_vecs = uint64_t{args.n_rows} * args.n / 4,
                              .kind = {}});
}

int activate(DeviceStream* stream, const DeviceActivateArgs& args) {
  check_rows(args.n_rows, args.n, args.quant);
  return launch_flat(stream, {.x = args.gate,
                              .up = args.up,
                              .out = args.out,
                              .quant = args.quant,
                              .n_vecs = uint64_t{args.n_rows} * args.n / 4,
                              .kind = args.kind});
}

int argmax(DeviceStream* stream, const DeviceArgmaxArgs& args) {
  STRATA_CHECK(args.n_rows >= 1 && args.n >= 1 && args.n <= INT32_MAX, "n_rows=%u n=%u",
               args.n_rows, args.n);
  const uint64_t threads = args.n < kRowThreadsMax ? args.n : kRowThreadsMax;
  return launch(argmax_rows, dim3(args.n_rows), dim3(whole_warps(threads)), 0, stream->handle,
                args);
}

}  // namespace strata::gpu_attn
