// cpu_attn/pack_turned.cc - packs a whole panel, sixteen rows at a time (panel_layout.inc says what
// lies where). Streamed weights are packed in every step, so packing must keep pace with a disk.
//
// How      Sixteen bytes of each of four rows are turned from rows into columns: vector i then
//          holds dword i of four lanes, which is where a plane has it. What is left are shifts and
//          masks: the two nibbles of a byte, which belong to two chunks, are parted; planes of one
//          and two bits are matrices of bits, transposed by exchanging bits between vectors.
//          Sub-scales are turned as bytes, sixteen rows at once; F16 and BF16 as pairs of bytes,
//          eight rows.
// Reads    of sixteen bytes may cover more of a block than is wanted, never more than the block.
//          Sixteen rows are too many streams for the processor's own prefetcher: kFetchAhead bytes
//          further on are asked for in each row, and behind its end in the next panel's.
// Stores   past the caches: what is packed is read once in a step, much later. A line of codes is
//          filled by four stores, so the loop over lanes is inside each operation: at most eight
//          lines are begun and not full, as many as a processor combines.
// Bytes    16 * row_bytes are read, panel_bytes written.
//
// One thread of a Zen 5 (November 2026, load average 15 on two cores), Q4_K with 4,096 inputs, runs
// of 1 MiB into 192 MiB, GB/s of processor time: memcpy of the same bytes 25, a lane at a time 2.3.
// Rows of 8 MiB, in turn:
//          SSE2, which every x86-64 CPU has                  6.9   past the caches 17.8
//          AVX2, the same body over vectors of eight lanes  12.4                   20.6
//          AVX-512, over sixteen                            14.9                   25.6
// The wider two would be two more files, a row in the kernel table and that table handed to all who
// load weights, for a part of a step that takes a tenth of the disk's time. Lost:
//          all operations on four lanes before the next four, more than 16 lines begun: 6.1
//          no fetching, rows of 32 MiB that no cache holds: 7.3 (Q6_K 8.2), with it 17.3 (16.6)
//          fetching the next panel in the order of memory instead: as fast for short rows, 9.0 to
//          14.0 instead of 15.0 for rows of 14,336 inputs; 1,024 bytes ahead: the same as 512
#include <emmintrin.h>
#include <string.h>

#include "base/check.h"
#include "base/tensor_type.h"
#include "cpu_attn/pack_panel.h"

namespace strata::cpu_attn {
namespace {

#include "base/panel_layout.inc"

#define STRATA_INLINE inline __attribute__((always_inline))

constexpr uint32_t kTurnedRows = 4;  // lanes of a vector of dwords
constexpr uint32_t kFetchAhead = 512;
constexpr uint8_t kOnes = 0x55, kTwos = 0x33, kLowNibbles = 0x0F, kHighNibbles = 0xF0;

STRATA_INLINE __m128i each_byte(uint8_t byte) { return _mm_set1_epi8(static_cast<char>(byte)); }

STRATA_INLINE __m128i load(const uint8_t* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}
/// For what is a whole line together with the stores around it.
STRATA_INLINE void store_past(uint8_t* at, __m128i v) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(at), v);
}
STRATA_INLINE void store(uint8_t* at, __m128i v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at), v);
}

// Bytes have no shifts: those of 16 bits, masked before or behind.
template <int kBy>
STRATA_INLINE __m128i down(__m128i v, uint8_t mask) {
  return _mm_and_si128(_mm_srli_epi16(v, kBy), each_byte(mask));
}
template <int kBy>
STRATA_INLINE __m128i up(__m128i v, uint8_t mask) {
  return _mm_slli_epi16(_mm_and_si128(v, each_byte(mask)), kBy);
}
STRATA_INLINE __m128i keep(__m128i v, uint8_t mask) { return _mm_and_si128(v, each_byte(mask)); }

/// Fetches what is kFetchAhead bytes behind bytes [from, from + bytes) of every row. It may lie
/// behind the last row, where a fetch does nothing.
STRATA_INLINE void fetch_ahead(const uint8_t* rows, uint64_t row_bytes, uint64_t from,
                               uint64_t bytes) {
  from += kFetchAhead;
  for (uint64_t at = (from + 63) / 64 * 64; at < from + bytes; at += 64) {
    const uint8_t* line = rows + (at < row_bytes ? at : at + (kPanelRows - 1) * row_bytes);
    for (uint32_t lane = 0; lane < kPanelRows; ++lane)
      __builtin_prefetch(line + lane * row_bytes, 0, 3);
  }
}

