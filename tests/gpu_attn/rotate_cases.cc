// Biases, QK-norm, RoPE and the stores into KV blocks against double precision.
//
// u = 2^-24. A value before the rotation errs by u of the bias, 2 u of two products and the norm's
// factor: half of what its sum of squares errs by (head_dim / 32 + 5 roundings for a term), 5 u of
// root and division. The rotation multiplies each of two by that and adds 2 u; the scale u more.
// Stores: f16 errs by half a step, q8_0 by half its scale, which is max / 127 rounded to f16, or up
// by one f16 where that would cut the maximum.
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "tests/gpu_attn/row_oracle.h"

namespace strata::gpu_test {
namespace {

constexpr uint32_t kSeed = 20250801;
constexpr float kEps = 1e-6f;
constexpr float kQueryScale = 0.08838834764f;
constexpr uint8_t kPoison = 0xFF;  // what UnderTest::make leaves

struct RotateCase {
  std::string name;
  std::vector<uint32_t> positions;
  uint32_t head_dim = 128;
  KvCodec k_codec = KvCodec::kF16;
  KvCodec v_codec = KvCodec::kF16;
  uint32_t n_kv_heads = 2;
  uint32_t group = 4;
  uint32_t n_rot = 128;
  RopePairing pairing = RopePairing::kHalves;
  bool has_rotation = true;
  bool has_bias = false;
  bool has_norm = false;
  bool has_mirror = false;
  bool is_small = true;
  float size = 1;  // of q, k and v

  uint32_t n_rows() const { return static_cast<uint32_t>(positions.size()); }
};

std::vector<uint32_t> run_of(uint32_t first, uint32_t n) {
  std::vector<uint32_t> positions(n);
  for (uint32_t i = 0; i < n; ++i) positions[i] = first + i;
  return positions;
}

struct Part {  // q, k or v
  std::vector<float> x, bias, norm;
};

Part draw_part(const RotateCase& of, uint32_t n_heads, bool has_norm, std::mt19937& random) {
  Part part;
  part.x = normal_row(uint64_t{of.n_rows()} * n_heads * of.head_dim, random, of.size);
  if (of.has_bias) part.bias = normal_row(uint64_t{n_heads} * of.head_dim, random, of.size);
  if (has_norm) part.norm = normal_row(of.head_dim, random);
  return part;
}

struct Wanted {
  std::vector<double> value, tolerance;  // [head_dim]
};

/// Head `head` of row `row`, before the query's scale.
Wanted wanted_head(const RotateCase& of, const Part& part, uint32_t n_heads, bool is_rotated,
                   const std::vector<float>& cos_sin, uint32_t row, uint32_t head) {
  const uint32_t d_n = of.head_dim;
  std::vector<double> x(d_n);
  double squares = 0;
  for (uint32_t d = 0; d < d_n; ++d) {
    x[d] = double{part.x[(uint64_t{row} * n_heads + head) * d_n + d]};
    if (!part.bias.empty()) x[d] += double{part.bias[uint64_t{head} * d_n + d]};
    squares += x[d] * x[d];
  }
  double error = kUnit;
  if (!part.norm.empty()) {
    const double factor = 1 / std::sqrt(squares / d_n + double{kEps});
    for (uint32_t d = 0; d < d_n; ++d) x[d] *= factor * double{part.norm[d]};
    error += ((d_n / 32.0 + 5) / 2 + 7) * kUnit;
  }
  Wanted wanted{x, {}};
  for (const double value : x) wanted.tolerance.push_back(error * std::abs(value));
  const uint32_t half = of.n_rot / 2;
  for (uint32_t i = 0; i < half && is_rotated; ++i) {
    const uint32_t first = of.pairing == RopePairing::kAdjacent ? 2 * i : i;
    const uint32_t second = of.pairing == RopePairing::kAdjacent ? 2 * i + 1 : i + half;
    const double c = double{cos_sin[(uint64_t{row} * half + i) * 2]};
    const double s = double{cos_sin[(uint64_t{row} * half + i) * 2 + 1]};
    wanted.value[first] = x[first] * c - x[second] * s;
    wanted.value[second] = x[first] * s + x[second] * c;
    wanted.tolerance[first] =
        (error + 2 * kUnit) * (std::abs(x[first] * c) + std::abs(x[second] * s));
    wanted.tolerance[second] =
        (error + 2 * kUnit) * (std::abs(x[first] * s) + std::abs(x[second] * c));
  }
  return wanted;
}

/// One of a block's two parts, read position by position; what it reads is marked.
struct StoredPart {
  bool is_f16;
  bool is_dimension_major;
  uint32_t head_dim;
  uint32_t codes_at;
  uint32_t scales_at;

