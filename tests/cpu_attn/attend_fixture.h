// tests/cpu_attn/attend_fixture.h - blocks of random K and V, tiles of queries and their
// double-precision attention.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/half.h"
#include "base/kernel_table.h"
#include "cpu_attn/attend.h"

namespace strata::cpu_attn {

/// Attention functions of every instruction set that this CPU has.
inline std::vector<KernelTable> attend_tables() {
  std::vector<KernelTable> tables(1);
  fill_attend_scalar(tables[0]);
  tables[0].name = "scalar";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    fill_attend_avx2(tables.emplace_back());
    tables.back().name = "avx2";
  }
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni")) {
    fill_attend_avx512(tables.emplace_back());
    tables.back().name = "avx512";
  }
  return tables;
}

constexpr uint32_t kSeed = 20240611;

using Random = std::mt19937;

inline uint32_t below(uint32_t n, Random& random) { return static_cast<uint32_t>(random() % n); }

inline std::vector<float> normal_floats(Random& random, uint64_t n, float deviation) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(n);
  for (float& x : values) x = normal(random);
  return values;
}

/// A segment's blocks. Rows below n_pos hold random K and V; all other bytes hold `fill`.
struct Segment {
  Segment(const KernelTable& table, const KvLayout& kv_layout, uint32_t positions, Random& random,
          int fill = 0xff)
      : layout(kv_layout),
        n_pos(positions),
        bytes(uint64_t{kSegmentPositions} / kBlockPositions * layout.block_bytes + 64) {
    std::memset(bytes.data(), fill, bytes.size());
    auto address = reinterpret_cast<uintptr_t>(bytes.data());
    std::byte* start = bytes.data() + (64 - address % 64) % 64;
    for (uint32_t b = 0; b < kSegmentPositions / kBlockPositions; ++b)
      blocks.push_back(start + b * layout.block_bytes);
    for (uint32_t p = 0; p < n_pos; ++p) {
      const std::vector<float> k = normal_floats(random, layout.head_dim, 1.0f);
      const std::vector<float> v = normal_floats(random, layout.head_dim, 1.0f);
      table.store_kv(layout, const_cast<std::byte*>(blocks[p / 32]), p % 32, k.data(), v.data());
    }
  }

  uint16_t half_at(uint32_t pos, uint64_t offset) const {
    uint16_t half;
    std::memcpy(&half, blocks[pos / 32] + offset, 2);
    return half;
  }
  double i8_at(uint32_t pos, uint64_t offset) const {
    return static_cast<int8_t>(blocks[pos / 32][offset]);
  }

  /// By the words of base/kv_layout.h, in double.
  double k(uint32_t pos, uint32_t d) const {
    const uint64_t at = uint64_t{d} * 32 + pos % 32;
    if (layout.k_codec == KvCodec::kF16) return f16_to_f32(half_at(pos, at * 2));
    return i8_at(pos, at) * f16_to_f32(half_at(pos, layout.k_scales_offset +
                                                        (uint64_t{d} / 32 * 32 + pos % 32) * 2));
  }
  double v(uint32_t pos, uint32_t d) const {
    const uint64_t at = uint64_t{pos % 32} * layout.head_dim + d;
    if (layout.v_codec == KvCodec::kF16) return f16_to_f32(half_at(pos, layout.v_offset + at * 2));
    return v_byte(pos, d) * v_scale(pos, d);
  }
  double v_byte(uint32_t pos, uint32_t d) const {
    return i8_at(pos, layout.v_offset + uint64_t{pos % 32} * layout.head_dim + d);
  }
  double v_scale(uint32_t pos, uint32_t d) const {
    const uint64_t scale = layout.v_scales_offset + (uint64_t{d} / 32 * 32 + pos % 32) * 2;
    return f16_to_f32(half_at(pos, scale));
  }

  KvLayout layout;
  uint32_t n_pos;
  std::vector<std::byte> bytes;
  std::vector<const std::byte*> blocks;
};

/// Queries and where their partials go. Outputs and a scratch of its own start as NaN.
struct Tile {
  Tile(uint32_t n, uint32_t dims, Random& random)
      : n_queries(n),
        head_dim(dims),
        q(normal_floats(random, uint64_t{n} * (dims + 3),
                        1.0f / std::sqrt(static_cast<float>(dims)))),
        pos(n) {}

