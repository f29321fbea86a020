#include "engine/text/bulk_allocator.h"

#include <sys/mman.h>

namespace strata::engine {

void* map_bulk(uint64_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  madvise(memory, bytes, MADV_HUGEPAGE);  // advice: a refusal costs speed only
  return memory;
}

void unmap_bulk(void* memory, uint64_t bytes) noexcept { munmap(memory, bytes); }

}  // namespace strata::engine
