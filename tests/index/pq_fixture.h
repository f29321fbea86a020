// tests/index/pq_fixture.h - keys as product quantisation meets them, and its bytes taken apart by
// the formats that index/pq_selector.h and index/pq_codebook.h state.
#pragma once

#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "index/pq_selector.h"
#include "tests/index/selector_fixture.h"

namespace strata::index::testing {

constexpr uint32_t kSegmentBlocks = PqSelector::kSegmentBlocks;

inline KvLayout f16_layout(uint32_t head_dim) {
  return KvLayout::make(KvCodec::kF16, KvCodec::kF16, head_dim);
}

/// Keys of neighbouring positions are alike in runs of 8, of some hundred kinds; four dimensions
/// have a bias and are wide.
struct ClusteredKeys {
  ClusteredKeys(uint32_t head_dim, std::mt19937_64& random, float width = 1.0f)
      : head_dim_(head_dim), scales_(head_dim), bias_(head_dim), centres_(kClusters * head_dim) {
    std::normal_distribution<float> normal;
    for (float& x : scales_) x = width * std::exp(0.5f * normal(random));
    for (uint32_t i = 0; i < 4; ++i) {
      const auto d = random() % head_dim;
      bias_[d] = 12 * normal(random);
      scales_[d] *= 4;
    }
    for (size_t i = 0; i < centres_.size(); ++i)
      centres_[i] = bias_[i % head_dim] + scales_[i % head_dim] * normal(random);
  }
  void draw(Keys& keys, uint32_t first_block, uint32_t end_block, std::mt19937_64& random) const {
    std::normal_distribution<float> normal;
    size_t cluster = 0;
    for (uint32_t pos = first_block * kBlockPositions; pos < end_block * kBlockPositions; ++pos) {
      if (pos % 8 == 0) cluster = random() % kClusters;
      for (uint32_t d = 0; d < head_dim_; ++d)
        keys.key(pos)[d] = centres_[cluster * head_dim_ + d] + 0.6f * scales_[d] * normal(random);
    }
  }
  /// A mixture of two kinds in whitened dimensions, so that q . k has the deviation `width`.
  std::vector<float> query(std::mt19937_64& random, float width) const {
    std::normal_distribution<float> normal;
    const size_t a = random() % kClusters, b = random() % kClusters;
    std::vector<float> q(head_dim_);
    for (uint32_t d = 0; d < head_dim_; ++d) {
      const float mixed = centres_[a * head_dim_ + d] + 0.5f * centres_[b * head_dim_ + d];
      q[d] = ((mixed - 1.5f * bias_[d]) / scales_[d] + normal(random)) / scales_[d] * width /
             (1.8f * std::sqrt(static_cast<float>(head_dim_)));
    }
    return q;
  }

 private:
  static constexpr size_t kClusters = 256;
  uint32_t head_dim_;
  std::vector<float> scales_, bias_, centres_;
};

/// Stored keys of one stream.
inline Keys clustered_keys(const KvLayout& layout, uint32_t n_blocks, const KernelTable& kernels,
                           uint64_t seed, float width = 1.0f) {
  std::mt19937_64 random(seed);
  Keys keys(layout, n_blocks, kernels);
  ClusteredKeys(layout.head_dim, random, width).draw(keys, 0, n_blocks, random);
  keys.store();
  return keys;
}

/// Blocks [first, end) as one stream's, of a selector that has room for n_blocks.
inline void observe_range(Selector& selector, StreamIdx stream, const Keys& keys, uint32_t first,
                          uint32_t end) {
  selector.open_blocks(end);
  for (uint32_t block = first; block < end; ++block)
    selector.observe(stream, block, keys.block(block));
}

/// Everything that a file would hold of a stream.
inline std::vector<std::byte> stream_bytes(const Selector& selector, StreamIdx stream) {
  std::vector<std::byte> all;
  const auto append = [&](std::span<const std::byte> bytes) {
    all.insert(all.end(), bytes.begin(), bytes.end());
  };
  for (uint32_t i = 0; i < selector.n_codebooks(stream); ++i) append(selector.codebook(stream, i));
  for (uint32_t e = 0; e < selector.n_blocks() / kExtentBlocks; ++e)
    append(selector.rows(stream, e));
  return all;
}

/// Centroid values [head_dim][kPqCentroids] of a codebook's bytes.
inline std::vector<float> centroids_of(std::span<const std::byte> codebook) {
  std::vector<float> values(codebook.size() / sizeof(float));
  std::memcpy(values.data(), codebook.data(), codebook.size());
  return values;
}

inline PqTrailer trailer_of(std::span<const std::byte> rows) {
  PqTrailer trailer;
  std::memcpy(&trailer, rows.data() + kPqTileBytes, sizeof(trailer));
  return trailer;
}

/// Centroid values of the codebook that an extent's codes refer to.
inline std::vector<float> centroids_at(const Selector& selector, uint32_t extent) {
  return centroids_of(selector.codebook(0, extent / PqSelector::kSegmentExtents));
}

/// Code of key i of a block of the extent in sub-space s.
inline uint32_t code_of(std::span<const std::byte> rows, uint32_t block, uint32_t s, uint32_t i) {
  const uint32_t key = block % kExtentBlocks * kBlockPositions + i;
  return std::to_integer<uint32_t>(
      rows[(size_t{key / kPqTileKeys} * kPqSubspaces + s) * kPqTileKeys + key % kPqTileKeys]);
}

/// Mean |key - its centroids|^2 of the keys of a segment.
inline double segment_error(const Selector& selector, Keys& keys, uint32_t segment) {
  const auto centroids = centroids_of(selector.codebook(0, segment));
  const auto head_dim = static_cast<uint32_t>(centroids.size() / kPqCentroids);
  double error = 0;
  for (uint32_t block = segment * kSegmentBlocks; block < (segment + 1) * kSegmentBlocks; ++block)
    for (uint32_t i = 0; i < kBlockPositions; ++i)
      for (uint32_t d = 0; d < head_dim; ++d) {
        const uint32_t code = code_of(selector.rows(0, block / kExtentBlocks), block,
                                      d / (head_dim / kPqSubspaces), i);
        error += std::pow(double{keys.key(block * kBlockPositions + i)[d]} -
                              double{centroids[d * kPqCentroids + code]},
                          2);
      }
  return error / (kSegmentBlocks * kBlockPositions);
}

}  // namespace strata::index::testing
