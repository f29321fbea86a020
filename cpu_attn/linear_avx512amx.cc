// cpu_attn/linear_avx512amx.cc - quantised linear layers of many rows with AMX: one instruction
// multiplies 16 rows of activations with a group of 32 inputs of a panel's 16 lanes.
//
// Formula  that of linear_quant.inc: a tile gives a group's integer sums, exact, and the operations
//          behind them are the same in the same order (linear_panel.inc), so the bits are those of
//          AVX-512. Codes are unpacked with their sign: a sum starts at nothing.
// What     whole tiles of 16 rows of types in groups of 32. The rest is AVX-512's: the last rows,
//          floats, and groups of 16 (Q2_K, Q3_K, Q6_K), which need a tile store for half the
//          products: Q6_K was 0.96 to 1.11 times as fast, so they were left out again.
// Phases   of kPhaseChunks groups: all their tiles, then all their scalings. Measured on a Xeon of
//          family 6, model 207 (Emerald Rapids), November 2026, a thread's own time in registers or
//          the first cache, in cycles of 2.9 GHz: a tile product takes 16, of 32 bytes as of 64, a
//          store 17, loads 8 and 4; product and store overlap where the store is of three tiles
//          ago (19 cycles together, else 30). But 512-bit vectors go at half their rate while tile
//          instructions are among them: 48 operations of a scaling take 26 cycles alone, 46 beside
//          a single tilezero a group. So the two do not overlap, as had been expected, and phases
//          (53 cycles a group) beat taking turns (60). vpdpbusd takes 64 and 26.
// Stores   a line of `out` comes from the second cache or beyond, and every store behind it waits
//          for it, those of tiles too. Rows are fetched a tile ahead and stored one a group while
//          the next tile is computed: with 576 inputs and 1,536 outputs Q8_0 from 296 to 357 GOP/s
//          to 472 to 475 (two turns, two panels at a time).
// Expected 1.6 to 2 times AVX-512, of cycles counted. Measured, with builds of others beside it at
//          real-time priority, one thread, 512 rows, medians of three turns, GOP/s without and
//          with: 576 inputs, 1,536 outputs Q4_1 426, 546, Q8_0 444, 606; 2,048 both, Q4_1 381, 514,
//          Q8_0 384, 454, Q4_K 385, 516 (docs/measurements.md has the spread, which is wide). That
//          is 10 to 13 % of what products of 64 bytes alone would give, half of which a group of 32
//          cannot have: scalings and stores are the rest.
// Lost     before the choice, two turns each, best calls: 2 and 4 panels at a time where it is 8,
//          with 576 inputs Q4_1 360 to 402 and 482 to 496 of 512 to 535. Phases of 6 groups 0.84 to
//          0.96, of 12 0.97 to 1.03, of 16 0.9 to 0.97 times as fast. Chunks of 512 and 256 inputs
//          0.9 and 0.7. Fetching the next phase's codes and activations into the first cache:
//          nothing.
// Threads  as linear_quant.inc. A call loads the shapes of its tiles and releases them, so that a
//          thread has none to save between calls.
// Stack    kTilePanels * sizeof(UnpackedWeights), 192 KiB.
// Bytes    the weights' from memory; the caches give n_rows * n_in * 1.4 per kTilePanels panels,
//          and n_in * 16 * 1.2 + 16 * 64 a panel per tile of rows.

// The compiler's own header leaves a vector uninitialised on purpose and g++ 12 warns of it (GCC
// bug 105593).
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>
#include <stdint.h>

#include "base/check.h"
#include "cpu_attn/linear.h"

