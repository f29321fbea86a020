// Decode attention and the merging of its partials against double precision: every codec and head
// size, rows of a chunk, windows, tails whose unwritten positions are NaN, splits with nothing in
// them. Tolerances: attend_oracle.cc.
#include <cmath>
#include <limits>

#include "base/checked_math.h"
#include "gpu_attn/attend_splits.h"
#include "tests/gpu_attn/attend_oracle.h"
#include "tests/gpu_attn/row_oracle.h"

namespace strata::gpu_test {
namespace {

constexpr uint32_t kSeed = 20250801;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Partials {
  float* o;
  float* m;
  float* l;
};

DeviceAttendArgs attend_args(UnderTest& on, const AttendShapeDrawn& shape, const KvTable& table,
                             const std::vector<float>& q) {
  std::vector<uint32_t> positions;
  for (uint32_t head = 0; head < shape.n_kv_heads; ++head)
    for (uint32_t row = 0; row < shape.n_rows; ++row)
      positions.push_back(shape.first_position - head * shape.head_shift + row);
  const uint64_t n_partials = n_splits(shape) * n_queries(shape);
  return {.q = on.upload(q),
          .positions = on.upload(positions),
          .position_stride = shape.head_shift == 0 ? 0u : shape.n_rows,
          .blocks = table.upload(on),
          .block_stride = n_table_blocks(shape),
          .first_block = shape.first_block,
          .n_blocks = n_table_blocks(shape),
          .layout = table.layout(),
          .n_rows = shape.n_rows,
          .n_kv_heads = shape.n_kv_heads,
          .group = shape.group,
          .window = shape.window,
          .split_blocks = shape.split_blocks,
          .n_splits = n_splits(shape),
          .o = on.make<float>(n_partials * shape.head_dim),
          .m = on.make<float>(n_partials),
          .l = on.make<float>(n_partials)};
}

/// All of a launch's partials, in its order.
struct WantedOfAll {
  std::vector<double> m, l, o, m_tolerance, l_tolerance, o_tolerance;

