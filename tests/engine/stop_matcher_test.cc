#include "engine/text/stop_matcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::expect_error;

struct Answer {
  std::string text;
  bool is_hit = false;
  bool operator==(const Answer&) const = default;
};

/// Tries every end in order, and at each the longest stop string first.
Answer answer_by_search(const std::string& text, std::vector<std::string> stops) {
  std::sort(stops.begin(), stops.end(),
            [](const auto& a, const auto& b) { return a.size() > b.size(); });
  for (size_t end = 1; end <= text.size(); ++end)
    for (const std::string& stop : stops)
      if (end >= stop.size() && text.compare(end - stop.size(), stop.size(), stop) == 0)
        return {text.substr(0, end - stop.size()), true};
  return {text, false};
}

std::string drawn(std::mt19937& random, size_t n, const char* letters, size_t n_letters) {
  std::string out;
  while (out.size() < n) out += letters[random() % n_letters];
  return out;
}

TEST(StopMatcher, AnswerDoesNotDependOnHowTheTextIsCut) {
  const uint32_t seed = 5;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(1 + random() % 4);
    for (std::string& stop : stops) stop = drawn(random, 1 + random() % 5, "abc", 3);
    const std::string text = drawn(random, random() % 24, "abcd", 4);
    StopMatcher matcher(stops);
    Answer found;
    for (size_t at = 0; at < text.size();) {
      const size_t n = std::min<size_t>(random() % 5, text.size() - at);
      found.text += matcher.push(text.substr(at, n));
      at += n;
    }
    found.is_hit = matcher.is_hit();
    found.text += matcher.finish();
    ASSERT_EQ(found, answer_by_search(text, stops)) << "round " << round << " text " << text;
  }
}

TEST(StopMatcher, HoldsBackNoMoreThanWhatMayBecomeAStop) {
  StopMatcher matcher({"STOP", "OPEN"});
  EXPECT_EQ(matcher.push("abc"), "abc");
  EXPECT_EQ(matcher.push("ST"), "");
  EXPECT_EQ(matcher.push("xOPE"), "STx");  // OPE may become OPEN
  EXPECT_EQ(matcher.push("x"), "OPEx");
  EXPECT_FALSE(matcher.is_hit());
  EXPECT_EQ(matcher.push("STO"), "");
  EXPECT_EQ(matcher.finish(), "STO");
}

TEST(StopMatcher, NothingComesAfterAHit) {
  StopMatcher matcher({"\n\n"});
  EXPECT_EQ(matcher.push("one\n"), "one");
  EXPECT_EQ(matcher.push("\ntwo"), "");
  EXPECT_TRUE(matcher.is_hit());
  EXPECT_EQ(matcher.push("three"), "");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopMatcher, NoStopStringsHoldNothingBack) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.push("text"), "text");
  EXPECT_EQ(matcher.finish(), "");
  EXPECT_FALSE(matcher.is_hit());
}

TEST(StopMatcher, EmptyAndBrokenStopStringsAreRefused) {
  expect_error([] { StopMatcher({"a", ""}); }, ErrorCode::kUsage, "empty", "--stop");
  expect_error([] { StopMatcher({"a\xFF"}); }, ErrorCode::kUsage, "not UTF-8 at byte 1", "--stop");
}

TEST(PatternSet, FindsTheLongestPatternThatEndsAtEachByte) {
  const uint32_t seed = 6;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> patterns(1 + random() % 12);
    for (std::string& pattern : patterns) pattern = drawn(random, random() % 6, "ab\xFF", 3);
    const PatternSet set(patterns);
    const std::string text = drawn(random, random() % 40, "ab\xFF", 3);
    PatternSet::State state = PatternSet::kStart;
    for (size_t end = 1; end <= text.size(); ++end) {
      state = set.step(state, static_cast<uint8_t>(text[end - 1]));
      int32_t wanted = PatternSet::kNone;
      for (size_t i = 0; i < patterns.size(); ++i)
        if (!patterns[i].empty() && text.substr(0, end).ends_with(patterns[i]) &&
            (wanted < 0 || patterns[i].size() > patterns[static_cast<size_t>(wanted)].size()))
          wanted = static_cast<int32_t>(i);
      ASSERT_EQ(set.longest(state), wanted) << "round " << round << " end " << end;
    }
  }
}

}  // namespace
}  // namespace strata::engine
