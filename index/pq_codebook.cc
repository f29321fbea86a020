#include "index/pq_codebook.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/error.h"

namespace strata::index {
namespace {

// No K block holds larger values: the largest f16 scale times 127.
constexpr float kLargestKey = 65504.0f * 127.0f;

constexpr uint32_t kNormFloats = kPqSubspaces * kPqCentroids;

}  // namespace

PqCodebook::PqCodebook(uint32_t head_dim) : head_dim_(head_dim) {
  STRATA_CHECK(head_dim > 0 && head_dim % kPqSubspaces == 0, "head_dim=%u", head_dim);
  lines_.resize(memory_bytes(head_dim) / sizeof(Line));
}

uint64_t PqCodebook::memory_bytes(uint32_t head_dim) {
  return sizeof(Line) + (uint64_t{kPqCentroids} * head_dim + kNormFloats) * sizeof(float);
}

std::span<const std::byte> PqCodebook::bytes() const {
  return std::as_bytes(std::span(lines_))
      .first(memory_bytes(head_dim_) - kNormFloats * sizeof(float));
}

void PqCodebook::measure_half_norms() {
  const uint32_t n_dims = head_dim_ / kPqSubspaces;
  float* norms = centroids() + n_centroid_floats();
  std::fill_n(norms, kNormFloats, 0.0f);
  for (uint32_t d = 0; d < head_dim_; ++d)
    for (uint32_t c = 0; c < kPqCentroids; ++c) {
      const float x = centroids()[d * kPqCentroids + c];
      norms[d / n_dims * kPqCentroids + c] += 0.5f * x * x;
    }
}

void PqCodebook::encode(const KernelTable& kernels, const float* keys, uint8_t* codes) const {
  kernels.index.pq_encode({.keys = keys,
                           .centroids = centroids(),
                           .half_norms = half_norms(),
                           .head_dim = head_dim_,
                           .codes = codes});
}

float PqCodebook::error(const float* keys, const uint8_t* codes) const {
  const uint32_t n_dims = head_dim_ / kPqSubspaces;
  std::array<float, kBlockPositions> errors{};
  for (uint32_t d = 0; d < head_dim_; ++d) {
    const uint8_t* code = codes + size_t{d / n_dims} * kPqTileKeys;
    const float* values = centroids() + size_t{d} * kPqCentroids;
    for (uint32_t i = 0; i < kBlockPositions; ++i) {
      const float gap = keys[d * kBlockPositions + i] - values[code[i]];
      errors[i] += gap * gap;
    }
  }
  double sum = 0;
  for (const float error : errors) sum += error;
  return static_cast<float>(sum / kBlockPositions);
}

PqCodebook PqCodebook::from_bytes(std::span<const std::byte> bytes, uint32_t head_dim) {
  PqCodebook book(head_dim);
  const size_t wanted = book.bytes().size();
  const auto refuse = [](const std::string& what) {
    throw Error(ErrorCode::kBadFile, what, "codebook", "build the index anew");
  };
  if (bytes.size() != wanted)
    refuse(fmt::format("a codebook of {} bytes, wanted {} for head_dim {}", bytes.size(), wanted,
                       head_dim));
  std::memcpy(book.lines_.data(), bytes.data(), wanted);
  const float error = book.training_error();
  if (!(error >= 0 && std::isfinite(error)))
    refuse(fmt::format("a codebook with training error {}", error));
  for (uint64_t i = 0; i < book.n_centroid_floats(); ++i)
    if (const float x = book.centroids()[i]; !(std::fabs(x) <= kLargestKey))
      refuse(fmt::format("a codebook with centroid value {}", x));
  book.measure_half_norms();
  return book;
}

PqTable build_pq_table(const PqCodebook& codebook, const float* q, uint8_t* table) {
  // Below this range of products all keys are taken for equal: 255 / range must not overflow.
  constexpr float kLeastRange = 1e-30f;
  const uint32_t n_dims = codebook.head_dim() / kPqSubspaces;
  std::array<std::array<float, kPqCentroids>, kPqSubspaces> products{};
  std::array<float, kPqSubspaces> least;
  float range = 0;
  float offset = 0;
  bool is_finite = true;
  for (uint32_t s = 0; s < kPqSubspaces; ++s) {
    for (uint32_t d = s * n_dims; d < (s + 1) * n_dims; ++d)
      for (uint32_t c = 0; c < kPqCentroids; ++c)
        products[s][c] += q[d] * codebook.centroids()[d * kPqCentroids + c];
    const auto [low, high] = std::ranges::minmax(products[s]);
    for (const float product : products[s]) is_finite = is_finite && std::isfinite(product);
    least[s] = low;
    offset += low;
    range = std::max(range, high - low);
  }
  std::fill_n(table, kNormFloats, uint8_t{0});
  if (!is_finite || !std::isfinite(range) || !std::isfinite(offset))
    return {1.0f, std::numeric_limits<float>::infinity()};
  if (range < kLeastRange) return {1.0f, offset};
  const float steps = 255.0f / range;
  for (uint32_t s = 0; s < kPqSubspaces; ++s)
    for (uint32_t c = 0; c < kPqCentroids; ++c)
      table[s * kPqCentroids + c] =
          static_cast<uint8_t>(std::min((products[s][c] - least[s]) * steps + 0.5f, 255.0f));
  return {range / 255.0f, offset};
}

}  // namespace strata::index
