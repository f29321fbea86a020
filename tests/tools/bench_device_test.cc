// `bench --device virtual:NAME` through the program: what it prints, that it says what it is, and
// what it refuses.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/engine/small_model.h"
#include "tests/tools/refusal.h"
#include "tests/tools/strata_process.h"

namespace strata::cli {
namespace {

using engine::testing::make_small_model;
using engine::testing::SmallModelOptions;
using nlohmann::json;
using testing::Outcome;
using testing::run_strata;

class BenchDevice : public testing::RefusalTest {
 protected:
  static Outcome predict(const std::string& model, const std::string& device,
                         std::vector<std::string> more) {
    more.insert(more.begin(), {"bench", "-m", model, "--device", device});
    const Outcome outcome = run_strata(more);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome;
  }
  static json rows(const std::string& model, const std::string& device,
                   std::vector<std::string> more) {
    more.push_back("--json");
    const Outcome outcome = predict(model, device, more);
    EXPECT_NE(outcome.err.find("not a measurement"), std::string::npos) << outcome.err;
    const json list = json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(list.is_array()) << outcome.out;
    return list;
  }
};

TEST_F(BenchDevice, SaysThatItPredictsFromAssumedFigures) {
  const std::string path = small_model();
  const Outcome outcome = predict(path, "virtual:rtx4090", {"-c", "64"});
  EXPECT_TRUE(outcome.out.starts_with(
      "Prediction for NVIDIA GeForce RTX 4090, not a measurement: none of its "))
      << outcome.out;
  EXPECT_NE(outcome.out.find(" are assumed"), std::string::npos);
  for (const char* text : {"64 tokens of context", "TPOT ms", "TTFT s", "| HBM ",
                           "| DRAM, on the CPU ", "| DRAM, selected "})
    EXPECT_NE(outcome.out.find(text), std::string::npos) << text;
  EXPECT_EQ(outcome.err, "");
  const Outcome verbose = predict(path, "virtual:rtx4090", {"-c", "64", "-v"});
  EXPECT_NE(verbose.err.find("hbm_bytes_per_s"), std::string::npos);
  EXPECT_NE(verbose.err.find("datasheet"), std::string::npos);
  EXPECT_NE(verbose.err.find("assumed"), std::string::npos);
  EXPECT_EQ(verbose.out, outcome.out);  // the same events, the same times
}

TEST_F(BenchDevice, ListsARowForEachPlaceOfKAndV) {
  const json list = rows(small_model(), "virtual:h100", {"-c", "64"});
  std::vector<std::string> places;
  for (const json& row : list) {
    places.push_back(row["kv_place"]);
    EXPECT_EQ(row["device"], "virtual:h100");
    EXPECT_EQ(row["is_prediction"], true);
    EXPECT_EQ(row["n_figures_measured"], 0);
    EXPECT_GT(row["n_figures_assumed"], row["n_figures_datasheet"]);
    EXPECT_EQ(row["n_ctx"], 64);
    EXPECT_EQ(row["fits"], true);
    EXPECT_EQ(row["n_streamed_layers"], 0);
    EXPECT_GT(row["predicted_tpot_ms"], 0.0);
    EXPECT_GT(row["predicted_ttft_ms"], 0.0);
    EXPECT_NEAR(row["predicted_ts"].get<double>() * row["predicted_tpot_ms"].get<double>(), 1e3,
                1e-6);
    for (const char* key : {"model_size", "type_k", "type_v", "busiest", "busiest_share",
                            "hbm_bytes", "pinned_bytes"})
      EXPECT_TRUE(row.contains(key)) << key;
  }
  EXPECT_EQ(places, (std::vector<std::string>{"HBM", "DRAM, on the CPU", "DRAM, across the link",
                                              "DRAM, streamed", "DRAM, selected"}));
}

TEST_F(BenchDevice, LongerContextsAndSlowerCardsTakeLonger) {
  SmallModelOptions options;
  options.head_dim = 32;
  options.n_ctx_train = 1 << 17;
  const std::string path = model(make_small_model(options));
  const auto tpot = [](const json& list, size_t row) {
    return list[row]["predicted_tpot_ms"].get<double>();
  };
  const json near = rows(path, "virtual:rtx4090", {"-c", "1k"});
  const json far = rows(path, "virtual:rtx4090", {});  // what it was trained for
  EXPECT_EQ(far[0]["n_ctx"], 1 << 17);
  const json slow = rows(path, "virtual:laptop8", {});
  const json small = rows(path, "virtual:rtx4090", {"-ctk", "q8_0", "-ctv", "q8_0"});
  EXPECT_EQ(small[0]["type_k"], "q8_0");
  for (size_t row = 0; row < 4; ++row) {  // what is selected does not grow
    EXPECT_GT(tpot(far, row), tpot(near, row)) << row;
    EXPECT_GT(tpot(slow, row), tpot(far, row)) << row;
    EXPECT_LT(tpot(small, row), tpot(far, row)) << row;
  }
}

/// K and V of a context that the card holds do not fit a part of it; those of a small one still do.
TEST_F(BenchDevice, ACapOnTheCardsMemoryIsKept) {
  SmallModelOptions options;
  options.head_dim = 32;
  options.n_ctx_train = 1 << 17;
  const std::string path = model(make_small_model(options));
  ASSERT_TRUE(rows(path, "virtual:rtx4090", {})[0]["fits"].get<bool>());
  const json small = rows(path, "virtual:rtx4090", {"-c", "64"});
  const auto cap = std::to_string(small[0]["hbm_bytes"].get<uint64_t>());
  EXPECT_FALSE(rows(path, "virtual:rtx4090", {"--hbm", cap})[0]["fits"].get<bool>());
  EXPECT_TRUE(rows(path, "virtual:rtx4090", {"--hbm", cap, "-c", "64"})[0]["fits"].get<bool>());
  const std::string out = predict(path, "virtual:rtx4090", {"--hbm", "4GiB", "-c", "64"}).out;
  EXPECT_NE(out.find("At most 4.0 GiB of its memory are used."), std::string::npos) << out;
}

TEST_F(BenchDevice, PrintsCsvAndLines) {
  const std::string path = small_model();
  const auto n_lines = [&](const std::string& format) {
    const std::string out = predict(path, "virtual:rtx3060", {"-c", "64", "-o", format}).out;
    return std::ranges::count(out, '\n');
  };
  EXPECT_EQ(n_lines("csv"), 6);
  EXPECT_EQ(n_lines("jsonl"), 5);
}

TEST_F(BenchDevice, RefusesWhatIsNoDevice) {
  const std::string path = small_model();
  expect_refused(
      {"bench", "-m", path, "--device", "virtual:rtx9999"},
      {2, "usage", {"unknown device profile", "rtx3060", "h200"}, "--device", "virtual:rtx4090"});
  for (const std::string device : {"rtx9999", "cuda:", "virtual:"})
    expect_refused({"bench", "-m", path, "--device", device},
                   {2, "usage", {"--device '" + device + "'"}, "--device", "virtual:PROFILE"});
}

TEST_F(BenchDevice, RefusesOptionsOfMeasurementsAndContextsThatAreTooLong) {
  const std::string path = small_model();
  expect_refused({"bench", "-m", path, "-c", "64"},
                 {2, "usage", {"-c is of predictions"}, "--device-ctx", "--device"});
  for (const std::string option : {"-p", "-n", "-d", "-r", "-t"})
    expect_refused({"bench", "-m", path, "--device", "virtual:h100", option, "4"},
                   {2, "usage", {"contradict"}, "--", "-c"});
  expect_refused({"bench", "-m", path, "--device", "virtual:h100", "--tiers"},
                 {2, "usage", {"--device and --tiers contradict"}, "--tiers", "-c"});
  expect_refused({"bench", "-m", path, "--device", "virtual:h100", "-c", "2m"},
                 {2, "usage", {"2097152", "1048576"}, "--device-ctx", "smaller -c"});
  expect_refused({"bench", "-m", path, "--device", "virtual:h100", "-ctk", "q8_0"},
                 {4, "unsupported", {"head_dim", "8"}, "cache-type-k", "f16"});
}

TEST_F(BenchDevice, NotesAContextBeyondTheTrainedOne) {
  const Outcome outcome = predict(small_model(), "virtual:h100", {"-c", "100"});
  EXPECT_NE(outcome.err.find("note: beyond 64 tokens this model was never trained"),
            std::string::npos);
}

}  // namespace
}  // namespace strata::cli
