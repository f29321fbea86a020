// planner/step_plan_builder.h - the one place that says which operations a step has and what each
// reads, writes and computes.
#pragma once

#include <cstdint>
#include <vector>

#include "base/model_shape.h"
#include "base/step_plan.h"

namespace strata::planner {

/// Bytes of each weight piece as the kernels read it.
struct LayerPieceBytes {
  uint64_t qkv = 0;
  uint64_t attn_output = 0;
  uint64_t ffn_gate_up = 0;
  uint64_t ffn_down = 0;
};
struct PieceBytes {
  uint64_t embedding_row = 0;
  uint64_t output_head = 0;
  std::vector<LayerPieceBytes> layers;  // [n_layers]
};

/// Positions that rows [first_pos, first_pos + n_rows) attend in a layer, summed over rows: min(pos
/// + 1, window) each, window = 0 for a full layer.
uint64_t attended_positions(const SequenceRows& rows, uint32_t window);
/// Positions of a sequence that a layer reads once for these rows:
/// the union of what its rows attend.
uint64_t read_positions(const SequenceRows& rows, uint32_t window);

/// Fills `plan` (its capacity is reused: no allocation from the second call on) with the operations
/// of one step, in an order that respects their dependencies. Pure: the same arguments give the
/// same plan.
///
/// Formulas per layer; n = rows of the step, a = attended_positions, r = read_positions,
/// b = stream_position_bytes, K + V bytes of a position of a stream:
///   qkv          weights once; writes n n_kv_heads b; flop 2 n d_model (n_heads + 2 n_kv_heads)
///                head_dim
///   attend       reads r n_kv_heads b; flop 4 a n_heads head_dim
///   projections  weights once; flop 2 n n_in n_out
void build_step_plan(const ModelShape& shape, const PieceBytes& pieces,
                     uint64_t stream_position_bytes, const StepShape& step, StepPlan& plan);

}  // namespace strata::planner
