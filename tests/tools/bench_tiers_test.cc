// `bench --tiers` and benches that spill, through the program: what the rows say, bytes by formula
// beside those counted, refusals, and that nothing is left on the disk. Times are not judged.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
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

class BenchTiers : public testing::SpillingTest {
 protected:
  static constexpr uint64_t kLayerSetBytes = kLayers * kPlaceBytes;  // an extent of every layer
  static constexpr uint64_t kDepth = 4096;

  std::vector<std::string> tiers(const std::vector<std::string>& more = {},
                                 const std::string& depth = std::to_string(kDepth)) const {
    return with({"bench", "-m", model_, "--tiers", "-d", depth, "-b", "64", "-r", "2", "-t", "1",
                 "--depth-fill", "random", "--nvme", disk_},
                more);
  }
  static json list_of(const Outcome& outcome) {
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err << outcome.out;
    json list = json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(list.is_array()) << outcome.out;
    return list;
  }
  static json figure(const json& list, const std::string& name) {
    const auto found =
        std::ranges::find_if(list, [&](const json& row) { return row["figure"] == name; });
    EXPECT_NE(found, list.end()) << name;
    return found == list.end() ? json::object() : *found;
  }
};

TEST_F(BenchTiers, EveryFigureCountsTheBytesOfItsFormula) {
  const json list = list_of(run_strata(tiers({"--json"})));
  std::vector<std::string> names;
  for (const json& row : list) {
    names.push_back(row["figure"]);
    EXPECT_EQ(row["bytes"], row["formula_bytes"]) << row["figure"];
    EXPECT_NE(row["formula"], "") << row["figure"];
    for (const char* key : {"model_filename", "type_k", "n_threads", "n_depth", "depth_fill",
                            "median_ns", "stddev_ns", "gbytes_per_s"})
      EXPECT_TRUE(row.contains(key)) << row["figure"] << key;
    EXPECT_EQ(row["n_depth"], kDepth);
    const auto samples = row["samples_ns"].get<std::vector<double>>();
    if (row["figure"] != "sequential read, first" && row["figure"] != "tags of blocks") {
      EXPECT_EQ(samples.size(), 2u) << row["figure"];
      EXPECT_EQ(row.value("values", samples).size(), 2u) << row["figure"];
    }
    const bool is_judged = row.contains("wanted_at_least") || row.contains("wanted_at_most");
    EXPECT_EQ(row.contains("ok"), is_judged);
    if (!is_judged) continue;
    const double value = row["value"];
    EXPECT_EQ(row["ok"], row.contains("wanted_at_least")
                             ? value >= row["wanted_at_least"].get<double>()
                             : value <= row["wanted_at_most"].get<double>());
  }
  EXPECT_EQ(names, (std::vector<std::string>{
                       "sequential write", "sequential read, first", "sequential read",
                       "2 % selection, 4 KiB", "2 % selection, 8 KiB", "2 % selection, 16 KiB",
                       "2 % selection, 32 KiB", "2 % selection, 64 KiB", "tags of blocks",
                       "prefill, written through", "random read, 16 KiB", "the same beside work",
                       "decode, read from disk", "decode, beside its bytes", "restore",
                       "restore, beside reading"}));
  EXPECT_EQ(figure(list, "restore")["bytes"], kDepth / kExtentPositions * kLayerSetBytes);
  // A tenth of K and V, 416 KiB, is less than a context runs with: two steps of 64, rounded up to
  // an extent each, three extents, and 48 frames: 5 of the 16 sets stay in DRAM, or fewer.
  const uint64_t token_bytes = figure(list, "decode, read from disk")["bytes"].get<uint64_t>() / 32;
  EXPECT_GE(token_bytes, 11 * kLayerSetBytes);
  EXPECT_LE(token_bytes, 16 * kLayerSetBytes);
  EXPECT_EQ(testing::n_entries(disk_), 0u);
}

TEST_F(BenchTiers, ReadsTheDepthWhereItIsToBeRead) {
  const Outcome outcome =
      run_strata(tiers({"--depth-fill", "prefill", "-r", "1", "-o", "md"}, "2000"));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("| restore, beside reading "), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find(
                "- restore: 7 whole extents of every full layer x 262144 and the end, 262144, "
                "= 2097152 bytes; "),
            std::string::npos)
      << outcome.out;
  EXPECT_NE(outcome.out.find(" s measured"), std::string::npos) << outcome.out;
}

