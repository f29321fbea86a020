#include "engine/prompt_lookup.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "engine/draft_length.h"

namespace strata::engine {
namespace {

using Tokens = std::vector<TokenId>;

/// Where the last `run` tokens stood before, the last time: as a number of tokens; 0 = nowhere.
size_t searched(const Tokens& text, size_t run) {
  if (text.size() <= run) return 0;
  for (size_t end = text.size() - 1; end >= run; --end)
    if (std::equal(text.end() - static_cast<std::ptrdiff_t>(run), text.end(),
                   text.begin() + static_cast<std::ptrdiff_t>(end - run)))
      return end;
  return 0;
}

Tokens searched_draft(const Tokens& text, uint32_t n) {
  for (size_t run = PromptLookup::kRunMax; run >= PromptLookup::kRunMin; --run) {
    const size_t end = searched(text, run);
    if (end == 0) continue;
    Tokens grown = text;
    for (uint32_t i = 0; i < n; ++i) grown.push_back(grown[end + i]);
    return {grown.end() - n, grown.end()};
  }
  return {};
}

Tokens proposed(const PromptLookup& lookup, uint32_t n) {
  Tokens draft;
  lookup.propose(n, draft);
  return draft;
}

TEST(PromptLookup, ProposesWhatASearchOfTheWholeTextFinds) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 40; ++round) {
    const uint32_t vocab_size = 1 + static_cast<uint32_t>(random() % 60);
    const size_t n = 1 + random() % 400;
    PromptLookup lookup(n);
    Tokens text;
    while (text.size() < n) {
      text.push_back(static_cast<TokenId>(random() % vocab_size));
      if (text.size() > 20 && random() % 30 == 0)  // a quotation
        for (size_t at = random() % 20; text.size() < n && random() % 12 != 0; ++at)
          text.push_back(text[at]);
    }
    for (size_t i = 0; i < n; ++i) {
      lookup.append(text[i]);
      const Tokens before(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      const auto n_wanted = static_cast<uint32_t>(random() % 20);
      ASSERT_EQ(proposed(lookup, n_wanted), searched_draft(before, n_wanted)) << i;
    }
  }
}

TEST(PromptLookup, TheLongerRunCountsAndOfEqualOnesTheLast) {
  PromptLookup lookup(16);
  for (const TokenId token : {1, 2, 3, 70, 9, 2, 3, 80, 1, 2, 3}) lookup.append(token);
  EXPECT_EQ(proposed(lookup, 2), (Tokens{70, 9}));  // 1 2 3, though 2 3 stood later
  for (const TokenId token : {5, 2, 3}) lookup.append(token);
  EXPECT_EQ(proposed(lookup, 1), (Tokens{5}));
  lookup.append(77);
  EXPECT_TRUE(proposed(lookup, 3).empty());
}

TEST(PromptLookup, ARunThatRepeatsItselfGoesOn) {
  PromptLookup lookup(8);
  for (const TokenId token : {4, 5, 4, 5}) lookup.append(token);
  EXPECT_EQ(proposed(lookup, 5), (Tokens{4, 5, 4, 5, 4}));
}

TEST(PromptLookup, HoldsTheBytesItSays) {
  EXPECT_EQ(PromptLookup::bytes(1000), 1000 * 4 + 2 * 1501 * 4u);  // 16 per token
}

TEST(DraftLength, GrowsWhileDraftsComeTrueAndStopsWhereTheyDoNot) {
  DraftLength length(10);
  EXPECT_EQ(length.next(), 4u);
  length.take(4, 4);
  EXPECT_EQ(length.next(), 8u);
  length.take(8, 8);
  EXPECT_EQ(length.next(), 10u);
  length.take(10, 5);  // half of it: as it is
  EXPECT_EQ(length.next(), 10u);
  length.take(10, 4);
  EXPECT_EQ(length.next(), 5u);
  length.take(3, 3);  // a short one that came whole counts as well
  EXPECT_EQ(length.next(), 10u);
}

TEST(DraftLength, ATextThatRepeatsNothingPaysForOneRowIn33Steps) {
  DraftLength length(16);
  uint64_t n_rows = 0;
  constexpr uint64_t kSteps = 33'000;
  for (uint64_t step = 0; step < kSteps; ++step) {
    const uint32_t n = length.next();
    length.take(n, 0);
    n_rows += n;
  }
  EXPECT_LE(n_rows, kSteps / 33 + 4 + 2 + 6);
  EXPECT_GE(n_rows, kSteps / 33);
  // One that comes true again brings the next draft at once.
  while (length.next() == 0) {
  }
  length.take(1, 1);
  EXPECT_EQ(length.next(), 2u);
}

TEST(DraftLength, StepsWithoutADraftChangeNothing) {
  DraftLength length(16);
  length.take(0, 0);
  EXPECT_EQ(length.next(), 4u);
}

}  // namespace
}  // namespace strata::engine
