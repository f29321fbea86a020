// tests/cpu_attn/drawn_matrix.h - random matrices in every file type, with their values taken
// element by element from the format's definition: an oracle that shares nothing with the packer,
// which works on four codes at a time.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "base/half.h"
#include "base/packed_matrix.h"
#include "base/tensor_type.h"
#include "cpu_attn/pack.h"

namespace strata::cpu_attn {

enum class Draw : uint8_t { kRandom, kZeros, kLargestCodes, kSmallestCodes, kSubnormalScales };

/// An element is `main - minus`, both exact in double.
struct Element {
  double main = 0;
  double minus = 0;
  float value() const { return static_cast<float>(main) - static_cast<float>(minus); }
};

struct DrawnMatrix {
  TensorType type{};
  uint32_t n_out = 0;
  uint32_t n_in = 0;
  std::vector<std::byte> file;     // rows as a GGUF file holds them
  std::vector<Element> elements;   // [n_out, n_in]
  std::vector<std::byte> storage;  // of the packed matrix
  PackedMatrix packed;
};

inline uint16_t half_at(const uint8_t* at) { return static_cast<uint16_t>(at[0] | at[1] << 8); }
inline double half_value(const uint8_t* at) { return static_cast<double>(f16_to_f32(half_at(at))); }

/// Scale and minimum number j of the 12 bytes of Q4_K and Q5_K.
inline void six_bit_pair(const uint8_t* s, uint32_t j, int& scale, int& minimum) {
  if (j < 4) {
    scale = s[j] & 63;
    minimum = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    minimum = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
  }
}

inline int iq4_value(int code) {
  constexpr int kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                               1,    13,   25,  38,  53,  69,  89,  113};
  return kValues[code];
}

/// Nibble i of 32: the lower halves of 16 bytes, then the upper ones.
inline int split_nibble(const uint8_t* at, uint32_t i) {
  return i < 16 ? at[i] & 15 : at[i - 16] >> 4;
}

inline Element small_element(TensorType type, const uint8_t* b, uint32_t i) {
  const double d = half_value(b);
  switch (type) {
    case TensorType::kQ4_0:
      return {d * (split_nibble(b + 2, i) - 8), 0};
    case TensorType::kIQ4_NL:
      return {d * iq4_value(split_nibble(b + 2, i)), 0};
    case TensorType::kQ4_1:
      return {d * split_nibble(b + 4, i), -half_value(b + 2)};
    case TensorType::kQ5_0: {
      const int high = (b[2 + i / 8] >> (i % 8)) & 1;
      return {d * ((split_nibble(b + 6, i) | high << 4) - 16), 0};
    }
    case TensorType::kQ5_1: {
      const int high = (b[4 + i / 8] >> (i % 8)) & 1;
      return {d * (split_nibble(b + 8, i) | high << 4), -half_value(b + 2)};
    }
    default:
      return {d * static_cast<int8_t>(b[2 + i]), 0};  // Q8_0
  }
}

inline Element k_element(TensorType type, const uint8_t* b, uint32_t i) {
  const uint32_t half = i / 128, quarter = i % 128 / 32, l = i % 32;
  int scale = 0, minimum = 0;
  switch (type) {
    case TensorType::kQ2_K: {
      const int code = (b[16 + 32 * half + l] >> (2 * quarter)) & 3;
      return {half_value(b + 80) * (b[i / 16] & 15) * code, half_value(b + 82) * (b[i / 16] >> 4)};
    }
    case TensorType::kQ3_K: {
      const int code = (b[32 + 32 * half + l] >> (2 * quarter)) & 3;
      const int high = (b[l] >> (4 * half + quarter)) & 1;
      const uint32_t g = i / 16;
      const int low_four = g < 8 ? b[96 + g] & 15 : b[96 + g - 8] >> 4;
      scale = (low_four | ((b[104 + g % 4] >> (2 * (g / 4))) & 3) << 4) - 32;
      return {half_value(b + 108) * scale * (code - (high ? 0 : 4)), 0};
    }
    case TensorType::kQ4_K: {
      six_bit_pair(b + 4, i / 32, scale, minimum);
      const uint8_t byte = b[16 + i / 64 * 32 + l];
      return {half_value(b) * scale * (i % 64 < 32 ? byte & 15 : byte >> 4),
              half_value(b + 2) * minimum};
    }
    case TensorType::kQ5_K: {
      six_bit_pair(b + 4, i / 32, scale, minimum);
      const uint8_t byte = b[48 + i / 64 * 32 + l];
      const int code = (i % 64 < 32 ? byte & 15 : byte >> 4) | ((b[16 + l] >> (i / 32)) & 1) << 4;
      return {half_value(b) * scale * code, half_value(b + 2) * minimum};
    }
    case TensorType::kQ6_K: {
      const uint8_t byte = b[64 * half + 32 * (quarter % 2) + l];
      const int low = quarter < 2 ? byte & 15 : byte >> 4;
      const int high = (b[128 + 32 * half + l] >> (2 * quarter)) & 3;
      return {half_value(b + 208) * static_cast<int8_t>(b[192 + i / 16]) * ((low | high << 4) - 32),
              0};
    }
    default: {  // IQ4_XS
      const uint32_t g = i / 32;
      scale =
          (((b[4 + g / 2] >> (4 * (g % 2))) & 15) | ((half_at(b + 2) >> (2 * g)) & 3) << 4) - 32;
      return {half_value(b) * scale * iq4_value(split_nibble(b + 8 + 16 * g, l)), 0};
    }
  }
}

