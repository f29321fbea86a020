// Kernels with one bug each, beside the same kernel without it: the build that can see the bug
// must. A plain build sees wrong results, in some orders of threads at least; ThreadSanitizer a
// race, whatever the order; AddressSanitizer what lies outside of an array;
// UndefinedBehaviorSanitizer a misaligned load. A build that cannot see a bug skips and says so.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "gpu_attn/gpu.cuh"
#include "tests/gpu_emu/emulator_orders.h"
#include "tests/gpu_emu/marked_lines.h"
#include "tests/gpu_emu/sanitizers.h"

namespace strata::gpu_attn {
namespace {

#if defined(__SANITIZE_THREAD__)
constexpr bool kSeesRaces = true;
#elif defined(__has_feature)
constexpr bool kSeesRaces = __has_feature(thread_sanitizer);
#else
constexpr bool kSeesRaces = false;
#endif
#ifdef STRATA_GPU_EMU_ASAN
constexpr bool kSeesAddresses = true;  // and, as the asan preset has it, undefined behaviour
#else
constexpr bool kSeesAddresses = false;
#endif

struct PlantArgs {
  const float* in;
  float* out;
  uint32_t n;
  uint32_t* counter;  // 0
};

struct Plant {
  void (*kernel)(PlantArgs);
  uint32_t n_blocks;
  uint32_t n_threads;
  uint32_t shared_bytes;
  std::vector<float> in;
  std::vector<float> wanted;
};

std::vector<float> run(const Plant& plant, gpu_emu::Queue& queue) {
  std::vector<float> out(plant.wanted.size(), NAN);
  uint32_t counter = 0;
  launch(plant.kernel, dim3(plant.n_blocks), dim3(plant.n_threads), plant.shared_bytes, &queue,
         PlantArgs{plant.in.data(), out.data(), static_cast<uint32_t>(plant.in.size()), &counter});
  return out;
}

void run_all_orders(const Plant& plant) {
  gpu_emu::for_each_order([&](gpu_emu::Queue& queue) { run(plant, queue); });
}

void expect_right(const Plant& plant) {
  gpu_emu::for_each_order(
      [&](gpu_emu::Queue& queue) { EXPECT_EQ(plant.wanted, run(plant, queue)); });
}

/// Orders, of four, in which the results are wrong.
uint32_t n_wrong(const Plant& plant) {
  uint32_t n = 0;
  gpu_emu::for_each_order([&](gpu_emu::Queue& queue) { n += run(plant, queue) != plant.wanted; });
  return n;
}

std::string place_of(const std::string& mark) {
  return gpu_emu::place_of("planted_bugs_test.cc", mark);
}

/// A process of its own reports a race between the two lines and exits with ThreadSanitizer's code.
void expect_race(const Plant& plant, const std::string& mark_a, const std::string& mark_b) {
  const std::string a = place_of(mark_a), b = place_of(mark_b);
  const auto then = [](const std::string& first, const std::string& second) {
    return first + "(.|\n)*" + second;
  };
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        run_all_orders(plant);
        std::exit(0);
      },
      ::testing::ExitedWithCode(66), then("data race", "(" + then(a, b) + "|" + then(b, a) + ")"));
}

/// A plain build sees wrong results in at least n_orders of four, ThreadSanitizer the race.
void expect_wrong(const Plant& plant, uint32_t n_orders, const std::string& mark_a,
                  const std::string& mark_b) {
  if constexpr (kSeesRaces) {
    expect_race(plant, mark_a, mark_b);
  } else {
    EXPECT_GE(n_wrong(plant), n_orders);
  }
}

std::vector<float> ascending(uint32_t n) {
  std::vector<float> values(n);
  for (uint32_t i = 0; i < n; ++i) values[i] = static_cast<float>(i);
  return values;
}

// ---- Staging by asynchronous copies.

