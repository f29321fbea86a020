// tests/fuzz/live_memory.h - what a piece of work holds of the heap at most. Why: an input of a few
// bytes must not make the program take gigabytes, which no sanitizer reports. One thread; header
// only, because each fuzz target is one file.
#pragma once

#include <sanitizer/allocator_interface.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace strata::fuzz {

struct LiveMemory {
  uint64_t bytes = 0;
  uint64_t bytes_max = 0;  // since the last peak_bytes_of began
};
inline LiveMemory live_memory;

/// Counts from here on; called once, by LLVMFuzzerInitialize.
inline void count_live_memory() {
  __sanitizer_install_malloc_and_free_hooks(
      [](const volatile void*, size_t size) {
        live_memory.bytes += size;
        live_memory.bytes_max = std::max(live_memory.bytes_max, live_memory.bytes);
      },
      [](const volatile void* memory) {
        if (memory)
          live_memory.bytes -= __sanitizer_get_allocated_size(const_cast<const void*>(memory));
      });
}

/// The most heap bytes that work() held beyond those that were live before it.
template <typename Work>
uint64_t peak_bytes_of(const Work& work) {
  const uint64_t before = live_memory.bytes_max = live_memory.bytes;
  work();
  return live_memory.bytes_max - before;
}

}  // namespace strata::fuzz
