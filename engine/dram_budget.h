// engine/dram_budget.h - one budget for everything of ours in DRAM (--dram), divided between
// weights and K and V: a pure function, by hand: what runs where no placement is given.
#pragma once

#include <cstdint>
#include <string>

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
/// request.available_bytes is the budget without kProcessBytes; `held` as plan_weights() has it.
uint64_t weights_share(const WeightSizes& sizes, const ModelShape& shape,
                       const ContextRequest& request, const std::vector<PieceSet>& held = {});

struct DividedDram {
  WeightPlan weights;
  ContextPlan context;
};

/// Weights and context; of weights `weights_dram_bytes`, 0 = weights_share() where there is a
/// budget, else all. Errors: those of plan_weights and plan_context.
DividedDram divide_dram(const WeightSizes& sizes, const ModelShape& shape, ContextRequest request,
                        uint64_t weights_dram_bytes, const std::vector<PieceSet>& held = {});

/// The smallest --dram that would do, to some KiB, of at most available_max and kProcessBytes;
/// 0: none does. `request` is one that divide_dram refuses. Cost: some twenty divisions.
uint64_t smallest_dram(const WeightSizes& sizes, const ModelShape& shape, ContextRequest request,
                       uint64_t weights_dram_bytes, uint64_t available_max);

/// The remedy of such a refusal with that --dram as one more way out.
std::string remedy_with_dram(const std::string& remedy, uint64_t dram_bytes);

}  // namespace strata::engine
