#include "tools/makers/golden_file.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/tree_paths.h"

namespace strata::makers {
namespace {

std::string written(const std::string& text) {
  const auto path = std::filesystem::path(build_path("golden_file_test.goldens"));
  std::ofstream(path) << text;
  return path.string();
}

TEST(GoldenFile, TextIsReadBack) {
  GoldenPrompt prompt{.name = "a", .n_tokens = 3, .ids_sha256 = "00ff", .greedy = {}, .rows = {}};
  for (uint32_t i = 0; i < kGoldenGreedyTokens; ++i)
    prompt.greedy.push_back(static_cast<int32_t>(i));
  const std::vector<float> logits = {0, 1, 2, 3, 4, 5, 6};
  prompt.rows.push_back(golden_row(2, logits));
  const std::string text = golden_text({.model = "m.gguf", .prompts = {prompt, prompt}});
  EXPECT_EQ(golden_text(read_golden_file(written("# a comment\n" + text))), text);
}

TEST(GoldenFile, DamagedLinesAreNamed) {
  const std::string greedy = "greedy 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15\n";
  for (const std::string line :
       {"row 1 0.5 1:-1 2:-2 3:-3 4:-4\n", "row 1 0.5 1:-1 2:-2 3;-3 4:-4 5:-5\n", "rows\n",
        "greedy 1 2\n", "prompt b\n"}) {
    try {
      read_golden_file(written("model m\nprompt a 3 00ff\n" + greedy + line));
      ADD_FAILURE() << "accepted: " << line;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadFile);
      EXPECT_TRUE(error.where().ends_with(":4")) << error.where();
    }
  }
}

TEST(GoldenFile, ARowHoldsTheLikeliestInOrderAndTheirLogProbabilities) {
  const std::vector<float> logits = {1, 7, 3, 7, 2, 5, 4};
  const GoldenRow row = golden_row(9, logits);
  std::vector<int32_t> ids;
  for (const auto& item : row.top) ids.push_back(item.id);
  EXPECT_EQ(ids, (std::vector<int32_t>{1, 3, 5, 6, 2}));  // of equal ones the lower id first
  EXPECT_EQ(row.lead(), 0);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit});
  EXPECT_NEAR(row.top[2].log_p, 5 - std::log(sum), 1e-12);  // a few roundings of doubles near 7
}

TEST(GoldenFile, PositionsAreSpreadThenEveryOneOfTheEndAndOfTheAnswer) {
  const auto positions = golden_positions(1000);
  EXPECT_EQ(positions.front(), 111u);
  EXPECT_EQ(positions.size(), 8u + 16 + 15);
  EXPECT_EQ(positions[8], 984u);
  EXPECT_EQ(positions.back(), 1014u);
  EXPECT_EQ(golden_positions(1).size(), 16u);  // position 0 and the answer's first 15 tokens
}

}  // namespace
}  // namespace strata::makers
