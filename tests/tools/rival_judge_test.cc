// The judge of methods outside index/, by sums of its own; the methods of index/ under it; and
// sampling, which is right on average.
#include "tools/rivals/judge.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "cpu_attn/kernels.h"
#include "tests/tools/drawn_trace.h"
#include "tests/tree_paths.h"
#include "tools/rivals/block_rivals.h"
#include "tools/rivals/sampled_keys.h"

namespace strata::rivals {
namespace {

using index::Budget;
using index::Method;
using testing::drawn_trace;
using testing::DrawnShape;

/// Attends every n-th candidate, each n_counted times.
class EveryNth : public Rival {
 public:
  EveryNth(const TraceCase& on, uint32_t n, double n_counted, bool reads_keys = false)
      : on_(on), n_(n), n_counted_(n_counted), reads_keys_(reads_keys) {}
  std::vector<Attended> attend(uint32_t, uint32_t) override {
    Attended head;
    for (uint32_t at = on_.first(); at < on_.end(); at += n_) {
      head.positions.push_back(at);
      head.log_counts.push_back(static_cast<float>(std::log(n_counted_)));
    }
    return std::vector<Attended>(on_.group(), head);
  }
  IndexBytes bytes() const override { return {.kept = 1, .read = 2, .reads_keys = reads_keys_}; }

