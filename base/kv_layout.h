// base/kv_layout.h - the resting layout of a KV block: 32 positions of one stream (one KV head's K
// and V). Why: one layout per codec in every tier, so that moving is copying. K is stored
// dimension-major, so that one vector holds the same dimension of neighbouring positions (scores
// vectorise over keys); V is stored position-major, so that one vector holds neighbouring
// dimensions (outputs vectorise over head_dim). Both reduce in position or dimension order, which
// is what makes a row's bits independent of tiling (law L1; docs/adr/0001-one-arithmetic-order.md).
//
//   f16   K [head_dim][32] f16                     V [32][head_dim] f16
//   q8_0  K [head_dim][32] i8                      V [32][head_dim] i8
//         K scales [head_dim / 32][32] f16         V scales [head_dim / 32][32] f16
//
// A block is K bytes, K scales, V bytes, V scales, each part starting at a multiple of 64 bytes. K
// and V may have different codecs. A q8_0 group is 32 neighbouring dimensions of one position:
// value = scale * i8, scale = max|x| / 127. Both parts keep a group's scales of the 32 positions
// together, so that one vector holds the scales of neighbouring positions.
#pragma once

#include <cstdint>

namespace strata {

inline constexpr uint32_t kBlockPositions = 32;  // positions in a block: the grain of placement
// Positions of all streams of a layer that lie together in a file: the grain of disks.
inline constexpr uint32_t kExtentPositions = 256;
inline constexpr uint32_t kExtentBlocks = kExtentPositions / kBlockPositions;  // of one stream
// Positions whose attention is one partial (law L1): the reduction's grain.
inline constexpr uint32_t kSegmentPositions = 256;

/// Of one stream.
constexpr uint64_t blocks_for(uint64_t n_positions) {
  return (n_positions + kBlockPositions - 1) / kBlockPositions;
}

inline constexpr uint32_t kScaleGroup = 32;  // neighbouring dimensions that share a q8_0 scale

enum class KvCodec : uint8_t { kF16, kQ8_0 };

/// Byte offsets inside one block and its stride.
struct KvLayout {
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  uint32_t head_dim = 0;  // a multiple of 8; of 32 where a codec is q8_0
  uint32_t k_scales_offset = 0;
  uint32_t v_offset = 0;
  uint32_t v_scales_offset = 0;
  uint32_t block_bytes = 0;  // a multiple of 64

  static KvLayout make(KvCodec k_codec, KvCodec v_codec, uint32_t head_dim);
};

/// Bytes of K and V that one position of one stream takes, scales included, padding excluded.
uint64_t kv_position_bytes(const KvLayout& layout);

const char* kv_codec_name(KvCodec codec);  // "f16", "q8_0"

}  // namespace strata
