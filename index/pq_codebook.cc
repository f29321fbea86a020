#include "index/pq_codebook.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

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
  return (uint64_t{kPqCentroids} * head_dim + kNormFloats) * sizeof(float);
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
  for (uint64_t i = 0; i < book.n_centroid_floats(); ++i)
    if (const float x = book.centroids()[i]; !(std::fabs(x) <= kLargestKey))
      refuse(fmt::format("a codebook with centroid value {}", x));
  book.measure_half_norms();
  return book;
}

}  // namespace strata::index
