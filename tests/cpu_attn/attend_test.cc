// tests/cpu_attn/attend_test.cc - attention of one segment against double precision, and law L1 bit
// by bit.
#include <gtest/gtest.h>

#include <memory>

#include "tests/cpu_attn/attend_fixture.h"

namespace strata::cpu_attn {
namespace {

void expect_same_partial(const Tile& one, const Tile& tile, uint32_t i) {
  EXPECT_TRUE(same_bits(one.m, {tile.m[i]}))
      << one.m[0] << " against " << tile.m[i] << " of query " << i;
  EXPECT_TRUE(same_bits(one.l, {tile.l[i]}))
      << one.l[0] << " against " << tile.l[i] << " of query " << i;
  const auto from = tile.o.begin() + static_cast<std::ptrdiff_t>(uint64_t{i} * tile.head_dim);
  EXPECT_TRUE(same_bits(one.o, {from, from + tile.head_dim}))
      << "o of query " << i << " at " << tile.pos[i];
}

TEST(AttendSegment, MatchesDoublePrecisionAtEveryShape) {
  for (const KernelTable& table : attend_tables()) {
    for (const uint32_t head_dim : {8u, 16u, 32u, 64u, 80u, 96u, 128u, 256u}) {
      for (const KvLayout& layout : layouts(head_dim)) {
        SCOPED_TRACE(describe(table, layout) + " seed " + std::to_string(kSeed));
        Random random(kSeed + head_dim);
        for (const uint32_t n_pos : {1u, 31u, 32u, 33u, 100u, 255u, 256u}) {
          const Segment segment(table, layout, n_pos, random);
          for (const uint32_t n_queries :
               {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 10u, 12u, 13u, kMaxTileQueries}) {
            if (n_queries == kMaxTileQueries && (n_pos != 256 || head_dim > 128)) continue;
            SCOPED_TRACE("n_pos " + std::to_string(n_pos) + " n_queries " +
                         std::to_string(n_queries));
            Tile tile(n_queries, head_dim, random);
            const uint32_t first_pos = below(3, random) * kSegmentPositions;
            draw_positions(tile, first_pos, n_pos, random);
            tile.attend(table, segment, first_pos, n_pos);
            expect_near_double(tile, segment, first_pos, n_pos);
            if (HasFailure()) return;
          }
        }
      }
    }
  }
}

TEST(AttendSegment, GivesAQueryTheSameBitsAloneAndInAnyTile) {
  for (const KernelTable& table : attend_tables()) {
    for (const uint32_t head_dim : {16u, 64u, 96u, 128u}) {
      for (const KvLayout& layout : layouts(head_dim)) {
        Random random(kSeed + head_dim);
        const Segment segment(table, layout, kSegmentPositions, random);
        for (uint32_t round = 0; round < 12; ++round) {
          const uint32_t n_queries =
              round == 0 ? kMaxTileQueries : 1 + below(kMaxTileQueries, random);
          const uint32_t first_pos = below(3, random) * kSegmentPositions;
          const uint32_t n_pos = 1 + below(kSegmentPositions, random);
          SCOPED_TRACE(describe(table, layout) + " seed " + std::to_string(kSeed) + " round " +
                       std::to_string(round));
          Tile tile(n_queries, head_dim, random);
          draw_positions(tile, first_pos, n_pos, random);
          tile.attend(table, segment, first_pos, n_pos);
          for (uint32_t i = 0; i < n_queries; ++i) {
            Tile one = tile.single(i);
            one.attend(table, segment, first_pos, n_pos);
            expect_same_partial(one, tile, i);
          }
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST(AttendSegment, GivesAQueryTheSameBitsWhateverFollowsIt) {
  for (const KernelTable& table : attend_tables()) {
    for (const KvLayout& layout : layouts(64)) {
      SCOPED_TRACE(describe(table, layout) + " seed " + std::to_string(kSeed));
      Random random(kSeed);
      const Segment segment(table, layout, kSegmentPositions, random);
      Tile tile(3, 64, random);
      for (const uint32_t pos : {0u, 15u, 16u, 30u, 31u, 32u, 33u, 63u, 64u, 200u, 254u, 255u}) {
        tile.pos.assign(3, pos);
        tile.attend(table, segment, 0, kSegmentPositions);
        const Tile whole = tile;
        tile.attend(table, segment, 0, pos + 1);
        EXPECT_TRUE(same_bits(tile.o, whole.o) && same_bits(tile.m, whole.m) &&
                    same_bits(tile.l, whole.l))
            << "pos " << pos;
      }
    }
  }
}

TEST(AttendSegment, ReadsNoByteThatNoQueryAttends) {
  for (const KernelTable& table : attend_tables()) {
    for (const KvLayout& layout : layouts(32)) {
      SCOPED_TRACE(describe(table, layout) + " seed " + std::to_string(kSeed));
      for (const uint32_t n_queries : {1u, 3u, 12u, 40u}) {
        for (const uint32_t written : {1u, 17u, 33u, 200u}) {
          Random random(kSeed);
          const Segment poisoned(table, layout, written, random,
                                 0xff);  // NaN as f16, as a scale, as a score
          random.seed(kSeed);
          const Segment zeroed(table, layout, written, random, 0);
          Tile tile(n_queries, 32, random);
          tile.pos.assign(n_queries, written - 1);
          tile.attend(table, zeroed, 0, written);
          const Tile want = tile;
          // n_pos past the written rows: the mask alone must keep them out. Blocks wholly past them
          // need not exist.
          Segment partly = poisoned;
          for (uint32_t b = (written + 31) / 32; b < 8; ++b) partly.blocks[b] = nullptr;
          tile.attend(table, partly, 0, (written + 31) / 32 * 32);
          EXPECT_TRUE(same_bits(tile.o, want.o) && same_bits(tile.m, want.m) &&
                      same_bits(tile.l, want.l))
              << n_queries << " queries, " << written << " rows";
        }
      }
    }
  }
}

TEST(AttendSegment, KeepsAnInfiniteValueFromQueriesBeforeIt) {
  for (const KernelTable& table : attend_tables()) {
    Random random(kSeed);
    const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 64);
    Segment segment(table, layout, 64, random);
    std::vector<float> k(64, 0.5f), v(64, 1e30f);
    table.store_kv(layout, const_cast<std::byte*>(segment.blocks[1]), 3, k.data(),
                   v.data());  // position 35
    Tile tile(12, 64, random);
    for (uint32_t i = 0; i < 12; ++i) tile.pos[i] = 30 + i;
    tile.attend(table, segment, 0, 64);
    for (uint32_t i = 0; i < 12; ++i)
      EXPECT_EQ(std::isfinite(tile.o[i * 64]), tile.pos[i] < 35) << table.name << " query " << i;
  }
}

TEST(AttendSegment, HintsOfTheNextCallChangeNoBit) {
  for (const KernelTable& table : attend_tables()) {
    Random random(kSeed);
    const KvLayout layout = KvLayout::make(KvCodec::kQ8_0, KvCodec::kQ8_0, 64);
    const Segment segment(table, layout, 256, random);
    Tile tile(3, 64, random);
    tile.pos.assign(3, 255);
    tile.attend(table, segment, 0, 256);
    std::vector<float> scratch(attend_scratch_floats(3, 64)), o(3 * 64), m(3), l(3);
    for (uint32_t n_next = 1; n_next <= 8; ++n_next) {
      const AttendArgs a{.q = tile.q.data(),
                         .q_stride = 67,
                         .query_pos = tile.pos.data(),
                         .n_queries = 3,
                         .window = 0,
                         .layout = layout,
                         .blocks = segment.blocks.data(),
                         .first_pos = 0,
                         .n_pos = 256,
                         .scratch = scratch.data(),
                         .o = o.data(),
                         .m = m.data(),
                         .l = l.data(),
                         .next_blocks = segment.blocks.data(),
                         .n_next_blocks = n_next};
      table.attend_segment(a);
      EXPECT_TRUE(same_bits(o, tile.o) && same_bits(m, tile.m) && same_bits(l, tile.l))
          << table.name << " " << n_next;
    }
  }
}

/// As the segments of a span follow one another, each with keys, values and masks of its own.
TEST(AttendSegment, QueriesPreparedByTheLastCallChangeNoBit) {
  for (const KernelTable& table : attend_tables()) {
    for (const KvLayout& layout : layouts(64)) {
      for (const uint32_t n_queries : {1u, 7u, 12u, 40u}) {
        SCOPED_TRACE(describe(table, layout) + " queries " + std::to_string(n_queries));
        Random random(kSeed);
        Tile tile(n_queries, 64, random);
        tile.pos.assign(n_queries, 500);
        std::vector<float> scratch(attend_scratch_floats(n_queries, 64) + 16);
        for (uint32_t i = 0; i < 3; ++i) {
          const Segment segment(table, layout, 256, random);
          tile.attend(table, segment, i * 256, 256);
          const Tile want = tile;
          tile.scratch = &scratch;
          tile.has_prepared_q = i > 0;
          tile.attend(table, segment, i * 256, 256);
          tile.scratch = nullptr;
          tile.has_prepared_q = false;
          EXPECT_TRUE(same_bits(tile.o, want.o) && same_bits(tile.m, want.m) &&
                      same_bits(tile.l, want.l))
              << "segment " << i;
        }
      }
    }
  }
}

/// Weights one by one: eight positions with a score each and a value in a dimension of its own,
/// under a ninth whose score is 0. Every f16 up to 110 is a score, negated and times a factor that
/// fills the lower bits.
TEST(AttendSegment, ExponentialErrsByTwoUnitsInTheLastPlaceAtMost) {
  for (const KernelTable& table : attend_tables()) {
    const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 8);
    Random random(kSeed);
    const Segment segment(table, layout, 0, random);
    Tile tile(1, 8, random);
    tile.pos = {8};
    double worst = 0;
    for (uint32_t first = 1; first + 8 < 0x56e0; first += 8) {
      const float factor = 0.5f + static_cast<float>(below(4096, random)) / 8192.0f;
      std::fill(tile.q.begin(), tile.q.end(), 0.0f);
      tile.q[0] = -factor;
      for (uint32_t i = 0; i < 9; ++i) {
        std::vector<float> k(8), v(8);
        k[0] = i == 0 ? 0.0f : f16_to_f32(static_cast<uint16_t>(first + i - 1));
        if (i > 0) v[i - 1] = 1.0f;
        table.store_kv(layout, const_cast<std::byte*>(segment.blocks[0]), i, k.data(), v.data());
      }
      tile.attend(table, segment, 0, 9);
      for (uint32_t i = 0; i < 8; ++i) {
        const float score = -factor * f16_to_f32(static_cast<uint16_t>(first + i));
        if (score < -86.98f) {  // 2^-125.5: what comes next would soon be subnormal
          const bool is_kept = score >= -87.0f && tile.o[i] >= 0x1p-126f && tile.o[i] <= 0x1p-125f;
          EXPECT_TRUE(tile.o[i] == 0.0f || is_kept) << table.name << ' ' << score;
          continue;
        }
        const double want = std::exp(double{score});
        const double unit = std::exp2(std::floor(std::log2(want)) - 23);
        worst = std::max(worst, std::abs(tile.o[i] - want) / unit);
      }
    }
    EXPECT_LE(worst, 2.0) << table.name;
    EXPECT_GT(worst, 0.0) << table.name;
    RecordProperty(std::string("worst_ulp_") + table.name, std::to_string(worst));
  }
}

// ---- Merging ----

struct Running {
  explicit Running(uint32_t n, uint32_t head_dim)
      : o(uint64_t{n} * head_dim), m(n, -std::numeric_limits<float>::infinity()), l(n) {}
  void merge(const KernelTable& table, const Tile& tile) {
    const MergeArgs a{tile.o.data(), tile.m.data(), tile.l.data(),  o.data(),
                      m.data(),      l.data(),      tile.n_queries, tile.head_dim};
    table.merge_partials(a);
  }
  std::vector<float> o, m, l;
};

TEST(MergePartials, OfSeveralSegmentsIsTheSoftmaxOverAll) {
  for (const KernelTable& table : attend_tables()) {
    for (const uint32_t head_dim : {8u, 64u, 80u, 128u}) {
      for (const KvLayout& layout : layouts(head_dim)) {
        SCOPED_TRACE(describe(table, layout) + " seed " + std::to_string(kSeed));
        Random random(kSeed);
        constexpr uint32_t kSegments = 5;
        constexpr uint32_t kPositions = kSegments * kSegmentPositions - 100;
        std::vector<Segment> segments;
        for (uint32_t s = 0; s < kSegments; ++s) {
          segments.emplace_back(table, layout,
                                std::min(kSegmentPositions, kPositions - s * kSegmentPositions),
                                random);
        }
        Tile tile(6, head_dim, random);
        for (float& x : tile.q)
          x *= 4;  // scores of several units: the maximum moves between segments
        for (uint32_t i = 0; i < 6; ++i) tile.pos[i] = i * 211 + 90;
        tile.pos[5] = kPositions - 1;
        Running run(6, head_dim);
        std::vector<std::vector<DoublePartial>> want(6);
        for (uint32_t s = 0; s < kSegments; ++s) {
          tile.attend(table, segments[s], s * kSegmentPositions, segments[s].n_pos);
          run.merge(table, tile);
          for (uint32_t i = 0; i < 6; ++i) {
            want[i].push_back(
                attend_double(tile, i, segments[s], s * kSegmentPositions, segments[s].n_pos));
          }
        }
        for (uint32_t i = 0; i < 6; ++i) {
          double top = -std::numeric_limits<double>::infinity();
          for (const DoublePartial& p : want[i]) top = std::max(top, p.m);
          for (uint32_t d = 0; d < head_dim; ++d) {
            double o = 0, l = 0, o_bound = 0, l_bound = 0;
            for (const DoublePartial& p : want[i]) {
              const double share = p.l == 0 ? 0.0 : std::exp(p.m - top);
              // Each later merge may multiply by exp (2 ulp), of a difference of at most 40, and
              // round twice more.
              const double merges = (p.m_bound + kSegments * (4 + 40 + 3) * kEps);
              o += share * p.o[d];
              l += share * p.l;
              o_bound += share * (p.o_bound[d] + merges * (std::abs(p.o[d]) + p.o_bound[d]));
              l_bound += share * (p.l_bound + merges * p.l);
            }
            const double got = double{run.o[i * head_dim + d]} / run.l[i];
            ASSERT_NEAR(got, o / l, 1.01 * (o_bound / l + std::abs(o / l) * l_bound / l))
                << "query " << i << " dim " << d;
          }
        }
      }
    }
  }
}

/// Shares are computed for a vector of queries at once, of which some attended nothing.
TEST(MergePartials, GivesAQueryTheSameBitsAloneAndInAnyTile) {
  constexpr uint32_t kQueries = 37;
  constexpr uint32_t kDims = 24;
  for (const KernelTable& table : attend_tables()) {
    Random random(kSeed);
    Running all(kQueries, kDims);
    std::vector<Running> alone(kQueries, Running(1, kDims));
    for (uint32_t segment = 0; segment < 4; ++segment) {
      Tile tile(kQueries, kDims, random);
      tile.o = normal_floats(random, uint64_t{kQueries} * kDims, 1.0f);
      tile.m = normal_floats(random, kQueries, 3.0f);
      tile.l = normal_floats(random, kQueries, 1.0f);
      for (uint32_t i = segment; i < kQueries; i += 3)
        tile.m[i] = -std::numeric_limits<float>::infinity();
      all.merge(table, tile);
      for (uint32_t i = 0; i < kQueries; ++i) {
        Tile one = tile.single(i);
        const auto from = tile.o.begin() + static_cast<std::ptrdiff_t>(i * kDims);
        one.o.assign(from, from + kDims);
        one.m = {tile.m[i]};
        one.l = {tile.l[i]};
        alone[i].merge(table, one);
      }
    }
    for (uint32_t i = 0; i < kQueries; ++i) {
      const auto from = all.o.begin() + static_cast<std::ptrdiff_t>(i * kDims);
      EXPECT_TRUE(same_bits(alone[i].o, {from, from + kDims})) << table.name << " query " << i;
      EXPECT_TRUE(same_bits(alone[i].m, {all.m[i]})) << table.name << " query " << i;
      EXPECT_TRUE(same_bits(alone[i].l, {all.l[i]})) << table.name << " query " << i;
    }
  }
}

TEST(MergePartials, OfNothingKeepsTheBitsOfTheOther) {
  for (const KernelTable& table : attend_tables()) {
    const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 80);
    Random random(kSeed);
    const Segment segment(table, layout, 40, random);
    Tile tile(2, 80, random);
    tile.pos = {39, 20};
    tile.attend(table, segment, 0, 40);
    const Tile some = tile;
    tile.attend(table, segment, 256, 40);  // all after the queries
    EXPECT_EQ(tile.l[0], 0.0f);
    EXPECT_TRUE(same_bits(tile.o, std::vector<float>(160, 0.0f)));

    Running run(2, 80);
    run.merge(table, tile);
    EXPECT_EQ(run.m[0], -std::numeric_limits<float>::infinity()) << table.name;
    EXPECT_TRUE(same_bits(run.o, std::vector<float>(160, 0.0f)) && same_bits(run.l, {0.0f, 0.0f}))
        << table.name;
    run.merge(table, some);
    EXPECT_TRUE(same_bits(run.o, some.o) && same_bits(run.m, some.m) && same_bits(run.l, some.l))
        << table.name;
    run.merge(table, tile);
    EXPECT_TRUE(same_bits(run.o, some.o) && same_bits(run.m, some.m) && same_bits(run.l, some.l))
        << table.name;
  }
}

// ---- Storing ----

TEST(StoreKv, WritesTheSameBytesOnEveryInstructionSet) {
  const std::vector<KernelTable> tables = attend_tables();
  for (const uint32_t head_dim : {8u, 32u, 80u, 128u}) {
    for (const KvLayout& layout : layouts(head_dim)) {
      Random random(kSeed);
      for (const float deviation : {1e-8f, 1e-5f, 1e-3f, 1.0f, 1e4f}) {
        const std::vector<float> k = normal_floats(random, head_dim, deviation);
        const std::vector<float> v = normal_floats(random, head_dim, deviation);
        std::vector<std::byte> want(layout.block_bytes, std::byte{0x5a});
        tables[0].store_kv(layout, want.data(), 7, k.data(), v.data());
        for (const KernelTable& table : tables) {
          std::vector<std::byte> got(layout.block_bytes, std::byte{0x5a});
          table.store_kv(layout, got.data(), 7, k.data(), v.data());
          EXPECT_TRUE(got == want)
              << describe(table, layout) << " deviation " << deviation << " seed " << kSeed;
        }
      }
    }
  }
}

TEST(StoreKv, RoundsF16ToNearestEven) {
  const std::vector<float> values{0.0f,
                                  -0.0f,
                                  1.0f,
                                  1.0f + 0x1p-11f,
                                  1.0f + 0x3p-11f,
                                  65504.0f,
                                  65519.9f,
                                  65520.0f,
                                  -1e9f,
                                  0x1p-24f,
                                  0x1p-25f,
                                  0x1.8p-25f,
                                  0x1p-14f,
                                  0x1.ffcp-15f,
                                  6.1e-5f,
                                  3.14159f,
                                  std::numeric_limits<float>::infinity()};
  for (const KernelTable& table : attend_tables()) {
    const KvLayout layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 24);
    Segment segment(table, layout, 0, *std::make_unique<Random>(kSeed));
    std::vector<float> row(24, 2.0f);
    std::copy(values.begin(), values.end(), row.begin());
    table.store_kv(layout, const_cast<std::byte*>(segment.blocks[0]), 31, row.data(), row.data());
    for (uint32_t d = 0; d < 24; ++d) {
      EXPECT_EQ(segment.half_at(31, (d * 32 + 31) * 2), f32_to_f16(row[d]))
          << table.name << " K of " << row[d];
      EXPECT_EQ(segment.half_at(31, layout.v_offset + (31 * 24 + d) * 2), f32_to_f16(row[d]))
          << table.name << " V of " << row[d];
    }
    row.assign(24, std::numeric_limits<float>::quiet_NaN());
    table.store_kv(layout, const_cast<std::byte*>(segment.blocks[0]), 0, row.data(), row.data());
    EXPECT_TRUE(std::isnan(segment.k(0, 0)) && std::isnan(segment.v(0, 23))) << table.name;
  }
}

/// |decoded - x| <= scale / 2, and scale <= max|x| / 127 rounded to f16 or one f16 more.
TEST(StoreKv, QuantisesWithinHalfAStep) {
  for (const KernelTable& table : attend_tables()) {
    const KvLayout layout = KvLayout::make(KvCodec::kQ8_0, KvCodec::kQ8_0, 64);
    Random random(kSeed);
    for (const float deviation : {1e-9f, 1e-7f, 1e-6f, 1e-5f, 1e-4f, 1e-2f, 1.0f, 100.0f, 1e5f}) {
      Segment segment(table, layout, 0, random);
      for (uint32_t row = 0; row < 32; ++row) {
        const std::vector<float> k = normal_floats(random, 64, deviation);
        const std::vector<float> v = normal_floats(random, 64, deviation);
        table.store_kv(layout, const_cast<std::byte*>(segment.blocks[0]), row, k.data(), v.data());
        for (uint32_t d = 0; d < 64; ++d) {
          const double k_step =
              f16_to_f32(segment.half_at(row, layout.k_scales_offset + (d / 32 * 32 + row) * 2));
          const double v_step =
              f16_to_f32(segment.half_at(row, layout.v_scales_offset + (d / 32 * 32 + row) * 2));
          float largest = 0;
          for (uint32_t i = d / 32 * 32; i < d / 32 * 32 + 32; ++i)
            largest = std::max(largest, std::abs(k[i]));
          EXPECT_LE(k_step, largest / 127 * (1 + 0x1p-11) + 0x1p-24)
              << table.name << " seed " << kSeed;
          ASSERT_LE(std::abs(segment.k(row, d) - k[d]), k_step * (0.5 + 0x1p-11))
              << table.name << " K deviation " << deviation;
          ASSERT_LE(std::abs(segment.v(row, d) - v[d]), v_step * (0.5 + 0x1p-11))
              << table.name << " V deviation " << deviation;
        }
      }
    }
    Segment segment(table, layout, 0, random);
    const std::vector<float> zeros(64);
    table.store_kv(layout, const_cast<std::byte*>(segment.blocks[0]), 0, zeros.data(),
                   zeros.data());
    for (uint32_t d = 0; d < 64; ++d)
      EXPECT_EQ(segment.k(0, d) + segment.v(0, d), 0.0) << table.name;
  }
}

TEST(AttendBytes, CountsWhatABlockHolds) {
  for (const uint32_t head_dim : {32u, 64u, 128u}) {
    for (const KvLayout& layout : layouts(head_dim))
      EXPECT_EQ(attend_bytes(layout, kBlockPositions), layout.block_bytes) << head_dim;
  }
}

}  // namespace
}  // namespace strata::cpu_attn
