// planner/virtual/first_fit_arena.h - the memory of a virtual device as addresses: a hard cap,
// 2 MiB granularity, first fit. Why: fragmentation and the peak are real where the places are.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

namespace strata::planner {

class FirstFitArena {
 public:
  static constexpr uint64_t kGranule = uint64_t{2} << 20;

  /// Addresses from `base` on; the capacity is rounded down to whole granules.
  FirstFitArena(uint64_t base, uint64_t capacity_bytes);

  /// What was taken, and the how many-th taking that was (from 1).
  struct Place {
    uint64_t begin = 0;
    uint64_t bytes = 0;  // as asked for
    uint64_t number = 0;
  };

  /// The lowest place that holds `bytes` (at least 1), or nothing.
  std::optional<uint64_t> take(uint64_t bytes, uint64_t number);
  /// Gives a place back; nothing where none begins there.
  std::optional<Place> give(uint64_t begin);

  /// The place that holds this address, whatever of its granules was asked for.
  const Place* find(uint64_t address) const;

  bool has(uint64_t address) const { return address >= base_ && address - base_ < capacity_; }
  uint64_t base() const { return base_; }
  uint64_t capacity_bytes() const { return capacity_; }
  uint64_t used_bytes() const { return used_; }  // whole granules
  uint64_t peak_bytes() const { return peak_; }
  uint64_t largest_free_bytes() const;

 private:
  uint64_t base_;
  uint64_t capacity_;
  uint64_t used_ = 0;
  uint64_t peak_ = 0;
  std::map<uint64_t, Place> places_;   // by begin
  std::map<uint64_t, uint64_t> free_;  // begin -> end, never two that touch
};

}  // namespace strata::planner
