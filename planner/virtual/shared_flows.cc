#include "planner/virtual/shared_flows.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace strata::planner {
namespace {
constexpr uint64_t kFlowLabel = 1;
}

Flow flow_over(uint64_t bytes, Lane lane) {
  Flow flow{.bytes = bytes};
  flow.weights[static_cast<size_t>(lane)] = 1;
  return flow;
}

Flow flow_over(uint64_t bytes, Lane lane, Lane other) {
  Flow flow = flow_over(bytes, lane);
  flow.weights[static_cast<size_t>(other)] = 1;
  return flow;
}

SharedFlows::SharedFlows(VirtualClock& clock, const LaneRates& bytes_per_s)
    : clock_(clock), rates_(bytes_per_s) {
  for (const double rate : rates_) STRATA_CHECK(rate > 0, "a lane of %g bytes/s", rate);
}

void SharedFlows::start(const Flow& flow, Done done) {
  const bool has_lane = std::ranges::any_of(flow.weights, [](double weight) { return weight > 0; });
  STRATA_CHECK(has_lane || flow.bytes_per_s > 0, "a flow without an end");
  settle();
  running_.push_back({flow, static_cast<double>(flow.bytes), 0, std::move(done)});
  share();
}

/// Counts what has moved since the rates were set.
void SharedFlows::settle() {
  const double seconds = std::chrono::duration<double>(clock_.now() - settled_).count();
  settled_ = clock_.now();
  if (seconds <= 0) return;
  for (Running& of : running_) {
    const double bytes = std::min(of.left, of.rate * seconds);
    of.left -= bytes;
    for (size_t lane = 0; lane < kLanes; ++lane) moved_[lane] += bytes * of.flow.weights[lane];
  }
}

/// Sets every flow's rate and asks for the first end.
void SharedFlows::share() {
  LaneRates left = rates_;
  std::vector<Running*> open;
  open.reserve(running_.size());
  for (Running& of : running_) open.push_back(&of);
  while (!open.empty()) {
    LaneRates weights{};
    for (const Running* of : open)
      for (size_t lane = 0; lane < kLanes; ++lane) weights[lane] += of->flow.weights[lane];
    double level = std::numeric_limits<double>::infinity();
    for (size_t lane = 0; lane < kLanes; ++lane)
      if (weights[lane] > 0) level = std::min(level, left[lane] / weights[lane]);
    for (const Running* of : open)
      if (of->flow.bytes_per_s > 0) level = std::min(level, of->flow.bytes_per_s);
    const auto is_held = [&](const Running* of) {
      if (of->flow.bytes_per_s > 0 && of->flow.bytes_per_s <= level) return true;
      for (size_t lane = 0; lane < kLanes; ++lane)
        if (of->flow.weights[lane] > 0 && left[lane] / weights[lane] <= level) return true;
      return false;
    };
    LaneRates used{};
    for (Running* of : open) {
      if (!is_held(of)) continue;
      of->rate = level;
      for (size_t lane = 0; lane < kLanes; ++lane) used[lane] += level * of->flow.weights[lane];
    }
    std::erase_if(open, is_held);
    for (size_t lane = 0; lane < kLanes; ++lane)
      left[lane] = std::max(0.0, left[lane] - used[lane]);
  }
  ++generation_;
  if (running_.empty()) return;
  VirtualTime first = VirtualTime::max();
  for (const Running& of : running_) first = std::min(first, duration_of(of.left, of.rate));
  clock_.at(clock_.now() + first, kFlowLabel, [this, generation = generation_] {
    if (generation == generation_) end_due();
  });
}

void SharedFlows::end_due() {
  settle();
  std::vector<Done> done;
  std::erase_if(running_, [&](Running& of) {
    const bool is_due = of.left <= of.rate * 1e-9;  // less than the clock's nanosecond
    if (is_due) done.push_back(std::move(of.done));
    return is_due;
  });
  share();
  for (const Done& call : done) call();
}

}  // namespace strata::planner
