#include "cpu_attn/pack.h"

#include <gtest/gtest.h>

#include <bit>

#include "tests/cpu_attn/drawn_matrix.h"

namespace strata::cpu_attn {
namespace {

constexpr uint32_t kSeed = 20240611;

TEST(Pack, UnpackedRowsAreTheFilesValuesBitForBit) {
  std::mt19937 random(kSeed);
  for (const auto& info : tensor_types())
    for (const Draw draw : {Draw::kRandom, Draw::kZeros, Draw::kLargestCodes, Draw::kSmallestCodes,
                            Draw::kSubnormalScales}) {
      const DrawnMatrix m = draw_matrix(info.type, 35, 3 * info.block_elements, draw, random);
      std::vector<float> row(m.n_in);
      for (uint32_t r = 0; r < m.n_out; ++r) {
        unpack_row(m.packed, r, row);
        for (uint32_t k = 0; k < m.n_in; ++k) {
          const float wanted = m.elements[r * m.n_in + k].value();
          ASSERT_EQ(std::bit_cast<uint32_t>(row[k]), std::bit_cast<uint32_t>(wanted))
              << info.name << " row " << r << " input " << k << ": " << row[k] << " wanted "
              << wanted << " seed " << kSeed;
        }
      }
    }
}

TEST(Pack, PanelsTakeTheFilesBytesAndAtMostPadding) {
  for (const auto& info : tensor_types())
    for (uint32_t blocks = 1; blocks < 20; ++blocks) {
      const uint32_t n_in = blocks * info.block_elements;
      const uint64_t bytes = panel_bytes(info.type, n_in);
      EXPECT_EQ(bytes % 64, 0u) << info.name;
      EXPECT_GE(bytes, 16 * tensor_row_bytes(info.type, n_in)) << info.name;
      EXPECT_LE(bytes, 16 * tensor_row_bytes(info.type, n_in) + 63)
          << info.name << " n_in " << n_in;
    }
}

TEST(Pack, PiecesPackToTheSameBytesAsTheWhole) {
  std::mt19937 random(kSeed);
  for (const auto& info : tensor_types()) {
    const DrawnMatrix m =
        draw_matrix(info.type, 53, 2 * info.block_elements, Draw::kRandom, random);
    const uint64_t row_bytes = tensor_row_bytes(info.type, m.n_in);
    for (uint32_t p = 0; p < m.packed.n_panels(); ++p) {
      const uint32_t end = std::min(m.n_out, (p + 1) * kPanelRows);
      const std::span<const std::byte> rows(m.file.data() + p * kPanelRows * row_bytes,
                                            (end - p * kPanelRows) * row_bytes);
      std::vector<std::byte> panel(m.packed.panel_bytes, std::byte{0x5A});
      pack_panels(info.type, m.n_out, m.n_in, p, p + 1, rows, panel.data());
      EXPECT_EQ(std::memcmp(panel.data(), m.packed.bytes + p * m.packed.panel_bytes, panel.size()),
                0)
          << info.name << p;
    }
  }
}

TEST(PackDeathTest, RowsOfAnotherSizeAreABug) {
  std::vector<std::byte> rows(3 * tensor_row_bytes(TensorType::kQ8_0, 64));
  std::vector<std::byte> out(panel_bytes(TensorType::kQ8_0, 64));
  EXPECT_DEATH(pack_panels(TensorType::kQ8_0, 4, 64, 0, 1, rows, out.data()), "bytes for 4 rows");
}

}  // namespace
}  // namespace strata::cpu_attn
