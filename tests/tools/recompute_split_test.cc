// bench --roofline: what making K and V anew from hidden states would gain, by rates that are
// invented here.
#include "tools/cli/recompute_split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace strata::cli {
namespace {

ModelShape shape_of(uint32_t d_model, uint32_t n_kv_heads, uint32_t head_dim) {
  ModelShape shape;
  shape.n_layers = 2;
  shape.d_model = d_model;
  shape.head_dim = head_dim;
  // The full layer counts, wherever it stands.
  shape.layers = {{.kind = LayerKind::kWindow, .n_heads = 16, .n_kv_heads = 1, .window = 512},
                  {.kind = LayerKind::kFull, .n_heads = 16, .n_kv_heads = n_kv_heads}};
  return shape;
}

RecomputeCost cost_of(const ModelShape& shape, KvCodec codec = KvCodec::kF16) {
  return recompute_cost(shape, codec, codec);
}

const ModelShape kGrouped = shape_of(4096, 8, 128);  // as Llama 3.1 8B has it
const ModelShape kWide = shape_of(3072, 16, 256);    // as Gemma 7B

RecomputeRates rates(double gbytes_per_s, double gflop_per_s) {
  return {gbytes_per_s, gflop_per_s, "the disk", "qkv"};
}

TEST(RecomputeSplit, OfSharedKeysNothingIsMadeAnew) {
  const RecomputeCost cost = cost_of(kGrouped);
  EXPECT_EQ(cost.kv_bytes, 2 * 8 * 128 * 2);
  EXPECT_EQ(cost.hidden_bytes(), 4 * cost.kv_bytes);
  EXPECT_EQ(cost.flop(), 4.0 * 4096 * 1024);
  for (const double gflop_per_s : {1.0, 1e3, 1e9}) {
    const RecomputeSplit split = best_split(cost, rates(2, gflop_per_s));
    EXPECT_EQ(split.share, 0);
    EXPECT_EQ(split.gain, 0);
    EXPECT_EQ(split.fetch_ns, 2048);
    for (const double share : {0.01, 0.5, 1.0})
      EXPECT_GT(split_ns(cost, rates(2, gflop_per_s), share), split.fetch_ns);
  }
  EXPECT_EQ(recompute_line(cost, rates(2, 400)),
            "K and V from hidden states: 16384 B a position and layer (4 * d_model 4096, f32) "
            "against 4096 B of K and V (n_kv_heads 8 * head_dim 128); K and V take 2048.0 ns at "
            "2.00 GB/s of the disk, making them 41943.0 ns at 400 GFLOP/s of qkv: best is to make "
            "none: hidden states are no fewer bytes\n");
}

/// The sweep of the split has its minimum where the arithmetic says.
TEST(RecomputeSplit, OfWideKeysSoManyAreMadeAnewThatNeitherWaits) {
  const RecomputeCost cost = cost_of(kWide);
  EXPECT_EQ(cost.kv_bytes, 16384);
  EXPECT_EQ(cost.hidden_bytes(), 12288);
  for (const double gbytes_per_s : {0.1, 1.0, 3.0, 50.0})
    for (const double gflop_per_s : {10.0, 400.0, 4e4, 1e7}) {
      const RecomputeRates of = rates(gbytes_per_s, gflop_per_s);
      const RecomputeSplit split = best_split(cost, of);
      const double best_ns = split_ns(cost, of, split.share);
      EXPECT_GT(split.share, 0);
      EXPECT_LE(split.share, 1);
      EXPECT_NEAR(best_ns, (1 - split.gain) * split.fetch_ns, 1e-9 * best_ns);
      for (int i = 0; i <= 1000; ++i)
        EXPECT_LE(best_ns, (1 + 1e-12) * split_ns(cost, of, i / 1000.0)) << gbytes_per_s;
    }
  // Where computing is free, what the hidden states are fewer.
  const RecomputeSplit free = best_split(cost, rates(1, 1e9));
  EXPECT_EQ(free.share, 1);
  EXPECT_NEAR(free.gain, 0.25, 1e-9);
  // 16.384 us beside 125.83 us: 0.1261 of them, each of which spares 4.096 us.
  const RecomputeSplit split = best_split(cost, rates(1, 400));
  EXPECT_NEAR(split.recompute_ns, 125829.12, 0.01);
  EXPECT_NEAR(split.share, 16384 / (125829.12 + 4096), 1e-9);
  EXPECT_NEAR(split.gain, split.share / 4, 1e-9);
  const std::string line = recompute_line(cost, rates(1, 400));
  EXPECT_TRUE(line.ends_with(": best is to make 12.6 %, which gains 3.2 % at most\n")) << line;
}

TEST(RecomputeSplit, InQ8WideKeysAreFewerBytes) {
  const RecomputeCost cost = cost_of(kWide, KvCodec::kQ8_0);
  EXPECT_EQ(cost.kv_bytes, 2 * 16 * (256 + 16));
  EXPECT_EQ(best_split(cost, rates(1, 1e9)).share, 0);
}

TEST(RecomputeSplit, AnUnknownRateIsSaid) {
  const RecomputeCost cost = cost_of(kWide);
  EXPECT_TRUE(recompute_line(cost, rates(0, 100)).ends_with("; a rate is not known\n"));
  EXPECT_TRUE(recompute_line(cost, rates(1, 0)).ends_with("; a rate is not known\n"));
  EXPECT_FALSE(recompute_json(cost, rates(1, 0)).contains("split_gain"));
  EXPECT_EQ(recompute_json(cost, rates(1, 1e9))["best_share"], 1);
}

}  // namespace
}  // namespace strata::cli