  void attend(const KernelTable& table, const Segment& segment, uint32_t first_pos,
              uint32_t n_pos) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    o.assign(uint64_t{n_queries} * head_dim, nan);
    m.assign(n_queries, nan);
    l.assign(n_queries, nan);
    std::vector<float> own_scratch(attend_scratch_floats(n_queries, head_dim) + 16, nan);
    float* floats = scratch == nullptr ? own_scratch.data() : scratch->data();
    AttendArgs a{};
    a.q = q.data();
    a.q_stride = head_dim + 3;
    a.query_pos = pos.data();
    a.n_queries = n_queries;
    a.window = window;
    a.layout = segment.layout;
    a.blocks = segment.blocks.data();
    a.first_pos = first_pos;
    a.n_pos = n_pos;
    a.scratch = floats + (64 - reinterpret_cast<uintptr_t>(floats) % 64) % 64 / sizeof(float);
    a.has_prepared_q = has_prepared_q;
    a.o = o.data();
    a.m = m.data();
    a.l = l.data();
    table.attend_segment(a);
  }

  /// The i-th query alone.
  Tile single(uint32_t i) const {
    Tile one = *this;
    one.n_queries = 1;
    one.pos = {pos[i]};
    one.q.assign(q.begin() + static_cast<std::ptrdiff_t>(i * (head_dim + 3)),
                 q.begin() + static_cast<std::ptrdiff_t>((i + 1) * (head_dim + 3)));
    return one;
  }

  bool attends(uint32_t i, uint32_t position) const {
    return position <= pos[i] && (window == 0 || uint64_t{position} + window > pos[i]);
  }

  uint32_t n_queries;
  uint32_t head_dim;
  uint32_t window = 0;
  bool has_prepared_q = false;
  std::vector<float>* scratch = nullptr;  // instead of one of each call's own; 16 floats more
  std::vector<float> q;
  std::vector<uint32_t> pos;
  std::vector<float> o, m, l;
};

inline constexpr double kEps = 0x1p-24;  // half a unit in the last place of 1: one rounding

inline constexpr float kLargestCode = 16383;

/// The query as it is multiplied with K: with bytes, codes of 15 bits under one scale.
inline std::vector<double> multiplied_query(const Tile& tile, uint32_t query, KvCodec k_codec) {
  const float* q = tile.q.data() + uint64_t{query} * (tile.head_dim + 3);
  if (k_codec == KvCodec::kF16) return {q, q + tile.head_dim};
  float largest = 0;
  for (uint32_t d = 0; d < tile.head_dim; ++d) largest = std::max(largest, std::abs(q[d]));
  const float factor = kLargestCode / largest;
  const float scale = largest / kLargestCode;
  std::vector<double> codes;
  for (uint32_t d = 0; d < tile.head_dim; ++d)
    codes.push_back(std::nearbyint(double{q[d] * factor}) * double{scale});
  return codes;
}

/// One query's partial in double, of the query as it is multiplied, and how far rounding may take
/// the kernel from it. First order terms, 1 % for the rest:
///   score    (head_dim + 2) eps sum |q k|: a rounding per term of the chain, one of the product
///   where fma is two operations,
///            one of a group's scale (q8_0 has a chain over groups, and roundings of its sums and
///            scales: fewer)
///   weight   relative: error of its score, of m, eps |s - m| of the difference, 4 eps (2 ulp) of
///   exp l        sum of w times that, plus n eps l for the sum o        the same with |v|, plus
///   eps for a scale folded into w and eps for the product
///   codes    of q8_0 V: half a step of max(w scale) / 16383 times sum |v8|, over the positions
struct DoublePartial {
  double m = -std::numeric_limits<double>::infinity();
  double l = 0;
  std::vector<double> o;
  double m_bound = 0, l_bound = 0;
  std::vector<double> o_bound;
};

