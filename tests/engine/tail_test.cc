// The part of attention that was not chosen, estimated (engine/walk_tail.cc): what a KV head gives
// is the formula's, in double precision, of K, V and the weights that the index estimates; and no
// bit of it depends on threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/half.h"
#include "base/host_memory.h"
#include "tests/engine/zoo_fixture.h"

namespace strata::engine {
namespace {

using index::Budget;
using index::Method;
using testing::is_same;
using testing::LoadedMember;
using testing::Logits;
using testing::WalkSetting;
using testing::ZooWalk;

constexpr uint32_t kExact = 1999;  // read exactly; what follows is selected in two steps

WalkSetting setting_with(double budget_tokens, uint32_t n_threads, Method method) {
  WalkSetting setting;
  setting.kernels = cpu_attn::available_kernels().back();
  setting.n_threads = n_threads;
  setting.n_ctx = 2304;
  setting.method = method;
  setting.rule.budget = {Budget::Kind::kTokens, budget_tokens};
  return setting;
}

/// ln(sum exp) of some positions of one query, and their values weighed by it.
struct Attention64 {
  explicit Attention64(uint32_t head_dim) : o(head_dim) {}
  void add(double score, std::span<const double> value) {
    l += std::exp(score);
    for (size_t d = 0; d < o.size(); ++d) o[d] += std::exp(score) * value[d];
  }
  std::vector<double> o;
  double l = 0;
};

/// Compares every head with the formula.
class TailOracle : public AttentionProbe {
 public:
  TailOracle(const KvCache& cache, const index::Rule& rule) : cache_(cache), rule_(rule) {}

  void hear(const ProbedHead& head) override {
    const LayerShape& of = cache_.shape().layers[head.layer];
    const uint32_t group = of.n_heads / of.n_kv_heads;
    const std::vector<float> weights = estimated(head);
    n_left_out_ += head.n_blocks - head.chosen.size();
    for (uint32_t query = 0; query < head.n_queries; ++query)
      expect_formula(head, query, first_pos_ + query / group,
                     std::span(weights).subspan(uint64_t{query} * stride(head), head.n_blocks));
  }
  /// Of the next step.
  void set_first_pos(uint32_t first_pos) { first_pos_ = first_pos; }
  uint64_t n_left_out() const { return n_left_out_; }
  uint64_t n_retrieved() const { return n_retrieved_; }

 private:
  static uint32_t stride(const ProbedHead& head) { return (head.n_blocks + 7) / 8 * 8; }

  std::vector<float> estimated(const ProbedHead& head) const {
    const index::Selector& index = *head.sequence->index();
    const uint64_t n = index.scratch_floats(head.n_queries);
    HostMemory scratch = HostMemory::reserve(n * sizeof(float));
    std::vector<float> weights(uint64_t{head.n_queries} * stride(head));
    index.estimate({.stream = cache_.index_stream(head.layer, head.kv_head),
                    .q = head.q.data(),
                    .n_queries = head.n_queries,
                    .end_block = head.n_blocks,
                    .scratch = scratch.as<float>(n).data(),
                    .log_weights = weights.data(),
                    .weight_stride = stride(head)});
    return weights;
  }
  double element(const ProbedHead& head, uint32_t pos, uint64_t offset) const {
    const std::byte* block = cache_.block(*head.sequence, head.layer, head.kv_head, pos);
    uint16_t half;
    std::memcpy(&half, block + offset * sizeof(half), sizeof(half));
    return f16_to_f32(half);
  }
  std::vector<double> value(const ProbedHead& head, uint32_t pos) const {
    std::vector<double> v;
    v.reserve(head_dim());
    for (uint32_t d = 0; d < head_dim(); ++d)
      v.push_back(
          element(head, pos, cache_.layout().v_offset / 2 + uint64_t{pos % 32} * head_dim() + d));
    return v;
  }
  double score(const ProbedHead& head, uint32_t query, uint32_t pos) const {
    double sum = 0;
    for (uint32_t d = 0; d < head_dim(); ++d)
      sum += double{head.q[uint64_t{query} * head_dim() + d]} *
             element(head, pos, uint64_t{d} * 32 + pos % 32);
    return sum;
  }

