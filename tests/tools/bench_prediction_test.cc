// What `bench` shows of a prediction beside what was measured.
#include "tools/cli/bench_prediction.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace strata::cli {
namespace {

/// A token, or a prompt of n tokens, whose time is predicted as 10 ms.
BenchPrediction ten_ms(uint32_t n_tokens) {
  BenchPrediction prediction;
  prediction.step.ms = 10;
  prediction.step.busy_ms[static_cast<size_t>(planner::PlanPart::kNvme)] = 8;
  prediction.measured_ms = 20;
  prediction.n_tokens = n_tokens;
  return prediction;
}

PlacedPlan plan_of_one_layer() {
  PlacedPlan plan;
  plan.subject.request.profile.disk_read_bytes_per_s = 2e9;
  planner::LayerGroup group;
  group.layers = {0};
  group.cpu_linear_ms = 1;
  group.n_held = 64;
  plan.problem.groups = {group};
  plan.problem.rates.cpu_attend = plan.problem.rates.dram_read = 100;
  plan.problem.rates.cpu_attend_tflops = 1;
  plan.layers.groups = {{.n_dram = 1, .kv_dram = 64}};
  return plan;
}

TEST(BenchPrediction, ItsRateIsOfAllTokensOfTheStep) {
  EXPECT_DOUBLE_EQ(ten_ms(1).tokens_per_s(), 100);
  EXPECT_DOUBLE_EQ(ten_ms(512).tokens_per_s(), 51200);
}

TEST(BenchPrediction, WhoseFiguresTheyAreStandsInTheHead) {
  BenchPrediction prediction = ten_ms(1);
  const std::string card = prediction_row("tg32", prediction, true, "Figures of a card.");
  EXPECT_NE(card.find("predicted: Figures of a card. In ms"), std::string::npos) << card;
  EXPECT_NE(card.find("50 %"), std::string::npos) << card;
  prediction.is_measured = true;
  const std::string here = prediction_row("tg32", prediction, true, "Figures of a card.");
  EXPECT_NE(here.find("the profile of this machine"), std::string::npos) << here;
  EXPECT_EQ(prediction_row("tg32", prediction, false, "").find("predicted"), std::string::npos);
}

TEST(BenchPrediction, WhatWasReadFromTheDiskStandsBesideWhatWasPredictedOfIt) {
  BenchPrediction prediction = ten_ms(1);
  EXPECT_EQ(prediction_row("tg32", prediction, false, "").find("counted"), std::string::npos);
  prediction.nvme_bytes = 12.5e6;
  prediction.nvme_ms = 6.25;
  const std::string row = prediction_row("tg32", prediction, false, "");
  EXPECT_NE(row.find("NVMe 8.00 ms; counted: NVMe 12.5 MB = 6.25 ms"), std::string::npos) << row;
  EXPECT_EQ(prediction_json(prediction)["measured_nvme_bytes"], 12.5e6);
}

TEST(BenchPrediction, EveryPartThatWasCountedStandsInTheRow) {
  BenchPrediction prediction = ten_ms(1);
  prediction.cpu_ms = 7.5;
  prediction.dram_bytes = 250e6;
  prediction.dram_ms = 5;
  prediction.nvme_bytes = 1e6;
  const std::string row = prediction_row("tg32", prediction, false, "");
  EXPECT_NE(row.find("; counted: CPU 7.50 ms, DRAM 250.0 MB = 5.00 ms, NVMe 1.0 MB |"),
            std::string::npos)
      << row;
  const auto said = prediction_json(prediction);
  EXPECT_EQ(said["measured_cpu_ms"], 7.5);
  EXPECT_EQ(said["measured_dram_bytes"], 250e6);
  EXPECT_EQ(said["measured_dram_ms"], 5);
}

TEST(BenchPrediction, ProcessorAndMemoryAreCountedOfOneTokenAndOneThread) {
  PlacedPlan plan = plan_of_one_layer();
  plan.subject.request.profile.dram_read_bytes_per_s = 10e9;
  plan.subject.request.n_threads = 2;
  BenchResult result;
  result.test = {.n_gen = 4};
  result.samples_s = {0.1};
  result.cpu_s = 0.16;
  result.bytes = 400'000'000;
  const BenchPrediction token = predict_test(plan, result, {.dram = 0.5});
  EXPECT_DOUBLE_EQ(token.cpu_ms, 20);
  EXPECT_DOUBLE_EQ(token.dram_bytes, 1e8);
  EXPECT_DOUBLE_EQ(token.dram_ms, 20);
  result.test = {.n_prompt = 512};
  EXPECT_DOUBLE_EQ(predict_test(plan, result, {}).cpu_ms, 80);  // the whole prompt
  plan.problem.has_device = true;
  EXPECT_EQ(predict_test(plan, result, {}).dram_bytes, 0);
}

TEST(BenchPrediction, BytesOfTheDiskAreOfOneTokenAndTakeItsPace) {
  const PlacedPlan plan = plan_of_one_layer();
  BenchResult result;
  result.test = {.n_gen = 4};
  result.samples_s = {0.1};
  result.nvme_read_bytes = 3'000'000;
  result.weight_read_bytes = 1'000'000;
  const BenchPrediction prediction = predict_test(plan, result, {.disk = 0.5});
  EXPECT_DOUBLE_EQ(prediction.nvme_bytes, 1e6);
  EXPECT_DOUBLE_EQ(prediction.nvme_ms, 1);
  EXPECT_EQ(prediction.n_tokens, 1u);
}

TEST(BenchPrediction, OnlyAPromptThatPassesTheFirstSparseTokenIsReadSparsely) {
  PlacedPlan plan = plan_of_one_layer();
  BenchResult result;
  result.samples_s = {0.1};
  const auto was_read_sparsely = [&](uint32_t n_prompt, uint32_t n_depth) {
    result.test = {.n_prompt = n_prompt, .n_depth = n_depth};
    return predict_test(plan, result, {}).was_read_sparsely;
  };
  EXPECT_FALSE(was_read_sparsely(512, 0));
  plan.subject.sparse_from = 40;
  EXPECT_FALSE(was_read_sparsely(40, 0));
  EXPECT_TRUE(was_read_sparsely(41, 0));
  EXPECT_TRUE(was_read_sparsely(8, 33));
}

}  // namespace
}  // namespace strata::cli
