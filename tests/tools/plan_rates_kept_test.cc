// `strata plan` with the profile that `strata calibrate` keeps: its times are of those rates, and
// only as long as they hold.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cpu_attn/kernels.h"
#include "tests/tools/refusal.h"
#include "tests/tools/strata_process.h"
#include "tools/cli/machine_profile_file.h"
#include "tools/cli/machine_words.h"

namespace strata::cli {
namespace {

using engine::testing::make_small_model;
using engine::testing::SmallModelOptions;
using nlohmann::json;
using planner::MachineProfile;
using testing::Outcome;
using testing::run_strata;

class PlanOfKeptRates : public testing::RefusalTest {
 protected:
  PlanOfKeptRates() {
    SmallModelOptions options;
    options.n_layers = 8;
    options.head_dim = 32;
    options.n_ctx_train = 1 << 17;
    path_ = model(make_small_model(options));
  }
  testing::Launch launch(const std::vector<std::string>& more) const {
    testing::Launch of;
    of.arguments = {"plan", "-m", path_, "--no-cache", "-t", "2", "--device", "none"};
    of.arguments.insert(of.arguments.end(), more.begin(), more.end());
    of.environment["XDG_CACHE_HOME"] = folder_.path("cache");
    return of;
  }
  json plan(const std::vector<std::string>& more) const {
    testing::Launch of = launch(more);
    of.arguments.push_back("--json");
    const Outcome outcome = run_strata(of);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
    return json::parse(outcome.out, nullptr, false);
  }
  std::string text(const std::vector<std::string>& more) const {
    const Outcome outcome = run_strata(launch(more));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.out;
  }
  /// What a run says, of one token.
  std::string run_err(const std::string& nvme) const {
    testing::Launch run;
    run.arguments = {"run", "-m", path_,    "-p", "a",        "-n",   "1",         "--raw",
                     "-t",  "2",  "--nvme", nvme, "--device", "none", "--no-cache"};
    run.environment["XDG_CACHE_HOME"] = folder_.path("cache");
    const Outcome outcome = run_strata(run);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.err;
  }
  /// A profile of this machine whose parts are all so many times as quick.
  MachineProfile profile(double pace, const std::string& disk_folder) const {
    MachineProfile of = machine_words(cpu_attn::choose_kernels(), 2, disk_folder);
    of.measured_at = profile_time_text(unix_seconds());
    of.dram_read_bytes_per_s = pace * 20e9;
    of.dram_copy_bytes_per_s = pace * 8e9;
    of.linear = {{TensorType::kF16, pace * 1e9, pace * 2e9, pace * 1e9}};
    of.attend = {{KvCodec::kF16, 32, pace * 5e9, pace * 6e10, 20 / pace}};
    of.step_cost = {.step_us = 50 / pace, .layer_us = 30 / pace, .row_values_per_s = pace * 1e9};
    if (of.disk.empty()) return of;
    of.disk_read = {{16 << 10, 8, pace * 1e9}};
    of.disk_read_bytes_per_s = of.disk_write_bytes_per_s = pace * 2e9;
    of.disk_alone = {87.5, 2.9e9};
    return of;
  }
  void keep(const MachineProfile& of) const {
    write_machine_profile(machine_profile_path(folder_.path("cache/strata/profiles"), of), of);
  }
  std::string path_;
};

TEST_F(PlanOfKeptRates, TimesAreThoseOfTheRates) {
  const std::vector<std::string> options = {"-c", "64k", "--nvme", folder_.path()};
  EXPECT_EQ(plan(options)["is_measured"], false);
  keep(profile(1, folder_.path()));
  const json slow = plan(options);
  EXPECT_EQ(slow["is_measured"], true);
  keep(profile(2, folder_.path()));
  const json quick = plan(options);
  for (const char* time : {"ttft_ms", "tpot_ms"})
    EXPECT_NEAR(slow[time].get<double>() / quick[time].get<double>(), 2, 1e-3) << time;
  const std::string said = text(options);
  EXPECT_NE(said.find("Rates were measured here, 20"), std::string::npos) << said;
}

TEST_F(PlanOfKeptRates, StaleRatesAreNotTrusted) {
  const std::vector<std::string> options = {"-c", "64k", "--nvme", folder_.path()};
  const json assumed = plan(options);
  MachineProfile stale = profile(1, folder_.path());
  stale.measured_at = "2020-01-01T00:00:00Z";
  keep(stale);
  const json found = plan(options);
  EXPECT_EQ(found["is_measured"], false);
  EXPECT_EQ(found["tpot_ms"], assumed["tpot_ms"]);
  std::string said = text(options);
  EXPECT_NE(said.find("assumed, not measured here"), std::string::npos) << said;
  EXPECT_NE(said.find("days old"), std::string::npos) << said;
  stale = profile(1, folder_.path());
  stale.n_threads = 7;
  keep(stale);
  said = text(options);
  EXPECT_NE(said.find("it was measured with 7 threads"), std::string::npos) << said;
}

TEST_F(PlanOfKeptRates, ARunSaysThatTheyAreStaleAndHowToMeasureAgain) {
  MachineProfile of = profile(1, folder_.path());
  keep(of);
  EXPECT_EQ(run_err(folder_.path()).find("stale"), std::string::npos);
  of.measured_at = "2020-01-01T00:00:00Z";
  keep(of);
  const std::string aged = run_err(folder_.path());
  for (const char* words : {"is stale, for it is ", "`strata calibrate -m ", " --if-stale`"})
    EXPECT_NE(aged.find(words), std::string::npos) << aged;
  // A file of the version before this one, and one that is damaged.
  const std::string kept = machine_profile_path(folder_.path("cache/strata/profiles"), of);
  json older = json::parse(machine_profile_json(of));
  older["version"] = 2;
  std::ofstream(kept) << older.dump();
  const std::string outdated = run_err(folder_.path());
  for (const char* words : {"is stale, for its file is of an older version", " --if-stale`"})
    EXPECT_NE(outdated.find(words), std::string::npos) << outdated;
  std::ofstream(kept) << "{";
  const std::string damaged = run_err(folder_.path());
  for (const char* words : {"kept of this machine cannot be used (", " --if-stale`"})
    EXPECT_NE(damaged.find(words), std::string::npos) << damaged;
}

TEST_F(PlanOfKeptRates, ARunSaysNothingOfThoseOfAnotherNumberOfThreads) {
  MachineProfile of = profile(1, folder_.path());
  of.n_threads = 7;
  keep(of);
  EXPECT_EQ(run_err(folder_.path()).find("stale"), std::string::npos);
  of.measured_at = "2020-01-01T00:00:00Z";
  keep(of);
  EXPECT_NE(run_err(folder_.path()).find("is stale, for it is "), std::string::npos);
}

TEST_F(PlanOfKeptRates, WithoutASpillFileTheProposedCommandNamesTheFolderThatIsLookedAt) {
  MachineProfile of = profile(1, folder_.path("cache/strata/profiles"));
  of.measured_at = "2020-01-01T00:00:00Z";
  keep(of);
  const std::string said = run_err("off");
  const std::string wanted = "--nvme " + folder_.path("cache/strata/profiles") + " --if-stale`";
  EXPECT_NE(said.find(wanted), std::string::npos) << said;
}

TEST_F(PlanOfKeptRates, AStaleProfileIsNoReasonToOverlookOneThatHolds) {
  MachineProfile stale = profile(1, folder_.path("cache/strata/profiles"));
  stale.measured_at = "2020-01-01T00:00:00Z";
  keep(stale);
  keep(profile(1, ""));
  EXPECT_EQ(plan({"-c", "64k", "--nvme", "off"})["is_measured"], true);
  EXPECT_EQ(run_err("off").find("stale"), std::string::npos);
}

TEST_F(PlanOfKeptRates, WithoutASpillFileTheDefaultFoldersDiskCounts) {
  keep(profile(1, folder_.path("cache/strata/spill")));
  const json found = plan({"-c", "64k", "--nvme", "off"});
  EXPECT_EQ(found["is_measured"], true);
  EXPECT_EQ(found["tiers"]["nvme"]["budget_bytes"], 0);
}

TEST_F(PlanOfKeptRates, WithoutADisksRatesNothingIsReadFromOne) {
  keep(profile(1, ""));
  EXPECT_EQ(plan({"-c", "64k", "--nvme", "off"})["is_measured"], true);
  expect_refused(launch({"--nvme", "off", "--dram", "20MiB"}),
                 {3, "does_not_fit", {"all of its weights must be there"}, "--dram", "--dram "});
}

}  // namespace
}  // namespace strata::cli