enum class Staging { kRight, kNoBarrierAfterWait, kNoBarrierAfterUse, kWaitOneTooFew, kNoLastWait };

constexpr uint32_t kTile = 64;  // floats, and threads

/// Sums tiles element by element: out[i] = sum over tiles of in[tile][63 - i], two tiles staged.
template <Staging kStaging>
__global__ void __launch_bounds__(kTile) staging_kernel(const PlantArgs args) {
  GPU_SHARED(float4, stage, [2][kTile / 4]);
  const uint32_t n_tiles = args.n / kTile;
  const auto fetch = [&](uint32_t tile) {
    if (threadIdx.x < kTile / 4)
      cp_async16_or_zero(&stage[tile % 2][threadIdx.x],  // @stage write
                         args.in + tile * kTile + threadIdx.x * 4, tile < n_tiles);
    cp_async_commit();
  };
  fetch(0);
  float sum = 0;
  for (uint32_t tile = 0; tile < n_tiles; ++tile) {
    fetch(tile + 1);
    cp_async_wait<kStaging == Staging::kWaitOneTooFew ? 2 : 1>();  // @stage delivery
    if constexpr (kStaging != Staging::kNoBarrierAfterWait) {
      __syncthreads();
    }
    sum += reinterpret_cast<const float*>(stage[tile % 2])[kTile - 1 - threadIdx.x];  // @stage read
    if constexpr (kStaging != Staging::kNoBarrierAfterUse) {
      __syncthreads();
    }
  }
  if constexpr (kStaging != Staging::kNoLastWait) cp_async_wait<0>();
  args.out[threadIdx.x] = sum;
}

template <Staging kStaging>
Plant staging() {
  Plant plant{staging_kernel<kStaging>, 1, kTile, 0, ascending(5 * kTile),
              std::vector<float>(kTile)};
  for (uint32_t i = 0; i < plant.in.size(); ++i) plant.wanted[kTile - 1 - i % kTile] += plant.in[i];
  return plant;
}

TEST(PlantedBugs, StagingTwin) { expect_right(staging<Staging::kRight>()); }

TEST(PlantedBugs, NoBarrierAfterStaging) {
  expect_wrong(staging<Staging::kNoBarrierAfterWait>(), 4, "stage delivery", "stage read");
}

TEST(PlantedBugs, NoBarrierBeforeTheStageIsOverwritten) {
  expect_wrong(staging<Staging::kNoBarrierAfterUse>(), 2, "stage write", "stage read");
}

/// The bytes never arrive in time, but barriers order all that happens: no race.
TEST(PlantedBugs, AWaitOneGroupTooFew) {
  EXPECT_EQ(4u, n_wrong(staging<Staging::kWaitOneTooFew>()));
}

TEST(PlantedBugs, NoWaitForTheLastGroup) {
  gpu_emu::for_each_order([&](gpu_emu::Queue& queue) {
    EXPECT_THROW(run(staging<Staging::kNoLastWait>(), queue), gpu_emu::EmulatorError);
  });
}

// ---- Shared memory that is used again.

template <bool kHasBarrier>
__global__ void __launch_bounds__(64) reuse_kernel(const PlantArgs args) {
  GPU_SHARED(float, of_warp, [2]);
  for (uint32_t i = 0; i < args.n / 64; ++i) {
    float sum = args.in[i * 64 + threadIdx.x];
    for (int distance = 16; distance > 0; distance /= 2)
      sum += __shfl_xor_sync(kFullMask, sum, distance);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;  // @reuse write
    __syncthreads();
    args.out[i * 64 + threadIdx.x] = of_warp[0] + of_warp[1];  // @reuse read
    if constexpr (kHasBarrier) {
      __syncthreads();
    }
  }
}