namespace strata::cpu_attn {
namespace {

#include "base/panel_layout.inc"

#include "cpu_attn/linear_vec_avx512.inc"

/// As they are unpacked: less their zero point, with a sign.
inline VecI unpacked_codes(VecI codes, uint32_t zero_shift) {
  return _mm512_sub_epi8(codes, each_byte(static_cast<int8_t>(1u << zero_shift)));
}

#include "cpu_attn/linear_panel.inc"

constexpr uint32_t kGroup = 32;  // of inputs
constexpr uint32_t kPhaseChunks = 8;

/// Codes carry their sign, so that sums start at nothing.
constexpr TileKind signed_kind(const PanelLayout& layout) {
  return {kGroup, layout.has_min, kNoZero, 8};
}

#include "cpu_attn/amx_shapes.inc"

constexpr TileShapes kTileShapes = {
    1,
    0,
    {},
    {64, 64, 64, 64, kGroup, kGroup, 64, 64},
    {kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kTileRows, kGroup / 4, kGroup / 4}};

/// The integer sums of a group, as tilestored leaves them.
struct StoredDot {
  VecI sum;
  STRATA_INLINE VecI total() const { return sum; }
};
struct StoredDots {
  StoredDot row[kTileRows];
};

// Of eight tile registers 0 to 3 hold sums, 4 and 5 activations, 6 and 7 codes. Macros, for an
// intrinsic takes the number of a register from its text.
#define STRATA_MULTIPLY(sums, rows, group_codes, g)                \
  do {                                                             \
    _tile_zero(sums);                                              \
    _tile_loadd(rows, q + (g)*kGroup, stride);                     \
    _tile_loadd(group_codes, codes + (g)*kGroup * kPanelRows, 64); \
    _tile_dpbssd(sums, rows, group_codes);                         \
  } while (false)

/// Multiplies n_groups groups of kTileRows rows, from q on, with those of a panel. Sums are stored
/// three groups late, when they are ready.
STRATA_INLINE void multiply_groups(const uint8_t* codes, uint32_t n_groups, const int8_t* q,
                                   uint64_t stride, StoredDots* to) {
  uint32_t g = 0;
  for (; g + 4 <= n_groups; g += 4) {
    STRATA_MULTIPLY(0, 4, 6, g);
    if (g > 0) _tile_stored(1, to + g - 3, 64);
    STRATA_MULTIPLY(1, 5, 7, g + 1);
    if (g > 0) _tile_stored(2, to + g - 2, 64);
    STRATA_MULTIPLY(2, 4, 6, g + 2);
    if (g > 0) _tile_stored(3, to + g - 1, 64);
    STRATA_MULTIPLY(3, 5, 7, g + 3);
    _tile_stored(0, to + g, 64);
  }
  const uint32_t n_left = n_groups - g;
  if (n_left > 0) STRATA_MULTIPLY(0, 4, 6, g);
  if (g > 0) {
    _tile_stored(1, to + g - 3, 64);
    _tile_stored(2, to + g - 2, 64);
    _tile_stored(3, to + g - 1, 64);
  }
  if (n_left > 1) STRATA_MULTIPLY(1, 5, 7, g + 1);
  if (n_left > 2) STRATA_MULTIPLY(2, 4, 6, g + 2);
  if (n_left > 0) _tile_stored(0, to + g, 64);
  if (n_left > 1) _tile_stored(1, to + g + 1, 64);
  if (n_left > 2) _tile_stored(2, to + g + 2, 64);
}

/// Sums of a tile on their way to `out`, a row at a time.
struct PendingSums {
  Sums<kTileRows> sums;
  float* out = nullptr;
  uint64_t stride = 0;
  int32_t n_lanes = 0;
  uint32_t n_stored = kTileRows;

