#include "planner/virtual/first_fit_arena.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked_math.h"

namespace strata::planner {

FirstFitArena::FirstFitArena(uint64_t base, uint64_t capacity_bytes)
    : base_(base), capacity_(capacity_bytes / kGranule * kGranule) {
  if (capacity_ > 0) free_.emplace(base_, base_ + capacity_);
}

std::optional<uint64_t> FirstFitArena::take(uint64_t bytes, uint64_t number) {
  STRATA_CHECK(bytes > 0, "a place of no bytes");
  if (bytes > capacity_) return std::nullopt;
  const uint64_t rounded = round_up(bytes, kGranule);
  const auto fits = [&](const auto& run) { return run.second - run.first >= rounded; };
  const auto run = std::ranges::find_if(free_, fits);
  if (run == free_.end()) return std::nullopt;
  const auto [begin, end] = *run;
  free_.erase(run);
  if (end - begin > rounded) free_.emplace(begin + rounded, end);
  places_.emplace(begin, Place{begin, bytes, number});
  used_ += rounded;
  peak_ = std::max(peak_, used_);
  return begin;
}

std::optional<FirstFitArena::Place> FirstFitArena::give(uint64_t begin) {
  const auto found = places_.find(begin);
  if (found == places_.end()) return std::nullopt;
  const Place place = found->second;
  places_.erase(found);
  const uint64_t rounded = round_up(place.bytes, kGranule);
  used_ -= rounded;
  uint64_t from = begin;
  uint64_t to = begin + rounded;
  auto after = free_.lower_bound(begin);
  if (after != free_.end() && after->first == to) {
    to = after->second;
    after = free_.erase(after);
  }
  if (after != free_.begin()) {
    const auto before = std::prev(after);
    if (before->second == from) {
      from = before->first;
      free_.erase(before);
    }
  }
  free_.emplace(from, to);
  return place;
}

const FirstFitArena::Place* FirstFitArena::find(uint64_t address) const {
  const auto after = places_.upper_bound(address);
  if (after == places_.begin()) return nullptr;
  const Place& place = std::prev(after)->second;
  return address - place.begin < round_up(place.bytes, kGranule) ? &place : nullptr;
}

uint64_t FirstFitArena::largest_free_bytes() const {
  uint64_t largest = 0;
  for (const auto& [begin, end] : free_) largest = std::max(largest, end - begin);
  return largest;
}

}  // namespace strata::planner