  float value(const std::byte* block, std::byte* marked, uint32_t position, uint32_t d,
              double* step) const {
    const uint32_t element =
        is_dimension_major ? d * kBlockPositions + position : position * head_dim + d;
    if (is_f16) {
      const float value = f16_to_f32(half_at(block, marked, codes_at + element * 2));
      *step = std::abs(double{value}) * 0x1p-10 + 0x1p-24;
      return value;
    }
    const uint32_t scale_at = scales_at + (d / 32 * kBlockPositions + position) * 2;
    const float scale = f16_to_f32(half_at(block, marked, scale_at));
    *step = double{scale};
    marked[codes_at + element] = std::byte{1};
    return scale * static_cast<float>(static_cast<int8_t>(block[codes_at + element]));
  }

 private:
  static uint16_t half_at(const std::byte* block, std::byte* marked, uint32_t at) {
    uint16_t half;
    std::memcpy(&half, block + at, 2);
    marked[at] = marked[at + 1] = std::byte{1};
    return half;
  }
};

/// The scale of a q8_0 group is not far above what its largest value asks for.
void expect_scales(CaseReport& report, const Wanted& wanted, const std::vector<double>& steps,
                   const std::string& what) {
  for (uint32_t group = 0; group < steps.size() / 32; ++group) {
    double largest = 0, tolerance = 0;
    for (uint32_t d = group * 32; d < group * 32 + 32; ++d) {
      largest = std::max(largest, std::abs(wanted.value[d]));
      tolerance = std::max(tolerance, wanted.tolerance[d]);
    }
    const double exact = largest / 127;  // f16: half a step of 2^-11, one step of 2^-24 below 2^-14
    report.expect(
        std::abs(steps[group * 32] - exact) <= exact * 0x1.01p-11 + 0x1p-24 + tolerance / 127,
        what + ": scale");
  }
}

struct Blocks {
  KvLayout layout;
  uint32_t first_block;
  uint32_t n_blocks;  // of a KV head, and one more in the table that no row touches
  std::vector<std::byte> bytes;
  std::vector<std::byte> marked;

