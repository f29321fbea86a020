// What a plan counts is what the engine reserves: sums of a problem beside the functions that plan
// the memory of a run.
#include "engine/placement_problem.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "cpu_attn/kernels.h"
#include "engine/context_size.h"
#include "engine/device_index.h"
#include "engine/dram_budget.h"
#include "engine/kv_cache.h"
#include "index/method.h"
#include "planner/placement/placement.h"
#include "planner/placement/plan_rates.h"
#include "planner/step_plan_builder.h"
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

/// Of K and V, without what repairs take.
double blocks_gb(const ModelShape& shape, const KvContext& context) {
  return static_cast<double>(kv_bytes_for_context(shape, context.k_codec, context.v_codec,
                                                  context.n_ctx, context.chunk_rows)) *
         1e-9;
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
          planned.model.sizes, std::vector<PieceSet>(planned.model.sizes.layers.size(),
                                                     is_streamed ? kWholeLayer : kNoPiece));
      const KvPlacement kv = place_whole(planned.model.spec.shape, planned.context());
      const uint64_t expected = weights.total_bytes() + kv.dram_bytes() + planned.walk_bytes();
      EXPECT_NEAR(gb.dram(), static_cast<double>(expected) * 1e-9, kByte);
      EXPECT_NEAR(gb.dram_kv, blocks_gb(planned.model.spec.shape, planned.context()), kByte);
    }
}

/// Pins that keep one piece of each of these layers in a tier, the other where it likes.
std::vector<planner::PiecePins> pins_of(std::vector<uint32_t> layers, LayerPiece piece,
                                        planner::PlanTier tier) {
  std::vector<planner::PiecePins> pins(6);
  for (const uint32_t layer : layers) pins[layer][static_cast<size_t>(piece)] = planner::just(tier);
  return pins;
}

TEST(PlacementProblem, OfPiecesToldApartItCountsWhatARunReserves) {
  for (const LayerPiece kept : kEachPiece)
    for (const bool is_streamed : {false, true}) {
      SCOPED_TRACE(::testing::Message() << layer_piece_name(kept) << ' ' << is_streamed);
      Planned planned(long_model());
      planned.request.pins = pins_of({0, 1, 2, 3, 4, 5}, kept, planner::PlanTier::kDram);
      const PlacementProblem problem = planned.problem();
      ASSERT_EQ(problem.groups.size(), 1u);
      EXPECT_EQ(problem.groups[0].apart->piece, kept);
      PieceSet moves;
      moves.add(other_piece(kept));
      const std::vector<PieceSet> streamed(6, is_streamed ? moves : kNoPiece);
      const WeightPlan weights = weight_plan_of(planned.model.sizes, streamed);
      const KvPlacement kv = place_whole(planned.model.spec.shape, planned.context());
      const uint64_t expected = weights.total_bytes() + kv.dram_bytes() + planned.walk_bytes();
      const auto placed = planned.placed(problem, is_streamed);
      EXPECT_NEAR(planner::placed_gb(problem, placed).dram(), static_cast<double>(expected) * 1e-9,
                  kByte);
      // Where it is to come from the file and the other does too, whole layers do.
      planned.request.pins = pins_of({0, 1, 2, 3, 4, 5}, kept, planner::PlanTier::kNvme);
      const PlacementProblem read = planned.problem();
      const uint64_t whole =
          weight_plan_of(planned.model.sizes, std::vector<PieceSet>(6, kWholeLayer)).total_bytes();
      EXPECT_NEAR(planner::placed_gb(read, planned.placed(read, true)).dram(),
                  static_cast<double>(expected - weights.total_bytes() + whole) * 1e-9, kByte);
    }
}

