// Replaces operator new for this binary, which is why these tests have one of their own.
#include "tests/allocation/counted_allocations.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace strata::testing {
namespace {

std::atomic<uint64_t> count{0};

void* counted(std::size_t bytes, std::size_t alignment) {
  count.fetch_add(1, std::memory_order_relaxed);
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

uint64_t n_allocations() { return count.load(std::memory_order_relaxed); }

}  // namespace strata::testing

// The array and nothrow forms of the library call these.
void* operator new(std::size_t bytes) {
  return strata::testing::counted(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return strata::testing::counted(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
