// `bench` beside the planner: predictions of a test, and trials of many plans of a tiny model. No
// time is judged.
#include "tools/cli/plan_trials.h"

#include <gtest/gtest.h>

#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "cpu_attn/kernels.h"
#include "tests/tools/spilling_model.h"
#include "tools/cli/machine_profile_file.h"
#include "tools/cli/machine_words.h"
#include "tools/cli/sample_statistics.h"

namespace strata::cli {
namespace {

using nlohmann::json;
using planner::MachineProfile;

TEST(SampleStatistics, TauIsOneOfTheSameOrderAndMinusOneOfItsReverse) {
  EXPECT_DOUBLE_EQ(count_order({1, 2, 3, 4}, {10, 20, 30, 40}).tau(), 1);
  EXPECT_DOUBLE_EQ(count_order({1, 2, 3, 4}, {4, 3, 2, 1}).tau(), -1);
  EXPECT_DOUBLE_EQ(count_order({1, 2, 3, 4}, {1, 2, 4, 3}).tau(), 4.0 / 6);  // one of six is wrong
  EXPECT_DOUBLE_EQ(count_order({1, 2, 3}, {5, 5, 5}).tau(), 0);
}

TEST(SampleStatistics, OrderIsOfPairsThatDifferByMoreThanTheShare) {
  // 10, 10.4 and 10.2 in the wrong order are within 5 % of each other; 20 is not.
  const std::vector<double> predicted = {3, 1, 2, 4}, measured = {10, 10.4, 10.2, 20};
  OrderCounts clear = count_order(predicted, measured, 0.05);
  EXPECT_EQ(clear.n_b, 3);
  EXPECT_DOUBLE_EQ(clear.tau(), 1);
  EXPECT_EQ(count_order(predicted, measured).agreed, 0);
  EXPECT_EQ(count_order(predicted, measured, 2).n_b, 0);
  EXPECT_DOUBLE_EQ(count_order(predicted, measured, 2).tau(), 0);
  clear.add({.agreed = -3, .n_a = 3, .n_b = 3});
  EXPECT_DOUBLE_EQ(clear.tau(), 0);
}

TEST(SampleStatistics, AQuantileIsOneOfTheValues) {
  const std::vector<double> values = {5, 1, 4, 2, 3};
  EXPECT_EQ(quantile(values, 0), 1);
  EXPECT_EQ(quantile(values, 0.4), 2);
  EXPECT_EQ(quantile(values, 0.5), 3);
  EXPECT_EQ(quantile(values, 0.95), 5);
}

TEST(PlanTrials, SumUpWhatCellsSay) {
  const auto trial = [](double predicted, double measured, uint64_t bytes) {
    PlanTrial of;
    of.predicted_ms = predicted;
    of.measured_ms = measured;
    of.predicted_bytes = 100;
    of.measured_bytes = bytes;
    return of;
  };
  CellResult first, second;
  first.trials = {trial(9, 10, 80), trial(12, 10, 110)};
  first.order_tau = 0.5;
  first.clear_order = {.agreed = 1, .n_a = 1, .n_b = 1};
  first.regret = 1.3;
  first.paired_regret = 1.05;  // what was measured in turns counts
  second.trials = {trial(5, 10, 90), trial(11, 10, 20)};
  second.order_tau = 1;
  second.clear_order = {.agreed = 0, .n_a = 1, .n_b = 1};
  second.regret = 1.02;
  const TrialSummary summary = summary_of({first, second});
  EXPECT_EQ(summary.n_plans, 4u);
  EXPECT_NEAR(summary.error_median, 0.15, 1e-9);  // of 0.1, 0.2, 0.5, 0.1
  EXPECT_NEAR(summary.error_p95, 0.5, 1e-9);
  EXPECT_DOUBLE_EQ(summary.tau_mean, 0.75);
  EXPECT_DOUBLE_EQ(summary.clear_order.tau(), 0.5);
  EXPECT_DOUBLE_EQ(summary.regret_max, 1.05);
  EXPECT_DOUBLE_EQ(summary.bytes_ratio_max, 1.1);
}

class PlannedBench : public testing::SpillingTest {
 protected:
  testing::Launch launch(const std::vector<std::string>& more) const {
    testing::Launch of;
    of.arguments = {"bench", "-m", model_, "-t", "1", "-b", "64", "--nvme", disk_};
    of.arguments.insert(of.arguments.end(), more.begin(), more.end());
    of.environment["XDG_CACHE_HOME"] = folder_.path("cache");
    return of;
  }
  testing::Outcome bench(const std::vector<std::string>& more) const {
    const auto outcome = testing::run_strata(launch(more));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome;
  }
  /// Of this machine, with a step that takes five seconds beside its bytes.
  void keep_profile() const {
    std::filesystem::create_directories(disk_);
    MachineProfile of = machine_words(cpu_attn::choose_kernels(), 1, disk_);
    of.measured_at = profile_time_text(unix_seconds());
    of.dram_read_bytes_per_s = of.dram_copy_bytes_per_s = 20e9;
    of.linear = {{TensorType::kF16, 10e9, 20e9, 10e9}};
    of.attend = {{KvCodec::kF16, 32, 5e9, 6e10, 20}};
    of.step_cost = {.step_us = 5e6, .layer_us = 30, .row_values_per_s = 1e9};
    of.disk_read = {{16 << 10, 8, 1e9}};
    of.disk_read_bytes_per_s = of.disk_write_bytes_per_s = 2e9;
    of.disk_alone = {87.5, 2.9e9};
    write_machine_profile(machine_profile_path(folder_.path("cache/strata/profiles"), of), of);
  }
};

TEST_F(PlannedBench, ShowsWhatThePlannerSaysBesideWhatWasMeasured) {
  keep_profile();
  const json list = json::parse(
      bench({"-p", "64", "-n", "2", "-d", "0,300", "-r", "1", "-o", "json"}).out, nullptr, false);
  ASSERT_EQ(list.size(), 4u);
  for (const json& test : list) {
    ASSERT_TRUE(test.contains("prediction")) << test;
    const json& found = test["prediction"];
    EXPECT_EQ(found["is_measured"], true);
    const double predicted = found["predicted_ms"], measured = found["measured_ms"];
    EXPECT_GE(predicted, 5000);  // a token, and a prompt of one chunk
    EXPECT_LT(predicted, 6000);
    EXPECT_GT(measured, 0);
    EXPECT_NEAR(found["predicted_share"], predicted / measured, 1e-6 * predicted / measured);
    EXPECT_GE(found["cpu_busy_ms"], 5000);
    EXPECT_GT(found["predicted_peak_bytes"], 0);
    EXPECT_GT(found["measured_peak_bytes"], 0);
    EXPECT_GT(found["dram_pace"], 0);
    EXPECT_EQ(found["disk_pace"], 1);  // nothing is read from one
  }
  const std::string text = bench({"-p", "0", "-n", "2", "-r", "1"}).out;
  EXPECT_NE(text.find("predicted ms"), std::string::npos) << text;
  EXPECT_NE(text.find("at work |"), std::string::npos) << text;
}

TEST_F(PlannedBench, PredictsReadingOfWhatNoLongerFitsAndOfNothingElse) {
  keep_profile();
  const json list = json::parse(bench({"-p", "0", "-n", "2", "-d", "0,3000", "-r", "1", "-o",
                                       "json", "--kv-dram", "2816KiB", "--depth-fill", "random"})
                                    .out,
                                nullptr, false);
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0]["prediction"]["nvme_busy_ms"], 0);
  EXPECT_GT(list[1]["prediction"]["nvme_busy_ms"], 0);
  EXPECT_NE(list[1]["prediction"]["disk_pace"], 1);  // measured
}

