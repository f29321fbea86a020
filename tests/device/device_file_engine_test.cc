// An engine beside a card that is named, whose DRAM does not hold all weights: where they are, what
// is counted and refused, and that no bit tells.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/device_walk.h"
#include "engine/dram_budget.h"
#include "planner/placement/placed_layers.h"
#include "tests/device/device_fixture.h"
#include "tests/device/device_run.h"
#include "tests/engine/thrown_error.h"
#include "tools/cli/placed_plan.h"
#include "tools/cli/plan_words.h"

namespace strata::engine {
namespace {

using Kind = DeviceChoice::Kind;
using testing::Logits;

constexpr uint32_t kFileEngineLayers = 12, kFileEnginePrompt = 20;

class DeviceFileEngine : public testing::DeviceTest {
 protected:
  DeviceFileEngine() {
    makers::RandomTransformer model = testing::wide_llama(kFileEngineLayers);
    model.d_ff = 768;
    makers::write_random_transformer(model, path_);
  }
  /// Of the card's memory what n_held layers want, beside those that pass and n_kv of K and V.
  EngineOptions small_card(uint32_t n_held, uint64_t kv_bytes = 0) const {
    EngineOptions of = options(Kind::kCuda);
    const DevicePlan all = Engine::open(of).device_plan();
    const uint64_t layer = device_aligned(all_layer_bytes() / kFileEngineLayers);
    of.hbm_bytes =
        all.hbm_bytes - all.kv_bytes + kv_bytes - (kFileEngineLayers - n_held) * layer + 2 * layer;
    return of;
  }
  WeightSizes sizes() const {
    const GgufFile file = GgufFile::open(path_);
    return weight_sizes(file, read_model_spec(file));
  }
  uint64_t all_layer_bytes() const {
    uint64_t bytes = 0;
    for (const LayerSize& layer : sizes().layers) bytes += layer.packed_bytes;
    return bytes;
  }
  /// With so many layers in DRAM, and what the others pass through.
  uint64_t weights_dram(uint32_t n_in_dram) const {
    std::vector<PieceSet> streamed(kFileEngineLayers, kWholeLayer);
    std::fill_n(streamed.begin(), n_in_dram, kNoPiece);
    return weight_plan_of(sizes(), streamed).total_bytes();
  }
  /// All bits of a chunk's last logits and of three tokens'.
  static Logits logits_of(Engine& engine) {
    engine.load({});
    Sequence sequence = engine.cache().make_sequence();
    const auto text =
        testing::random_tokens(kFileEnginePrompt + 3, engine.spec().shape.vocab_size, 7);
    Logits logits;
    for (uint32_t end = kFileEnginePrompt; end <= text.size(); ++end) {
      std::vector<StepRow> rows;
      for (uint32_t i = sequence.n_pos(); i < end; ++i)
        rows.push_back({&sequence, text[i], i + 1 == end});
      engine.walk().step(rows);
      const auto last = engine.walk().logits(0);
      logits.emplace_back(last.begin(), last.end());
    }
    return logits;
  }
  static uint32_t n_alone(const Engine& engine) {
    uint32_t n = 0;
    for (uint32_t layer = 0; layer < kFileEngineLayers; ++layer)
      n += common_pieces(engine.device_plan().resident[layer], engine.weight_plan().streamed[layer])
                   .is_any()
               ? 1u
               : 0u;
    return n;
  }
  cli::Command run_with(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {"-m", path_, "-b", "32"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return cli::read_command({"run", cli::kRun, ""}, arguments,
                             [](const std::string&) { return std::optional<std::string>(); });
  }
};

/// Four layers on the card, three in DRAM: the other five come from the file.
TEST_F(DeviceFileEngine, ANamedCardComputesWithWeightsFromTheFile) {
  EngineOptions of = small_card(4);
  Engine in_dram = Engine::open(of);
  ASSERT_EQ(in_dram.device_plan().n_streamed(), kFileEngineLayers - 4);
  const Logits expected = logits_of(in_dram);
  of.weights_dram_bytes = weights_dram(3);
  Engine engine = Engine::open(of);
  ASSERT_NE(engine.device(), nullptr);
  EXPECT_TRUE(engine.notices().empty());
  EXPECT_EQ(engine.device_plan().resident, in_dram.device_plan().resident);
  EXPECT_EQ(n_alone(engine), 4u);
  EXPECT_EQ(engine.weight_plan().n_streamed(), kFileEngineLayers - 3);
  EXPECT_LE(engine.weight_plan().total_bytes(), of.weights_dram_bytes);
  EXPECT_TRUE(engine.reads_disk());
  EXPECT_TRUE(logits_of(engine) == expected);
  EXPECT_GT(engine.model().read_counts().read_bytes, 0u);
  EXPECT_EQ(engine.model().weight_bytes(), engine.weight_plan().total_bytes());
}

/// What the card holds DRAM need not: K and V have its place.
TEST_F(DeviceFileEngine, OneBudgetIsForWhatTheCardDoesNotHold) {
  EngineOptions of = small_card(8);
  const Engine whole = Engine::open(of);
  const uint64_t buffers = buffer_bytes(whole.spec().shape, whole.limits());
  of.dram_bytes =
      kProcessBytes + buffers + whole.context().kv.dram_bytes() + weights_dram(5) + 4096;
  Engine engine = Engine::open(of);
  EXPECT_EQ(n_alone(engine), 8u);
  EXPECT_EQ(engine.weight_plan().n_streamed(), 8u);  // and the other four in DRAM, not five
  EXPECT_FALSE(engine.context().kv.is_spilling());
  EXPECT_EQ(engine.context().n_ctx, of.n_ctx);
  EXPECT_LE(kProcessBytes + buffers + engine.context().kv.dram_bytes() +
                engine.weight_plan().total_bytes(),
            of.dram_bytes);
  Engine all = Engine::open(small_card(8));
  EXPECT_FALSE(engine.reads_disk());
  EXPECT_TRUE(logits_of(engine) == logits_of(all));
  EXPECT_EQ(engine.model().read_counts().read_bytes, 0u);  // in no step
}

/// A context that nobody named grows into what DRAM need not hold; a card which has not the room
/// for its tables then holds a layer less, and DRAM has that one.
TEST_F(DeviceFileEngine, WhatDramLeavesOutIsWhatTheCardHoldsBehindAContextThatGrew) {
  makers::RandomTransformer model = testing::wide_llama(kFileEngineLayers);
  model.d_ff = 2048;
  model.n_ctx = 1 << 15;
  makers::write_random_transformer(model, path_);
  EngineOptions of = small_card(10);
  of.n_ctx = 0;
  const Engine whole = Engine::open(of);
  constexpr uint64_t kKvBytes = uint64_t{5} << 20;
  of.weights_dram_bytes = weights_dram(kFileEngineLayers) - 1;  // not quite all
  of.dram_bytes = kProcessBytes + buffer_bytes(whole.spec().shape, whole.limits()) +
                  of.weights_dram_bytes + kKvBytes;
  const Engine roomy = Engine::open(of);
  EXPECT_GT(roomy.context().kv.dram_bytes(), kKvBytes);
  const uint32_t n_held = n_alone(roomy);
  ASSERT_GT(n_held, 2u);
  EXPECT_EQ(roomy.weight_plan().streamed, roomy.device_plan().resident);
  of.hbm_bytes = roomy.device_plan().hbm_bytes - roomy.device_plan().kv_bytes - 1;
  const Engine short_of_one = Engine::open(of);
  EXPECT_EQ(n_alone(short_of_one), n_held - 1);
  EXPECT_EQ(short_of_one.weight_plan().streamed, short_of_one.device_plan().resident);
  EXPECT_LE(short_of_one.device_plan().hbm_bytes, of.hbm_bytes);
}

TEST_F(DeviceFileEngine, AutoLeavesItToTheCpu) {
  EngineOptions of = small_card(4);
  of.weights_dram_bytes = weights_dram(3);
  of.device.kind = Kind::kAuto;
  const Engine engine = Engine::open(of);
  EXPECT_EQ(engine.device(), nullptr);
  ASSERT_EQ(engine.notices().size(), 1u);
  EXPECT_NE(engine.notices()[0].find("read from disk in every step are the CPU's, unless a card"),
            std::string::npos);
}

TEST_F(DeviceFileEngine, APlacementMaySaySoForPieces) {
  Engine engine = Engine::open(options(Kind::kCuda));
  Engine whole = Engine::open(options(Kind::kCuda));
  Placement placement;
  placement.n_ctx = 256;
  placement.chunk_rows = 32;
  const PieceSet attention{.attention = true}, ffn{.ffn = true};
  const PieceSet kinds[] = {kNoPiece, attention, ffn, kWholeLayer};
  for (uint32_t layer = 0; layer < kFileEngineLayers; ++layer) {
    placement.streamed.push_back(kinds[layer % 4]);
    placement.resident.push_back(kinds[layer / 3]);
  }
  engine.place(placement);
  EXPECT_EQ(engine.weight_plan().streamed, placement.streamed);
  EXPECT_TRUE(logits_of(engine) == logits_of(whole));
  // The CPU multiplies by what is in DRAM alone.
  EngineOptions sharing = options(Kind::kCuda);
  sharing.cpu_share.reset();
  Engine other = Engine::open(sharing);
  placement.resident.assign(kFileEngineLayers, kNoPiece);
  placement.on_cpu.assign(kFileEngineLayers, ffn);
  testing::expect_error([&] { other.place(placement); }, ErrorCode::kUnsupported,
                        "weights of layer 2 that are read from the file", "layers");
  placement.streamed.assign(kFileEngineLayers, attention);
  other.place(placement);
  EXPECT_EQ(other.device_plan().on_cpu, placement.on_cpu);
}

TEST_F(DeviceFileEngine, AShareOfProductsIsOfWhatIsInDram) {
  EngineOptions of = small_card(2);
  of.weights_dram_bytes = weights_dram(6);
  of.cpu_share = 1;
  Engine engine = Engine::open(of);
  EXPECT_EQ(engine.device_plan().n_on_cpu(), 6u);
  for (uint32_t layer = 0; layer < kFileEngineLayers; ++layer)
    EXPECT_EQ(engine.device_plan().on_cpu[layer].is_any(),
              !engine.device_plan().resident[layer].is_any() &&
                  !engine.weight_plan().streamed[layer].is_any());
  const Logits found = logits_of(engine);
  EXPECT_GT(engine.walk().device()->cpu_weight_bytes(), 0u);
  // Where a token's layers come from no bit tells, also in the steps that lack those of the CPU.
  EngineOptions sharing = options(Kind::kCuda);
  sharing.cpu_share.reset();
  Engine in_dram = Engine::open(sharing);
  Placement placement;
  placement.n_ctx = 256;
  placement.chunk_rows = 32;
  placement.streamed.assign(kFileEngineLayers, kNoPiece);
  placement.resident = engine.device_plan().resident;
  placement.on_cpu = engine.device_plan().on_cpu;
  placement.cpu_share = engine.device_plan().cpu_share;
  in_dram.place(placement);
  EXPECT_TRUE(found == logits_of(in_dram));
  EXPECT_EQ(in_dram.walk().device()->cpu_weight_bytes(),
            engine.walk().device()->cpu_weight_bytes());
}

/// What the planner counts of either memory the engine reserves.
TEST_F(DeviceFileEngine, ThePlannersTablesAreWhatIsReserved) {
  Engine whole = Engine::open(options(Kind::kCuda));
  const Logits expected = logits_of(whole);
  uint32_t n_planned = 0, n_with_alone = 0, n_from_file = 0;
  for (const uint32_t n_held : {2u, 6u})
    for (const uint32_t n_in_dram : {0u, 3u, 6u})
      for (const char* pin : {"", "ffn_=nvme", "blk.0.=nvme"}) {
        SCOPED_TRACE(std::to_string(n_held) + " " + std::to_string(n_in_dram) + " " + pin);
        EngineOptions of = small_card(n_held);
        of.weights_dram_bytes = weights_dram(n_in_dram);
        Engine engine = Engine::open(of);
        std::vector<std::string> words = {"--device", "cuda:0"};
        if (*pin != 0) words.insert(words.end(), {"--pin", pin});
        const cli::PlacedPlan plan = cli::place_by_plan(run_with(words), engine);
        n_planned += plan.placed_by == cli::PlacedBy::kPlanner ? 1u : 0u;
        n_with_alone += n_alone(engine) > 0 ? 1u : 0u;
        EXPECT_EQ(plan.layers.is_hbm_alone, n_alone(engine) > 0);
        const cli::LayerCounts counts = cli::layer_counts(plan.problem, plan.layers);
        EXPECT_EQ(cli::layer_counts_json(counts).contains("hbm_alone"), n_alone(engine) > 0);
        const planner::PlacedGb gb = planner::placed_gb(plan.problem, plan.layers);
        EXPECT_NEAR((gb.dram_weights + gb.dram_slots) * 1e9,
                    static_cast<double>(engine.weight_plan().total_bytes()), 1);
        EXPECT_NEAR(
            (gb.hbm_weights + gb.hbm_buffers) * 1e9,
            static_cast<double>(engine.device_plan().hbm_bytes - engine.device_plan().kv_bytes),
            256 * kFileEngineLayers);
        EXPECT_LE(engine.device_plan().hbm_bytes, of.hbm_bytes);
        EXPECT_LE(engine.weight_plan().total_bytes(), of.weights_dram_bytes);
        for (uint32_t layer = 0; layer < kFileEngineLayers && *pin != 0; ++layer) {
          if (*pin != 'f' && layer > 0) continue;
          EXPECT_TRUE(engine.weight_plan().streamed[layer].ffn);
          EXPECT_FALSE(engine.device_plan().resident[layer].ffn);
        }
        const bool reads = planner::token_time(plan.problem, plan.layers)
                               .busy_ms[static_cast<size_t>(planner::PlanPart::kNvme)] > 0;
        n_from_file += reads ? 1u : 0u;
        if (n_held == 6 || n_in_dram != 3) continue;
        EXPECT_TRUE(logits_of(engine) == expected);
        EXPECT_EQ(engine.model().read_counts().read_bytes > 0, reads);
      }
  EXPECT_GT(n_planned, 0u);
  EXPECT_GT(n_with_alone, 0u);
  EXPECT_GT(n_from_file, 0u);
}

}  // namespace
}  // namespace strata::engine