template <uint32_t kBytes>
STRATA_INLINE __m128i interleave_low(__m128i a, __m128i b) {
  return kBytes == 1   ? _mm_unpacklo_epi8(a, b)
         : kBytes == 2 ? _mm_unpacklo_epi16(a, b)
                       : _mm_unpacklo_epi32(a, b);
}
template <uint32_t kBytes>
STRATA_INLINE __m128i interleave_high(__m128i a, __m128i b) {
  return kBytes == 1   ? _mm_unpackhi_epi8(a, b)
         : kBytes == 2 ? _mm_unpackhi_epi16(a, b)
                       : _mm_unpackhi_epi32(a, b);
}

/// Element v of sixteen bytes of row r becomes element r of out[v], for elements of kBytes and as
/// many rows. A round moves the highest bit of a row's number to the lowest of an element's, and
/// the highest of the element's to the lowest of the row's.
template <uint32_t kBytes>
STRATA_INLINE void turn(const uint8_t* at, uint64_t row_bytes, __m128i* out) {
  constexpr uint32_t kRows = 16 / kBytes;
#pragma GCC unroll 16
  for (uint32_t r = 0; r < kRows; ++r) out[r] = load(at + r * row_bytes);
#pragma GCC unroll 4
  for (uint32_t rows = kRows; rows > 1; rows /= 2) {
    __m128i in[kRows];
#pragma GCC unroll 16
    for (uint32_t r = 0; r < kRows; ++r) in[r] = out[r];
#pragma GCC unroll 8
    for (uint32_t r = 0; r < kRows / 2; ++r) {
      out[2 * r] = interleave_low<kBytes>(in[r], in[r + kRows / 2]);
      out[2 * r + 1] = interleave_high<kBytes>(in[r], in[r + kRows / 2]);
    }
  }
}

STRATA_INLINE void turn_32_bytes(const uint8_t* at, uint64_t row_bytes, __m128i* out) {
  turn<4>(at, row_bytes, out);
  turn<4>(at + 16, row_bytes, out + 4);
}

// ---- Codes of one block. `codes` are of the first row, `plane` of the first lane.

/// Exchanges the bits of `a` under kMask << kShift with those of `b` under kMask.
template <int kShift, uint8_t kMask>
STRATA_INLINE void exchange(__m128i& a, __m128i& b) {
  const __m128i differ = keep(_mm_xor_si128(_mm_srli_epi16(a, kShift), b), kMask);
  b = _mm_xor_si128(b, differ);
  a = _mm_xor_si128(a, _mm_slli_epi16(differ, kShift));
}

/// Two bits, number s of vector q, become number q of vector s, in every byte of four vectors.
STRATA_INLINE void transpose_twos(__m128i* v) {
  exchange<4, kLowNibbles>(v[0], v[2]);
  exchange<4, kLowNibbles>(v[1], v[3]);
  exchange<2, kTwos>(v[0], v[1]);
  exchange<2, kTwos>(v[2], v[3]);
}

/// Bit s of vector t becomes bit t of vector s, in every byte of eight vectors.
STRATA_INLINE void transpose_ones(__m128i* v) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) exchange<4, kLowNibbles>(v[i], v[i + 4]);
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    exchange<2, kTwos>(v[i], v[i + 2]);
    exchange<2, kTwos>(v[i + 1], v[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) exchange<1, kOnes>(v[i], v[i + 1]);
}

/// 32 bytes of each row: their lower halves are one chunk's low plane, the upper ones another's.
STRATA_INLINE void part_nibbles(const uint8_t* codes, uint64_t row_bytes, uint8_t* lower,
                                uint8_t* upper) {
  for (uint32_t lane = 0; lane < kPanelRows; lane += kTurnedRows) {
    __m128i v[8];
    turn_32_bytes(codes + lane * row_bytes, row_bytes, v);
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t at = i * 64 + lane * 4;
      store_past(lower + at, _mm_or_si128(keep(v[i], kLowNibbles), up<4>(v[i + 4], kLowNibbles)));
      store_past(upper + at,
                 _mm_or_si128(down<4>(v[i], kLowNibbles), keep(v[i + 4], kHighNibbles)));
    }
  }
}

/// 32 bytes of each row: the two bits number s of each are a plane of chunk s.
template <uint32_t kChunkBytes>
STRATA_INLINE void part_twos(const uint8_t* codes, uint64_t row_bytes, uint8_t* plane) {
  for (uint32_t lane = 0; lane < kPanelRows; lane += kTurnedRows) {
    __m128i v[8];
    turn_32_bytes(codes + lane * row_bytes, row_bytes, v);
    transpose_twos(v);
    transpose_twos(v + 4);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; ++i)
      store_past(plane + i % 4 * kChunkBytes + i / 4 * 64 + lane * 4, v[i]);
  }
}

