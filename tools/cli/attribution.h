// tools/cli/attribution.h - where the time of steps went, from what a trace recorded of them. Why:
// "it waits for the disk" and "the processor is busy" have other remedies, and a sum of transfers
// says neither.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/trace.h"

namespace strata::cli {

/// Of a step, a layer of it, or a stage. Every moment of a step's wall time is in exactly one of
/// cpu, waited and rest; transfers go on beside them.
struct TimeShares {
  std::chrono::nanoseconds cpu{};  // in operations, less what they waited
  std::array<std::chrono::nanoseconds, kResources> waited{};  // for that resource, doing nothing
  std::chrono::nanoseconds rest{};                            // between operations
  // In which at least one transfer of the resource was in flight.
  std::array<std::chrono::nanoseconds, kResources> busy{};
  uint64_t bytes = 0;  // of DRAM, by formula, of what its operations read and wrote
  uint64_t flop = 0;   // by formula; of chosen blocks as if all were attended

  std::chrono::nanoseconds waited_for(Resource of) const {
    return waited[static_cast<uint32_t>(of)];
  }
  std::chrono::nanoseconds busy_of(Resource of) const { return busy[static_cast<uint32_t>(of)]; }
  std::chrono::nanoseconds waited_in_all() const;
  std::chrono::nanoseconds wall() const { return cpu + waited_in_all() + rest; }
  void add(const TimeShares& more);
};

struct LayerShares {
  uint32_t layer = kNoLayer;  // kNoLayer: embedding, logits, what stands before the first layer
  TimeShares time;
};
struct StepShares {
  uint64_t first_pos = 0;
  uint32_t n_rows = 0;
  TimeShares time;
  std::vector<LayerShares> layers;  // ascending; kNoLayer is last
};
struct StageShares {
  std::string_view name;  // of an operation
  TimeShares time;        // cpu, waited, bytes and flop
};

struct Attribution {
  std::vector<StepShares> steps;    // in the order in which they ran
  std::vector<LayerShares> layers;  // ascending, summed over steps; kNoLayer is last
  std::vector<StageShares> stages;  // in the order of their first begin, summed over steps
  TimeShares all;                   // summed over steps

  uint64_t n_rows() const;
};

/// Of the events of a trace (Trace::events). An operation inside another one is a stage of its own,
/// and the outer one is what it was without it. What stands between two operations of a step is of
/// the layer of the first. Transfers count as far as they are within a step. Of events of other
/// steps than those named "step", and of steps that began before the first event held where some
/// were dropped, nothing is said.
Attribution attribute(const Trace& trace);

}  // namespace strata::cli
