// tests/cpu_attn/row_ops_test.cc - row operations against double precision; a value's bits do not
// depend on its place.
#include "cpu_attn/row_ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace strata::cpu_attn {
namespace {

constexpr uint32_t kSeed = 77;
constexpr double kEps = 0x1p-24;  // one rounding
const std::vector<uint32_t> kSizes{1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 576, 1000};

std::vector<KernelTable> row_tables() {
  std::vector<KernelTable> tables(1);
  fill_row_ops_scalar(tables[0]);
  tables[0].name = "scalar";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    fill_row_ops_avx2(tables.emplace_back());
    tables.back().name = "avx2";
  }
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    fill_row_ops_avx512(tables.emplace_back());
    tables.back().name = "avx512";
  }
  return tables;
}

std::vector<float> normal_floats(uint64_t n, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(n);
  for (float& x : values) x = normal(random);
  return values;
}

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

/// f(a, b, n, out): an operation whose value i depends on a[i] and b[i] only.
using Elementwise =
    std::function<void(const KernelTable&, const float*, const float*, uint32_t, float*)>;

/// Every value equals the one computed alone, at any offset and length, in place too; nothing past
/// n is written.
void expect_the_same_bits_at_any_place(const Elementwise& f, float deviation) {
  const std::vector<float> a = normal_floats(1100, deviation, kSeed);
  const std::vector<float> b = normal_floats(1100, 1.0f, kSeed + 1);
  for (const KernelTable& table : row_tables()) {
    std::vector<float> alone(1100);
    for (uint32_t i = 0; i < 1100; ++i) f(table, &a[i], &b[i], 1, &alone[i]);
    for (const uint32_t n : kSizes) {
      for (const uint32_t offset : {0u, 1u, 5u, 16u}) {
        std::vector<float> out(n + 2, -12345.0f);
        f(table, &a[offset], &b[offset], n, &out[1]);
        EXPECT_EQ(out[0], -12345.0f) << table.name;
        EXPECT_EQ(out[n + 1], -12345.0f) << table.name << " n " << n;
        std::vector<float> in_place = a;
        f(table, &in_place[offset], &b[offset], n, &in_place[offset]);
        for (uint32_t i = 0; i < n; ++i) {
          ASSERT_EQ(bits_of(out[i + 1]), bits_of(alone[offset + i]))
              << table.name << " n " << n << " value " << i << " seed " << kSeed;
          ASSERT_EQ(bits_of(in_place[offset + i]), bits_of(alone[offset + i]))
              << table.name << " in place, n " << n << " value " << i;
        }
      }
    }
  }
}

TEST(SiluMul, HasTheSameBitsAtAnyPlace) {
  expect_the_same_bits_at_any_place([](const KernelTable& t, const float* a, const float* b,
                                       uint32_t n, float* out) { t.silu_mul(a, b, n, out); },
                                    4.0f);
}

TEST(GeluMul, HasTheSameBitsAtAnyPlace) {
  expect_the_same_bits_at_any_place([](const KernelTable& t, const float* a, const float* b,
                                       uint32_t n, float* out) { t.gelu_mul(a, b, n, out); },
                                    2.0f);
}

TEST(Add, IsTheRoundedSumAtAnyPlace) {
  const Elementwise add = [](const KernelTable& t, const float* a, const float* b, uint32_t n,
                             float* out) { t.add(a, b, n, out); };
  expect_the_same_bits_at_any_place(add, 1.0f);
  const float a = 1.25f, b = 0x1p-24f;
  for (const KernelTable& table : row_tables()) {
    float out = 0;
    add(table, &a, &b, 1, &out);
    EXPECT_EQ(out, a + b) << table.name;
  }
}

TEST(Scale, IsTheRoundedProductAtAnyPlace) {
  expect_the_same_bits_at_any_place([](const KernelTable& t, const float* a, const float*,
                                       uint32_t n, float* out) { t.scale(a, 0.3f, n, out); },
                                    1.0f);
  const float a = 1.7f;
  for (const KernelTable& table : row_tables()) {
    float out = 0;
    table.scale(&a, 0.3f, 1, &out);
    EXPECT_EQ(out, a * 0.3f) << table.name;
  }
}

