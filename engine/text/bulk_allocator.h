// engine/text/bulk_allocator.h - for scratch vectors that are tiny for most words and huge for a
// word of megabytes. Why: the C library keeps freed blocks up to 32 MiB and unmaps larger ones, and
// touches them in 4 KiB pages, so that twice the text cost three times as long (one word of 1 and 2
// MiB: 24 and 73 ms, of which page faults made the difference). Mapped in huge pages: 29 and 61 ms
// (glibc 2.36, two busy cores).
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace strata::engine {

/// `bytes` of memory in huge pages where the system gives them. Throws std::bad_alloc.
void* map_bulk(uint64_t bytes);
void unmap_bulk(void* memory, uint64_t bytes) noexcept;

template <typename T>
struct BulkAllocator {
  using value_type = T;
  static constexpr uint64_t kMappedBytes = 2 << 20;

  BulkAllocator() = default;
  template <typename U>
  BulkAllocator(const BulkAllocator<U>&) noexcept {}

  T* allocate(size_t n) {
    if (n > SIZE_MAX / sizeof(T)) throw std::bad_alloc();
    const uint64_t bytes = n * sizeof(T);
    return static_cast<T*>(bytes >= kMappedBytes ? map_bulk(bytes) : ::operator new(bytes));
  }
  void deallocate(T* memory, size_t n) noexcept {
    if (n * sizeof(T) >= kMappedBytes)
      unmap_bulk(memory, n * sizeof(T));
    else
      ::operator delete(memory);
  }
  friend bool operator==(const BulkAllocator&, const BulkAllocator&) { return true; }
};

}  // namespace strata::engine
