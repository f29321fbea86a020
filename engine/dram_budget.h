// engine/dram_budget.h - one budget for everything of ours in DRAM (--dram), divided between
// weights and K and V: a pure function, by hand: what runs where no placement is given.
#pragma once

#include <cstdint>

#include "engine/context_size.h"
#include "engine/weight_budget.h"

namespace strata::engine {

/// What the program, its tokenizer and the head of the model file take beside the arenas: counted
/// against the budget.
inline constexpr uint64_t kProcessBytes = uint64_t{48} << 20;

/// The budget of weights: 0 = all of them, where beside the walk's buffers they leave K and V what
/// the context needs, or the least with which it spills where that is less; else what K and V
/// leave, but not less than the smallest with which weights can be streamed. Every layer that stays
/// saves its bytes in every step, as every extent does; weights are read by every row.
/// request.available_bytes is the budget without kProcessBytes.
uint64_t weights_share(const WeightSizes& sizes, const ModelShape& shape,
                       const ContextRequest& request);

}  // namespace strata::engine