TEST(PlacementProblem, PiecesToldApartAreGroupsWithFiguresOfTheirOwn) {
  Planned planned(long_model());
  const planner::LayerGroup whole = planned.problem().groups.at(0);
  planned.request.pins = pins_of({1, 4}, LayerPiece::kFfn, planner::PlanTier::kNvme);
  planned.request.pins[2] = {planner::just(planner::PlanTier::kDram),
                             planner::just(planner::PlanTier::kNvme)};
  const PlacementProblem problem = planned.problem();
  ASSERT_EQ(problem.groups.size(), 3u);
  EXPECT_EQ(problem.groups[0].layers, (std::vector<uint32_t>{0, 3, 5}));
  EXPECT_FALSE(problem.groups[0].apart);
  const planner::LayerGroup& split = problem.groups[1];
  EXPECT_EQ(split.layers, (std::vector<uint32_t>{1, 4}));
  ASSERT_TRUE(split.apart);
  EXPECT_EQ(split.apart->tier, planner::PlanTier::kNvme);
  EXPECT_EQ(split.pin, planner::TierSet{});
  const auto& pieces = planned.model.sizes.pieces[1];
  EXPECT_NEAR(split.weight_gb * 1e9, static_cast<double>(pieces[0].packed_bytes), 1e-3);
  EXPECT_NEAR(split.apart->weight_gb * 1e9, static_cast<double>(pieces[1].packed_bytes), 1e-3);
  EXPECT_NEAR(split.pack_ms + split.apart->pack_ms, whole.pack_ms, 1e-9 * whole.pack_ms);
  EXPECT_EQ(split.cpu_linear_ms, whole.cpu_linear_ms);
  EXPECT_EQ(split.cpu_gemm_ms, whole.cpu_gemm_ms);
  // Where both are pinned, what moves is pinned as well.
  const planner::LayerGroup& both = problem.groups[2];
  EXPECT_EQ(both.layers, std::vector<uint32_t>{2});
  EXPECT_EQ(both.apart->piece, LayerPiece::kFfn);
  EXPECT_EQ(both.pin, planner::just(planner::PlanTier::kDram));
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

TEST(PlacementProblem, DraftsAreCounted) {
  Planned planned(long_model());
  const PlacementProblem none = planned.problem();
  planned.request.n_draft_max = 7;
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
    EXPECT_NEAR(more, drafts, kByte) << is_streamed;
  }
}

TEST(PlacementProblem, ChoosingScansTheRowsOfOneContextAndNothingElseOfTheIndex) {
  for (const index::Method method :
       {index::Method::kRabitq, index::Method::kRabitqTail, index::Method::kPq,
        index::Method::kQuest, index::Method::kSparq}) {
    Planned planned(long_model());
    planned.request.method = method;
    const PlacementProblem one = planned.problem();
    const ModelShape& shape = planned.model.spec.shape;
    const index::SelectorSource source(
        method, index_shape(shape, KvCodec::kF16, KvCodec::kF16, planned.request.n_ctx),
        cpu_attn::choose_kernels(""));
    const auto n_blocks = static_cast<uint32_t>(planned.request.n_ctx / kBlockPositions);
    // Queries of a group that are large in dimensions of their own: sparq reads the most for them.
    const uint32_t group = shape.layers[0].n_heads / shape.layers[0].n_kv_heads;
    std::vector<float> q(uint64_t{group} * shape.head_dim);
    for (uint32_t i = 0; i < shape.head_dim; ++i)
      q[uint64_t{i / 8 % group} * shape.head_dim + i] = 1;
    const double bytes =
        static_cast<double>(source.make()->estimate_bytes(n_blocks, q.data(), group)) * 2 * 6;
    SCOPED_TRACE(static_cast<int>(method));
    const double gb = one.index_position_gb * static_cast<double>(planned.request.n_ctx);
    EXPECT_NEAR(gb, bytes * 1e-9, 1e-3 * gb);
    // As the CPU was measured; of a method that was not only memory's rate is known.
    const double ms = one.index_position_ms * static_cast<double>(planned.request.n_ctx);
    const auto name = std::ranges::find(index::method_names(), method, &index::MethodName::method);
    const double rate = planner::scan_rate(planned.request.profile, name->name, shape.head_dim);
    EXPECT_EQ(rate > 0, method != index::Method::kQuest && method != index::Method::kSparq);
    EXPECT_NEAR(ms, rate > 0 ? gb * 1e9 / rate * 1e3 : 0, 1e-9);
    // What several answers and chunks that choose reserve is read by none of them.
    planned.request.n_answers = 4;
    planned.request.sparse = index::Rule{};
    const PlacementProblem more = planned.problem();
    EXPECT_GT(more.index_gb, 1.1 * one.index_gb);
    EXPECT_EQ(more.index_position_ms, one.index_position_ms);
    EXPECT_EQ(more.index_position_gb, one.index_position_gb);
  }
  EXPECT_EQ(Planned(long_model()).problem().index_position_ms, 0);
  EXPECT_EQ(Planned(long_model()).problem().index_position_gb, 0);
}