inline Element file_element(TensorType type, const uint8_t* row, uint32_t k) {
  const auto& info = tensor_type_info(type);
  const uint8_t* block = row + uint64_t{k} / info.block_elements * info.block_bytes;
  float f = 0;
  switch (type) {
    case TensorType::kF32:
      std::memcpy(&f, block, 4);
      return {static_cast<double>(f), 0};
    case TensorType::kF16:
      return {half_value(block), 0};
    case TensorType::kBF16:
      return {static_cast<double>(bf16_to_f32(half_at(block))), 0};
    default:
      break;
  }
  const uint32_t i = k % info.block_elements;
  return info.block_elements == 32 ? small_element(type, block, i) : k_element(type, block, i);
}

/// Where a block's f16 numbers stand.
inline std::vector<uint32_t> half_offsets(TensorType type) {
  switch (type) {
    case TensorType::kQ4_1:
    case TensorType::kQ5_1:
    case TensorType::kQ4_K:
    case TensorType::kQ5_K:
      return {0, 2};
    case TensorType::kQ2_K:
      return {80, 82};
    case TensorType::kQ3_K:
      return {108};
    case TensorType::kQ6_K:
      return {208};
    default:
      return {0};
  }
}

inline void put_half(std::byte* at, float value) {
  const uint16_t half = f32_to_f16(value);
  std::memcpy(at, &half, 2);
}

inline void draw_block(const TensorTypeInfo& info, std::byte* block, Draw draw,
                       std::mt19937& random) {
  std::uniform_int_distribution<int> byte(0, 255);
  std::normal_distribution<float> normal;
  for (uint32_t i = 0; i < info.block_bytes; ++i)
    block[i] = draw == Draw::kZeros || draw == Draw::kSmallestCodes ? std::byte{0}
               : draw == Draw::kLargestCodes                        ? std::byte{255}
                                             : static_cast<std::byte>(byte(random));
  if (info.type == TensorType::kQ8_0 && draw == Draw::kSmallestCodes)
    std::memset(block + 2, 0x80, 32);
  if (info.type == TensorType::kQ8_0 && draw == Draw::kLargestCodes)
    std::memset(block + 2, 0x7f, 32);
  const float size = draw == Draw::kZeros             ? 0.0f
                     : draw == Draw::kSubnormalScales ? 0x1p-22f
                                                      : 0.05f;
  if (info.type == TensorType::kF32) {
    const float value = normal(random) * (draw == Draw::kSubnormalScales ? 0x1p-130f : size);
    std::memcpy(block, &value, 4);
  } else if (info.type == TensorType::kBF16) {
    const float value = normal(random) * size;
    std::memcpy(block, reinterpret_cast<const std::byte*>(&value) + 2, 2);
  } else {
    for (const uint32_t at : half_offsets(info.type)) put_half(block + at, normal(random) * size);
  }
}

inline DrawnMatrix draw_matrix(TensorType type, uint32_t n_out, uint32_t n_in, Draw draw,
                               std::mt19937& random) {
  const auto& info = tensor_type_info(type);
  DrawnMatrix m{type, n_out, n_in, {}, {}, {}, {}};
  const uint64_t row_bytes = tensor_row_bytes(type, n_in);
  m.file.resize(n_out * row_bytes);
  for (uint64_t at = 0; at < m.file.size(); at += info.block_bytes)
    draw_block(info, m.file.data() + at, draw, random);
  for (uint32_t row = 0; row < n_out; ++row)
    for (uint32_t k = 0; k < n_in; ++k)
      m.elements.push_back(
          file_element(type, reinterpret_cast<const uint8_t*>(m.file.data()) + row * row_bytes, k));
  m.packed = {nullptr, type, n_out, n_in, panel_bytes(type, n_in)};
  m.storage.resize(m.packed.total_bytes() + 63, std::byte{0xA5});
  auto* aligned = m.storage.data() + (64 - reinterpret_cast<uintptr_t>(m.storage.data()) % 64) % 64;
  pack_panels(type, n_out, n_in, 0, m.packed.n_panels(), m.file, aligned);
  m.packed.bytes = aligned;
  return m;
}

}  // namespace strata::cpu_attn
