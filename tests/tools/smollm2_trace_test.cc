// Methods of retrieval on keys and queries of a real model (tests/data/README.md): how much of the
// exact weight their choices hold.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "cpu_attn/kernels.h"
#include "index/method.h"
#include "tests/tree_paths.h"
#include "tools/eval/trace_methods.h"

namespace strata::eval {
namespace {

constexpr uint32_t kBudget = 1024;

class SmolLm2Trace : public ::testing::Test {
 protected:
  std::unique_ptr<index::Selector> observed(const index::SelectorSource& source) const {
    auto selector = source.make();
    selector->open_blocks(trace_.n_blocks());
    for (uint32_t stream = 0; stream < trace_.n_streams(); ++stream)
      for (uint32_t block = 0; block < trace_.n_blocks(); ++block)
        selector->observe(stream, block, trace_.block(stream, block));
    return selector;
  }
  index::SelectorSource source(index::Method method) const {
    return {
        method,
        {.layout = trace_.layout(), .n_streams = trace_.n_streams(), .n_blocks = trace_.n_blocks()},
        kernels_};
  }
  /// Logarithms of the weights [group, n_blocks] of a step.
  std::vector<float> weights(const index::Selector& selector, uint32_t stream, uint32_t step) {
    const std::vector<float> q = trace_.query(stream, step);
    scratch_.resize(selector.scratch_floats(trace_.group) + kAlignFloats);
    auto* at = scratch_.data();
    while (reinterpret_cast<uintptr_t>(at) % 64 != 0) ++at;
    std::vector<float> out(uint64_t{trace_.group} * trace_.n_blocks());
    selector.estimate({.stream = stream,
                       .q = q.data(),
                       .n_queries = trace_.group,
                       .end_block = trace_.n_blocks(),
                       .scratch = at,
                       .log_weights = out.data(),
                       .weight_stride = trace_.n_blocks()});
    return out;
  }
  /// What a method chooses of a step's full blocks; weights are logarithms, [group, n_blocks].
  struct Step {
    std::span<const uint32_t> blocks;
    const std::vector<float>& estimates;
    const std::vector<float>& truth;
    uint32_t n_blocks;
  };
  template <class Visit>
  void each_choice(index::Method method, const Visit& visit) {
    const auto exact_source = source(index::Method::kOracle), method_source = source(method);
    const auto exact = observed(exact_source), selector = observed(method_source);
    index::Chooser chooser(kernels_, rule_);
    chooser.reserve(trace_.n_blocks(), trace_.group);
    for (uint32_t stream = 0; stream < trace_.n_streams(); ++stream)
      for (uint32_t step = 0; step < trace_.n_steps; ++step) {
        const auto estimates = weights(*selector, stream, step);
        const auto truth = weights(*exact, stream, step);
        const uint32_t pos = trace_.n_positions - trace_.n_steps + step;
        const uint32_t n_blocks = pos / kBlockPositions;
        const auto& choice = chooser.choose({.log_weights = estimates,
                                             .weight_stride = trace_.n_blocks(),
                                             .n_queries = trace_.group,
                                             .n_blocks = n_blocks,
                                             .n_positions = pos + 1});
        visit(Step{choice.blocks, estimates, truth, n_blocks});
      }
  }
  /// Mean share of the exact weight that lies on chosen blocks, sinks and window left out.
  double mass(index::Method method) {
    double sum = 0;
    uint64_t n = 0;
    each_choice(method, [&](const Step& of) {
      for (uint32_t query = 0; query < trace_.group; ++query, ++n)
        sum += share_on(of.blocks, of.truth.data() + query * trace_.n_blocks(), of.n_blocks, rule_);
    });
    return sum / static_cast<double>(n);
  }
  static double share_on(std::span<const uint32_t> blocks, const float* log_weights,
                         uint32_t n_blocks, const index::Rule& rule) {
    const uint32_t end = n_blocks - rule.n_window_blocks;
    double all = 0, chosen = 0;
    for (uint32_t block = rule.n_sink_blocks; block < end; ++block)
      all += std::exp(double{log_weights[block]});
    for (const uint32_t block : blocks)
      if (block >= rule.n_sink_blocks && block < end)
        chosen += std::exp(double{log_weights[block]});
    return chosen / all;
  }