/// 32 bytes of each row: bit s of each is a plane of chunk s.
template <uint32_t kChunkBytes>
STRATA_INLINE void part_ones(const uint8_t* codes, uint64_t row_bytes, uint8_t* plane) {
  for (uint32_t lane = 0; lane < kPanelRows; lane += kTurnedRows) {
    __m128i v[8];
    turn_32_bytes(codes + lane * row_bytes, row_bytes, v);
    transpose_ones(v);
#pragma GCC unroll 8
    for (uint32_t s = 0; s < 8; ++s) store_past(plane + s * kChunkBytes + lane * 4, v[s]);
  }
}

/// Sixteen bytes of each row that are four vectors of a plane already, but for bits to flip.
template <uint8_t kFlip>
STRATA_INLINE void copy_plane(const uint8_t* codes, uint64_t row_bytes, uint8_t* plane) {
  for (uint32_t lane = 0; lane < kPanelRows; lane += kTurnedRows) {
    __m128i v[4];
    turn<4>(codes + lane * row_bytes, row_bytes, v);
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; ++i)
      store_past(plane + i * 64 + lane * 4,
                 kFlip == 0 ? v[i] : _mm_xor_si128(v[i], each_byte(kFlip)));
  }
}

/// Bits of a dword under kMask change places with those kShift above them.
template <int kShift, int kMask>
STRATA_INLINE __m128i exchange_within(__m128i v) {
  const __m128i differ =
      _mm_and_si128(_mm_xor_si128(_mm_srli_epi32(v, kShift), v), _mm_set1_epi32(kMask));
  return _mm_xor_si128(_mm_xor_si128(v, differ), _mm_slli_epi32(differ, kShift));
}

/// The fifth bits of 32 codes, a dword of each row: bit 4 t + j becomes bit 8 j + t.
STRATA_INLINE void turn_fifth_bits(const uint8_t* bits, uint64_t row_bytes, uint8_t* plane) {
  for (uint32_t lane = 0; lane < kPanelRows; lane += kTurnedRows) {
    __m128i v[4];
    turn<4>(bits + lane * row_bytes, row_bytes, v);
    // The number of a bit, t2 t1 t0 j1 j0, is to become j1 j0 t2 t1 t0.
    __m128i x = exchange_within<14, 0x0000CCCC>(v[0]);  // j1 t1 t0 t2 j0
    x = exchange_within<7, 0x00AA00AA>(x);              // j1 j0 t0 t2 t1
    x = exchange_within<2, 0x0C0C0C0C>(x);              // j1 j0 t2 t0 t1
    store_past(plane + lane * 4, exchange_within<1, 0x22222222>(x));
  }
}

template <TensorType kType>
STRATA_INLINE void pack_codes(const uint8_t* block, uint64_t row_bytes, uint8_t* chunk) {
  constexpr PanelLayout kLayout = panel_layout(kType);
  constexpr uint32_t kChunk = kLayout.chunk_bytes();
  constexpr uint32_t kLowPlane = 64 * kLayout.low_bits;
  if constexpr (kType == TensorType::kQ2_K || kType == TensorType::kQ3_K) {
    const uint8_t* low = block + (kType == TensorType::kQ3_K ? 32 : 16);
    part_twos<kChunk>(low, row_bytes, chunk);
    part_twos<kChunk>(low + 32, row_bytes, chunk + 4 * kChunk);
    if constexpr (kType == TensorType::kQ3_K)
      part_ones<kChunk>(block, row_bytes, chunk + kLowPlane);
  } else if constexpr (kType == TensorType::kQ4_K || kType == TensorType::kQ5_K) {
    const uint8_t* low = block + (kType == TensorType::kQ5_K ? 48 : 16);
    for (uint32_t c = 0; c < 8; c += 2)
      part_nibbles(low + 16 * c, row_bytes, chunk + c * kChunk, chunk + (c + 1) * kChunk);
    if constexpr (kType == TensorType::kQ5_K)
      part_ones<kChunk>(block + 16, row_bytes, chunk + kLowPlane);
  } else if constexpr (kType == TensorType::kQ6_K) {
    for (uint32_t half = 0; half < 2; ++half, chunk += 4 * kChunk) {
      const uint8_t* low = block + 64 * half;
      part_nibbles(low, row_bytes, chunk, chunk + 2 * kChunk);
      part_nibbles(low + 32, row_bytes, chunk + kChunk, chunk + 3 * kChunk);
      part_twos<kChunk>(block + 128 + 32 * half, row_bytes, chunk + kLowPlane);
    }
  } else if constexpr (kType == TensorType::kIQ4_XS) {
    for (uint32_t c = 0; c < 8; ++c)
      copy_plane<0>(block + 8 + 16 * c, row_bytes, chunk + c * kChunk);
  } else {
    const uint8_t* codes = block + (kLayout.has_min ? 4 : 2);
    if constexpr (kLayout.high_bits != 0) {
      turn_fifth_bits(codes, row_bytes, chunk + kLowPlane);
      codes += 4;
    }
    constexpr uint8_t kFlip = kLayout.low_bits == 8 ? 0x80 : 0;
    for (uint32_t i = 0; i < kLayout.low_bits / 4; ++i)
      copy_plane<kFlip>(codes + 16 * i, row_bytes, chunk + i * 256);
  }
}

