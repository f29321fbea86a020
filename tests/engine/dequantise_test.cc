// Decoding is compared with a second reading of the format, written bit by bit and in double: a
// value is at most (11 bits of f16) x (8 bits of scale) x (6 bits of code), minus a product of that
// kind; double holds both and their difference exactly, so the wanted f32 is that number rounded
// once. dequantise() rounds to f32 once as well (its inner products have at most 24 bits): the
// tolerance is 0.
#include "engine/gguf/dequantise.h"
#include "tests/tree_paths.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace strata::engine {
namespace {

/// A block as the format describes it: a string of bits, the lowest bit of the first byte first.
class Bits {
 public:
  explicit Bits(std::span<const std::byte> block) : block_(block) {}

  uint32_t take(uint32_t byte, uint32_t bit, uint32_t n) const {
    uint32_t value = 0;
    for (uint32_t i = 0; i < n; ++i) {
      const uint32_t at = byte * 8 + bit + i;
      value |= (std::to_integer<uint32_t>(block_[at / 8]) >> at % 8 & 1u) << i;
    }
    return value;
  }
  int32_t take_signed_byte(uint32_t byte) const {
    const auto value = static_cast<int32_t>(take(byte, 0, 8));
    return value < 128 ? value : value - 256;
  }
  /// IEEE binary16 from its fields.
  double half(uint32_t byte) const {
    const double sign = take(byte, 15, 1) ? -1.0 : 1.0;
    const uint32_t exponent = take(byte, 10, 5);
    const double fraction = take(byte, 0, 10) / 1024.0;
    if (exponent == 31) return fraction == 0 ? sign * INFINITY : NAN;
    if (exponent == 0) return sign * std::ldexp(fraction, -14);
    return sign * std::ldexp(1.0 + fraction, static_cast<int>(exponent) - 15);
  }

 private:
  std::span<const std::byte> block_;
};

constexpr std::array<int, 16> kTable = {-127, -104, -83, -65, -49, -35, -22, -10,
                                        1,    13,   25,  38,  53,  69,  89,  113};

// 32-element types: byte j of the codes holds element j low and element j + 16 high.
uint32_t code_of_32(const Bits& bits, uint32_t codes, uint32_t i) {
  return bits.take(codes + i % 16, i / 16 * 4, 4);
}
// 2-bit codes: 128 elements in 32 bytes, four to a byte, 32 elements apart.
uint32_t two_bits(const Bits& bits, uint32_t codes, uint32_t i) {
  return bits.take(codes + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2);
}
// 4-bit codes of Q4_K and Q5_K: 64 elements in 32 bytes, two to a byte, 32 elements apart.
uint32_t four_bits(const Bits& bits, uint32_t codes, uint32_t i) {
  return bits.take(codes + i / 64 * 32 + i % 32, i / 32 % 2 * 4, 4);
}
// The eight 6-bit scales (which = 0) or minima (which = 1) of Q4_K and Q5_K, from byte 4.
uint32_t six_bits(const Bits& bits, uint32_t j, uint32_t which) {
  if (j < 4) return bits.take(4 + which * 4 + j, 0, 6);
  return bits.take(4 + 8 + j - 4, which * 4, 4) + 16 * bits.take(4 + which * 4 + j - 4, 6, 2);
}

double value_of(TensorType type, const Bits& bits, uint32_t i) {
  const auto offset = [](uint32_t code, int32_t zero) {
    return static_cast<double>(static_cast<int32_t>(code) - zero);
  };
  switch (type) {
    case TensorType::kF32: {
      const uint32_t word = bits.take(0, 0, 32);
      return static_cast<double>(std::bit_cast<float>(word));
    }
    case TensorType::kF16:
      return bits.half(0);
    case TensorType::kBF16:  // the upper half of an f32
      return static_cast<double>(std::bit_cast<float>(bits.take(0, 0, 16) * 65536u));
    case TensorType::kQ4_0:
      return bits.half(0) * offset(code_of_32(bits, 2, i), 8);
    case TensorType::kQ4_1:
      return bits.half(0) * code_of_32(bits, 4, i) + bits.half(2);
    case TensorType::kQ5_0:
      return bits.half(0) * offset(code_of_32(bits, 6, i) + 16 * bits.take(2, i, 1), 16);
    case TensorType::kQ5_1:
      return bits.half(0) * (code_of_32(bits, 8, i) + 16 * bits.take(4, i, 1)) + bits.half(2);
    case TensorType::kQ8_0:
      return bits.half(0) * bits.take_signed_byte(2 + i);
    case TensorType::kIQ4_NL:
      return bits.half(0) * kTable[code_of_32(bits, 2, i)];
    case TensorType::kQ2_K:
      return bits.half(80) * bits.take(i / 16, 0, 4) * two_bits(bits, 16, i) -
             bits.half(82) * bits.take(i / 16, 4, 4);
    case TensorType::kQ3_K: {
      const uint32_t j = i / 16;
      const uint32_t scale =
          bits.take(96 + j % 8, j / 8 * 4, 4) + 16 * bits.take(96 + 8 + j % 4, j / 4 * 2, 2);
      const uint32_t code = two_bits(bits, 32, i) + 4 * bits.take(i % 32, i / 32, 1);
      return bits.half(108) * offset(scale, 32) * offset(code, 4);
    }
    case TensorType::kQ4_K:
      return bits.half(0) * six_bits(bits, i / 32, 0) * four_bits(bits, 16, i) -
             bits.half(2) * six_bits(bits, i / 32, 1);
    case TensorType::kQ5_K:
      return bits.half(0) * six_bits(bits, i / 32, 0) *
                 (four_bits(bits, 48, i) + 16 * bits.take(16 + i % 32, i / 32, 1)) -
             bits.half(2) * six_bits(bits, i / 32, 1);
    case TensorType::kQ6_K: {
      const uint32_t low = bits.take(i / 128 * 64 + i % 64, i % 128 / 64 * 4, 4);
      const uint32_t high = bits.take(128 + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2);
      return bits.half(208) * bits.take_signed_byte(192 + i / 16) * offset(low + 16 * high, 32);
    }
    case TensorType::kIQ4_XS: {
      const uint32_t j = i / 32;
      const uint32_t scale = bits.take(4 + j / 2, j % 2 * 4, 4) + 16 * bits.take(2, 2 * j, 2);
      return bits.half(0) * offset(scale, 32) *
             kTable[bits.take(8 + j * 16 + i % 16, i % 32 / 16 * 4, 4)];
    }
  }
  return NAN;
}

bool is_same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) ||
         std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

