// tools/cli/tier_report.h - where the bytes of a run lay and how they moved, as a line and as JSON.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "engine/engine.h"

namespace strata::cli {

/// "K and V: 48.0 MiB in memory, 180.0 MiB on disk | disk: 1.2 GiB read, ..."; empty where nothing
/// spilled and all that was read of saved contexts was right. After load().
std::string tier_line(engine::Engine& engine);

/// The objects `tiers` and `faults` of `run --json`. After load().
nlohmann::ordered_json tiers_json(engine::Engine& engine);
nlohmann::ordered_json faults_json(engine::Engine& engine);

}  // namespace strata::cli
