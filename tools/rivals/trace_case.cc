#include "tools/rivals/trace_case.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/error.h"
#include "base/half.h"

namespace strata::rivals {
namespace {

float half_at(const std::byte* block, uint64_t idx) {
  uint16_t half;
  std::memcpy(&half, block + idx * sizeof(half), sizeof(half));
  return f16_to_f32(half);
}

/// Appends the 32 keys and values of a block in f16 (base/kv_layout.h).
void append_block(const std::byte* block, const KvLayout& layout, std::vector<float>& keys,
                  std::vector<float>& values) {
  for (uint64_t row = 0; row < kBlockPositions; ++row)
    for (uint64_t d = 0; d < layout.head_dim; ++d) {
      keys.push_back(half_at(block, d * kBlockPositions + row));
      values.push_back(half_at(block + layout.v_offset, row * layout.head_dim + d));
    }
}

}  // namespace

float dot(const float* a, const float* b, uint32_t n) {
  std::array<float, 8> sums{};  // side by side, so that they become vectors; n is a multiple of 8
  for (uint32_t d = 0; d < n; d += 8)
    for (uint32_t i = 0; i < 8; ++i) sums[i] += a[d + i] * b[d + i];
  return (sums[0] + sums[4]) + (sums[1] + sums[5]) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

TraceCase::TraceCase(const eval::AttentionTrace& trace, uint32_t n_judged)
    : trace_(trace), n_judged_(n_judged), n_blocks_(0) {
  if (n_judged == 0 || n_judged > trace.n_steps)
    throw Error(ErrorCode::kUsage,
                fmt::format("wanted 1 to {} judged steps, found {}", trace.n_steps, n_judged));
  n_blocks_ = first_judged() / kBlockPositions;
  if (n_blocks_ <= kSinkBlocks + kWindowBlocks)
    throw Error(ErrorCode::kUsage,
                fmt::format("{} blocks before the judged steps leave no candidates", n_blocks_));
  keys_.resize(n_streams());
  values_.resize(n_streams());
  for (uint32_t stream = 0; stream < n_streams(); ++stream) {
    for (uint32_t block = 0; block < trace.n_blocks(); ++block)
      append_block(trace.block(stream, block), trace.layout(), keys_[stream], values_[stream]);
    for (uint32_t step = 0; step < n_judged; ++step) weigh(stream, step);
  }
}

/// Appends the figures of the step's queries.
void TraceCase::weigh(uint32_t stream, uint32_t step) {
  std::vector<uint32_t> always, candidates;
  for (uint32_t at = 0; at <= pos(step); ++at)
    (at >= first() && at < end() ? candidates : always).push_back(at);
  const std::vector<float> q = query(stream, step);
  for (uint32_t head = 0; head < group(); ++head) {
    Exact& of = exact_.emplace_back();
    for (uint32_t at = 0; at <= pos(step); ++at)
      of.scores.push_back(dot(q.data() + uint64_t{head} * head_dim(), key(stream, at), head_dim()));
    of.always = attend(stream, step, head, always);
    of.candidates = attend(stream, step, head, candidates);
  }
}

uint32_t TraceCase::room(uint32_t budget, uint32_t step) const {
  return std::min(budget - std::min(budget, n_always(step)), n_candidates());
}

Partial TraceCase::attend(uint32_t stream, uint32_t step, uint32_t query,
                          std::span<const uint32_t> positions,
                          std::span<const float> log_counts) const {
  STRATA_CHECK(log_counts.empty() || log_counts.size() == positions.size(), "%zu of %zu counts",
               log_counts.size(), positions.size());
  const std::span<const float> exact = scores(stream, step, query);
  const auto score = [&](size_t i) {
    return double{exact[positions[i]]} + (log_counts.empty() ? 0.0 : double{log_counts[i]});
  };
  Partial sums{.o = std::vector<double>(head_dim()), .m = -std::numeric_limits<double>::infinity()};
  for (size_t i = 0; i < positions.size(); ++i) sums.m = std::max(sums.m, score(i));
  for (size_t i = 0; i < positions.size(); ++i) {
    const double weight = std::exp(score(i) - sums.m);
    sums.l += weight;
    const float* v = value(stream, positions[i]);
    for (uint32_t d = 0; d < head_dim(); ++d) sums.o[d] += weight * double{v[d]};
  }
  return sums;
}

void merge(Partial& whole, const Partial& part) {
  if (part.l <= 0) return;
  const double top = std::max(whole.m, part.m);
  const double old_scale = whole.l > 0 ? std::exp(whole.m - top) : 0;
  const double scale = std::exp(part.m - top);
  for (size_t d = 0; d < whole.o.size(); ++d)
    whole.o[d] = whole.o[d] * old_scale + part.o[d] * scale;
  whole.l = whole.l * old_scale + part.l * scale;
  whole.m = top;
}

}  // namespace strata::rivals
