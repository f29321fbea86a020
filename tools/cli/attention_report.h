// tools/cli/attention_report.h - which attention an answer ran with and what it read, as a part of
// the last line and as JSON.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "engine/engine.h"

namespace strata::cli {

/// What selected steps have read since the model was loaded; all 0 where attention is exact.
engine::SelectionCounts selection_counts(engine::Engine& engine);

/// " | exact attention", or " | attention pq 2048: 6.2 % of K and V read, 1.1 MiB a step": of what
/// was read since `before`.
std::string attention_text(engine::Engine& engine, const engine::SelectionCounts& before);

/// The object `attention` of `run --json` (docs of the contract: README.md). `has_decoded`: the
/// plan of the last step is that of a decoded token.
nlohmann::ordered_json attention_json(engine::Engine& engine, const engine::SelectionCounts& before,
                                      bool has_decoded);

}  // namespace strata::cli
