// What `rabitq+tail` adds to rabitq and `cluster+tail` to cluster: an estimate of what attention to
// blocks would have given; its rows through forks, truncation and files.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/half.h"
#include "tests/index/pq_fixture.h"

namespace strata::index {
namespace {

using namespace testing;

constexpr uint32_t kHeadDim = 64;
const float kInfinity = std::numeric_limits<float>::infinity();

const KernelTable& kernels() { return cpu_attn::choose_kernels(); }

std::unique_ptr<Selector> make(Method method, uint32_t n_blocks) {
  return SelectorSource(method, {f16_layout(kHeadDim), 1, n_blocks}, kernels()).make();
}

/// Keys as `rabitq` meets them, and values.
Keys keys_and_values(uint32_t n_blocks, uint32_t seed) {
  Keys keys = clustered_keys(f16_layout(kHeadDim), n_blocks, kernels(), seed);
  std::mt19937_64 random(seed);
  keys.draw_values(random);
  return keys;
}

struct WithTail {
  Method plain, tail;
};

/// Of a method and of the one that adds a tail to it.
class TailRows : public ::testing::TestWithParam<WithTail> {
 protected:
  static std::vector<std::byte> built(const Keys& first, uint32_t split, const Keys& second,
                                      uint32_t end) {
    const auto selector = make(GetParam().tail, end);
    observe_range(*selector, 0, first, 0, split);
    observe_range(*selector, 0, second, split, end);
    return stream_bytes(*selector, 0);
  }
};

struct TailPartial {
  std::vector<float> o, m, l;
};

TailPartial tail_of(const Selector& selector, std::span<const float> weights, uint32_t n_queries,
                    uint32_t first = 0, uint32_t end = ~0u) {
  HostMemory scratch = HostMemory::reserve(kTailScratchFloats * sizeof(float));
  TailPartial of{std::vector<float>(uint64_t{n_queries} * kHeadDim), std::vector<float>(n_queries),
                 std::vector<float>(n_queries)};
  selector.estimate_tail({.stream = 0,
                          .log_weights = weights.data(),
                          .weight_stride = selector.n_blocks(),
                          .n_queries = n_queries,
                          .first_block = first,
                          .end_block = std::min(end, selector.n_blocks()),
                          .scratch = scratch.as<float>(kTailScratchFloats).data(),
                          .o = of.o.data(),
                          .m = of.m.data(),
                          .l = of.l.data()});
  return of;
}

TEST_P(TailRows, EstimateAsThePlainMethodDoesAndKeepMeanValuesBeside) {
  const uint32_t n_blocks = 61;
  const Keys keys = keys_and_values(n_blocks, 3);
  const auto plain = make(GetParam().plain, n_blocks);
  const auto with_tail = make(GetParam().tail, n_blocks);
  EXPECT_FALSE(plain->has_tail());
  EXPECT_TRUE(with_tail->has_tail());
  observe_range(*plain, 0, keys, 0, n_blocks);
  observe_range(*with_tail, 0, keys, 0, n_blocks);
  std::mt19937_64 random(4);
  const auto q = drawn_queries(3, kHeadDim, random);
  EXPECT_EQ(estimates(*with_tail, 0, q, 3), estimates(*plain, 0, q, 3));
  // A scale and a value of 8 bits per dimension for each block, in whole lines.
  EXPECT_EQ(with_tail->extent_row_bytes() - plain->extent_row_bytes(), 576u);
  EXPECT_EQ(with_tail->held_bytes(17), 3 * with_tail->extent_row_bytes());
  const IndexShape shape{f16_layout(kHeadDim), 3, 200};
  EXPECT_EQ(index_bytes(GetParam().tail, shape) - index_bytes(GetParam().plain, shape),
            uint64_t{3} * (tile_slots(200) + 2) * TileMemory::kSlotTiles * 576);
}

/// Exact attention over means of the values, weighed as estimated.
TEST_P(TailRows, GiveAttentionOverMeanValues) {
  const uint32_t n_blocks = 300, n_queries = 5;
  const Keys keys = keys_and_values(n_blocks, 5);
  const auto selector = make(GetParam().tail, n_blocks);
  observe_range(*selector, 0, keys, 0, n_blocks);
  std::mt19937_64 random(6);
  auto weights = estimates(*selector, 0, drawn_queries(n_queries, kHeadDim, random), n_queries);
  for (float& weight : weights)
    if (random() % 5 == 0) weight = -kInfinity;
  const TailPartial found = tail_of(*selector, weights, n_queries);
  for (uint32_t query = 0; query < n_queries; ++query) {
    const auto of = std::span(weights).subspan(uint64_t{query} * n_blocks, n_blocks);
    const double top = *std::ranges::max_element(of);
    std::vector<double> o(kHeadDim), steps(kHeadDim);
    double l = 0;
    for (uint32_t b = 0; b < n_blocks; ++b) {
      const double weight = std::exp(of[b] - top);
      l += weight;
      double largest = 0;
      for (uint32_t d = 0; d < kHeadDim; ++d) {
        const double mean = keys.mean_value(b, d);
        o[d] += weight * mean;
        largest = std::max(largest, std::abs(mean));
      }
      for (double& step : steps) step += weight * largest / 254;
    }
    EXPECT_EQ(found.m[query], static_cast<float>(top));
    EXPECT_NEAR(found.l[query], l, 1e-4 * l);
    for (uint32_t d = 0; d < kHeadDim; ++d)
      ASSERT_NEAR(found.o[query * kHeadDim + d], o[d], 1.001 * steps[d] + 1e-6 * l) << d;
  }
  // In parts it is the same attention.
  for (const uint32_t cut : {8u, 160u}) {
    const TailPartial a = tail_of(*selector, weights, n_queries, 0, cut);
    const TailPartial b = tail_of(*selector, weights, n_queries, cut);
    for (uint32_t query = 0; query < n_queries; ++query)
      EXPECT_NEAR(a.l[query] * std::exp(a.m[query] - found.m[query]) +
                      b.l[query] * std::exp(b.m[query] - found.m[query]),
                  found.l[query], 1e-4 * found.l[query]);
  }
}

TEST_P(TailRows, TruncatedAndForkedAreWhatWasBuiltThatWay) {
  const uint32_t end = 18 * kExtentBlocks;  // more than a slot
  const Keys kept = keys_and_values(end, 1), other = keys_and_values(end, 2);
  for (const uint32_t cut : {0u, 1u, 8u, 13u, 128u, 131u}) {
    const auto first = make(GetParam().tail, 4 * end);
    observe_range(*first, 0, kept, 0, end - 3);
    const auto second = first->fork();
    second->truncate(cut);
    observe_range(*second, 0, other, cut, end);
    observe_range(*first, 0, kept, end - 3, end);
    EXPECT_EQ(stream_bytes(*second, 0), built(kept, cut, other, end)) << cut;
    EXPECT_EQ(stream_bytes(*first, 0), built(kept, end, kept, end)) << cut;
  }
}

TEST_P(TailRows, LoadedAreRebuilt) {
  const uint32_t end = 4 * kExtentBlocks;
  const Keys keys = keys_and_values(end, 9);
  const auto whole = make(GetParam().tail, end);
  observe_range(*whole, 0, keys, 0, end);
  const auto loaded = make(GetParam().tail, end);
  loaded->open_blocks(2 * kExtentBlocks);
  for (uint32_t extent = 0; extent < 2; ++extent) {
    std::vector<std::byte> bytes(whole->segment_bytes());
    whole->copy_segment(0, extent, bytes);
    loaded->load_segment(0, extent, bytes);
  }
  observe_range(*loaded, 0, keys, 2 * kExtentBlocks, end);
  EXPECT_EQ(stream_bytes(*loaded, 0), stream_bytes(*whole, 0));
  EXPECT_NE(rows_kind(GetParam().tail), rows_kind(GetParam().plain));
}

/// FNV-1a.
uint64_t hash_of(std::span<const std::byte> bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const std::byte byte : bytes)
    hash = (hash ^ std::to_integer<uint64_t>(byte)) * 0x100000001b3;
  return hash;
}

INSTANTIATE_TEST_SUITE_P(Each, TailRows,
                         ::testing::Values(WithTail{Method::kRabitq, Method::kRabitqTail},
                                           WithTail{Method::kCluster, Method::kClusterTail}),
                         [](const auto& of) { return rows_kind(of.param.tail); });

/// Saved rows are told by their kind alone: other bytes of the same keys want another kind. By the
/// scalar set, which every machine has: sets round sums in other orders. Those of pq follow from
/// training, whose own tests say what it gives.
TEST(RowsKind, SaysWhichBytesTheRowsAre) {
  const uint32_t n_blocks = 16;
  Keys keys = keys_and_values(n_blocks, 5);
  for (uint32_t pos = 0; pos < n_blocks * kBlockPositions; ++pos) keys.key(pos)[3] = 0.5f;
  keys.store();
  const auto sets = cpu_attn::available_kernels();
  const auto scalar =
      std::ranges::find_if(sets, [](const KernelTable* of) { return of->isa == CpuIsa::kScalar; });
  ASSERT_NE(scalar, sets.end());
  struct Kind {
    Method method;
    const char* kind;
    uint64_t hash;
  };
  for (const Kind& of : {Kind{Method::kQuest, "quest1", 15330913982213238816u},
                         Kind{Method::kCuboid, "cuboid1", 7403500995899995971u},
                         Kind{Method::kMean, "mean1", 10986808315730967759u},
                         Kind{Method::kRabitq, "rabitq3", 7766780919199339032u},
                         Kind{Method::kRabitqTail, "rabitqtail3", 8422258007345902616u},
                         Kind{Method::kCluster, "cluster1", 16943875338027956739u},
                         Kind{Method::kClusterTail, "clustertail1", 7205595412950958595u},
                         Kind{Method::kSparq, "sparq1", 10530102950148370855u}}) {
    EXPECT_EQ(rows_kind(of.method), of.kind);
    const auto selector =
        SelectorSource(of.method, {f16_layout(kHeadDim), 1, n_blocks}, **scalar).make();
    observe_range(*selector, 0, keys, 0, n_blocks);
    EXPECT_EQ(hash_of(stream_bytes(*selector, 0)), of.hash) << of.kind;
  }
}

}  // namespace
}  // namespace strata::index