  STRATA_INLINE void store_row() {
    if (n_stored == kTileRows) return;
    store_first_f(out + n_stored * stride, sums.row[n_stored], n_lanes);
    ++n_stored;
  }
  STRATA_INLINE void store_rest() {
    while (n_stored < kTileRows) store_row();
  }
};

/// n_inputs of kTileRows rows times a panel.
template <TileKind kKind>
STRATA_INLINE void add_inputs(const UnpackedWeights& unpacked, uint32_t n_inputs, const int8_t* q,
                              uint64_t stride, const RowTerms<kTileRows>& terms,
                              PendingSums& pending, Sums<kTileRows>& acc) {
  StoredDots dots[kPhaseChunks];
  UnpackedSlice<kGroup> weights{unpacked.codes, unpacked.scales, unpacked.minima};
  const uint32_t n_chunks = n_inputs / kGroup;
  for (uint32_t first = 0; first < n_chunks; first += kPhaseChunks) {
    const uint32_t end = first + kPhaseChunks < n_chunks ? first + kPhaseChunks : n_chunks;
    multiply_groups(weights.chunk, end - first, q + first * kGroup, stride, dots);
    for (uint32_t c = first; c < end; ++c) {
      add_scaled<kKind, 0, 0>(weights, c, c, dots[c - first], terms, acc);
      pending.store_row();
      weights.leave_chunk();
    }
  }
}

/// Rows [row, row + kTileRows) times the unpacked inputs [first_input, first_input + n_inputs) of
/// n_panels panels from the p-th on, which lie one after the other from `unpacked` on.
template <TileKind kKind>
__attribute__((noinline)) void tile_rows(const LinearArgs& args, uint32_t p, uint32_t n_panels,
                                         uint32_t row, uint32_t first_input, uint32_t n_inputs,
                                         const UnpackedWeights* unpacked, PendingSums& pending) {
  // The intrinsics do not tell the compiler that a tile is loaded from memory.
  asm volatile("" ::: "memory");
  RowTerms<kTileRows> terms;
  read_row_terms<kKind, kTileRows>(args, row, first_input, n_inputs, terms);
  const int8_t* q = args.quant.q + uint64_t{row} * args.w.n_in + first_input;
  for (uint32_t i = 0; i < n_panels; ++i) {
    const int32_t n_lanes = slice_lanes(args.w.n_out, p + i);
    float* out = args.out + row * args.out_stride + (p + i) * kPanelRows;
    for (uint32_t r = 0; r < kTileRows; ++r) __builtin_prefetch(out + r * args.out_stride, 1);
    Sums<kTileRows> acc;
    if (first_input == 0)
      clear_sums(acc);
    else
      load_sums<kTileRows, 1>(acc, out, args.out_stride, &n_lanes);
    add_inputs<kKind>(unpacked[i], n_inputs, q, args.w.n_in, terms, pending, acc);
    pending.store_rest();
    store_sums<kTileRows>(acc, reinterpret_cast<float*>(&pending.sums), kPanelRows, kPanelRows);
    pending.out = out;
    pending.stride = args.out_stride;
    pending.n_lanes = n_lanes;
    pending.n_stored = 0;
  }
}

/// n_panels <= kTilePanels panels from the p-th on, of whole tiles of rows.
template <TensorType kType>
STRATA_INLINE void multiply_panels(const LinearArgs& args, uint32_t p, uint32_t n_panels,
                                   UnpackedWeights* unpacked) {
  constexpr PanelLayout kLayout = panel_layout(kType);
  PackedWeights<kLayout> weights[kTilePanels];
  for (uint32_t i = 0; i < n_panels; ++i)
    weights[i].start(reinterpret_cast<const uint8_t*>(args.w.bytes) + (p + i) * args.w.panel_bytes,
                     args.w.n_in, 0);
  for (uint32_t k = 0; k < args.w.n_in; k += kChunkInputs) {
    const uint32_t n = args.w.n_in - k < kChunkInputs ? args.w.n_in - k : kChunkInputs;
    for (uint32_t i = 0; i < n_panels; ++i) unpack_slice<kLayout>(weights[i], n / 32, unpacked[i]);
    PendingSums pending;
    for (uint32_t row = 0; row < args.n_rows; row += kTileRows)
      tile_rows<signed_kind(kLayout)>(args, p, n_panels, row, k, n, unpacked, pending);
    pending.store_rest();
  }
}

/// `args` of whole tiles of rows.
template <TensorType kType>
void tiles_linear(const LinearArgs& args) {
  _tile_loadconfig(&kTileShapes);
  UnpackedWeights unpacked[kTilePanels];
  for (uint32_t p = args.panel_begin; p < args.panel_end; p += kTilePanels)
    multiply_panels<kType>(
        args, p, args.panel_end - p < kTilePanels ? args.panel_end - p : kTilePanels, unpacked);
  _tile_release();
}

bool has_tiles(TensorType type) {
  return !is_float_type(type) && panel_layout(type).group == kGroup;
}

/// `args` of whole tiles of rows, of a type that has_tiles().
void tiles_linear(const LinearArgs& args) {
  switch (args.w.type) {
    case TensorType::kQ4_0:
      return tiles_linear<TensorType::kQ4_0>(args);
    case TensorType::kQ4_1:
      return tiles_linear<TensorType::kQ4_1>(args);
    case TensorType::kQ5_0:
      return tiles_linear<TensorType::kQ5_0>(args);
    case TensorType::kQ5_1:
      return tiles_linear<TensorType::kQ5_1>(args);
    case TensorType::kQ8_0:
      return tiles_linear<TensorType::kQ8_0>(args);
    case TensorType::kQ4_K:
      return tiles_linear<TensorType::kQ4_K>(args);
    case TensorType::kQ5_K:
      return tiles_linear<TensorType::kQ5_K>(args);
    case TensorType::kIQ4_NL:
      return tiles_linear<TensorType::kIQ4_NL>(args);
    case TensorType::kIQ4_XS:
      return tiles_linear<TensorType::kIQ4_XS>(args);
    case TensorType::kF32:
    case TensorType::kF16:
    case TensorType::kBF16:
    case TensorType::kQ2_K:
    case TensorType::kQ3_K:
    case TensorType::kQ6_K:
      break;
  }
}

/// Whole tiles of rows by AMX, the rest as AVX-512 does.
void linear(const LinearArgs& args) {
  check_linear(args);
  const uint32_t n_tiled = has_tiles(args.w.type) ? args.n_rows / kTileRows * kTileRows : 0;
  LinearArgs rest = args;
  rest.n_rows -= n_tiled;
  if (n_tiled > 0) {
    LinearArgs tiled = args;
    tiled.n_rows = n_tiled;
    tiles_linear(tiled);
    rest.quant.q += uint64_t{n_tiled} * args.w.n_in;
    rest.quant.scales += uint64_t{n_tiled} * (args.w.n_in / kActGroup);
    rest.quant.neg_sums += uint64_t{n_tiled} * (args.w.n_in / kActHalfGroup);
    rest.out += n_tiled * args.out_stride;
  }
  if (rest.n_rows > 0) linear_avx512(rest);
}

}  // namespace

void fill_linear_avx512amx(KernelTable& table) {
  table.linear = linear;
  table.has_tiles = true;
}

}  // namespace strata::cpu_attn
