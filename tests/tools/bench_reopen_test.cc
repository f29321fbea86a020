// `bench --reopen` through the program: the processes it starts, what the rows say, refusals, and
// that nothing is left on the disk. Times are not judged.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/tools/spilling_model.h"
#include "tests/tools/strata_process.h"

namespace strata::cli {
namespace {

using nlohmann::json;
using testing::Outcome;
using testing::run_strata;
using testing::StrataProcess;
using testing::with;

class BenchReopen : public testing::SpillingTest {
 protected:
  static constexpr uint64_t kDepth = 8192;

  std::vector<std::string> reopen(const std::vector<std::string>& more = {},
                                  const std::string& depth = std::to_string(kDepth)) const {
    return with(
        {"bench",  "-m",    model_,        "--reopen", "-d",           depth,    "-b",     "64",
         "-r",     "2",     "-t",          "1",        "--depth-fill", "random", "--nvme", disk_,
         "--attn", "quest", "--kv-budget", "2%"},
        more);
  }
  static json figure(const json& list, const std::string& name) {
    const auto found =
        std::ranges::find_if(list, [&](const json& row) { return row["figure"] == name; });
    EXPECT_NE(found, list.end()) << name;
    return found == list.end() ? json::object() : *found;
  }
};

TEST_F(BenchReopen, PartsCountTheBytesOfTheirFormula) {
  const Outcome outcome = run_strata(reopen({"--json"}));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err << outcome.out;
  const json list = json::parse(outcome.out);
  for (const json& row : list) {
    EXPECT_EQ(row["bytes"], row["formula_bytes"]) << row["figure"];
    EXPECT_EQ(row["samples_ns"].size(), 2u) << row["figure"];
  }
  const uint64_t n_streams = uint64_t{kLayers} * 2;
  const uint64_t rows_bytes = figure(list, "part: index rows")["bytes"];
  EXPECT_GT(rows_bytes, 0u);
  EXPECT_EQ(rows_bytes % (kDepth / 256 * n_streams), 0u);
  // Of each stream the first block, the last four before the question, and what fills 2 %.
  const std::string formula = figure(list, "part: chosen blocks")["formula"];
  const uint64_t n_blocks = std::stoull(formula);  // "160 blocks x ..."
  EXPECT_GE(n_blocks, n_streams * 5);
  EXPECT_LE(n_blocks, n_streams * 6);
  const json reopened = figure(list, "reopen and ask");
  EXPECT_EQ(reopened["ok"],
            reopened["value"].get<double>() <= reopened["wanted_at_most"].get<double>());
  const json whole = figure(list, "restore all and ask");
  EXPECT_EQ(whole["ok"], whole["value"].get<double>() >= whole["wanted_at_least"].get<double>());
  EXPECT_EQ(testing::n_entries(disk_), 0u);
}

TEST_F(BenchReopen, IsEndedByCtrlCWhileAProcessOfItsRuns) {
  StrataProcess process(reopen({"-r", "1000"}), StrataProcess::Input::kNone);
  ASSERT_TRUE(process.wait_for_err("page cache"));
  process.interrupt();
  const Outcome outcome = process.finish();
  EXPECT_EQ(outcome.exit_code, 130) << outcome.err;
  EXPECT_EQ(testing::n_entries(disk_), 0u);
}

TEST_F(BenchReopen, RefusesWhatItHasNoUseFor) {
  const auto refused = [&](const std::vector<std::string>& more, const testing::Refusal& refusal,
                           const std::string& depth = std::to_string(kDepth)) {
    expect_line(run_strata(reopen(more, depth)), refusal);
  };
  refused({"--attn", "exact"}, {2, "usage", {"--attn exact has none"}, "--attn", "rabitq"});
  refused({"--attn", "oracle"}, {2, "usage", {"--attn oracle has none"}, "--attn", "rabitq"});
  refused({}, {2, "usage", {"4000 tokens", "at least 4096"}, "--n-depth", "larger -d"}, "4000");
  refused({"--nvme", "off"}, {2, "usage", {"--reopen measures the disk"}, "--nvme", "DIR"});
  refused({"-p", "512"},
          {2, "usage", {"--reopen and --n-prompt contradict"}, "--n-prompt", "-d says"});
}

}  // namespace
}  // namespace strata::cli
