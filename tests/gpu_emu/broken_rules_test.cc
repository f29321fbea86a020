// Kernels that break a rule of gpu.cuh: the emulator says which, and where.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "gpu_attn/gpu.cuh"
#include "tests/gpu_emu/emulator_orders.h"
#include "tests/gpu_emu/marked_lines.h"

namespace strata::gpu_attn {
namespace {

struct RuleArgs {
  uint32_t* out;
  const std::byte* in;  // 16-byte aligned
};

struct Shape {
  dim3 grid = dim3(1);
  dim3 block = dim3(64);
  uint32_t shared_bytes = 0;
};

/// What the emulator says of the kernel; nothing where it is content.
std::string complaint(void (*kernel)(RuleArgs), const Shape& shape,
                      const gpu_emu::EmulatorOptions& options = {}) {
  gpu_emu::Queue queue{.options = options};
  std::vector<uint32_t> out(1024);
  alignas(16) static const std::byte in[64] = {};
  try {
    launch(kernel, shape.grid, shape.block, shape.shared_bytes, &queue, RuleArgs{out.data(), in});
  } catch (const gpu_emu::EmulatorError& error) {
    return error.what();
  }
  return "";
}

std::string place_of(const std::string& mark) {
  return gpu_emu::place_of("broken_rules_test.cc", mark);
}

/// The complaint of each order of threads names the marked line and has the words.
void expect_complaint(void (*kernel)(RuleArgs), const std::string& mark, const std::string& words,
                      const Shape& shape = {}) {
  const std::string place = place_of(mark);
  gpu_emu::for_each_order([&](const gpu_emu::Queue& queue) {
    const std::string said = complaint(kernel, shape, queue.options);
    EXPECT_NE(std::string::npos, said.find(place)) << "wanted " << place << " in: " << said;
    EXPECT_NE(std::string::npos, said.find(words)) << "wanted '" << words << "' in: " << said;
  });
}

/// Half of the block waits at one barrier, half at another.
__global__ void divergent_barrier(const RuleArgs args) {
  if (threadIdx.x < 32) {
    __syncthreads();  // @barrier 1
  } else {
    __syncthreads();  // @barrier 2
  }
  args.out[threadIdx.x] = 1;
}

TEST(BrokenRules, BarriersOfOneBlockAtTwoLines) {
  const std::string said = complaint(divergent_barrier, {});
  EXPECT_EQ(place_of("barrier 2") + ": divergent barrier: other threads of the block wait at " +
                place_of("barrier 1") + "; block (0, 0, 0), thread (32, 0, 0)",
            said);
  expect_complaint(divergent_barrier, "barrier 1", "divergent barrier");
}

/// Lane 3 waits for the block, the others of its warp for lane 3.
__global__ void barrier_against_collective(const RuleArgs args) {
  if (threadIdx.x == 3) {
    __syncthreads();  // @barrier of lane 3
  } else if (threadIdx.x < 32) {
    args.out[threadIdx.x] = __ballot_sync(kFullMask, 1);  // @ballot
  } else {
    __syncwarp();
  }
}

TEST(BrokenRules, ADeadlockNamesWhoWaitsWhere) {
  expect_complaint(barrier_against_collective, "barrier of lane 3", "deadlock in block (0, 0, 0)");
  expect_complaint(barrier_against_collective, "ballot", "for lanes 0xffffffff");
  expect_complaint(barrier_against_collective, "barrier of lane 3",
                   "from thread (3, 0, 0) on: waits at the barrier");
  expect_complaint(barrier_against_collective, "barrier of lane 3",
                   "from thread (32, 0, 0) on: has exited");
}

__global__ void exited_lane(const RuleArgs args) {
  if (threadIdx.x == 5) return;
  args.out[threadIdx.x] = __shfl_sync(kFullMask, threadIdx.x, 0);  // @shuffle after an exit
}

TEST(BrokenRules, AMaskThatNamesALaneThatHasExited) {
  expect_complaint(exited_lane, "shuffle after an exit", "lane 5", {.block = dim3(32)});
  expect_complaint(exited_lane, "shuffle after an exit", "exited", {.block = dim3(32)});
}

TEST(BrokenRules, AMaskThatNamesALaneThatNeverWas) {
  EXPECT_NE("",
            complaint([](RuleArgs args) { args.out[threadIdx.x] = __ballot_sync(kFullMask, 1); },
                      {.block = dim3(16)}));
}

__global__ void caller_outside_mask(const RuleArgs args) {
  args.out[threadIdx.x] = __shfl_xor_sync(0xffffu, threadIdx.x, 1);  // @half mask
}

TEST(BrokenRules, ACallerThatItsMaskDoesNotName) {
  expect_complaint(caller_outside_mask, "half mask", "the mask does not name lane");
}

__global__ void source_outside_mask(const RuleArgs args) {
  if (threadIdx.x % 32 >= 16) return;
  args.out[threadIdx.x] = __shfl_xor_sync(0xffffu, threadIdx.x, 16);  // @source
}

TEST(BrokenRules, AShuffleFromOutsideTheMask) {
  expect_complaint(source_outside_mask, "source", "which the mask does not name");
}

__global__ void two_calls(const RuleArgs args) {
  uint32_t x = threadIdx.x;
  if (x % 2 == 0) {
    x = __shfl_xor_sync(kFullMask, x, 1);  // @call 1
  } else {
    x = __shfl_xor_sync(kFullMask, x, 1);  // @call 2
  }
  args.out[threadIdx.x] = x;
}

TEST(BrokenRules, LanesOfAMaskAtTwoCalls) {
  expect_complaint(two_calls, "call 1", "which the mask names, is at");
  expect_complaint(two_calls, "call 2", "which the mask names, is at");
}

__global__ void exit_with_copies(const RuleArgs args) {
  GPU_SHARED(uint4, stage, [64]);
  cp_async16(&stage[threadIdx.x], args.in);  // @pending copy
  cp_async_commit();
  cp_async_commit();
  cp_async_wait<2>();
}

TEST(BrokenRules, AnExitWithCopiesUnderWay) {
  expect_complaint(exit_with_copies, "pending copy", "exits with a copy not waited for");
}

__global__ void misaligned_copy_target(const RuleArgs args) {
  GPU_SHARED(uint32_t, stage, [64]);  // no better aligned than to 4 bytes
  cp_async16(&stage[0], args.in);     // @copy target
}
__global__ void misaligned_copy_source(const RuleArgs args) {
  GPU_SHARED(uint4, stage, [1]);
  cp_async16(&stage[0], args.in + 8);  // @copy source
}
__global__ void misaligned_rows(const RuleArgs) {
  GPU_DYN_SHARED(rows);
  uint32_t r[4];
  ldmatrix_x4(r, rows + threadIdx.x * 24);  // @rows
}
__global__ void misaligned_load(const RuleArgs args) {
  args.out[threadIdx.x] = load16_once(args.in + 4).x;  // @load
}
__global__ void copy_to_global(const RuleArgs args) {
  cp_async16(args.out, args.in);  // @copy to global
}
__global__ void rows_beyond_array(const RuleArgs) {
  GPU_SHARED(uint4, rows, [31]);
  uint32_t r[4];
  ldmatrix_x4(r, &rows[threadIdx.x]);  // @rows beyond
}

TEST(BrokenRules, AddressesOfSixteenBytes) {
  expect_complaint(misaligned_copy_target, "copy target", "not 16-byte aligned");
  expect_complaint(misaligned_copy_source, "copy source", "global memory is not 16-byte");
  expect_complaint(misaligned_rows, "rows", "not 16-byte aligned",
                   {.block = dim3(32), .shared_bytes = 1024});
  expect_complaint(misaligned_load, "load", "not 16-byte aligned");
  expect_complaint(copy_to_global, "copy to global", "not within one array of shared memory");
  expect_complaint(rows_beyond_array, "rows beyond", "not within one array", {.block = dim3(32)});
}

__global__ void empty_kernel(const RuleArgs) {}
__global__ void large_static(const RuleArgs args) {
  GPU_SHARED(float, big, [12 * 1024 + 1]);
  args.out[threadIdx.x] = float_to_bits(big[0]);
}
__global__ void just_static(const RuleArgs args) {
  GPU_SHARED(float, big, [12 * 1024]);
  args.out[threadIdx.x] = float_to_bits(big[0]);
}

TEST(BrokenRules, LimitsOfALaunch) {
  EXPECT_EQ("", complaint(empty_kernel, {}));
  EXPECT_EQ("", complaint(empty_kernel, {.grid = dim3(1, 1, 65535), .block = dim3(1)}));
  for (const Shape& shape :
       {Shape{.grid = dim3(1, 65536)}, Shape{.grid = dim3(1, 1, 65536)}, Shape{.grid = dim3(0)},
        Shape{.block = dim3(1025)}, Shape{.block = dim3(1, 1, 65)}, Shape{.block = dim3(0)},
        Shape{.shared_bytes = (99 << 10) + 1}}) {
    const std::string said = complaint(empty_kernel, shape);
    EXPECT_NE(std::string::npos, said.find(": launch: ")) << said;
  }
  EXPECT_EQ("", complaint(empty_kernel, {.shared_bytes = 99 << 10}));
}

TEST(BrokenRules, LimitsOfSharedMemory) {
  EXPECT_EQ("", complaint(just_static, {}));
  EXPECT_EQ("", complaint(just_static, {.shared_bytes = 51 << 10}));
  EXPECT_NE(std::string::npos, complaint(large_static, {}).find("static shared memory grows"));
  EXPECT_NE(std::string::npos,
            complaint(just_static, {.shared_bytes = (51 << 10) + 1}).find("shared memory grows"));
}

__global__ void reads_unwritten(const RuleArgs args) {
  GPU_SHARED(float, numbers, [4]);
  GPU_SHARED(uint16_t, halves, [4]);
  GPU_DYN_SHARED(dynamic);
  uint32_t* out = args.out + 4 * blockIdx.x;
  out[0] = numbers[1] != numbers[1];
  out[1] = f16_to_float(halves[3]) != f16_to_float(halves[3]);
  out[2] = bf16_to_float(halves[3]) != bf16_to_float(halves[3]);
  out[3] = dynamic[7];
  numbers[1] = 1;  // the next block has its own
  halves[3] = 1;
  dynamic[7] = 1;
}

TEST(Emulator, SharedMemoryIsNaNUntilWritten) {
  gpu_emu::Queue queue;
  std::vector<uint32_t> out(3 * 4);
  launch(reads_unwritten, dim3(3), dim3(1), 64, &queue, RuleArgs{out.data(), nullptr});
  EXPECT_EQ((std::vector<uint32_t>{1, 1, 1, 0xFF, 1, 1, 1, 0xFF, 1, 1, 1, 0xFF}), out);
}

TEST(Emulator, GoesOnAfterABrokenRule) {
  EXPECT_NE("", complaint(divergent_barrier, {}));
  EXPECT_EQ("", complaint(empty_kernel, {.grid = dim3(3)}));
}

}  // namespace
}  // namespace strata::gpu_attn