/// Zeros of both signs are one value here: the reference subtracts where the format adds.
bool is_equal(float a, float b) { return is_same(a, b) || a == b; }

class DequantiseType : public ::testing::TestWithParam<TensorTypeInfo> {};

TEST_P(DequantiseType, AgreesWithTheFormatReadBitByBit) {
  const TensorTypeInfo info = GetParam();
  const uint32_t seed = 20260801;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  constexpr size_t kBlocks = 200;
  std::vector<std::byte> bytes(kBlocks * info.block_bytes);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  std::vector<float> values(kBlocks * info.block_elements);
  dequantise(info.type, bytes, values);
  size_t n_finite = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t block = i / info.block_elements;
    const Bits bits(
        std::span<const std::byte>(bytes).subspan(block * info.block_bytes, info.block_bytes));
    const auto wanted = static_cast<float>(
        value_of(info.type, bits, static_cast<uint32_t>(i % info.block_elements)));
    ASSERT_TRUE(is_equal(values[i], wanted))
        << "block " << block << " element " << i % info.block_elements << ": wanted " << wanted
        << ", found " << values[i];
    if (std::isfinite(wanted)) ++n_finite;
  }
  EXPECT_GT(n_finite, values.size() / 2);  // one f16 pattern in 32 is no number
}

TEST_P(DequantiseType, EveryBitOfABlockMatters) {
  const TensorTypeInfo info = GetParam();
  std::mt19937 random(7);
  std::vector<std::byte> block(info.block_bytes);
  for (std::byte& byte : block) byte = static_cast<std::byte>(random() | 1u);
  // Scales of ordinary size, so that no bit disappears behind a NaN.
  for (uint32_t at = 0; at + 1 < info.block_bytes; at += 2) {
    const auto high = std::to_integer<uint32_t>(block[at + 1]);
    block[at + 1] = static_cast<std::byte>((high & 0x83u) | 0x34u);
  }
  std::vector<float> before(info.block_elements), after(info.block_elements);
  dequantise(info.type, block, before);
  for (uint32_t bit = 0; bit < info.block_bytes * 8; ++bit) {
    block[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    dequantise(info.type, block, after);
    block[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    bool is_changed = false;
    for (size_t i = 0; i < before.size(); ++i)
      is_changed = is_changed || !is_same(before[i], after[i]);
    EXPECT_TRUE(is_changed) << "bit " << bit;
  }
}

INSTANTIATE_TEST_SUITE_P(All, DequantiseType,
                         ::testing::ValuesIn(tensor_types().begin(), tensor_types().end()),
                         [](const auto& row) { return std::string(row.param.name); });

struct Golden {
  std::string type;
  std::string block;  // hex
  std::vector<uint32_t> values;
};

std::vector<Golden> read_goldens() {
  std::ifstream file(tree_path("tests/engine/ggml_blocks.txt"));
  std::vector<Golden> goldens;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string kind, word;
    words >> kind;
    if (kind == "type") words >> goldens.emplace_back().type;
    if (kind == "block" && words >> word) goldens.back().block += word;
    while (kind == "value" && words >> word)
      goldens.back().values.push_back(static_cast<uint32_t>(std::stoul(word, nullptr, 16)));
  }
  return goldens;
}

TEST(Dequantise, GivesLlamaCppsValuesBitForBit) {
  std::map<std::string, int> n_blocks;
  for (const Golden& golden : read_goldens()) {
    SCOPED_TRACE(golden.type);
    const TensorTypeInfo* info = nullptr;
    for (const auto& row : tensor_types())
      if (row.name == golden.type) info = &row;
    ASSERT_NE(info, nullptr);
    std::vector<std::byte> block;
    for (size_t i = 0; i < golden.block.size(); i += 2)
      block.push_back(static_cast<std::byte>(std::stoul(golden.block.substr(i, 2), nullptr, 16)));
    ASSERT_EQ(golden.values.size(), info->block_elements);
    std::vector<float> values(info->block_elements);
    dequantise(info->type, block, values);
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), golden.values[i]) << "element " << i;
    ++n_blocks[golden.type];
  }
  EXPECT_EQ(n_blocks.size(), tensor_types().size() - 3);  // F32, F16 and BF16 are plain numbers
}

TEST(Dequantise, DecodesNothingToNothing) {
  for (const auto& info : tensor_types()) dequantise(info.type, {}, {});
}

TEST(DequantiseDeathTest, RefusesBytesThatDoNotFitTheElements) {
  std::vector<std::byte> bytes(18);
  std::vector<float> out(64);
  EXPECT_DEATH(dequantise(TensorType::kQ4_0, bytes, out), "18 bytes for 64 elements of Q4_0");
  EXPECT_DEATH(dequantise(TensorType::kQ4_0, bytes, std::span(out).first(33)), "33 elements");
}

}  // namespace
}  // namespace strata::engine
