#include "base/trace.h"

#include <type_traits>
#include <utility>

#include "base/check.h"

namespace strata {

static_assert(std::is_trivially_copyable_v<TraceEvent> && sizeof(TraceEvent) == 56);

Trace::Trace(uint64_t capacity, Clock clock) : capacity_(capacity), clock_(std::move(clock)) {
  STRATA_CHECK(capacity > 0, "a trace of no events");
  memory_ = HostMemory::reserve(capacity * sizeof(TraceEvent));
}

void Trace::add(const TraceEvent& event) noexcept {
  if (!is_on_) return;
  memory_.as<TraceEvent>(capacity_)[n_added_++ % capacity_] = event;
}

std::vector<TraceEvent> Trace::events() const {
  const auto held = memory_.as<TraceEvent>(n_held());
  const auto oldest = static_cast<std::ptrdiff_t>(n_dropped() % capacity_);
  std::vector<TraceEvent> events(held.begin() + oldest, held.end());
  events.insert(events.end(), held.begin(), held.begin() + oldest);
  return events;
}

}  // namespace strata