/// silu: 2 ulp of exp (4 eps), the sum, the quotient, the product; all relative. Below -87 exp(-x)
/// nears the largest float and the true value is under 1e-36.
TEST(SiluMul, MatchesDoublePrecision) {
  for (const KernelTable& table : row_tables()) {
    for (float x = -120.0f; x < 120.0f; x += 0.0371f) {
      const float up = 1.7f;
      float out = 0;
      table.silu_mul(&x, &up, 1, &out);
      const double want = x / (1 + std::exp(-double{x})) * up;
      ASSERT_NEAR(out, want, std::abs(want) * 8 * kEps + 1e-36) << table.name << " x " << x;
    }
  }
}

/// gelu: as silu of 2u, where 2u errs by 6 roundings and constants, which exp turns into |2u| times
/// that.
TEST(GeluMul, MatchesDoublePrecisionOfTheTanhForm) {
  for (const KernelTable& table : row_tables()) {
    for (float x = -20.0f; x < 20.0f; x += 0.00371f) {
      const float up = -0.9f;
      float out = 0;
      table.gelu_mul(&x, &up, 1, &out);
      const double u =
          std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * std::pow(double{x}, 3));
      const double want = x / (1 + std::exp(-2 * u)) * up;
      ASSERT_NEAR(out, want, std::abs(want) * (8 + 6 * std::abs(2 * u)) * kEps + 1e-35)
          << table.name << " x " << x;
      if (x > -3) {
        ASSERT_NEAR(out, 0.5 * x * (1 + std::tanh(u)) * up, 1e-5) << table.name << " x " << x;
      }
    }
  }
}

TEST(Activations, HoldAtTheEndsOfTheRange) {
  const float inf = std::numeric_limits<float>::infinity();
  const float one = 1.0f;
  for (const KernelTable& table : row_tables()) {
    for (const auto& f : {table.silu_mul, table.gelu_mul}) {
      float out = 1;
      for (const float x : {-1e30f, -1e4f, -200.0f, 0.0f}) {
        f(&x, &one, 1, &out);
        EXPECT_EQ(out, 0.0f) << table.name << " x " << x;
      }
      for (const float x : {90.0f, 1e4f, 1e30f, inf}) {
        f(&x, &one, 1, &out);
        EXPECT_EQ(out, x) << table.name;
      }
      const float nan = std::numeric_limits<float>::quiet_NaN();
      f(&nan, &one, 1, &out);
      EXPECT_TRUE(std::isnan(out)) << table.name;
    }
  }
}

/// The sum of squares: each value through at most n / 4 + 6 roundings (scalar: 4 accumulators),
/// halved by the square root; then mean, eps, root, quotient and two products.
TEST(RmsNorm, MatchesDoublePrecision) {
  for (const KernelTable& table : row_tables()) {
    for (const uint32_t n : {1u, 8u, 17u, 64u, 100u, 576u, 4096u}) {
      for (const float deviation : {1e-3f, 1.0f, 300.0f}) {
        const std::vector<float> x = normal_floats(n, deviation, kSeed + n);
        const std::vector<float> w = normal_floats(n, 1.0f, kSeed + n + 1);
        std::vector<float> out(n);
        table.rms_norm(x.data(), w.data(), n, 1e-5f, out.data());
        double sum = 0;
        for (const float v : x) sum += double{v} * v;
        const double factor = 1 / std::sqrt(sum / n + double{1e-5f});
        for (uint32_t i = 0; i < n; ++i) {
          const double want = x[i] * factor * w[i];
          ASSERT_NEAR(out[i], want, std::abs(want) * ((n / 4 + 6) / 2.0 + 6) * kEps)
              << table.name << " n " << n << " seed " << kSeed;
        }
      }
    }
  }
}

