// What methods outside index/ choose, beside choices made by brute force.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "base/error.h"
#include "cpu_attn/kernels.h"
#include "tests/tools/drawn_trace.h"
#include "tools/rivals/block_rivals.h"
#include "tools/rivals/events.h"
#include "tools/rivals/key_search.h"
#include "tools/rivals/position_rivals.h"
#include "tools/rivals/representatives.h"

namespace strata::rivals {
namespace {

using index::Budget;
using testing::drawn_trace;

constexpr uint32_t kJudged = 8;

/// All queries but those of the first block.
eval::AttentionTrace long_trace(uint64_t seed, uint32_t n_kv_heads = 1) {
  return drawn_trace({.n_kv_heads = n_kv_heads, .n_positions = 512, .n_steps = 480}, seed);
}

const KernelTable& kernels() { return *cpu_attn::available_kernels().back(); }

TEST(Representatives, AreThoseThatTheNextQueriesAttendMost) {
  const auto trace = long_trace(1);
  const TraceCase on(trace, kJudged);
  for (const uint32_t n_following : {40u, 4096u}) {
    const std::vector<float> scores = local_scores(on, 0, n_following);
    ASSERT_EQ(scores.size(), 480u);
    for (const uint32_t key : {32u, 100u, 440u, 479u}) {
      double sum = 0;
      uint32_t n = 0;
      for (uint32_t pos = key + 1; pos <= key + n_following && pos < 504; ++pos, ++n) {
        const std::vector<float> q = trace.query(0, pos - 32);
        for (uint32_t i = 0; i < q.size(); ++i)
          sum += double{q[i]} * double{on.key(0, key)[i % 16]} / 2;
      }
      EXPECT_NEAR(scores[key], sum / n, 1e-5) << key;
    }
  }
}

TEST(Representatives, AreTheMeanOfTheLargest) {
  const auto trace = long_trace(2);
  const TraceCase on(trace, kJudged);
  std::vector<float> scores(480, -1.0f);
  scores[70] = scores[90] = 1;
  scores[40] = 5;   // outside the span
  scores[127] = 2;  // its last key
  const auto mean = representative(on, 0, 64, 128, scores, 3);
  for (uint32_t d = 0; d < 16; ++d)
    EXPECT_NEAR(mean[d], (on.key(0, 70)[d] + on.key(0, 90)[d] + on.key(0, 127)[d]) / 3, 1e-6);
}

TEST(Representatives, OfALayerMakeOneChoiceForItsKvHeads) {
  const auto trace = long_trace(3, 2);
  const TraceCase on(trace, kJudged);
  const Budget budget{Budget::Kind::kTokens, 320};
  for (const bool is_of_layer : {false, true}) {
    RepresentativeRival rival(on, kernels(), budget,
                              {.block_positions = 32, .is_of_layer = is_of_layer});
    const auto first = rival.attend(0, 0)[0].positions, second = rival.attend(1, 0)[0].positions;
    EXPECT_FALSE(first.empty());
    EXPECT_EQ(first == second, is_of_layer);
  }
}

TEST(Representatives, WantTheQueriesThatFollow) {
  const auto trace = drawn_trace({.n_steps = 100}, 4);
  const TraceCase on(trace, kJudged);
  EXPECT_THROW(local_scores(on, 0, 128), Error);
  EXPECT_THROW(EventRival(on, 320, false), Error);
  EXPECT_NO_THROW(EventRival(on, 320, true));
}

TEST(Events, CutWhereModularityIsLargest) {
  auto trace = long_trace(5);
  // Two kinds of keys, cut at 75 instead of 64 or 96.
  std::mt19937_64 random(6);
  for (uint32_t pos = 32; pos < 160; ++pos) {
    std::vector<float> key = testing::drawn(random, 16, 0.1f);
    key[pos < 75 ? 0 : 1] += 2;
    testing::put_position(trace, 0, pos, key, key);
  }
  const TraceCase on(trace, kJudged);
  double all = 0, inner = 0;
  std::vector<double> degrees(64);
  for (uint32_t a = 0; a < 64; ++a)
    for (uint32_t b = 0; b < 64; ++b) {
      double product = 0, x = 0, y = 0;
      for (uint32_t d = 0; d < 16; ++d) {
        const double u = on.key(0, 32 + a)[d], v = on.key(0, 32 + b)[d];
        product += u * v;
        x += u * u;
        y += v * v;
      }
      const double edge = product / std::sqrt(x * y);
      all += edge;
      degrees[a] += edge;
      inner += (a < 20) == (b < 20) ? edge : 0;
    }
  double expected = inner / all;
  for (uint32_t a = 0; a < 64; ++a)
    for (uint32_t b = 0; b < 64; ++b)
      expected -= (a < 20) == (b < 20) ? degrees[a] * degrees[b] / (all * all) : 0;
  EXPECT_NEAR(modularity(on, 0, 32, 52, 96), expected, 1e-6);

  const std::vector<uint32_t> bounds = event_bounds(on, 0);
  EXPECT_TRUE(std::ranges::binary_search(bounds, 75u));
  EXPECT_EQ(bounds.front(), on.first());
  EXPECT_EQ(bounds.back(), on.end());
  for (size_t i = 0; i + 1 < bounds.size(); ++i) {
    EXPECT_GE(bounds[i + 1] - bounds[i], kEventMin);
    EXPECT_LE(bounds[i + 1] - bounds[i], kEventMax);
  }
}

TEST(Events, OfMostWeightAreAttendedWithinTheBudget) {
  const auto trace = long_trace(7);
  const TraceCase on(trace, kJudged);
  EventRival exact(on, 320, true), few(on, 320, false);
  const auto bounds = event_bounds(on, 0);
  for (EventRival* rival : {&exact, &few}) {
    const auto positions = rival->attend(0, 0)[0].positions;
    EXPECT_LE(positions.size(), on.room(320, 0));
    EXPECT_GT(positions.size(), on.room(320, 0) / 2);
  }
  const std::vector<double> shares = pooled_shares(on, 0, 0);
  uint32_t best = 0;
  const auto weight = [&](uint32_t event) {
    return std::accumulate(shares.begin() + bounds[event] - 32,
                           shares.begin() + bounds[event + 1] - 32, 0.0) /
           (bounds[event + 1] - bounds[event]);
  };
  for (uint32_t event = 0; event + 1 < bounds.size(); ++event)
    if (weight(event) > weight(best)) best = event;
  EXPECT_TRUE(std::ranges::binary_search(exact.attend(0, 0)[0].positions, bounds[best]));
}

TEST(BestPositions, OfAQueryHeadAreItsLargestScores) {
  const auto trace = long_trace(8);
  const TraceCase on(trace, kJudged);
  BestPositions best(on, 320, false);
  const uint32_t n = on.room(320, 3);
  ASSERT_EQ(n, 320 - (508 - on.n_candidates()));
  for (uint32_t head = 0; head < 2; ++head) {
    const auto positions = best.attend(0, 3)[head].positions;
    ASSERT_EQ(positions.size(), n);
    const auto scores = on.scores(0, 3, head);
    std::multiset<float, std::greater<>> sorted(scores.begin() + on.first(),
                                                scores.begin() + on.end());
    const float least = *std::next(sorted.begin(), n - 1);
    for (const uint32_t at : positions) EXPECT_GE(scores[at], least);
  }
  const Verdict verdict = judge(on, best);
  EXPECT_EQ(verdict.positions, 320);
  EXPECT_GT(verdict.read, 1.2 * 320);  // two heads want different positions
}

TEST(BestPositions, OfAGroupHaveMostOfTheSharesOfItsQueries) {
  const auto trace = long_trace(12);
  const TraceCase on(trace, kJudged);
  std::vector<double> sums(on.n_candidates());
  for (uint32_t head = 0; head < 2; ++head) {
    const auto scores = on.scores(0, 2, head).subspan(on.first(), on.n_candidates());
    double all = 0;
    for (const float score : scores) all += std::exp(double{score});
    for (uint32_t i = 0; i < scores.size(); ++i) sums[i] += std::exp(double{scores[i]}) / all;
  }
  const std::vector<double> pooled = pooled_shares(on, 0, 2);
  for (uint32_t i = 0; i < sums.size(); ++i) EXPECT_NEAR(pooled[i], sums[i], 1e-9);
  EXPECT_EQ(BestPositions(on, 320, true).attend(0, 2)[1].positions,
            largest_positions(on, sums, on.room(320, 2)));
}

TEST(BestPositions, ByScoresThatErrFindLess) {
  const auto trace = long_trace(13);
  const TraceCase on(trace, kJudged);
  double last = 1;
  for (const double error : {0.0, 0.5, 4.0}) {
    BestPositions positions(on, 320, true, error);
    const double found = judge(on, positions).found_mean;
    EXPECT_LT(found, last - 0.01) << error;
    EXPECT_EQ(judge(on, positions).found_mean, found);
    last = found;
  }
}

TEST(RepeatedChoice, AttendsAllThenWhatHadMostWeight) {
  const auto trace = long_trace(9);
  const TraceCase on(trace, kJudged);
  RepeatedChoice recycled(on, std::make_unique<BestPositions>(on, 320, true), 4, true);
  BestPositions best(on, 320, true);
  for (uint32_t step = 0; step < kJudged; ++step) {
    const auto positions = recycled.attend(0, step)[1].positions;
    if (step % 4 == 0)
      EXPECT_EQ(positions.size(), on.n_candidates());
    else
      EXPECT_EQ(positions, best.attend(0, step / 4 * 4)[1].positions) << step;
  }
  EXPECT_EQ(recycled.bytes().read, 0);
  const auto mean = [&] {
    return std::make_unique<MethodRival>(on, kernels(), index::Method::kMean,
                                         Budget{Budget::Kind::kTokens, 320});
  };
  EXPECT_EQ(RepeatedChoice(on, mean(), 4, false).bytes().read, mean()->bytes().read / 4);
}

TEST(KeySearch, OfEveryKeyFindsTheBest) {
  const auto trace = long_trace(11);
  const TraceCase on(trace, kJudged);
  if (!KeySearch::is_there()) {
    EXPECT_THROW(KeySearch(on, "HNSW16,Flat"), Error);
    GTEST_SKIP() << "FAISS is not installed";
  }
  BestPositions best(on, 320, false);
  for (const char* factory : {"HNSW16,Flat", "IVF8,Flat"}) {
    SCOPED_TRACE(factory);
    KeySearch search(on, factory);
    search.search_by(factory[0] == 'H' ? on.n_candidates() : 8, 320);
    for (uint32_t step = 0; step < kJudged; ++step) {
      const auto found = search.attend(0, step), wanted = best.attend(0, step);
      for (uint32_t head = 0; head < 2; ++head)
        EXPECT_EQ(found[head].positions, wanted[head].positions) << step;
    }
    EXPECT_NEAR(search.bytes().read, 2 * 2 * 16, 0.1 * 2 * 2 * 16);  // two queries, each all keys
    EXPECT_EQ(search.visits(false).recall, 1);
    EXPECT_EQ(search.visits(true).recall, 1);
    search.search_by(1, 192);
    EXPECT_LT(search.visits(false).visited, factory[0] == 'H' ? 1.0 : 0.5);
  }
}

}  // namespace
}  // namespace strata::rivals