template <bool kHasBarrier>
Plant reuse() {
  Plant plant{reuse_kernel<kHasBarrier>, 1, 64, 0, ascending(4 * 64), {}};
  for (uint32_t i = 0; i < plant.in.size(); ++i) {
    const float base = static_cast<float>(i / 64 * 64);
    plant.wanted.push_back(64 * base + 63 * 32);
  }
  return plant;
}

TEST(PlantedBugs, ReuseTwin) { expect_right(reuse<true>()); }
TEST(PlantedBugs, NoBarrierBeforeSharedMemoryIsUsedAgain) {
  expect_wrong(reuse<false>(), 2, "reuse write", "reuse read");
}

// ---- Rows that other lanes have written.

template <bool kHasSync>
__global__ void __launch_bounds__(32) rows_kernel(const PlantArgs args) {
  GPU_SHARED(uint4, rows, [32]);
  const uint32_t lane = threadIdx.x;
  const uint32_t bits = float_to_bits(args.in[lane]);
  rows[31 - lane] = make_uint4(bits, bits, bits, bits);  // @rows write
  if constexpr (kHasSync) __syncwarp();
  uint32_t r[4];
  ldmatrix_x4(r, &rows[lane]);  // @rows read
  for (uint32_t i = 0; i < 4; ++i) args.out[lane * 4 + i] = bits_to_float(r[i]);
}

template <bool kHasSync>
Plant rows() {
  Plant plant{rows_kernel<kHasSync>, 1, 32, 0, ascending(32), std::vector<float>(32 * 4)};
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t i = 0; i < 4; ++i)
      plant.wanted[lane * 4 + i] = static_cast<float>(31 - (8 * i + lane / 4));
  }
  return plant;
}

TEST(PlantedBugs, RowsTwin) { expect_right(rows<true>()); }
TEST(PlantedBugs, NoSyncwarpBeforeLdmatrix) {
  expect_wrong(rows<false>(), 4, "rows write", "rows read");
}

// ---- Blocks.

template <bool kOwnPlace>
__global__ void __launch_bounds__(32) blocks_kernel(const PlantArgs args) {
  const uint32_t at = kOwnPlace ? blockIdx.x * 32 + threadIdx.x : threadIdx.x;
  args.out[at] = static_cast<float>(blockIdx.x);  // @blocks write
}

template <bool kOwnPlace>
Plant blocks() {
  Plant plant{blocks_kernel<kOwnPlace>, 6, 32, 0, {}, {}};
  for (uint32_t i = 0; i < (kOwnPlace ? 6 : 1) * 32; ++i)
    plant.wanted.push_back(static_cast<float>(kOwnPlace ? i / 32 : 5));
  return plant;
}

TEST(PlantedBugs, BlocksTwin) { expect_right(blocks<true>()); }
TEST(PlantedBugs, TwoBlocksWriteTheSamePlace) {
  expect_wrong(blocks<false>(), 1, "blocks write", "blocks write");
}

/// The last block to finish sums what all have written.
template <bool kHasFence>
__global__ void __launch_bounds__(1) last_block_kernel(const PlantArgs args) {
  args.out[blockIdx.x] = args.in[blockIdx.x];  // @partial write
  if constexpr (kHasFence) __threadfence();
  if (atomicAdd(args.counter, 1u) + 1 < gridDim.x) return;
  if constexpr (kHasFence) __threadfence();
  float sum = 0;
  for (uint32_t b = 0; b < gridDim.x; ++b) sum += args.out[b];  // @partial read
  args.out[gridDim.x] = sum;
}

template <bool kHasFence>
Plant last_block() {
  return {last_block_kernel<kHasFence>, 4, 1, 0, {1, 2, 3, 4}, {1, 2, 3, 4, 10}};
}

TEST(PlantedBugs, LastBlockTwin) { expect_right(last_block<true>()); }
TEST(PlantedBugs, NoFenceBetweenBlocks) {
  if (!kSeesRaces) GTEST_SKIP() << "blocks run one after another: only ThreadSanitizer sees this";
  expect_race(last_block<false>(), "partial write", "partial read");
}

