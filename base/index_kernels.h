// base/index_kernels.h - the kernels of retrieval that an instruction set fills (cpu_attn) and the
// index calls: digests of pages, codes of keys, shares of blocks.
// Why: what a token reads of the index is 5 to 10 % of what exact attention would read, so it must
// move at the speed of memory. Plain structs only, as in base/kernel_table.h.
//
// Rows of an index are cut into tiles of one extent (256 positions), each contiguous, so that an
// extent's rows go to a file and come back as they are. The formats belong to the index, not to the
// instruction set: every set reads every format.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/kv_layout.h"

namespace strata {

inline constexpr uint32_t kPagePositions = 16;  // the grain of scoring by digests
inline constexpr uint32_t kPagesPerBlock = kBlockPositions / kPagePositions;
inline constexpr uint32_t kTilePages = kExtentPositions / kPagePositions;

/// A digest tile: [n_dims / 2][kTilePages][2] bf16, so that one vector holds the same pair of
/// dimensions of neighbouring pages. n_dims is a multiple of 2, at most kDigestDimsMax.
constexpr uint64_t digest_tile_bytes(uint32_t n_dims) {
  return uint64_t{n_dims} * kTilePages * sizeof(uint16_t);
}

inline constexpr uint32_t kDigestDimsMax = 1024;  // of n_dims

/// Products of queries with the digests of pages; a block's score is its larger page's, or
/// NaN where one of the two is.
struct DigestScoreArgs {
  const std::byte* const* tiles;  // [n_tiles], each digest_tile_bytes(n_dims), 64-byte aligned
  uint32_t n_tiles;
  uint32_t n_dims;
  const uint16_t* q;    // bf16 [n_queries, n_dims]
  uint32_t n_queries;   // any number; the group's queries share each tile read
  float* block_scores;  // [n_queries, score_stride]: kExtentBlocks per tile are written
  uint64_t score_stride;
};

inline constexpr uint32_t kPqSubspaces = 16;
inline constexpr uint32_t kPqCentroids = 64;  // 6 bits
inline constexpr uint32_t kPqTileKeys = 64;   // keys whose codes lie together
/// Codes of one extent: [4][kPqSubspaces][kPqTileKeys] bytes, each a centroid's number (its low six
/// bits; the others are not read).
inline constexpr uint64_t kPqTileBytes = uint64_t{kExtentPositions} * kPqSubspaces;

/// Look-up tables of one query: a key's score is scale * (sum of its 16 entries) + offset.
///
/// Error   q . centroid is rounded to the nearest multiple of scale above its sub-space's least
///         product; scale is 1/255 of the widest sub-space's range of products, the same for all.
///         So a score errs by at most kPqSubspaces * scale / 2 against q . (the decoded key) and
///         by the rounding of f32 sums.
/// Where products are not finite, every score is +infinity.
struct PqTableArgs {
  const float* centroids;  // as in PqEncodeArgs
  const float* q;          // [head_dim]
  uint32_t head_dim;       // a multiple of kPqSubspaces
  uint8_t* table;          // [kPqSubspaces][kPqCentroids]
  float* scale;            // one, > 0
  float* offset;           // one
};

/// Sums over sub-spaces of table entries picked by the keys' codes. A block's score is nearly
/// ln(sum exp) over the larger scores of its 16 pairs of neighbouring keys:
/// cpu_attn/index_pq_scan.inc.
struct PqScanArgs {
  const std::byte* const* tiles;  // [n_tiles], each kPqTileBytes, 64-byte aligned
  uint32_t n_tiles;
  const uint8_t* tables;  // [n_queries][kPqSubspaces][kPqCentroids]
  const float* scales;    // [n_queries], > 0: a key's score is scale * sum + offset
  const float* offsets;   // [n_queries]
  uint32_t n_queries;
  float* block_scores;  // [n_queries, score_stride]: kExtentBlocks per tile are written
  uint64_t score_stride;
  // What is read after this call is fetched meanwhile; either may be null.
  const std::byte* next_tile = nullptr;
  const std::byte* ahead = nullptr;  // as many bytes of it as the tiles have codes
};

/// A block's score as PqScanArgs has it, from the keys themselves: +infinity where a product is not
/// finite.
struct KeyScoreArgs {
  const float* keys;  // [head_dim][kBlockPositions], as load_k gives them
  const float* q;     // [n_queries][head_dim]
  uint32_t head_dim;
  uint32_t n_queries;
  float* block_scores;  // [n_queries], score_stride apart
  uint64_t score_stride;
};

/// The nearest centroid (least squared distance; the first of equals) of each sub-space of 32 keys.
struct PqEncodeArgs {
  const float* keys;        // [head_dim][kBlockPositions], as load_k gives them
  const float* centroids;   // [kPqSubspaces][head_dim / kPqSubspaces][kPqCentroids]
  const float* half_norms;  // [kPqSubspaces][kPqCentroids]: half the squared length of each
  uint32_t head_dim;        // a multiple of kPqSubspaces
  uint8_t* codes;           // [kPqSubspaces][kPqTileKeys]: the block's 32 columns are written
};

// Codes of rotated keys (index/rabitq_selector.h). A group is 32 dimensions; those beyond head_dim
// are zero.
inline constexpr uint32_t kRabitqGroup = 32;
inline constexpr uint32_t kRabitqGroupWords = 3;     // 3 bits per dimension, in words of 32 bits
inline constexpr uint32_t kRabitqLevels = 8;         // a code c stands for c - 3.5
inline constexpr uint32_t kRabitqCentreZero = 64;    // a centre's code c stands for c - 64
inline constexpr uint32_t kRabitqHeadDimMax = 1024;  // head_dim is a multiple of 8

constexpr uint32_t rabitq_groups(uint32_t head_dim) {
  return (head_dim + kRabitqGroup - 1) / kRabitqGroup;
}

/// A tile of codes: four parts, one after the other, each a multiple of 64 bytes. The eight blocks
/// lie side by side everywhere, so that sums over a block's keys need no shuffles.
///   codes    [16 pairs of keys][n_groups][kRabitqGroupWords][2 keys][8 blocks] u32. Dimension
///            4 k + j of a group has its code in word k / 2 at bit 8 j + 3 (k % 2) for k < 6; of
///            k = 6 and 7, together six bits, bit i is in word i / 2 at bit 8 j + 6 + i % 2.
///   factors  [32 keys][8 blocks] i8, not negative
///   centres  [n_groups * 8][8 blocks][4 dimensions] u8, below 128
///   steps    RabitqSteps
/// The rotated key of a block is centre_step * centre + factor_step * factor * codes.
struct RabitqSteps {
  float centre[kExtentBlocks];  // not finite: a key of the block is not, and codes mean nothing
  float factor[kExtentBlocks];
};

constexpr uint64_t rabitq_codes_bytes(uint32_t head_dim) {
  return uint64_t{kExtentPositions} * rabitq_groups(head_dim) * kRabitqGroupWords *
         sizeof(uint32_t);
}
constexpr uint64_t rabitq_tile_bytes(uint32_t head_dim) {
  return rabitq_codes_bytes(head_dim) + kExtentPositions +
         uint64_t{rabitq_groups(head_dim)} * kRabitqGroup * kExtentBlocks + sizeof(RabitqSteps);
}

/// Rotates 32 keys, and codes their differences from their mean. Every step is that of least
/// squared error or of its neighbour: cpu_attn/index_rabitq_encode.inc.
struct RabitqEncodeArgs {
  float* keys;  // [head_dim][kBlockPositions], as load_k gives them, 64-byte aligned; overwritten
  uint32_t head_dim;
  uint32_t block;   // of the extent
  std::byte* tile;  // the block's part is written; 64-byte aligned
};

/// Rotates queries as keys of codes and of clusters are, and rounds each to 8 bits: a value errs by
/// at most scale / 2, and scale is 1/127 of the largest. The scale of a query that is not finite is
/// NaN.
struct RabitqQueryArgs {
  const float* q;  // [n_queries][head_dim]
  uint32_t n_queries;
  uint32_t head_dim;
  float* columns;  // scratch [head_dim][kBlockPositions], 64-byte aligned
  int8_t* codes;   // [n_queries][rabitq_groups(head_dim) * kRabitqGroup]
  float* scales;   // [n_queries]
  int32_t* sums;   // [n_queries]: of the codes
};

/// Products of rotated queries with what a tile has of keys, exact but for the rounding of the two;
/// a block's score is nearly ln(sum exp) (as in PqScanArgs), and +infinity where it is not finite.
///   rabitq_scan   over the block's 32 coded keys
///   cluster_scan  over its clusters, each as often as it has keys; +infinity where it is marked
struct RotatedScanArgs {
  const std::byte* const* tiles;  // [n_tiles], rabitq_ or cluster_tile_bytes, 64-byte aligned
  uint32_t n_tiles;
  uint32_t head_dim;
  const int8_t* codes;  // of RabitqQueryArgs, like scales and sums
  const float* scales;
  const int32_t* sums;
  uint32_t n_queries;
  float* block_scores;  // [n_queries, score_stride]: kExtentBlocks per tile are written
  uint64_t score_stride;
};

// Mean values of blocks (index/tiled_selector.h), for the part of attention that blocks which were
// not chosen would have had. A tile: 8 scales f32, then a row of i8 per block; its mean value is
// scale * row.
inline constexpr uint32_t kValueRowAlign = 16;  // rows end in zeros
constexpr uint64_t value_row_bytes(uint32_t head_dim) {
  return (uint64_t{head_dim} + kValueRowAlign - 1) / kValueRowAlign * kValueRowAlign;
}
constexpr uint64_t value_tile_bytes(uint32_t head_dim) {
  return (kExtentBlocks * (sizeof(float) + value_row_bytes(head_dim)) + 63) / 64 * 64;
}

/// The mean of a block's 32 values, each of its dimensions within half a scale; scale is 1/127 of
/// the largest. The scale is NaN where a value is not finite.
struct ValueMeanArgs {
  KvLayout layout;
  const std::byte* block;
  uint32_t block_idx;  // of the extent
  std::byte* tile;     // value_tile_bytes(head_dim); the block's part is written
};

inline constexpr uint32_t kTailQueries = 4;   // that share each row read
inline constexpr uint32_t kTailBlocks = 256;  // weights of so many are held at a time
/// Of how values found differ from mean values, what a tail adds: docs/adr/0014-tail.md.
inline constexpr float kTailFoundShare = 0.7f;
inline constexpr uint64_t kTailScratchFloats = (kTailQueries + 2) * uint64_t{kTailBlocks};

/// Attention over blocks instead of positions: each weighs exp(its log weight) and has its mean for
/// a value. Gives one partial per query, as AttendArgs does; a block whose weight or scale is not
/// finite is left out.
struct TailSumsArgs {
  const std::byte* const* tiles;  // [ceil(n_blocks / 8)], 64-byte aligned
  uint64_t value_offset;          // where in each the mean values begin; a multiple of 64
  uint32_t n_blocks;
  uint32_t head_dim;         // a multiple of 8
  const float* log_weights;  // [n_queries, weight_stride], never NaN
  uint64_t weight_stride;
  uint32_t n_queries;
  float* scratch;  // kTailScratchFloats, 64-byte aligned
  float* o;        // [n_queries, head_dim]
  float* m;        // [n_queries]
  float* l;        // [n_queries]
};

// Clusters of rotated keys (index/cluster_selector.h): those of a block are its own.
inline constexpr uint32_t kBlockClusters = 4;
inline constexpr uint32_t kTileClusters = kBlockClusters * kExtentBlocks;
inline constexpr uint32_t kClusterLevels = 16;    // a code c stands for c - 7.5
inline constexpr uint32_t kClusterBaseZero = 64;  // a base's code c stands for c - 64

/// A tile of clusters: three parts, one after the other, each a multiple of 64 bytes. Cluster i of
/// block b is number 8 i + b of the tile's, so that the eight blocks lie side by side.
///   codes  [head_dim / 8][kTileClusters][4] u8. Dimension 8 k + j of a centroid is in octet k: the
///          low four bits of byte j for j < 4, the high four of byte j - 4 for the others.
///   base   [head_dim] u8, below 128; zeros up to a multiple of 64
///   steps  ClusterSteps
/// A rotated centroid is steps.base * base + steps.centroid * codes.
struct ClusterSteps {
  float centroid[kTileClusters];
  float base;
  uint32_t infinite;              // bit per block: has keys that are not finite
  uint8_t counts[kTileClusters];  // keys of each cluster; from 128 on it counts for none
  uint8_t zeros[24];
};

constexpr uint64_t cluster_base_offset(uint32_t head_dim) {
  return uint64_t{head_dim} / 2 * kTileClusters;
}
constexpr uint64_t cluster_steps_offset(uint32_t head_dim) {
  return cluster_base_offset(head_dim) + (uint64_t{head_dim} + 63) / 64 * 64;
}
constexpr uint64_t cluster_tile_bytes(uint32_t head_dim) {
  return cluster_steps_offset(head_dim) + sizeof(ClusterSteps);
}

/// Rotates 32 keys and makes their clusters: cpu_attn/index_cluster_encode.inc.
struct ClusterEncodeArgs {
  float* keys;  // [head_dim][kBlockPositions], as load_k gives them, 64-byte aligned; overwritten
  uint32_t head_dim;
  uint32_t block;   // of the extent; block 0 also gives the base, and comes first
  std::byte* tile;  // the block's part is written; 64-byte aligned
};

// Some dimensions of every key (index/sparq_selector.h).
/// A tile of keys: [head_dim][32 keys][8 blocks] f16, so that a dimension is one run of 512 bytes
/// and the eight blocks lie side by side.
inline constexpr uint64_t kSparqRowBytes = uint64_t{kExtentPositions} * sizeof(uint16_t);
constexpr uint64_t sparq_tile_bytes(uint32_t head_dim) { return head_dim * kSparqRowBytes; }

/// Products of queries with keys over some dimensions, for each query its own; a block's score is
/// nearly ln(sum exp) (as in PqScanArgs), and +infinity where it is not finite. A key that is no
/// number may count for nothing: whoever makes tiles marks all of its block.
struct SparqScanArgs {
  const std::byte* const* tiles;  // [n_tiles], each sparq_tile_bytes(head_dim), 64-byte aligned
  uint32_t n_tiles;
  const uint32_t* components;  // [n_queries][n_components], below head_dim
  const float* values;         // [n_queries][n_components]: of the query there
  uint32_t n_components;
  uint32_t n_queries;
  float* block_scores;  // [n_queries, score_stride]: kExtentBlocks per tile are written
  uint64_t score_stride;
  uint32_t head_dim;
};

/// A query's shares of the blocks, pooled.
struct PoolSharesArgs {
  const float* log_weights;  // [n_queries, weight_stride]; may be +-infinity, not NaN
  uint64_t weight_stride;
  uint32_t n_queries;
  uint32_t n_blocks;
  bool is_max;    // pooled by the largest share instead of the sum
  float* pooled;  // [n_blocks]: sum (or max) over the queries of exp(w - max) / sum exp(w - max)
};

struct IndexKernels {
  /// Decodes a block's keys: out [head_dim][kBlockPositions] f32.
  void (*load_k)(const KvLayout& layout, const std::byte* block, float* out);
  void (*digest_scores)(const DigestScoreArgs& args);
  void (*pq_scan)(const PqScanArgs& args);
  void (*pq_encode)(const PqEncodeArgs& args);
  void (*pq_table)(const PqTableArgs& args);
  void (*key_scores)(const KeyScoreArgs& args);
  /// A query all of whose weights are -infinity adds nothing; with +infinity among them the
  /// infinite ones share it equally.
  void (*pool_shares)(const PoolSharesArgs& args);
  void (*rabitq_encode)(const RabitqEncodeArgs& args);
  void (*rabitq_query)(const RabitqQueryArgs& args);
  void (*rabitq_scan)(const RotatedScanArgs& args);
  void (*value_mean)(const ValueMeanArgs& args);
  void (*tail_sums)(const TailSumsArgs& args);
  void (*cluster_encode)(const ClusterEncodeArgs& args);
  void (*cluster_scan)(const RotatedScanArgs& args);
  void (*sparq_scan)(const SparqScanArgs& args);
};

}  // namespace strata
