// tools/cli/plan_pins.h - what --pin, -ngl and --kv-tier say, as what the planner may do with each
// piece of each layer.
#pragma once

#include <optional>
#include <vector>

#include "engine/gguf/gguf_file.h"
#include "planner/placement/problem.h"
#include "tools/cli/command_line.h"

namespace strata::cli {

struct PlanPins {
  std::vector<planner::PiecePins> layers;  // [n_layers], or empty: anywhere
  std::optional<planner::PlanTier> kv;

  bool is_any() const { return !layers.empty() || kv.has_value(); }
};

/// Errors: kUsage, naming the pin: no pattern, no tier, tensors that are not there or never move,
/// part of a piece, two tiers for one piece, more layers on a device than the pins leave.
PlanPins plan_pins(const Command& command, const engine::GgufFile& file, uint32_t n_layers);

/// What of a machine pins need.
struct PinnableTiers {
  bool has_device = false;
  bool may_stream = false, may_spill = false;
  bool is_long = false;  // K and V are more than what stays in DRAM where they spill
};
/// Refuses pins to a tier that is not there. Errors: kUsage.
void check_pinned_tiers(const Command& command, const PlanPins& pins, const PinnableTiers& tiers);

}  // namespace strata::cli
