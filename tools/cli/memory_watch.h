// tools/cli/memory_watch.h - whether the machine still has the memory that a run was planned with.
// Why between answers: pages of K and V are taken as a context grows, long after the plan was made,
// and other programs begin meanwhile.
#pragma once

#include <cstdint>
#include <string>

namespace strata::cli {

struct MemoryNow {
  uint64_t held_bytes = 0;       // by this process already
  uint64_t available_bytes = 0;  // that could be taken
  double pressure = 0;           // engine::memory_pressure()
};
MemoryNow memory_now();

class MemoryWatch {
 public:
  /// `planned_bytes`: of DRAM, everything of ours.
  explicit MemoryWatch(uint64_t planned_bytes) : planned_bytes_(planned_bytes) {}
  /// What to say where memory has come to run short: less is free, by more than what is free moves
  /// by itself, than is still to be taken, or the machine waits for memory. Empty where it does
  /// not, or where that was said before and memory has lacked ever since.
  std::string look(const MemoryNow& now);

 private:
  uint64_t planned_bytes_;
  bool is_short_ = false;
};

}  // namespace strata::cli