 private:
  const TraceCase& on_;
  uint32_t n_;
  double n_counted_;
  bool reads_keys_;
};

std::vector<double> attention(const TraceCase& on, uint32_t step, uint32_t head, bool half) {
  const std::vector<float> q = on.query(0, step);
  std::vector<double> sum(on.head_dim());
  double all = 0;
  for (uint32_t at = 0; at <= on.pos(step); ++at) {
    if (half && at >= on.first() && at < on.end() && (at - on.first()) % 2 == 1) continue;
    double score = 0;
    for (uint32_t d = 0; d < on.head_dim(); ++d)
      score += double{q[head * on.head_dim() + d]} * double{on.key(0, at)[d]};
    all += std::exp(score);
    for (uint32_t d = 0; d < on.head_dim(); ++d)
      sum[d] += std::exp(score) * double{on.value(0, at)[d]};
  }
  for (double& x : sum) x /= all;
  return sum;
}

TEST(RivalJudge, FiguresAreThoseOfSumsByHand) {
  const auto trace = drawn_trace({}, 1);
  const TraceCase on(trace, 8);
  ASSERT_EQ(on.first(), 32u);
  ASSERT_EQ(on.end(), (504u / 32 - 4) * 32);
  EveryNth half(on, 2, 1);
  const Verdict verdict = judge(on, half);
  double error = 0, found = 0;
  for (uint32_t step = 0; step < 8; ++step)
    for (uint32_t head = 0; head < 2; ++head) {
      const auto exact = attention(on, step, head, false), part = attention(on, step, head, true);
      double difference = 0, norm = 0, chosen = 0, all = 0;
      for (uint32_t d = 0; d < on.head_dim(); ++d) {
        difference += (part[d] - exact[d]) * (part[d] - exact[d]);
        norm += exact[d] * exact[d];
      }
      error += std::sqrt(difference / norm) / 16;
      for (uint32_t at = on.first(); at < on.end(); ++at) {
        const double weight = std::exp(double{on.scores(0, step, head)[at]});
        all += weight;
        chosen += (at - on.first()) % 2 == 0 ? weight : 0;
      }
      found += chosen / all / 16;
    }
  EXPECT_NEAR(verdict.error_mean, error, 1e-5 * error);  // scores are sums in f32
  EXPECT_NEAR(verdict.found_mean, found, 1e-5);
  EXPECT_EQ(verdict.positions, 504 + 4.5 - on.n_candidates() / 2);
  EXPECT_EQ(verdict.read, verdict.positions);  // both heads attend the same
  EXPECT_EQ(verdict.blocks_share, 1);          // every block has a position that is attended
  EXPECT_EQ(verdict.bytes.read, 2);
  // K and V, 16 dimensions of 2 bytes, and what the index reads; K of every second candidate once.
  EXPECT_EQ(verdict.step_bytes, verdict.read * 2 * 32 + 2 * on.n_candidates());
  EveryNth reads_keys(on, 2, 1, true);
  EXPECT_EQ(judge(on, reads_keys).step_bytes, verdict.step_bytes - on.n_candidates() / 2 * 32);
  EXPECT_GT(verdict.error_mean, 0.01);
}

TEST(RivalJudge, OneKeyThatCountsTwiceStandsForTwoEqualOnes) {
  auto trace = drawn_trace({}, 2);
  std::mt19937_64 random(3);
  for (uint32_t pos = 32; pos < 512; pos += 2) {
    const auto key = testing::drawn(random, 16, 1), value = testing::drawn(random, 16, 1);
    testing::put_position(trace, 0, pos, key, value);
    testing::put_position(trace, 0, pos + 1, key, value);
  }
  const TraceCase on(trace, 8);
  EveryNth twice(on, 2, 2), once(on, 2, 1);
  EXPECT_LT(judge(on, twice).error_p99, 1e-6);
  EXPECT_GT(judge(on, once).error_mean, 0.01);
  EXPECT_NEAR(judge(on, twice).found_mean, 0.5, 1e-9);
}

TEST(RivalJudge, ABudgetOfEverythingHasNoError) {
  const auto trace = drawn_trace({.head_dim = 64}, 4);
  const TraceCase on(trace, 8);
  for (const auto& method : index::method_names()) {
    MethodRival all(on, *cpu_attn::available_kernels().back(), method.method,
                    {Budget::Kind::kShare, 1});
    const Verdict verdict = judge(on, all);
    EXPECT_EQ(verdict.found_mean, 1) << method.name;
    EXPECT_LT(verdict.error_p99, 1e-9) << method.name;
    EXPECT_EQ(verdict.blocks_share, 1) << method.name;
  }
}

/// As SmolLm2Trace finds it, and the errors of docs/adr/0014-tail.md ("log, 1,024").
TEST(RivalJudge, MethodsOfIndexHaveTheFiguresThatOthersMeasured) {
  const auto trace = eval::read_trace(tree_path("tests/data/smollm2_trace.bin"));
  const TraceCase on(trace, 64);
  const auto verdict = [&](Method method) {
    MethodRival of(on, *cpu_attn::available_kernels().back(), method,
                   {Budget::Kind::kTokens, 1024});
    return judge(on, of);
  };
  EXPECT_NEAR(verdict(Method::kOracle).found_mean, 0.747, 0.01);
  EXPECT_NEAR(verdict(Method::kQuest).found_mean, 0.635, 0.01);
  const Verdict rabitq = verdict(Method::kRabitq), tail = verdict(Method::kRabitqTail);
  EXPECT_NEAR(rabitq.found_mean, 0.744, 0.01);
  EXPECT_EQ(tail.found_mean, rabitq.found_mean);
  EXPECT_NEAR(rabitq.error_mean, 0.070, 0.007);
  EXPECT_NEAR(tail.error_mean, 0.025, 0.0025);
  // For each position that it holds, sinks and window among them, and to whole extents.
  const double n_held = 1.0 * on.n_blocks() * kBlockPositions / on.n_candidates();
  EXPECT_NEAR(rabitq.bytes.read, 27.25 * n_held, 0.5);
  EXPECT_NEAR(rabitq.bytes.kept, 27.25 * n_held, 0.5);
}

TEST(RivalCase, WhatLeavesNothingToJudgeIsRefused) {
  const auto trace = drawn_trace({.n_positions = 192}, 5);
  EXPECT_THROW(TraceCase(trace, 0), Error);
  EXPECT_THROW(TraceCase(trace, 9), Error);
  EXPECT_THROW(TraceCase(trace, 8), Error);  // five blocks: sinks and window
  EXPECT_EQ(TraceCase(drawn_trace({.n_positions = 224}, 5), 8).n_candidates(), 32u);
}

/// The mean of many draws' weight against the exact one. Of one draw a key's part e^s 1{drawn} / c,
/// c = w + 1e-4, has the mean e^s w / c and a variance of e^2s w (1 - w) / c^2; draws of several
/// keys share planes, so that the deviation of their sum is at most the sum of theirs. The mean of
/// n independent ones has 1 / sqrt(n) of it: five of these deviations are allowed, and what 1e-4
/// takes away.
TEST(SampledKeys, CountRightlyOnAverage) {
  auto trace = drawn_trace({.group = 1, .n_positions = 512, .n_steps = 1}, 6);
  std::mt19937_64 random(7);
  const std::vector<float> along = trace.query(0, 0);
  for (uint32_t pos = 0; pos < 512; ++pos) {
    // What all keys share is taken off: with it all of these would be drawn.
    std::vector<float> key = testing::drawn(random, 16, 1);
    for (uint32_t d = 0; d < 16; ++d) key[d] += 8 * along[d];
    testing::put_position(trace, 0, pos, key, key);
  }
  const TraceCase on(trace, 1);
  constexpr HashShape kShape{.n_planes = 4, .n_tables = 12};
  constexpr uint32_t kSeeds = 400;
  std::vector<float> centre(on.head_dim());
  for (uint32_t at = on.first(); at < on.end(); ++at)
    for (uint32_t d = 0; d < on.head_dim(); ++d)
      centre[d] += on.key(0, at)[d] / static_cast<float>(on.n_candidates());
  const std::vector<float> q = on.query(0, 0);
  double exact = 0, deviation = 0, lost = 0, n_expected = 0;
  for (uint32_t at = on.first(); at < on.end(); ++at) {
    double product = 0, key = 0, query = 0;
    for (uint32_t d = 0; d < on.head_dim(); ++d) {
      const double k = double{on.key(0, at)[d]} - double{centre[d]};
      product += k * double{q[d]};
      key += k * k;
      query += double{q[d]} * double{q[d]};
    }
    const double w = draw_chance(product / std::sqrt(key * query), kShape);
    const double weight = std::exp(double{on.scores(0, 0, 0)[at]});
    const double counted = w + SampledKeys::kLeastChance;
    exact += weight;
    deviation += weight * std::sqrt(w * (1 - w)) / counted;
    lost += weight * SampledKeys::kLeastChance / counted;
    n_expected += w;
  }
  double sum = 0, n_drawn = 0;
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    SampledKeys sampled(on, kShape, seed);
    const Attended head = sampled.attend(0, 0)[0];
    const Partial partial = on.attend(0, 0, 0, head.positions, head.log_counts);
    sum += partial.l * std::exp(partial.m) / kSeeds;
    n_drawn += static_cast<double>(head.positions.size()) / kSeeds;
  }
  const double bound = 5 * deviation / std::sqrt(double{kSeeds}) + lost;
  EXPECT_NEAR(sum, exact, bound);
  EXPECT_LT(bound, 0.5 * exact);  // else the comparison would say nothing
  // The number that is drawn: at most as far from its mean as if all keys went together.
  EXPECT_NEAR(n_drawn, n_expected, 5 * 0.5 * on.n_candidates() / std::sqrt(double{kSeeds}));
  EXPECT_LT(n_drawn, 0.9 * on.n_candidates());
}

/// A quarter of the keys along u, the others against it: less their mean they still are, so that a
/// query along u meets a quarter in every table, and one against it the others.
TEST(SampledKeys, BytesAreTheNumbersThatAnyHeadMeets) {
  for (const bool is_opposed : {false, true}) {
    auto trace = drawn_trace({.n_steps = 1}, 8);
    for (uint32_t d = 0; d < 16; ++d)
      trace.queries[0][16 + d] =
          static_cast<uint16_t>(trace.queries[0][d] ^ (is_opposed ? 0x8000 : 0));
    const std::vector<float> q = trace.query(0, 0), along(q.begin(), q.begin() + 16);
    std::vector<float> against;
    for (const float x : along) against.push_back(-x);
    for (uint32_t pos = 0; pos < 512; ++pos)
      testing::put_position(trace, 0, pos, pos % 4 == 0 ? along : against, along);
    const TraceCase on(trace, 1);
    SampledKeys sampled(on, {.n_planes = 3, .n_tables = 12}, 9);
    EXPECT_EQ(sampled.attend(0, 0)[0].positions.size(), on.n_candidates() / 4);
    EXPECT_EQ(sampled.bytes().kept, 4 * 12);
    EXPECT_EQ(sampled.bytes().read, is_opposed ? 4 * 12 : 12);
  }
}

TEST(SampledKeys, ChancesAreThoseOfTwoTablesThatMeet) {
  EXPECT_NEAR(draw_chance(1, {10, 150}), 1, 1e-12);
  EXPECT_NEAR(draw_chance(-1, {10, 150}), 0, 1e-12);
  // One plane, two tables: both have to put the key on the query's side, (1 / 2)^2.
  EXPECT_NEAR(draw_chance(0, {1, 2}), 0.25, 1e-12);
  // cos 60 degrees: a plane keeps them together in two of three cases.
  EXPECT_NEAR(draw_chance(0.5, {2, 3}), 3 * std::pow(4.0 / 9, 2) * (5.0 / 9) + std::pow(4.0 / 9, 3),
              1e-12);
}

}  // namespace
}  // namespace strata::rivals
