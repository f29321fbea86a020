// tests/cpu_attn/index_tail_test.cc - mean values of blocks and attention over them, on every
// instruction set, against double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/host_memory.h"
#include "cpu_attn/kernels.h"
#include "tests/cpu_attn/index_fixture.h"

namespace strata::cpu_attn {
namespace {

const float kInfinity = std::numeric_limits<float>::infinity();
const float kUntouched = -12345.0f;
constexpr double kEpsilon = 0x1p-24;  // of one rounding

struct ValueRow {
  float scale;
  const int8_t* codes;
};

ValueRow value_row(const std::byte* tile, uint32_t block, uint32_t head_dim) {
  ValueRow row{0, reinterpret_cast<const int8_t*>(tile + 32 + block * value_row_bytes(head_dim))};
  std::memcpy(&row.scale, tile + block * sizeof(float), sizeof(float));
  return row;
}

// ---- A block's mean ----

/// The extent of a segment, encoded.
Tiles mean_values(const KernelTable& table, const Segment& segment) {
  Tiles tiles(1, value_tile_bytes(segment.layout.head_dim));
  for (uint32_t block = 0; block < kExtentBlocks; ++block)
    table.index.value_mean({segment.layout, segment.blocks[block], block, tiles.tile(0)});
  return tiles;
}

std::vector<std::byte> used_bytes(Tiles& tiles, uint32_t head_dim) {
  const uint64_t n = kExtentBlocks * (sizeof(float) + value_row_bytes(head_dim));
  return {tiles.tile(0), tiles.tile(0) + n};
}

TEST(ValueMean, IsWithinHalfAStepOfTheMeanAndTheSameOnEverySet) {
  Random random(kIndexSeed);
  for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0})
    for (const uint32_t head_dim : {8u, 40u, 64u, 96u, 128u, 256u}) {
      if (codec == KvCodec::kQ8_0 && head_dim % 32 != 0) continue;
      const auto layout = KvLayout::make(KvCodec::kF16, codec, head_dim);
      const Segment segment(*available_kernels()[0], layout, kSegmentPositions, random);
      const auto tables = index_tables();
      Tiles tiles = mean_values(tables[0], segment);
      for (const KernelTable& table : tables) {
        Tiles others = mean_values(table, segment);
        EXPECT_EQ(used_bytes(others, head_dim), used_bytes(tiles, head_dim)) << table.name;
      }
      for (uint32_t block = 0; block < kExtentBlocks; ++block) {
        const ValueRow row = value_row(tiles.tile(0), block, head_dim);
        double largest = 0;
        for (uint32_t d = 0; d < head_dim; ++d) {
          double mean = 0, size = 0;
          for (uint32_t i = 0; i < kBlockPositions; ++i) {
            const double value = segment.v(block * kBlockPositions + i, d);
            mean += value / kBlockPositions;
            size += std::abs(value) / kBlockPositions;
          }
          largest = std::max(largest, std::abs(mean));
          ASSERT_NEAR(double{row.scale} * row.codes[d], mean,
                      0.5001 * row.scale + 33 * kEpsilon * size)
              << kv_codec_name(codec) << " " << head_dim << " block " << block << " " << d;
        }
        EXPECT_NEAR(row.scale * 127, largest, 1e-5);
        for (uint64_t d = head_dim; d < value_row_bytes(head_dim); ++d) EXPECT_EQ(row.codes[d], 0);
      }
    }
}

TEST(ValueMean, OfABlockThatIsNotFiniteHasNoScale) {
  Random random(kIndexSeed);
  const auto layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 40);
  Segment segment(*available_kernels()[0], layout, kSegmentPositions, random);
  const auto put = [&](uint32_t block, uint32_t at, uint16_t half) {
    std::memcpy(const_cast<std::byte*>(segment.blocks[block]) + layout.v_offset + uint64_t{at} * 2,
                &half, 2);
  };
  put(1, 39, 0x7c00);          // infinity, the last dimension of the first position
  put(2, 31 * 40, 0xfc00);     // its negative, in the last position
  put(3, 7 * 40 + 8, 0x7e00);  // not a number
  for (uint32_t i = 0; i < 32 * 40; ++i) put(4, i, 0);
  for (uint32_t i = 0; i < 32; ++i) put(5, i * 40 + 3, 0x7bff);  // the largest there is
  for (const KernelTable& table : index_tables()) {
    Tiles tiles = mean_values(table, segment);
    for (const uint32_t block : {0u, 4u, 5u, 6u, 7u})
      EXPECT_TRUE(std::isfinite(value_row(tiles.tile(0), block, 40).scale)) << table.name << block;
    for (const uint32_t block : {1u, 2u, 3u})
      EXPECT_TRUE(std::isnan(value_row(tiles.tile(0), block, 40).scale)) << table.name << block;
    EXPECT_EQ(value_row(tiles.tile(0), 4, 40).scale, 0);
    EXPECT_EQ(value_row(tiles.tile(0), 5, 40).codes[3], 127);
    EXPECT_NEAR(value_row(tiles.tile(0), 5, 40).scale, 65504.0f / 127, 1e-2);
  }
}

// ---- Attention over means ----

struct TailRun {
  std::vector<float> o, m, l;
};

