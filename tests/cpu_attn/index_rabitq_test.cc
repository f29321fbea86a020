// tests/cpu_attn/index_rabitq_test.cc - rotated keys, on every instruction set: their codes, those
// of queries and the scan, against double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "base/host_memory.h"
#include "tests/cpu_attn/index_fixture.h"
#include "tests/cpu_attn/rabitq_tile.h"
#include "tests/cpu_attn/rotated_scan.h"

namespace strata::cpu_attn {
namespace {

using strata::testing::rabitq_rotated;
using strata::testing::RabitqReader;

const std::vector<uint32_t> kHeadDims{8, 40, 64, 80, 96, 128, 256};
uint32_t coded_dims(uint32_t head_dim) { return rabitq_groups(head_dim) * kRabitqGroup; }

// ---- The scan ----

struct RabitqScan : RotatedScan {
  RabitqScan(uint32_t dims, uint32_t tile_count, uint32_t query_count, Random& random)
      : RotatedScan(&IndexKernels::rabitq_scan, rabitq_tile_bytes(dims), dims, tile_count,
                    query_count) {
    std::uniform_real_distribution<float> uniform(0.2f, 1.0f);
    const auto size = std::sqrt(static_cast<float>(head_dim));
    for (uint32_t t = 0; t < n_tiles; ++t) {
      const uint64_t n = rabitq_tile_bytes(head_dim) - sizeof(RabitqSteps);
      for (uint64_t i = 0; i < n; ++i)
        tiles.tile(t)[i] =
            static_cast<std::byte>(i < rabitq_codes_bytes(head_dim) ? random() : random() % 128);
      RabitqSteps steps;
      for (uint32_t b = 0; b < kExtentBlocks; ++b) {
        steps.centre[b] = uniform(random) / 40 / size;
        steps.factor[b] = uniform(random) / 100 / size;
      }
      std::memcpy(tiles.tile(t) + n, &steps, sizeof(steps));
    }
    draw_queries(random, 1.0f / 30);
  }

  /// ln(sum exp) of a block's products with the decoded query, and the largest product there is.
  std::pair<double, double> wanted(uint32_t query, uint32_t block) {
    const RabitqReader reader(tiles.tile(block / kExtentBlocks), head_dim);
    double sum = 0, top = -std::numeric_limits<double>::infinity(), magnitude = 0;
    for (uint32_t i = 0; i < kBlockPositions; ++i) {
      const auto key = reader.key(block % kExtentBlocks, i);
      double score = 0, size = 0;
      for (uint32_t d = 0; d < head_dim; ++d) {
        const double term = query_value(query, d) * key[d];
        score += term;
        size += std::abs(term);
      }
      const double now = std::max(top, score);
      sum = sum * std::exp(top - now) + std::exp(score - now);
      top = now;
      magnitude = std::max(magnitude, size);
    }
    return {top + std::log(sum), magnitude};
  }
};

TEST(RabitqScan, GivesTheWeightOfEveryBlockAndTheSameBitsOnEverySet) {
  expect_weights_and_same_bits<RabitqScan>();
}

TEST(RabitqScan, HoldsTheLargestSumsThereAre) {
  Random random(kIndexSeed);
  RabitqScan scan(1024, 1, 1, random);
  std::fill_n(scan.tiles.tile(0), rabitq_codes_bytes(1024), std::byte{255});
  std::fill_n(scan.tiles.tile(0) + rabitq_codes_bytes(1024),
              rabitq_tile_bytes(1024) - rabitq_codes_bytes(1024) - sizeof(RabitqSteps),
              std::byte{127});
  expect_no_overflow(scan, 1e-5);
}

TEST(RabitqScan, GivesNoNanWhateverTheBytes) {
  expect_no_nan_whatever_the_bytes<RabitqScan>(rabitq_tile_bytes(64));
}

TEST(RabitqScan, ABlockOrAQueryThatIsNotFiniteWeighsInfinitely) {
  Random random(kIndexSeed);
  RabitqScan scan(64, 1, 2, random);
  RabitqSteps steps = RabitqReader(scan.tiles.tile(0), 64).steps();
  steps.centre[5] = std::nanf("");
  std::memcpy(scan.tiles.tile(0) + rabitq_tile_bytes(64) - sizeof(steps), &steps, sizeof(steps));
  scan.scales[1] = std::nanf("");
  expect_infinite_weights(scan);
}

// ---- Codes of keys ----

struct Encoded {
  Encoded(uint32_t dims, Random& random) : head_dim(dims), keys(8) {
    for (auto& block : keys) {
      block = normal_floats(random, uint64_t{head_dim} * kBlockPositions, 1.0f);
      for (uint32_t d = 0; d < head_dim; ++d)
        for (uint32_t i = 0; i < kBlockPositions; ++i)
          block[d * kBlockPositions + i] =
              block[d * kBlockPositions + i] * (d % 29 == 3 ? 9.0f : 1.0f) + (d % 7 == 1 ? 20 : 1);
    }
  }
  /// The tile after blocks in this order; memory that no block writes holds `filler`.
  std::vector<std::byte> encode(const KernelTable& table, const std::vector<uint32_t>& order) {
    const HostMemory memory = HostMemory::reserve(
        rabitq_tile_bytes(head_dim) + uint64_t{head_dim} * kBlockPositions * sizeof(float) + 64);
    auto* copy = reinterpret_cast<float*>(memory.data());
    std::byte* tile = memory.data() + uint64_t{head_dim} * kBlockPositions * sizeof(float);
    for (const uint32_t b : order) {
      std::copy(keys[b].begin(), keys[b].end(), copy);
      table.index.rabitq_encode({copy, head_dim, b, tile});
    }
    return {tile, tile + rabitq_tile_bytes(head_dim)};
  }
  std::vector<double> rotated(uint32_t block, uint32_t i) const {
    std::vector<float> key(head_dim);
    for (uint32_t d = 0; d < head_dim; ++d) key[d] = keys[block][d * kBlockPositions + i];
    return rabitq_rotated(key.data(), head_dim);
  }

