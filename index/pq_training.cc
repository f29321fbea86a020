// PqCodebook::train: k-means in each sub-space, by the kernel that also encodes.
#include <algorithm>
#include <limits>
#include <random>

#include "base/check.h"
#include "index/pq_codebook.h"

namespace strata::index {

/// The keys of a training, and where one value lies.
struct PqSample {
  std::span<const float> keys;
  uint32_t head_dim;

  uint32_t n_blocks() const {
    return static_cast<uint32_t>(keys.size() / (size_t{head_dim} * kBlockPositions));
  }
  uint32_t n_keys() const { return n_blocks() * kBlockPositions; }
  uint32_t n_dims() const { return head_dim / kPqSubspaces; }
  /// Dimension d of the 32 keys of a block.
  const float* row(uint32_t block, uint32_t d) const {
    return keys.data() + (size_t{block} * head_dim + d) * kBlockPositions;
  }
  float at(uint32_t key, uint32_t d) const {
    return row(key / kBlockPositions, d)[key % kBlockPositions];
  }
};

namespace {

constexpr uint32_t kIterations = 8;
// Iterations that move the centroids of the keys before to these keys.
constexpr uint32_t kLaterIterations = 4;
// Keys among which the first centroids are drawn, each far from those before.
constexpr uint32_t kSeedKeys = 512;
constexpr uint32_t kSeed = 2407;
constexpr uint32_t kNormFloats = kPqSubspaces * kPqCentroids;

/// A number in [0, 1); the standard fixes what the generator gives, not what its distributions do.
double draw(std::minstd_rand& random) {
  return static_cast<double>(random() - std::minstd_rand::min()) /
         (static_cast<double>(std::minstd_rand::max() - std::minstd_rand::min()) + 1.0);
}

void copy_key(const PqSample& sample, uint32_t subspace, uint32_t key, float* centroids,
              uint32_t centroid) {
  const uint32_t n_dims = sample.n_dims();
  for (uint32_t j = 0; j < n_dims; ++j)
    centroids[(subspace * n_dims + j) * kPqCentroids + centroid] =
        sample.at(key, subspace * n_dims + j);
}

/// The first centroids of one sub-space by k-means++ (Arthur and Vassilvitskii 2007): each a key
/// drawn with the probability of its squared distance to the nearest one before. Among evenly
/// spaced keys only, since the draws would otherwise cost more than the iterations.
void seed_subspace(const PqSample& sample, uint32_t subspace, std::minstd_rand& random,
                   float* centroids) {
  const uint32_t n_dims = sample.n_dims();
  const uint32_t n = std::min(sample.n_keys(), kSeedKeys);
  const uint32_t step = sample.n_keys() / n;
  std::array<float, kSeedKeys> values;
  std::array<float, kSeedKeys> distances;
  std::array<float, kSeedKeys> nearest;
  nearest.fill(std::numeric_limits<float>::max());
  auto key = static_cast<uint32_t>(draw(random) * n);
  for (uint32_t c = 0; c < kPqCentroids; ++c) {
    copy_key(sample, subspace, key * step, centroids, c);
    distances.fill(0);
    for (uint32_t j = 0; j < n_dims; ++j) {
      const uint32_t d = subspace * n_dims + j;
      for (uint32_t i = 0; i < n; ++i)
        values[i] = sample.at(i * step, d) - sample.at(key * step, d);
      for (uint32_t i = 0; i < kSeedKeys; ++i) distances[i] += values[i] * values[i];
    }
    double total = 0;
    for (uint32_t i = 0; i < n; ++i) {
      nearest[i] = std::min(nearest[i], distances[i]);
      total += nearest[i];
    }
    double left = draw(random) * total;
    key = 0;
    while (key + 1 < n && left >= nearest[key]) left -= nearest[key++];
  }
}

}  // namespace

/// One iteration: every centroid becomes the mean of the keys that it is nearest to.
void PqCodebook::improve(const KernelTable& kernels, const PqSample& sample,
                         std::minstd_rand& random) {
  const uint32_t n_dims = sample.n_dims();
  std::array<uint8_t, size_t{kPqSubspaces} * kPqTileKeys> codes;
  std::array<uint32_t, kNormFloats> counts{};
  std::vector<double> sums(n_centroid_floats());  // exact enough that equal keys give their value
  for (uint32_t block = 0; block < sample.n_blocks(); ++block) {
    encode(kernels, sample.row(block, 0), codes.data());
    for (uint32_t s = 0; s < kPqSubspaces; ++s)
      for (uint32_t i = 0; i < kBlockPositions; ++i)
        ++counts[s * kPqCentroids + codes[s * kPqTileKeys + i]];
    for (uint32_t d = 0; d < head_dim_; ++d) {
      const uint8_t* code = codes.data() + size_t{d / n_dims} * kPqTileKeys;
      const float* values = sample.row(block, d);
      double* sum = sums.data() + size_t{d} * kPqCentroids;
      for (uint32_t i = 0; i < kBlockPositions; ++i) sum[code[i]] += values[i];
    }
  }
  for (uint32_t d = 0; d < head_dim_; ++d)
    for (uint32_t c = 0; c < kPqCentroids; ++c)
      if (const uint32_t count = counts[d / n_dims * kPqCentroids + c]; count > 0)
        centroids()[d * kPqCentroids + c] = static_cast<float>(sums[d * kPqCentroids + c] / count);
  // A centroid that stands for no key becomes some key, and the next iteration moves it on.
  for (uint32_t i = 0; i < kNormFloats; ++i)
    if (counts[i] == 0)
      copy_key(sample, i / kPqCentroids, static_cast<uint32_t>(draw(random) * sample.n_keys()),
               centroids(), i % kPqCentroids);
  measure_half_norms();
}

PqCodebook PqCodebook::train(const KernelTable& kernels, std::span<const float> keys,
                             uint32_t head_dim, const PqCodebook* before) {
  PqCodebook book(head_dim);
  const PqSample sample{keys, head_dim};
  STRATA_CHECK(keys.size() % (size_t{head_dim} * kBlockPositions) == 0, "%zu values", keys.size());
  if (sample.n_keys() == 0) return book;
  std::minstd_rand random(kSeed);
  if (before != nullptr) {
    book.lines_ = before->lines_;
  } else {
    for (uint32_t s = 0; s < kPqSubspaces; ++s) seed_subspace(sample, s, random, book.centroids());
    book.measure_half_norms();
  }
  const uint32_t n = before != nullptr ? kLaterIterations : kIterations;
  for (uint32_t i = 0; i < n; ++i) book.improve(kernels, sample, random);
  return book;
}

}  // namespace strata::index
