// tests/gpu_emu/scheduler.h - the threads of one block and who of them runs. Inside of the
// emulator: kernels see emulator.h.
#pragma once

#include <array>
#include <cstdint>
#include <source_location>
#include <string>

#include "tests/gpu_emu/async_copy.h"
#include "tests/gpu_emu/fiber.h"
#include "tests/gpu_emu/launch.h"

namespace strata::gpu_emu {

inline constexpr uint32_t kWarpLanes = 32;
inline constexpr uint32_t kMaxWarps = 32;
inline constexpr uint32_t kMaxThreads = kWarpLanes * kMaxWarps;

struct Rendezvous;

/// Lanes as bits. A lane is in at most one of runnable, exited, at_barrier and at_collective.
struct Warp {
  uint32_t runnable = 0;
  uint32_t exited = 0;  // or never existed: the block's last warp may be short
  uint32_t at_barrier = 0;
  uint32_t at_collective = 0;
  std::array<Rendezvous*, kWarpLanes> rendezvous{};  // of the lanes at one
  std::array<uint32_t, kWarpLanes> n_syncs{};        // ended ones, by the mask's lowest lane
};

/// Fibers of a thread: what ran on one is concurrent with what ran on the other, if a sanitizer
/// asks.
#ifdef STRATA_GPU_EMU_TSAN
inline constexpr uint32_t kHistories = 2;
#else
inline constexpr uint32_t kHistories = 1;
#endif

struct Thread {
  std::array<Fiber, kHistories> fibers;
  uint3 index;
  uint32_t warp_idx;
  uint32_t lane;
  std::source_location barrier;  // while it waits at one
  AsyncCopies copies;
};

/// The block that runs. Blocks run one after another, so there is one.
struct Block {
  const Launch* launch = nullptr;
  const EmulatorOptions* options = nullptr;
  uint64_t ordinal = 0;  // in the grid, x first
  uint32_t history = 0;  // the fibers that its threads run on
  uint32_t n_threads = 0;
  uint32_t n_exited = 0;
  uint32_t n_at_barrier = 0;
  uint32_t n_barriers = 0;  // ended ones
  uint32_t runnable_warps = 0;
  uint64_t random_state = 0;
  std::source_location barrier;  // of the threads that wait at one
  std::array<Warp, kMaxWarps> warps;
  std::string failure;  // the first broken rule
};

extern Block block;
extern Thread* current;  // the thread that runs
extern uint64_t thread_steps;

inline Warp& current_warp() { return block.warps[current->warp_idx]; }

/// Addresses that stand for what orders threads, for sanitizers.h. A barrier and the next have
/// different ones, so that a thread that leaves the first late learns nothing of the second; so
/// have neighbouring blocks.
struct OrderTags {
  struct OfBlock {
    std::array<uint64_t, 2> barrier;
    std::array<std::array<std::array<uint64_t, 2>, kWarpLanes>, kMaxWarps> sync;
  };
  uint64_t launch_begin, launch_end, fence;
  std::array<OfBlock, 16> of_block;
};
extern OrderTags order_tags;

inline OrderTags::OfBlock& tags_of_block() {
  return order_tags.of_block[block.ordinal % order_tags.of_block.size()];
}

/// Runs all threads of the block to their end; block.failure is empty where no rule was broken.
void run_block();

/// After a failure: stacks that kernels were given up on are not used again.
void drop_threads();

/// Leaves the current thread until it is runnable and chosen again.
void yield();

/// These lanes can go on.
void make_runnable(uint32_t warp_idx, uint32_t lanes);
/// The current thread cannot.
void make_waiting();

/// Gives the block up: launch() throws the words, with the place and the current thread. Printf-
/// style: the thread's stack is left as it is, and nothing on it may own memory.
[[noreturn]] void fail(std::source_location where, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

/// "attend.cu:77" and "(1, 0, 0)".
struct ShortText {
  char text[80];
};
ShortText text_of(std::source_location where);
ShortText text_of(uint3 index);

}  // namespace strata::gpu_emu