// ---- Headers.

/// put_six_bits of pack_plain.inc, for kValues vectors of sixteen lanes.
template <uint32_t kValues>
STRATA_INLINE void store_six_bits(const __m128i* values, uint8_t* packed) {
  constexpr uint32_t kPart = kValues / 4;
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kPart; ++i) {
    const __m128i last = values[3 * kPart + i];
    uint8_t* at = packed + i * 16;
    store(at, _mm_or_si128(values[i], up<6>(last, 3)));
    store(at + 16 * kPart, _mm_or_si128(values[kPart + i], up<4>(last, 12)));
    store(at + 32 * kPart, _mm_or_si128(values[2 * kPart + i], up<2>(last, 48)));
  }
}

template <TensorType kType>
STRATA_INLINE void pack_sub_scales(const uint8_t* block, uint64_t row_bytes, uint8_t* sub) {
  __m128i s[16];  // byte v of the block's scales, of all lanes
  __m128i values[16];
  if constexpr (kType == TensorType::kQ4_K || kType == TensorType::kQ5_K) {
    turn<1>(block + 4, row_bytes, s);
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      values[g] = keep(s[g], 63);
      values[4 + g] = _mm_or_si128(keep(s[8 + g], 15), down<2>(s[g], 48));
      values[8 + g] = keep(s[4 + g], 63);
      values[12 + g] = _mm_or_si128(down<4>(s[8 + g], 15), down<2>(s[4 + g], 48));
    }
    store_six_bits<16>(values, sub);
  } else if constexpr (kType == TensorType::kQ3_K) {
    turn<1>(block + 94, row_bytes, s);  // from 96 on, fourteen bytes are left of the block
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const __m128i twos = s[10 + g];
      values[g] = _mm_or_si128(keep(s[2 + g], 15), up<4>(twos, 3));
      values[4 + g] = _mm_or_si128(keep(s[6 + g], 15), up<2>(twos, 12));
      values[8 + g] = _mm_or_si128(down<4>(s[2 + g], 15), keep(twos, 48));
      values[12 + g] = _mm_or_si128(down<4>(s[6 + g], 15), down<2>(twos, 48));
    }
    store_six_bits<16>(values, sub);
  } else if constexpr (kType == TensorType::kIQ4_XS) {
    turn<1>(block, row_bytes, s);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m128i twos = s[2 + half], first = s[4 + 2 * half], second = s[5 + 2 * half];
      values[4 * half] = _mm_or_si128(keep(first, 15), up<4>(twos, 3));
      values[4 * half + 1] = _mm_or_si128(down<4>(first, 15), up<2>(twos, 12));
      values[4 * half + 2] = _mm_or_si128(keep(second, 15), keep(twos, 48));
      values[4 * half + 3] = _mm_or_si128(down<4>(second, 15), down<2>(twos, 48));
    }
    store_six_bits<8>(values, sub);
  } else {
    turn<1>(block + (kType == TensorType::kQ6_K ? 192 : 0), row_bytes, s);
#pragma GCC unroll 16
    for (uint32_t v = 0; v < 16; ++v) store(sub + v * 16, s[v]);
  }
}

/// Where a block of the file has its f16 scale; the minimum follows it.
constexpr uint32_t scale_offset(TensorType type) {
  return type == TensorType::kQ2_K   ? 80
         : type == TensorType::kQ3_K ? 108
         : type == TensorType::kQ6_K ? 208
                                     : 0;
}

