// Formulas: one block of n elements gives y[i]; d, m, dmin are f16; every product and sum is
// rounded to f32 in the order written here (the targets are built with -ffp-contract=off), which is
// the order other readers of the format use.
//   Q4_0   d (q - 8)
//   Q5_0   d (q - 16)
//   Q4_1, Q5_1   d q + m
//   Q8_0   d q
//   IQ4_NL d table[q]
//   IQ4_XS (d (s - 32)) table[q]
//   Q2_K   (d (s & 15)) q - dmin (s >> 4)
//   Q3_K   (d (s - 32)) q
//   Q4_K, Q5_K   (d s) q - dmin m
//   Q6_K   (d s) q
// Source: the block structures of ggml's quantised types (docs/file-format.md, "Tensor types").
#include "engine/gguf/dequantise.h"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "base/half.h"

namespace strata::engine {
namespace {

constexpr uint32_t kSuperBlock = 256;

// The 16 values a 4-bit code of IQ4_NL and IQ4_XS stands for.
constexpr std::array<int8_t, 16> kNonLinear = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};

template <typename T>
T load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}
float load_f16(const uint8_t* from) { return f16_to_f32(load<uint16_t>(from)); }

void decode_f32(const uint8_t* block, float* out) { out[0] = load<float>(block); }
void decode_f16(const uint8_t* block, float* out) { out[0] = load_f16(block); }
void decode_bf16(const uint8_t* block, float* out) { out[0] = bf16_to_f32(load<uint16_t>(block)); }

// 32 elements: d, then 16 bytes whose low nibbles are elements 0..15 and whose high nibbles
// are 16..31.
void decode_q4_0(const uint8_t* block, float* out) {
  const float d = load_f16(block);
  for (uint32_t i = 0; i < 16; ++i) {
    out[i] = static_cast<float>((block[2 + i] & 15) - 8) * d;
    out[i + 16] = static_cast<float>((block[2 + i] >> 4) - 8) * d;
  }
}

void decode_q4_1(const uint8_t* block, float* out) {
  const float d = load_f16(block);
  const float m = load_f16(block + 2);
  for (uint32_t i = 0; i < 16; ++i) {
    out[i] = static_cast<float>(block[4 + i] & 15) * d + m;
    out[i + 16] = static_cast<float>(block[4 + i] >> 4) * d + m;
  }
}

// As Q4, and a word whose bit i is the fifth bit of element i.
void decode_q5_0(const uint8_t* block, float* out) {
  const float d = load_f16(block);
  const auto high = load<uint32_t>(block + 2);
  for (uint32_t i = 0; i < 16; ++i) {
    const uint32_t low_q = (block[6 + i] & 15u) | ((high >> i & 1u) << 4);
    const uint32_t high_q = (block[6 + i] >> 4) | ((high >> (i + 16) & 1u) << 4);
    out[i] = static_cast<float>(static_cast<int32_t>(low_q) - 16) * d;
    out[i + 16] = static_cast<float>(static_cast<int32_t>(high_q) - 16) * d;
  }
}

void decode_q5_1(const uint8_t* block, float* out) {
  const float d = load_f16(block);
  const float m = load_f16(block + 2);
  const auto high = load<uint32_t>(block + 4);
  for (uint32_t i = 0; i < 16; ++i) {
    const uint32_t low_q = (block[8 + i] & 15u) | ((high >> i & 1u) << 4);
    const uint32_t high_q = (block[8 + i] >> 4) | ((high >> (i + 16) & 1u) << 4);
    out[i] = static_cast<float>(low_q) * d + m;
    out[i + 16] = static_cast<float>(high_q) * d + m;
  }
}

