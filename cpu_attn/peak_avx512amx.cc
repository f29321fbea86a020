// cpu_attn/peak_avx512amx.cc - full rate of AMX: one instruction multiplies 16 rows of 64 bytes
// with 64 rows of 16 and adds the products to 16 x 16 sums.
#include <immintrin.h>
#include <stdint.h>

#include "cpu_attn/peak.h"

namespace strata::cpu_attn {
namespace {

constexpr uint32_t kTileBytes = 16 * 64;

#include "cpu_attn/amx_shapes.inc"

constexpr TileShapes kTileShapes = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

double sum_of(const int32_t* sums) {
  double all = 0;
  for (uint32_t i = 0; i < kTileBytes / 4; ++i) all += static_cast<double>(sums[i]);
  return all;
}

double peak_int8(uint64_t n_rounds) {
  alignas(64) int8_t ones[kTileBytes];
  alignas(64) int32_t sums[4][kTileBytes / 4];
  for (int8_t& one : ones) one = 1;
  _tile_loadconfig(&kTileShapes);
  asm volatile("" ::: "memory");  // the intrinsics do not tell that a tile is loaded from memory
  _tile_loadd(4, ones, 64);
  _tile_loadd(5, ones, 64);
  _tile_loadd(6, ones, 64);
  _tile_loadd(7, ones, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (uint64_t round = 0; round < n_rounds; ++round) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  _tile_stored(3, sums[3], 64);
  _tile_release();
  return sum_of(sums[0]) + sum_of(sums[1]) + sum_of(sums[2]) + sum_of(sums[3]);
}

}  // namespace

PeakLoop peak_int8_tiles() { return peak_int8; }

}  // namespace strata::cpu_attn
