// tests/gpu_emu/sanitizers.h - what the emulator tells the sanitizers; nothing in other builds.
// Why: AddressSanitizer must know which stack is in use. ThreadSanitizer, told that every CUDA
// thread is a thread of its own and which of CUDA's operations order them, finds the races of a
// kernel whatever the order they run in.
//
// The emulator's own sources are compiled without ThreadSanitizer's instrumentation (tests/
// CMakeLists.txt defines STRATA_GPU_EMU_TSAN for them): its bookkeeping is shared by all threads
// and would be one great race. What it does for a kernel, such as the bytes of an asynchronous
// copy, stands in headers and is seen.
#pragma once

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#define STRATA_GPU_EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define STRATA_GPU_EMU_ASAN 1
#endif
#endif

#ifdef STRATA_GPU_EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef STRATA_GPU_EMU_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace strata::gpu_emu {

#ifdef STRATA_GPU_EMU_TSAN

/// What this thread does until the end of the scope is the emulator's own doing: memcpy(), malloc()
/// and the like, which ThreadSanitizer sees in every source, do not count. No scope is open while
/// another fiber runs.
class Bookkeeping {
 public:
  Bookkeeping() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    ++n_open_;
  }
  ~Bookkeeping() { close_one(); }
  Bookkeeping(const Bookkeeping&) = delete;
  Bookkeeping& operator=(const Bookkeeping&) = delete;

  /// For a fiber whose scopes never end.
  static void close_all() {
    while (n_open_ > 0) close_one();
  }

 private:
  static void close_one() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    --n_open_;
  }

  static inline uint32_t n_open_ = 0;
};

/// All before a release_order() of a tag comes before what follows a later acquire_order() of it.
inline void release_order(void* tag) { __tsan_release(tag); }
inline void acquire_order(void* tag) { __tsan_acquire(tag); }

#else

struct Bookkeeping {
  ~Bookkeeping() {}  // not trivial: a scope is no unused variable
  static void close_all() {}
};
inline void release_order(void*) {}
inline void acquire_order(void*) {}

#endif

}  // namespace strata::gpu_emu