  void expect_formula(const ProbedHead& head, uint32_t query, uint32_t query_pos,
                      std::span<const float> weights) {
    Attention64 retrieved(head_dim()), all(head_dim()), means(head_dim()), found(head_dim());
    const auto attend = [&](Attention64& to, uint32_t first, uint32_t end) {
      for (uint32_t pos = first; pos < end; ++pos)
        to.add(score(head, query, pos), value(head, pos));
    };
    double step = 0;  // of rounded means, at most
    for (uint32_t block = 0; block < head.n_blocks; ++block) {
      const bool is_always =
          block < rule_.n_sink_blocks || block + rule_.n_window_blocks >= head.n_blocks;
      const bool is_chosen = std::ranges::binary_search(head.chosen, block);
      if (is_chosen) attend(all, block * 32, block * 32 + 32);
      if (is_chosen && is_always) continue;
      double largest = 0;
      std::vector<double> mean(head_dim());
      for (uint32_t pos = block * 32; pos < block * 32 + 32; ++pos) {
        const auto v = value(head, pos);
        for (uint32_t d = 0; d < head_dim(); ++d) mean[d] += v[d] / 32;
      }
      for (const double x : mean) largest = std::max(largest, std::abs(x));
      step = std::max(step, largest / 254);
      (is_chosen ? found : means).add(weights[block], mean);
      if (!is_chosen) continue;
      attend(retrieved, block * 32, block * 32 + 32);
      ++n_retrieved_;
    }
    attend(all, head.n_blocks * 32, query_pos + 1);
    for (uint32_t d = 0; d < head_dim(); ++d) {
      double tail = means.o[d];
      if (retrieved.l > 0)
        tail += 0.7 * means.l * (retrieved.o[d] / retrieved.l - found.o[d] / found.l);
      const double wanted = (all.o[d] + tail) / (all.l + means.l);
      ASSERT_NEAR(head.selected[uint64_t{query} * head_dim() + d], wanted, 2 * step + 1e-4)
          << "layer " << head.layer << " query " << query << " dimension " << d;
      largest_change_ = std::max(largest_change_, std::abs(wanted - all.o[d] / all.l));
    }
  }
  uint32_t head_dim() const { return cache_.shape().head_dim; }

 public:
  /// By the tail, of an output.
  double largest_change() const { return largest_change_; }

 private:
  const KvCache& cache_;
  index::Rule rule_;
  uint32_t first_pos_ = 0;
  uint64_t n_left_out_ = 0, n_retrieved_ = 0;
  double largest_change_ = 0;
};

/// With nothing retrieved, less than a span of it, and more than one, where little is left out.
TEST(Tail, IsTheFormulasInDoublePrecision) {
  const LoadedMember member("llama3");
  const auto text = member.text(kExact + 8, 11);
  for (const auto& [method, budget] : {std::pair{Method::kRabitqTail, 64.0},
                                       {Method::kRabitqTail, 400.0},
                                       {Method::kRabitqTail, 1700.0},
                                       {Method::kClusterTail, 400.0}}) {
    SCOPED_TRACE(index::rows_kind(method) + ", budget " + std::to_string(budget));
    const WalkSetting setting = setting_with(budget, 2, method);
    ZooWalk walk(member.model, setting);
    Sequence sequence = walk.sequence();
    walk.feed(sequence, std::span(text).first(kExact));
    TailOracle oracle(walk.cache(), setting.rule);
    walk.walk().set_probe(&oracle);
    oracle.set_first_pos(kExact);
    walk.feed(sequence, std::span(text).subspan(kExact, 7), 0, Attention::kSelected);
    oracle.set_first_pos(kExact + 7);
    walk.feed(sequence, std::span(text).subspan(kExact + 7), 0, Attention::kSelected);
    walk.walk().set_probe(nullptr);
    EXPECT_GT(oracle.n_left_out(), 0u);
    EXPECT_EQ(oracle.n_retrieved() > 0, budget > 100);
    EXPECT_GT(oracle.largest_change(), 0.01);
  }
}

TEST(Tail, DependsOnNoThread) {
  const LoadedMember member("llama3");
  const auto text = member.text(kExact + 40, 12);
  const auto selected = [&](uint32_t n_threads, Method method) {
    ZooWalk walk(member.model, setting_with(400, n_threads, method));
    Sequence sequence = walk.sequence();
    walk.feed(sequence, std::span(text).first(kExact));
    return walk.feed(sequence, std::span(text).subspan(kExact), 5, Attention::kSelected);
  };
  const Logits expected = selected(1, Method::kRabitqTail);
  EXPECT_TRUE(is_same(selected(2, Method::kRabitqTail), expected));
  EXPECT_TRUE(is_same(selected(3, Method::kRabitqTail), expected));
  EXPECT_FALSE(is_same(selected(2, Method::kRabitq), expected));
}

}  // namespace
}  // namespace strata::engine
