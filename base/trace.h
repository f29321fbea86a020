// base/trace.h - what a run did when: steps, operations, transfers in flight, waits.
// Why: one picture of all of them answers where the time went; a sum per kind does not.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/host_memory.h"
#include "base/step_plan.h"

namespace strata {

enum class TraceKind : uint8_t { kStep, kOperation, kWait, kRead, kWrite };

/// Where the indices of weight reads begin: more than there are staging frames.
inline constexpr uint32_t kFirstWeightLane = 1 << 20;

struct TraceEvent {
  TraceKind kind = TraceKind::kStep;
  bool is_ok = true;                   // of a transfer: the bytes were moved
  Resource resource = Resource::kCpu;  // what moves a transfer, and what a wait is for
  uint32_t index = 0;                  // rows of a step, layer of an operation, frame of a transfer
  const char* name = "";               // lives as long as the program
  std::chrono::nanoseconds begin{}, end{};  // by the steady clock, or that of a simulated disk
  uint64_t bytes = 0;                       // of a transfer; of an operation by formula
  uint64_t detail =
      0;  // position of a step's first row, FLOP of an operation, offset of a transfer
  uint32_t layer = kNoLayer;  // of a transfer
};

/// The last `capacity` events, in the order of their ends. One caller at a time.
class Trace {
 public:
  /// 56 MiB: about 5,000 decode steps of a model of 30 layers.
  static constexpr uint64_t kCapacity = uint64_t{1} << 20;

  using Clock = std::function<std::chrono::nanoseconds()>;

  /// Reserves capacity * 56 bytes, which are committed as events come. `clock` is what operations
  /// and steps are timed by: that of a simulated disk; empty = the steady clock. Errors:
  /// kOutOfMemory.
  explicit Trace(uint64_t capacity = kCapacity, Clock clock = {});

  /// Takes the place of the oldest event where the trace is full. Allocates nothing.
  void add(const TraceEvent& event) noexcept;
  std::chrono::nanoseconds now() const {
    return clock_ ? clock_() : std::chrono::steady_clock::now().time_since_epoch();
  }

  /// While it is off, nothing is added. On from the start.
  void set_on(bool on) { is_on_ = on; }
  bool is_on() const { return is_on_; }
  /// Forgets all events.
  void clear() { n_added_ = 0; }

  uint64_t n_held() const { return n_added_ < capacity_ ? n_added_ : capacity_; }
  uint64_t n_dropped() const { return n_added_ - n_held(); }  // the oldest ones
  /// Those held, oldest first.
  std::vector<TraceEvent> events() const;

 private:
  HostMemory memory_;
  uint64_t capacity_;
  uint64_t n_added_ = 0;
  bool is_on_ = true;
  Clock clock_;
};

/// Records an event from here to the end of the scope, also where an exception ends it. A null
/// trace, or one that is off, records nothing and reads no clock.
class TraceScope {
 public:
  TraceScope(Trace* trace, const TraceEvent& event)
      : trace_(trace != nullptr && trace->is_on() ? trace : nullptr) {
    if (trace_ == nullptr) return;
    event_ = event;
    event_.begin = trace_->now();
  }
  ~TraceScope() {
    if (trace_ == nullptr) return;
    event_.end = trace_->now();
    trace_->add(event_);
  }
  /// Of what turned out to be another number than was planned.
  void set_bytes(uint64_t bytes) { event_.bytes = bytes; }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  Trace* trace_;
  TraceEvent event_;
};

}  // namespace strata