  uint32_t head_dim;
  std::vector<std::vector<float>> keys;
};

const std::vector<uint32_t> kAllBlocks{0, 1, 2, 3, 4, 5, 6, 7};

/// Rounding of a rotation, a mean and a difference of values below 200: well below 1e-3.
constexpr double kNear = 1e-3;

void expect_codes(const Encoded& encoded, const RabitqReader& reader, uint32_t block) {
  const uint32_t head_dim = encoded.head_dim;
  std::vector<std::vector<double>> keys;
  std::vector<double> mean(head_dim);
  for (uint32_t i = 0; i < kBlockPositions; ++i) {
    keys.push_back(encoded.rotated(block, i));
    for (uint32_t d = 0; d < head_dim; ++d) mean[d] += keys[i][d] / kBlockPositions;
  }
  const double step = reader.steps().centre[block], unit = reader.steps().factor[block];
  double largest = 0;
  for (uint32_t d = 0; d < head_dim; ++d) {
    largest = std::max(largest, std::abs(mean[d]));
    ASSERT_NEAR(step * (reader.centre(block, d) - 64.0), mean[d], step / 2 + kNear);
  }
  ASSERT_NEAR(step, largest / 63, kNear);
  uint32_t largest_factor = 0;
  for (uint32_t i = 0; i < kBlockPositions; ++i) {
    double square = 0, products = 0, squares = 0;
    std::vector<double> r(head_dim);
    for (uint32_t d = 0; d < head_dim; ++d) {
      r[d] = keys[i][d] - step * (reader.centre(block, d) - 64.0);
      square += r[d] * r[d];
    }
    const double grid = 0.5860 * std::sqrt(square / head_dim);
    for (uint32_t d = 0; d < head_dim; ++d) {
      const double value = reader.level(block, i, d) - 3.5;
      ASSERT_NEAR(value, std::clamp(r[d] / grid, -3.5, 3.5), 0.5 + kNear) << d;
      products += r[d] * value;
      squares += value * value;
    }
    ASSERT_NEAR(unit * reader.factor(block, i), products / squares, unit / 2 + kNear);
    largest_factor = std::max(largest_factor, reader.factor(block, i));
  }
  ASSERT_EQ(largest_factor, 127u);
}

TEST(RabitqEncode, CodesAreThoseOfTheDefinition) {
  Random random(kIndexSeed);
  for (const uint32_t head_dim : kHeadDims) {
    Encoded encoded(head_dim, random);
    for (const KernelTable& table : index_tables()) {
      SCOPED_TRACE(std::string(table.name) + " head_dim " + std::to_string(head_dim));
      const auto tile = encoded.encode(table, kAllBlocks);
      const RabitqReader reader(tile.data(), head_dim);
      for (const uint32_t block : {0u, 3u, 7u}) expect_codes(encoded, reader, block);
      // A block writes its part and no other's.
      EXPECT_EQ(tile, encoded.encode(table, {7, 2, 1, 0, 4, 3, 5, 6})) << "order";
      // Dimensions that are not there have no codes.
      for (uint32_t d = head_dim; d < coded_dims(head_dim); ++d)
        for (uint32_t i = 0; i < kBlockPositions; ++i) ASSERT_EQ(reader.level(3, i, d), 0u);
    }
  }
}

TEST(RabitqEncode, KeysThatAreAllAlikeOrZeroAreTheirCentre) {
  Random random(kIndexSeed);
  Encoded encoded(64, random);
  std::fill(encoded.keys[1].begin(), encoded.keys[1].end(), 0.0f);
  std::fill(encoded.keys[2].begin(), encoded.keys[2].end(), 1e-7f);
  std::fill(encoded.keys[3].begin(), encoded.keys[3].end(), 8e6f);  // the largest of q8_0
  for (const KernelTable& table : index_tables()) {
    const auto tile = encoded.encode(table, kAllBlocks);
    const RabitqReader reader(tile.data(), 64);
    for (const uint32_t block : {1u, 2u, 3u}) {
      const auto want = encoded.rotated(block, 0);
      double size = 0;
      for (const double x : want) size = std::max(size, std::abs(x));
      for (uint32_t i = 0; i < kBlockPositions; ++i)
        for (uint32_t d = 0; d < 64; ++d)
          // Half a step of the centre, and the grid's largest error of what is left.
          ASSERT_NEAR(reader.key(block, i)[d], want[d], size / 63) << table.name << " " << block;
    }
  }
}

/// Where a block's keys do not differ, neither do those that its codes stand for, so that a query
/// which is long there finds the right ones; elsewhere codes lose little more.
TEST(RabitqEncode, ErrorsCancelInDimensionsInWhichKeysDoNotDiffer) {
  constexpr uint32_t kStill[] = {5, 17, 40};
  Random random(kIndexSeed);
  for (const uint32_t head_dim : {64u, 80u, 128u}) {
    Encoded encoded(head_dim, random);
    for (auto& block : encoded.keys) {
      block = normal_floats(random, uint64_t{head_dim} * kBlockPositions, 1.0f);
      for (const uint32_t d : kStill)
        std::fill_n(block.begin() + d * kBlockPositions, kBlockPositions, d == 5 ? 2.0f : 0.0f);
    }
    for (const KernelTable& table : index_tables()) {
      SCOPED_TRACE(std::string(table.name) + " head_dim " + std::to_string(head_dim));
      const auto tile = encoded.encode(table, kAllBlocks);
      const RabitqReader reader(tile.data(), head_dim);
      double still = 0, all = 0, n = 0;
      for (uint32_t b = 0; b < 8; ++b)
        for (uint32_t i = 0; i < kBlockPositions; ++i, ++n) {
          auto error = reader.key(b, i);
          const auto key = encoded.rotated(b, i);
          for (uint32_t d = 0; d < head_dim; ++d) {
            error[d] -= key[d];
            all += error[d] * error[d] / head_dim;
          }
          for (const uint32_t d : kStill) {
            std::vector<float> axis(head_dim);
            axis[d] = 1;
            const auto along = rabitq_rotated(axis.data(), head_dim);
            double sum = 0;
            for (uint32_t at = 0; at < head_dim; ++at) sum += error[at] * along[at];
            still += sum * sum / std::size(kStill);
          }
        }
      std::printf("%u %s: squares along still dimensions %.5f, of all %.5f\n", head_dim, table.name,
                  still / n, all / n);
      EXPECT_LT(still / n, 0.001);  // a single code's rounding alone is 0.03
      EXPECT_LT(all / n, 0.045);    // 0.0374 where no code moves
    }
  }
}

TEST(RabitqEncode, AKeyThatIsNotFiniteIsMarked) {
  Random random(kIndexSeed);
  for (const float wild : {std::nanf(""), std::numeric_limits<float>::infinity(),
                           -std::numeric_limits<float>::infinity()})
    for (const uint32_t at : {0u, 63u * 32, 64u * 32 - 1, 79u * 32 + 5}) {
      Encoded encoded(80, random);
      encoded.keys[4][at] = wild;
      for (const KernelTable& table : index_tables()) {
        const auto tile = encoded.encode(table, kAllBlocks);
        const RabitqReader reader(tile.data(), 80);
        for (uint32_t b = 0; b < 8; ++b)
          EXPECT_EQ(std::isfinite(reader.steps().centre[b]), b != 4) << table.name << " " << at;
      }
    }
}

// ---- Codes of queries ----

TEST(RabitqQuery, IsTheRotatedQueryToAStep) {
  Random random(kIndexSeed);
  for (const uint32_t head_dim : kHeadDims)
    for (const uint32_t n : {1u, 3u, 9u, 33u, 96u}) {
      const auto q = normal_floats(random, uint64_t{n} * head_dim, 1.0f);
      for (const KernelTable& table : index_tables()) {
        const HostMemory columns =
            HostMemory::reserve(uint64_t{head_dim} * kBlockPositions * sizeof(float));
        std::vector<int8_t> codes(uint64_t{n} * coded_dims(head_dim), int8_t{1});
        std::vector<float> scales(n);
        std::vector<int32_t> sums(n);
        table.index.rabitq_query({q.data(), n, head_dim, reinterpret_cast<float*>(columns.data()),
                                  codes.data(), scales.data(), sums.data()});
        for (const uint32_t i : {0u, n / 2, n - 1}) {
          const auto want = rabitq_rotated(q.data() + uint64_t{i} * head_dim, head_dim);
          int32_t sum = 0;
          double largest = 0;
          for (uint32_t d = 0; d < coded_dims(head_dim); ++d) {
            const int8_t code = codes[uint64_t{i} * coded_dims(head_dim) + d];
            sum += code;
            if (d >= head_dim) {
              ASSERT_EQ(code, 0);
              continue;
            }
            largest = std::max(largest, std::abs(want[d]));
            ASSERT_NEAR(double{scales[i]} * code, want[d], scales[i] * 0.5 + 1e-5)
                << table.name << " head_dim " << head_dim << " query " << i;
          }
          ASSERT_EQ(sum, sums[i]);
          ASSERT_NEAR(scales[i] * 127, largest, 1e-5);
        }
      }
    }
}

TEST(RabitqQuery, OfZerosHasNoScaleAndOneThatIsNotFiniteHasNan) {
  const HostMemory columns = HostMemory::reserve(uint64_t{64} * kBlockPositions * sizeof(float));
  for (const KernelTable& table : index_tables())
    for (const float value :
         {0.0f, 1e-38f, 3e38f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
      const std::vector<float> q(64, value);
      std::vector<int8_t> codes(64, int8_t{1});
      float scale = -1;
      int32_t sum = -1;
      table.index.rabitq_query(
          {q.data(), 1, 64, reinterpret_cast<float*>(columns.data()), codes.data(), &scale, &sum});
      EXPECT_EQ(codes, std::vector<int8_t>(64, 0));
      EXPECT_EQ(sum, 0);
      EXPECT_EQ(std::isnan(scale), !(value < 1)) << table.name << " " << value;
      if (value < 1) {
        EXPECT_EQ(scale, 0);
      }
    }
}

}  // namespace
}  // namespace strata::cpu_attn