  void add(const PartialWanted& one) {
    m.push_back(one.m);
    l.push_back(one.l);
    o.insert(o.end(), one.o.begin(), one.o.end());
    m_tolerance.push_back(one.m_tolerance);
    l_tolerance.push_back(one.l_tolerance);
    o_tolerance.insert(o_tolerance.end(), one.o_tolerance.begin(), one.o_tolerance.end());
  }
};

WantedOfAll want_all(const AttendShapeDrawn& shape, const KvTable& table,
                     const std::vector<float>& q) {
  WantedOfAll all;
  for (uint32_t split = 0; split < n_splits(shape); ++split) {
    for (uint64_t query = 0; query < n_queries(shape); ++query) {
      const auto head = static_cast<uint32_t>(query / (shape.n_rows * shape.group));
      const auto row = static_cast<uint32_t>(query / shape.group % shape.n_rows);
      all.add(attend_double(shape, table, q.data() + query * shape.head_dim, head, row, split));
    }
  }
  return all;
}

std::function<double(uint64_t)> each_of(const std::vector<double>& tolerances) {
  return [&tolerances](uint64_t i) { return tolerances[i]; };
}

/// The rows that merging should give, in the order of DeviceMergeArgs::out.
void expect_merged(UnderTest& on, CaseReport& report, const AttendShapeDrawn& shape,
                   const DeviceAttendArgs& args, const WantedOfAll& all) {
  float* out = on.make<float>(n_queries(shape) * shape.head_dim);
  on.check(on.kernels().merge(on.stream(), {.o = args.o,
                                            .m = args.m,
                                            .l = args.l,
                                            .out = out,
                                            .quant = {},
                                            .n_splits = args.n_splits,
                                            .n_rows = args.n_rows,
                                            .n_kv_heads = args.n_kv_heads,
                                            .group = args.group,
                                            .head_dim = shape.head_dim}));
  std::vector<double> wanted, tolerances;
  for (uint32_t row = 0; row < shape.n_rows; ++row) {
    for (uint32_t head = 0; head < shape.n_kv_heads * shape.group; ++head) {
      const uint64_t query =
          (uint64_t{head / shape.group} * shape.n_rows + row) * shape.group + head % shape.group;
      double top = -kInfinity, l = 0, l_tolerance = 0;
      std::vector<double> o(shape.head_dim), o_tolerance(shape.head_dim);
      for (uint32_t split = 0; split < args.n_splits; ++split)
        top = std::max(top, all.m[split * n_queries(shape) + query]);
      for (uint32_t split = 0; split < args.n_splits; ++split) {
        const uint64_t i = split * n_queries(shape) + query;
        if (all.m[i] == -kInfinity) continue;
        const double factor = std::exp(all.m[i] - top);
        // exp2 and its argument, and a rounding of each sum.
        const double relative =
            (8 + 3 * std::abs(all.m[i]) + 3 * std::abs(top) + args.n_splits) * kUnit;
        l += factor * all.l[i];
        l_tolerance += factor * (all.l_tolerance[i] + relative * all.l[i]);
        for (uint32_t d = 0; d < shape.head_dim; ++d) {
          const double value = all.o[i * shape.head_dim + d];
          o[d] += factor * value;
          o_tolerance[d] +=
              factor * (all.o_tolerance[i * shape.head_dim + d] + relative * std::abs(value));
        }
      }
      for (uint32_t d = 0; d < shape.head_dim; ++d) {
        wanted.push_back(o[d] / l);
        tolerances.push_back(
            1.01 * (o_tolerance[d] / l + std::abs(o[d] / l) * (l_tolerance / l + 2 * kUnit)));
      }
    }
  }
  report.expect_near(on.download(out, wanted.size()), wanted, each_of(tolerances), "merged");
}

void attend_case(UnderTest& on, CaseReport& report, const AttendShapeDrawn& shape, uint32_t seed) {
  std::mt19937 random(seed);
  const KvTable table(shape, random);
  const std::vector<float> q = draw_queries(shape, random);
  const DeviceAttendArgs args = attend_args(on, shape, table, q);
  on.check(on.kernels().attend(on.stream(), args));
  const WantedOfAll all = want_all(shape, table, q);
  report.expect_near(on.download(args.m, all.m.size()), all.m, each_of(all.m_tolerance), "m");
  report.expect_near(on.download(args.l, all.l.size()), all.l, each_of(all.l_tolerance), "l");
  report.expect_near(on.download(args.o, all.o.size()), all.o, each_of(all.o_tolerance), "o");
  expect_merged(on, report, shape, args, all);
}

std::string codecs_name(const AttendShapeDrawn& shape) {
  return std::string(kv_codec_name(shape.k_codec)) + "," + kv_codec_name(shape.v_codec);
}

void add_case(std::vector<GpuCase>& cases, const std::string& what, const AttendShapeDrawn& shape,
              bool is_small = true) {
  const uint32_t seed = kSeed + static_cast<uint32_t>(cases.size());
  cases.push_back(
      {"attend/" + what + "/" + codecs_name(shape) + "/d" + std::to_string(shape.head_dim) +
           "/group " + std::to_string(shape.group) + "/" + std::to_string(shape.n_rows) +
           " rows from " + std::to_string(shape.first_position) + "/seed " + std::to_string(seed),
       [shape, seed](UnderTest& on, CaseReport& report) { attend_case(on, report, shape, seed); },
       is_small});
}

constexpr KvCodec kCodecs[] = {KvCodec::kF16, KvCodec::kQ8_0};

/// The shape in each pair of codecs that its head size allows.
std::vector<AttendShapeDrawn> in_codecs(AttendShapeDrawn shape) {
  std::vector<AttendShapeDrawn> all;
  for (const KvCodec k : kCodecs) {
    for (const KvCodec v : kCodecs) {
      shape.k_codec = k;
      shape.v_codec = v;
      if (shape.head_dim % 32 == 0 || (k == KvCodec::kF16 && v == KvCodec::kF16))
        all.push_back(shape);
    }
  }
  return all;
}

void add_head_sizes(std::vector<GpuCase>& cases) {
  for (const uint32_t head_dim : {64u, 80u, 96u, 128u, 256u}) {
    for (const auto& shape :
         in_codecs({.head_dim = head_dim, .n_kv_heads = 2, .group = 4, .first_position = 700}))
      add_case(cases, "tensor", shape);
    // One dimension of q: a score is one product, and its error that of q's halves. Two positions:
    // the same for weights.
    for (const auto& shape :
         in_codecs({.head_dim = head_dim, .group = 8, .first_position = 1, .n_q_dims = 1}))
      add_case(cases, "one product", shape);
  }
  for (const uint32_t head_dim : {8u, 24u, 32u, 72u, 160u, 512u}) {
    for (const auto& shape :
         in_codecs({.head_dim = head_dim, .n_kv_heads = 2, .group = 3, .first_position = 299}))
      add_case(cases, "general", shape);
  }
}

void add_rows(std::vector<GpuCase>& cases) {
  for (uint32_t group = 1; group <= kDeviceGroupMax; group += group < 8 ? 1 : 8) {
    for (const auto& shape :
         in_codecs({.head_dim = 64, .group = group, .first_position = 60 + group}))
      add_case(cases, "groups", shape);
  }
  for (const uint32_t head_dim : {40u, 64u, 128u}) {
    for (auto shape : in_codecs({.head_dim = head_dim, .n_kv_heads = 2, .group = 3})) {
      add_case(cases, "one position", shape);
      shape.n_rows = 11;           // 33 queries: five tiles, the last of one query
      shape.first_position = 250;  // rows on either side of a block and of a split
      add_case(cases, "rows", shape);
      shape.window = 40;
      add_case(cases, "window", shape);
      shape.first_block = 5;
      add_case(cases, "window, table from block 5", shape);
      shape.window = 1;
      add_case(cases, "window of one", shape);
      shape.window = 0;
      shape.n_more_blocks = 13;
      shape.n_more_splits = 2;
      add_case(cases, "longer table", shape);
      shape.n_kv_heads = 3;
      shape.first_block = 0;
      shape.head_shift = 96;  // three blocks: a head ends before a split that another one has
      add_case(cases, "heads of their own positions", shape);
    }
  }
}

void add_ranges(std::vector<GpuCase>& cases) {
  for (const auto& base : in_codecs({.head_dim = 128, .group = 5, .first_position = 431})) {
    auto shape = base;
    shape.q_deviation = 3;  // scores of +-30: one position has nearly all the weight
    add_case(cases, "peaked", shape);
    shape.q_deviation = 1e-20;
    add_case(cases, "tiny queries", shape);
    shape = base;
    shape.v_deviation = 1e-4;
    add_case(cases, "small values", shape);
    shape.v_deviation = 1;
    shape.v_outlier = 3000;  // scales of up to 60
    add_case(cases, "outliers", shape);
    shape = base;
    shape.split_blocks = 16;
    add_case(cases, "wide split", shape);
  }
  for (const auto& shape : in_codecs({.head_dim = 128,
                           .n_kv_heads = 8,
                           .group = 4,
                           .first_position = 32'767,
                           .split_blocks = 24}))
    add_case(cases, "long", shape, false);
  for (const auto& shape : in_codecs({.head_dim = 64,
                           .n_kv_heads = 3,
                           .group = 3,
                           .n_rows = 4,
                           .first_position = 40'000,
                           .split_blocks = 40}))
    add_case(cases, "long", shape, false);
}

/// A NaN in a query makes all of its own outputs NaN and no one else's.
void nan_case(UnderTest& on, CaseReport& report, uint32_t head_dim) {
  const AttendShapeDrawn shape{.head_dim = head_dim, .group = 4, .first_position = 300};
  std::mt19937 random(kSeed);
  const KvTable table(shape, random);
  std::vector<float> q = draw_queries(shape, random);
  q[2 * head_dim + 5] = std::numeric_limits<float>::quiet_NaN();
  const DeviceAttendArgs args = attend_args(on, shape, table, q);
  float* out = on.make<float>(q.size());
  on.check(on.kernels().attend(on.stream(), args));
  on.check(on.kernels().merge(on.stream(), {.o = args.o,
                                            .m = args.m,
                                            .l = args.l,
                                            .out = out,
                                            .quant = {},
                                            .n_splits = args.n_splits,
                                            .n_rows = 1,
                                            .n_kv_heads = 1,
                                            .group = 4,
                                            .head_dim = head_dim}));
  uint32_t n_wrong = 0;
  const auto got = on.download(out, q.size());
  for (uint64_t i = 0; i < got.size(); ++i)
    n_wrong += std::isnan(got[i]) != (i / head_dim == 2) ? 1u : 0u;
  report.expect(n_wrong == 0, std::to_string(n_wrong) + " values are NaN or are not");
}

// ---- Merging by itself ----

struct MergeShape {
  uint32_t n_splits, n_rows, n_kv_heads, group, head_dim;
};

/// Every third partial is empty, and all of one query; outputs begin as NaN.
void merge_case(UnderTest& on, CaseReport& report, const MergeShape& shape, uint32_t seed) {
  std::mt19937 random(seed);
  const uint64_t n = uint64_t{shape.n_kv_heads} * shape.n_rows * shape.group;
  const uint64_t n_partials = n * shape.n_splits;
  std::vector<float> m = normal_row(n_partials, random, 5), l(n_partials);
  std::vector<float> o = normal_row(n_partials * shape.head_dim, random);
  for (uint64_t i = 0; i < n_partials; ++i) {
    l[i] = 1 + static_cast<float>(random() % 1000);
    if (random() % 3 != 0 && i % n != n - 1) continue;
    m[i] = -std::numeric_limits<float>::infinity();
    l[i] = 0;
    std::fill_n(o.begin() + static_cast<std::ptrdiff_t>(i * shape.head_dim), shape.head_dim, 0.0f);
  }
  const bool has_quant = n / shape.n_rows * shape.head_dim % kActGroup == 0;
  const QuantRows quant = has_quant ? make_quant(on, n * shape.head_dim) : QuantRows{};
  float* out = on.make<float>(n * shape.head_dim);
  on.check(on.kernels().merge(on.stream(), {.o = on.upload(o),
                                            .m = on.upload(m),
                                            .l = on.upload(l),
                                            .out = out,
                                            .quant = quant,
                                            .n_splits = shape.n_splits,
                                            .n_rows = shape.n_rows,
                                            .n_kv_heads = shape.n_kv_heads,
                                            .group = shape.group,
                                            .head_dim = shape.head_dim}));
  std::vector<double> wanted(n * shape.head_dim), tolerances(wanted.size());
  for (uint64_t query = 0; query < n; ++query) {
    const uint64_t head =
        query / (uint64_t{shape.n_rows} * shape.group) * shape.group + query % shape.group;
    const uint64_t row = query / shape.group % shape.n_rows;
    const uint64_t at = (row * shape.n_kv_heads * shape.group + head) * shape.head_dim;
    double top = -kInfinity, sum = 0;
    for (uint32_t s = 0; s < shape.n_splits; ++s) top = std::max(top, double{m[s * n + query]});
    if (top == -kInfinity) continue;
    for (uint32_t s = 0; s < shape.n_splits; ++s) {
      const uint64_t i = s * n + query;
      const double factor = std::exp(double{m[i]} - top);
      // A factor is made of two at most (of the warp's and of all), each exp2 of a rounded
      // argument: 4 u and 3 u of its size; and a rounding for each sum, of o and of l.
      const double relative =
          2 * (8 + (m[i] == -kInfinity ? 0 : 6 * (top - m[i])) + 2 * shape.n_splits) * kUnit;
      sum += factor * double{l[i]};
      for (uint32_t d = 0; d < shape.head_dim; ++d) {
        const double value = factor * double{o[i * shape.head_dim + d]};
        wanted[at + d] += value;
        tolerances[at + d] += std::abs(value) * relative;
      }
    }
    const double relative = 2 * (8 + 6 * 40 + 2 * shape.n_splits) * kUnit;
    for (uint32_t d = 0; d < shape.head_dim; ++d) {
      wanted[at + d] /= sum;
      tolerances[at + d] = tolerances[at + d] / sum + std::abs(wanted[at + d]) * relative;
    }
  }
  const auto got = on.download(out, wanted.size());
  report.expect_near(got, wanted, each_of(tolerances), "out");
  if (has_quant) expect_quant(on, report, quant, got, "int8 form");
}

}  // namespace

std::vector<GpuCase> merge_cases() {
  std::vector<GpuCase> cases;
  for (const MergeShape& shape : {MergeShape{1, 1, 1, 1, 8},
                                  {2, 1, 2, 4, 64},
                                  {43, 1, 8, 4, 128},
                                  {132, 1, 3, 3, 64},
                                  {5, 3, 4, 2, 80},
                                  {17, 2, 1, 16, 256},
                                  {9, 7, 3, 1, 24},
                                  {300, 1, 1, 2, 96}}) {
    const uint32_t seed = kSeed + 1000 + static_cast<uint32_t>(cases.size());
    cases.push_back({"attend/merge/" + std::to_string(shape.n_splits) + " splits/" +
                         std::to_string(shape.n_rows) + " rows/" +
                         std::to_string(shape.n_kv_heads) + "x" + std::to_string(shape.group) +
                         "/d" + std::to_string(shape.head_dim) + "/seed " + std::to_string(seed),
                     [shape, seed](UnderTest& on, CaseReport& report) {
                       merge_case(on, report, shape, seed);
                     }});
  }
  return cases;
}

std::vector<GpuCase> attend_cases() {
  std::vector<GpuCase> cases = merge_cases();
  add_head_sizes(cases);
  add_rows(cases);
  add_ranges(cases);
  for (const uint32_t head_dim : {64u, 72u})
    cases.push_back(
        {"attend/NaN/d" + std::to_string(head_dim),
         [head_dim](UnderTest& on, CaseReport& report) { nan_case(on, report, head_dim); }});
  cases.push_back({"attend/splits", [](UnderTest&, CaseReport& report) {
                     using gpu_attn::attend_split_blocks;
                     report.expect(attend_split_blocks(0, 8, 1, 132) == 8, "no blocks");
                     report.expect(attend_split_blocks(1, 1, 1, 0) == 8, "an unknown card");
                     report.expect(attend_split_blocks(1024, 8, 1, 132) == 24, "32K positions");
                     report.expect(attend_split_blocks(4096, 8, 1, 132) == 88, "128K positions");
                     for (uint32_t n = 1; n < 5000; n += 37) {
                       const uint32_t blocks = attend_split_blocks(n, 8, 2, 132);
                       report.expect(blocks % 8 == 0, "the grain");
                       report.expect(div_up(n, blocks) * 16 <= 132 * 3, "one wave");
                     }
                   }});
  return cases;
}

}  // namespace strata::gpu_test
