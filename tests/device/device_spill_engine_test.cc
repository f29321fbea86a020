// An engine whose context spills beside a card that is named: what is planned, counted, refused and
// said, and several answers at a time.
#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "engine/answer_batch.h"
#include "engine/device_walk.h"
#include "tests/device/device_fixture.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using Kind = DeviceChoice::Kind;

constexpr uint32_t kLongContext = 8192;
constexpr uint32_t kLongPrompt = 2600;

class DeviceSpillEngine : public testing::DeviceTest {
 protected:
  /// All of K and V in DRAM, and of them `near` positions on the device.
  EngineOptions small_device(uint64_t near) const {
    EngineOptions of = options(Kind::kCuda);
    of.n_ctx = kLongContext;
    of.allow_untrained = true;
    of.chunk_rows = 256;
    const Engine whole = Engine::open(of);
    const DevicePlan& plan = whole.device_plan();
    of.hbm_bytes = plan.hbm_bytes - plan.kv_bytes + plan.kv_bytes * near / kLongContext;
    return of;
  }
  EngineOptions spilling(uint64_t near, uint32_t n_answers = 1) const {
    EngineOptions of = small_device(near);
    of.n_answers = n_answers;
    of.nvme_directory = folder_.path("spill");
    of.nvme_budget_bytes = uint64_t{1} << 30;
    const Engine whole = Engine::open(of);
    of.kv_dram_bytes = smallest_spilling_dram(whole.spec().shape, context_of(whole));
    return of;
  }
  /// With a method that chooses 256 positions.
  EngineOptions choosing(uint64_t near) const {
    EngineOptions of = spilling(near);
    of.method = index::Method::kQuest;
    of.selection.budget = {.kind = index::Budget::Kind::kTokens, .value = 256};
    of.kv_dram_bytes = 0;
    const Engine whole = Engine::open(of);
    of.kv_dram_bytes = smallest_spilling_dram(whole.spec().shape, context_of(whole));
    return of;
  }
  static Placement placement_of(const Engine& engine, const EngineOptions& of) {
    Placement placement;
    placement.n_ctx = kLongContext;
    placement.chunk_rows = of.chunk_rows;
    placement.streamed.assign(engine.spec().shape.n_layers, kNoPiece);
    placement.resident.assign(engine.spec().shape.n_layers, kWholeLayer);
    placement.kv_dram_bytes = engine.context().kv.dram_bytes();
    placement.kv_hbm_bytes = engine.device_plan().kv_bytes;
    return placement;
  }
  static KvContext context_of(const Engine& engine) {
    ContextRequest request = engine.limits();
    request.spills_beside = true;
    return kv_context(request, kLongContext);
  }
  static GenerationRequest request_of(const Engine& engine, std::span<const TokenId> prompt) {
    GenerationRequest request;
    request.prompt = prompt;
    request.vocab_size = engine.spec().shape.vocab_size;
    request.n_ctx = kLongContext;
    request.n_predict = 10;
    request.chunk_rows = engine.context().chunk_rows;
    request.sampler.temperature = 0;
    request.ignore_eos = true;
    request.n_logprobs = 2;
    if (engine.options().method) request.attention = Attention::kSelected;
    return request;
  }
  /// Of the likeliest tokens behind a prompt the scores, which have all bits of their logits.
  static std::vector<double> scores(Engine& engine, std::span<const TokenId> prompt) {
    std::vector<double> heard;
    Sequence sequence = engine.cache().make_sequence();
    generate(engine.walk(), sequence, engine.tokenizer(), request_of(engine, prompt),
             events_to(heard));
    return heard;
  }
  static GenerationEvents events_to(std::vector<double>& heard) {
    GenerationEvents events;
    events.on_scores = [&heard](const TokenScores& scores) {
      heard.push_back(scores.token.logprob);
      for (const TokenLogprob& of : scores.likeliest) heard.push_back(of.logprob);
    };
    return events;
  }
};