TEST_F(PlannedBench, PredictsForADiskThatIsHeldAtARate) {
  keep_profile();
  const auto tests = [&](const std::string& rate) {
    return json::parse(
        bench({"-p", "0", "-n", "2", "-d", "3000", "-r", "1", "-o", "json", "--kv-dram", "2816KiB",
               "--depth-fill", "random", "--disk-rate", rate})
            .out,
        nullptr, false);
  };
  const json held = tests("50MB"), wide = tests("1TiB");
  ASSERT_EQ(held.size(), 1u);
  EXPECT_DOUBLE_EQ(held[0]["prediction"]["disk_pace"], 0.025);  // of 2 GB/s
  EXPECT_NE(wide[0]["prediction"]["disk_pace"], 0.025);
  expect_refused(launch({"--disk-rate", "5MB"}),
                 {2, "usage", {"5000000 bytes a second"}, "disk-rate", "at least 16MB"});
  for (const char* mode : {"--tiers", "--reopen"})
    expect_refused(launch({mode, "--disk-rate", "1GB"}),
                   {2, "usage", {"--disk-rate", mode, "contradict"}, "disk-rate", "leave one"});
}

TEST_F(PlannedBench, ADiskThatCannotBeProbedCostsNoMeasurement) {
  keep_profile();
  testing::Launch full = launch({"-p", "0", "-n", "2", "-d", "3000", "-r", "1", "-o", "json",
                                 "--kv-dram", "2816KiB", "--depth-fill", "random"});
  full.prepare = [] {  // the spill file has room, the probe's has not
    const rlimit most{32 << 20, 32 << 20};
    ::setrlimit(RLIMIT_FSIZE, &most);
  };
  const auto outcome = testing::run_strata(full);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("at the disk's pace of the profile"), std::string::npos)
      << outcome.err;
  const json list = json::parse(outcome.out, nullptr, false);
  ASSERT_EQ(list.size(), 1u) << outcome.out;
  EXPECT_EQ(list[0]["prediction"]["disk_pace"], 1);
}

