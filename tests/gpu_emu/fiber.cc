#include "tests/gpu_emu/fiber.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#if !defined(__x86_64__)
#error "tests/gpu_emu switches stacks by x86-64 instructions: build it there"
#endif

namespace strata::gpu_emu {
namespace {

constexpr uint64_t kGuardBytes = 4096;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kStackBytes = 256 << 10;
#else
constexpr uint64_t kStackBytes = 64 << 10;
#endif
constexpr uint64_t kColours = 32;
constexpr uint64_t kColourBytes = 128;

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
  if (stack_ != nullptr) munmap(stack_, kGuardBytes + kStackBytes);
}

void Fiber::map_stack() {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  if (mprotect(memory, kGuardBytes, PROT_NONE) != 0) std::abort();
  stack_ = static_cast<std::byte*>(memory);
}

void Fiber::restart(void (*entry)(), uint32_t colour) {
  if (stack_ == nullptr) map_stack();
  std::byte* top = stack_ + kGuardBytes + kStackBytes - colour % kColours * kColourBytes;
  auto** words = reinterpret_cast<void**>(top);
  *--words = nullptr;  // where a call would have left its return address
  *--words = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--words = nullptr;
  saved_ = words;
}

void Fiber::switch_to(Fiber& from, Fiber& to) { strata_gpu_emu_switch(&from.saved_, to.saved_); }

}  // namespace strata::gpu_emu
