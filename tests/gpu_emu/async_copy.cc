#include "tests/gpu_emu/async_copy.h"

#include <algorithm>
#include <cstring>

#include "tests/gpu_emu/scheduler.h"
#include "tests/gpu_emu/shared_memory.h"

namespace strata::gpu_emu {
namespace {

constexpr uint64_t kBytes = 16;

}  // namespace

void issue_copy(void* shared_to, const void* global_from, bool is_real,
                std::source_location where) {
  check_shared16(shared_to, where);
  if (is_real) check_global16(global_from, where);
  std::memset(shared_to, 0xFF, kBytes);
  current->copies.copies.push_back(
      {.to = static_cast<std::byte*>(shared_to),
       .from = is_real ? static_cast<const std::byte*>(global_from) : nullptr,
       .where = where,
       .group = current->copies.n_groups});
}

void commit_copies() { ++current->copies.n_groups; }

void wait_copies(uint32_t n_pending) {
  AsyncCopies& own = current->copies;
  const uint32_t n_covered = own.n_groups - std::min(own.n_groups, n_pending);
  auto copy = own.copies.begin();
  for (; copy != own.copies.end() && copy->group < n_covered; ++copy) {
    if (copy->from != nullptr) {
      std::memcpy(copy->to, copy->from, kBytes);
    } else {
      std::memset(copy->to, 0, kBytes);
    }
  }
  own.copies.erase(own.copies.begin(), copy);
}

}  // namespace strata::gpu_emu