inline DoublePartial attend_double(const Tile& tile, uint32_t query, const Segment& segment,
                                   uint32_t first_pos, uint32_t n_pos) {
  DoublePartial r;
  const uint32_t head_dim = tile.head_dim;
  r.o.resize(head_dim);
  r.o_bound.resize(head_dim);
  std::vector<double> scores, errors;
  std::vector<uint32_t> places;
  const std::vector<double> q = multiplied_query(tile, query, segment.layout.k_codec);
  for (uint32_t p = 0; p < n_pos; ++p) {
    if (!tile.attends(query, first_pos + p)) continue;
    double score = 0, magnitude = 0;
    for (uint32_t d = 0; d < head_dim; ++d) {
      const double term = q[d] * segment.k(p, d);
      score += term;
      magnitude += std::abs(term);
    }
    scores.push_back(score);
    errors.push_back((head_dim + 2) * kEps * magnitude);
    places.push_back(p);
    r.m = std::max(r.m, score);
    r.m_bound = std::max(r.m_bound, errors.back());
  }
  for (uint64_t i = 0; i < places.size(); ++i) {
    const double weight = std::exp(scores[i] - r.m);
    const double relative = 1.01 * (errors[i] + r.m_bound + kEps * (r.m - scores[i]) + 4 * kEps);
    const double chain = (static_cast<double>(places.size()) + 2) * kEps;
    r.l += weight;
    r.l_bound += weight * (relative + chain);
    for (uint32_t d = 0; d < head_dim; ++d) {
      const double value = segment.v(places[i], d);
      r.o[d] += weight * value;
      r.o_bound[d] += weight * std::abs(value) * (relative + chain);
    }
  }
  if (segment.layout.v_codec == KvCodec::kF16) return r;
  // Half a step, and what its factor's roundings move a code by.
  constexpr double kCodeError = 0.5 + 3 * double{kLargestCode} * kEps;
  for (uint32_t group = 0; group < head_dim; group += 32) {
    double largest = 0;
    for (uint64_t i = 0; i < places.size(); ++i) {
      largest = std::max(largest, std::exp(scores[i] - r.m) * segment.v_scale(places[i], group));
    }
    for (uint32_t d = group; d < group + 32; ++d) {
      double bytes = 0;
      for (const uint32_t place : places) bytes += std::abs(segment.v_byte(place, d));
      r.o_bound[d] += 1.01 * kCodeError * largest / double{kLargestCode} * bytes;
    }
  }
  return r;
}

/// Query positions as steps make them: a decode step (all at the end), rows of a chunk with their
/// group, or anything at all.
inline void draw_positions(Tile& tile, uint32_t first_pos, uint32_t n_pos, Random& random) {
  const uint32_t kind = below(4, random);
  const uint32_t group = 1 + below(4, random);
  const uint32_t start = first_pos + below(n_pos, random);
  for (uint32_t i = 0; i < tile.n_queries; ++i) {
    if (kind == 0) tile.pos[i] = first_pos + n_pos - 1;
    if (kind == 1) tile.pos[i] = first_pos + n_pos + 7;
    if (kind == 2) tile.pos[i] = start + i / group;
    if (kind == 3) tile.pos[i] = first_pos / 2 + below(first_pos / 2 + n_pos + 40, random);
  }
  tile.window = below(2, random) == 0 ? 0 : 1 + below(300, random);
}

inline void expect_near_double(const Tile& tile, const Segment& segment, uint32_t first_pos,
                               uint32_t n_pos) {
  for (uint32_t i = 0; i < tile.n_queries; ++i) {
    const DoublePartial want = attend_double(tile, i, segment, first_pos, n_pos);
    if (want.l == 0) {
      EXPECT_EQ(tile.m[i], -std::numeric_limits<float>::infinity()) << "query " << i;
      EXPECT_EQ(tile.l[i], 0.0f) << "query " << i;
    } else {
      EXPECT_NEAR(tile.m[i], want.m, want.m_bound) << "query " << i;
      EXPECT_NEAR(tile.l[i], want.l, want.l_bound) << "query " << i;
    }
    for (uint32_t d = 0; d < tile.head_dim; ++d) {
      ASSERT_NEAR(tile.o[uint64_t{i} * tile.head_dim + d], want.o[d], want.o_bound[d])
          << "query " << i << " dimension " << d;
    }
  }
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline std::vector<KvLayout> layouts(uint32_t head_dim) {
  std::vector<KvLayout> all{KvLayout::make(KvCodec::kF16, KvCodec::kF16, head_dim)};
  if (head_dim % 32 == 0) {
    all.push_back(KvLayout::make(KvCodec::kQ8_0, KvCodec::kQ8_0, head_dim));
    all.push_back(KvLayout::make(KvCodec::kF16, KvCodec::kQ8_0, head_dim));
    all.push_back(KvLayout::make(KvCodec::kQ8_0, KvCodec::kF16, head_dim));
  }
  return all;
}

inline std::string describe(const KernelTable& table, const KvLayout& layout) {
  return std::string(table.name) + " k=" + kv_codec_name(layout.k_codec) +
         " v=" + kv_codec_name(layout.v_codec) + " head_dim=" + std::to_string(layout.head_dim);
}

}  // namespace strata::cpu_attn