void decode_q8_0(const uint8_t* block, float* out) {
  const float d = load_f16(block);
  for (uint32_t i = 0; i < 32; ++i)
    out[i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * d;
}

void decode_iq4_nl(const uint8_t* block, float* out) {
  const float d = load_f16(block);
  for (uint32_t i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(kNonLinear[block[2 + i] & 15]);
    out[i + 16] = d * static_cast<float>(kNonLinear[block[2 + i] >> 4]);
  }
}

// 256 elements: 16 scale bytes (scale low nibble, minimum high), 64 bytes of 2-bit codes, d, dmin.
// Each run of 32 code bytes holds 128 elements: element 32 k + i of the run is bits 2k, 2k + 1 of
// byte i. A scale covers 16 elements in order.
void decode_q2_k(const uint8_t* block, float* out) {
  const uint8_t* codes = block + 16;
  const float d = load_f16(block + 80);
  const float dmin = load_f16(block + 82);
  for (uint32_t i = 0; i < kSuperBlock; ++i) {
    const uint8_t scale = block[i / 16];
    const float dl = d * static_cast<float>(scale & 15);
    const float ml = dmin * static_cast<float>(scale >> 4);
    const uint32_t q = codes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3u;
    out[i] = dl * static_cast<float>(q) - ml;
  }
}

// 32 bytes of high bits (bit k of byte i: element 32 k + i), 64 bytes of 2-bit codes as Q2_K, 12
// bytes of sixteen 6-bit scales (low nibbles of 0..7 then high nibbles for 8..15; the upper two
// bits of scale s in byte 8 + s % 4), d. A clear high bit subtracts 4.
void decode_q3_k(const uint8_t* block, float* out) {
  const uint8_t* codes = block + 32;
  const uint8_t* packed = block + 96;
  const float d = load_f16(block + 108);
  for (uint32_t i = 0; i < kSuperBlock; ++i) {
    const uint32_t s = i / 16;
    const uint32_t low = s < 8 ? packed[s] & 15u : packed[s - 8] >> 4;
    const uint32_t upper = packed[8 + s % 4] >> (s / 4 * 2) & 3u;
    const float dl = d * static_cast<float>(static_cast<int32_t>(low | upper << 4) - 32);
    const uint32_t q = codes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3u;
    const int32_t high = (block[i % 32] >> (i / 32) & 1) != 0 ? 0 : 4;
    out[i] = dl * static_cast<float>(static_cast<int32_t>(q) - high);
  }
}

struct ScaleAndMin {
  uint32_t scale, min;
};

// Eight 6-bit scales and minima in 12 bytes: 0..3 in the low six bits of bytes 0..3 and 4..7; 4..7
// as nibbles of bytes 8..11 with their upper two bits in the upper two bits of bytes 0..3 and 4..7.
ScaleAndMin unpack_scale(const uint8_t* packed, uint32_t j) {
  if (j < 4) return {packed[j] & 63u, packed[j + 4] & 63u};
  return {(packed[j + 4] & 15u) | (uint32_t{packed[j - 4]} >> 6) << 4,
          (uint32_t{packed[j + 4]} >> 4) | (uint32_t{packed[j]} >> 6) << 4};
}

// d, dmin, 12 bytes of scales, 128 bytes of codes: each run of 32 bytes holds 64 elements, low
// nibbles first.
void decode_q4_k(const uint8_t* block, float* out) {
  const float d = load_f16(block);
  const float dmin = load_f16(block + 2);
  for (uint32_t j = 0; j < 8; ++j) {
    const auto [scale, min] = unpack_scale(block + 4, j);
    const float d1 = d * static_cast<float>(scale);
    const float m1 = dmin * static_cast<float>(min);
    const uint8_t* codes = block + 16 + j / 2 * 32;
    for (uint32_t i = 0; i < 32; ++i) {
      const uint32_t q = codes[i] >> (j % 2 * 4) & 15u;
      out[j * 32 + i] = d1 * static_cast<float>(q) - m1;
    }
  }
}

// As Q4_K with 32 bytes of fifth bits (bit j of byte i: element 32 j + i) before the codes.
void decode_q5_k(const uint8_t* block, float* out) {
  const float d = load_f16(block);
  const float dmin = load_f16(block + 2);
  const uint8_t* high = block + 16;
  for (uint32_t j = 0; j < 8; ++j) {
    const auto [scale, min] = unpack_scale(block + 4, j);
    const float d1 = d * static_cast<float>(scale);
    const float m1 = dmin * static_cast<float>(min);
    const uint8_t* codes = block + 48 + j / 2 * 32;
    for (uint32_t i = 0; i < 32; ++i) {
      const uint32_t q = (codes[i] >> (j % 2 * 4) & 15u) | (high[i] >> j & 1u) << 4;
      out[j * 32 + i] = d1 * static_cast<float>(q) - m1;
    }
  }
}

// 128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales, d. In each half of 128
// elements, element 32 k + i has its nibble in byte i + 32 (k % 2), low for k < 2, and its pair at
// bits 2k of byte i.
void decode_q6_k(const uint8_t* block, float* out) {
  const float d = load_f16(block + 208);
  for (uint32_t i = 0; i < kSuperBlock; ++i) {
    const uint32_t half = i / 128, k = i % 128 / 32, lane = i % 32;
    const uint32_t low = block[half * 64 + k % 2 * 32 + lane] >> (k / 2 * 4) & 15u;
    const uint32_t upper = block[128 + half * 32 + lane] >> (k * 2) & 3u;
    const auto scale = static_cast<int8_t>(block[192 + i / 16]);
    const float dl = d * static_cast<float>(scale);
    out[i] = dl * static_cast<float>(static_cast<int32_t>(low | upper << 4) - 32);
  }
}

// d, a word of upper scale bit pairs, 4 bytes of scale nibbles, 128 bytes of codes: eight groups of
// 16 bytes, each as IQ4_NL.
void decode_iq4_xs(const uint8_t* block, float* out) {
  const float d = load_f16(block);
  const uint32_t upper = load<uint16_t>(block + 2);
  for (uint32_t j = 0; j < 8; ++j) {
    const uint32_t scale = (block[4 + j / 2] >> (j % 2 * 4) & 15u) | (upper >> (j * 2) & 3u) << 4;
    const float dl = d * static_cast<float>(static_cast<int32_t>(scale) - 32);
    const uint8_t* codes = block + 8 + j * 16;
    for (uint32_t i = 0; i < 16; ++i) {
      out[j * 32 + i] = dl * static_cast<float>(kNonLinear[codes[i] & 15]);
      out[j * 32 + i + 16] = dl * static_cast<float>(kNonLinear[codes[i] >> 4]);
    }
  }
}

using DecodeBlock = void (*)(const uint8_t* block, float* out);

DecodeBlock decoder_of(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return decode_f32;
    case TensorType::kF16:
      return decode_f16;
    case TensorType::kBF16:
      return decode_bf16;
    case TensorType::kQ4_0:
      return decode_q4_0;
    case TensorType::kQ4_1:
      return decode_q4_1;
    case TensorType::kQ5_0:
      return decode_q5_0;
    case TensorType::kQ5_1:
      return decode_q5_1;
    case TensorType::kQ8_0:
      return decode_q8_0;
    case TensorType::kQ2_K:
      return decode_q2_k;
    case TensorType::kQ3_K:
      return decode_q3_k;
    case TensorType::kQ4_K:
      return decode_q4_k;
    case TensorType::kQ5_K:
      return decode_q5_k;
    case TensorType::kQ6_K:
      return decode_q6_k;
    case TensorType::kIQ4_NL:
      return decode_iq4_nl;
    case TensorType::kIQ4_XS:
      return decode_iq4_xs;
  }
  return nullptr;
}

}  // namespace

void dequantise(TensorType type, std::span<const std::byte> bytes, std::span<float> out) {
  const TensorTypeInfo& info = tensor_type_info(type);
  STRATA_CHECK(bytes.size() == tensor_row_bytes(type, out.size()),
               "%zu bytes for %zu elements of %s", bytes.size(), out.size(), info.name.data());
  const DecodeBlock decode = decoder_of(type);
  STRATA_CHECK(decode != nullptr, "no decoder of %s", info.name.data());
  const auto* block = reinterpret_cast<const uint8_t*>(bytes.data());
  for (size_t i = 0; i < out.size(); i += info.block_elements, block += info.block_bytes)
    decode(block, out.data() + i);
}

}  // namespace strata::engine
