// tests/gpu_emu/async_copy.h - cp.async: the destination is NaN from the issue to the wait that
// covers the copy, and only there it receives the bytes. Why: on a card the bytes arrive at some
// time between; a kernel that reads early or waits one group short is wrong here every time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <vector>

namespace strata::gpu_emu {

/// The copies of one thread that are under way, oldest first.
struct AsyncCopies {
  struct Copy {
    std::byte* to;
    const std::byte* from;  // null: zeros
    std::source_location where;
    uint32_t group;
  };
  std::vector<Copy> copies;
  uint32_t n_groups = 0;  // committed by the thread so far
};

/// Checks the addresses and fills the destination with 0xFF.
void issue_copy(void* shared_to, const void* global_from, bool is_real, std::source_location where);
void commit_copies();
/// Delivers all groups but the newest n_pending.
void wait_copies(uint32_t n_pending);

}  // namespace strata::gpu_emu
