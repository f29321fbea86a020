// Methods whose rows are tiles and nothing else: keys and queries that are out of the ordinary;
// forks, truncation and files.
#include "index/tiled_selector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "tests/index/pq_fixture.h"

namespace strata::index {
namespace {

using namespace testing;

const float kInfinity = std::numeric_limits<float>::infinity();
const double kLogKeys = std::log(double{kBlockPositions});  // of a block whose keys are equal

const KernelTable& kernels() { return cpu_attn::choose_kernels(); }

class TiledMethod : public ::testing::TestWithParam<Method> {
 protected:
  static std::unique_ptr<Selector> make(const KvLayout& layout, uint32_t n_streams,
                                        uint32_t n_blocks) {
    return SelectorSource(GetParam(), {layout, n_streams, n_blocks}, kernels()).make();
  }
  static std::vector<std::byte> built(const Keys& first, uint32_t split, const Keys& second,
                                      uint32_t end) {
    const auto selector = make(f16_layout(64), 1, end);
    observe_range(*selector, 0, first, 0, split);
    observe_range(*selector, 0, second, split, end);
    return stream_bytes(*selector, 0);
  }
};

TEST_P(TiledMethod, BlocksWithKeysThatAreNotFiniteWeighInfinitely) {
  const uint32_t n_blocks = 20;
  const std::vector<uint32_t> bad{0, 5, 17};
  for (const uint32_t head_dim : {64u, 80u}) {
    Keys keys = clustered_keys(f16_layout(head_dim), n_blocks, kernels(), 10);
    keys.key(3)[7] = std::nanf("");
    keys.key(5 * kBlockPositions)[0] = kInfinity;
    keys.key(17 * kBlockPositions + 31)[head_dim - 1] = -kInfinity;
    keys.store();
    const auto selector = make(f16_layout(head_dim), 1, n_blocks);
    observe_range(*selector, 0, keys, 0, n_blocks);
    std::mt19937_64 random(11);
    const auto weights = estimates(*selector, 0, drawn_queries(2, head_dim, random), 2);
    for (uint32_t i = 0; i < weights.size(); ++i) {
      if (std::ranges::count(bad, i % n_blocks) > 0)
        EXPECT_EQ(weights[i], kInfinity) << i;
      else
        EXPECT_TRUE(std::isfinite(weights[i])) << i;
    }
    // Block 5 comes again, with other keys.
    selector->truncate(5);
    selector->open_blocks(6);
    selector->observe(0, 5, keys.block(6));
    const auto again = estimates(*selector, 0, drawn_queries(1, head_dim, random), 1);
    EXPECT_EQ(again[0], kInfinity);
    EXPECT_TRUE(std::isfinite(again[5]));
  }
}

TEST_P(TiledMethod, QueriesOfAnySizeGiveNoNan) {
  const Keys keys = clustered_keys(f16_layout(64), 12, kernels(), 15);
  const auto selector = make(f16_layout(64), 1, 12);
  observe_range(*selector, 0, keys, 0, 12);
  for (const float value : {0.0f, 1e-38f, 1e30f, 3e38f, kInfinity, std::nanf("")}) {
    const std::vector<float> q(64, value);
    for (const float weight : estimates(*selector, 0, q, 1)) {
      ASSERT_FALSE(std::isnan(weight)) << value;
      if (value < 1) {
        ASSERT_NEAR(weight, kLogKeys, 1e-5);
      } else if (!(value < 3e38f)) {
        ASSERT_EQ(weight, kInfinity);
      }
    }
  }
}

// ---- History ----

TEST_P(TiledMethod, TruncatedAndForkedIsWhatWasBuiltThatWay) {
  const uint32_t end = 18 * kExtentBlocks;  // more than a slot
  const Keys kept = clustered_keys(f16_layout(64), end, kernels(), 1);
  const Keys other = clustered_keys(f16_layout(64), end, kernels(), 2);
  for (const uint32_t cut : {0u, 1u, 8u, 13u, 127u, 128u, 131u}) {
    const auto first = make(f16_layout(64), 1, 4 * end);
    observe_range(*first, 0, kept, 0, end - 3);
    const auto second = first->fork();
    second->truncate(cut);
    observe_range(*second, 0, other, cut, end);
    observe_range(*first, 0, kept, end - 3, end);
    EXPECT_EQ(stream_bytes(*second, 0), built(kept, cut, other, end)) << cut;
    EXPECT_EQ(stream_bytes(*first, 0), built(kept, end, kept, end)) << cut;
  }
}

TEST_P(TiledMethod, LoadedIsRebuilt) {
  const uint32_t end = 4 * kExtentBlocks;
  Keys keys = clustered_keys(f16_layout(64), end, kernels(), 9);
  keys.key(50)[1] = std::nanf("");
  keys.store();
  const auto whole = make(f16_layout(64), 1, end);
  observe_range(*whole, 0, keys, 0, end);
  std::mt19937_64 random(10);
  const auto q = drawn_queries(3, 64, random);
  for (const uint32_t n_extents : {0u, 1u, 3u, 4u}) {
    const auto loaded = make(f16_layout(64), 1, end);
    loaded->open_blocks(n_extents * kExtentBlocks);
    ASSERT_TRUE(loaded->loads_in_any_order());
    for (uint32_t extent = n_extents; extent-- > 0;) {
      std::vector<std::byte> bytes(whole->segment_bytes());
      whole->copy_segment(0, extent, bytes);
      loaded->load_segment(0, extent, bytes);
    }
    observe_range(*loaded, 0, keys, n_extents * kExtentBlocks, end);
    EXPECT_EQ(stream_bytes(*loaded, 0), stream_bytes(*whole, 0)) << n_extents;
    EXPECT_EQ(estimates(*loaded, 0, q, 3), estimates(*whole, 0, q, 3)) << n_extents;
  }
}

TEST_P(TiledMethod, StreamsDoNotDependOnThreadsOrOrder) {
  constexpr uint32_t kStreams = 4;
  const uint32_t end = 20;
  std::vector<Keys> keys;
  keys.reserve(kStreams);
  for (uint32_t s = 0; s < kStreams; ++s)
    keys.push_back(clustered_keys(f16_layout(64), end, kernels(), 20 + s));
  const auto together = make(f16_layout(64), kStreams, end);
  together->open_blocks(end);
  {
    std::vector<std::jthread> threads;
    threads.reserve(2);
    for (uint32_t t = 0; t < 2; ++t)
      threads.emplace_back([&, t] {
        for (uint32_t s = t; s < kStreams; s += 2) observe_all(*together, s, keys[s]);
      });
  }
  for (uint32_t s = 0; s < kStreams; ++s)
    EXPECT_EQ(stream_bytes(*together, s), built(keys[s], end, keys[s], end)) << s;
}

INSTANTIATE_TEST_SUITE_P(Each, TiledMethod,
                         ::testing::Values(Method::kRabitq, Method::kCluster, Method::kClusterTail,
                                           Method::kSparq),
                         [](const auto& method) { return rows_kind(method.param); });

}  // namespace
}  // namespace strata::index
