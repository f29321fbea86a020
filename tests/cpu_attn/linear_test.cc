#include "cpu_attn/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "cpu_attn/kernels.h"
#include "tests/cpu_attn/drawn_matrix.h"

namespace strata::cpu_attn {
namespace {

constexpr uint32_t kSeed = 20240612;
constexpr double kRounding = 0x1p-24;  // of one f32 operation
constexpr float kUntouched = 12345.0f;

/// The sets of this CPU, and AVX-512 without AMX, which the table of this CPU may have.
std::vector<const KernelTable*> linear_tables() {
  std::vector<const KernelTable*> tables(available_kernels().begin(), available_kernels().end());
  if (!amx_is_permitted()) return tables;
  static const KernelTable plain = [] {
    KernelTable table = *available_kernels().back();
    fill_linear_avx512(table);
    table.name = "avx512 without amx";
    return table;
  }();
  tables.push_back(&plain);
  return tables;
}

bool is_float(TensorType type) {
  return type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBF16;
}

/// Rows of activations, quantised by one table where their width allows.
struct Activations {
  Activations(const KernelTable& table, std::vector<float> values, uint32_t n)
      : x(std::move(values)), n_rows(n), n_in(static_cast<uint32_t>(x.size() / n)) {
    if (n_in % kActGroup != 0) return;
    q.resize(x.size());
    scales.resize(x.size() / kActGroup);
    neg_sums.resize(x.size() / kActHalfGroup);
    table.quantize_rows(x.data(), n_rows, n_in, rows(0));
  }
  QuantRows rows(uint32_t first) {
    const uint64_t at = uint64_t{first} * n_in;
    return {q.data() + at, scales.data() + at / kActGroup, neg_sums.data() + at / kActHalfGroup};
  }
  std::vector<float> x;
  uint32_t n_rows;
  uint32_t n_in;
  std::vector<int8_t> q;
  std::vector<float> scales;
  std::vector<int32_t> neg_sums;
};

std::vector<float> draw_rows(uint32_t n_rows, uint32_t n_in, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(uint64_t{n_rows} * n_in);
  for (auto& value : x) value = normal(random);
  return x;
}

/// Runs rows [first, first + n_rows) over the panels given; columns beyond n_out keep kUntouched.
std::vector<float> run_linear(const KernelTable& table, const DrawnMatrix& m, Activations& a,
                              uint32_t first, uint32_t n_rows, uint32_t panel_begin,
                              uint32_t panel_end) {
  const uint64_t stride = m.n_out + 3;
  std::vector<float> out(n_rows * stride, kUntouched);
  const LinearArgs args{m.packed,
                        a.x.data() + uint64_t{first} * a.n_in,
                        is_float(m.type) ? QuantRows{} : a.rows(first),
                        out.data(),
                        stride,
                        n_rows,
                        panel_begin,
                        panel_end};
  table.linear(args);
  return out;
}

std::vector<float> run_linear(const KernelTable& table, const DrawnMatrix& m, Activations& a) {
  return run_linear(table, m, a, 0, a.n_rows, 0, m.packed.n_panels());
}

/// Compares with sums in double over the exact weights and the activations the kernel was given
/// (int8 times scale, so that only f32 rounding is left). A sum of n terms t_g by fused
/// multiply-adds, each t_g with one rounded factor, differs by at most (n + 1) * 2^-24 * sum |t_g|;
/// products below the smallest normal number add at most 2^-149 * 2^20 each.
void expect_near_oracle(const DrawnMatrix& m, Activations& a, const std::vector<float>& out,
                        const char* table) {
  const uint32_t group = is_float(m.type) ? 1 : kActHalfGroup;
  const uint64_t stride = m.n_out + 3;
  for (uint32_t r = 0; r < a.n_rows; ++r) {
    for (uint32_t o = 0; o < m.n_out; ++o) {
      double sum = 0, size = 0;
      for (uint32_t k = 0; k < m.n_in; k += group) {
        double main = 0, minus = 0;
        for (uint32_t i = k; i < k + group; ++i) {
          const uint64_t at = uint64_t{r} * m.n_in + i;
          const double x = is_float(m.type)
                               ? static_cast<double>(a.x[at])
                               : static_cast<double>(a.scales[at / kActGroup]) * a.q[at];
          main += m.elements[uint64_t{o} * m.n_in + i].main * x;
          minus += m.elements[uint64_t{o} * m.n_in + i].minus * x;
        }
        sum += main - minus;
        size += std::abs(main) + std::abs(minus);
      }
      const double n_terms = 2.0 * m.n_in / group;
      const double tolerance = (n_terms + 1) * kRounding * 1.001 * size + n_terms * 0x1p-129;
      ASSERT_NEAR(static_cast<double>(out[r * stride + o]), sum, tolerance)
          << tensor_type_info(m.type).name << ' ' << table << " n_rows " << a.n_rows << " n_in "
          << m.n_in << " row " << r << " output " << o << " seed " << kSeed;
    }
    for (uint32_t o = m.n_out; o < stride; ++o)
      ASSERT_EQ(out[r * stride + o], kUntouched) << "column " << o << " of " << m.n_out;
  }
}

/// Widths of a type: one block, one chunk less something, and more than one chunk of the kernels
/// (1024).
std::vector<uint32_t> widths(const TensorTypeInfo& info) {
  if (info.block_elements == 1) return {1, 33, 300};
  if (info.block_elements == 32) return {32, 576, 1120};
  return {256, 1280};
}

TEST(Linear, EveryTypeOnEveryIsaIsNearTheOracle) {
  std::mt19937 random(kSeed);
  for (const auto& info : tensor_types())
    for (const uint32_t n_in : widths(info)) {
      const DrawnMatrix m = draw_matrix(info.type, 37, n_in, Draw::kRandom, random);
      for (const uint32_t n_rows : {1u, 2u, 3u, 4u, 5u, 7u, 8u, 9u, 13u, 33u}) {
        const auto x = draw_rows(n_rows, n_in, random);
        for (const KernelTable* table : linear_tables()) {
          Activations a(*table, x, n_rows);
          expect_near_oracle(m, a, run_linear(*table, m, a), table->name);
          if (HasFatalFailure()) return;
        }
      }
    }
}

TEST(Linear, OutputsOfEveryTailWidthAreWrittenAndNoMore) {
  std::mt19937 random(kSeed);
  for (const TensorType type : {TensorType::kF16, TensorType::kQ4_1})
    for (uint32_t n_out = 1; n_out <= 49; ++n_out) {
      const DrawnMatrix m = draw_matrix(type, n_out, 64, Draw::kRandom, random);
      for (const uint32_t n_rows : {1u, 6u}) {
        const auto x = draw_rows(n_rows, 64, random);
        for (const KernelTable* table : linear_tables()) {
          Activations a(*table, x, n_rows);
          expect_near_oracle(m, a, run_linear(*table, m, a), table->name);
          if (HasFatalFailure()) return;
        }
      }
    }
}

TEST(Linear, ARowsBitsDoNotDependOnOtherRowsOrPanels) {
  std::mt19937 random(kSeed);
  for (const auto& info : tensor_types()) {
    const uint32_t n_in = widths(info).back();
    const DrawnMatrix m = draw_matrix(info.type, 75, n_in, Draw::kRandom, random);
    const auto x = draw_rows(29, n_in, random);
    const uint64_t stride = m.n_out + 3;
    for (const KernelTable* table : linear_tables()) {
      Activations a(*table, x, 29);
      const auto whole = run_linear(*table, m, a);
      for (const uint32_t n_rows : {1u, 2u, 3u, 4u, 5u, 11u})
        for (uint32_t first = 0; first + n_rows <= a.n_rows; first += n_rows) {
          const auto part = run_linear(*table, m, a, first, n_rows, 0, m.packed.n_panels());
          ASSERT_EQ(
              std::memcmp(part.data(), whole.data() + first * stride, part.size() * sizeof(float)),
              0)
              << info.name << ' ' << table->name << " rows " << first << " + " << n_rows << " seed "
              << kSeed;
        }
      for (uint32_t begin = 0; begin < m.packed.n_panels(); ++begin)
        for (uint32_t end = begin + 1; end <= m.packed.n_panels(); ++end) {
          const auto part = run_linear(*table, m, a, 0, a.n_rows, begin, end);
          for (uint32_t r = 0; r < a.n_rows; ++r)
            for (uint32_t o = 0; o < stride; ++o) {
              const bool inside =
                  o >= begin * kPanelRows && o < std::min(end * kPanelRows, m.n_out);
              ASSERT_EQ(part[r * stride + o], inside ? whole[r * stride + o] : kUntouched)
                  << info.name << ' ' << table->name << " panels " << begin << ".." << end
                  << " output " << o;
            }
        }
    }
  }
}

TEST(Linear, EveryIsaGivesTheSameBits) {
  std::mt19937 random(kSeed);
  for (const auto& info : tensor_types())
    for (const Draw draw : {Draw::kRandom, Draw::kZeros, Draw::kLargestCodes, Draw::kSmallestCodes,
                            Draw::kSubnormalScales}) {
      const uint32_t n_in = widths(info).back();
      const DrawnMatrix m = draw_matrix(info.type, 20, n_in, draw, random);
      for (const uint32_t n_rows : {1u, 9u, 35u}) {
        Activations a(*linear_tables()[0], draw_rows(n_rows, n_in, random), n_rows);
        const auto wanted = run_linear(*linear_tables()[0], m, a);
        for (const KernelTable* table : linear_tables()) {
          const auto out = run_linear(*table, m, a);
          EXPECT_EQ(std::memcmp(out.data(), wanted.data(), out.size() * sizeof(float)), 0)
              << info.name << ' ' << table->name << " seed " << kSeed;
        }
      }
    }
}

/// More panels than are unpacked at a time, fewer inputs than a tile has rows of sums to store,
/// whole tiles of rows and some left.
TEST(Linear, TilesGiveTheBitsOfAvx512) {
  if (!amx_is_permitted()) GTEST_SKIP() << "this CPU has no AMX, or the system keeps it";
  const KernelTable& tiles = *available_kernels().back();
  const KernelTable& plain = *linear_tables().back();
  ASSERT_TRUE(tiles.has_tiles && !plain.has_tiles);
  std::mt19937 random(kSeed);
  for (const auto& info : tensor_types()) {
    std::vector<uint32_t> all_widths = widths(info);
    if (info.block_elements == 32)  // phases of 5, 6 and 7 groups at the end
      all_widths.insert(all_widths.end(), {416, 448, 480});
    for (const uint32_t n_in : all_widths)
      for (const uint32_t n_out : {150u, 256u}) {
        const DrawnMatrix m = draw_matrix(info.type, n_out, n_in, Draw::kRandom, random);
        for (const uint32_t n_rows : {16u, 17u, 63u}) {
          Activations a(plain, draw_rows(n_rows, n_in, random), n_rows);
          const auto wanted = run_linear(plain, m, a), out = run_linear(tiles, m, a);
          ASSERT_EQ(std::memcmp(out.data(), wanted.data(), out.size() * sizeof(float)), 0)
              << info.name << " n_in " << n_in << " n_out " << n_out << " rows " << n_rows;
        }
      }
  }
}

TEST(Linear, ExtremeCodesAndActivationsStayExact) {
  std::mt19937 random(kSeed);
  for (const auto& info : tensor_types())
    for (const Draw draw :
         {Draw::kZeros, Draw::kLargestCodes, Draw::kSmallestCodes, Draw::kSubnormalScales}) {
      const uint32_t n_in = widths(info).back();
      const DrawnMatrix m = draw_matrix(info.type, 17, n_in, draw, random);
      // Rows whose codes are all 127, all -127, alternating, all zero, and tiny, over and over: a
      // tile of them and some more.
      constexpr uint32_t kRows = kTileRows + 5;
      std::vector<float> x(kRows * uint64_t{n_in});
      for (uint32_t row = 0; row < kRows; ++row)
        for (uint32_t k = 0; k < n_in; ++k) {
          const float values[] = {3.0f, -3.0f, k % 2 == 0 ? 3.0f : -3.0f, 0.0f, 0x1p-110f};
          x[uint64_t{row} * n_in + k] = values[row % 5];
        }
      for (const KernelTable* table : linear_tables()) {
        Activations a(*table, x, kRows);
        expect_near_oracle(m, a, run_linear(*table, m, a), table->name);
        if (HasFatalFailure()) return;
      }
    }
}

TEST(Linear, NoRowsAndNoPanelsTouchNothing) {
  std::mt19937 random(kSeed);
  const DrawnMatrix m = draw_matrix(TensorType::kQ4_1, 40, 64, Draw::kRandom, random);
  for (const KernelTable* table : linear_tables()) {
    Activations a(*table, draw_rows(2, 64, random), 2);
    EXPECT_TRUE(run_linear(*table, m, a, 0, 0, 0, 3).empty());
    for (const float value : run_linear(*table, m, a, 0, 2, 1, 1)) EXPECT_EQ(value, kUntouched);
  }
}

TEST(QuantizeRows, CodesAreTheNearestAndSumsAreTheirs) {
  std::mt19937 random(kSeed);
  auto x = draw_rows(7, 288, random);
  for (uint32_t k = 0; k < 32; ++k) {
    x[k] = 0.0f;
    x[32 + k] = std::numeric_limits<float>::denorm_min();
    x[64 + k] = static_cast<float>(k) -
                15.5f;  // ties of the rounding where the scale is a power of two times 127
    x[96 + k] = k == 5 ? 127.0f : static_cast<float>(k) * 0.5f;
    x[128 + k] = k == 9 ? std::numeric_limits<float>::max() : 1.0f;
  }
  for (const KernelTable* table : linear_tables()) {
    const Activations a(*table, x, 7);
    for (uint64_t i = 0; i < x.size(); ++i) {
      const double scale = static_cast<double>(a.scales[i / kActGroup]);
      // x / scale lies within 127 * 3 roundings of x * (127 / max), which is rounded to the nearest
      // integer.
      const double tolerance = std::max(scale * (0.5 + 127 * 3 * kRounding), 1e-36);
      ASSERT_NEAR(scale * a.q[i], static_cast<double>(x[i]), tolerance)
          << table->name << " at " << i;
      ASSERT_GE(a.q[i], -127);
    }
    for (uint64_t h = 0; h < a.neg_sums.size(); ++h) {
      int32_t sum = 0;
      for (uint32_t i = 0; i < kActHalfGroup; ++i) sum += a.q[h * kActHalfGroup + i];
      ASSERT_EQ(a.neg_sums[h], -sum) << table->name;
    }
    EXPECT_EQ(a.scales[0], 0.0f);
    EXPECT_EQ(a.scales[1], 0.0f);
    for (uint32_t k = 0; k < 32; k += 2)
      EXPECT_EQ(a.q[96 + k], k == 0 ? 0 : k / 2) << "exact halves stay exact";
    EXPECT_EQ(a.q[96 + 3], 2) << "1.5 rounds to even";
    EXPECT_EQ(a.q[96 + 1], 0) << "0.5 rounds to even";
  }
}

TEST(QuantizeRows, EveryIsaGivesTheSameCodes) {
  std::mt19937 random(kSeed);
  auto x = draw_rows(40, 320, random);
  x[3] = std::numeric_limits<float>::quiet_NaN();
  x[70] = std::numeric_limits<float>::infinity();
  x[130] = -std::numeric_limits<float>::infinity();
  const Activations wanted(*linear_tables()[0], x, 40);
  for (const KernelTable* table : linear_tables()) {
    const Activations a(*table, x, 40);
    EXPECT_EQ(a.q, wanted.q) << table->name;
    EXPECT_EQ(a.neg_sums, wanted.neg_sums) << table->name;
    for (uint64_t g = 0; g < a.scales.size(); ++g)
      EXPECT_TRUE(a.scales[g] == wanted.scales[g] ||
                  (std::isnan(a.scales[g]) && std::isnan(wanted.scales[g])))
          << table->name;
  }
}

TEST(QuantizeRows, NotANumberIsNotLost) {
  std::mt19937 random(kSeed);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const auto& info : tensor_types()) {
      if (is_float(info.type)) continue;
      const DrawnMatrix m = draw_matrix(info.type, 16, 256, Draw::kRandom, random);
      for (const uint32_t n_rows : {1u, kTileRows}) {
        auto x = draw_rows(n_rows, 256, random);
        x[77] = bad;
        for (const KernelTable* table : linear_tables()) {
          Activations a(*table, x, n_rows);
          const auto out = run_linear(*table, m, a);
          for (uint32_t o = 0; o < 16; ++o)
            EXPECT_FALSE(std::isfinite(out[o])) << info.name << ' ' << table->name;
        }
      }
    }
}

TEST(Linear, PiecesOfManyRowsAreWholePairsWhereThereAreEnough) {
  EXPECT_EQ(panels_per_piece(0, 2, 1, false), 1u);
  EXPECT_EQ(panels_per_piece(11, 2, 512, false), 1u);
  EXPECT_EQ(panels_per_piece(24, 2, 1, false), 2u);
  EXPECT_EQ(panels_per_piece(47, 2, kFewRows, false), 3u);
  EXPECT_EQ(panels_per_piece(47, 2, kFewRows + 1, false), 2u);
  EXPECT_EQ(panels_per_piece(12 * 9, 2, kFewRows, false), 9u);
  EXPECT_EQ(panels_per_piece(12 * 9, 2, kFewRows + 1, false), 8u);
  EXPECT_EQ(panels_per_piece(128, 16, 512, false), 1u);
  EXPECT_EQ(panels_per_piece(36, 2, kFewRows, true), 3u);
  EXPECT_EQ(panels_per_piece(36, 2, kTileRows - 1, true), 2u);
  EXPECT_EQ(panels_per_piece(5, 2, 512, true), 1u);
  EXPECT_EQ(panels_per_piece(12, 2, 512, true), 2u);
  EXPECT_EQ(panels_per_piece(36, 2, 512, true), 6u);
  EXPECT_EQ(panels_per_piece(96, 2, 512, true), kTilePanels);
  EXPECT_EQ(panels_per_piece(12 * 19, 2, 512, true), 2 * kTilePanels);
}

TEST(LinearDeathTest, PanelsOutsideTheMatrixAreABug) {
  std::mt19937 random(kSeed);
  const DrawnMatrix m = draw_matrix(TensorType::kQ8_0, 16, 32, Draw::kRandom, random);
  for (const KernelTable* table : linear_tables()) {
    Activations a(*table, draw_rows(1, 32, random), 1);
    EXPECT_DEATH(run_linear(*table, m, a, 0, 1, 0, 2), "panels .0, 2. of n_out=16") << table->name;
  }
}

}  // namespace
}  // namespace strata::cpu_attn
