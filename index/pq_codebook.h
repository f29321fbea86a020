// index/pq_codebook.h - the centroids that stand for a stream's keys: a key is cut into 16
// sub-spaces of neighbouring dimensions, and each part becomes the number of the nearest of 64
// centroids. Source: product quantisation for KV retrieval, PQCache (arXiv 2407.12820).
// Ours differs: 16 sub-spaces of 6 bits instead of 2, because 12 bits cannot tell keys of one topic
// apart (docs/adr/0006-codebooks.md has both measured), and a codebook stands for the keys that it
// was trained on, no others.
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
  /// Lloyd's k-means in every sub-space, from the centroids of `before`, the codebook of the keys
  /// that came before these; from keys far apart where it is null.
  ///
  /// Shapes  keys [n_blocks][head_dim][kBlockPositions], n_blocks >= 0; all finite
  ///         head_dim is a multiple of kPqSubspaces
  /// Cost    some passes of pq_encode over the keys, and as many of summing them (docs/adr/0006)
  /// Result  a function of its arguments only: seeds are constants
  static PqCodebook train(const KernelTable& kernels, std::span<const float> keys,
                          uint32_t head_dim, const PqCodebook* before = nullptr);
  /// What bytes() gave. Errors: kBadFile, where the size is not that of head_dim or where values
  /// cannot be those of a codebook.
  static PqCodebook from_bytes(std::span<const std::byte> bytes, uint32_t head_dim);

  /// The centroids; 64-byte aligned.
  std::span<const std::byte> bytes() const;
  /// Of a codebook in memory: bytes() and the centroids' half squared lengths.
  static uint64_t memory_bytes(uint32_t head_dim);

  uint32_t head_dim() const { return head_dim_; }
  const float* centroids() const { return lines_[0].data(); }  // as PqEncodeArgs has them

  /// Encodes 32 keys [head_dim][kBlockPositions] into their columns of a tile
  /// (PqEncodeArgs::codes).
  void encode(const KernelTable& kernels, const float* keys, uint8_t* codes) const;

 private:
  static constexpr uint32_t kLineFloats = 16;
  struct alignas(64) Line : std::array<float, kLineFloats> {};

  explicit PqCodebook(uint32_t head_dim);
  void improve(const KernelTable& kernels, const PqSample& sample, std::minstd_rand& random);
  void measure_half_norms();
  float* centroids() { return lines_[0].data(); }
  const float* half_norms() const { return centroids() + n_centroid_floats(); }
  uint64_t n_centroid_floats() const { return uint64_t{kPqCentroids} * head_dim_; }

  uint32_t head_dim_;
  std::vector<Line> lines_;  // the centroids, their half squared lengths
};

}  // namespace strata::index