TEST_F(DeviceSpillEngine, ANamedCardComputesBesideASpillFile) {
  const EngineOptions of = spilling(512);
  const auto prompt = testing::random_tokens(kLongPrompt, 64, 11);
  Engine engine = Engine::open(of);
  ASSERT_NE(engine.device(), nullptr);
  EXPECT_TRUE(engine.context().kv.is_spilling());
  EXPECT_TRUE(engine.notices().empty());
  EXPECT_GT(engine.device_plan().kv_bytes, 0u);
  engine.load({});
  const std::vector<double> expected = scores(engine, prompt);
  EXPECT_EQ(expected.size(), 30u);
  const DeviceKvCounts& counts = engine.walk().device()->kv_counts();
  EXPECT_GT(counts.cpu_bytes, 0u);
  EXPECT_LT(counts.cpu_bytes, counts.attended_bytes);
  EXPECT_EQ(counts.far_bytes, 0u);
  EXPECT_GT(engine.cache().store().counts().extents_read, 0u);
  // By another back end, with more DRAM and threads.
  EngineOptions other = of;
  other.io = tiers::IoChoice::kThreads;
  other.kv_dram_bytes += engine.context().kv.place_bytes * 8;
  other.n_threads = 3;
  Engine again = Engine::open(other);
  ASSERT_TRUE(again.context().kv.is_spilling());
  again.load({});
  EXPECT_EQ(scores(again, prompt), expected);
}

/// The walk's buffers once, for rows that the CPU computes, and what a card has beside them.
TEST_F(DeviceSpillEngine, BuffersAreCountedOnce) {
  const Engine engine = Engine::open(spilling(512));
  const ModelShape& shape = engine.spec().shape;
  ContextRequest request = engine.limits();
  request.n_ctx = kLongContext;
  request.spills_beside = true;
  const uint64_t both = buffer_bytes(shape, request);
  const uint64_t of_walk = walk_buffer_bytes(shape, request.chunk_rows, request.n_threads);
  const uint64_t of_card = device_buffer_bytes(shape, request.chunk_rows, true);
  ContextRequest cpu = request;
  cpu.has_device = cpu.spills_beside = false;
  EXPECT_EQ(buffer_bytes(shape, cpu), of_walk);
  constexpr uint64_t kDriver = uint64_t{128} << 20;
  EXPECT_EQ(both, of_walk + of_card + kDriver);
  // Chunks are the CPU's: no larger than its buffers may be.
  request.chunk_rows = UINT32_MAX;
  cpu.chunk_rows = UINT32_MAX;
  EXPECT_EQ(chunk_rows_for(shape, request), chunk_rows_for(shape, cpu));
  request.spills_beside = false;
  EXPECT_GT(chunk_rows_for(shape, request), chunk_rows_for(shape, cpu));
  // What is reserved stays within what is allowed.
  EXPECT_LE(engine.context().kv.dram_bytes(), engine.options().kv_dram_bytes);
  KvContext beside = context_of(engine), alone = beside;
  alone.spills_beside = false;
  EXPECT_GT(smallest_spilling_dram(shape, beside), smallest_spilling_dram(shape, alone));
}

TEST_F(DeviceSpillEngine, AutoLeavesItToTheCpu) {
  EngineOptions of = spilling(512);
  of.device.kind = Kind::kAuto;
  const Engine engine = Engine::open(of);
  EXPECT_EQ(engine.device(), nullptr);
  EXPECT_TRUE(engine.context().kv.is_spilling());
  ASSERT_EQ(engine.notices().size(), 1u);
  EXPECT_NE(engine.notices()[0].find("unless a card is named"), std::string::npos);
}

/// By another back end, with more DRAM and threads, the same.
TEST_F(DeviceSpillEngine, ChosenBlocksComeToANamedCard) {
  const EngineOptions of = choosing(384);
  const auto prompt = testing::random_tokens(kLongPrompt, 64, 15);
  Engine engine = Engine::open(of);
  ASSERT_NE(engine.device(), nullptr);
  EXPECT_TRUE(engine.context().kv.is_spilling());
  EXPECT_TRUE(engine.notices().empty());
  EXPECT_LE(engine.context().kv.dram_bytes(), of.kv_dram_bytes);
  engine.load({});
  const std::vector<double> expected = scores(engine, prompt);
  EXPECT_EQ(expected.size(), 30u);
  const SelectionCounts& counts = engine.walk().selection_counts();
  EXPECT_GT(counts.missing_blocks, 0u);
  EXPECT_LT(counts.attended_blocks, counts.blocks / 4);
  EXPECT_GT(engine.walk().device()->kv_counts().chosen_bytes, 0u);
  EngineOptions other = of;
  other.io = tiers::IoChoice::kThreads;
  other.kv_dram_bytes += engine.context().kv.place_bytes * 8;
  other.n_threads = 3;
  Engine again = Engine::open(other);
  ASSERT_TRUE(again.context().kv.is_spilling());
  again.load({});
  EXPECT_EQ(scores(again, prompt), expected);
}

