// What rotated and rounded keys estimate, against the keys themselves, and keys that are out of the
// ordinary.
#include "index/rabitq_selector.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/cpu_attn/rabitq_tile.h"
#include "tests/index/rotated_fixture.h"

namespace strata::index {
namespace {

using namespace testing;
using strata::testing::rabitq_rotated;
using strata::testing::RabitqReader;

const KernelTable& kernels() { return cpu_attn::choose_kernels(); }

std::unique_ptr<Selector> make_rabitq(const KvLayout& layout, uint32_t n_streams, uint32_t n_blocks,
                                      const KernelTable& table = kernels()) {
  return SelectorSource(Method::kRabitq, {layout, n_streams, n_blocks}, table).make();
}

double length(std::span<const double> x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

/// A key of a block beside what its codes stand for, both rotated.
struct CodedKey {
  std::vector<double> decoded;
  double error = 0;  // |key - decoded|
};

CodedKey coded_key(const Selector& selector, Keys& keys, uint32_t block, uint32_t i,
                   uint32_t head_dim) {
  const RabitqReader reader(selector.rows(0, block / kExtentBlocks).data(), head_dim);
  CodedKey out{reader.key(block % kExtentBlocks, i), 0};
  auto rest = rabitq_rotated(keys.key(block * kBlockPositions + i), head_dim);
  for (uint32_t d = 0; d < head_dim; ++d) rest[d] -= out.decoded[d];
  out.error = length(rest);
  return out;
}

Wanted wanted(const Selector& selector, Keys& keys, uint32_t block, const float* q,
              uint32_t head_dim) {
  const auto query = rabitq_rotated(q, head_dim);
  const double step = query_step(query);
  LogSum sum;
  double moved = 0;
  for (uint32_t i = 0; i < kBlockPositions; ++i) {
    const double score = keys.score(q, block * kBlockPositions + i);
    sum.add(score);
    const CodedKey key = coded_key(selector, keys, block, i, head_dim);
    double magnitude = 0;
    for (const double x : key.decoded) magnitude += std::abs(x);
    moved = std::max(moved, length(query) * key.error + magnitude * step * 0.51);
  }
  return {sum.value(), moved + kByBitsOfFloats};
}

TEST(RabitqSelector, AWeightIsThatOfTheKeysWithinWhatTheirCodesErrBy) {
  expect_weights_within_bounds(Method::kRabitq, 9, wanted);
}

/// The error of a key relative to its distance from its block's mean: 0.0374 of the square for
/// normal values (the grid of eight steps), less the cut of the largest.
TEST(RabitqSelector, CodesLoseATwentiethOfTheSquareAtMost) {
  std::mt19937_64 random(21);
  for (const uint32_t head_dim : {64u, 80u, 128u}) {
    const uint32_t n_blocks = 16;
    Keys keys = clustered_keys(f16_layout(head_dim), n_blocks, kernels(), random());
    const auto selector = make_rabitq(f16_layout(head_dim), 1, n_blocks);
    observe_range(*selector, 0, keys, 0, n_blocks);
    double error = 0, spread = 0;
    for (uint32_t block = 0; block < n_blocks; ++block)
      for (uint32_t d = 0; d < head_dim; ++d) {
        double sum = 0, squares = 0;
        for (uint32_t i = 0; i < kBlockPositions; ++i) {
          const double x = keys.key(block * kBlockPositions + i)[d];
          sum += x;
          squares += x * x;
        }
        spread += squares - sum * sum / kBlockPositions;
      }
    for (uint32_t block = 0; block < n_blocks; ++block)
      for (uint32_t i = 0; i < kBlockPositions; ++i)
        error += std::pow(coded_key(*selector, keys, block, i, head_dim).error, 2);
    printf("head_dim %3u: %.4f of the square around the mean is lost\n", head_dim, error / spread);
    EXPECT_LT(error / spread, 0.05);
    EXPECT_GT(error / spread, 0.02);
  }
}

// ---- Keys and queries out of the ordinary ----

TEST(RabitqEdge, EqualKeysHaveEqualScoresAndOutliersDoNotHideTheOthers) {
  expect_equal_keys_have_equal_scores(Method::kRabitq, wanted);
}

TEST(RabitqEdge, BytesAreThoseOfTheTiles) {
  // 3 bits per dimension, a factor per key, a centre of 64 bytes and two steps of 4 per block.
  EXPECT_EQ(rabitq_tile_bytes(64), 256u * 24 + 256 + 8 * (64 + 8));
  EXPECT_EQ(rabitq_tile_bytes(80), 256u * 36 + 256 + 8 * (96 + 8));  // as 96 dimensions
  EXPECT_EQ(rabitq_tile_bytes(128), 256u * 48 + 256 + 8 * (128 + 8));
  const IndexShape shape{f16_layout(64), 3, 24 * kExtentBlocks};
  EXPECT_EQ(index_bytes(Method::kRabitq, shape), 3 * (tile_slots(shape.n_blocks) + 2) *
                                                     uint64_t{TileMemory::kSlotTiles} *
                                                     rabitq_tile_bytes(64));
  EXPECT_EQ(make_rabitq(f16_layout(64), 1, 24)->held_bytes(17), 3 * rabitq_tile_bytes(64));
}

/// Whoever scans them elsewhere; of other methods, or where a tail is to be estimated, nobody.
TEST(RabitqEdge, RowsAreShownToOthersWhereScanningThemIsAll) {
  for (const MethodName& of : method_names()) {
    SCOPED_TRACE(of.name);
    const SelectorSource source(of.method, {f16_layout(64), 2, 24}, kernels());
    const std::unique_ptr<Selector> selector = source.make();
    EXPECT_EQ(selector->rotated_codes() != nullptr, of.method == Method::kRabitq);
    EXPECT_EQ(selector->rotated_codes() != nullptr, has_rotated_codes(of.method));
    if (selector->rotated_codes() == nullptr) continue;
    selector->open_blocks(9);
    const TileTable& table = *selector->rotated_codes();
    EXPECT_EQ(&table.memory(), source.memory());
    EXPECT_EQ(table.tiles(1)[1], selector->rows(1, 1).data());
    EXPECT_EQ(table.tiles(1)[1], source.memory()->tile(table.slots(1)[0], 1));
  }
}

}  // namespace
}  // namespace strata::index
