#include "planner/step_plan_builder.h"

#include <algorithm>

#include "base/check.h"

namespace strata::planner {
namespace {

/// Appends an operation that depends on the one before it: with one resource and one stream of rows
/// the order is a chain.
void append(StepPlan& plan, StepOp op) {
  op.depends_on = plan.ops.empty() ? UINT32_MAX : static_cast<uint32_t>(plan.ops.size() - 1);
  plan.ops.push_back(op);
}

}  // namespace

uint64_t attended_positions(const SequenceRows& rows, uint32_t window) {
  const uint64_t begin = rows.first_pos;
  const uint64_t end = begin + rows.n_rows;
  const auto triangle = [](uint64_t n) { return n * (n + 1) / 2; };  // 1 + 2 + ... + n
  if (window == 0 || end <= window) return triangle(end) - triangle(begin);
  const uint64_t growing_end = std::max<uint64_t>(begin, window);
  const uint64_t growing = begin < window ? triangle(window) - triangle(begin) : 0;
  return growing + (end - growing_end) * window;
}

uint64_t read_positions(const SequenceRows& rows, uint32_t window) {
  const uint64_t end = uint64_t{rows.first_pos} + rows.n_rows;
  const uint64_t first =
      window == 0 || rows.first_pos + 1 <= window ? 0 : rows.first_pos + 1 - window;
  return rows.n_rows == 0 ? 0 : end - first;
}

void build_step_plan(const ModelShape& shape, const PieceBytes& pieces,
                     uint64_t stream_position_bytes, const StepShape& step, StepPlan& plan) {
  STRATA_CHECK(pieces.layers.size() == shape.n_layers, "%zu piece sizes for %u layers",
               pieces.layers.size(), shape.n_layers);
  plan.ops.clear();
  uint64_t n_rows = 0;
  for (const auto& rows : step.sequences) n_rows += rows.n_rows;
  const uint64_t d_model = shape.d_model;

  append(plan, {.kind = OpKind::kEmbed, .weight_bytes = n_rows * pieces.embedding_row});
  for (uint32_t layer = 0; layer < shape.n_layers; ++layer) {
    const LayerShape& of = shape.layers[layer];
    const LayerPieceBytes& bytes = pieces.layers[layer];
    const uint64_t q_width = uint64_t{of.n_heads} * shape.head_dim;
    const uint64_t kv_width = uint64_t{of.n_kv_heads} * shape.head_dim;
    const uint64_t position_bytes = of.n_kv_heads * stream_position_bytes;
    uint64_t attended = 0;
    uint64_t read = 0;
    for (const auto& rows : step.sequences) {
      attended += attended_positions(rows, of.window);
      read += read_positions(rows, of.window);
    }
    append(plan, {.kind = OpKind::kAttnNorm, .layer = layer});
    append(plan, {.kind = OpKind::kQkv,
                  .layer = layer,
                  .weight_bytes = bytes.qkv,
                  .kv_write_bytes = n_rows * position_bytes,
                  .flop = 2 * n_rows * d_model * (q_width + 2 * kv_width)});
    append(plan, {.kind = OpKind::kAttend,
                  .layer = layer,
                  .kv_read_bytes = read * position_bytes,
                  .flop = 4 * attended * q_width});
    append(plan, {.kind = OpKind::kAttnOutput,
                  .layer = layer,
                  .weight_bytes = bytes.attn_output,
                  .flop = 2 * n_rows * q_width * d_model});
    append(plan, {.kind = OpKind::kFfnNorm, .layer = layer});
    append(plan, {.kind = OpKind::kFfnGateUp,
                  .layer = layer,
                  .weight_bytes = bytes.ffn_gate_up,
                  .flop = 4 * n_rows * d_model * of.d_ff});
    append(plan, {.kind = OpKind::kFfnDown,
                  .layer = layer,
                  .weight_bytes = bytes.ffn_down,
                  .flop = 2 * n_rows * d_model * of.d_ff});
  }
  if (step.n_logit_rows > 0)
    append(plan, {.kind = OpKind::kLogits,
                  .weight_bytes = pieces.output_head,
                  .flop = 2 * step.n_logit_rows * d_model * shape.vocab_size});
}

}  // namespace strata::planner