  uint64_t at(uint32_t head, uint32_t position) const {
    return (uint64_t{head} * n_blocks + position / kBlockPositions - first_block) *
           layout.block_bytes;
  }
};

void expect_stored(CaseReport& report, const Wanted& wanted, const StoredPart& part, Blocks& blocks,
                   uint32_t head, uint32_t position, const std::string& what) {
  const uint64_t at = blocks.at(head, position);
  std::vector<float> got(part.head_dim);
  std::vector<double> steps(part.head_dim);
  for (uint32_t d = 0; d < part.head_dim; ++d)
    got[d] = part.value(blocks.bytes.data() + at, blocks.marked.data() + at,
                        position % kBlockPositions, d, &steps[d]);
  report.expect_near(
      got, wanted.value,
      [&](uint64_t d) { return steps[d] * (0.5 + 0x1p-10) + wanted.tolerance[d]; }, what);
  if (!part.is_f16) expect_scales(report, wanted, steps, what);
}

struct RotateInput {
  Part q, k, v;
  std::vector<float> cos_sin;
};

RotateInput draw_input(const RotateCase& of) {
  std::mt19937 random(kSeed);
  RotateInput in{draw_part(of, of.n_kv_heads * of.group, of.has_norm, random),
                 draw_part(of, of.n_kv_heads, of.has_norm, random),
                 draw_part(of, of.n_kv_heads, false, random),
                 {}};
  std::uniform_real_distribution<double> angle(-3.2, 3.2);
  for (uint64_t i = 0; i < uint64_t{of.n_rows()} * (of.n_rot / 2); ++i) {
    const double theta = angle(random);
    in.cos_sin.push_back(static_cast<float>(std::cos(theta)));
    in.cos_sin.push_back(static_cast<float>(std::sin(theta)));
  }
  // A group of zeros, one of numbers whose scale is below f16's normal ones, and one beyond it.
  if (!of.has_norm && !of.has_bias && of.head_dim >= 96)
    for (uint32_t i = 0; i < 32; ++i) {
      in.v.x[i] = 0;
      in.v.x[32 + i] *= 0x1p-12f;
      in.v.x[64 + i] *= 4096.0f;
    }
  return in;
}

const float* upload_or_null(UnderTest& on, const std::vector<float>& values) {
  return values.empty() ? nullptr : on.upload(values);
}

/// Runs it over blocks full of kPoison, the mirror's included. Returns q_out.
std::vector<float> run_rotate(UnderTest& on, CaseReport& report, const RotateCase& of,
                              const RotateInput& in, Blocks& blocks) {
  const uint64_t n_bytes = uint64_t{of.n_kv_heads} * blocks.n_blocks * blocks.layout.block_bytes;
  auto* memory = on.make<std::byte>(n_bytes);
  const uint64_t stride = blocks.n_blocks + 3;
  std::vector<std::byte*> table(of.n_kv_heads * stride, nullptr);
  for (uint32_t head = 0; head < of.n_kv_heads; ++head)
    for (uint32_t i = 0; i < blocks.n_blocks; ++i)
      table[head * stride + i] =
          memory + (uint64_t{head} * blocks.n_blocks + i) * blocks.layout.block_bytes;
  std::byte* mirror_memory = of.has_mirror ? on.make<std::byte>(n_bytes) : nullptr;
  std::vector<std::byte*> mirror = table;
  for (std::byte*& block : mirror)
    if (block != nullptr && of.has_mirror) block = mirror_memory + (block - memory);
  const uint64_t n_queries = uint64_t{of.n_rows()} * of.n_kv_heads * of.group;
  const DeviceRotateArgs args{.q = on.upload(in.q.x),
                              .k = on.upload(in.k.x),
                              .v = on.upload(in.v.x),
                              .q_bias = upload_or_null(on, in.q.bias),
                              .k_bias = upload_or_null(on, in.k.bias),
                              .v_bias = upload_or_null(on, in.v.bias),
                              .q_norm = upload_or_null(on, in.q.norm),
                              .k_norm = upload_or_null(on, in.k.norm),
                              .cos_sin = of.has_rotation ? on.upload(in.cos_sin) : nullptr,
                              .positions = on.upload(of.positions),
                              .blocks = on.upload(table),
                              .mirror = of.has_mirror ? on.upload(mirror) : nullptr,
                              .block_stride = stride,
                              .first_block = blocks.first_block,
                              .layout = blocks.layout,
                              .q_out = on.make<float>(n_queries * of.head_dim),
                              .n_rows = of.n_rows(),
                              .n_kv_heads = of.n_kv_heads,
                              .group = of.group,
                              .n_rot = of.n_rot,
                              .pairing = of.pairing,
                              .q_scale = kQueryScale,
                              .norm_eps = kEps};
  on.check(on.kernels().rotate(on.stream(), args));
  blocks.bytes = on.download(memory, n_bytes);
  blocks.marked.assign(n_bytes, std::byte{0});
  if (of.has_mirror)
    report.expect_equal(on.download(mirror_memory, n_bytes), blocks.bytes, "the mirror");
  return on.download(args.q_out, n_queries * of.head_dim);
}

void expect_queries(CaseReport& report, const RotateCase& of, const RotateInput& in,
                    const std::vector<float>& got) {
  Wanted all;
  for (uint32_t kv_head = 0; kv_head < of.n_kv_heads; ++kv_head)
    for (uint32_t row = 0; row < of.n_rows(); ++row)
      for (uint32_t i = 0; i < of.group; ++i) {
        const Wanted head = wanted_head(of, in.q, of.n_kv_heads * of.group, of.has_rotation,
                                        in.cos_sin, row, kv_head * of.group + i);
        for (uint32_t d = 0; d < of.head_dim; ++d) {
          all.value.push_back(head.value[d] * double{kQueryScale});
          all.tolerance.push_back(head.tolerance[d] * double{kQueryScale} +
                                  kUnit * std::abs(all.value.back()));
        }
      }
  report.expect_near(
      got, all.value, [&](uint64_t i) { return all.tolerance[i]; }, "q");
}

void run_case(const RotateCase& of, UnderTest& on, CaseReport& report) {
  const RotateInput in = draw_input(of);
  Blocks blocks{KvLayout::make(of.k_codec, of.v_codec, of.head_dim),
                of.positions.front() / kBlockPositions,
                of.positions.back() / kBlockPositions - of.positions.front() / kBlockPositions + 2,
                {},
                {}};
  const std::vector<float> queries = run_rotate(on, report, of, in, blocks);
  expect_queries(report, of, in, queries);
  const KvLayout& layout = blocks.layout;
  const StoredPart k_part{of.k_codec == KvCodec::kF16, true, of.head_dim, 0,
                          layout.k_scales_offset};
  const StoredPart v_part{of.v_codec == KvCodec::kF16, false, of.head_dim, layout.v_offset,
                          layout.v_scales_offset};
  for (uint32_t head = 0; head < of.n_kv_heads; ++head)
    for (uint32_t row = 0; row < of.n_rows(); ++row) {
      const std::string where = " of head " + std::to_string(head) + ", row " + std::to_string(row);
      expect_stored(report,
                    wanted_head(of, in.k, of.n_kv_heads, of.has_rotation, in.cos_sin, row, head),
                    k_part, blocks, head, of.positions[row], "k" + where);
      expect_stored(report, wanted_head(of, in.v, of.n_kv_heads, false, in.cos_sin, row, head),
                    v_part, blocks, head, of.positions[row], "v" + where);
    }
  uint64_t n_touched = 0;
  for (uint64_t i = 0; i < blocks.bytes.size(); ++i)
    if (blocks.marked[i] == std::byte{0} && blocks.bytes[i] != std::byte{kPoison}) ++n_touched;
  report.expect(n_touched == 0, std::to_string(n_touched) + " bytes of other positions written");
}

std::vector<RotateCase> shapes_of_heads() {
  return {
      {.name = "one row", .positions = {0}},
      {.name = "one row, norm",
       .positions = {77},
       .pairing = RopePairing::kAdjacent,
       .has_norm = true},
      {.name = "8 rows over a block's end, bias, mirror",
       .positions = run_of(61, 8),
       .has_bias = true,
       .has_mirror = true},
      {.name = "group 1, no rotation",
       .positions = run_of(30, 3),
       .group = 1,
       .has_rotation = false},
      {.name = "group 8, part rotated",
       .positions = run_of(5, 2),
       .n_kv_heads = 1,
       .group = 8,
       .n_rot = 64},
      {.name = "part rotated, pairs",
       .positions = run_of(5, 2),
       .n_rot = 96,
       .pairing = RopePairing::kAdjacent},
      {.name = "head of 8",
       .positions = run_of(31, 20),
       .head_dim = 8,
       .n_rot = 8,
       .has_norm = true},
      {.name = "head of 80",
       .positions = run_of(19, 40),
       .head_dim = 80,
       .n_rot = 80,
       .has_bias = true,
       .has_norm = true},
      {.name = "head of 256",
       .positions = run_of(3, 17),
       .head_dim = 256,
       .group = 2,
       .n_rot = 256,
       .has_norm = true},
  };
}

std::vector<RotateCase> tiles() {
  return {
      {.name = "tiles, pairs, norm, bias",
       .positions = run_of(13, 40),
       .pairing = RopePairing::kAdjacent,
       .has_bias = true,
       .has_norm = true},
      {.name = "tiles, no rotation", .positions = run_of(16, 33), .has_rotation = false},
      {.name = "tiles of 64",
       .positions = run_of(5, 30),
       .head_dim = 64,
       .n_rot = 64,
       .has_bias = true,
       .has_norm = true},
      {.name = "tiles that begin anywhere", .positions = run_of(1000 + 13, 70)},
      {.name = "tiles, mirror", .positions = run_of(1000 + 13, 20), .has_mirror = true},
      {.name = "tiles, positions apart",
       .positions = {8, 9, 10, 11, 12, 13, 14, 27, 28, 29, 30, 31, 32, 33, 34, 35, 40, 41, 77, 99}},
  };
}

std::vector<RotateCase> small_cases() {
  std::vector<RotateCase> cases = shapes_of_heads();
  for (RotateCase& of : tiles()) cases.push_back(std::move(of));
  const size_t n = cases.size();
  for (size_t i = 0; i < n; ++i) {  // and in q8_0, where a head has groups
    if (cases[i].head_dim % 32 != 0) continue;
    cases.push_back(cases[i]);
    cases.back().name += ", q8_0";
    cases.back().k_codec = cases.back().v_codec = KvCodec::kQ8_0;
  }
  cases.push_back({.name = "K q8_0, V f16",
                   .positions = run_of(7, 33),
                   .head_dim = 64,
                   .k_codec = KvCodec::kQ8_0,
                   .n_rot = 64});
  cases.push_back({.name = "K f16, V q8_0",
                   .positions = run_of(8, 16),
                   .head_dim = 64,
                   .v_codec = KvCodec::kQ8_0,
                   .n_rot = 64});
  cases.push_back({.name = "tiny values, q8_0",
                   .positions = run_of(8, 16),
                   .k_codec = KvCodec::kQ8_0,
                   .v_codec = KvCodec::kQ8_0,
                   .size = 0x1p-17f});
  return cases;
}

}  // namespace

std::vector<GpuCase> rotate_cases() {
  std::vector<GpuCase> cases;
  std::vector<RotateCase> drawn = small_cases();
  for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0})
    drawn.push_back({.name = codec == KvCodec::kF16 ? "300 rows" : "300 rows, q8_0",
                     .positions = run_of(4099, 300),
                     .k_codec = codec,
                     .v_codec = codec,
                     .n_kv_heads = 8,
                     .has_norm = true,
                     .is_small = false});
  for (const RotateCase& of : drawn)
    cases.push_back({"rows/rotate/" + of.name + "/seed " + std::to_string(kSeed),
                     [of](UnderTest& on, CaseReport& report) { run_case(of, on, report); },
                     of.is_small});
  return cases;
}

}  // namespace strata::gpu_test
