// tests/gpu_emu/async_copy.h - cp.async: the destination is NaN from the issue to the wait that
// covers the copy, and only there it receives the bytes. Why: on a card the bytes arrive at some
// time between; a kernel that reads early or waits one group short is wrong here every time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <vector>

namespace strata::gpu_emu {

struct AsyncCopy {
  std::byte* to = nullptr;          // null: there is none
  const std::byte* from = nullptr;  // null: zeros
};

/// The copies of one thread that are under way.
struct AsyncCopies {
  struct Issued {
    AsyncCopy copy;
    std::source_location where;
    uint32_t group;
  };
  std::vector<Issued> issued;  // oldest first
  uint32_t n_groups = 0;       // committed by the thread so far
  uint32_t n_delivered = 0;    // of `issued`, by the wait that goes on
};

/// Checks the addresses and takes note of the copy.
void note_copy(const AsyncCopy& copy, std::source_location where);
void commit_copies();
/// The next copy of all groups but the newest n_pending, oldest first.
AsyncCopy next_copy(uint32_t n_pending);

// The bytes themselves, here so that sanitizers see the kernel's line move them; in words, because
// compilers make stores of small memset() calls after ThreadSanitizer has looked.

inline void store16(std::byte* to, uint64_t first, uint64_t second) {
  auto* words = reinterpret_cast<uint64_t*>(to);
  words[0] = first;
  words[1] = second;
}

/// The source is read when the copy is issued as well: it must be there from then on.
inline void issue_copy(void* shared_to, const void* global_from, bool is_real,
                       std::source_location where) {
  const AsyncCopy copy{.to = static_cast<std::byte*>(shared_to),
                       .from = is_real ? static_cast<const std::byte*>(global_from) : nullptr};
  note_copy(copy, where);
  if (copy.from != nullptr) {
    const auto* words = reinterpret_cast<const volatile uint64_t*>(copy.from);
    static_cast<void>(words[0]);
    static_cast<void>(words[1]);
  }
  store16(copy.to, ~uint64_t{0}, ~uint64_t{0});
}

inline void wait_copies(uint32_t n_pending) {
  while (true) {
    const AsyncCopy copy = next_copy(n_pending);
    if (copy.to == nullptr) return;
    const auto* words = reinterpret_cast<const uint64_t*>(copy.from);
    if (words == nullptr) {
      store16(copy.to, 0, 0);
    } else {
      store16(copy.to, words[0], words[1]);
    }
  }
}

}  // namespace strata::gpu_emu
