#include "engine/token_scores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace strata::engine {
namespace {

TEST(TokenScores, AreTheLogarithmsOfShares) {
  const std::vector<float> logits = {1, 3, 2, 3, -1};
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit});
  const TokenScores scores = score_token(logits, 2, 3);
  EXPECT_EQ(scores.token.token, 2);
  EXPECT_NEAR(scores.token.logprob, 2 - std::log(sum), 1e-12);
  ASSERT_EQ(scores.likeliest.size(), 3u);
  EXPECT_EQ(scores.likeliest[0].token, 1);  // of equal ones the lower id
  EXPECT_EQ(scores.likeliest[1].token, 3);
  EXPECT_EQ(scores.likeliest[2].token, 2);
  EXPECT_EQ(scores.likeliest[2].logprob, scores.token.logprob);
}

TEST(TokenScores, OfAllTokensAddUpToOne) {
  std::mt19937 random(3);
  std::vector<float> logits(1000);
  for (float& logit : logits) logit = static_cast<float>(random() % 4000) / 100.0f + 1e4f;
  const TokenScores scores = score_token(logits, 0, 5000);
  ASSERT_EQ(scores.likeliest.size(), logits.size());
  double sum = 0;
  for (size_t i = 0; i < scores.likeliest.size(); ++i) {
    sum += std::exp(scores.likeliest[i].logprob);
    if (i == 0) continue;
    EXPECT_LE(scores.likeliest[i].logprob, scores.likeliest[i - 1].logprob);
  }
  EXPECT_NEAR(sum, 1, 1e-9);
}

TEST(TokenScores, WhatIsImpossibleOrInfiniteStaysANumberOrMinusInfinity) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits = {std::nanf(""), 1, -kInfinity};
  EXPECT_EQ(score_token(logits, 1, 0).token.logprob, 0);
  EXPECT_TRUE(score_token(logits, 1, 0).likeliest.empty());
  EXPECT_EQ(score_token(logits, 0, 3).token.logprob, -std::numeric_limits<double>::infinity());
  EXPECT_EQ(score_token(logits, 0, 3).likeliest[0].token, 1);
  const std::vector<float> infinite = {kInfinity, 1, kInfinity};
  EXPECT_NEAR(score_token(infinite, 2, 0).token.logprob, -std::log(2.0), 1e-12);
  EXPECT_EQ(score_token(infinite, 1, 0).token.logprob, -std::numeric_limits<double>::infinity());
}

}  // namespace
}  // namespace strata::engine
