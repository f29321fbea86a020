// Replaces operator new, mmap and pthread_create for this binary, which is why these tests have one
// of their own.
#include "tests/allocation/counted_allocations.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <new>

namespace strata::testing {
namespace {

std::atomic<uint64_t> count{0};
std::atomic<int64_t> live{0};

std::atomic<bool> is_refusing{false};
std::atomic<uint64_t> n_asked{0};
uint64_t refused_k = 0;  // written while nothing is refused
bool is_for_good = false;

bool is_refused() {
  if (!is_refusing.load(std::memory_order_acquire)) return false;
  const uint64_t k = n_asked.fetch_add(1, std::memory_order_relaxed) + 1;
  return k == refused_k || (is_for_good && k > refused_k);
}

void* counted(std::size_t bytes, std::size_t alignment) {
  count.fetch_add(1, std::memory_order_relaxed);
  if (is_refused()) throw std::bad_alloc();
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded);
  if (memory == nullptr) throw std::bad_alloc();
  live.fetch_add(1, std::memory_order_relaxed);
  return memory;
}

void give_back(void* memory) {
  if (memory != nullptr) live.fetch_sub(1, std::memory_order_relaxed);
  std::free(memory);
}

}  // namespace

uint64_t n_allocations() { return count.load(std::memory_order_relaxed); }
int64_t n_live_allocations() { return live.load(std::memory_order_relaxed); }

void refuse_memory(uint64_t k, bool for_good) {
  refused_k = k;
  is_for_good = for_good;
  n_asked = 0;
  is_refusing.store(true, std::memory_order_release);
}

uint64_t end_refusing() {
  is_refusing = false;
  return n_asked;
}

}  // namespace strata::testing

// The array and nothrow forms of the library call these.
void* operator new(std::size_t bytes) {
  return strata::testing::counted(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return strata::testing::counted(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { strata::testing::give_back(memory); }
void operator delete(void* memory, std::size_t) noexcept { strata::testing::give_back(memory); }
void operator delete(void* memory, std::align_val_t) noexcept {
  strata::testing::give_back(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  strata::testing::give_back(memory);
}

extern "C" void* mmap(void* address, size_t bytes, int protection, int flags, int file,
                      off_t offset) noexcept {
  if ((flags & MAP_ANONYMOUS) != 0 && strata::testing::is_refused()) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  // NOLINTNEXTLINE(performance-no-int-to-ptr): what a system call returns
  return reinterpret_cast<void*>(
      ::syscall(SYS_mmap, address, bytes, protection, flags, file, offset));
}

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                              void* (*start)(void*), void* argument) noexcept {
  if (strata::testing::is_refused()) return EAGAIN;
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto kSystem = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  return kSystem(thread, attributes, start, argument);
}
