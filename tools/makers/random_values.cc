#include "tools/makers/random_values.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/half.h"

namespace strata::makers {
namespace {

constexpr uint32_t kNoField = UINT32_MAX;

/// Where a block of random bytes keeps its f16 scale (and minimum), and what its elements are when
/// the scale is 1: with codes c, scales s and minima m uniform over their bits,
///   deviation^2 = E[s^2] E[c^2] - E[s]^2 E[c]^2 + minimum^2 Var[m],  minimum = E[s] E[c] / E[m].
struct BlockFacts {
  TensorType type;
  uint32_t scale_offset;
  uint32_t minimum_offset;
  double minimum;  // of the scale; negative where the format adds it
  double deviation;
};

constexpr BlockFacts kBlocks[] = {
    {TensorType::kQ4_0, 0, kNoField, 0, 4.61},   {TensorType::kQ4_1, 0, 2, -7.5, 4.61},
    {TensorType::kQ5_0, 0, kNoField, 0, 9.23},   {TensorType::kQ5_1, 0, 2, -15.5, 9.23},
    {TensorType::kQ8_0, 0, kNoField, 0, 73.9},   {TensorType::kQ2_K, 80, 82, 1.5, 13.9},
    {TensorType::kQ3_K, 108, kNoField, 0, 43.3}, {TensorType::kQ4_K, 0, 2, 7.5, 258.0},
    {TensorType::kQ5_K, 0, 2, 15.5, 527.0},      {TensorType::kQ6_K, 208, kNoField, 0, 1366.0},
    {TensorType::kIQ4_NL, 0, kNoField, 0, 67.2}, {TensorType::kIQ4_XS, 0, kNoField, 0, 1246.0},
};

const BlockFacts& facts_of(TensorType type) {
  for (const BlockFacts& facts : kBlocks)
    if (facts.type == type) return facts;
  STRATA_CHECK(false, "no block facts of tensor type %u", static_cast<uint32_t>(type));
  return kBlocks[0];
}

template <class T>
void store(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(value));
}

/// Truncates: no weight needs bf16's last bit.
uint16_t f32_to_bf16(float value) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
}

void fill_floats(TensorType type, double mean, double deviation, RandomStream& random,
                 std::span<std::byte> out) {
  const uint64_t size = type == TensorType::kF32 ? 4 : 2;
  for (uint64_t at = 0; at < out.size(); at += size) {
    const auto value = static_cast<float>(mean + deviation * random.bell());
    if (type == TensorType::kF32) store(out.data() + at, value);
    if (type == TensorType::kF16) store(out.data() + at, f32_to_f16(value));
    if (type == TensorType::kBF16) store(out.data() + at, f32_to_bf16(value));
  }
}

void fill_blocks(const BlockFacts& facts, double deviation, RandomStream& random,
                 std::span<std::byte> out) {
  const uint32_t block_bytes = tensor_type_info(facts.type).block_bytes;
  for (uint64_t at = 0; at < out.size(); at += sizeof(uint64_t)) {
    const uint64_t bits = random.next();
    std::memcpy(out.data() + at, &bits, std::min<uint64_t>(sizeof(bits), out.size() - at));
  }
  const double scale = deviation / facts.deviation;
  const uint16_t scale_bits = f32_to_f16(static_cast<float>(scale));
  const uint16_t minimum_bits = f32_to_f16(static_cast<float>(scale * facts.minimum));
  for (std::byte* block = out.data(); block < out.data() + out.size(); block += block_bytes) {
    store(block + facts.scale_offset, scale_bits);
    if (facts.minimum_offset != kNoField) store(block + facts.minimum_offset, minimum_bits);
    if (facts.type != TensorType::kQ8_0) continue;
    for (uint32_t i = 2; i < block_bytes; ++i)  // encoders never write -128
      if (block[i] == std::byte{0x80}) block[i] = std::byte{0x81};
  }
}

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t RandomStream::next() {
  state_ += 0x9e3779b97f4a7c15u;
  return mix(state_);
}

double RandomStream::bell() {
  const uint64_t bits = next();
  const auto sum = static_cast<double>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                       (bits >> 32 & 0xffff) + (bits >> 48));
  constexpr double kMean = 2.0 * 0xffff;
  constexpr double kDeviation = 37837.2;  // sqrt(4 (2^32 - 1) / 12)
  return (sum - kMean) / kDeviation;
}

uint64_t row_seed(uint64_t seed, std::string_view tensor_name, uint64_t row) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : tensor_name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return mix(mix(hash + seed) + row);
}

void fill_random(TensorType type, double mean, double deviation, uint64_t seed,
                 std::span<std::byte> out) {
  RandomStream random(seed);
  if (tensor_type_info(type).block_elements == 1)
    fill_floats(type, mean, deviation, random, out);
  else
    fill_blocks(facts_of(type), deviation, random, out);
}

}  // namespace strata::makers
