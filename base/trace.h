// base/trace.h - what a run did when: steps, operations, transfers in flight, waits.
// Why: one picture of all of them answers where the time went; a sum per kind does not.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "base/host_memory.h"

namespace strata {

enum class TraceKind : uint8_t { kStep, kOperation, kWait, kRead, kWrite };

struct TraceEvent {
  TraceKind kind = TraceKind::kStep;
  bool is_ok = true;      // of a transfer: the bytes were moved
  uint32_t index = 0;     // rows of a step, layer of an operation, staging frame of a transfer
  const char* name = "";  // lives as long as the program
  std::chrono::nanoseconds begin{}, end{};  // by the steady clock, or that of a simulated disk
  uint64_t bytes = 0;                       // of a transfer; of an operation by formula
  uint64_t detail =
      0;  // position of a step's first row, FLOP of an operation, offset of a transfer
};

/// The last `capacity` events, in the order of their ends. One caller at a time.
class Trace {
 public:
  /// 48 MiB: about 5,000 decode steps of a model of 30 layers.
  static constexpr uint64_t kCapacity = uint64_t{1} << 20;

  /// Reserves capacity * 48 bytes, which are committed as events come. Errors: kOutOfMemory.
  explicit Trace(uint64_t capacity = kCapacity);

  /// Takes the place of the oldest event where the trace is full. Allocates nothing.
  void add(const TraceEvent& event) noexcept;

  uint64_t n_held() const { return n_added_ < capacity_ ? n_added_ : capacity_; }
  uint64_t n_dropped() const { return n_added_ - n_held(); }  // the oldest ones
  /// Those held, oldest first.
  std::vector<TraceEvent> events() const;

 private:
  HostMemory memory_;
  uint64_t capacity_;
  uint64_t n_added_ = 0;
};

/// Records an event from here to the end of the scope, also where an exception ends it. A null
/// trace records nothing and reads no clock.
class TraceScope {
 public:
  TraceScope(Trace* trace, const TraceEvent& event) : trace_(trace) {
    if (trace_ == nullptr) return;
    event_ = event;
    event_.begin = std::chrono::steady_clock::now().time_since_epoch();
  }
  ~TraceScope() {
    if (trace_ == nullptr) return;
    event_.end = std::chrono::steady_clock::now().time_since_epoch();
    trace_->add(event_);
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  Trace* trace_;
  TraceEvent event_;
};

}  // namespace strata