template <TensorType kType>
STRATA_INLINE void pack_header(const uint8_t* block, uint64_t row_bytes, uint8_t* header) {
  constexpr PanelLayout kLayout = panel_layout(kType);
  for (uint32_t lane = 0; lane < kPanelRows; ++lane) {
    const uint8_t* scale = block + lane * row_bytes + scale_offset(kType);
    memcpy(header + lane * 2, scale, 2);
    if constexpr (kLayout.has_min) memcpy(header + 32 + lane * 2, scale + 2, 2);
  }
  if constexpr (kLayout.sub != SubScales::kNone)
    pack_sub_scales<kType>(block, row_bytes, header + (kLayout.has_min ? 64 : 32));
}

template <TensorType kType>
void pack_quantised(const uint8_t* rows, uint64_t row_bytes, uint32_t n_in, uint8_t* panel) {
  constexpr PanelLayout kLayout = panel_layout(kType);
  constexpr uint32_t kUnitBytes = kLayout.unit / 32 * kLayout.chunk_bytes();
  const uint32_t n_units = n_in / kLayout.unit;
  const uint64_t block_bytes = row_bytes / n_units;
  uint8_t* codes = panel + kLayout.codes_offset(n_in);
  const uint64_t headers_bytes = uint64_t{n_units} * kLayout.header_bytes();
  memset(panel + headers_bytes, 0, kLayout.codes_offset(n_in) - headers_bytes);
  for (uint32_t u = 0; u < n_units; ++u) {
    fetch_ahead(rows, row_bytes, u * block_bytes, block_bytes);
    const uint8_t* block = rows + u * block_bytes;
    pack_header<kType>(block, row_bytes, panel + uint64_t{u} * kLayout.header_bytes());
    pack_codes<kType>(block, row_bytes, codes + uint64_t{u} * kUnitBytes);
  }
}

template <uint32_t kBytes>
void pack_floats(const uint8_t* rows, uint64_t row_bytes, uint32_t n_in, uint8_t* panel) {
  constexpr uint32_t kElements = 16 / kBytes;  // inputs of a vector, and rows that are turned
  for (uint32_t k = 0; k < n_in; k += kElements) {
    fetch_ahead(rows, row_bytes, uint64_t{k} * kBytes, 16);
    for (uint32_t lane = 0; lane < kPanelRows; lane += kElements) {
      __m128i v[kElements];
      turn<kBytes>(rows + lane * row_bytes + k * kBytes, row_bytes, v);
#pragma GCC unroll 8
      for (uint32_t i = 0; i < kElements; ++i)
        store_past(panel + (uint64_t{k + i} * kPanelRows + lane) * kBytes, v[i]);
    }
  }
}

}  // namespace

void pack_panel_turned(TensorType type, const uint8_t* rows, uint64_t row_bytes, uint32_t n_in,
                       uint8_t* panel) {
  switch (type) {
    case TensorType::kF32:
      return pack_floats<4>(rows, row_bytes, n_in, panel);
    case TensorType::kF16:
    case TensorType::kBF16:
      return pack_floats<2>(rows, row_bytes, n_in, panel);
    case TensorType::kQ4_0:
      return pack_quantised<TensorType::kQ4_0>(rows, row_bytes, n_in, panel);
    case TensorType::kQ4_1:
      return pack_quantised<TensorType::kQ4_1>(rows, row_bytes, n_in, panel);
    case TensorType::kQ5_0:
      return pack_quantised<TensorType::kQ5_0>(rows, row_bytes, n_in, panel);
    case TensorType::kQ5_1:
      return pack_quantised<TensorType::kQ5_1>(rows, row_bytes, n_in, panel);
    case TensorType::kQ8_0:
      return pack_quantised<TensorType::kQ8_0>(rows, row_bytes, n_in, panel);
    case TensorType::kQ2_K:
      return pack_quantised<TensorType::kQ2_K>(rows, row_bytes, n_in, panel);
    case TensorType::kQ3_K:
      return pack_quantised<TensorType::kQ3_K>(rows, row_bytes, n_in, panel);
    case TensorType::kQ4_K:
      return pack_quantised<TensorType::kQ4_K>(rows, row_bytes, n_in, panel);
    case TensorType::kQ5_K:
      return pack_quantised<TensorType::kQ5_K>(rows, row_bytes, n_in, panel);
    case TensorType::kQ6_K:
      return pack_quantised<TensorType::kQ6_K>(rows, row_bytes, n_in, panel);
    case TensorType::kIQ4_NL:  // as Q4_0: the table is the kernels' business
      return pack_quantised<TensorType::kIQ4_NL>(rows, row_bytes, n_in, panel);
    case TensorType::kIQ4_XS:
      return pack_quantised<TensorType::kIQ4_XS>(rows, row_bytes, n_in, panel);
  }
  STRATA_CHECK(false, "tensor type %u", static_cast<uint32_t>(type));
}

}  // namespace strata::cpu_attn
