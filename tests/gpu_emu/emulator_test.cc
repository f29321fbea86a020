// The emulator's own kernels: each uses one part of gpu.cuh and knows the answer.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <vector>

#include "base/seconds_since.h"
#include "gpu_attn/gpu.cuh"
#include "tests/gpu_emu/emulator_orders.h"

namespace strata::gpu_attn {
namespace {

struct SumArgs {
  const float* x;
  float* block_sums;
  uint32_t n;
};

constexpr uint32_t kThreads = 96;

/// Per block: the sum of its stretch of x, over lanes by shuffles and over warps by shared memory.
template <uint32_t kWarps>
__global__ void __launch_bounds__(kThreads) sum_kernel(const SumArgs args) {
  GPU_SHARED(float, of_warp, [kWarps]);
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  float sum = i < args.n ? args.x[i] : 0.0f;
  for (int distance = 16; distance > 0; distance /= 2)
    sum += __shfl_xor_sync(kFullMask, sum, distance);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (uint32_t w = 1; w < kWarps; ++w) sum += of_warp[w];
    args.block_sums[blockIdx.x] = sum;
  }
}

TEST(Emulator, SumsByShufflesAndABarrierInEveryOrder) {
  std::vector<float> x(1000);
  for (uint32_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  gpu_emu::for_each_order([&](gpu_emu::Queue& queue) {
    std::vector<float> sums(11, NAN);
    ASSERT_EQ(0, launch(sum_kernel<3>, dim3(11), dim3(kThreads), 0, &queue,
                        SumArgs{x.data(), sums.data(), 1000}));
    double total = 0;
    for (const float sum : sums) total += static_cast<double>(sum);
    EXPECT_EQ(999.0 * 1000 / 2, total);
  });
}

struct StageArgs {
  const uint16_t* from;  // [n_tiles, 64]
  float* out;            // [64]: sums over the tiles
  uint32_t n_tiles;
};

/// 64 columns; tiles of one row are staged two deep by 8 threads of cp.async.
__global__ void __launch_bounds__(64) stage_kernel(const StageArgs args) {
  GPU_DYN_SHARED(dynamic);
  auto* stage = reinterpret_cast<uint16_t*>(dynamic);  // [2][64]
  const auto fetch = [&](uint32_t tile) {
    if (threadIdx.x < 8)
      cp_async16_or_zero(stage + tile % 2 * 64 + threadIdx.x * 8,
                         args.from + tile * 64 + threadIdx.x * 8, tile < args.n_tiles);
    cp_async_commit();
  };
  fetch(0);
  float sum = 0;
  for (uint32_t tile = 0; tile < args.n_tiles; ++tile) {
    fetch(tile + 1);
    cp_async_wait<1>();
    __syncthreads();
    sum += f16_to_float(stage[tile % 2 * 64 + threadIdx.x]);
    __syncthreads();
  }
  cp_async_wait<0>();
  args.out[threadIdx.x] = sum;
}

TEST(Emulator, DeliversAsyncCopiesAtTheWait) {
  std::vector<uint16_t> from(5 * 64);
  for (uint32_t i = 0; i < from.size(); ++i) from[i] = float_to_f16(static_cast<float>(i));
  gpu_emu::for_each_order([&](gpu_emu::Queue& queue) {
    std::vector<float> out(64, NAN);
    ASSERT_EQ(0, launch(stage_kernel, dim3(1), dim3(64), 2 * 64 * 2, &queue,
                        StageArgs{from.data(), out.data(), 5}));
    for (uint32_t c = 0; c < 64; ++c)
      EXPECT_EQ(static_cast<float>(5 * c + 64 * (1 + 2 + 3 + 4)), out[c]) << c;
  });
}

struct MultiplyArgs {
  const uint16_t* a;  // [16, 16]
  const uint16_t* b;  // [16, 8] by rows of k
  float* d;           // [16, 8]
};

/// One warp: a by ldmatrix, b by ldmatrix with transposition from rows of 8.
__global__ void __launch_bounds__(32) multiply_kernel(const MultiplyArgs args) {
  GPU_SHARED(uint4, a, [16 * 2]);
  GPU_SHARED(uint4, b, [16 * 2]);  // a second tile of b stands beside: x4 reads both
  const uint32_t lane = threadIdx.x;
  const uint32_t g = lane / 4, t = lane % 4;
  a[lane] = load16_once(args.a + lane * 8);
  b[lane] = load16_once(args.b + lane % 16 * 8);
  __syncwarp();
  // Matrices 0..3 of a: rows 0-7 and 8-15 of the left half, then of the right.
  uint32_t a_r[4], b_r[4];
  ldmatrix_x4(a_r, &a[lane % 16 * 2 + lane / 16]);
  ldmatrix_x4_trans(b_r, &b[lane]);
  float d[4] = {};
  const uint32_t b_k[2] = {b_r[0], b_r[1]};
  mma_f16(d, a_r, b_k);
  args.d[g * 8 + 2 * t] = d[0];
  args.d[g * 8 + 2 * t + 1] = d[1];
  args.d[(g + 8) * 8 + 2 * t] = d[2];
  args.d[(g + 8) * 8 + 2 * t + 1] = d[3];
}

TEST(Emulator, MultipliesMatricesFromSharedMemory) {
  struct alignas(16) Row {
    uint16_t a[16][16], b[16][8];
  } in;
  for (uint32_t i = 0; i < 16; ++i) {
    for (uint32_t k = 0; k < 16; ++k) in.a[i][k] = float_to_f16(static_cast<float>(i * 3 + k) - 20);
    for (uint32_t c = 0; c < 8; ++c)
      in.b[i][c] = float_to_f16(static_cast<float>(i) - 2.0f * static_cast<float>(c));
  }
  gpu_emu::for_each_order([&](gpu_emu::Queue& queue) {
    std::vector<float> d(16 * 8, NAN);
    ASSERT_EQ(0, launch(multiply_kernel, dim3(1), dim3(32), 0, &queue,
                        MultiplyArgs{in.a[0], in.b[0], d.data()}));
    for (uint32_t i = 0; i < 16; ++i) {
      for (uint32_t c = 0; c < 8; ++c) {
        float wanted = 0;
        for (uint32_t k = 0; k < 16; ++k)
          wanted += f16_to_float(in.a[i][k]) * f16_to_float(in.b[k][c]);
        EXPECT_EQ(wanted, d[i * 8 + c]) << i << "," << c;
      }
    }
  });
}

struct StepArgs {
  uint32_t* out;
  uint32_t n_rounds;
};

__global__ void __launch_bounds__(128) step_kernel(const StepArgs args) {
  uint32_t x = threadIdx.x;
  for (uint32_t i = 0; i < args.n_rounds; ++i) {
    x += __shfl_xor_sync(kFullMask, x, 1);
    if (i % 8 == 7) __syncthreads();
  }
  args.out[threadIdx.x] = x;
}

struct MultiplyBytesArgs {
  const uint8_t* a;  // [16][16]
  const int8_t* b;   // [8][16]
  int32_t* d;        // [16][8], added to
};

__global__ void __launch_bounds__(32) multiply_bytes_kernel(const MultiplyBytesArgs args) {
  const uint32_t g = threadIdx.x / 4, t = threadIdx.x % 4;
  const uint2 a = load8_once(args.a + g * 16 + t / 2 * 8);
  const uint2 a_below = load8_once(args.a + (g + 8) * 16 + t / 2 * 8);
  const uint2 b = load8_once(args.b + g * 16 + t / 2 * 8);
  const uint32_t a_r[2] = {t % 2 == 0 ? a.x : a.y, t % 2 == 0 ? a_below.x : a_below.y};
  int32_t d[4];
  for (uint32_t i = 0; i < 4; ++i) d[i] = args.d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma_u8s8(d, a_r, t % 2 == 0 ? b.x : b.y);
  for (uint32_t i = 0; i < 4; ++i) args.d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];
}

TEST(Emulator, MultipliesBytesOfBothSigns) {
  alignas(16) uint8_t a[16][16];
  alignas(16) int8_t b[8][16];
  for (uint32_t i = 0; i < 16; ++i)
    for (uint32_t k = 0; k < 16; ++k) {
      a[i][k] = static_cast<uint8_t>(255 - i * 16 - k);
      if (i < 8) b[i][k] = static_cast<int8_t>(static_cast<int>(i * 31 + k * 5) - 128);
    }
  gpu_emu::for_each_order([&](gpu_emu::Queue& queue) {
    std::vector<int32_t> d(16 * 8, 1 << 20);
    ASSERT_EQ(0, launch(multiply_bytes_kernel, dim3(1), dim3(32), 0, &queue,
                        MultiplyBytesArgs{a[0], b[0], d.data()}));
    for (uint32_t i = 0; i < 16; ++i)
      for (uint32_t c = 0; c < 8; ++c) {
        int32_t wanted = 1 << 20;
        for (uint32_t k = 0; k < 16; ++k) wanted += a[i][k] * b[c][k];
        EXPECT_EQ(wanted, d[i * 8 + c]) << i << "," << c;
      }
  });
}

TEST(Emulator, SaysHowFastItSteps) {
  gpu_emu::Queue queue;
  std::vector<uint32_t> out(128);
  const uint64_t before = gpu_emu::n_thread_steps();
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(0, launch(step_kernel, dim3(1), dim3(128), 0, &queue, StepArgs{out.data(), 8000}));
  const double seconds = seconds_since(begin);
  const auto steps = static_cast<double>(gpu_emu::n_thread_steps() - before);
  EXPECT_EQ(128.0 * 9000, steps);
  std::printf("%.1f M thread-steps per second\n", steps / seconds / 1e6);
}

}  // namespace
}  // namespace strata::gpu_attn
