#include "planner/virtual/virtual_clock.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace strata::planner {
namespace {

/// The finaliser of SplitMix64: every bit of the result depends on every bit of x.
uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

VirtualTime duration_of(double amount, double per_second) {
  return VirtualTime(static_cast<int64_t>(std::ceil(amount / per_second * 1e9)));
}

void VirtualClock::at(VirtualTime time, uint64_t label, Action action) {
  STRATA_CHECK(time >= now_, "an event at %lld ns, now is %lld",
               static_cast<long long>(time.count()), static_cast<long long>(now_.count()));
  heap_.push_back({time, n_given_++, label, std::move(action)});
  std::ranges::push_heap(heap_, is_later);
}

bool VirtualClock::run_next() {
  if (heap_.empty()) return false;
  std::ranges::pop_heap(heap_, is_later);
  const Event event = std::move(heap_.back());
  heap_.pop_back();
  now_ = event.time;
  ++n_events_;
  hash_ = mixed(hash_ ^ static_cast<uint64_t>(event.time.count()));
  hash_ = mixed(hash_ + event.label);
  event.action();
  return true;
}

void VirtualClock::run_until(VirtualTime time) {
  while (!heap_.empty() && heap_.front().time <= time) run_next();
  now_ = std::max(now_, time);
}

}  // namespace strata::planner
