// `run` with what the planner or a plan's file says: the same answer from anywhere, and said where
// everything is.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>

#include "cpu_attn/kernels.h"
#include "tests/tools/spilling_model.h"
#include "tools/cli/machine_profile_file.h"
#include "tools/cli/machine_words.h"
#include "tools/cli/plan_notices.h"
#include "tools/cli/request_options.h"
#include "tools/cli/value_readers.h"

namespace strata::cli {
namespace {

using nlohmann::json;
using planner::MachineProfile;
using testing::Launch;
using testing::Outcome;
using testing::run_strata;
using testing::with;
using Words = std::vector<std::string>;

class PlacedRun : public testing::SpillingTest {
 protected:
  /// Without a size of chunk, which is then the planner's.
  Words asked(const Words& more = {}) const {
    return with({"run", "-m", model_, "-f", prompt_, "-c", "8k", "-t", "1", "-n", "12", "--seed",
                 "7", "--temp", "1.5", "--ignore-eos", "--json", "--nvme", disk_},
                more);
  }
  Words command(const Words& more) const {
    return with({"run", "-m", model_, "-p", "a", "-n", "2", "-t", "1", "--nvme", disk_}, more);
  }
  Launch launch(const Words& arguments) const {
    Launch of;
    of.arguments = arguments;
    of.environment["XDG_CACHE_HOME"] = folder_.path("cache");
    return of;
  }
  /// A profile of this machine whose disk gives so much.
  void keep_profile(double disk_bytes_per_s) const {
    std::filesystem::create_directories(disk_);
    MachineProfile of = machine_words(cpu_attn::choose_kernels(), 1, disk_);
    of.measured_at = profile_time_text(unix_seconds());
    of.dram_read_bytes_per_s = 20e9;
    of.dram_copy_bytes_per_s = 8e9;
    of.linear = {{TensorType::kF32, 1e9, 2e9, 1e9}};
    of.attend = {{KvCodec::kF16, 32, 5e9, 6e10}};
    of.step_cost.row_values_per_s = 1e9;
    if (!of.disk.empty()) {
      of.disk_read = {{16 << 10, 8, disk_bytes_per_s / 2}};
      of.disk_read_bytes_per_s = of.disk_write_bytes_per_s = disk_bytes_per_s;
      of.disk_alone = {87.5, disk_bytes_per_s};
    }
    write_machine_profile(machine_profile_path(folder_.path("cache/strata/profiles"), of), of);
  }
  std::string saved_plan(const Words& more = {}) const {
    const std::string path = folder_.path("plan.json");
    const Outcome outcome =
        run_strata(with({"plan", "-m", model_, "-c", "8k", "-b", "64", "-t", "1", "--no-cache",
                         "--device", "none", "--nvme", disk_, "--dram", "92MiB", "--save", path},
                        more));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err << outcome.out;
    return path;
  }
};

TEST_F(PlacedRun, WhereAllIsInMemoryNothingIsSaid) {
  const Outcome outcome = run_strata(asked());
  const json found = object_of(outcome);
  EXPECT_EQ(outcome.err.find("plan:"), std::string::npos) << outcome.err;
  EXPECT_EQ(found["plan"]["placed_by"], "rules");
  EXPECT_FALSE(found["plan"].contains("solve_ms"));
  EXPECT_EQ(found["plan"]["layers"]["dram"], kLayers);
  EXPECT_GT(found["plan"]["predicted_tpot_ms"].get<double>(), 0);
  EXPECT_GT(found["plan"]["predicted_ttft_ms"].get<double>(), 0);
  EXPECT_GT(found["plan"]["tpot_ms"].get<double>(), 0);
}

TEST_F(PlacedRun, ThePlannersChoiceRunsAndChangesNoToken) {
  const std::string expected = tokens_of(run_strata(asked()));
  // A disk so slow that reading K and V back decides: the planner reads them for larger chunks.
  keep_profile(2e6);
  const Outcome outcome = run_strata(launch(asked({"--kv-dram", "6MiB"})));
  const json found = object_of(outcome);
  EXPECT_EQ(found["plan"]["placed_by"], "planner") << outcome.out;
  EXPECT_EQ(found["plan"]["is_measured"], true);
  EXPECT_GT(found["plan"]["chunk_rows"].get<int>(), 512);
  EXPECT_GT(found["plan"]["kv_share"]["nvme"].get<double>(), 0);
  EXPECT_EQ(found["tokens"].dump(), expected);
  EXPECT_NE(outcome.err.find("% of K and V on disk (--kv-dram 6MiB holds no more); predicted "),
            std::string::npos)
      << outcome.err;
  // What the user says stays.
  const json asked_chunk = object_of(run_strata(launch(asked({"--kv-dram", "6MiB", "-b", "64"}))));
  EXPECT_EQ(asked_chunk["plan"]["chunk_rows"], 64);
  EXPECT_EQ(asked_chunk["tokens"].dump(), expected);
}

TEST_F(PlacedRun, PinsAreHeededAndChangeNoToken) {
  const std::string expected = tokens_of(run_strata(asked()));
  const json streamed = object_of(run_strata(asked({"--pin", "blk\\.[0-3]\\.=nvme"})));
  EXPECT_EQ(streamed["plan"]["placed_by"], "planner");
  EXPECT_EQ(streamed["plan"]["layers"]["file"], 4);
  EXPECT_EQ(streamed["tokens"].dump(), expected);
  const json spilled = object_of(run_strata(asked({"--kv-tier", "nvme", "-b", "64"})));
  EXPECT_GT(spilled["plan"]["kv_share"]["nvme"].get<double>(), 0.5);
  EXPECT_GT(spilled["tiers"]["nvme"]["written_bytes"].get<uint64_t>(), 0u);
  EXPECT_EQ(spilled["tokens"].dump(), expected);
  expect_refused(command({"-ngl", "4"}),
                 {2, "usage", {"hbm", "none computes"}, "--n-gpu-layers", "leave it out"});
}

TEST_F(PlacedRun, PinsOfPiecesAreHeededAndChangeNoToken) {
  const std::string expected = tokens_of(run_strata(asked()));
  for (const auto& [from_file, stays] : {std::pair{"ffn", "attn"}, std::pair{"attn", "ffn"}}) {
    SCOPED_TRACE(from_file);
    const Words pinned = {"-ot", fmt::format("blk\\.[0-9]+\\.{}_.*=nvme", from_file), "-ot",
                          fmt::format("blk\\.[0-9]+\\.{}_.*=CPU", stays)};
    const Outcome outcome = run_strata(asked(pinned));
    const json found = object_of(outcome);
    const json split = found["plan"]["layers"].value("split", json());
    ASSERT_EQ(split.size(), 1u) << found["plan"];
    EXPECT_EQ(split[0]["layers"].size(), kLayers);
    EXPECT_EQ(split[0]["ffn"], from_file == std::string("ffn") ? "file" : "dram");
    EXPECT_EQ(found["tokens"].dump(), expected);
    EXPECT_NE(outcome.err.find("plan: 16 of 16 layers streamed, 16 of them in part (as pinned);"),
              std::string::npos)
        << outcome.err;
  }
  // What llama.cpp's users pin beside a card changes nothing where none computes.
  const json kept = object_of(run_strata(asked({"-ot", "blk\\.[0-9]+\\.ffn_.*=dram"})));
  EXPECT_EQ(kept["plan"]["layers"]["dram"], kLayers);
  EXPECT_EQ(kept["tokens"].dump(), expected);
}

TEST_F(PlacedRun, ASavedPlanOfPiecesRuns) {
  const std::string expected = tokens_of(run_strata(asked()));
  const std::string path =
      saved_plan({"--pin", "blk\\.[0-3]\\.ffn=nvme", "--pin", "blk\\.[0-3]\\.attn=dram"});
  const json plan = json::parse(std::ifstream(path));
  EXPECT_EQ(plan["layers"]["0-3"], (json{{"attention", "dram"}, {"ffn", "file"}})) << plan;
  const Outcome outcome = run_strata(asked({"--plan", path}));
  EXPECT_NE(outcome.err.find("(as the plan's file has it);"), std::string::npos) << outcome.err;
  const json found = object_of(outcome);
  EXPECT_EQ(found["plan"]["placed_by"], "file");
  EXPECT_EQ(found["plan"]["layers"].value("split", json()),
            json::array({{{"attention", "dram"}, {"ffn", "file"}, {"layers", {0, 1, 2, 3}}}}));
  EXPECT_GT(found["tiers"]["nvme"]["read_bytes"].get<uint64_t>(), 0u);
  EXPECT_EQ(found["tokens"].dump(), expected);
}

TEST_F(PlacedRun, OfPinsThatACapDoesNotHoldTheCapIsNamed) {
  const Words pinned = with(command({}), {"-c", "8k", "--kv-tier", "dram"});
  const Words capped = with(pinned, {"--kv-dram", "2816KiB"});
  expect_refused(capped, {3,
                          "does_not_fit",
                          {"K and V of 8,192 tokens", "2.8 MiB"},
                          "--kv-dram",
                          "leave --pin, -ngl and --kv-tier out"});
  const json found = json::parse(run_strata(testing::as_json(capped)).out, nullptr, false);
  const std::string remedy = found["error"]["remedy"];
  const size_t begin = remedy.find("--kv-dram ") + 10;
  const std::string enough = remedy.substr(begin, remedy.find_first_of(" ,)", begin) - begin);
  EXPECT_EQ(run_strata(with(pinned, {"--kv-dram", enough})).exit_code, 0) << remedy;
}

TEST_F(PlacedRun, ASavedPlanCanBeEditedAndRuns) {
  const std::string expected = tokens_of(run_strata(asked()));
  const std::string path = saved_plan();
  json plan = json::parse(std::ifstream(path));
  EXPECT_GT(plan["kv"]["dram_bytes"].get<uint64_t>(), 0u) << plan;
  const Words planned = asked({"--plan", path});
  const json unedited = object_of(run_strata(planned));
  EXPECT_EQ(unedited["plan"]["placed_by"], "file");
  EXPECT_EQ(unedited["tokens"].dump(), expected);
  // Slots for layers that pass take more than such small layers do.
  plan["kv"]["dram_bytes"] = plan["kv"]["dram_bytes"].get<uint64_t>() - kMiB;
  plan["layers"] = {{"0-2", "file"}, {"3-14", "dram"}, {"15", "file"}};
  std::ofstream(path) << plan;
  const Outcome outcome = run_strata(planned);
  const json edited = object_of(outcome);
  EXPECT_EQ(edited["plan"]["layers"]["file"], 4);
  EXPECT_EQ(edited["tokens"].dump(), expected);
  EXPECT_NE(outcome.err.find("plan: 4 of 16 layers streamed"), std::string::npos) << outcome.err;
  const Outcome bench = run_strata({"bench", "-m", model_, "-t", "1", "-p", "0", "-n", "4", "-r",
                                    "1", "--nvme", disk_, "--plan", path, "--json"});
  const json rows = json::parse(bench.out, nullptr, false);
  ASSERT_TRUE(rows.is_array()) << bench.err << bench.out;
  const double predicted = rows[0]["prediction"]["predicted_ms"];
  EXPECT_GT(predicted, 0);
  EXPECT_NEAR(rows[0]["predicted_ts"].get<double>(), 1e3 / predicted, 1e-6 * 1e3 / predicted);
}

TEST_F(PlacedRun, APlanThatCannotBeIsRefused) {
  const std::string path = saved_plan();
  expect_refused(command({"--plan", path, "-b", "512"}),
                 {2, "usage", {"contradicts the plan", "64"}, "--batch-size", "leave one"});
  expect_refused(command({"--plan", path, "-c", "4k"}),
                 {2, "usage", {"contradicts the plan", "8192"}, "--ctx-size", "leave one"});
  expect_refused(command({"--plan", path, "--dram", "70MiB"}),
                 {3, "does_not_fit", {"the plan needs", "--dram leaves them"}, "--dram", "--dram"});
  expect_refused(
      command({"--plan", path, "--cpu-share", "40%"}),
      {2, "usage", {"40% contradicts the plan, which has 0%"}, "--cpu-share", "leave one"});
  // What it proposes is enough, and little less is not.
  const Words tight = with(command({}), {"--plan", path, "--dram", "70MiB"});
  const json refused_plan = json::parse(run_strata(testing::as_json(tight)).out, nullptr, false);
  const std::string remedy = refused_plan["error"]["remedy"];
  ASSERT_TRUE(remedy.starts_with("use --dram ")) << remedy;
  const std::string enough = remedy.substr(11, remedy.find(',') - 11);
  EXPECT_EQ(run_strata(command({"--plan", path, "--dram", enough})).exit_code, 0) << remedy;
  const uint64_t less = read_size(enough).value_or(0) - kMiB / 4;
  EXPECT_EQ(run_strata(command({"--plan", path, "--dram", fmt::format("{}", less)})).exit_code, 3);
  for (const auto& [option, value] :
       {std::pair{"--pin", "blk=dram"}, std::pair{"--n-gpu-layers", "0"},
        std::pair{"--kv-tier", "dram"}})
    expect_refused(command({"--plan", path, option, value}),
                   {2, "usage", {option, "and --plan contradict"}, option, "leave one"});
  json plan = json::parse(std::ifstream(path));
  const auto refused = [&](const json& changed, const testing::Refusal& refusal) {
    std::ofstream(path) << changed;
    expect_refused(command({"--plan", path}), refusal);
  };
  json changed = plan;
  changed["kv"]["dram_bytes"] = 4096;
  refused(changed, {3, "does_not_fit", {"where a step needs"}, "kv_dram_bytes", "at least"});
  changed = plan;
  changed["device"] = "virtual:rtx4090";
  changed["budgets"]["hbm_bytes"] = 1 << 30;
  refused(changed, {2, "usage", {"a card that is not here"}, path, "plan for this machine"});
  changed = plan;
  changed["model"]["name"] = "another";
  refused(changed, {2, "usage", {"another model"}, path, "-m"});
  changed = plan;
  changed["layers"] = {{"0-14", "dram"}};
  refused(changed, {4, "bad_file", {"every layer from 0 to 15 once"}, path, "correct the file"});
}

/// As far as a plan of a card that is not here can be.
TEST_F(PlacedRun, AShareOfWeightsAloneMadeAPlanAndDoesNotContradictIt) {
  const std::string path = folder_.path("shared.json");
  const Outcome made =
      run_strata({"plan", "-m", model_, "-c", "8k", "-t", "1", "--no-cache", "--device",
                  "virtual:rtx4090", "--pin", "blk=dram", "--cpu-share", "50%", "--save", path});
  EXPECT_EQ(made.exit_code, 0) << made.err << made.out;
  const json plan = json::parse(std::ifstream(path));
  EXPECT_NE(plan["layers"].dump().find("cpu"), std::string::npos) << plan;
  EXPECT_FALSE(plan["kv"].contains("cpu_share")) << plan;
  const auto asked = [&](const char* share) {
    return command({"--plan", path, "--cpu-share", share});
  };
  for (const char* share : {"50%", "auto"})
    expect_refused(asked(share), {2, "usage", {"a card that is not here"}, path, "plan for"});
  expect_refused(asked("0"), {2,
                              "usage",
                              {"0% contradicts the plan, which has products of the CPU"},
                              "--cpu-share",
                              "leave one"});
}

TEST_F(PlacedRun, ABudgetIsPricedAsItIsWritten) {
  const auto expect = [&](const std::string& budget, double share, double positions, bool knows) {
    SCOPED_TRACE(budget);
    const Command command = read_command(
        {"run", kRun, ""},
        std::vector<std::string>{"-m", model_, "-c", "8k", "-t", "1", "--attn", "mean",
                                 "--kv-budget", budget, "--no-cache", "--device", "none"},
        [](const std::string&) { return std::optional<std::string>(); });
    const PlacedEngine placed = open_placed(command, engine_options(command.settings));
    EXPECT_EQ(placed.plan.problem.touched_share, share);
    EXPECT_EQ(placed.plan.problem.touched_positions, positions);
    EXPECT_EQ(placed.plan.subject.knows_touched, knows);
  };
  expect("512", 1, 512, true);
  expect("25%", 0.25, planner::kNoCap, true);
  for (const char* budget : {"0.9p", "4n"}) expect(budget, 1, planner::kNoCap, false);
}

}  // namespace
}  // namespace strata::cli
