// Step times of placements whose answer is a sum: what overlaps, what waits, what limits.
#include "planner/placement/step_time.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <vector>

#include "planner/placement/placed_layers.h"
#include "planner/placement/plan_change.h"
#include "tests/planner/random_problem.h"
#include "tests/planner/small_problem.h"

namespace strata::planner {
namespace {

// K and V of a layer: 0.1 GB, 5 ms on the CPU, 1 ms in HBM, 10 ms across the link, 50 from disk.
// Weights of a layer: 10 ms on the CPU, 1 ms in HBM, 10 ms across the link, 50 ms from disk.

TEST(ChunkSamples, StandForEveryChunkAndRowOfThePrompt) {
  PlacementProblem problem = small_problem(false);
  for (const double n_prompt : {1.0, 100.0, 101.0, 800.0, 801.0, 850.0, 12'345.0}) {
    problem.n_prompt = n_prompt;
    double n_rows = 0, n_chunks = 0;
    for (const ChunkSample& chunk : chunk_samples(problem)) {
      n_rows += chunk.n_rows * chunk.weight;
      n_chunks += chunk.weight;
      EXPECT_LE(chunk.first_pos + chunk.n_rows, n_prompt);
    }
    EXPECT_NEAR(n_rows, n_prompt, 1e-6) << n_prompt;
    EXPECT_NEAR(n_chunks, std::ceil(n_prompt / problem.chunk_rows), 1e-6) << n_prompt;
  }
}

TEST(StepTime, OfWhatIsNearIsASum) {
  const StepTime cpu = token_time(small_problem(false), small_placement(0, 4, 0, 0, 1000));
  EXPECT_NEAR(cpu.ms, 4 * (10 + 5) + 2, kExact);
  EXPECT_EQ(cpu.binding(), PlanPart::kCpu);
  const StepTime card = token_time(small_problem(true), small_placement(4, 0, 0, 1000, 0));
  EXPECT_NEAR(card.ms, 4 * (1 + 1) + 2, kExact);
  EXPECT_EQ(card.binding(), PlanPart::kGpu);
}

TEST(StepTime, TheIndexIsScannedAsFarAsTheContextGoes) {
  PlacementProblem problem = small_problem(false);
  const LayerPlacement near = small_placement(0, 4, 0, 0, 1000);
  const double without = token_time(problem, near).ms;
  problem.index_position_ms = 0.01;
  EXPECT_NEAR(token_time(problem, near).ms, without + 10, kExact);
  PlacementProblem early = problem;
  early.n_prompt = 200;
  const double scanned = token_time(early, near).ms;
  early.index_position_ms = 0;
  EXPECT_NEAR(scanned - token_time(early, near).ms, 2, kExact);
}

TEST(StepTime, ChoosingIsWorkOfTheCpuAlsoBesideACard) {
  PlacementProblem problem = small_problem(false), card = small_problem(true);
  const LayerPlacement near = small_placement(0, 4, 0, 0, 1000),
                       on_card = small_placement(4, 0, 0, 1000, 0);
  const auto busy = [](const StepTime& time, PlanPart part) {
    return time.busy_ms[static_cast<size_t>(part)];
  };
  const StepTime without = token_time(problem, near), alone = token_time(card, on_card);
  card.rates.round_trip_ms = 0.5;  // of each layer whose queries come to the host
  for (PlacementProblem* of : {&problem, &card}) {
    of->index_position_ms = 0.02;   // 20 ms
    of->index_position_gb = 0.003;  // 3 GB, 3 ms of DRAM's
  }
  const StepTime here = token_time(problem, near), there = token_time(card, on_card);
  EXPECT_NEAR(here.ms, without.ms + 20, kExact);
  EXPECT_NEAR(there.ms, alone.ms + 20 + 4 * 0.5, kExact);
  EXPECT_NEAR(busy(here, PlanPart::kCpu), busy(without, PlanPart::kCpu) + 20, kExact);
  EXPECT_NEAR(busy(there, PlanPart::kCpu), 20, kExact);
  EXPECT_NEAR(busy(here, PlanPart::kDram), busy(without, PlanPart::kDram) + 3, kExact);
  EXPECT_NEAR(busy(there, PlanPart::kDram), 3, kExact);
  EXPECT_EQ(there.binding(), PlanPart::kCpu);
  // Windowed layers have no index.
  card.groups[0].window = 1000;
  EXPECT_NEAR(token_time(card, on_card).ms, alone.ms + 20, kExact);
}

TEST(StepTime, ChoosingGoesAtThePaceOfTheCpuUntilMemoryIsSlower) {
  PlacementProblem problem = small_problem(false);
  const LayerPlacement near = small_placement(0, 4, 0, 0, 1000);
  problem.index_position_ms = 0.01;   // 10 ms
  problem.index_position_gb = 0.003;  // 3 ms of DRAM's
  const auto change = [&](const char* part, double times) {
    PlacementProblem changed = problem;
    const auto resource = std::ranges::find(
        plan_resources(), part, [](const PlanResource& of) { return std::string_view(of.name); });
    change_resource(*resource, times, changed);
    return changed.index_scan_ms();
  };
  EXPECT_NEAR(change("cpu", 2), 5, kExact);
  EXPECT_NEAR(change("cpu", 4), 3, kExact);
  EXPECT_NEAR(change("dram_read", 2), 10, kExact);
  EXPECT_NEAR(change("dram_read", 0.2), 15, kExact);
  EXPECT_NEAR(at_pace(problem, {.dram = 0.5}).index_scan_ms(), 10, kExact);
  EXPECT_NEAR(at_pace(problem, {.dram = 0.2}).index_scan_ms(), 15, kExact);
  // Of a method that was not measured only memory is known.
  problem.index_position_ms = 0;
  EXPECT_NEAR(problem.index_scan_ms(), 3, kExact);
}

TEST(StepTime, OfWhatComesAheadIsThatOfTheSlowest) {
  // All from disk: reading hides the rest. One of four: computing hides most of the reading.
  EXPECT_NEAR(token_time(small_problem(false), small_placement(0, 0, 4, 0, 1000)).ms, 4 * 50,
              kExact);
  EXPECT_NEAR(token_time(small_problem(false), small_placement(0, 3, 1, 0, 1000)).ms, 62, kExact);
  const StepTime card = token_time(small_problem(true), small_placement(0, 4, 0, 1000, 0));
  EXPECT_NEAR(card.ms, 4 * 10, kExact);
  EXPECT_EQ(card.binding(), PlanPart::kLinkIn);
  EXPECT_NEAR(token_time(small_problem(true), small_placement(0, 0, 4, 1000, 0)).ms, 4 * 50,
              kExact);
  // Half of K and V on disk, read in every token of exact attention, from when the step begins: it
  // ends with the attention of the last layer, and the head.
  EXPECT_NEAR(token_time(small_problem(false), small_placement(0, 4, 0, 0, 500)).ms, 4 * 25 + 5 + 2,
              kExact);
}

/// Three layers pass through two slots, 40 ms each, and take 4 ms; the fourth stays and takes 100.
struct Waiting {
  PlacementProblem problem = small_problem(true);
  LayerPlacement placement;
  Waiting() {
    LayerGroup passing = problem.groups[0], staying = problem.groups[0];
    passing.layers = {0, 1, 2};
    passing.weight_gb = 0.4;
    staying.layers = {3};
    staying.weight_gb = 10;
    problem.groups = {passing, staying};
    problem.head_ms = 0;
    problem.rates.hbm_attend = 1e9;
    placement.groups = {{0, 3, 0, 1000, 0}, {1, 0, 0, 1000, 0}};
  }
};

TEST(StepTime, OfALayerThatWaitsForItsWeightsIsInNoSum) {
  // Meanwhile the slots are filled twice and no more: the third copy begins behind the first layer,
  // and the third layer at 44 ms, the fourth at 48. Copies alone take 120, computing 112.
  const Waiting of;
  EXPECT_NEAR(token_time(of.problem, of.placement).ms, 148, 1e-3);
}

/// The same from the disk, and attention takes nothing.
struct WaitingForTheDisk {
  PlacementProblem problem = small_problem(false);
  LayerPlacement placement;
  WaitingForTheDisk() {
    LayerGroup passing = problem.groups[0], staying = problem.groups[0];
    passing.layers = {0, 1, 2};
    passing.weight_gb = 0.08;
    passing.cpu_linear_ms = 4;
    staying.layers = {3};
    staying.cpu_linear_ms = 100;
    problem.groups = {passing, staying};
    problem.head_ms = 0;
    problem.rates.cpu_attend = 1e9;
    placement.groups = {{0, 0, 3, 0, 1000}, {0, 1, 0, 0, 1000}};
  }
};

TEST(StepTime, ALayerIsReadAheadAsFarAsTheRingHolds) {
  WaitingForTheDisk of;
  EXPECT_NEAR(token_time(of.problem, of.placement).ms, 148, 1e-3);  // as across the link
  // With a buffer for all of it the third layer is read while the fourth computes: the disk is at
  // work all the time. With half of that, half of the wait is left.
  of.problem.groups[0].ahead_share = 1;
  EXPECT_NEAR(token_time(of.problem, of.placement).ms, 120, 1e-3);
  of.problem.groups[0].ahead_share = 0.5;
  EXPECT_NEAR(token_time(of.problem, of.placement).ms, 128, 1e-3);
}

TEST(StepTime, OfSmallReadsIsThatOfTheirRate) {
  PlacementProblem problem = small_problem(false);
  problem.groups[0].weights_read_share = 1.5;
  EXPECT_NEAR(token_time(problem, small_placement(0, 0, 4, 0, 1000)).ms, 1.5 * 200, kExact);
  problem.groups[0].kv_read_share = 1.2;
  EXPECT_NEAR(token_time(problem, small_placement(0, 4, 0, 0, 500)).ms, 1.2 * 100 + 5 + 2, kExact);
}

/// Of each layer's 0.1 GB, the FFN's 0.06 apart in that tier.
PlacementProblem split_problem(bool has_device, PlanTier tier) {
  PlacementProblem problem = small_problem(has_device);
  problem.groups[0].weight_gb = 0.04;
  problem.groups[0].apart = PieceApart{{.weight_gb = 0.06}, LayerPiece::kFfn, tier};
  return problem;
}

TEST(StepTime, OfLayersInPiecesIsThatOfWhatMoves) {
  using enum PlanTier;
  // Where both pieces are in one place it is that of whole layers.
  EXPECT_NEAR(token_time(split_problem(false, kDram), small_placement(0, 4, 0, 0, 1000)).ms, 62,
              kExact);
  EXPECT_NEAR(token_time(split_problem(false, kNvme), small_placement(0, 0, 4, 0, 1000)).ms, 200,
              kExact);
  EXPECT_NEAR(token_time(split_problem(true, kHbm), small_placement(4, 0, 0, 1000, 0)).ms, 10,
              kExact);
  EXPECT_NEAR(token_time(split_problem(true, kDram), small_placement(0, 4, 0, 1000, 0)).ms, 40,
              kExact);
  // Else the disk, the link and DRAM move one of them; all of it is computed.
  const StepTime ffn = token_time(split_problem(false, kNvme), small_placement(0, 4, 0, 0, 1000));
  EXPECT_NEAR(ffn.ms, 4 * 30, kExact);
  EXPECT_NEAR(ffn.busy_ms[1], 4 * (0.1 + 0.1 + 0.06), kExact);  // DRAM, of 1 GB a ms
  EXPECT_NEAR(token_time(split_problem(false, kDram), small_placement(0, 0, 4, 0, 1000)).ms, 4 * 20,
              kExact);
  const StepTime card = token_time(split_problem(true, kDram), small_placement(4, 0, 0, 1000, 0));
  EXPECT_NEAR(card.ms, 4 * 6, kExact);
  EXPECT_NEAR(card.busy_ms[5], 10, kExact);  // the GPU
  EXPECT_NEAR(token_time(split_problem(true, kHbm), small_placement(0, 4, 0, 1000, 0)).ms, 4 * 4,
              kExact);
  // The CPU packs what comes from the disk.
  PlacementProblem packed = split_problem(false, kNvme);
  packed.groups[0].pack_ms = 1000;
  packed.groups[0].apart->pack_ms = 20;
  EXPECT_NEAR(token_time(packed, small_placement(0, 4, 0, 0, 1000)).ms, 4 * (15 + 20) + 2, kExact);
  packed.groups[0].apart->weights_read_share = 2;
  EXPECT_NEAR(token_time(packed, small_placement(0, 4, 0, 0, 1000)).ms, 4 * 60, kExact);
}

TEST(StepTime, TheRingHoldsOfTwoPiecesWhatItHoldsOfALayer) {
  WaitingForTheDisk of;
  LayerGroup& passing = of.problem.groups[0];
  passing.weight_gb = 0.05;
  passing.apart = PieceApart{{.weight_gb = 0.03}, LayerPiece::kFfn, PlanTier::kNvme};
  EXPECT_NEAR(token_time(of.problem, of.placement).ms, 148, 1e-3);
  // Buffers of 0.04 GB, half of the layer; then of more than all of it.
  passing.ahead_share = 0.8;
  passing.apart->ahead_share = 0.04 / 0.03;
  EXPECT_NEAR(token_time(of.problem, of.placement).ms, 128, 1e-3);
  passing.ahead_share = 2;
  passing.apart->ahead_share = 0.1 / 0.03;
  EXPECT_NEAR(token_time(of.problem, of.placement).ms, 120, 1e-3);
}

TEST(StepTime, BytesOfPiecesAreWhereTheyAre) {
  using enum PlanTier;
  PlacementProblem problem = split_problem(true, kDram);
  problem.hbm_slots_gb = 0.5;
  problem.stream_slots_gb = 0.25;
  PlacedGb gb = placed_gb(problem, small_placement(4, 0, 0, 0, 1000));
  EXPECT_NEAR(gb.hbm_weights, 4 * 0.04, kExact);
  EXPECT_NEAR(gb.dram_weights, 4 * 0.1, kExact);
  EXPECT_EQ(gb.hbm_buffers, 0.5);  // the FFN passes
  EXPECT_EQ(gb.dram_slots, 0);
  problem.groups[0].apart->tier = kNvme;
  gb = placed_gb(problem, small_placement(0, 4, 0, 0, 1000));
  EXPECT_NEAR(gb.nvme_weights, 4 * 0.06, kExact);
  EXPECT_NEAR(gb.dram_weights, 4 * 0.04, kExact);
  EXPECT_EQ(gb.dram_slots, 0.25);
  problem.groups[0].apart->tier = kHbm;
  gb = placed_gb(problem, small_placement(4, 0, 0, 0, 1000));
  EXPECT_NEAR(gb.hbm_weights, 4 * 0.1, kExact);
  EXPECT_NEAR(gb.dram_weights, 4 * 0.1, kExact);
  EXPECT_EQ(gb.hbm_buffers, 0);
  EXPECT_TRUE(fits(problem, small_placement(4, 0, 0, 0, 1000)));
  problem.has_device = false;  // a tier that is not there
  EXPECT_FALSE(fits(problem, small_placement(0, 4, 0, 0, 1000)));
}

TEST(StepTime, ADiskThatWasIdleAnswersLate) {
  PlacementProblem problem = small_problem(false);
  problem.rates.nvme_answer_ms = 3;
  // Weights come one after the other without a pause; K and V begin with every step; what is chosen
  // is known in every layer.
  EXPECT_NEAR(token_time(problem, small_placement(0, 0, 4, 0, 1000)).ms, 4 * 50, kExact);
  EXPECT_NEAR(token_time(problem, small_placement(0, 4, 0, 0, 500)).ms, 3 + 4 * 25 + 5 + 2, kExact);
  problem.touched_share = 0.1;
  EXPECT_NEAR(token_time(problem, small_placement(0, 4, 0, 0, 500)).ms, 4 * (10 + 0.5 + 5 + 3) + 2,
              kExact);
}

TEST(StepTime, KAndVAreReadAsFarAheadAsTheyCanBeStaged) {
  // The last of four layers has its K and V on disk, 50 ms: a layer ahead they come at 80, when the
  // step begins at 50, when the layer itself comes to them at 45.
  PlacementProblem problem = small_problem(false);
  LayerGroup last = problem.groups[0];
  problem.groups[0].layers = {0, 1, 2};
  last.layers = {3};
  problem.groups.push_back(last);
  const LayerPlacement placement = {{{0, 3, 0, 0, 1000}, {0, 1, 0, 0, 500}}, CpuPart::kNone};
  problem.rates.nvme_read = 1;
  EXPECT_NEAR(token_time(problem, placement).ms, 30 + 50 + 5 + 2, kExact);
  problem.staged_positions = 600;
  EXPECT_NEAR(token_time(problem, placement).ms, 45 + 10 + 5 + 2, kExact);
}

TEST(StepTime, OfChosenBlocksStandsInTheChain) {
  PlacementProblem problem = small_problem(false);
  problem.touched_share = 0.1;
  // A tenth of 5 ms to attend, half of a tenth of 100 ms (at the rate of single blocks) to read.
  EXPECT_NEAR(token_time(problem, small_placement(0, 4, 0, 0, 500)).ms, 4 * (10 + 0.5 + 5) + 2,
              kExact);
}

TEST(StepTime, OfABudgetOfPositionsIsThatOfItsShareOfTheContext) {
  PlacementProblem problem = small_problem(false);
  const LayerPlacement spilled = small_placement(0, 4, 0, 0, 500);
  const double all = token_time(problem, spilled).ms;
  problem.touched_positions = 100;
  EXPECT_NEAR(token_time(problem, spilled).ms, 4 * (10 + 0.5 + 5) + 2, kExact);
  problem.touched_positions = 1000;
  EXPECT_NEAR(token_time(problem, spilled).ms, all, kExact);
  problem.touched_positions = 100;
  problem.n_prompt = 400;
  EXPECT_DOUBLE_EQ(problem.share_touched(), 0.25);
  problem.n_prompt = 50;
  EXPECT_DOUBLE_EQ(problem.share_touched(), 1);
}

TEST(StepTime, OfAttentionBesideACardIsTheSlowerOfBoth) {
  const PlacementProblem problem = small_problem(true);
  LayerPlacement placement = small_placement(4, 0, 0, 500, 500);
  EXPECT_NEAR(token_time(problem, placement).ms, 4 * (1 + 0.5 + 5) + 2, kExact);
  placement.cpu_part = CpuPart::kAll;
  EXPECT_NEAR(token_time(problem, placement).ms, 4 * (1 + 2.5) + 2, kExact);
  // Shared so that both end together: 0.5 + 5 (1 - s) = 2.5 s.
  placement.cpu_part = CpuPart::kBalanced;
  EXPECT_NEAR(token_time(problem, placement).ms, 4 * (1 + 2.5 * 5.5 / 7.5) + 2, kExact);
  // What sharing costs is the CPU's, which gets less for it: 0.5 + 5 (1 - s) = 2.5 s + 0.75.
  PlacementProblem costly = problem;
  costly.rates.round_trip_ms = 0.25;
  costly.rates.sharing_ms = 0.5;
  EXPECT_NEAR(token_time(costly, placement).ms, 4 * (1 + 2.5 * 4.75 / 7.5 + 0.75) + 2, kExact);
  // A share that is stated is no balance.
  for (const auto& [share, ms] :
       {std::pair{0.1, 0.5 + 4.5}, std::pair{0.6, 0.5 + 2}, std::pair{1.0, 2.5 + 0.75}}) {
    costly.stated_cpu_share = share;
    EXPECT_NEAR(token_time(costly, placement).ms, 4 * (1 + ms) + 2, kExact);
  }
}

TEST(StepTime, IsNoLessThanDramTakes) {
  PlacementProblem problem = small_problem(false);
  problem.rates.dram_read = 8;
  const StepTime time = token_time(problem, small_placement(0, 4, 0, 0, 1000));
  EXPECT_NEAR(time.ms, 4 * 0.2 / 8 * 1e3, kExact);
  EXPECT_EQ(time.binding(), PlanPart::kDram);
}

TEST(StepTime, DiskAndCpuSlowEachOther) {
  PlacementProblem problem = small_problem(false);
  problem.rates.cpu_slows_nvme = 0.5;
  EXPECT_NEAR(token_time(problem, small_placement(0, 0, 4, 0, 1000)).ms, 200 + 0.5 * 62, kExact);
  problem.rates.nvme_slows_cpu = 0.5;
  problem.rates.cpu_slows_nvme = 0;
  EXPECT_NEAR(token_time(problem, small_placement(0, 3, 1, 0, 1000)).ms, 62 + 0.5 * 50, kExact);
}

TEST(StepTime, PackingIsWorkOfTheCpu) {
  PlacementProblem problem = small_problem(false);
  problem.groups[0].pack_ms = 60;  // longer than the 50 of the disk
  EXPECT_NEAR(token_time(problem, small_placement(0, 0, 4, 0, 1000)).ms, 4 * (10 + 5 + 60) + 2,
              kExact);
  PlacementProblem card = small_problem(true);
  card.groups[0].pack_ms = 60;
  EXPECT_NEAR(token_time(card, small_placement(0, 0, 4, 1000, 0)).ms, 4 * 60, kExact);
  // What it multiplies beside a card it does not pack meanwhile.
  LayerPlacement both = small_placement(0, 2, 2, 1000, 0);
  both.groups[0].n_on_cpu = 2;
  EXPECT_NEAR(token_time(card, both).ms, 2 * 60 + 2 * 10, kExact);
}

TEST(StepTime, LayersAndStepsOfTheCpuCostBesideTheirBytes) {
  PlacementProblem problem = small_problem(false);
  problem.n_prompt = 200;  // two chunks of 100 rows
  const LayerPlacement near = small_placement(0, 4, 0, 0, 1000);
  const double token = token_time(problem, near).ms, prompt = prompt_time(problem, near).ms;
  problem.rates.cpu_layer_ms = 3;
  problem.rates.cpu_chunk_layer_ms = 2;
  problem.rates.cpu_step_ms = 5;
  EXPECT_NEAR(token_time(problem, near).ms - token, 4 * 3 + 5, kExact);
  EXPECT_NEAR(prompt_time(problem, near).ms - prompt, 2 * (4 * 2 + 5), kExact);
  // It is work that hides reading, as other work does.
  problem.rates.cpu_layer_ms = 100;
  EXPECT_NEAR(token_time(problem, small_placement(0, 0, 4, 0, 1000)).ms, 4 * 111 + 5 + 2, kExact);
  // A card has launches in place of it.
  PlacementProblem card = small_problem(true);
  const double on_card = token_time(card, small_placement(4, 0, 0, 1000, 0)).ms;
  card.rates.cpu_layer_ms = card.rates.cpu_chunk_layer_ms = card.rates.cpu_step_ms = 50;
  EXPECT_NEAR(token_time(card, small_placement(4, 0, 0, 1000, 0)).ms, on_card, kExact);
}

TEST(StepTime, OfAPromptBehindAContextIsThatOfItsLastChunks) {
  PlacementProblem all = small_problem(false);
  all.n_prompt = 800;
  PlacementProblem first = all, last = all;
  first.n_prompt = 500;
  last.n_past = 500;
  last.n_prompt = 300;
  const LayerPlacement near = small_placement(0, 4, 0, 0, 600);  // some of it is read from the file
  EXPECT_NEAR(prompt_time(first, near).ms + prompt_time(last, near).ms - all.head_ms,
              prompt_time(all, near).ms, kExact);
  EXPECT_EQ(last.n_decode_positions(), all.n_decode_positions());
}

TEST(StepTime, OfAPromptSumsItsChunks) {
  // Eight chunks of 125 rows: products, and attention of what stands before a row, half a chunk of
  // it its own.
  PlacementProblem problem = small_problem(false);
  problem.chunk_rows = 125;
  double expected = 2;
  for (int chunk = 0; chunk < 8; ++chunk)
    expected += 4 * (125 * 0.2 + 125 * (chunk * 125 + 62.5) * 1e-6 / 0.1 * 1e3);
  EXPECT_NEAR(prompt_time(problem, small_placement(0, 4, 0, 0, 1000)).ms, expected, kExact);
  // Weights from disk in every chunk, 200 ms each, hide what is computed.
  EXPECT_GE(prompt_time(problem, small_placement(0, 0, 4, 0, 1000)).ms, 8 * 200);
  // K and V that are lost to disk are read again by every later chunk, and written once.
  const double spilled = prompt_time(problem, small_placement(0, 4, 0, 0, 500)).busy_ms[2];
  EXPECT_NEAR(spilled, 4 * 1000 * 1e-4 * 1e3 + 4 * (125 + 250 + 375) * 1e-4 / 2 * 1e3, kExact);
}

TEST(StepTime, EventsAreWhatTheTokenConsistsOf) {
  // Of a part that is used in turn nothing overlaps, and its events add up to what it is at work.
  const PlacementProblem problem = small_problem(false);
  std::vector<StepEvent> events;
  const StepTime time = token_time(problem, small_placement(0, 2, 2, 0, 1000), &events);
  std::array<double, kPlanParts> sums{}, ends{};
  ends.fill(-1e9);
  for (const StepEvent& event : events) {
    const auto part = static_cast<size_t>(event.part);
    EXPECT_GE(event.begin_ms, ends[part] - kExact);
    EXPECT_GT(event.end_ms, event.begin_ms);
    EXPECT_LT(event.layer, 4u);
    ends[part] = event.end_ms;
    sums[part] += event.end_ms - event.begin_ms;
  }
  constexpr auto kCpu = static_cast<size_t>(PlanPart::kCpu);
  constexpr auto kNvme = static_cast<size_t>(PlanPart::kNvme);
  EXPECT_NEAR(sums[kCpu], time.busy_ms[kCpu] - problem.head_ms, kExact);
  EXPECT_NEAR(sums[kNvme], time.busy_ms[kNvme], kExact);
  EXPECT_NEAR(ends[kCpu], time.ms - problem.head_ms, kExact);
  // What is asked for its events takes what it takes without.
  EXPECT_EQ(token_time(problem, small_placement(0, 2, 2, 0, 1000)).ms, time.ms);
}

TEST(StepTime, WaitsAreWhatNeitherTheChainNorAPartAccountsFor) {
  EXPECT_EQ(token_time(small_problem(false), small_placement(0, 4, 0, 0, 1000)).waits_ms, 0);
  // Copies alone 120 ms, computing 112, together 148 (OfALayerThatWaits...).
  const Waiting of;
  const StepTime time = token_time(of.problem, of.placement);
  EXPECT_NEAR(time.waits_ms, 148 - 120, 1e-3);
  EXPECT_NEAR(time.ahead_ms, 120, 1e-3);
}

TEST(StepTime, NamesThePlaceOfEveryLayer) {
  const PlacementProblem problem = testing::random_problem(1, true, 2, 4);
  LayerPlacement placement;
  placement.groups = {{4, 0, 0, 0, 0}, {0, 2, 2, 0, 0}};
  using enum PlanTier;
  EXPECT_EQ(weight_tiers(problem, placement), (std::vector<PieceTiers>{{kHbm, kHbm},
                                                                       {kHbm, kHbm},
                                                                       {kHbm, kHbm},
                                                                       {kHbm, kHbm},
                                                                       {kDram, kDram},
                                                                       {kNvme, kNvme},
                                                                       {kDram, kDram},
                                                                       {kNvme, kNvme}}));
  EXPECT_EQ(
      weight_tiers(split_problem(false, kNvme), small_placement(0, 2, 2, 0, 1000)),
      (std::vector<PieceTiers>{{kDram, kNvme}, {kNvme, kNvme}, {kDram, kNvme}, {kNvme, kNvme}}));
}

}  // namespace
}  // namespace strata::planner
