// How approximate attention is measured on texts: sums by hand, a budget of everything, a probe
// that changes nothing.
#include "tools/eval/text_eval.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "index/pq_selector.h"
#include "tests/tools/eval_fixture.h"
#include "tools/cli/eval_inputs.h"
#include "tools/eval/eval_row.h"

namespace strata::eval {
namespace {

using engine::testing::LoadedMember;
using engine::testing::random_tokens;
using index::Budget;
using testing::contender;
using testing::TestRunner;

constexpr uint32_t kLast = 40;
constexpr double kNear = 1e-6;  // a sum of two exponentials in double of logits in float

/// A member whose every layer is full, and whose logits depend on what is attended.
constexpr const char* kMember = "llama3";

TextSample sample_of(const LoadedMember& member, uint32_t n) {
  return {"text", member.text(n, 11)};
}

std::vector<TextRun> run_texts(const LoadedMember& member, uint32_t n,
                               const std::vector<Contender>& contenders, bool probes) {
  TestRunner runner(member.model, n - kLast - 1, kLast);
  return evaluate_text(*runner, sample_of(member, n), kLast, contenders, probes);
}

TEST(Summaries, RanksAndStandardErrorOfKnownValues) {
  std::vector<double> values;
  for (int i = 100; i > 0; --i) values.push_back(i);
  const Summary of = summarise(values);
  EXPECT_EQ(of.n, 100u);
  EXPECT_NEAR(of.mean, 50.5, kNear);
  EXPECT_NEAR(of.error, std::sqrt(100 * 101 / 12.0 / 100), kNear);  // variance n (n + 1) / 12
  EXPECT_EQ(of.least, 1);
  EXPECT_EQ(of.p10, 10);
  EXPECT_EQ(of.median, 50);
  EXPECT_EQ(of.p99, 99);
  EXPECT_EQ(summarise({}).n, 0u);
  EXPECT_EQ(summarise({3}).error, 0);
}

TEST(SplitRunner, StatesTheMemoryOfTheLargerIndexAndOfAProbe) {
  const LoadedMember member(kMember);
  const ModelShape& shape = member.model.shape();
  const SplitRunner::Options options{.chunk_rows = 128, .n_context = 2000, .n_rest = 48};
  const auto bytes = [&](const std::vector<Contender>& contenders, bool probes) {
    return SplitRunner::memory_bytes(shape, options, contenders, probes, 2);
  };
  const auto index_bytes = [&](index::Method method) {
    return index::index_bytes(method,
                              engine::index_shape(shape, KvCodec::kF16, KvCodec::kF16, 2048));
  };
  const Contender recent = contender("recent", {}), quest = contender("quest", {}),
                  oracle = contender("oracle", {});
  const uint64_t least = bytes({recent}, false);
  EXPECT_GT(least, engine::kv_bytes_for_context(shape, KvCodec::kF16, KvCodec::kF16, 2048, 128));
  EXPECT_EQ(bytes({quest, oracle}, false) - least, index_bytes(index::Method::kOracle));
  EXPECT_EQ(bytes({quest, recent}, false) - least, index_bytes(index::Method::kQuest));
  EXPECT_EQ(bytes({recent}, true) - least, index_bytes(index::Method::kOracle));
  cli::check_eval_memory(least, least);
  try {
    cli::check_eval_memory(3 << 20, 2 << 20);
    ADD_FAILURE() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
    EXPECT_STREQ(error.what(), "judging needs 3.0 MiB of memory, 2.0 MiB are free");
  }
}

TEST(SplitRunner, AnIndexIsSaidToHoldItsCodebooksToo) {
  const LoadedMember member(kMember);
  constexpr uint32_t kRead = 1088;  // a codebook's keys, and two blocks that wait for the next
  TestRunner runner(member.model, kRead, 32);
  runner->read(member.text(kRead, 5));
  const Contender pq = contender("pq", {});
  runner->use(&pq);
  const KvLayout& layout = runner->cache().layout();
  const uint64_t of_stream = 4 * index::PqSelector::tile_bytes() +
                             uint64_t{kPqCentroids} * layout.head_dim * sizeof(float) +
                             2 * uint64_t{layout.v_offset};
  EXPECT_EQ(runner->index_bytes_per_position(),
            static_cast<double>(of_stream * runner->cache().n_index_streams()) / kRead);
}

TEST(Predictions, DivergenceOfTwoTokensIsTheFormula) {
  const std::vector<float> exact = {0, std::log(3.0f)}, other = {std::log(4.0f), 0};
  // p = 1/4, 3/4; q = 4/5, 1/5.
  const Prediction of = compare_logits(exact, other, 0);
  EXPECT_NEAR(of.kl, 0.25 * std::log(0.25 / 0.8) + 0.75 * std::log(0.75 / 0.2), kNear);
  EXPECT_NEAR(of.exact_nll, -std::log(0.25), kNear);
  EXPECT_NEAR(of.nll, -std::log(0.8), kNear);
  EXPECT_FALSE(of.same_top);
  EXPECT_EQ(compare_logits(exact, exact, 1).kl, 0);
  const Agreement both = agreement_of(std::vector{of, compare_logits(exact, exact, 1)});
  EXPECT_NEAR(both.top1, 0.5, kNear);
  EXPECT_NEAR(both.kl.mean, of.kl / 2, kNear);
  EXPECT_NEAR(both.exact_perplexity, std::exp((std::log(4) + std::log(4 / 3.0)) / 2), kNear);
}

TEST(Predictions, LogitsThatAreNotFiniteAreRefused) {
  const std::vector<float> good = {0, 1};
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const std::vector<float> logits = {0, bad};
    EXPECT_THROW(compare_logits(good, logits, 0), Error);
    EXPECT_THROW(compare_logits(logits, good, 0), Error);
  }
}

TEST(EvalText, ABudgetOfEverythingDiffersInNothing) {
  const LoadedMember member(kMember);
  std::vector<Contender> contenders;
  for (const auto& method : index::method_names())
    contenders.push_back(contender(method.name, {Budget::Kind::kShare, 1.0}));
  for (const TextRun& run : run_texts(member, 500, contenders, true)) {
    const Agreement agreement = agreement_of(run.predictions);
    EXPECT_EQ(agreement.kl.n, kLast);
    EXPECT_EQ(agreement.kl.mean, 0);
    EXPECT_EQ(agreement.top1, 1);
    EXPECT_EQ(agreement.perplexity, agreement.exact_perplexity);
    EXPECT_EQ(run.read.share(), 1);
    ASSERT_TRUE(run.attention.has_value());
    const AttentionSummary attention = run.attention->summary();
    EXPECT_EQ(attention.error_p99, 0);
    EXPECT_NEAR(attention.mass_least, 1, kNear);
    EXPECT_EQ(attention.set_recall, 1);
    EXPECT_GE(attention.fetched_over_useful, 1);
    EXPECT_NEAR(attention.weight_bias, 0, kNear);
  }
}

TEST(EvalText, WhatWasReadIsWhatTheBudgetAllows) {
  const LoadedMember member(kMember);
  const uint32_t n_tokens = 1000, n_budget = 320;
  const auto runs = run_texts(member, n_tokens,
                              {contender("oracle", {Budget::Kind::kTokens, n_budget}),
                               contender("recent", {Budget::Kind::kTokens, n_budget})},
                              true);
  for (const TextRun& run : runs) {
    EXPECT_EQ(run.read.steps, kLast);
    // Of whole blocks a budget holds at least all but one.
    const ModelShape& shape = member.model.shape();
    uint64_t n_choices = 0;
    for (const LayerShape& layer : shape.layers)
      n_choices += layer.window == 0 ? uint64_t{layer.n_kv_heads} * kLast : 0;
    EXPECT_LE(run.read.positions, n_choices * n_budget);
    EXPECT_GT(run.read.positions, n_choices * (n_budget - kBlockPositions));
    uint64_t n_context = 0;  // the step of token i attends i + 1 positions
    for (uint32_t pos = n_tokens - kLast - 1; pos + 1 < n_tokens; ++pos) n_context += pos + 1;
    EXPECT_EQ(run.read.context_positions, n_context * n_choices / kLast);
  }
  const AttentionSummary oracle = runs[0].attention->summary();
  const AttentionSummary recent = runs[1].attention->summary();
  EXPECT_GT(oracle.set_recall, 0.999);  // the walk pools in float, the metrics in double
  EXPECT_LT(recent.set_recall, 0.9);
  EXPECT_GT(oracle.mass_mean, recent.mass_mean);
  EXPECT_LT(oracle.error_median, recent.error_median);
  // By layer it is the same mass: every layer has as many query heads.
  ASSERT_EQ(oracle.layers.size(), member.model.shape().layers.size());
  double mass = 0;
  for (const LayerFigures& of : oracle.layers) {
    EXPECT_GT(of.error, 0);
    mass += of.mass / static_cast<double>(oracle.layers.size());
  }
  EXPECT_NEAR(mass, oracle.mass_mean, kNear);
}

/// What is dropped is missing from the sum of all weights, unless it is estimated.
TEST(EvalText, AWeightBiasIsThatOfWhatIsDropped) {
  const LoadedMember member(kMember);
  const Budget budget{Budget::Kind::kTokens, 320};
  const auto runs = run_texts(member, 1000,
                              {contender("oracle", budget), contender("recent", budget),
                               contender("rabitq", budget), contender("rabitq+tail", budget)},
                              true);
  const auto bias = [&](size_t idx) { return runs[idx].attention->summary().weight_bias; };
  EXPECT_LT(bias(1), bias(0));
  EXPECT_LT(bias(0), -0.1);
  EXPECT_LT(bias(2), -0.1);
  EXPECT_LT(std::abs(bias(3)), 0.06);  // what logarithms by the bits of floats err by, at most
}

TEST(EvalText, AProbeChangesNoBit) {
  const LoadedMember member(kMember);
  const std::vector<Contender> contenders = {contender("quest", {Budget::Kind::kTokens, 256})};
  const auto bits = [&](bool probes) {
    std::vector<uint64_t> all;
    const auto runs = run_texts(member, 700, contenders, probes);
    for (const Prediction& of : runs[0].predictions) {
      all.push_back(std::bit_cast<uint64_t>(of.kl));
      all.push_back(std::bit_cast<uint64_t>(of.nll));
    }
    return all;
  };
  const auto without = bits(false);
  EXPECT_EQ(bits(true), without);
  EXPECT_NE(without, std::vector<uint64_t>(without.size()));
}

TEST(HeldBlocks, WhatWasNotUsedForLongestLeaves) {
  HeldBlocks held(2, 4);
  const auto use = [&](uint32_t stream, const std::vector<uint32_t>& blocks) {
    const auto missing = held.use(stream, blocks);
    return std::vector<uint32_t>(missing.begin(), missing.end());
  };
  EXPECT_EQ(use(0, {3, 5}), (std::vector<uint32_t>{3, 5}));
  EXPECT_EQ(use(1, {3, 5}), (std::vector<uint32_t>{3, 5}));
  EXPECT_EQ(use(0, {3, 5}), std::vector<uint32_t>());
  EXPECT_EQ(use(1, {7}), std::vector<uint32_t>{7});  // the hand stands at the first slot again
  EXPECT_FALSE(held.holds(0, 3));
  EXPECT_EQ(use(0, {5}), std::vector<uint32_t>());
  EXPECT_EQ(use(1, {9}), std::vector<uint32_t>{9});  // past 5, which was used since
  EXPECT_TRUE(held.holds(0, 5));
  EXPECT_FALSE(held.holds(1, 3));
  EXPECT_TRUE(held.holds(1, 5));
}

TEST(WeighedBlocks, WhatWeighsLeastLeaves) {
  WeighedBlocks held(2, 3);
  const std::vector<double> weights = {0.5, 0.1, 0.2, 0.4};
  const auto use = [&](uint32_t stream, const std::vector<uint32_t>& blocks,
                       const std::vector<double>& now) { return held.use(stream, blocks, now); };
  EXPECT_EQ(use(0, {0, 1, 2}, weights), 3u);
  EXPECT_EQ(use(1, {3}, weights), 1u);  // instead of 1 of the first
  EXPECT_EQ(use(0, {0, 2}, weights), 0u);
  EXPECT_EQ(use(1, {3}, {0, 0, 0, 0.05}), 0u);
  EXPECT_EQ(use(0, {1}, {0.01, 0.1, 0.2, 0}), 1u);  // instead of 0, which weighs less than 3 now
  EXPECT_EQ(use(1, {3}, weights), 0u);
  EXPECT_EQ(use(0, {0}, weights), 1u);
  EXPECT_EQ(use(1, {0, 1, 2, 3}, weights), 3u);  // one finds no room, and no one leaves for it
  EXPECT_EQ(use(1, {0, 1, 3}, weights), 0u);
}

/// What memory holds changes no bit unless it has a say; then less of it is missed, and the weight
/// that is found falls by little.
TEST(EvalText, ASmallMemoryMissesBlocksAndFewerWhereNearOnesArePreferred) {
  const LoadedMember member(kMember);
  const uint32_t n_tokens = 1200;
  const auto run = [&](const std::vector<double>& held_shares, double tolerance) {
    TestRunner runner(member.model, n_tokens - kLast - 1, kLast, held_shares);
    Contender of = contender("oracle", {Budget::Kind::kTokens, 480});
    of.rule.residency_tolerance = tolerance;
    return evaluate_text(*runner, sample_of(member, n_tokens), kLast, {&of, 1}, true).front();
  };
  const auto kl_of = [](const TextRun& of) { return agreement_of(of.predictions).kl.mean; };
  const TextRun all = run({}, 0.05), far = run({0.5}, 0), near = run({0.5}, 0.05);
  EXPECT_FALSE(all.missing.has_value());
  EXPECT_EQ(kl_of(far), kl_of(all));
  EXPECT_NE(kl_of(near), kl_of(all));
  ASSERT_TRUE(far.missing && near.missing);
  EXPECT_EQ(far.missing->steps, kLast - 1);
  EXPECT_EQ(near.missing->chosen, far.missing->chosen);
  EXPECT_GT(far.missing->missing, 0u);
  EXPECT_LT(far.missing->missing, far.missing->chosen / 2);
  EXPECT_LT(near.missing->missing, far.missing->missing);
  EXPECT_LE(near.missing->waits, far.missing->waits);
  EXPECT_LE(far.missing->waits, far.missing->missing);
  EXPECT_LE(far.missing->in_last + far.missing->runners_up, far.missing->missing);
  // Others beside it change nothing of it; a larger one lacks less, and where there is room for all
  // of K and V, what is to come included, nobody leaves: what is lacking then was never asked for.
  const TextRun several = run({0.5, 0.3, 1.1}, 0);
  const auto& points = several.missing->points;
  ASSERT_EQ(points.size(), 3u);
  EXPECT_EQ(kl_of(several), kl_of(far));
  EXPECT_EQ(several.missing->missing, far.missing->missing);
  EXPECT_EQ(points[0].missing, far.missing->missing);
  EXPECT_GT(points[1].missing, points[0].missing);
  EXPECT_GT(points[1].missing_weighed, points[0].missing_weighed);
  EXPECT_EQ(points[2].missing, points[2].missing_weighed);
  EXPECT_LT(points[2].missing, points[0].missing);
  EXPECT_DOUBLE_EQ(
      several.missing->hit_rate(points[0].missing),
      1 - static_cast<double>(points[0].missing) / static_cast<double>(several.missing->chosen));
  const double mass = far.attention->summary().mass_mean;
  EXPECT_LT(near.attention->summary().mass_mean, mass);
  EXPECT_GT(near.attention->summary().mass_mean, 0.9 * mass);
}

TEST(EvalRows, OracleAtTheSameBudgetAndTextIsTheMeasure) {
  const auto row = [](const std::string& method, const std::string& budget, double kl) {
    EvalRow of;
    of.text = "a";
    of.method = method;
    of.budget = budget;
    of.agreement.emplace();
    of.agreement->kl.mean = kl;
    return of;
  };
  std::vector<EvalRow> rows = {row("oracle", "1024", 0.01), row("quest", "1024", 0.03),
                               row("quest", "512", 0.03)};
  compare_with_oracle(rows);
  EXPECT_NEAR(*rows[1].kl_of_oracle, 3, kNear);
  EXPECT_NEAR(*rows[0].kl_of_oracle, 1, kNear);
  EXPECT_FALSE(rows[2].kl_of_oracle.has_value());
  EXPECT_NEAR(*budget_share({Budget::Kind::kTokens, 256}, 1024), 0.25, kNear);
  EXPECT_EQ(*budget_share({Budget::Kind::kTokens, 4096}, 1024), 1);
  EXPECT_FALSE(budget_share({Budget::Kind::kMass, 0.9}, 1024).has_value());
}

}  // namespace
}  // namespace strata::eval