TEST_F(PlannedBench, SaysThatPredictionsOfAssumedRatesCountForLittle) {
  const auto outcome = bench({"-p", "0", "-n", "2", "-r", "1", "-o", "json"});
  const json found = json::parse(outcome.out)[0]["prediction"];
  EXPECT_EQ(found["is_measured"], false);
  EXPECT_EQ(found["dram_pace"], 1);
  EXPECT_NE(outcome.err.find("predictions count for little"), std::string::npos) << outcome.err;
  const std::string text = bench({"-p", "0", "-n", "2", "-r", "1"}).out;
  EXPECT_EQ(text.find("predicted"), std::string::npos) << text;
  expect_refused(launch({"--validate-plans"}), {.exit_code = 2,
                                                .code = "usage",
                                                .what = {"nothing can be predicted"},
                                                .where = "--validate-plans",
                                                .remedy = "strata calibrate"});
}

TEST_F(PlannedBench, ModesThatChooseWhatIsWhereTakeNoPlaces) {
  for (const char* mode : {"--tiers", "--reopen", "--validate-plans"})
    for (const auto& [option, value] :
         {std::pair{"--plan", "plan.json"}, std::pair{"--pin", "blk=dram"},
          std::pair{"--n-gpu-layers", "0"}, std::pair{"--kv-tier", "dram"}})
      expect_refused(launch({mode, option, value}),
                     {2, "usage", {mode, option, "contradict"}, option, "leave one"});
}

TEST_F(PlannedBench, TriesPlansOfNoDepthInTurns) {
  keep_profile();
  const auto outcome =
      bench({"--validate-plans", "--plans", "2", "-d", "0", "-r", "3", "-o", "json"});
  const json found = json::parse(outcome.out, nullptr, false);
  ASSERT_EQ(found["cells"].size(), 3u) << outcome.err;
  for (const json& cell : found["cells"]) {
    // So short a context has no other place than memory.
    EXPECT_GE(cell["plans"].size(), 1u) << outcome.err;
    for (const json& plan : cell["plans"]) EXPECT_EQ(plan["kv_dram_bytes"], 0) << plan;
  }
}

TEST_F(PlannedBench, TriesDifferentPlansWithinEveryBudget) {
  keep_profile();
  const auto outcome =
      bench({"--validate-plans", "--plans", "10", "-d", "3000", "-r", "1", "-o", "json"});
  const json found = json::parse(outcome.out, nullptr, false);
  ASSERT_EQ(found["cells"].size(), 3u);
  uint64_t budget = 0;
  double regret = 1;
  size_t n_moved = 0, n_spilling = 0, n_streaming = 0, n_slowed = 0;
  for (const json& cell : found["cells"]) {
    EXPECT_EQ(cell["n_depth"], 3000);
    EXPECT_GT(cell["dram_bytes"], budget);
    budget = cell["dram_bytes"];
    ASSERT_EQ(cell["plans"].size(), 10u) << outcome.err;
    EXPECT_EQ(cell["plans"][0]["plan"], "planner");
    EXPECT_GT(cell["paired_regret"], 0);
    EXPECT_GE(cell["repeat_spread"], 0);
    EXPECT_LE(cell["clear_pairs"], 45);
    n_slowed += cell.contains("slower_disk");
    regret = std::max(regret, cell["paired_regret"].get<double>());
    std::set<std::pair<uint64_t, uint64_t>> different;
    std::vector<double> ranked, measured;
    for (const json& plan : cell["plans"]) {
      ranked.push_back(plan["ranked_ms"]);
      measured.push_back(plan["measured_ms"]);
      different.emplace(plan["streamed_layers"].get<uint64_t>(),
                        plan["kv_dram_bytes"].get<uint64_t>());
      n_moved += plan["plan"] == "less K and V" || plan["plan"] == "fewer weights";
      n_spilling += plan["kv_dram_bytes"] > 0;
      n_streaming += plan["streamed_layers"] > 0;
      EXPECT_GE(plan["predicted_ms"], 5000);
      EXPECT_GT(plan["measured_ms"], 0);
      EXPECT_GT(plan["measured_peak_bytes"], 0);
      // Staging of a spill file is counted for the budget, up to 64 MiB apart.
      EXPECT_LE(plan["predicted_peak_bytes"], budget + 64 * kMiB) << plan;
    }
    EXPECT_EQ(different.size(), 10u) << cell;
    EXPECT_GE(std::ranges::min(ranked), 5000);
    EXPECT_DOUBLE_EQ(cell["tau"], count_order(ranked, measured).tau());
    EXPECT_DOUBLE_EQ(cell["clear_tau"], count_order(ranked, measured, cell["repeat_spread"]).tau());
  }
  EXPECT_GT(n_moved, 0u);
  EXPECT_GT(n_spilling, 0u);
  EXPECT_GT(n_streaming, 0u);
  EXPECT_GT(n_slowed, 0u);
  for (const json& cell : found["cells"])
    if (cell.contains("slower_disk")) {
      EXPECT_EQ(cell["slower_disk"]["share"], 0.8);
      EXPECT_GE(cell["slower_disk"]["plan_ms"], 0);
    }
  EXPECT_EQ(found["n_plans"], 30);
  EXPECT_GT(found["error_median"], 0.5);  // the profile is made up
  EXPECT_EQ(found["regret"], regret);
}

}  // namespace
}  // namespace strata::cli