/// Random rows and weights, of which some are left out in every way there is.
struct TailSetup {
  TailSetup(uint32_t dims, uint32_t block_count, uint32_t query_count, Random& random)
      : head_dim(dims),
        n_blocks(block_count),
        n_queries(query_count),
        tiles((block_count + 7) / 8, kOffset + value_tile_bytes(dims)) {
    std::uniform_real_distribution<float> uniform(0.2f, 1.0f);
    for (uint32_t t = 0; t < (n_blocks + 7) / 8; ++t) {
      std::byte* tile = tiles.tile(t);
      for (uint64_t i = 0; i < kOffset + value_tile_bytes(dims); ++i)
        tile[i] = static_cast<std::byte>(random());
      for (uint32_t b = 0; b < kExtentBlocks; ++b) {
        float scale = uniform(random) / 100;
        if (random() % 19 == 0) scale = random() % 2 == 0 ? kInfinity : std::nanf("");
        std::memcpy(tile + kOffset + b * sizeof(float), &scale, sizeof(float));
      }
    }
    weights = normal_floats(random, n_queries * stride(), 6.0f);
    for (float& weight : weights)
      if (random() % 7 == 0) weight = random() % 3 == 0 ? kInfinity : -kInfinity;
  }
  uint64_t stride() const { return n_blocks + 3; }

  TailRun run(const KernelTable& table, uint32_t first, uint32_t count) const {
    HostMemory scratch = HostMemory::reserve(kTailScratchFloats * sizeof(float));
    TailRun of{std::vector<float>(uint64_t{count} * head_dim + 1, kUntouched),
               std::vector<float>(count + 1, kUntouched),
               std::vector<float>(count + 1, kUntouched)};
    table.index.tail_sums({tiles.pointers(), kOffset, n_blocks, head_dim,
                           weights.data() + first * stride(), stride(), count,
                           scratch.as<float>(kTailScratchFloats).data(), of.o.data(), of.m.data(),
                           of.l.data()});
    EXPECT_EQ(of.o.back(), kUntouched);
    EXPECT_EQ(of.m.back(), kUntouched);
    EXPECT_EQ(of.l.back(), kUntouched);
    return of;
  }
  ValueRow row(uint32_t block) {
    return value_row(tiles.tile(block / kExtentBlocks) + kOffset, block % kExtentBlocks, head_dim);
  }
  bool is_in(uint32_t query, uint32_t block) {
    return std::isfinite(weights[query * stride() + block]) && std::isfinite(row(block).scale);
  }

  static constexpr uint64_t kOffset = 192;
  uint32_t head_dim, n_blocks, n_queries;
  Tiles tiles;
  std::vector<float> weights;
};

void expect_right(TailSetup& setup, const TailRun& run) {
  for (uint32_t query = 0; query < setup.n_queries; ++query) {
    double top = -std::numeric_limits<double>::infinity(), l = 0;
    for (uint32_t b = 0; b < setup.n_blocks; ++b)
      if (setup.is_in(query, b))
        top = std::max(top, double{setup.weights[query * setup.stride() + b]});
    ASSERT_EQ(run.m[query], static_cast<float>(top));
    std::vector<double> o(setup.head_dim), size(setup.head_dim);
    for (uint32_t b = 0; b < setup.n_blocks; ++b) {
      if (!setup.is_in(query, b)) continue;
      const double e = std::exp(setup.weights[query * setup.stride() + b] - top);
      const ValueRow row = setup.row(b);
      l += e;
      for (uint32_t d = 0; d < setup.head_dim; ++d) {
        o[d] += e * row.scale * row.codes[d];
        size[d] += std::abs(e * row.scale * row.codes[d]);
      }
    }
    // A weight errs by its exponent's rounding (|w - m| <= 60) and 2 ulp, a sum by a rounding each.
    const double relative = (60 + 4 + 2.0 * setup.n_blocks) * kEpsilon;
    ASSERT_NEAR(run.l[query], l, relative * l);
    for (uint32_t d = 0; d < setup.head_dim; ++d)
      ASSERT_NEAR(run.o[query * setup.head_dim + d], o[d], relative * size[d] + 1e-30)
          << "query " << query << " dimension " << d;
  }
}

TEST(TailSums, AreAttentionOverTheBlocksThatAreLeftIn) {
  Random random(kIndexSeed);
  for (const uint32_t head_dim : {8u, 24u, 64u, 80u, 128u})
    for (const uint32_t n_blocks : {1u, 7u, 8u, 63u, 255u, 256u, 257u, 600u}) {
      TailSetup setup(head_dim, n_blocks, 1 + n_blocks % 6, random);
      for (const KernelTable& table : index_tables()) {
        SCOPED_TRACE(std::string(table.name) + " " + std::to_string(head_dim) + " " +
                     std::to_string(n_blocks));
        const TailRun run = setup.run(table, 0, setup.n_queries);
        expect_right(setup, run);
        for (uint32_t query = 0; query < setup.n_queries; ++query) {
          const TailRun alone = setup.run(table, query, 1);
          EXPECT_EQ(alone.l[0], run.l[query]);
          EXPECT_TRUE(std::equal(alone.o.begin(), alone.o.end() - 1,
                                 run.o.begin() + std::ptrdiff_t{query} * head_dim));
        }
      }
    }
}

TEST(TailSums, OfNothingAreNothing) {
  Random random(kIndexSeed);
  TailSetup setup(64, 300, 3, random);
  std::fill_n(setup.weights.begin() + static_cast<std::ptrdiff_t>(setup.stride()), 300, -kInfinity);
  for (const KernelTable& table : index_tables()) {
    const TailRun run = setup.run(table, 0, 3);
    expect_right(setup, run);
    EXPECT_EQ(run.m[1], -kInfinity);
    EXPECT_EQ(run.l[1], 0);
    for (uint32_t d = 0; d < 64; ++d) EXPECT_EQ(run.o[64 + d], 0);
  }
}

}  // namespace
}  // namespace strata::cpu_attn