TEST_F(BenchTiers, IsEndedByCtrlCAndLeavesNothing) {
  const auto expect_ended = [&](StrataProcess& process) {
    process.interrupt();
    const Outcome outcome = process.finish();
    EXPECT_EQ(outcome.exit_code, 130) << outcome.err;
    EXPECT_TRUE(!std::filesystem::exists(disk_) || testing::n_entries(disk_) == 0);
  };
  StrataProcess early(tiers({"-r", "1000", "-o", "jsonl"}), StrataProcess::Input::kNone);
  ASSERT_TRUE(early.wait_for_err("loading"));
  expect_ended(early);
  // With packs on the disk; a dozen restores take longer than a signal.
  StrataProcess late(tiers({"-r", "12", "-o", "jsonl"}), StrataProcess::Input::kNone);
  ASSERT_TRUE(late.wait_for_out("decode, beside its bytes"));
  expect_ended(late);
}

TEST_F(BenchTiers, FolderOfAKilledBenchGoesWithTheNextOne) {
  std::filesystem::create_directories(disk_ + "/.strata-bench-abcdef");
  std::filesystem::permissions(disk_ + "/.strata-bench-abcdef", std::filesystem::perms::owner_all);
  folder_.write("spill/.strata-bench-abcdef/0.pack", "left");
  // What no bench has made stays, whatever it is called.
  folder_.write("spill/notes", "not of a bench");
  for (const std::string name : {"bench-results", ".strata-bench-results", ".strata-bench-public"})
    std::filesystem::create_directories(disk_ + "/" + name);
  EXPECT_EQ(run_strata(tiers({"-r", "1"})).exit_code, 0);
  EXPECT_FALSE(std::filesystem::exists(disk_ + "/.strata-bench-abcdef"));
  EXPECT_EQ(testing::n_entries(disk_), 4u);
}

TEST_F(BenchTiers, RefusesWhatItHasNoUseFor) {
  const auto refused = [&](const std::vector<std::string>& arguments,
                           const testing::Refusal& refusal) {
    expect_line(run_strata(arguments), refusal);
  };
  refused(tiers({"--nvme", "off"}), {2, "usage", {"there is none"}, "--nvme", "--nvme DIR"});
  refused(tiers({"--dram", "1GiB"}),
          {2, "usage", {"--tiers and --dram contradict"}, "--dram", "leave one"});
  refused(tiers({"-p", "512"}),
          {2, "usage", {"--tiers and --n-prompt contradict"}, "--n-prompt", "-d says"});
  refused(tiers({}, "512,1024"), {2, "usage", {"wants one depth, found 2"}, "--n-depth", "once"});
  refused(tiers({}, "100"), {2, "usage", {"100 tokens", "at least 512"}, "--n-depth", "larger -d"});
  refused(tiers({}, "100000"),
          {2, "usage", {"100000 tokens", "at most 65536"}, "--n-depth", "--allow-untrained"});
  refused(tiers({}, "512"), {2, "usage", {"stays in memory"}, "--n-depth", "larger -d"});
}

TEST_F(BenchTiers, OrdinaryBenchSpillsAsRunDoes) {
  const std::vector<std::string> arguments = {
      "bench", "-m", model_, "-p", "0", "-n",           "4",      "-d",    "4000", "-b",
      "64",    "-r", "2",    "-t", "1", "--depth-fill", "random", "--json"};
  const Outcome spilled = run_strata(with(arguments, {"--kv-dram", "2304KiB", "--nvme", disk_}));
  const json on_disk = list_of(spilled)[0];
  EXPECT_GT(on_disk["nvme_read_bytes_per_token"], 0);
  EXPECT_EQ(on_disk["nvme_read_bytes_per_token"].get<uint64_t>() % kPlaceBytes, 0u);
  EXPECT_EQ(on_disk["kv_dram_bytes"], 2304u << 10);
  EXPECT_NE(spilled.err.find("K and V: "), std::string::npos) << spilled.err;
  const json in_memory = list_of(run_strata(with(arguments, {"--nvme", disk_})))[0];
  EXPECT_FALSE(in_memory.contains("nvme_read_bytes_per_token"));
  EXPECT_EQ(on_disk["bytes_per_token"], in_memory["bytes_per_token"]);
  auto refused = with(arguments, {"--kv-dram", "64KiB", "--nvme", disk_});
  std::erase(refused, "--json");
  expect_line(run_strata(refused), {3,
                                    "does_not_fit",
                                    {"tg4 @ d4000: a context of 4068 tokens needs at least"},
                                    "--kv-dram",
                                    "measure at a smaller -d"});
}

}  // namespace
}  // namespace strata::cli