  static constexpr uint32_t kAlignFloats = 16;
  const AttentionTrace trace_ = read_trace(tree_path("tests/data/smollm2_trace.bin"));
  const KernelTable& kernels_ = *cpu_attn::available_kernels().back();
  const index::Rule rule_ = {.budget = {index::Budget::Kind::kTokens, kBudget}};
  std::vector<float> scratch_;
};

TEST_F(SmolLm2Trace, MethodsHoldTheWeightOfAQuarterOfTheText) {
  std::map<index::Method, double> masses;
  for (const auto& method : index::method_names()) {
    masses[method.method] = mass(method.method);
    std::printf("%-8s %.4f of the weight\n", method.name, masses[method.method]);
  }
  const double oracle = masses[index::Method::kOracle];
  // A choice pools the queries of a group, so that no method is bound to the oracle's mean.
  for (const auto& [method, held] : masses) EXPECT_LE(held, oracle + 0.01);
  // An independent computation (numpy) from the same file gave the oracle 0.747.
  EXPECT_NEAR(oracle, 0.747, 0.001);
  EXPECT_LT(masses[index::Method::kRecent], 0.85 * oracle);
  EXPECT_GT(masses[index::Method::kMean], 0.95 * oracle);
  EXPECT_GT(masses[index::Method::kCuboid], 0.90 * oracle);
  EXPECT_GT(masses[index::Method::kPq], 0.96 * oracle);
  EXPECT_GT(masses[index::Method::kRabitq], 0.99 * oracle);
  EXPECT_EQ(masses[index::Method::kRabitqTail], masses[index::Method::kRabitq]);
  EXPECT_GT(masses[index::Method::kCluster], 0.96 * oracle);
  EXPECT_EQ(masses[index::Method::kClusterTail], masses[index::Method::kCluster]);
  EXPECT_GT(masses[index::Method::kSparq], 0.94 * oracle);
}

/// What `bench_index --trace` prints, by another way through the same trace.
TEST_F(SmolLm2Trace, FiguresOfABenchAreThese) {
  const auto all = measure_methods(trace_, kernels_, double{kBudget} / trace_.n_positions);
  ASSERT_EQ(all.size(), index::method_names().size());
  for (const TraceFigures& of : all) {
    SCOPED_TRACE(of.method.name);
    EXPECT_EQ(of.refused, "");
    // That choice is within a share of the full blocks, this one within tokens.
    EXPECT_NEAR(of.found, mass(of.method.method), 0.01);
    EXPECT_EQ(of.bias.has_value(), index::has_tail(of.method.method));
    if (of.method.method == index::Method::kRabitqTail) {
      EXPECT_NEAR(*of.bias, 0, 0.01);
      EXPECT_NEAR(of.bytes_per_key, 29.5, 0.1);
    }
    // Of 128; an independent computation from the same file.
    if (of.method.method == index::Method::kSparq) {
      EXPECT_NEAR(of.bytes_per_key, 61.3, 0.1);
    }
    if (of.method.method != index::Method::kRecent) {
      EXPECT_GT(of.build_s, 0);
      EXPECT_GT(of.estimate_s, 0);
    }
  }
}

/// Tail calibration: ln of the weight of all blocks, those that are not chosen as estimated.
TEST_F(SmolLm2Trace, EstimatedWeightsOfWhatIsNotChosenAreTrueOnes) {
  double bias_without = 0, bias = 0;
  uint64_t n = 0;
  each_choice(index::Method::kRabitqTail, [&](const Step& of) {
    for (uint32_t query = 0; query < trace_.group; ++query, ++n) {
      double all = 0, chosen = 0, estimated = 0;
      for (uint32_t block = 0; block < of.n_blocks; ++block) {
        const uint64_t at = uint64_t{query} * trace_.n_blocks() + block;
        const bool is_chosen = std::ranges::binary_search(of.blocks, block);
        all += std::exp(double{of.truth[at]});
        (is_chosen ? chosen : estimated) +=
            std::exp(double{is_chosen ? of.truth[at] : of.estimates[at]});
      }
      bias_without += std::log(chosen / all);
      bias += std::log((chosen + estimated) / all);
    }
  });
  std::printf("bias %.4f nat, without the tail %.4f\n", bias / static_cast<double>(n),
              bias_without / static_cast<double>(n));
  EXPECT_LT(bias_without / static_cast<double>(n), -0.05);
  EXPECT_NEAR(bias / static_cast<double>(n), 0, 0.01);
}

}  // namespace
}  // namespace strata::eval
