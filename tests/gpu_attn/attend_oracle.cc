#include "tests/gpu_attn/attend_oracle.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/checked_math.h"
#include "base/half.h"
#include "tests/gpu_attn/row_oracle.h"

namespace strata::gpu_test {
namespace {

constexpr uint32_t kGroup = 32;  // dimensions that share a q8_0 scale

bool attends(const AttendShapeDrawn& shape, uint32_t head, uint32_t row, uint32_t position) {
  const uint32_t own = shape.first_position - head * shape.head_shift + row;
  return position <= own && (shape.window == 0 || uint64_t{position} + shape.window > own);
}

}  // namespace

uint32_t last_position(const AttendShapeDrawn& shape) {
  return shape.first_position + shape.n_rows - 1;
}
uint32_t n_table_blocks(const AttendShapeDrawn& shape) {
  return last_position(shape) / kBlockPositions + 1 - shape.first_block + shape.n_more_blocks;
}
uint32_t n_splits(const AttendShapeDrawn& shape) {
  return static_cast<uint32_t>(div_up(n_table_blocks(shape), shape.split_blocks)) +
         shape.n_more_splits;
}
uint64_t n_queries(const AttendShapeDrawn& shape) {
  return uint64_t{shape.n_kv_heads} * shape.n_rows * shape.group;
}

KvTable::KvTable(const AttendShapeDrawn& shape, std::mt19937& random)
    : shape_(shape),
      layout_(KvLayout::make(shape.k_codec, shape.v_codec, shape.head_dim)),
      order_(uint64_t{shape.n_kv_heads} * n_table_blocks(shape)),
      bytes_(order_.size() * layout_.block_bytes, std::byte{0xFF}) {
  std::iota(order_.begin(), order_.end(), 0u);
  std::shuffle(order_.begin(), order_.end(), random);
  std::normal_distribution<float> normal;
  std::vector<float> values(shape.head_dim);
  for (uint32_t head = 0; head < shape.n_kv_heads; ++head) {
    const uint32_t last = last_position(shape) - head * shape.head_shift;
    for (uint32_t p = shape.first_block * kBlockPositions; p <= last; ++p) {
      const uint64_t block = place(head, p / kBlockPositions - shape.first_block);
      const uint32_t row = p % kBlockPositions;
      for (float& value : values) value = normal(random);
      for (uint32_t dim = 0; dim < shape.head_dim; dim += kGroup)
        store(shape.k_codec, block, block + layout_.k_scales_offset,
              uint64_t{dim} * kBlockPositions + row, kBlockPositions, dim, row, values);
      const bool is_outlier = shape.v_outlier != 0 && random() % 50 == 0;
      const double deviation = is_outlier ? shape.v_outlier : shape.v_deviation;
      for (float& value : values) value = normal(random) * static_cast<float>(deviation);
      for (uint32_t dim = 0; dim < shape.head_dim; dim += kGroup)
        store(shape.v_codec, block + layout_.v_offset, block + layout_.v_scales_offset,
              uint64_t{row} * shape.head_dim + dim, 1, dim, row, values);
    }
  }
}

void KvTable::store(KvCodec codec, uint64_t part, uint64_t scales, uint64_t first, uint32_t stride,
                    uint32_t dim, uint32_t row, const std::vector<float>& values) {
  const uint32_t n = std::min(kGroup, shape_.head_dim - dim);
  if (codec == KvCodec::kF16) {
    for (uint32_t i = 0; i < n; ++i) {
      const uint16_t half = f32_to_f16(values[dim + i]);
      std::memcpy(&bytes_[part + (first + uint64_t{i} * stride) * 2], &half, 2);
    }
    return;
  }
  float largest = 0;
  for (uint32_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(values[dim + i]));
  const uint16_t half = f32_to_f16(largest / 127);
  std::memcpy(&bytes_[scales + (uint64_t{dim / kGroup} * kBlockPositions + row) * 2], &half, 2);
  const float step = f16_to_f32(half);
  for (uint32_t i = 0; i < n; ++i) {
    const float code = step > 0 ? std::nearbyint(values[dim + i] / step) : 0;
    bytes_[part + first + uint64_t{i} * stride] =
        static_cast<std::byte>(static_cast<int8_t>(std::clamp(code, -127.0f, 127.0f)));
  }
}

const std::byte* const* KvTable::upload(UnderTest& device) const {
  const std::byte* base = device.upload(bytes_);
  std::vector<const std::byte*> table;
  for (const uint32_t at : order_) table.push_back(base + uint64_t{at} * layout_.block_bytes);
  return device.upload(table);
}

uint64_t KvTable::place(uint32_t head, uint32_t block) const {
  return uint64_t{order_[uint64_t{head} * n_table_blocks(shape_) + block]} * layout_.block_bytes;
}

double KvTable::element(KvCodec codec, uint64_t part, uint64_t i) const {
  if (codec == KvCodec::kQ8_0) return static_cast<int8_t>(bytes_[part + i]);
  uint16_t half;
  std::memcpy(&half, &bytes_[part + i * 2], 2);
  return f16_to_f32(half);
}

double KvTable::scale(KvCodec codec, uint64_t part, uint32_t dim, uint32_t position) const {
  if (codec == KvCodec::kF16) return 1;
  return element(KvCodec::kF16, part,
                 uint64_t{dim / kGroup} * kBlockPositions + position % kBlockPositions);
}

double KvTable::k(uint32_t head, uint32_t position, uint32_t dim) const {
  const uint64_t block = place(head, position / kBlockPositions - shape_.first_block);
  return element(layout_.k_codec, block,
                 uint64_t{dim} * kBlockPositions + position % kBlockPositions) *
         scale(layout_.k_codec, block + layout_.k_scales_offset, dim, position);
}

double KvTable::v(uint32_t head, uint32_t position, uint32_t dim) const {
  const uint64_t block = place(head, position / kBlockPositions - shape_.first_block);
  return element(layout_.v_codec, block + layout_.v_offset,
                 uint64_t{position % kBlockPositions} * shape_.head_dim + dim) *
         v_scale(head, position, dim);
}

double KvTable::v_scale(uint32_t head, uint32_t position, uint32_t dim) const {
  const uint64_t block = place(head, position / kBlockPositions - shape_.first_block);
  return scale(layout_.v_codec, block + layout_.v_scales_offset, dim, position);
}

std::vector<float> draw_queries(const AttendShapeDrawn& shape, std::mt19937& random) {
  std::normal_distribution<double> normal(
      0, shape.q_deviation == 0 ? 1 / std::sqrt(shape.head_dim) : shape.q_deviation);
  std::vector<float> q(n_queries(shape) * shape.head_dim);
  for (uint64_t query = 0; query < n_queries(shape); ++query) {
    const uint32_t n_dims = shape.n_q_dims == 0 ? shape.head_dim : shape.n_q_dims;
    const uint32_t first = static_cast<uint32_t>(random() % (shape.head_dim - n_dims + 1));
    for (uint32_t i = 0; i < n_dims; ++i)
      q[query * shape.head_dim + first + i] = static_cast<float>(normal(random));
  }
  return q;
}

/// First-order terms, 1 % for the rest; u = 2^-24.
///   score   The products of halves and stored numbers are exact. A tensor core adds 16 of them and
///           its sum so far with at least 24 bits below the largest and drops the rest: each addend
///           loses 2 u of sum |q k| at most, and there are n + n / 16 where n elements of q are not
///           zero. q's halves leave 2^-22 of an element, or 2^-35 of q's largest where the low half
///           is subnormal. 4 u for scales and the sum of the halves, 3 u for the units.
///   weight  relative: errors of its score and of the largest; 4 u of exp2, its argument's
///           roundings: u each of the score, the reference and their difference, all in log2
///           units, twice for the constant
///   sums    of n weights: n u; where the largest grows, at most once a block, 4 u of exp2, and in
///           all of them together u of the way from the least score to the largest, in log2 units.
///           By the tensor cores 2 u for n + n / 16 addends; 2^-22 for the weights' halves, and for
///           those times a scale; 2^-39 of a stored number at least, 2^-24 where a q8_0 scale is 2
///           or more.
PartialWanted attend_double(const AttendShapeDrawn& shape, const KvTable& table, const float* q,
                            uint32_t head, uint32_t row, uint32_t split) {
  const uint32_t n_dims = shape.n_q_dims == 0 ? shape.head_dim : shape.n_q_dims;
  const double largest_q = std::abs(*std::max_element(
      q, q + shape.head_dim, [](float a, float b) { return std::abs(a) < std::abs(b); }));
  PartialWanted wanted{.m = -std::numeric_limits<double>::infinity(),
                       .l = 0,
                       .o = std::vector<double>(shape.head_dim),
                       .m_tolerance = 0,
                       .l_tolerance = 0,
                       .o_tolerance = std::vector<double>(shape.head_dim)};
  const uint32_t begin = (shape.first_block + split * shape.split_blocks) * kBlockPositions;
  const uint32_t end =
      std::min(begin + shape.split_blocks * kBlockPositions, last_position(shape) + 1);
  std::vector<uint32_t> positions;
  std::vector<double> scores, errors;
  for (uint32_t p = begin; p < end; ++p) {
    if (!attends(shape, head, row, p)) continue;
    double score = 0, magnitude = 0, largest_k = 0;
    for (uint32_t d = 0; d < shape.head_dim; ++d) {
      const double k = table.k(head, p, d);
      score += double{q[d]} * k;
      magnitude += std::abs(double{q[d]} * k);
      largest_k = std::max(largest_k, std::abs(k));
    }
    const double roundings = 2 * (n_dims + std::ceil(n_dims / 16.0)) + 4 + 4 + 3;
    positions.push_back(p);
    scores.push_back(score);
    errors.push_back(roundings * kUnit * magnitude + 0x1p-35 * n_dims * largest_q * largest_k);
    wanted.m = std::max(wanted.m, score);
    wanted.m_tolerance = std::max(wanted.m_tolerance, errors.back());
  }
  const auto n = static_cast<double>(positions.size());
  double least = wanted.m;
  for (const double score : scores) least = std::min(least, score);
  const double growth =
      n == 0 ? 0 : kUnit * (4 * std::ceil(n / kBlockPositions) + 2 * (wanted.m - least));
  for (uint64_t i = 0; i < positions.size(); ++i) {
    const double weight = std::exp(scores[i] - wanted.m);
    const double arguments = 4 * (std::abs(scores[i]) + std::abs(wanted.m) + 16);
    const double relative =
        1.01 * (errors[i] + wanted.m_tolerance + (arguments + 4) * kUnit + growth);
    wanted.l += weight;
    wanted.l_tolerance += weight * (relative + n * kUnit);
    for (uint32_t d = 0; d < shape.head_dim; ++d) {
      const double v = table.v(head, positions[i], d);
      const double scale = table.v_scale(head, positions[i], d);
      const double chain = (2 * (n + std::ceil(n / 16)) + 4 + 4) * kUnit;
      wanted.o[d] += weight * v;
      wanted.o_tolerance[d] +=
          weight * std::abs(v) * (relative + chain) +
          (scale == 0 ? 0 : std::abs(v) / scale) * (shape.v_outlier != 0 ? 0x1p-24 : 0x1p-39);
    }
  }
  wanted.m_tolerance += 4 * kUnit * std::abs(wanted.m);
  return wanted;
}

}  // namespace strata::gpu_test
