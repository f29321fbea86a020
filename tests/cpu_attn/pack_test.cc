#include "cpu_attn/pack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>

#include "base/host_memory.h"
#include "cpu_attn/pack_panel.h"
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
      const HostMemory panel = HostMemory::reserve(m.packed.panel_bytes);
      std::memset(panel.data(), 0x5A, panel.size());
      pack_panels(info.type, m.n_out, m.n_in, p, p + 1, rows, panel.data());
      EXPECT_EQ(std::memcmp(panel.data(), m.packed.bytes + p * m.packed.panel_bytes,
                            m.packed.panel_bytes),
                0)
          << info.name << p;
    }
  }
}

/// Panels of random bits, scales that are not numbers among them: packing moves bits.
class WholePanels {
 public:
  WholePanels(const TensorTypeInfo& info, uint32_t n_in, uint32_t n_before, std::mt19937& random)
      : info_(info),
        n_in_(n_in),
        n_before_(n_before),
        rows_(n_before + kPanelRows * tensor_row_bytes(info.type, n_in)),
        turned_(HostMemory::reserve(bytes() + kBehind)),
        by_lanes_(HostMemory::reserve(bytes() + kBehind)) {
    for (uint8_t& byte : rows_) byte = static_cast<uint8_t>(random());
    std::memset(turned_.data(), 0x5A, bytes() + kBehind);
    std::memset(by_lanes_.data(), 0x5A, bytes() + kBehind);
  }
  /// The first byte behind which both ways differ, or that they have written behind the panel.
  uint64_t first_difference() {
    const uint64_t row_bytes = tensor_row_bytes(info_.type, n_in_);
    pack_panel_turned(info_.type, rows_.data() + n_before_, row_bytes, n_in_, panel(turned_));
    pack_panel_by_lanes(info_.type, rows_.data() + n_before_, row_bytes, kPanelRows, n_in_,
                        panel(by_lanes_));
    const std::span<const uint8_t> written(panel(turned_), bytes() + kBehind);
    return static_cast<uint64_t>(
        std::ranges::mismatch(written, std::span(panel(by_lanes_), written.size())).in1 -
        written.begin());
  }
  uint64_t bytes() const { return panel_bytes(info_.type, n_in_); }
  static constexpr uint64_t kBehind = 64;

 private:
  static uint8_t* panel(const HostMemory& memory) {
    return reinterpret_cast<uint8_t*>(memory.data());
  }

  const TensorTypeInfo& info_;
  uint32_t n_in_;
  uint64_t n_before_;  // bytes, so that rows lie at any address
  std::vector<uint8_t> rows_;
  HostMemory turned_, by_lanes_;
};

TEST(Pack, PanelsTurnedAtOnceHaveTheBytesOfThosePackedByLanes) {
  std::mt19937 random(kSeed);
  for (const auto& info : tensor_types())
    for (uint32_t n_blocks = 1; n_blocks < 6; ++n_blocks)
      for (const uint32_t n_before : {0u, 1u, 2u, 13u}) {
        const uint32_t grain = std::max(info.block_elements, kTurnedFloats);
        WholePanels panels(info, n_blocks * grain, n_before, random);
        EXPECT_EQ(panels.first_difference(), panels.bytes() + WholePanels::kBehind)
            << info.name << ", " << n_blocks << " blocks, " << n_before << " bytes before";
      }
}

TEST(Pack, RaggedPanelsAndWholeOnesAreWhatTheReferencePacks) {
  std::mt19937 random(kSeed);
  for (const auto& info : tensor_types())
    for (const uint32_t n_in : {2 * std::max(info.block_elements, kTurnedFloats), 256 * 3u + 32})
      for (const uint32_t n_out : {1u, 15u, 16u, 17u, 47u}) {
        if (n_in % info.block_elements != 0) continue;
        const DrawnMatrix m = draw_matrix(info.type, n_out, n_in, Draw::kRandom, random);
        const uint64_t row_bytes = tensor_row_bytes(info.type, n_in);
        std::vector<uint8_t> wanted(m.packed.panel_bytes);
        for (uint32_t row = 0; row < n_out; row += kPanelRows) {
          pack_panel_by_lanes(info.type,
                              reinterpret_cast<const uint8_t*>(m.file.data()) + row * row_bytes,
                              row_bytes, std::min(kPanelRows, n_out - row), n_in, wanted.data());
          EXPECT_EQ(std::memcmp(m.packed.bytes + row / kPanelRows * m.packed.panel_bytes,
                                wanted.data(), wanted.size()),
                    0)
              << info.name << " [" << n_out << ", " << n_in << "], row " << row;
        }
      }
}

TEST(PackDeathTest, RowsOfAnotherSizeAreABug) {
  std::vector<std::byte> rows(3 * tensor_row_bytes(TensorType::kQ8_0, 64));
  const HostMemory out = HostMemory::reserve(panel_bytes(TensorType::kQ8_0, 64));
  EXPECT_DEATH(pack_panels(TensorType::kQ8_0, 4, 64, 0, 1, rows, out.data()), "bytes for 4 rows");
}

TEST(PackDeathTest, PanelsThatAreNotAlignedAreABug) {
  const std::vector<std::byte> rows(16 * tensor_row_bytes(TensorType::kQ8_0, 64));
  const HostMemory out = HostMemory::reserve(panel_bytes(TensorType::kQ8_0, 64) + 32);
  EXPECT_DEATH(pack_panels(TensorType::kQ8_0, 16, 64, 0, 1, rows, out.data() + 32), "panels at");
}

}  // namespace
}  // namespace strata::cpu_attn
