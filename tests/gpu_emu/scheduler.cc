#include "tests/gpu_emu/scheduler.h"

#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>

#include "tests/gpu_emu/collectives.h"
#include "tests/gpu_emu/sanitizers.h"
#include "tests/gpu_emu/shared_memory.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace strata::gpu_emu {

Block block;
Thread* current = nullptr;
uint64_t thread_steps = 0;
OrderTags order_tags;

namespace {

Fiber launcher;  // the stack that called launch()
std::unique_ptr<std::array<Thread, kMaxThreads>> threads;

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

Fiber& fiber_of(Thread* thread) {
  return thread == nullptr ? launcher : thread->fibers[block.history];
}

/// Moves execution to the thread that is chosen, or to launch() where none can run. The current
/// thread comes back when it is chosen, or never where it is over.
void leave(bool is_over = false) {
  Thread* self = current;
  Thread* next = choose_thread();
  if (next == self) return;
  current = next;
  Fiber::switch_to(fiber_of(self), fiber_of(next), is_over);
  threadIdx = self->index;
}

void release_barrier() {
  block.n_at_barrier = 0;
  ++block.n_barriers;
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

void arrive_at_barrier(std::source_location where) {
  const Bookkeeping scope;
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

/// All that the end of a thread entails, but for leaving it.
void end_thread() {
  const Bookkeeping scope;
  Thread& self = *current;
  if (!self.copies.issued.empty())
    fail(self.copies.issued.front().where, "a thread exits with a copy not waited for");
  release_order(&order_tags.launch_end);
  make_waiting();
  block.warps[self.warp_idx].exited |= 1u << self.lane;
  ++block.n_exited;
  check_no_one_waits_for(self);
  release_barrier_if_complete();
}

/// What a fiber runs: the kernel, once. Does not return.
void run_thread() {
  Fiber::arrive();
  threadIdx = current->index;
  acquire_order(&order_tags.launch_begin);
  block.launch->call(block.launch->kernel, block.launch->args.data());
  end_thread();
  leave(true);
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

/// Blocks of different histories are seen to race: at every distance in the grid some pair is.
uint32_t history_of_block() {
  return static_cast<uint32_t>(block.ordinal * 0x9e3779b97f4a7c15u >> 63) % kHistories;
}

void prepare_thread(uint32_t i) {
  Thread& thread = (*threads)[i];
  const dim3 size = block.launch->block;
  thread.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
  thread.warp_idx = i / kWarpLanes;
  thread.lane = i % kWarpLanes;
  thread.copies.issued.clear();
  thread.copies.n_groups = thread.copies.n_delivered = 0;
  fiber_of(&thread).restart(run_thread, i);
  block.warps[thread.warp_idx].exited &= ~(1u << thread.lane);
  make_runnable(thread.warp_idx, 1u << thread.lane);
}

}  // namespace

void run_block() {
  {
    const Bookkeeping scope;
    if (threads == nullptr) threads = std::make_unique<std::array<Thread, kMaxThreads>>();
    begin_shared(block.launch->shared_bytes);
    block.history = history_of_block();
    block.n_exited = block.n_at_barrier = block.n_barriers = block.runnable_warps = 0;
    for (Warp& warp : block.warps) warp = {.exited = ~0u};
    for (uint32_t i = 0; i < block.n_threads; ++i) prepare_thread(i);
    launcher.adopt_host();
    current = choose_thread();
  }
  Fiber::switch_to(launcher, fiber_of(current));
  const Bookkeeping scope;
  if (block.failure.empty() && block.n_exited < block.n_threads) block.failure = deadlock_report();
  end_shared();
}

void drop_threads() { threads.reset(); }

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
  Bookkeeping::close_all();
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
  void* tag = &tags_of_block().barrier[block.n_barriers % 2];
  release_order(tag);
  arrive_at_barrier(where);
  leave();
  acquire_order(tag);
}

void memory_fence() {
  acquire_order(&order_tags.fence);
  release_order(&order_tags.fence);
}

}  // namespace strata::gpu_emu
