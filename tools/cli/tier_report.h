// tools/cli/tier_report.h - where the bytes of a run lay and how they moved, as a line and as JSON.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "engine/engine.h"

namespace strata::cli {

/// What has moved and happened since the model was loaded.
struct TierCounts {
  tiers::TransferCounts kv;  // K and V, to and from the disk
  tiers::StoreCounts store;
  engine::WalkCounts walk;
  engine::WeightReadCounts weights;
};
TierCounts tier_counts(engine::Engine& engine);

/// "K and V: 48.0 MiB in memory, 180.0 MiB in the spill file | ...": what moved since `before`;
/// empty where nothing spilled, nothing saved was read and nothing went wrong. After load().
std::string tier_line(engine::Engine& engine, const TierCounts& before);

/// The objects `tiers` and `faults` of `run --json`, of what moved since `before`. After load().
nlohmann::ordered_json tiers_json(engine::Engine& engine, const TierCounts& before);
nlohmann::ordered_json faults_json(engine::Engine& engine, const TierCounts& before);

}  // namespace strata::cli