TEST(RmsNorm, DoesNotDependOnAlignmentAndWorksInPlace) {
  const std::vector<float> x = normal_floats(700, 1.0f, kSeed);
  const std::vector<float> w = normal_floats(700, 1.0f, kSeed + 1);
  for (const KernelTable& table : row_tables()) {
    for (const uint32_t n : kSizes) {
      if (n > 600) continue;
      std::vector<float> want(n + 1, -5.0f);
      table.rms_norm(x.data(), w.data(), n, 1e-6f, want.data());
      EXPECT_EQ(want[n], -5.0f) << table.name << " n " << n;
      for (uint32_t shift = 1; shift < 20; ++shift) {
        std::vector<float> moved(n + shift);
        std::copy_n(x.begin(), n, moved.begin() + shift);
        table.rms_norm(moved.data() + shift, w.data(), n, 1e-6f, moved.data() + shift);
        ASSERT_EQ(std::memcmp(moved.data() + shift, want.data(), n * sizeof(float)), 0)
            << table.name << " n " << n;
      }
    }
  }
}

/// Each output is a product and a fused or rounded product and sum: 3 roundings of the larger
/// terms.
TEST(Rope, RotatesBothPairingsAndLeavesTheRest) {
  for (const KernelTable& table : row_tables()) {
    for (const uint32_t n_rot : {2u, 6u, 16u, 64u, 80u, 128u}) {
      for (const RopePairing pairing : {RopePairing::kAdjacent, RopePairing::kHalves}) {
        const std::vector<float> before = normal_floats(n_rot + 16, 1.0f, kSeed + n_rot);
        std::vector<float> cos_sin, x = before;
        for (uint32_t i = 0; i < n_rot / 2; ++i) {
          cos_sin.push_back(std::cos(0.37f * static_cast<float>(i) + 1));
          cos_sin.push_back(std::sin(0.37f * static_cast<float>(i) + 1));
        }
        table.rope(x.data(), cos_sin.data(), n_rot, pairing);
        for (uint32_t i = 0; i < n_rot / 2; ++i) {
          const uint32_t first = pairing == RopePairing::kAdjacent ? 2 * i : i;
          const uint32_t second = pairing == RopePairing::kAdjacent ? 2 * i + 1 : i + n_rot / 2;
          const double a = before[first], b = before[second], c = cos_sin[2 * i],
                       s = cos_sin[2 * i + 1];
          const double bound = 3 * kEps * (std::abs(a) + std::abs(b));
          ASSERT_NEAR(x[first], a * c - b * s, bound)
              << table.name << " n_rot " << n_rot << " pair " << i;
          ASSERT_NEAR(x[second], a * s + b * c, bound)
              << table.name << " n_rot " << n_rot << " pair " << i;
        }
        EXPECT_EQ(std::memcmp(&x[n_rot], &before[n_rot], 16 * sizeof(float)), 0) << table.name;
      }
    }
  }
}

/// A pair's bits depend on the pair alone: each is compared with itself rotated in a head of two
/// dimensions.
TEST(Rope, HasTheSameBitsAtAnyPlace) {
  for (const KernelTable& table : row_tables()) {
    for (const RopePairing pairing : {RopePairing::kAdjacent, RopePairing::kHalves}) {
      const uint32_t n_rot = 92;
      const std::vector<float> before = normal_floats(n_rot, 1.0f, kSeed);
      const std::vector<float> cos_sin = normal_floats(n_rot, 1.0f, kSeed + 1);
      std::vector<float> x = before;
      table.rope(x.data(), cos_sin.data(), n_rot, pairing);
      for (uint32_t i = 0; i < n_rot / 2; ++i) {
        const uint32_t first = pairing == RopePairing::kAdjacent ? 2 * i : i;
        const uint32_t second = pairing == RopePairing::kAdjacent ? 2 * i + 1 : i + n_rot / 2;
        float pair[2] = {before[first], before[second]};
        table.rope(pair, &cos_sin[2 * i], 2, pairing);
        ASSERT_EQ(bits_of(pair[0]), bits_of(x[first])) << table.name << " pair " << i;
        ASSERT_EQ(bits_of(pair[1]), bits_of(x[second])) << table.name << " pair " << i;
      }
    }
  }
}

}  // namespace
}  // namespace strata::cpu_attn
