#include "planner/step_plan_builder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace strata::planner {
namespace {

ModelShape two_layers() {
  ModelShape shape{.architecture = "llama",
                   .n_layers = 2,
                   .d_model = 8,
                   .head_dim = 4,
                   .vocab_size = 10,
                   .n_ctx_train = 100,
                   .layers = {}};
  shape.layers.push_back({.n_heads = 2, .n_kv_heads = 1, .d_ff = 16});
  shape.layers.push_back(
      {.kind = LayerKind::kWindow, .n_heads = 2, .n_kv_heads = 1, .d_ff = 16, .window = 3});
  return shape;
}

PieceBytes pieces() {
  const LayerPieceBytes layer{.qkv = 100, .attn_output = 200, .ffn_gate_up = 300, .ffn_down = 400};
  return {.embedding_row = 5, .output_head = 1000, .layers = {layer, layer}};
}

TEST(StepPlanBuilder, PositionFormulasEqualCounting) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 2000; ++i) {
    const SequenceRows rows{static_cast<uint32_t>(random() % 50),
                            static_cast<uint32_t>(random() % 20)};
    const auto window = static_cast<uint32_t>(random() % 30);
    uint64_t attended = 0;
    std::vector<bool> read(100, false);
    for (uint32_t pos = rows.first_pos; pos < rows.first_pos + rows.n_rows; ++pos)
      for (uint32_t key = 0; key <= pos; ++key)
        if (window == 0 || key + window > pos) {
          ++attended;
          read[key] = true;
        }
    EXPECT_EQ(attended_positions(rows, window), attended)
        << rows.first_pos << " " << rows.n_rows << " " << window;
    EXPECT_EQ(read_positions(rows, window), static_cast<uint64_t>(std::ranges::count(read, true)));
  }
}

TEST(StepPlanBuilder, CountsBytesAndFlopByFormula) {
  StepPlan plan;
  const StepShape step{.sequences = {{.first_pos = 4, .n_rows = 2}, {.first_pos = 0, .n_rows = 1}},
                       .n_logit_rows = 1};
  build_step_plan(two_layers(), pieces(), 16, step, plan);
  ASSERT_EQ(plan.ops.size(), 1 + 2 * 7 + 1u);
  EXPECT_EQ(plan.ops[0].weight_bytes, 15u);
  EXPECT_EQ(plan.ops[2].kind, OpKind::kQkv);
  EXPECT_EQ(plan.ops[2].flop, 2 * 3 * 8 * (8 + 8));
  EXPECT_EQ(plan.ops[2].kv_write_bytes, 3 * 16u);
  EXPECT_EQ(plan.ops[3].kv_read_bytes,
            (6 + 1) * 16u);  // positions 0..5, and 0 of the other sequence
  EXPECT_EQ(plan.ops[3].flop, 4 * (5 + 6 + 1) * 8u);
  EXPECT_EQ(plan.ops[10].kind, OpKind::kAttend);
  EXPECT_EQ(plan.ops[10].kv_read_bytes, (4 + 1) * 16u);  // window 3: positions 2..5
  EXPECT_EQ(plan.ops[10].flop, 4 * (3 + 3 + 1) * 8u);
  EXPECT_EQ(plan.ops.back().kind, OpKind::kLogits);
  EXPECT_EQ(plan.ops.back().flop, 2 * 8 * 10u);
}

TEST(StepPlanBuilder, EveryOperationDependsOnAnEarlierOne) {
  StepPlan plan;
  build_step_plan(two_layers(), pieces(), 16, {.sequences = {{0, 1}}, .n_logit_rows = 0}, plan);
  EXPECT_EQ(plan.ops.front().depends_on, UINT32_MAX);
  for (uint32_t i = 1; i < plan.ops.size(); ++i) EXPECT_LT(plan.ops[i].depends_on, i);
  EXPECT_NE(plan.ops.back().kind, OpKind::kLogits);
}

TEST(StepPlanBuilder, ASecondPlanTakesNoMemory) {
  StepPlan plan;
  const StepShape step{.sequences = {{0, 1}}, .n_logit_rows = 1};
  build_step_plan(two_layers(), pieces(), 16, step, plan);
  const StepOp* ops = plan.ops.data();
  build_step_plan(two_layers(), pieces(), 16, step, plan);
  EXPECT_EQ(plan.ops.data(), ops);
}

}  // namespace
}  // namespace strata::planner