/// A card must hold what a layer chooses; and what no card does is refused as ever.
TEST_F(DeviceSpillEngine, WhatIsChosenMustFitTheCard) {
  EngineOptions of = choosing(1024);
  const Engine engine = Engine::open(of);
  const DevicePlan& plan = engine.device_plan();
  const ModelShape& shape = engine.spec().shape;
  const uint64_t least = chosen_on_device_min(shape, kLongContext, of.selection, of.chunk_rows) *
                         engine.context().kv.block_bytes;
  EXPECT_GT(least, 0u);
  const uint64_t without = plan.hbm_bytes - plan.kv_bytes;
  // Layers of weights give way to it, down to two slots.
  EngineOptions small = of;
  small.hbm_bytes = without + least;
  EXPECT_EQ(Engine::open(small).device_plan().kv_bytes, least);
  small.hbm_bytes = without + least - 1;
  EXPECT_GT(Engine::open(small).device_plan().n_streamed(), 0u);
  small.hbm_bytes = least;
  testing::expect_error([&] { Engine::open(small); }, ErrorCode::kDoesNotFit,
                        "of the device's memory", "--hbm");
  Placement placement = placement_of(engine, of);
  placement.kv_hbm_bytes = least - 1;
  small = of;
  small.placement = placement;
  testing::expect_error([&] { Engine::open(small); }, ErrorCode::kDoesNotFit,
                        "what a layer chooses needs", "kv_hbm_bytes");
  EngineOptions other = of;
  other.method = index::Method::kRabitqTail;
  other.kv_dram_bytes = 0;
  testing::expect_error([&] { Engine::open(other); }, ErrorCode::kUnsupported,
                        "a device attends chosen blocks", "--device");
  other = of;
  other.sparse_from = 256;
  other.kv_dram_bytes = uint64_t{64} << 20;
  testing::expect_error([&] { Engine::open(other); }, ErrorCode::kUnsupported,
                        "a device reads prompts exactly", "--device");
}

/// As a planner would: the engine checks it and does it.
TEST_F(DeviceSpillEngine, APlacementMaySaySo) {
  const EngineOptions of = spilling(512);
  Engine by_hand = Engine::open(of);
  EngineOptions placed = of;
  placed.placement = placement_of(by_hand, of);
  Engine by_plan = Engine::open(placed);
  ASSERT_NE(by_plan.device(), nullptr);
  EXPECT_TRUE(by_plan.context().kv.is_spilling());
  const auto prompt = testing::random_tokens(kLongPrompt, 64, 12);
  by_hand.load({});
  by_plan.load({});
  EXPECT_EQ(scores(by_plan, prompt), scores(by_hand, prompt));
}

/// A prompt is read beside an answer, whose tokens are those that it has alone.
TEST_F(DeviceSpillEngine, AChunkOfTheCpuStepsAlone) {
  Engine engine = Engine::open(spilling(1024, 2));
  ASSERT_NE(engine.device(), nullptr);
  engine.load({});
  const auto first = testing::random_tokens(700, 64, 13),
             second = testing::random_tokens(1500, 64, 14);
  const std::vector<double> expected = scores(engine, first);
  std::vector<double> heard, heard_second;
  Sequence sequences[] = {engine.cache().make_sequence(), engine.cache().make_sequence()};
  Answer answer(sequences[0], engine.tokenizer(), request_of(engine, first), events_to(heard));
  Answer reader(sequences[1], engine.tokenizer(), request_of(engine, second),
                events_to(heard_second));
  AnswerBatch batch(engine.walk(), {.chunk_rows_beside = 128, .make_room = {}});
  std::vector<Answer*> answers{&answer};
  while (answer.is_reading()) batch.step(answers);
  answers.push_back(&reader);
  uint32_t n_beside = 0;  // of the reader's chunks, while the other one answers
  for (uint32_t step = 0; step < 200 && !(answer.has_ended() && reader.has_ended()); ++step) {
    n_beside += reader.is_reading() && !answer.has_ended() ? 1u : 0u;
    batch.step(answers);
  }
  EXPECT_FALSE(answer.failure() || reader.failure());
  EXPECT_GT(n_beside, 5u);
  EXPECT_EQ(heard, expected);
  EXPECT_EQ(heard_second.size(), 30u);
}

}  // namespace
}  // namespace strata::engine