// ---- Outside of arrays.

enum class Outside { kNothing, kGlobalWrite, kSharedRead, kDynamicRead, kMisaligned };

template <Outside kOutside>
__global__ void __launch_bounds__(32) outside_kernel(const PlantArgs args) {
  GPU_SHARED(float, shared, [2 * 32]);
  GPU_DYN_SHARED(bytes);
  auto* dynamic = reinterpret_cast<float*>(bytes);  // [32]
  const uint32_t lane = threadIdx.x;
  shared[lane] = shared[32 + lane] = dynamic[lane] = args.in[lane];
  const uint32_t n_rows = kOutside == Outside::kSharedRead ? 3 : 2;
  float sum = 0;
  for (uint32_t row = 0; row < n_rows; ++row) sum += shared[row * 32 + lane];  // @shared read
  sum += dynamic[lane + (kOutside == Outside::kDynamicRead ? 1 : 0)];          // @dynamic read
  const float* four = args.in + (kOutside == Outside::kMisaligned ? 1 : 0);
  if (lane == 0) sum += reinterpret_cast<const float4*>(four)->x;  // @wide read
  args.out[lane] = sum;
  if (lane == 0 && kOutside == Outside::kGlobalWrite) args.out[32] = sum;  // @global write
}

template <Outside kOutside>
Plant outside() {
  Plant plant{outside_kernel<kOutside>, 1, 32, 32 * sizeof(float), ascending(32), {}};
  for (uint32_t lane = 0; lane < 32; ++lane) plant.wanted.push_back(3 * plant.in[lane]);
  return plant;
}

template <Outside kOutside>
void expect_report(const std::string& words, const std::string& mark) {
  if (!kSeesAddresses) GTEST_SKIP() << "only the asan build sees this";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(run_all_orders(outside<kOutside>()), words);
  EXPECT_DEATH(run_all_orders(outside<kOutside>()), place_of(mark));
}

TEST(PlantedBugs, OutsideTwin) { expect_right(outside<Outside::kNothing>()); }
TEST(PlantedBugs, AGlobalWriteBeyondTheEnd) {
  expect_report<Outside::kGlobalWrite>("heap-buffer-overflow", "global write");
}
TEST(PlantedBugs, ASharedReadBeyondTheArray) {
  expect_report<Outside::kSharedRead>("heap-buffer-overflow|index .* out of bounds", "shared read");
}
TEST(PlantedBugs, ADynamicSharedReadBeyondTheLaunch) {
  expect_report<Outside::kDynamicRead>("heap-buffer-overflow", "dynamic read");
}
TEST(PlantedBugs, AMisalignedWideLoad) {
  expect_report<Outside::kMisaligned>("misaligned address", "wide read");
}

// ---- Masks.

template <bool kNamesExited>
__global__ void __launch_bounds__(32) exit_kernel(const PlantArgs args) {
  if (threadIdx.x >= 16) return;
  constexpr uint32_t kMask = kNamesExited ? kFullMask : 0xffffu;
  args.out[threadIdx.x] = __shfl_xor_sync(kMask, args.in[threadIdx.x], 1);
}

template <bool kNamesExited>
Plant exits() {
  Plant plant{exit_kernel<kNamesExited>, 1, 32, 0, ascending(16), {}};
  for (uint32_t lane = 0; lane < 16; ++lane) plant.wanted.push_back(static_cast<float>(lane ^ 1));
  return plant;
}

TEST(PlantedBugs, MaskTwin) { expect_right(exits<false>()); }
TEST(PlantedBugs, AMaskNamesAnExitedLane) {
  gpu_emu::for_each_order([&](gpu_emu::Queue& queue) {
    EXPECT_THROW(run(exits<true>(), queue), gpu_emu::EmulatorError);
  });
}

}  // namespace
}  // namespace strata::gpu_attn
