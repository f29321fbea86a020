// What methods outside index/ choose, beside choices made by brute force.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
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

/// By products of representatives with queries, of a KV head's own shares or of a layer's sums.
TEST(Representatives, ChooseTheBlocksOfTheLargestProducts) {
  const auto trace = long_trace(14, 2);
  const TraceCase on(trace, kJudged);
  constexpr uint32_t kBlocks = 15, kSpans[] = {15, 4};
  for (const bool is_of_layer : {false, true})
    for (const uint32_t span : {32u, 128u}) {
      const RepresentativeRule rule{
          .n_keys = 3, .n_following = 40, .block_positions = span, .is_of_layer = is_of_layer};
      RepresentativeRival rival(on, kernels(), {Budget::Kind::kTokens, 320}, rule);
      const double bytes = kSpans[span / 128] * 16 * 2.0 / on.n_candidates();
      EXPECT_EQ(rival.bytes().kept, bytes);
      EXPECT_EQ(rival.bytes().read, bytes);
      std::vector<std::vector<double>> rows(is_of_layer ? 1 : 2, std::vector<double>(kBlocks));
      for (uint32_t stream = 1 - is_of_layer; stream < 2; ++stream) {
        const std::vector<float> scores = local_scores(on, stream, 40), q = on.query(stream, 3);
        for (uint32_t block = 0; block < kBlocks; ++block) {
          const uint32_t first = block * 32 / span * span;
          const auto key =
              representative(on, stream, first, std::min(first + span, 480u), scores, 3);
          for (uint32_t i = 0; i < 32; ++i)
            rows[i / 16 % rows.size()][block] += double{q[i]} * double{key[i % 16]};
        }
      }
      std::vector<double> shares(kBlocks);
      for (const std::vector<double>& row : rows) {
        double all = 0;
        for (const double product : row) all += std::exp(product);
        for (uint32_t block = 0; block < kBlocks; ++block)
          shares[block] += std::exp(row[block]) / all;
      }
      std::vector<uint32_t> order(10);  // candidates
      std::iota(order.begin(), order.end(), 1u);
      std::ranges::stable_sort(order,
                               [&](uint32_t a, uint32_t b) { return shares[a] > shares[b]; });
      const auto positions = rival.attend(1, 3)[1].positions;
      ASSERT_EQ(positions.size(), 4 * 32u);
      std::vector<uint32_t> blocks;
      for (uint32_t i = 0; i < positions.size(); i += 32) blocks.push_back(positions[i] / 32);
      order.resize(4);
      std::ranges::sort(order);
      EXPECT_EQ(blocks, order) << span << is_of_layer;
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

/// Of most weight for each position first, as many as the room takes.
std::vector<uint32_t> fill(const std::vector<uint32_t>& bounds, const std::vector<double>& weights,
                           size_t room) {
  std::multimap<double, uint32_t, std::greater<>> events;
  for (uint32_t event = 0; event < weights.size(); ++event)
    events.emplace(weights[event] / (bounds[event + 1] - bounds[event]), event);
  std::set<uint32_t> positions;
  for (const auto& [weight, event] : events)
    if (positions.size() + bounds[event + 1] - bounds[event] <= room)
      for (uint32_t at = bounds[event]; at < bounds[event + 1]; ++at) positions.insert(at);
  return {positions.begin(), positions.end()};
}

TEST(Events, OfMostWeightAreAttendedWithinTheBudget) {
  const auto trace = long_trace(7);
  const TraceCase on(trace, kJudged);
  EventRival exact(on, 320, true), few(on, 320, false);
  const auto bounds = event_bounds(on, 0);
  const size_t n_events = bounds.size() - 1;
  const std::vector<double> shares = pooled_shares(on, 0, 3);
  const std::vector<float> scores = local_scores(on, 0, 4096), q = on.query(0, 3);
  std::vector<double> weights(n_events), estimates(n_events);
  double all[2] = {};
  std::vector<double> products[2];  // times the event's positions
  for (uint32_t event = 0; event < n_events; ++event) {
    const uint32_t first = bounds[event], end = bounds[event + 1];
    for (uint32_t at = first; at < end; ++at) weights[event] += shares[at - 32];
    const auto key = representative(on, 0, first, end, scores, 4);
    for (uint32_t head = 0; head < 2; ++head) {
      double product = 0;
      for (uint32_t d = 0; d < 16; ++d) product += double{q[head * 16 + d]} * double{key[d]};
      products[head].push_back((end - first) * std::exp(product));
      all[head] += products[head].back();
    }
  }
  for (uint32_t event = 0; event < n_events; ++event)
    estimates[event] = products[0][event] / all[0] + products[1][event] / all[1];
  const size_t room = on.room(320, 3);
  EXPECT_EQ(exact.attend(0, 3)[1].positions, fill(bounds, weights, room));
  EXPECT_EQ(few.attend(0, 3)[1].positions, fill(bounds, estimates, room));
  EXPECT_NE(fill(bounds, weights, room), fill(bounds, estimates, room));
  EXPECT_EQ(exact.bytes().read, 0);
  EXPECT_DOUBLE_EQ(few.bytes().kept, static_cast<double>(n_events) * 34 / on.n_candidates());
  EXPECT_EQ(few.bytes().read, few.bytes().kept);
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
    // Both heads visit all keys, which counts once.
    EXPECT_NEAR(search.bytes().read, 2 * 16, 0.01 * 2 * 16);
    EXPECT_TRUE(search.bytes().reads_keys);
    EXPECT_EQ(search.visits(false).recall, 1);
    EXPECT_EQ(search.visits(true).recall, 1);
    search.search_by(1, 192);
    EXPECT_LT(search.visits(false).visited, 0.5);
  }
}

TEST(KeySearch, CountsAKeyThatSeveralHeadsVisitOnce) {
  if (!KeySearch::is_there()) GTEST_SKIP() << "FAISS is not installed";
  for (const bool is_same : {false, true})
    for (const char* factory : {"HNSW4,Flat", "IVF8,Flat"}) {
      SCOPED_TRACE(factory);
      auto trace = long_trace(15);
      for (uint32_t at = 0; is_same && at < trace.queries[0].size(); ++at)
        trace.queries[0][at] = trace.queries[0][at / 32 * 32 + at % 16];
      const TraceCase on(trace, kJudged);
      KeySearch search(on, factory);
      search.search_by(factory[0] == 'H' ? 100 : 2, 256);  // more than the room there is
      for (uint32_t step = 0; step < kJudged; ++step) search.attend(0, step);
      const double of_one = search.visits(false).visited, of_both = search.bytes().read / (2 * 16);
      EXPECT_LT(of_one, 0.9);
      if (is_same)
        EXPECT_DOUBLE_EQ(of_both, of_one);
      else
        EXPECT_GT(of_both, 1.05 * of_one);
      EXPECT_LT(of_both, 1.95 * of_one);
      // Links of 4 bytes, 2 x 4 of a key on the lowest level and 4 of a quarter, a sixteenth ... of
      // the keys above, 12 bytes besides; numbers of keys, and centroids of one dimension more.
      const double kept = search.bytes().kept;
      if (factory[0] == 'H')
        EXPECT_NEAR(kept, 4 * (2 * 4 + 4 / 3.0) + 12, 3);
      else
        EXPECT_EQ(kept, 8 + 8 * 17 * 4.0 / on.n_candidates());
    }
}

TEST(KeySearch, RefusesWhatFaissRefuses) {
  const auto trace = long_trace(16);
  const TraceCase on(trace, kJudged);
  for (const char* factory : {"IVF321,Flat", "no index"}) {
    SCOPED_TRACE(factory);
    try {
      KeySearch search(on, factory);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    }
  }
}

}  // namespace
}  // namespace strata::rivals
