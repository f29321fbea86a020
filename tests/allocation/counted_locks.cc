// Stands before the C library's function for this binary.
#include "tests/allocation/counted_locks.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>

namespace strata::testing {
namespace {

std::atomic<uint64_t> count{0};

}  // namespace

uint64_t n_locks() { return count.load(std::memory_order_relaxed); }

}  // namespace strata::testing

extern "C" int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
  using Lock = int (*)(pthread_mutex_t*);
  static std::atomic<Lock> system{nullptr};
  Lock lock = system.load(std::memory_order_relaxed);
  if (lock == nullptr) {
    lock = reinterpret_cast<Lock>(dlsym(RTLD_NEXT, "pthread_mutex_lock"));
    system.store(lock, std::memory_order_relaxed);
  }
  strata::testing::count.fetch_add(1, std::memory_order_relaxed);
  return lock(mutex);
}
