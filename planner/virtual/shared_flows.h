// planner/virtual/shared_flows.h - transfers that run at once over lanes with a rate each. Why: a
// copy across the link, a disk's DMA and the CPU's attention all read the same DRAM; a model in
// which each has its own rate promises a machine that is not there.
//
// A byte of a flow takes its weight of each lane; a flow may have a rate of its own besides. At
// every moment rates are max-min fair: all grow together until a lane is full or a flow at its own
// rate, those are held, the others go on.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "planner/virtual/virtual_clock.h"

namespace strata::planner {

enum class Lane : uint8_t { kLinkIn, kLinkOut, kDram, kNvme };
inline constexpr size_t kLanes = 4;

using LaneRates = std::array<double, kLanes>;

struct Flow {
  uint64_t bytes = 0;
  LaneRates weights{};     // bytes of each lane per byte of the flow
  double bytes_per_s = 0;  // its own rate at most; 0 = what the lanes give
};

/// A flow over one or two lanes, a byte of each per byte.
Flow flow_over(uint64_t bytes, Lane lane);
Flow flow_over(uint64_t bytes, Lane lane, Lane other);

class SharedFlows {
 public:
  using Done = std::function<void()>;

  SharedFlows(VirtualClock& clock, const LaneRates& bytes_per_s);

  /// `done` is called when the last byte has moved, also where there are none. The flow has a lane
  /// or a rate.
  void start(const Flow& flow, Done done);

  /// Until now, what is under way included.
  double moved_bytes(Lane lane) {
    settle();
    return moved_[static_cast<size_t>(lane)];
  }
  double bytes_per_s(Lane lane) const { return rates_[static_cast<size_t>(lane)]; }

 private:
  struct Running {
    Flow flow;
    double left;
    double rate;
    Done done;
  };
  void settle();
  void share();
  void end_due();

  VirtualClock& clock_;
  LaneRates rates_;
  LaneRates moved_{};
  std::vector<Running> running_;  // in the order of their starts
  VirtualTime settled_{};
  uint64_t generation_ = 0;  // of rates: an end that was computed before is void
};

}  // namespace strata::planner
