// What a plan counts is what the engine reserves: sums of a problem beside the functions that plan
// the memory of a run.
#include "engine/placement_problem.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/context_size.h"
#include "engine/dram_budget.h"
#include "engine/kv_cache.h"
#include "planner/placement/placement.h"
#include "planner/placement/plan_rates.h"
#include "tests/engine/small_model.h"

namespace strata::engine {
namespace {

using planner::LayerPlacement;
using planner::PlacementProblem;
using testing::make_small_model;
using testing::SmallModelOptions;

constexpr double kByte = 1e-9;

struct Planned {
  std::vector<std::byte> bytes;
  GgufFile file;
  PlannedModel model;
  PlacementRequest request;

  explicit Planned(const SmallModelOptions& options)
      : bytes(make_small_model(options).bytes()), file(testing::parse_file(bytes)) {
    model = describe_for_plan(file, read_model_spec(file));
    request.profile = planner::unmeasured_profile();
    request.n_ctx = 4096;
    request.n_out = 256;
    request.dram_bytes = uint64_t{4} << 30;
    request.nvme_bytes = uint64_t{4} << 30;
    request.codecs = {{}};
    request.chunks = {512};
    request.n_threads = 3;
    request.has_packs = true;
  }
  PlacementProblem problem() const { return placement_problems(model, request).front(); }
  KvContext context() const {
    ContextRequest asked;
    asked.has_packs = request.has_packs;
    asked.method = request.method;
    return kv_context(asked, request.n_ctx);
  }
  uint64_t walk_bytes() const {
    return kProcessBytes + walk_buffer_bytes(model.spec.shape, 512, request.n_threads);
  }
  /// Every layer in DRAM or streamed, with all of K and V that fits.
  LayerPlacement placed(const PlacementProblem& problem, bool is_streamed) const {
    LayerPlacement counted;
    for (const planner::LayerGroup& group : problem.groups) {
      const auto n = static_cast<uint32_t>(group.layers.size());
      counted.groups.push_back({.n_dram = is_streamed ? 0 : n, .n_nvme = is_streamed ? n : 0});
    }
    const auto placement = planner::with_kv(problem, counted);
    EXPECT_TRUE(placement);
    return placement.value_or(counted);
  }
};

SmallModelOptions long_model(const std::string& architecture = "llama") {
  SmallModelOptions options;
  options.architecture = architecture;
  options.n_layers = 6;
  options.head_dim = 32;
  options.n_ctx_train = 1 << 20;
  return options;
}

TEST(PlacementProblem, CountsWhatARunReserves) {
  // gemma3's windowed layers, and a full one, hold different numbers of positions.
  for (const char* architecture : {"llama", "gemma3"})
    for (const bool is_streamed : {false, true}) {
      SCOPED_TRACE(::testing::Message() << architecture << ' ' << is_streamed);
      const Planned planned(long_model(architecture));
      const PlacementProblem problem = planned.problem();
      const auto gb = planner::placed_gb(problem, planned.placed(problem, is_streamed));
      const WeightPlan weights = weight_plan_of(
          planned.model.sizes,
          std::vector<uint8_t>(planned.model.sizes.layers.size(), is_streamed ? 1 : 0));
      const KvPlacement kv = place_whole(planned.model.spec.shape, planned.context());
      const uint64_t expected = weights.total_bytes() + kv.dram_bytes() + planned.walk_bytes();
      EXPECT_NEAR(gb.dram(), static_cast<double>(expected) * 1e-9, kByte);
      EXPECT_NEAR(gb.dram_kv, static_cast<double>(kv.slot_bytes) * 1e-9, kByte);
    }
}

TEST(PlacementProblem, LeastMemoryIsThatOfARunThatSpills) {
  for (const char* architecture : {"llama", "gemma3"}) {
    SCOPED_TRACE(architecture);
    Planned planned(long_model(architecture));
    planned.request.n_ctx = 1 << 17;
    planned.request.dram_bytes = 1;
    const auto lacks = planner::shortage(planned.problem());
    ASSERT_TRUE(lacks && lacks->dram_gb);
    const ModelShape& shape = planned.model.spec.shape;
    const uint64_t expected = smallest_weight_budget(planned.model.sizes) +
                              smallest_spilling_dram(shape, planned.context()) +
                              planned.walk_bytes();
    // Full layers hold whole blocks each, so the last ones may be a block more.
    const double block = 2.0 * 32 * 2 * 32 * shape.n_layers * 2;
    EXPECT_GE(*lacks->dram_gb, static_cast<double>(expected) * 1e-9 - kByte);
    EXPECT_LE(*lacks->dram_gb, (static_cast<double>(expected) + block) * 1e-9 + kByte);
    EXPECT_NEAR(planned.problem().spill_file_gb,
                static_cast<double>(spill_bytes(shape, planned.context())) * 1e-9, kByte);
  }
}

TEST(PlacementProblem, LayersThatAreAlikeAreOneGroup) {
  const PlacementProblem llama = Planned(long_model()).problem();
  ASSERT_EQ(llama.groups.size(), 1u);
  EXPECT_EQ(llama.groups[0].layers.size(), 6u);
  const PlacementProblem gemma = Planned(long_model("gemma3")).problem();
  ASSERT_EQ(gemma.groups.size(), 2u);
  EXPECT_EQ(gemma.groups[0].window, 16u);
  EXPECT_EQ(gemma.groups[1].layers, std::vector<uint32_t>{5});
}

TEST(PlacementProblem, WhatComesFromTheDiskIsPricedByTheSizeOfItsRequests) {
  Planned planned(long_model());
  planner::MachineProfile& profile = planned.request.profile;
  profile.disk_read_bytes_per_s = 4e9;
  profile.disk_read = {{4096, 8, 1e9}, {1 << 20, 8, 4e9}};
  const planner::LayerGroup small = planned.problem().groups.at(0);
  const LayerSize& size = planned.model.sizes.layers[0];
  ASSERT_EQ(size.n_reads, 1u);
  EXPECT_DOUBLE_EQ(small.weights_read_share, static_cast<double>(size.file_bytes) /
                                                 static_cast<double>(size.packed_bytes) *
                                                 planner::read_share(profile, size.file_bytes, 8));
  EXPECT_GT(small.weights_read_share, 1.1);
  EXPECT_EQ(small.ahead_share, 1);
  // Two KV heads of 256 positions: K and V of 32 dimensions in f16 each.
  EXPECT_DOUBLE_EQ(small.kv_read_share, planner::read_share(profile, 2 * 256 * 2 * 32 * 2, 8));
  EXPECT_GT(small.kv_read_share, 1.1);
  EXPECT_GT(planned.problem().staged_positions, 0);
  // A model of large layers is read by requests of a disk's full rate.
  SmallModelOptions wide = long_model();
  wide.d_ff = 30'000;
  Planned large(wide);
  large.request.profile = profile;
  EXPECT_NEAR(large.problem().groups.at(0).weights_read_share, 1, 0.05);
}

TEST(PlacementProblem, LayersThatLieElsewhereInTheFileAreAnotherGroup) {
  Planned planned(long_model());
  planner::MachineProfile& profile = planned.request.profile;
  profile.disk_read_bytes_per_s = 4e9;
  profile.disk_read = {{512, 8, 2e8}, {4096, 8, 1e9}, {1 << 20, 8, 4e9}};
  const planner::LayerGroup alike = planned.problem().groups.at(0);
  std::vector<LayerSize>& sizes = planned.model.sizes.layers;
  // A little apart: one group, which has the mean.
  sizes[0].file_bytes += sizes[0].file_bytes / 20;
  const PlacementProblem near = planned.problem();
  ASSERT_EQ(near.groups.size(), 1u);
  const double of_first = static_cast<double>(sizes[0].file_bytes) /
                          static_cast<double>(sizes[0].packed_bytes) *
                          planner::read_share(profile, sizes[0].file_bytes, 8);
  EXPECT_GT(of_first, alike.weights_read_share);
  EXPECT_NEAR(near.groups[0].weights_read_share, (of_first + 5 * alike.weights_read_share) / 6,
              1e-12);
  // In many small pieces: not alike, wherever the first one stands.
  for (const uint32_t layer : {1u, 4u}) sizes[layer].n_reads = 64;
  const PlacementProblem apart = planned.problem();
  ASSERT_EQ(apart.groups.size(), 2u);
  EXPECT_EQ(apart.groups[0].layers, (std::vector<uint32_t>{0, 2, 3, 5}));
  EXPECT_EQ(apart.groups[1].layers, (std::vector<uint32_t>{1, 4}));
  EXPECT_GT(apart.groups[1].weights_read_share, 1.2 * apart.groups[0].weights_read_share);
}

TEST(PlacementProblem, DraftsAreCountedWhereAStepReadsFromDisk) {
  for (const bool where_disk : {false, true}) {
    Planned planned(long_model());
    const PlacementProblem none = planned.problem();
    planned.request.n_draft_max = 7;
    planned.request.drafts_where_disk = where_disk;
    const PlacementProblem problem = planned.problem();
    ContextRequest asked;
    asked.n_ctx = planned.request.n_ctx;
    const uint64_t without = buffer_bytes(planned.model.spec.shape, asked);
    asked.n_draft_max = 7;
    const double drafts =
        static_cast<double>(buffer_bytes(planned.model.spec.shape, asked) - without) * 1e-9;
    EXPECT_GT(drafts, 0);
    for (const bool is_streamed : {false, true}) {
      const auto layers = planned.placed(problem, is_streamed);
      const double more = placed_gb(problem, layers).dram() - placed_gb(none, layers).dram();
      EXPECT_NEAR(more, is_streamed || !where_disk ? drafts : 0, kByte) << is_streamed;
    }
  }
}

TEST(PlacementProblem, OneForEachCodecAndChunk) {
  Planned planned(long_model());
  planned.request.codecs = {{}, {KvCodec::kQ8_0, KvCodec::kQ8_0}};
  planned.request.chunks = {256, 512, 8192};  // the last is more than the context
  const auto problems = placement_problems(planned.model, planned.request);
  ASSERT_EQ(problems.size(), 6u);
  EXPECT_EQ(problems[2].chunk_rows, 4096u);
  EXPECT_LT(problems[3].groups[0].kv_gb, 0.6 * problems[0].groups[0].kv_gb);
  SmallModelOptions narrow;
  narrow.head_dim = 8;
  Planned refused(narrow);
  refused.request.codecs = planned.request.codecs;
  EXPECT_THROW(placement_problems(refused.model, refused.request), Error);
}

TEST(PlacementProblem, CountsTheWindowsOfEverySequence) {
  Planned planned(long_model("gemma3"));
  planned.request.n_sequences = 3;
  const PlacementProblem problem = planned.problem();
  const ModelShape shape = shape_of_sequences(planned.model.spec.shape, 3);
  ASSERT_GT(shape.layers.size(), planned.model.spec.shape.layers.size());
  EXPECT_NEAR(problem.kv_gb() * 1e9,
              static_cast<double>(place_whole(shape, planned.context()).slot_bytes), 1);
  EXPECT_GT(problem.spill_floor_gb, 0);
}

TEST(PlacementProblem, ACapOfKAndVBoundsWhatMovesThem) {
  Planned planned(long_model());
  const KvContext context = planned.context();
  const ModelShape& shape = planned.model.spec.shape;
  const uint64_t cap = smallest_spilling_dram(shape, context) + (uint64_t{2} << 20);
  const double free_gb = planned.problem().spill_beside_gb;
  planned.request.kv_dram_bytes = cap;
  planned.request.weights_dram_bytes = 1 << 20;
  const PlacementProblem problem = planned.problem();
  const KvPlacement placed = place_spilling(shape, context, cap);
  EXPECT_NEAR(problem.spill_beside_gb * 1e9,
              static_cast<double>(placed.dram_bytes() - placed.slot_bytes), 1);
  EXPECT_LT(problem.spill_beside_gb, free_gb);
  EXPECT_NEAR(problem.kv_cap_gb * 1e9, static_cast<double>(cap), 1);
  EXPECT_NEAR(problem.weights_cap_gb * 1e9, 1 << 20, 1);
}

}  // namespace
}  // namespace strata::engine
