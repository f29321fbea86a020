#include "engine/kv_placement.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "cpu_attn/kernels.h"
#include "engine/kv_cache.h"
#include "engine/walk.h"
#include "tests/engine/zoo_fixture.h"
#include "tests/tiers/simulated_spill.h"

namespace strata::engine {
namespace {

constexpr uint32_t kPlacementSeed = 20261125;

ModelShape drawn_shape(std::mt19937_64& random) {
  ModelShape shape;
  shape.head_dim = 32u * (1 + static_cast<uint32_t>(random() % 8));
  shape.n_layers = 1 + static_cast<uint32_t>(random() % 40);
  for (uint32_t i = 0; i < shape.n_layers; ++i) {
    LayerShape layer;
    layer.n_kv_heads = 1u << random() % 4;
    layer.n_heads = layer.n_kv_heads * 2;
    if (i > 0 && random() % 3 == 0) layer.window = 128u << random() % 4;
    shape.layers.push_back(layer);
  }
  return shape;
}

KvContext drawn_context(std::mt19937_64& random) {
  return {.k_codec = random() % 2 == 0 ? KvCodec::kF16 : KvCodec::kQ8_0,
          .v_codec = random() % 2 == 0 ? KvCodec::kF16 : KvCodec::kQ8_0,
          .n_ctx = 1024 + random() % 200'000,
          .chunk_rows = 1 + static_cast<uint32_t>(random() % 1024),
          .has_packs = random() % 2 == 0,
          .method = random() % 2 == 0 ? std::nullopt : std::optional(index::Method::kQuest)};
}

TEST(KvPlacement, BudgetsAddUpAndGrowTogether) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (uint32_t round = 0; round < 200; ++round) {
    const ModelShape shape = drawn_shape(random);
    const KvContext context = drawn_context(random);
    ASSERT_TRUE(can_spill(shape));
    const uint64_t smallest = smallest_spilling_dram(shape, context);
    KvPlacement before = place_spilling(shape, context, smallest);
    EXPECT_EQ(before.dram_bytes(), smallest);
    const uint64_t least_slot_bytes = before.slot_bytes;
    for (uint64_t dram = smallest; dram < 4 * smallest; dram += 1 + random() % smallest) {
      const KvPlacement placement = place_spilling(shape, context, dram);
      ASSERT_TRUE(placement.is_spilling());
      ASSERT_EQ(placement.dram_bytes(), dram);
      ASSERT_GE(placement.slot_bytes, least_slot_bytes);
      ASSERT_GE(placement.n_frames, before.n_frames);
      // A whole frame more may take what a few bytes more would have given to slots.
      ASSERT_GE(placement.slot_bytes + placement.place_bytes, before.slot_bytes);
      ASSERT_EQ(placement.place_bytes % tiers::kPlaceAlignment, 0u);
      ASSERT_EQ(placement.nvme_bytes, spill_bytes(shape, context));
      before = placement;
    }
  }
}

TEST(KvPlacement, TheListOfPacksIsCountedAndBounded) {
  ModelShape shape;
  shape.head_dim = 64;
  shape.n_layers = 30;
  shape.layers.assign(30, {.n_heads = 9, .n_kv_heads = 3});
  KvContext context{.n_ctx = 32768, .has_packs = true};
  const KvPlacement placement = place_whole(shape, context);
  EXPECT_EQ(placement.pack_index_bytes, placement.slot_bytes / 64);
  EXPECT_GT(placement.pack_bytes, placement.pack_index_bytes);
  EXPECT_LT(placement.pack_bytes, placement.pack_index_bytes + placement.slot_bytes / 64);
  context.n_ctx = 256;
  EXPECT_EQ(place_whole(shape, context).pack_index_bytes, 256u << 10);
  context.n_ctx = 1'000'000;
  EXPECT_EQ(place_whole(shape, context).pack_index_bytes, 16u << 20);
  context.has_packs = false;
  EXPECT_EQ(place_whole(shape, context).pack_index_bytes, 0u);
}

TEST(KvPlacement, MoreContextLongerStepsOrMoreAnswersNeverNeedLess) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (uint32_t round = 0; round < 200; ++round) {
    const ModelShape shape = drawn_shape(random);
    const KvContext context = drawn_context(random);
    KvContext longer = context;
    longer.n_ctx += random() % 10'000;
    EXPECT_GE(smallest_spilling_dram(shape, longer), smallest_spilling_dram(shape, context));
    EXPECT_GE(spill_bytes(shape, longer), spill_bytes(shape, context));
    KvContext bigger_steps = context;
    bigger_steps.chunk_rows += static_cast<uint32_t>(random() % 1000);
    EXPECT_GE(smallest_spilling_dram(shape, bigger_steps), smallest_spilling_dram(shape, context));
    KvContext more_answers = context;
    more_answers.n_answers += 1 + static_cast<uint32_t>(random() % 8);
    EXPECT_GT(smallest_spilling_dram(shape, more_answers), smallest_spilling_dram(shape, context));
    EXPECT_GT(spill_bytes(shape, more_answers), spill_bytes(shape, context));
    const KvPlacement one = place_whole(shape, context);
    const KvPlacement several = place_whole(shape, more_answers);
    EXPECT_EQ(several.slot_bytes, one.slot_bytes);
    EXPECT_GT(several.table_bytes, one.table_bytes);
    EXPECT_EQ(several.pack_bytes > one.pack_bytes, context.has_packs);
    EXPECT_EQ(several.index_bytes > one.index_bytes, context.method.has_value());
  }
}

