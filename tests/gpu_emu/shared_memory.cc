#include "tests/gpu_emu/shared_memory.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "tests/gpu_emu/sanitizers.h"
#include "tests/gpu_emu/scheduler.h"

namespace strata::gpu_emu {
namespace {

constexpr uint64_t kAlignmentMax = 128;  // of dynamic shared memory, and of any array
constexpr uint32_t kArraysMax = 64;

/// An array of the block, in an allocation of its own, so that AddressSanitizer sees what runs over
/// its end.
struct Array {
  const void* key;
  std::byte* at;
  uint64_t bytes;
  void* allocation;
};

std::array<Array, kArraysMax> arrays;  // the first is the dynamic one
uint32_t n_arrays = 0;
uint64_t static_bytes = 0;

/// Aligned to `alignment` and, so that no one counts on more, not to twice as much.
Array make_array(const void* key, uint64_t bytes, uint64_t alignment) {
  const uint64_t lead = alignment < kAlignmentMax ? alignment : 0;
  void* allocation = nullptr;
  if (posix_memalign(&allocation, kAlignmentMax, lead + bytes) != 0) throw std::bad_alloc();
  std::byte* at = static_cast<std::byte*>(allocation) + lead;
  std::memset(at, 0xFF, bytes);
  return {key, at, bytes, allocation};
}

}  // namespace

void begin_shared(uint32_t dynamic_bytes) {
  n_arrays = 0;
  static_bytes = 0;
  arrays[n_arrays++] = make_array(nullptr, dynamic_bytes, kAlignmentMax);
}

void end_shared() {
  for (uint32_t i = 0; i < n_arrays; ++i) std::free(arrays[i].allocation);
  n_arrays = 0;
}

void* shared_array(const void* key, uint64_t bytes, uint64_t alignment,
                   std::source_location where) {
  const Bookkeeping scope;
  for (uint32_t i = 1; i < n_arrays; ++i) {  // not the dynamic one
    if (arrays[i].key == key) return arrays[i].at;
  }
  static_bytes = (static_bytes + alignment - 1) / alignment * alignment + bytes;
  if (static_bytes > block.options->static_shared_max)
    fail(where, "static shared memory grows to %lu bytes, at most %u", static_bytes,
         block.options->static_shared_max);
  if (static_bytes + arrays[0].bytes > block.options->shared_max)
    fail(where, "shared memory grows to %lu bytes, at most %u", static_bytes + arrays[0].bytes,
         block.options->shared_max);
  if (n_arrays == kArraysMax) fail(where, "more shared arrays than the emulator counts");
  arrays[n_arrays] = make_array(key, bytes, alignment);
  return arrays[n_arrays++].at;
}

unsigned char* dynamic_shared() { return reinterpret_cast<unsigned char*>(arrays[0].at); }

bool is_shared(const void* at, uint64_t bytes) {
  const auto* first = static_cast<const std::byte*>(at);
  for (uint32_t i = 0; i < n_arrays; ++i) {
    if (first >= arrays[i].at && first + bytes <= arrays[i].at + arrays[i].bytes) return true;
  }
  return false;
}

void check_shared16(const void* at, std::source_location where) {
  if (!is_shared(at, 16)) fail(where, "the 16 bytes are not within one array of shared memory");
  if (reinterpret_cast<uintptr_t>(at) % 16 != 0)
    fail(where, "the address in shared memory is not 16-byte aligned");
}

void check_global(const void* at, uint32_t bytes, std::source_location where) {
  if (is_shared(at, 1)) fail(where, "the address is in shared memory, not in global memory");
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0)
    fail(where, "the address in global memory is not %u-byte aligned", bytes);
}

}  // namespace strata::gpu_emu