/// Bytes and operations of a step, of its layers alone, as the engine's own list of it has them.
struct StepSums {
  double weight_bytes = 0, kv_read_bytes = 0, kv_write_bytes = 0, flop = 0;
};
StepSums sums_of_step(const PlannedModel& model, uint32_t first_pos, uint32_t n_rows) {
  planner::PieceBytes pieces;
  for (const gpu_attn::DeviceLayerWeights& of : model.device.layers)
    pieces.layers.push_back({.qkv = of.q.total_bytes() + of.k.total_bytes() + of.v.total_bytes(),
                             .attn_output = of.attn_output.total_bytes(),
                             .ffn_gate_up = of.ffn_gate.total_bytes() + of.ffn_up.total_bytes(),
                             .ffn_down = of.ffn_down.total_bytes()});
  const ModelShape& shape = model.spec.shape;
  const uint64_t position_bytes =
      kv_position_bytes(KvLayout::make(KvCodec::kF16, KvCodec::kF16, shape.head_dim));
  StepPlan plan;
  planner::build_step_plan(shape, pieces, position_bytes,
                           {.sequences = {{first_pos, n_rows}}, .n_logit_rows = 0}, plan);
  StepSums sums;
  for (const StepOp& op : plan.ops) {
    sums.weight_bytes += static_cast<double>(op.weight_bytes);
    sums.kv_read_bytes += static_cast<double>(op.kv_read_bytes);
    sums.kv_write_bytes += static_cast<double>(op.kv_write_bytes);
    sums.flop += static_cast<double>(op.flop);
  }
  return sums;
}