/// Two addresses for every block of every stream, and for every slot its copy.
TEST(KvPlacement, TablesOfADeviceAreOfTheSameBudget) {
  std::mt19937_64 random(7);
  const ModelShape shape = drawn_shape(random);
  KvContext context{.n_ctx = 32768};
  const KvPlacement alone = place_whole(shape, context);
  context.has_device = true;
  const KvPlacement beside = place_whole(shape, context);
  EXPECT_EQ(beside.slot_bytes, alone.slot_bytes);
  uint64_t n_streams = 0;
  for (const LayerShape& layer : shape.layers) n_streams += layer.n_kv_heads;
  const auto layout = KvLayout::make(context.k_codec, context.v_codec, shape.head_dim);
  EXPECT_GE(beside.dram_bytes() - alone.dram_bytes(),
            n_streams * 1024 * 16 + beside.slot_bytes / layout.block_bytes * 12);
}

/// Rows, the editions by which a device follows them, and what choosing holds: as they are made.
TEST(KvPlacement, EditionsOfIndexRowsAreOfTheBudget) {
  const ModelShape shape = testing::LoadedMember("llama3").model.shape();
  for (const index::Method method : {index::Method::kRabitq, index::Method::kQuest}) {
    const KvContext context{.n_ctx = 32768, .method = method, .n_answers = 3};
    const index::SelectorSource source(
        method,
        index_shape(shape, context.k_codec, context.v_codec, context.n_ctx, context.n_answers),
        cpu_attn::choose_kernels());
    EXPECT_EQ(index_dram_bytes(shape, context), source.budget_bytes() +
                                                    uint64_t{source.memory()->n_slots()} * 17 * 8 +
                                                    selection_bytes(shape, context.n_ctx, method));
  }
}

TEST(KvPlacement, AModelOfWindowedLayersAloneCannotSpill) {
  std::mt19937_64 random(1);
  ModelShape shape = drawn_shape(random);
  for (LayerShape& layer : shape.layers) layer.window = 512;
  EXPECT_FALSE(can_spill(shape));
}

TEST(KvPlacementDeathTest, LessThanTheSmallestIsABug) {
  std::mt19937_64 random(1);
  const ModelShape shape = drawn_shape(random);
  const KvContext context = drawn_context(random);
  const uint64_t smallest = smallest_spilling_dram(shape, context);
  EXPECT_DEATH(place_spilling(shape, context, smallest - 1), "bytes of DRAM");
}

/// Members without and with windowed layers, in steps of several sizes; some extents are lost and
/// computed again, which takes blocks and places of its own.
TEST(KvPlacement, TheSmallestSuffices) {
  uint64_t n_lost = 0;
  for (const char* name : {"llama3", "gemma3"}) {
    const makers::ZooMember& member = makers::zoo_member(name);
    const testing::ModelFile written(member.model);
    const GgufFile file = written.open();
    const Model model = testing::load_model(file);
    const auto text = testing::random_tokens(2000, member.model.vocab_size, kPlacementSeed);
    for (const uint32_t chunk_rows : {32u, 200u, 512u}) {
      SCOPED_TRACE(std::string(name) + ", steps of " + std::to_string(chunk_rows));
      const KvContext context{.n_ctx = 2048, .chunk_rows = chunk_rows};
      const KvPlacement placement =
          place_spilling(model.shape(), context, smallest_spilling_dram(model.shape(), context));
      testing::WalkSetting setting;
      setting.kernels = cpu_attn::available_kernels().back();
      setting.n_threads = 2;
      setting.chunk_rows = chunk_rows;
      setting.n_ctx = 2048;
      setting.kv_dram_bytes = placement.slot_bytes;
      const auto n_places = static_cast<uint32_t>(placement.nvme_bytes / placement.place_bytes);
      auto spill = tiers::testing::make_simulated_spill(
          {.seed = kPlacementSeed + chunk_rows, .faults = {.torn_write = 0.05}},
          placement.place_bytes, n_places, placement.n_frames);
      testing::ZooWalk walk(model, setting, std::move(spill.spill));
      EXPECT_EQ(walk.feed_all(text).size(), text.size());
      while (walk.cache().store().wait_for_transfer()) continue;
      const tiers::StoreCounts& counts = walk.cache().store().counts();
      EXPECT_GT(counts.extents_written, 0u);
      EXPECT_EQ(counts.places_refused + counts.frames_refused + counts.write_failures, 0u);
      n_lost += counts.lost_extents;
    }
  }
  EXPECT_GT(n_lost, 0u);
}

}  // namespace
}  // namespace strata::engine
