// tests/gpu_emu/fiber.h - a call stack of its own for every emulated CUDA thread. Why: a kernel
// stops in the middle of a function at every barrier and collective, and another thread goes on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace strata::gpu_emu {

/// A stack that execution can be moved to and from. Kernels keep small locals only, as on a card;
/// a page below the stack stops what overruns it.
class Fiber {
 public:
  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// The next switch to this fiber enters `entry`, which never returns, on an empty stack. Stacks
  /// of different `colour` begin at different cache lines of their pages: equal ones would evict
  /// each other.
  void restart(void (*entry)(), uint32_t colour);

  /// Leaves `from` (which may be the thread's own stack, a Fiber that was never restarted) and goes
  /// on where `to` was left.
  static void switch_to(Fiber& from, Fiber& to);

 private:
  void map_stack();

  void* saved_ = nullptr;  // the stack pointer while another fiber runs
  std::byte* stack_ = nullptr;
};

}  // namespace strata::gpu_emu
