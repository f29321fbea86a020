// tools/makers/teacher_forced.h - logits along given token ids, and along the greedy answer to
// them: what is compared with other engines.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/walk.h"

namespace strata::makers {

/// Hears the logits [vocab_size] after a position; valid during the call.
using OnRow = std::function<void(uint32_t pos, std::span<const float> logits)>;

/// Feeds `ids` to an empty sequence in steps of walk.max_rows(), then one at a time n_greedy - 1 of
/// the n_greedy likeliest tokens (ties: the lower id), which it returns. `positions`, ascending and
/// below ids.size() + n_greedy, says whose logits are heard, in order. Errors: those of Walk::step.
std::vector<int32_t> walk_teacher_forced(engine::Walk& walk, engine::Sequence& sequence,
                                         std::span<const int32_t> ids,
                                         std::span<const uint32_t> positions, uint32_t n_greedy,
                                         const OnRow& on_row);

}  // namespace strata::makers
