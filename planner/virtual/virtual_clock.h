// planner/virtual/virtual_clock.h - the time of a virtual device: one heap of events. Why: what a
// schedule takes on a card that is not there is computed, not waited for, and the same calls give
// the same times. No threads, no wall time.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

namespace strata::planner {

using VirtualTime = std::chrono::nanoseconds;  // since the device was made

/// The time that `bytes` take at `bytes_per_s`, or operations at their rate, rounded up.
VirtualTime duration_of(double amount, double per_second);
inline VirtualTime from_us(double us) { return VirtualTime(static_cast<int64_t>(us * 1e3)); }

class VirtualClock {
 public:
  using Action = std::function<void()>;

  VirtualTime now() const { return now_; }

  /// Runs `action` at `time`, which is not in the past, behind the events that were given for the
  /// same time before. `label` goes into the hash.
  void at(VirtualTime time, uint64_t label, Action action);

  /// Goes to the next event and runs it; false where there is none.
  bool run_next();
  /// Runs every event until `time` inclusive, those that come meanwhile too, and stands there.
  void run_until(VirtualTime time);

  uint64_t n_events() const { return n_events_; }  // that have run
  /// Of the times and labels of all events that have run, in order: two runs that agree in it did
  /// the same things at the same times.
  uint64_t hash() const { return hash_; }

 private:
  struct Event {
    VirtualTime time;
    uint64_t number;
    uint64_t label;
    Action action;
  };
  static bool is_later(const Event& a, const Event& b) {
    return a.time != b.time ? a.time > b.time : a.number > b.number;
  }

  std::vector<Event> heap_;
  VirtualTime now_{};
  uint64_t n_given_ = 0;
  uint64_t n_events_ = 0;
  uint64_t hash_ = 0;
};

}  // namespace strata::planner
