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
};

}  // namespace strata
