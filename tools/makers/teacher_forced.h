// tools/makers/teacher_forced.h - logits along given token ids: what is compared with other
// engines.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/walk.h"

namespace strata::makers {

/// Hears the logits [vocab_size] after a position; valid during the call.
using OnRow = std::function<void(uint32_t pos, std::span<const float> logits)>;

/// Feeds `ids` to a sequence in steps of walk.max_rows(). `positions`, ascending, says whose logits
/// are heard, in order; those that this call does not walk are ignored. Errors: those of
/// Walk::step.
void walk_teacher_forced(engine::Walk& walk, engine::Sequence& sequence,
                         std::span<const int32_t> ids, std::span<const uint32_t> positions,
                         const OnRow& on_row);

}  // namespace strata::makers