/// The planner's clock and the engine's list of operations are two statements of a step: what each
/// part of the machine moves and computes must be the same. Rates of 1 GB and 1 TFLOP per ms make
/// times of the clock amounts.
TEST(PlacementProblem, ItsClockMovesAndComputesWhatTheStepPlanLists) {
  constexpr double kPerMs = 1e3;
  constexpr auto kDram = static_cast<size_t>(planner::PlanPart::kDram);
  constexpr auto kCpu = static_cast<size_t>(planner::PlanPart::kCpu);
  constexpr auto kGpu = static_cast<size_t>(planner::PlanPart::kGpu);
  constexpr auto kLinkOut = static_cast<size_t>(planner::PlanPart::kLinkOut);
  for (const char* architecture : {"llama", "gemma3"})
    for (const uint32_t depth : {5u, 1000u, 3000u}) {
      SCOPED_TRACE(::testing::Message() << architecture << " behind " << depth);
      const Planned planned(long_model(architecture));
      PlacementProblem problem = planned.problem();
      problem.rates = {.cpu_attend_tflops = kPerMs,
                       .dram_read = kPerMs,
                       .link_in = kPerMs,
                       .link_out = kPerMs,
                       .hbm_gemv = kPerMs,
                       .hbm_attend = kPerMs,
                       .gpu_gemm_tflops = kPerMs,
                       .gpu_attend_tflops = kPerMs};
      problem.head_ms = 0;
      LayerPlacement near = planned.placed(problem, false);
      for (planner::LayerGroup& group : problem.groups) {
        group.cpu_linear_ms = 0;
        group.cpu_gemm_ms = group.gemm_tflop;
      }
      // A token attends its own position too.
      problem.n_past = depth + 1.0;
      problem.n_prompt = problem.n_out = 0;
      const StepSums token = sums_of_step(planned.model, depth, 1);
      EXPECT_NEAR(planner::token_time(problem, near).busy_ms[kDram] * 1e9,
                  token.weight_bytes + token.kv_read_bytes, 1);
      PlacementProblem on_card = problem;
      on_card.has_device = true;
      LayerPlacement in_hbm = near;
      for (planner::GroupPlace& place : in_hbm.groups) {
        place.n_hbm = std::exchange(place.n_dram, 0);
        place.kv_hbm = std::exchange(place.kv_dram, 0);
      }
      EXPECT_NEAR(planner::token_time(on_card, in_hbm).busy_ms[kGpu] * 1e9,
                  token.weight_bytes + token.kv_read_bytes, 1);
      // Of a chunk the clock takes the middle row for the mean one: half a position of its rows.
      constexpr uint32_t kRows = 256;
      for (PlacementProblem* of : {&problem, &on_card}) {
        of->n_past = depth;
        of->n_prompt = kRows;
        of->chunk_rows = kRows;
      }
      const StepSums chunk = sums_of_step(planned.model, depth, kRows);
      const double half = 0.5 / (depth + kRows / 2.0) * chunk.flop + 1;
      EXPECT_NEAR(planner::prompt_time(problem, near).busy_ms[kCpu] * 1e12, chunk.flop, half);
      const planner::StepTime card = planner::prompt_time(on_card, in_hbm);
      EXPECT_NEAR(card.busy_ms[kGpu] * 1e12, chunk.flop, half);
      EXPECT_NEAR(card.busy_ms[kLinkOut] * 1e9, chunk.kv_write_bytes, 1);
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

/// The CPU, then the card, of one that has rows which it can search; or who is stated.
TEST(PlacementProblem, TwoWhereACardMaySearchTheIndex) {
  Planned planned(long_model());
  planned.request.method = index::Method::kRabitq;
  EXPECT_EQ(placement_problems(planned.model, planned.request).size(), 1u);
  planned.request.device = DeviceFacts{};
  planned.request.hbm_bytes = uint64_t{1} << 30;
  planned.request.n_answers = 3;
  const auto problems = placement_problems(planned.model, planned.request);
  ASSERT_EQ(problems.size(), 2u);
  EXPECT_FALSE(problems[0].card_searches());
  ASSERT_TRUE(problems[1].card_searches());
  const ModelShape& shape = planned.model.spec.shape;
  const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, shape.head_dim);
  EXPECT_NEAR(problems[1].hbm_index_gb * 1e9,
              static_cast<double>(DeviceIndex::memory_bytes(shape, layout, planned.request.n_ctx, 3,
                                                            planned.request.method)),
              1);
  EXPECT_EQ(problems[1].index_position_gb, problems[0].index_position_gb);
  EXPECT_EQ(problems[1].index_gb, problems[0].index_gb);
  double n_heads = 0;  // that ask: a float each of 32 positions
  for (const LayerShape& layer : shape.layers) n_heads += layer.n_heads;
  EXPECT_NEAR(problems[1].index_position_link_gb, n_heads * 4 / 32 * 1e-9, 1e-15);
  for (const bool card_searches : {false, true}) {
    planned.request.card_searches = card_searches;
    const auto stated = placement_problems(planned.model, planned.request);
    ASSERT_EQ(stated.size(), 1u);
    EXPECT_EQ(stated[0].card_searches(), card_searches);
  }
  planned.request.method = index::Method::kPq;  // no card can
  const auto of_cpu = placement_problems(planned.model, planned.request);
  ASSERT_EQ(of_cpu.size(), 1u);
  EXPECT_FALSE(of_cpu[0].card_searches());
}

TEST(PlacementProblem, CountsTheWindowsOfEverySequence) {
  Planned planned(long_model("gemma3"));
  planned.request.n_sequences = 3;
  const PlacementProblem problem = planned.problem();
  const ModelShape shape = shape_of_sequences(planned.model.spec.shape, 3);
  ASSERT_GT(shape.layers.size(), planned.model.spec.shape.layers.size());
  EXPECT_NEAR(problem.kv_gb(), blocks_gb(shape, planned.context()), kByte);
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
