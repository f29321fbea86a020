// tools/cli/attention_report.h - which attention an answer ran with and what it read, as a part of
// the last line and as JSON.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "engine/engine.h"

namespace strata::cli {

/// As --attn spells it.
const char* method_name(index::Method method);

/// What selected steps have read since the model was loaded; all 0 where attention is exact.
engine::SelectionCounts selection_counts(engine::Engine& engine);

/// "card", "cpu" or "both": in whose memory choosing has read the rows of the index; where it has
/// read none, as it is planned.
const char* index_searched_by(const engine::SelectionCounts& reads, bool card_is_to_search);
/// What follows "of the index" where a card has searched: " in the card's memory", or how much of
/// it; nothing where none has.
std::string searched_place_text(const engine::SelectionCounts& reads);

/// " | exact attention", or " | attention pq 2048 (approximate): 6.2 % of K and V read, 1.1 MiB a
/// step": of what was read since `before`. Where no step of the engine has left anything out, it
/// says that the answer is exact.
std::string attention_text(engine::Engine& engine, const engine::SelectionCounts& before);

/// What steps have read that attend what `method` chooses within `budget`.
nlohmann::ordered_json selected_json(const std::string& method, const std::string& budget,
                                     uint64_t kv_position_bytes,
                                     const engine::SelectionCounts& reads);

/// The object `attention` of `run --json` (docs of the contract: README.md). `has_decoded`: the
/// plan of the last step is that of a decoded token.
nlohmann::ordered_json attention_json(engine::Engine& engine, const engine::SelectionCounts& before,
                                      bool has_decoded);

}  // namespace strata::cli
