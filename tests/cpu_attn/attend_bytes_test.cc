// tests/cpu_attn/attend_bytes_test.cc - attention over bytes of K and V, whose sums are integers:
// what attend_test.cc does not ask of every codec.
#include <gtest/gtest.h>

#include "tests/cpu_attn/attend_fixture.h"

namespace strata::cpu_attn {
namespace {

TEST(AttendOverBytes, GiveWideVectorsTheSameBits) {
  const std::vector<KernelTable> tables = attend_tables();
  if (tables.size() < 3) GTEST_SKIP() << "wants AVX2 and AVX-512";
  for (const uint32_t head_dim : {32u, 64u, 96u, 128u, 256u}) {
    const KvLayout layout = KvLayout::make(KvCodec::kQ8_0, KvCodec::kQ8_0, head_dim);
    Random random(kSeed + head_dim);
    for (const uint32_t n_pos : {1u, 50u, 256u}) {
      const Segment segment(tables[1], layout, n_pos, random);
      for (const uint32_t n_queries : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 12u, 15u, 96u}) {
        Tile tile(n_queries, head_dim, random);
        draw_positions(tile, 0, n_pos, random);
        Tile wide = tile;
        tile.attend(tables[1], segment, 0, n_pos);
        wide.attend(tables[2], segment, 0, n_pos);
        EXPECT_TRUE(same_bits(tile.m, wide.m)) << head_dim << " " << n_pos << " " << n_queries;
        EXPECT_TRUE(same_bits(tile.o, wide.o)) << head_dim << " " << n_pos << " " << n_queries;
      }
    }
  }
}

/// Every product as large as it gets, of one sign: sums in 32 bits hold them.
TEST(AttendOverBytes, HoldsTheLargestSumsOfBytes) {
  for (const KernelTable& table : attend_tables()) {
    for (const uint32_t head_dim : {32u, 64u, 512u}) {
      for (const float sign : {1.0f, -1.0f}) {
        SCOPED_TRACE(std::string(table.name) + " " + std::to_string(head_dim));
        const KvLayout layout = KvLayout::make(KvCodec::kQ8_0, KvCodec::kQ8_0, head_dim);
        Random random(kSeed);
        const Segment segment(table, layout, kSegmentPositions, random);
        const std::vector<float> row(head_dim, sign);
        for (uint32_t p = 0; p < kSegmentPositions; ++p) {
          table.store_kv(layout, const_cast<std::byte*>(segment.blocks[p / 32]), p % 32, row.data(),
                         row.data());
        }
        for (const uint32_t n_queries : {3u, 7u, 12u}) {
          Tile tile(n_queries, head_dim, random);
          std::fill(tile.q.begin(), tile.q.end(), 0.01f);
          tile.pos.assign(n_queries, kSegmentPositions - 1);
          tile.attend(table, segment, 0, kSegmentPositions);
          expect_near_double(tile, segment, 0, kSegmentPositions);
          EXPECT_NEAR(tile.o[0], sign * 256, 0.1);
        }
      }
    }
  }
}

TEST(AttendOverBytes, OfAQueryThatIsNoNumberIsNone) {
  for (const KernelTable& table : attend_tables()) {
    for (const float odd :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      const KvLayout layout = KvLayout::make(KvCodec::kQ8_0, KvCodec::kQ8_0, 64);
      Random random(kSeed);
      const Segment segment(table, layout, kSegmentPositions, random);
      Tile tile(2, 64, random);
      tile.pos.assign(2, 200);
      tile.q[40] = odd;
      tile.attend(table, segment, 0, kSegmentPositions);
      EXPECT_FALSE(std::isfinite(tile.o[0] / tile.l[0])) << table.name;
      EXPECT_TRUE(std::isfinite(tile.o[64] / tile.l[1])) << table.name;
    }
  }
}

/// A value beyond what a scale of 16 bits holds is infinite at rest.
TEST(AttendOverBytes, WithAnInfiniteValueAreNoNumbers) {
  for (const KernelTable& table : attend_tables()) {
    const KvLayout layout = KvLayout::make(KvCodec::kQ8_0, KvCodec::kQ8_0, 64);
    Random random(kSeed);
    const Segment segment(table, layout, kSegmentPositions, random);
    std::vector<float> key(64, 0.5f), value(64, 0.5f);
    value[40] = 1e9f;
    table.store_kv(layout, const_cast<std::byte*>(segment.blocks[2]), 7, key.data(), value.data());
    for (const uint32_t last : {70u, 71u}) {  // before it, and it
      Tile tile(1, 64, random);
      tile.pos.assign(1, last);
      tile.attend(table, segment, 0, kSegmentPositions);
      EXPECT_TRUE(std::isfinite(tile.o[0])) << table.name;
      for (uint32_t d = 32; d < 64; ++d)  // that share its scale, whatever sums of codes are
        EXPECT_EQ(std::isnan(tile.o[d]), last == 71) << table.name << " " << d << " " << tile.o[d];
    }
  }
}

/// Outside of its own range a query has the weight 0 in every block of its tile's.
TEST(AttendOverBytes, OfATileOfFarApartRangesIsThatOfEach) {
  for (const KernelTable& table : attend_tables()) {
    for (const uint32_t n_queries : {4u, 12u, 27u}) {
      const KvLayout layout = KvLayout::make(KvCodec::kQ8_0, KvCodec::kQ8_0, 64);
      Random random(kSeed);
      const Segment segment(table, layout, kSegmentPositions, random);
      Tile tile(n_queries, 64, random);
      tile.window = 20;
      // Blocks 0, 1, 7, and none of the segment.
      for (uint32_t i = 0; i < n_queries; ++i)
        tile.pos[i] = std::vector<uint32_t>{5, 45, 255, 4000}[i % 4];
      tile.attend(table, segment, 0, kSegmentPositions);
      for (uint32_t i = 0; i < n_queries; ++i) {
        Tile one = tile.single(i);
        one.attend(table, segment, 0, kSegmentPositions);
        const auto from = tile.o.begin() + static_cast<std::ptrdiff_t>(i) * 64;
        EXPECT_TRUE(same_bits(one.o, {from, from + 64}))
            << table.name << " query " << i << " of " << n_queries;
        EXPECT_TRUE(same_bits(one.m, {tile.m[i]})) << table.name << " query " << i;
        EXPECT_TRUE(same_bits(one.l, {tile.l[i]})) << table.name << " query " << i;
      }
    }
  }
}

/// Against the query and the weights themselves, not what they are multiplied as.
TEST(AttendOverBytes, ErrByLittleOfTheQueryAndTheWeights) {
  constexpr double kCode = 0x1p-15;  // of the largest, for each
  const KvLayout layout = KvLayout::make(KvCodec::kQ8_0, KvCodec::kQ8_0, 64);
  for (const KernelTable& table : attend_tables()) {
    for (uint32_t draw = 0; draw < 20; ++draw) {
      Random random(kSeed + draw);
      const Segment segment(table, layout, kSegmentPositions, random);
      Tile tile(1, 64, random);
      tile.pos = {draw};
      double largest = 0, score = -std::numeric_limits<double>::infinity(), keys = 0;
      for (uint32_t d = 0; d < 64; ++d) largest = std::max(largest, std::abs(double{tile.q[d]}));
      for (uint32_t p = 0; p <= draw; ++p) {
        double sum = 0, magnitude = 0;
        for (uint32_t d = 0; d < 64; ++d) {
          sum += double{tile.q[d]} * segment.k(p, d);
          magnitude += std::abs(segment.k(p, d));
        }
        score = std::max(score, sum);
        keys = std::max(keys, magnitude);
      }
      tile.attend(table, segment, 0, kSegmentPositions);
      EXPECT_NEAR(tile.m[0], score, largest * keys * (kCode + 70 * kEps)) << table.name;
    }
    // Of values that are a step of the codes nothing is lost: a query's, and weights beside one.
    Random random(kSeed);
    const Segment segment(table, layout, kSegmentPositions, random);
    std::vector<float> key(64, 0.0f), value(64, 1.0f);
    for (uint32_t p = 0; p < kSegmentPositions; ++p) {
      key[0] = p == 0 ? 9.7040f : 0.0f;  // ln 16383
      table.store_kv(layout, const_cast<std::byte*>(segment.blocks[p / 32]), p % 32, key.data(),
                     value.data());
    }
    Tile tile(1, 64, random);
    std::fill(tile.q.begin(), tile.q.end(), 0.0f);
    tile.q[0] = 1;
    tile.pos = {kSegmentPositions - 1};
    tile.attend(table, segment, 0, kSegmentPositions);
    EXPECT_NEAR(tile.o[0] / tile.l[0], 1.0, 256 * kCode / 4) << table.name;
    std::ranges::fill(key, 1.0f);
    table.store_kv(layout, const_cast<std::byte*>(segment.blocks[0]), 0, key.data(), value.data());
    std::fill(tile.q.begin(), tile.q.end(), 1.0f / 16383);
    tile.q[0] = 1;
    tile.pos = {0};
    tile.attend(table, segment, 0, kSegmentPositions);
    EXPECT_NEAR(tile.m[0], 1 + 63.0 / 16383, 63 * kCode / 4) << table.name;
  }
}

TEST(AttendOverBytes, OfAQueryOfZerosIsTheMean) {
  for (const KernelTable& table : attend_tables()) {
    for (const KvLayout& layout : layouts(64)) {
      Random random(kSeed);
      const Segment segment(table, layout, 100, random);
      Tile tile(1, 64, random);
      tile.pos = {99};
      std::fill(tile.q.begin(), tile.q.end(), 0.0f);
      tile.attend(table, segment, 0, 100);
      EXPECT_EQ(tile.m[0], 0.0f) << describe(table, layout);
      EXPECT_EQ(tile.l[0], 100.0f) << describe(table, layout);
      double mean = 0;
      for (uint32_t p = 0; p < 100; ++p) mean += segment.v(p, 5);
      EXPECT_NEAR(tile.o[5], mean, 1e-2) << describe(table, layout);
    }
  }
}

}  // namespace
}  // namespace strata::cpu_attn
