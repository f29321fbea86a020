// bench --attribution: every moment of a step has one owner, the sums are the step's, and a disk
// whose time is known is waited for exactly as long as it says.
#include "tools/cli/attribution.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/checked_math.h"
#include "cpu_attn/kernels.h"
#include "engine/kv_placement.h"
#include "tests/engine/scripted_io.h"
#include "tests/engine/zoo_fixture.h"
#include "tests/tiers/simulated_spill.h"
#include "tests/tools/spilling_model.h"
#include "tools/cli/attribution_report.h"

namespace strata::cli {
namespace {

using engine::testing::IoScript;
using nlohmann::json;
using std::chrono::nanoseconds;
using std::chrono_literals::operator""ns;
using std::chrono_literals::operator""us;

TraceEvent step(nanoseconds begin, nanoseconds end, uint64_t pos = 0) {
  return {.kind = TraceKind::kStep,
          .index = 1,
          .name = "step",
          .begin = begin,
          .end = end,
          .detail = pos};
}
TraceEvent operation(const char* name, uint32_t layer, nanoseconds begin, nanoseconds end,
                     uint64_t bytes = 0) {
  return {.kind = TraceKind::kOperation,
          .index = layer,
          .name = name,
          .begin = begin,
          .end = end,
          .bytes = bytes};
}
TraceEvent wait(Resource resource, nanoseconds begin, nanoseconds end) {
  return {
      .kind = TraceKind::kWait, .resource = resource, .name = "wait", .begin = begin, .end = end};
}
TraceEvent read(Resource resource, nanoseconds begin, nanoseconds end) {
  return {
      .kind = TraceKind::kRead, .resource = resource, .name = "read", .begin = begin, .end = end};
}

const TimeShares& layer_of(const Attribution& found, uint32_t layer) {
  return std::ranges::find(found.layers, layer, &LayerShares::layer)->time;
}
const TimeShares& stage_of(const Attribution& found, std::string_view name) {
  return std::ranges::find(found.stages, name, &StageShares::name)->time;
}

/// 0    10      30          60  70      90 100
/// |rest|attend 0 (wait 20-28, pin 40-55 with a wait 45-50)|rest|ffn 1|rest|
TEST(Attribution, GivesEveryMomentOfAStepToOneOwner) {
  Trace trace(100);
  for (const TraceEvent& event :
       {wait(Resource::kKvDisk, 20ns, 28ns), wait(Resource::kWeightDisk, 45ns, 50ns),
        operation("pin", 0, 40ns, 55ns, 7), operation("attend", 0, 10ns, 60ns, 1000),
        operation("ffn", 1, 70ns, 90ns, 500), step(0ns, 100ns, 17),
        // Two at a time for a while, and one that began before the step and one that outlives it.
        read(Resource::kKvDisk, -50ns, 5ns), read(Resource::kKvDisk, 20ns, 40ns),
        read(Resource::kKvDisk, 30ns, 62ns), read(Resource::kWeightDisk, 80ns, 500ns)})
    trace.add(event);
  const Attribution found = attribute(trace);
  ASSERT_EQ(found.steps.size(), 1u);
  EXPECT_EQ(found.steps[0].first_pos, 17u);
  EXPECT_EQ(found.n_rows(), 1u);
  EXPECT_EQ(found.all.wall(), 100ns);
  EXPECT_EQ(found.all.cpu, 50ns - 13ns + 20ns);
  EXPECT_EQ(found.all.waited_for(Resource::kKvDisk), 8ns);
  EXPECT_EQ(found.all.waited_for(Resource::kWeightDisk), 5ns);
  EXPECT_EQ(found.all.rest, 30ns);
  EXPECT_EQ(found.all.busy_of(Resource::kKvDisk), 5ns + 42ns);
  EXPECT_EQ(found.all.busy_of(Resource::kWeightDisk), 20ns);
  EXPECT_EQ(found.all.bytes, 1500u);
  EXPECT_EQ(stage_of(found, "attend").cpu, 50ns - 8ns - 15ns);
  EXPECT_EQ(stage_of(found, "attend").waited_in_all(), 8ns);
  EXPECT_EQ(stage_of(found, "pin").cpu, 10ns);
  EXPECT_EQ(stage_of(found, "pin").waited_for(Resource::kWeightDisk), 5ns);
  ASSERT_EQ(found.layers.size(), 3u);
  EXPECT_EQ(found.layers.back().layer, kNoLayer);
  EXPECT_EQ(found.layers.back().time.wall(), 10ns);
  EXPECT_EQ(layer_of(found, 0).wall(), 60ns);  // with what follows until the next layer
  EXPECT_EQ(layer_of(found, 0).busy_of(Resource::kKvDisk), 42ns);
  EXPECT_EQ(layer_of(found, 1).wall(), 30ns);
  EXPECT_EQ(layer_of(found, 1).busy_of(Resource::kWeightDisk), 20ns);
}

TEST(Attribution, EveryStepHasItsOwnLayers) {
  Trace trace(100);
  // The second step takes longer, and waits in another layer.
  for (const TraceEvent& event :
       {operation("attend", 0, 0ns, 40ns, 70), wait(Resource::kKvDisk, 10ns, 30ns),
        operation("attend", 1, 40ns, 50ns, 80), step(0ns, 60ns, 4),
        operation("attend", 0, 100ns, 120ns, 700), operation("attend", 1, 120ns, 190ns, 800),
        wait(Resource::kKvDisk, 150ns, 155ns), read(Resource::kKvDisk, 110ns, 155ns),
        step(100ns, 200ns, 5)})
    trace.add(event);
  const Attribution found = attribute(trace);
  ASSERT_EQ(found.steps.size(), 2u);
  const auto layers_of = [&](size_t step) {
    std::vector<std::tuple<uint32_t, nanoseconds, nanoseconds, nanoseconds, uint64_t>> layers;
    for (const LayerShares& of : found.steps[step].layers)
      layers.emplace_back(of.layer, of.time.cpu, of.time.waited_for(Resource::kKvDisk),
                          of.time.busy_of(Resource::kKvDisk), of.time.bytes);
    return layers;
  };
  using Layers = decltype(layers_of(0));
  const auto none = std::tuple(kNoLayer, 0ns, 0ns, 0ns, uint64_t{0});
  EXPECT_EQ(layers_of(0), (Layers{{0, 20ns, 20ns, 0ns, 70}, {1, 10ns, 0ns, 0ns, 80}, none}));
  EXPECT_EQ(layers_of(1), (Layers{{0, 20ns, 0ns, 10ns, 700}, {1, 65ns, 5ns, 35ns, 800}, none}));
  EXPECT_EQ(layer_of(found, 1).cpu, 75ns);
}

TEST(Attribution, SaysNothingOfWhatItDoesNotKnowWhole) {
  Trace full(3);
  for (int i = 0; i < 2; ++i) {
    full.add(operation("attend", 0, nanoseconds(100 * i + 10), nanoseconds(100 * i + 60)));
    full.add(step(nanoseconds(100 * i), nanoseconds(100 * i + 100), static_cast<uint64_t>(i)));
  }
  const Attribution found = attribute(full);  // the first operation is gone
  ASSERT_EQ(found.steps.size(), 1u);
  EXPECT_EQ(found.steps[0].first_pos, 1u);
  EXPECT_EQ(found.all.cpu, 50ns);
  Trace off(10);
  off.set_on(false);
  off.add(step(0ns, 1ns));
  EXPECT_EQ(off.n_held(), 0u);
  EXPECT_TRUE(attribute(off).steps.empty());
}

/// In the disk's own time computing takes none, so all of a step is waiting for weights.
TEST(Attribution, ASlowDiskIsWaitedForAsLongAsItTakes) {
  constexpr uint32_t kLayers = 6;
  engine::testing::SmallModel small = engine::testing::make_small_model({.n_layers = kLayers});
  engine::testing::draw_weights(small, 3);
  const engine::testing::TemporaryModel written(small);
  const engine::GgufFile file = engine::GgufFile::open(written.path());
  const auto script = std::make_shared<IoScript>();
  Trace trace(Trace::kCapacity, [script] { return script->clock; });
  engine::WeightOptions options;
  options.plan = engine::weight_plan_of(
      engine::weight_sizes(file, engine::read_model_spec(file)),
      {kWholeLayer, kNoPiece, kWholeLayer, kWholeLayer, kNoPiece, kWholeLayer});
  options.make_io = engine::testing::make_scripted(script);
  options.trace = &trace;
  ThreadPool pool(2);
  const engine::Model model =
      engine::Model::load(file, engine::read_model_spec(file), pool, {}, options);
  engine::testing::ZooWalk walk(model, {.kernels = cpu_attn::available_kernels().back()});
  walk.walk().set_trace(&trace);
  EXPECT_EQ(trace.n_held(), 0u);  // loading is none of it
  script->wait_time = 250us;
  constexpr std::array<int32_t, 5> kTokens = {1, 2, 3, 4, 5};
  walk.feed_all(kTokens);
  walk.feed_all(kTokens);

  const Attribution found = attribute(trace);
  EXPECT_GE(found.steps.size(), 2u);
  ASSERT_GE(script->n_waits, found.steps.size());
  const nanoseconds waited = script->n_waits * script->wait_time;
  EXPECT_EQ(found.all.waited_for(Resource::kWeightDisk), waited);
  EXPECT_EQ(found.all.wall(), waited);
  EXPECT_EQ(found.all.busy_of(Resource::kWeightDisk), waited);
  EXPECT_EQ(stage_of(found, "take_weights").waited_in_all(), waited);
  nanoseconds of_layers{}, of_steps{};
  for (const LayerShares& layer : found.layers) {
    of_layers += layer.time.wall();
    const bool is_streamed = layer.layer != kNoLayer && layer.layer % 3 != 1;
    if (!is_streamed) {
      EXPECT_EQ(layer.time.wall(), 0ns) << layer.layer;
    }
  }
  for (const StepShares& of : found.steps) {
    of_steps += of.time.wall();
    EXPECT_GT(of.time.waited_for(Resource::kWeightDisk), 0ns);
  }
  EXPECT_GT(layer_of(found, 0).waited_in_all(), 0ns);
  EXPECT_EQ(of_layers, waited);
  EXPECT_EQ(of_steps, waited);
}

/// A walk whose K and V are mostly on a simulated disk, and what its decoded tokens took by the
/// disk's clock.
struct SpilledDecode {
  engine::testing::Logits logits;
  Attribution found;
  tiers::TransferCounts counts;
};

SpilledDecode decode_spilled(const engine::Model& model, bool reads_ahead) {
  constexpr uint32_t kFrames = 24, kPlaces = 4096, kChunk = 32;
  engine::testing::WalkSetting setting{
      .kernels = cpu_attn::available_kernels().back(), .chunk_rows = kChunk, .n_ctx = 2048};
  setting.kv_dram_bytes =
      engine::kv_bytes_for_context(model.shape(), setting.k_codec, setting.v_codec, 420, kChunk);
  const auto layout = KvLayout::make(setting.k_codec, setting.v_codec, model.shape().head_dim);
  const uint64_t place_bytes =
      round_up(model.shape().layers[0].n_kv_heads * uint64_t{kExtentBlocks} * layout.block_bytes,
               tiers::kPlaceAlignment);
  auto spill = tiers::testing::make_simulated_spill({.seed = 5, .look_time = 1ns}, place_bytes,
                                                    kPlaces, kFrames);
  tiers::TransferQueue& queue = *spill.spill->transfers;
  Trace trace(Trace::kCapacity, [disk = spill.disk] { return disk->now(); });
  trace.set_on(false);
  queue.set_trace(&trace);
  engine::testing::ZooWalk walk(model, setting, std::move(spill.spill));
  walk.walk().set_trace(&trace);
  walk.walk().set_reads_ahead(reads_ahead);
  const auto text = engine::testing::random_tokens(1500, model.shape().vocab_size, 7);
  engine::Sequence sequence = walk.sequence();
  walk.feed(sequence, std::span(text).first(1496));
  const tiers::TransferCounts before = queue.counts();
  trace.set_on(true);
  SpilledDecode out;
  for (uint32_t i = 1496; i < 1500; ++i)
    out.logits.push_back(walk.feed(sequence, std::span(text).subspan(i, 1)).front());
  trace.set_on(false);
  out.found = attribute(trace);
  out.counts = queue.counts();
  out.counts.stalls -= before.stalls;
  out.counts.stall_us -= before.stall_us;
  out.counts.reads -= before.reads;
  return out;
}

/// Read ahead or not, the bits are the same and so is what is read; reading late waits longer.
TEST(Attribution, SpilledKvIsWaitedForAsLongAsTheQueueSays) {
  engine::testing::SmallModel small =
      engine::testing::make_small_model({.n_layers = 6, .n_ctx_train = 2048});
  engine::testing::draw_weights(small, 3);
  const engine::testing::TemporaryModel written(small);
  const engine::GgufFile file = engine::GgufFile::open(written.path());
  const engine::Model model = engine::testing::load_model(file);
  const SpilledDecode ahead = decode_spilled(model, true), late = decode_spilled(model, false);
  for (const SpilledDecode* of : {&ahead, &late}) {
    ASSERT_EQ(of->found.steps.size(), 4u);
    const nanoseconds waited = of->found.all.waited_for(Resource::kKvDisk);
    EXPECT_GT(of->counts.stalls, 0u);
    EXPECT_GE(waited, of->counts.stall_us * 1us);  // whole microseconds of each stall
    EXPECT_LE(waited, (of->counts.stall_us + of->counts.stalls) * 1us);
    // Computing takes no time of the disk's, a look at it a nanosecond.
    EXPECT_LE(of->found.all.wall() - waited, waited / 1000);
    EXPECT_EQ(stage_of(of->found, "attend").waited_in_all(), waited);
    EXPECT_GE(of->found.all.busy_of(Resource::kKvDisk), waited);
  }
  EXPECT_TRUE(engine::testing::is_same(ahead.logits, late.logits));
  EXPECT_EQ(ahead.counts.reads, late.counts.reads);
  EXPECT_GT(late.found.all.wall(), ahead.found.all.wall());
}

using AttributedBench = testing::SpillingTest;

/// Shares of a list, by the name under `key`.
double sum_of(const json& list, const char* member) {
  double sum = 0;
  for (const json& entry : list) sum += entry.value(member, 0.0);
  return sum;
}

TEST_F(AttributedBench, SharesOfATokenAreItsTime) {
  std::vector<std::string> arguments = {
      "bench",   "-m",     model_, "-p",           "0",      "-n",           "4",  "-d",
      "4000",    "-r",     "1",    "-t",           "1",      "-b",           "64", "--kv-dram",
      "2816KiB", "--nvme", disk_,  "--depth-fill", "random", "--attribution"};
  const auto plain = testing::run_strata(arguments);
  ASSERT_EQ(plain.exit_code, 0) << plain.err;
  for (const char* text : {"of a token go, in one more run", "| disk, K and V ", "| attend ",
                           "| between operations ", "DRAM would take "})
    EXPECT_NE(plain.out.find(text), std::string::npos) << text << plain.out;
  EXPECT_EQ(plain.out.find("| layer |"), std::string::npos);
  arguments.push_back("--json");
  const auto outcome = testing::run_strata(arguments);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const json found = json::parse(outcome.out)[0]["attribution"];
  EXPECT_EQ(found["n_steps"], 4);
  EXPECT_EQ(found["n_tokens"], 4);
  EXPECT_NEAR(sum_of(found["resources"], "share"), 1, 1e-9);
  const double wall_ms = found["wall_ms"];
  EXPECT_NEAR(sum_of(found["layers"], "wall_ms"), wall_ms, 1e-9 * wall_ms);
  EXPECT_NEAR(sum_of(found["steps"], "wall_ms") / 4, wall_ms, 1e-9 * wall_ms);
  for (const char* part :
       {"wall_ms", "cpu_ms", "kv_disk_waited_ms", "rest_ms", "kv_disk_busy_ms", "dram_bytes"}) {
    double of_all = 0;
    for (const json& step : found["steps"]) {
      EXPECT_EQ(step["layers"].size(), kLayers + 1);
      EXPECT_NEAR(sum_of(step["layers"], part), step[part].get<double>(),
                  1e-9 * (1 + step[part].get<double>()));
      of_all += step["layers"][1][part].get<double>();
    }
    const bool is_sum = part == std::string_view("dram_bytes");
    const double of_layer = found["layers"][1][part].get<double>() * (is_sum ? 1 : 4);
    EXPECT_NEAR(of_all, of_layer, 1e-9 * (1 + of_layer)) << part;
  }
  for (const json& step : found["steps"])
    EXPECT_NEAR(step["cpu_ms"].get<double>() + step["kv_disk_waited_ms"].get<double>() +
                    step["weight_disk_waited_ms"].get<double>() +
                    step["device_waited_ms"].get<double>() + step["rest_ms"].get<double>(),
                step["wall_ms"], 1e-9 * wall_ms);
  EXPECT_EQ(found["layers"].size(), kLayers + 1);
  EXPECT_GT(sum_of(found["layers"], "kv_disk_busy_ms"), 0);
}

/// What is not read ahead is read as much; what is not kept is read in every step. The check of the
/// answer that every bench begins with runs under both.
TEST_F(AttributedBench, AblationsAreNamedAndChangeWhatIsRead) {
  const auto bench = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {
        "bench",   "-m",     model_, "-p",           "0",     "-n", "2",  "-d",
        "4000",    "-r",     "1",    "-t",           "1",     "-b", "64", "--kv-dram",
        "2816KiB", "--nvme", disk_,  "--depth-fill", "random"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto outcome = testing::run_strata(arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome;
  };
  const auto object_of_bench = [&](std::vector<std::string> more) {
    more.push_back("--json");
    return json::parse(bench(more).out)[0];
  };
  const json plain = object_of_bench({});
  const json late = object_of_bench({"--no-read-ahead"});
  const json dropped = object_of_bench({"--no-kept-blocks"});
  EXPECT_FALSE(plain.contains("read_ahead") || plain.contains("kept_blocks"));
  EXPECT_EQ(late["read_ahead"], false);
  EXPECT_EQ(dropped["kept_blocks"], false);
  EXPECT_EQ(late["nvme_read_bytes_per_token"], plain["nvme_read_bytes_per_token"]);
  EXPECT_GT(dropped["nvme_read_bytes_per_token"], plain["nvme_read_bytes_per_token"]);
  const std::string named = bench({"--no-read-ahead", "--no-kept-blocks"}).out;
  EXPECT_NE(named.find(", no read-ahead, no kept blocks |"), std::string::npos) << named;
}

}  // namespace
}  // namespace strata::cli
