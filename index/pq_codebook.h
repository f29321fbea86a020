// index/pq_codebook.h - the centroids that stand for a stream's keys: a key is cut into 16
// sub-spaces of neighbouring dimensions, and each part becomes the number of the nearest of 64
// centroids. Source: product quantisation for KV retrieval, PQCache (arXiv 2407.12820).
// Ours differs: 16 sub-spaces of 6 bits instead of 2, because 12 bits cannot tell keys of one topic
// apart (docs/adr/0006-codebooks.md has both measured), and codebooks are not frozen at the
// prompt's end.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "base/kernel_table.h"

namespace strata::index {

struct PqSample;

/// Immutable once made, so that streams and forks share it between threads.
class PqCodebook {
 public:
  /// Lloyd's k-means in every sub-space.
  ///
  /// Shapes  keys [n_blocks][head_dim][kBlockPositions], n_blocks >= 0; all finite
  ///         head_dim is a multiple of kPqSubspaces
  /// Cost    some 9 passes of pq_encode over the keys, and as many of summing them (docs/adr/0006)
  /// Result  a function of its arguments only: seeds are constants
  static PqCodebook train(const KernelTable& kernels, std::span<const float> keys,
                          uint32_t head_dim);
  /// What bytes() gave. Errors: kBadFile, where the size is not that of head_dim or where values
  /// cannot be those of a codebook.
  static PqCodebook from_bytes(std::span<const std::byte> bytes, uint32_t head_dim);

  /// The training error and the centroids; 64-byte aligned.
  std::span<const std::byte> bytes() const;
  /// Of a codebook in memory: bytes() and the centroids' half squared lengths.
  static uint64_t memory_bytes(uint32_t head_dim);

  uint32_t head_dim() const { return head_dim_; }
  /// Mean of |key - its centroids|^2 over an eighth of the keys that was not trained on; 0 where
  /// there were none.
  float training_error() const { return lines_[0][0]; }
  const float* centroids() const { return lines_[1].data(); }  // as PqEncodeArgs has them

  /// Encodes 32 keys [head_dim][kBlockPositions] into their columns of a tile
  /// (PqEncodeArgs::codes).
  void encode(const KernelTable& kernels, const float* keys, uint8_t* codes) const;
  /// Mean of |key - its centroids|^2 over such keys and their codes.
  float error(const float* keys, const uint8_t* codes) const;

 private:
  static constexpr uint32_t kLineFloats = 16;
  struct alignas(64) Line : std::array<float, kLineFloats> {};

  explicit PqCodebook(uint32_t head_dim);
  void improve(const KernelTable& kernels, const PqSample& sample, std::minstd_rand& random);
  void measure_half_norms();
  float* centroids() { return lines_[1].data(); }
  const float* half_norms() const { return centroids() + n_centroid_floats(); }
  uint64_t n_centroid_floats() const { return uint64_t{kPqCentroids} * head_dim_; }

  uint32_t head_dim_;
  std::vector<Line> lines_;  // a header, the centroids, their half squared lengths
};

/// Look-up tables of one query: score of a key = scale * (sum of its 16 entries) + offset.
struct PqTable {
  float scale;
  float offset;
};

/// Fills table [kPqSubspaces][kPqCentroids] for q [head_dim].
///
/// Error   q . centroid is rounded to the nearest multiple of scale above its sub-space's least
///         product; scale is 1/255 of the widest sub-space's range of products, the same for all.
///         So a score errs by at most kPqSubspaces * scale / 2 against q . (the decoded key) and
///         by the rounding of f32 sums.
/// Where products overflow, every score is +infinity.
PqTable build_pq_table(const PqCodebook& codebook, const float* q, uint8_t* table);

}  // namespace strata::index
