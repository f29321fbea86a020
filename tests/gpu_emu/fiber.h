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

  /// This fiber is the stack of the host's thread that calls.
  void adopt_host();

  /// The next switch to this fiber enters `entry` on an empty stack; entry calls arrive() first and
  /// never returns. Stacks of different `colour` begin at different cache lines of their pages:
  /// equal ones would evict each other.
  void restart(void (*entry)(), uint32_t colour);
  static void arrive();

  /// Leaves `from` and goes on where `to` was left. A fiber that `is_over` is not returned to
  /// before it is restarted.
  static void switch_to(Fiber& from, Fiber& to, bool is_over = false);

 private:
  void map_stack();
  void unpoison(uint64_t from_bytes) const;

  void* saved_ = nullptr;  // the stack pointer while another fiber runs
  std::byte* stack_ = nullptr;
  const void* bottom_ = nullptr;  // of the part in use, for AddressSanitizer
  uint64_t stack_bytes_ = 0;
  [[maybe_unused]] void* history_ = nullptr;  // ThreadSanitizer's fiber
};

}  // namespace strata::gpu_emu
