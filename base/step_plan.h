// base/step_plan.h - a step's operations with resource, dependencies, bytes and FLOP. One pure
// function builds it (planner/step_plan_builder.h); the engine executes it, benches print it, a
// simulator may run it in virtual time.
#pragma once

#include <cstdint>
#include <vector>

namespace strata {

// What works on a step, and what the walk may wait for.
enum class Resource : uint8_t {
  kCpu,
  kWeightDisk,  // weights from the model file
  kKvDisk,      // K and V from a spill file or saved contexts
  kDevice,
};
inline constexpr uint32_t kResources = 4;

enum class OpKind : uint8_t {
  kEmbed,       // token ids -> residual rows
  kAttnNorm,    // residual -> normed rows
  kQkv,         // normed rows -> q, k, v (biases, QK-norm, RoPE) and K/V into the open blocks
  kAttend,      // q, blocks -> attention output
  kAttnOutput,  // projection (and post-norm), added to the residual
  kFfnNorm,
  kFfnGateUp,  // gate and up projections, activation
  kFfnDown,    // projection (and post-norm), added to the residual
  kLogits,     // final norm and output head for rows that want logits
};

inline constexpr uint32_t kNoLayer = UINT32_MAX;

struct StepOp {
  OpKind kind;
  Resource resource = Resource::kCpu;
  uint32_t layer = kNoLayer;
  // Index of the operation that must have ended; UINT32_MAX = none.
  uint32_t depends_on = UINT32_MAX;
  uint64_t weight_bytes = 0;   // read once per step, as packed
  uint64_t kv_read_bytes = 0;  // blocks read once per sequence, by formula, whole positions
  uint64_t kv_write_bytes = 0;
  uint64_t flop = 0;  // multiply and add count as two
};

struct StepPlan {
  std::vector<StepOp> ops;
};

/// The rows one sequence has in a step: positions [first_pos, first_pos + n_rows).
struct SequenceRows {
  uint32_t first_pos = 0;
  uint32_t n_rows = 0;
};

struct StepShape {
  std::vector<SequenceRows> sequences;
  uint32_t n_logit_rows = 0;
};

const char* op_kind_name(OpKind kind);

}  // namespace strata
