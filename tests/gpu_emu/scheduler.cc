#include "tests/gpu_emu/scheduler.h"

#include <bit>
#include <cstdarg>
#include <cstdio>
#include <mutex>
#include <string_view>

#include "tests/gpu_emu/collectives.h"
#include "tests/gpu_emu/shared_memory.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace strata::gpu_emu {

Block block;
Thread* current = nullptr;
uint64_t thread_steps = 0;

namespace {

constexpr uint32_t kGridMax = 65535;  // of y and z; x may be 2^31 - 1

Fiber launcher;  // the stack that called launch()
std::unique_ptr<std::array<Thread, kMaxThreads>> threads;
std::mutex one_grid;  // the emulator has one block: grids of several host threads run in turn

uint32_t lowest(uint32_t bits) { return static_cast<uint32_t>(std::countr_zero(bits)); }
uint32_t highest(uint32_t bits) { return 31 - static_cast<uint32_t>(std::countl_zero(bits)); }

uint32_t by_chance(uint32_t bits) {
  uint64_t& state = block.random_state;  // xorshift64
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  auto nth =
      static_cast<uint32_t>((state >> 32) * static_cast<uint32_t>(std::popcount(bits)) >> 32);
  for (; nth > 0; --nth) bits &= bits - 1;
  return lowest(bits);
}

uint32_t choose(uint32_t bits) {
  switch (block.options->order) {
    case Order::kForward:
      return lowest(bits);
    case Order::kReverse:
      return highest(bits);
    case Order::kRandom:
      break;
  }
  return by_chance(bits);
}

/// The thread that goes on; null where none can.
Thread* choose_thread() {
  if (block.runnable_warps == 0) return nullptr;
  const uint32_t warp_idx = choose(block.runnable_warps);
  const uint32_t lane = choose(block.warps[warp_idx].runnable);
  return &(*threads)[warp_idx * kWarpLanes + lane];
}

Fiber& fiber_of(Thread* thread) { return thread == nullptr ? launcher : thread->fiber; }

/// Moves execution to the thread that is chosen, or to launch() where none can run.
void leave() {
  Thread* self = current;
  Thread* next = choose_thread();
  if (next == self) return;
  current = next;
  Fiber::switch_to(self->fiber, fiber_of(next));
  threadIdx = self->index;
}

void release_barrier() {
  block.n_at_barrier = 0;
  for (uint32_t w = 0; w < kMaxWarps; ++w) {
    Warp& warp = block.warps[w];
    if (warp.at_barrier == 0) continue;
    make_runnable(w, warp.at_barrier);
    warp.at_barrier = 0;
  }
}

void release_barrier_if_complete() {
  if (block.n_at_barrier > 0 && block.n_at_barrier + block.n_exited == block.n_threads)
    release_barrier();
}

/// A lane that waits for a thread that has just exited waits for ever.
void check_no_one_waits_for(const Thread& exited) {
  const Warp& warp = block.warps[exited.warp_idx];
  for (uint32_t lanes = warp.at_collective; lanes != 0; lanes &= lanes - 1) {
    const Rendezvous& part = *warp.rendezvous[lowest(lanes)];
    if ((part.mask >> exited.lane & 1) != 0)
      fail(part.where, "lane %u waits for lane %u, which has exited", lowest(lanes), exited.lane);
  }
}

/// What a fiber runs: the kernel, once.
void run_thread() {
  threadIdx = current->index;
  block.launch->call(block.launch->kernel, block.launch->args.data());
  Thread& self = *current;
  if (!self.copies.copies.empty())
    fail(self.copies.copies.front().where, "a thread exits with a copy not waited for");
  make_waiting();
  block.warps[self.warp_idx].exited |= 1u << self.lane;
  ++block.n_exited;
  check_no_one_waits_for(self);
  release_barrier_if_complete();
  leave();
  __builtin_unreachable();  // an exited thread is never chosen
}

/// Who waits where, as the failure of a block in which no one can go on.
std::string deadlock_report() {
  std::string report = std::string("deadlock in block ") + text_of(blockIdx).text + ":";
  std::string last_place;
  for (uint32_t i = 0; i < block.n_threads; ++i) {
    const Thread& thread = (*threads)[i];
    const Warp& warp = block.warps[thread.warp_idx];
    std::string place = "has exited";
    if ((warp.at_barrier >> thread.lane & 1) != 0) {
      place = std::string("waits at the barrier ") + text_of(thread.barrier).text;
    } else if ((warp.at_collective >> thread.lane & 1) != 0) {
      const Rendezvous& part = *warp.rendezvous[thread.lane];
      char mask[32];
      std::snprintf(mask, sizeof mask, " for lanes %#x", part.mask);
      place = std::string("waits at the collective ") + text_of(part.where).text + mask;
    }
    if (place == last_place) continue;  // a run of threads at one place is one line
    report += std::string("\n  from thread ") + text_of(thread.index).text + " on: " + place;
    last_place = place;
  }
  return report;
}

void prepare_threads(const Launch& launch) {
  uint32_t i = 0;
  for (unsigned z = 0; z < launch.block.z; ++z) {
    for (unsigned y = 0; y < launch.block.y; ++y) {
      for (unsigned x = 0; x < launch.block.x; ++x, ++i) {
        Thread& thread = (*threads)[i];
        thread.index = {x, y, z};
        thread.warp_idx = i / kWarpLanes;
        thread.lane = i % kWarpLanes;
      }
    }
  }
}

void prepare_block() {
  block.n_exited = block.n_at_barrier = block.runnable_warps = 0;
  for (Warp& warp : block.warps) warp = {.exited = ~0u};
  for (uint32_t i = 0; i < block.n_threads; ++i) {
    Thread& thread = (*threads)[i];
    thread.copies.copies.clear();
    thread.copies.n_groups = 0;
    thread.fiber.restart(run_thread, i);
    block.warps[thread.warp_idx].exited &= ~(1u << thread.lane);
    make_runnable(thread.warp_idx, 1u << thread.lane);
  }
}

void run_block(const Launch& launch) {
  begin_shared(launch.shared_bytes);
  prepare_block();
  current = choose_thread();
  Fiber::switch_to(launcher, current->fiber);
  current = nullptr;
  if (block.failure.empty() && block.n_exited < block.n_threads) block.failure = deadlock_report();
  end_shared();
}

void check_launch(const Launch& launch, const EmulatorOptions& options) {
  const auto refuse = [&](const std::string& what) {
    throw EmulatorError(std::string(text_of(launch.where).text) + ": launch: " + what);
  };
  const dim3 grid = launch.grid;
  const uint64_t n_threads = uint64_t{launch.block.x} * launch.block.y * launch.block.z;
  if (n_threads == 0 || n_threads > kMaxThreads || launch.block.z > 64)
    refuse("a block of " + std::to_string(n_threads) + " threads");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) refuse("an empty grid");
  if (grid.x > 0x7fffffffu || grid.y > kGridMax || grid.z > kGridMax)
    refuse(std::string("a grid of ") + text_of({grid.x, grid.y, grid.z}).text + " blocks");
  if (launch.shared_bytes > options.shared_max)
    refuse(std::to_string(launch.shared_bytes) + " bytes of shared memory, at most " +
           std::to_string(options.shared_max));
}

