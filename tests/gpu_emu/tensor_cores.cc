#include "tests/gpu_emu/tensor_cores.h"

#include <bit>
#include <cstring>

#include "tests/gpu_emu/collectives.h"

namespace strata::gpu_emu {
namespace {

constexpr uint32_t kRows = 16, kColumns = 8, kDepth = 16;  // of d, and what is summed over

/// As base/half.h, in a form that a compiler can vectorise: multiplying by 2^112 moves the exponent
/// and makes subnormals whole.
float decode(uint32_t bits) {
  const uint32_t magnitude = (bits & 0x7fffu) << 13;
  const float value = std::bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;  // infinity and NaN
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | special | (bits & 0x8000u) << 16);
}

struct Pair {
  float first, second;
};

Pair decode_pair(uint32_t bits) { return {decode(bits & 0xffffu), decode(bits >> 16)}; }

}  // namespace

void multiply_registers(Warp& warp) {
  float a[kRows][kDepth];
  float b[kDepth][kColumns];
  float d[kRows][kColumns];
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    const Rendezvous& part = *warp.rendezvous[lane];
    const auto* a_of = static_cast<const uint32_t*>(part.registers_in[0]);
    const auto* b_of = static_cast<const uint32_t*>(part.registers_in[1]);
    const auto* d_of = static_cast<const float*>(part.registers_out);
    const uint32_t g = lane / 4, t = lane % 4;
    for (uint32_t i = 0; i < 4; ++i) {
      const Pair pair = decode_pair(a_of[i]);
      float* at = &a[g + i % 2 * 8][2 * t + i / 2 * 8];
      at[0] = pair.first;
      at[1] = pair.second;
      d[g + i / 2 * 8][2 * t + i % 2] = d_of[i];
    }
    for (uint32_t i = 0; i < 2; ++i) {
      const Pair pair = decode_pair(b_of[i]);
      b[2 * t + i * 8][g] = pair.first;
      b[2 * t + i * 8 + 1][g] = pair.second;
    }
  }
  for (uint32_t row = 0; row < kRows; ++row) {
    for (uint32_t k = 0; k < kDepth; ++k) {
      for (uint32_t column = 0; column < kColumns; ++column)
        d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    auto* d_of = static_cast<float*>(warp.rendezvous[lane]->registers_out);
    const uint32_t g = lane / 4, t = lane % 4;
    for (uint32_t i = 0; i < 4; ++i) d_of[i] = d[g + i / 2 * 8][2 * t + i % 2];
  }
}

void multiply_byte_registers(Warp& warp) {
  uint8_t a[kRows][kDepth];
  int8_t b[kColumns][kDepth];
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    const Rendezvous& part = *warp.rendezvous[lane];
    const auto* a_of = static_cast<const uint32_t*>(part.registers_in[0]);
    const uint32_t g = lane / 4, t = lane % 4;
    for (uint32_t i = 0; i < 2; ++i) std::memcpy(&a[g + 8 * i][4 * t], &a_of[i], 4);
    std::memcpy(&b[g][4 * t], part.registers_in[1], 4);
  }
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    auto* d_of = static_cast<uint32_t*>(warp.rendezvous[lane]->registers_out);
    for (uint32_t i = 0; i < 4; ++i) {
      const uint8_t* row = a[lane / 4 + i / 2 * 8];
      const int8_t* column = b[lane % 4 * 2 + i % 2];
      int32_t sum = 0;
      for (uint32_t k = 0; k < kDepth; ++k) sum += row[k] * column[k];
      d_of[i] += static_cast<uint32_t>(sum);
    }
  }
}

void spread_rows(Warp& warp, bool is_transposed) {
  uint16_t rows[kWarpLanes][8];
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane)
    std::memcpy(rows[lane], warp.rendezvous[lane]->registers_in[0], sizeof rows[lane]);
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    auto* out = static_cast<uint32_t*>(warp.rendezvous[lane]->registers_out);
    const uint32_t g = lane / 4, t = lane % 4;
    for (uint32_t i = 0; i < 4; ++i) {
      const auto* matrix = &rows[8 * i];
      const uint32_t low = is_transposed ? matrix[2 * t][g] : matrix[g][2 * t];
      const uint32_t high = is_transposed ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
      out[i] = low | high << 16;
    }
  }
}

}  // namespace strata::gpu_emu
