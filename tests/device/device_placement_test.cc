// What the emulated device holds, as a placement says it and as the planner finds it.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/device_walk.h"
#include "planner/placement/placed_layers.h"
#include "tests/device/device_fixture.h"
#include "tests/engine/thrown_error.h"
#include "tools/cli/placed_plan.h"

namespace strata::engine {
namespace {

class DevicePlacement : public testing::DeviceTest {
 protected:
  /// Every second layer stays, and of K and V a third is copied.
  static Placement some(const Engine& engine) {
    Placement placement;
    placement.n_ctx = 256;
    placement.chunk_rows = 32;
    const uint32_t n_layers = engine.spec().shape.n_layers;
    placement.streamed.assign(n_layers, kNoPiece);
    for (uint32_t i = 0; i < n_layers; ++i)
      placement.resident.push_back(i % 2 == 0 ? kNoPiece : kWholeLayer);
    placement.kv_hbm_bytes = engine.context().kv.slot_bytes / 3;
    return placement;
  }
  cli::Command run_with(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {"-m", path_, "-b", "32"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return cli::read_command({"run", cli::kRun, ""}, arguments,
                             [](const std::string&) { return std::optional<std::string>(); });
  }
};

TEST_F(DevicePlacement, IsWhatTheDeviceHolds) {
  Engine whole = Engine::open(options());
  ASSERT_NE(whole.device(), nullptr);
  ASSERT_EQ(whole.device_plan().n_streamed(), 0u);
  const std::vector<TokenId> expected = answer(whole);
  Engine engine = Engine::open(options());
  const Placement placement = some(engine);
  engine.place(placement);
  const DevicePlan& plan = engine.device_plan();
  EXPECT_EQ(plan.resident, placement.resident);
  EXPECT_GT(plan.kv_bytes, 0u);
  EXPECT_LE(plan.kv_bytes, placement.kv_hbm_bytes);
  EXPECT_EQ(answer(engine), expected);
}

TEST_F(DevicePlacement, PiecesOfLayersStayAndPassApartAndChangeNoBit) {
  Engine whole = Engine::open(options());
  const std::vector<TokenId> expected = answer(whole);
  constexpr uint32_t kSeed = 20261127;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  const PieceSet all_kinds[] = {{.attention = true}, {.ffn = true}, kNoPiece, kWholeLayer};
  for (int draw = 0; draw < 4; ++draw) {
    Engine engine = Engine::open(options());
    Placement placement = some(engine);
    uint64_t n_in_part = 0;
    for (size_t i = 0; i < placement.resident.size(); ++i) {
      // The first of them so that each draw has a layer of either kind.
      placement.resident[i] = all_kinds[i < 2 ? i : random() % 4];
      const PieceSet& of = placement.resident[i];
      n_in_part += of.attention != of.ffn ? 1U : 0U;
    }
    engine.place(placement);
    EXPECT_EQ(engine.device_plan().n_in_part(), n_in_part);
    EXPECT_EQ(answer(engine), expected) << draw;
    EXPECT_GT(engine.walk().device()->streamed_bytes(), 0u);
  }
}

TEST_F(DevicePlacement, WhatADeviceCannotIsRefused) {
  Engine engine = Engine::open(options());
  Placement streams = some(engine);
  streams.streamed.front() = {.ffn = true};
  testing::expect_error([&] { engine.place(streams); }, ErrorCode::kUnsupported, "read from disk",
                        "device");
  EngineOptions named = options();
  named.device = {.kind = DeviceChoice::Kind::kCuda, .profile = ""};
  Engine named_engine = Engine::open(named);
  Placement of_cpu = some(engine);
  of_cpu.resident.clear();
  testing::expect_error([&] { named_engine.place(of_cpu); }, ErrorCode::kUsage, "the CPU alone",
                        "device");
  engine.place(of_cpu);  // "auto" may be left
  EXPECT_EQ(engine.device(), nullptr);
}

/// As a placement says, and as the planner finds it; within its memory.
TEST_F(DevicePlacement, TheDeviceSearchesTheIndexWhereThatIsPlaced) {
  EngineOptions choosing = options();
  choosing.method = index::Method::kRabitq;
  choosing.selection.budget = {index::Budget::Kind::kShare, 1};
  Engine by_hand = Engine::open(choosing);
  const uint64_t index_bytes = by_hand.device_plan().index_bytes;
  EXPECT_GT(index_bytes, 0u);
  const std::vector<TokenId> expected = answer(by_hand);
  for (const bool is_there : {false, true}) {
    SCOPED_TRACE(is_there);
    Engine engine = Engine::open(choosing);
    Placement placement = some(engine);
    placement.index_in_hbm = is_there;
    engine.place(placement);
    EXPECT_EQ(engine.device_plan().index_bytes, is_there ? index_bytes : 0u);
    EXPECT_EQ(answer(engine), expected);
    EXPECT_EQ(engine.walk().selection_counts().scanned_on_device_bytes > 0, is_there);
    EngineOptions smaller = choosing;
    smaller.hbm_bytes = engine.device_plan().hbm_bytes - engine.device_plan().kv_bytes - 1;
    Engine refused = Engine::open(smaller);
    testing::expect_error([&] { refused.place(placement); }, ErrorCode::kDoesNotFit,
                          is_there ? "buffers and the index" : "weights and buffers, there",
                          is_there ? "kv.index_in_hbm" : "layers");
  }
  // Without a method there is nothing to search.
  Engine exact = Engine::open(options());
  Placement placement = some(exact);
  placement.index_in_hbm = true;
  exact.place(placement);
  EXPECT_EQ(exact.device_plan().index_bytes, 0u);
  ASSERT_FALSE(exact.notices().empty());
  EXPECT_NE(exact.notices().back().find("none that a card searches"), std::string::npos);
  const cli::Command command = run_with({"--attn", "rabitq", "--kv-budget", "128"});
  for (const uint64_t less : {uint64_t{0}, uint64_t{1}, by_hand.device_plan().kv_bytes + 1}) {
    SCOPED_TRACE(less);
    EngineOptions small = choosing;
    small.hbm_bytes = by_hand.device_plan().hbm_bytes - less;
    Engine engine = Engine::open(small);
    const cli::PlacedPlan plan = cli::place_by_plan(command, engine);
    EXPECT_LE(engine.device_plan().hbm_bytes, small.hbm_bytes);
    EXPECT_EQ(plan.problem.card_searches(), engine.device_plan().index_bytes > 0);
    EXPECT_EQ(plan.solve_ms > 0, less > 0);  // by hand K and V come first: of so short a text
    EXPECT_TRUE(engine.device_plan().index_bytes > 0 || less > 0);
  }
}

TEST_F(DevicePlacement, ThePlannerStaysWithinTheDevicesMemory) {
  Engine whole = Engine::open(options());
  const uint64_t enough = whole.device_plan().hbm_bytes;
  const uint64_t kv_bytes = whole.device_plan().kv_bytes;
  const std::vector<TokenId> expected = answer(whole);
  const cli::Command command = run_with({});
  uint32_t n_passing = 0, n_planned = 0;
  for (const uint64_t less : {uint64_t{0}, uint64_t{1}, kv_bytes / 2, kv_bytes, kv_bytes + 1}) {
    SCOPED_TRACE(less);
    EngineOptions small = options();
    small.hbm_bytes = enough - less;
    Engine engine = Engine::open(small);
    ASSERT_NE(engine.device(), nullptr);
    const cli::PlacedPlan plan = cli::place_by_plan(command, engine);
    EXPECT_LE(engine.device_plan().hbm_bytes, small.hbm_bytes);
    EXPECT_EQ(plan.solve_ms > 0, less > 0);
    EXPECT_GT(plan.token_at(128).ms, 0);
    n_passing += engine.device_plan().n_streamed() > 0 ? 1U : 0U;
    n_planned += plan.placed_by == cli::PlacedBy::kPlanner ? 1U : 0U;
    EXPECT_EQ(answer(engine), expected);
  }
  EXPECT_GT(n_passing, 0u);
  EXPECT_GT(n_planned, 0u);
}

/// The FFN by the CPU where the attention passes, both in DRAM; with pins that say nothing of them
/// and with pins of the FFN.
TEST_F(DevicePlacement, APieceOfTheCpusIsPricedApartFromOneThatPasses) {
  EngineOptions beside = options();
  beside.cpu_share.reset();
  Engine engine = Engine::open(beside);
  Placement placement = some(engine);
  const size_t n_layers = placement.resident.size();
  placement.resident.assign(n_layers, kNoPiece);
  const auto priced = [&](PieceSet pieces, const std::vector<std::string>& more) {
    placement.on_cpu.assign(n_layers, pieces);
    engine.place(placement);
    EXPECT_EQ(engine.device_plan().on_cpu, placement.on_cpu);
    const cli::PlacedPlan plan = cli::placed_plan(run_with(more), engine);
    EXPECT_EQ(planner::cpu_products(plan.problem, plan.layers), placement.on_cpu);
    EXPECT_EQ(planner::weight_tiers(plan.problem, plan.layers),
              std::vector<planner::PieceTiers>(
                  n_layers, {planner::PlanTier::kDram, planner::PlanTier::kDram}));
  };
  for (const std::vector<std::string>& pins :
       {std::vector<std::string>{}, std::vector<std::string>{"--pin", "ffn_=dram"}})
    for (const PieceSet pieces : {PieceSet{.ffn = true}, PieceSet{.attention = true}, kWholeLayer})
      priced(pieces, pins);
}

TEST_F(DevicePlacement, BehindAPastThePlannerIsAskedForTokensAlone) {
  const uint64_t enough = Engine::open(options()).device_plan().hbm_bytes;
  EngineOptions small = options();
  small.hbm_bytes = enough - 1;
  Engine engine = Engine::open(small);
  const uint64_t n_ctx = engine.context().n_ctx;
  const cli::Command command = run_with({});
  const cli::PlacedPlan whole = cli::place_by_plan(command, engine);
  EXPECT_EQ(whole.problem.n_past, 0);
  EXPECT_GT(whole.problem.n_prompt, 0);
  const cli::PlacedPlan behind =
      cli::place_by_plan(command, engine, cli::AnswerBehind{n_ctx / 2, 3});
  EXPECT_EQ(behind.problem.n_past, static_cast<double>(n_ctx / 2));
  EXPECT_EQ(behind.problem.n_prompt, 0);
  EXPECT_EQ(behind.problem.n_out, 3);
}

/// What the planner finds room for, the engine has room for.
TEST_F(DevicePlacement, PinsOfPiecesAreHeededInAllMemoryThatHasRoomForThem) {
  makers::RandomTransformer model = makers::zoo_member("llama-quantised").model;
  model.n_layers = 8;
  model.matrix_types = {TensorType::kQ8_0};
  makers::write_random_transformer(model, path_);
  Engine whole = Engine::open(options());
  const uint64_t enough = whole.device_plan().hbm_bytes;
  const std::vector<TokenId> expected = answer(whole);
  uint32_t n_whole_beside_parts = 0;
  for (const LayerPiece piece : kEachPiece)
    for (const bool is_near : {false, true}) {
      const std::string pin =
          std::string(piece == LayerPiece::kFfn ? "ffn_" : "attn_") + (is_near ? "=hbm" : "=dram");
      SCOPED_TRACE(pin);
      // With K and V elsewhere, what memory is left holds the other piece of some layers.
      const cli::Command command = run_with({"--pin", pin, "--kv-tier", "dram"});
      bool has_room = false;
      constexpr uint64_t kBudgets = 64;
      for (uint64_t part = kBudgets / 4; part <= kBudgets; ++part) {
        SCOPED_TRACE(part);
        EngineOptions small = options();
        small.hbm_bytes = enough * part / kBudgets;
        try {
          Engine engine = Engine::open(small);
          if (engine.device() == nullptr) continue;
          (void)cli::place_by_plan(command, engine);
          const DevicePlan& plan = engine.device_plan();
          EXPECT_LE(plan.hbm_bytes, small.hbm_bytes);
          for (const PieceSet& stays : plan.resident) EXPECT_EQ(stays.has(piece), is_near);
          n_whole_beside_parts +=
              plan.n_in_part() > 0 && std::ranges::count(plan.resident, kWholeLayer) > 0;
          if (!has_room) {
            EXPECT_EQ(answer(engine), expected);
          }
          has_room = true;
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
          EXPECT_FALSE(has_room) << error.what();
        }
      }
      EXPECT_TRUE(has_room);
    }
  EXPECT_GT(n_whole_beside_parts, 0u);
}

}  // namespace
}  // namespace strata::engine
