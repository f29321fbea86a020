// tools/serve/planned_parallel.h - how many answers at a time, where nobody says: as many as the
// plan of memory has room for.
#pragma once

#include <cstdint>
#include <functional>

namespace strata::serve {

inline constexpr uint32_t kPlannedParallelMax = 4;  // more only where --parallel says so
// Answers share the context's memory: one more is planned where each has a share of so many tokens.
inline constexpr uint64_t kPlannedShareTokens = 512;

/// A plan: what it has for answers together.
struct PlannedContext {
  uint64_t n_ctx = 0;
  uint32_t step_rows = 0;  // an answer takes a row of a step, and prompts at least as many
};

/// Calls `plan` with falling numbers of answers at a time until its context has shares and rows for
/// them, or it is one; returns that of the last call. Where `plan` throws kDoesNotFit (windows,
/// tables, logits and index rows of each answer beside the first are counted), half as many are
/// tried. Errors: those of `plan`, with one answer.
uint32_t planned_parallel(const std::function<PlannedContext(uint32_t n_parallel)>& plan);

}  // namespace strata::serve
