#include "tests/gpu_emu/fiber.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "tests/gpu_emu/sanitizers.h"

#if !defined(__x86_64__)
#error "tests/gpu_emu switches stacks by x86-64 instructions: build it there"
#endif

namespace strata::gpu_emu {
namespace {

constexpr uint64_t kGuardBytes = 4096;
#if defined(STRATA_GPU_EMU_ASAN) || defined(STRATA_GPU_EMU_TSAN)
constexpr uint64_t kStackBytes = 256 << 10;
#else
constexpr uint64_t kStackBytes = 64 << 10;
#endif
constexpr uint64_t kColours = 32;
constexpr uint64_t kColourBytes = 128;

[[maybe_unused]] Fiber* left;  // the fiber that was switched from last

}  // namespace

// What the calling convention asks a function to preserve is pushed, the stack pointer exchanged,
// and the other side's popped.
asm(R"(
  .text
  .globl strata_gpu_emu_switch
  .type strata_gpu_emu_switch, @function
strata_gpu_emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size strata_gpu_emu_switch, .-strata_gpu_emu_switch
)");
extern "C" void strata_gpu_emu_switch(void** save_from, void* resume_to);

Fiber::~Fiber() {
  if (stack_ == nullptr) return;
  unpoison(kStackBytes);  // a kernel that was given up has left marks on all of it
  munmap(stack_, kGuardBytes + kStackBytes);
#ifdef STRATA_GPU_EMU_TSAN
  // What the fiber did, even if it was given up half way, comes before what follows here.
  void* self = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(history_, __tsan_switch_to_fiber_no_sync);
  __tsan_switch_to_fiber(self, 0);
  __tsan_destroy_fiber(history_);
#endif
}

void Fiber::map_stack() {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  if (mprotect(memory, kGuardBytes, PROT_NONE) != 0) std::abort();
  stack_ = static_cast<std::byte*>(memory);
  bottom_ = stack_ + kGuardBytes;
  stack_bytes_ = kStackBytes;
}

/// Clears AddressSanitizer's marks from the topmost bytes of the stack.
void Fiber::unpoison([[maybe_unused]] uint64_t from_bytes) const {
#ifdef STRATA_GPU_EMU_ASAN
  __asan_unpoison_memory_region(stack_ + kGuardBytes + kStackBytes - from_bytes, from_bytes);
#endif
}

void Fiber::adopt_host() {
#ifdef STRATA_GPU_EMU_TSAN
  history_ = __tsan_get_current_fiber();
#endif
}

void Fiber::restart(void (*entry)(), uint32_t colour) {
  if (stack_ == nullptr) map_stack();
  unpoison(kColours * kColourBytes + 4096);  // a kernel has returned, its few callers have not
#ifdef STRATA_GPU_EMU_TSAN
  if (history_ == nullptr) history_ = __tsan_create_fiber(0);
#endif
  std::byte* top = stack_ + kGuardBytes + kStackBytes - colour % kColours * kColourBytes;
  auto** words = reinterpret_cast<void**>(top);
  *--words = nullptr;  // where a call would have left its return address
  *--words = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--words = nullptr;
  saved_ = words;
}

void Fiber::arrive() {
#ifdef STRATA_GPU_EMU_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &left->bottom_, &left->stack_bytes_);
#endif
}

void Fiber::switch_to(Fiber& from, Fiber& to, [[maybe_unused]] bool is_over) {
#ifdef STRATA_GPU_EMU_ASAN
  void* own_frames = nullptr;
  left = &from;
  __sanitizer_start_switch_fiber(is_over ? nullptr : &own_frames, to.bottom_, to.stack_bytes_);
#endif
#ifdef STRATA_GPU_EMU_TSAN
  __tsan_switch_to_fiber(to.history_, __tsan_switch_to_fiber_no_sync);
#endif
  strata_gpu_emu_switch(&from.saved_, to.saved_);
#ifdef STRATA_GPU_EMU_ASAN
  __sanitizer_finish_switch_fiber(own_frames, nullptr, nullptr);
#endif
}

}  // namespace strata::gpu_emu