void run_grid(const Launch& launch, const EmulatorOptions& options) {
  check_launch(launch, options);
  const std::scoped_lock lock(one_grid);
  if (threads == nullptr) threads = std::make_unique<std::array<Thread, kMaxThreads>>();
  block.launch = &launch;
  block.options = &options;
  block.random_state = options.seed * 0x9e3779b97f4a7c15u | 1;
  block.n_threads = launch.block.x * launch.block.y * launch.block.z;
  block.failure.clear();
  blockDim = launch.block;
  gridDim = launch.grid;
  prepare_threads(launch);
  for (blockIdx.z = 0; blockIdx.z < launch.grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < launch.grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < launch.grid.x; ++blockIdx.x) {
        run_block(launch);
        if (!block.failure.empty()) throw EmulatorError(block.failure);
      }
    }
  }
}

}  // namespace

void yield() { leave(); }

void make_runnable(uint32_t warp_idx, uint32_t lanes) {
  block.warps[warp_idx].runnable |= lanes;
  block.runnable_warps |= 1u << warp_idx;
}

void make_waiting() {
  Warp& warp = current_warp();
  warp.runnable &= ~(1u << current->lane);
  if (warp.runnable == 0) block.runnable_warps &= ~(1u << current->warp_idx);
}

void fail(std::source_location where, const char* format, ...) {
  char what[400];
  std::va_list operands;
  va_start(operands, format);
  std::vsnprintf(what, sizeof what, format, operands);
  va_end(operands);
  char failure[680];
  std::snprintf(failure, sizeof failure, "%s: %s; block %s, thread %s", text_of(where).text, what,
                text_of(blockIdx).text, text_of(current->index).text);
  block.failure = failure;
  block.runnable_warps = 0;
  leave();
  __builtin_unreachable();  // launch() gives the block up
}

ShortText text_of(std::source_location where) {
  const char* file = where.file_name();
  if (const char* slash = std::strrchr(file, '/')) file = slash + 1;
  ShortText out;
  std::snprintf(out.text, sizeof out.text, "%s:%u", file, static_cast<unsigned>(where.line()));
  return out;
}

ShortText text_of(uint3 index) {
  ShortText out;
  std::snprintf(out.text, sizeof out.text, "(%u, %u, %u)", index.x, index.y, index.z);
  return out;
}

void block_barrier(std::source_location where) {
  ++thread_steps;
  if (block.n_at_barrier > 0 && (where.line() != block.barrier.line() ||
                                 std::string_view(where.file_name()) != block.barrier.file_name()))
    fail(where, "divergent barrier: other threads of the block wait at %s",
         text_of(block.barrier).text);
  block.barrier = current->barrier = where;
  make_waiting();
  current_warp().at_barrier |= 1u << current->lane;
  ++block.n_at_barrier;
  release_barrier_if_complete();
  leave();
}

int queue_launch(Queue& queue, Launch launch) {
  if (queue.capture != nullptr) {
    check_launch(launch, queue.options);
    queue.capture->push_back([&queue, launch = std::move(launch)] {
      run_grid(launch, queue.options);
      return 0;
    });
    return 0;
  }
  run_grid(launch, queue.options);
  return 0;
}

uint64_t n_thread_steps() { return thread_steps; }

}  // namespace strata::gpu_emu
