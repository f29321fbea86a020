#include "tools/rivals/sampled_keys.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

#include "base/check.h"

namespace strata::rivals {

double draw_chance(double cosine, const HashShape& shape) {
  const double side = 1 - std::acos(std::clamp(cosine, -1.0, 1.0)) / std::numbers::pi;
  const double same = std::pow(side, shape.n_planes);
  const double n = shape.n_tables;
  return 1 - std::pow(1 - same, n) - n * same * std::pow(1 - same, n - 1);
}

SampledKeys::SampledKeys(const TraceCase& on, const HashShape& shape, uint64_t seed)
    : on_(on), shape_(shape), streams_(on.n_streams()) {
  STRATA_CHECK(shape.n_planes <= 16, "%u planes", shape.n_planes);
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  const uint32_t n_dims = on.head_dim();
  for (uint32_t stream = 0; stream < on.n_streams(); ++stream) {
    Stream& of = streams_[stream];
    of.planes.resize(uint64_t{shape.n_tables} * shape.n_planes * n_dims);
    for (float& x : of.planes) x = normal(random);
    std::vector<double> mean(n_dims);
    for (uint32_t at = on.first(); at < on.end(); ++at)
      for (uint32_t d = 0; d < n_dims; ++d)
        mean[d] += double{on.key(stream, at)[d]} / on.n_candidates();
    for (uint32_t at = on.first(); at < on.end(); ++at)
      for (uint32_t d = 0; d < n_dims; ++d)
        of.centred.push_back(on.key(stream, at)[d] - static_cast<float>(mean[d]));
    for (uint32_t i = 0; i < on.n_candidates(); ++i) {
      const float* key = of.centred.data() + uint64_t{i} * n_dims;
      of.lengths.push_back(std::sqrt(dot(key, key, n_dims)));
    }
    for (uint32_t table = 0; table < shape.n_tables; ++table)
      for (uint32_t i = 0; i < on.n_candidates(); ++i)
        of.hashes.push_back(hash(of, table, of.centred.data() + uint64_t{i} * n_dims));
  }
}

uint16_t SampledKeys::hash(const Stream& of, uint32_t table, const float* vector) const {
  uint32_t bits = 0;
  for (uint32_t plane = 0; plane < shape_.n_planes; ++plane) {
    const uint64_t at = uint64_t{table} * shape_.n_planes + plane;
    const float side = dot(of.planes.data() + at * on_.head_dim(), vector, on_.head_dim());
    bits = bits * 2 + (side > 0 ? 1 : 0);
  }
  return static_cast<uint16_t>(bits);
}

std::vector<Attended> SampledKeys::attend(uint32_t stream, uint32_t step) {
  const Stream& of = streams_[stream];
  const std::vector<float> queries = on_.query(stream, step);
  std::vector<Attended> heads(on_.group());
  std::vector<std::vector<uint16_t>> asked(shape_.n_tables);  // hashes, of the heads before
  for (uint32_t head = 0; head < on_.group(); ++head) {
    const float* q = queries.data() + uint64_t{head} * on_.head_dim();
    std::vector<uint16_t> n_shared(on_.n_candidates());
    for (uint32_t table = 0; table < shape_.n_tables; ++table) {
      const uint16_t wanted = hash(of, table, q);
      const uint16_t* found = of.hashes.data() + uint64_t{table} * on_.n_candidates();
      for (uint32_t i = 0; i < on_.n_candidates(); ++i)
        n_shared[i] = static_cast<uint16_t>(n_shared[i] + (found[i] == wanted ? 1 : 0));
      if (std::ranges::count(asked[table], wanted) > 0) continue;
      asked[table].push_back(wanted);
      n_met_ += static_cast<uint64_t>(std::count(found, found + on_.n_candidates(), wanted));
    }
    const double length = std::sqrt(double{dot(q, q, on_.head_dim())});
    for (uint32_t i = 0; i < on_.n_candidates(); ++i) {
      if (n_shared[i] < 2) continue;
      const float* key = of.centred.data() + uint64_t{i} * on_.head_dim();
      const double lengths = length * of.lengths[i];
      const double cosine = lengths > 0 ? dot(q, key, on_.head_dim()) / lengths : 0;
      heads[head].positions.push_back(on_.first() + i);
      heads[head].log_counts.push_back(
          static_cast<float>(-std::log(draw_chance(cosine, shape_) + kLeastChance)));
    }
  }
  ++n_asked_;
  return heads;
}

IndexBytes SampledKeys::bytes() const {
  const double n_met = static_cast<double>(n_met_) / static_cast<double>(n_asked_);
  return {.kept = 4.0 * shape_.n_tables, .read = 4.0 * n_met / on_.n_candidates()};
}

}  // namespace strata::rivals
