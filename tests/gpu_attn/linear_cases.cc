// Linear layers of few rows, and the embedding, in every file type.
//
// Oracle     sums in double of the exact weights (tests/cpu_attn/drawn_matrix.h takes them from the
//            file's format) times the activations that the kernel is given: int8 times scale, or
//            f32 for float types. So only the kernel's own roundings are left.
// Tolerance  groups' integer sums are exact. A group's term has one rounded factor (scale times dx,
//            or dx times the sum of codes; the weights' own d times sub-scale has 11 + 8 bits), so
//            that a sum whose terms go through at most n additions differs by at most
//            (n + 1) u sum |t|, u = 2^-24, to first order (Higham, section 3.1). However the inputs
//            are divided, n is at most the number of terms (two per group where there are minima,
//            one per input of float types), 5 additions over lanes and 16 over warps. Products
//            below the smallest normal number add at most 2^-129 each.
#include <cmath>
#include <random>

#include "cpu_attn/pack.h"
#include "tests/cpu_attn/drawn_matrix.h"
#include "tests/gpu_attn/under_test.h"

namespace strata::gpu_test {
namespace {

using cpu_attn::Draw;
using cpu_attn::DrawnMatrix;

constexpr uint32_t kSeed = 20260726;
constexpr double kRounding = 0x1p-24;
constexpr uint64_t kGuard = 64;  // floats behind each output that must stay as they are

bool is_float(TensorType type) { return tensor_type_info(type).block_elements == 1; }

struct Activations {
  uint32_t n_rows, n_in;
  std::vector<float> x;
  std::vector<int8_t> q;
  std::vector<float> scales;
  std::vector<int32_t> neg_sums;
};

/// Random ones, or the largest of alternating sign by group of 16. The two forms are of different
/// values, so that a kernel that reads the wrong one is found.
Activations draw_activations(uint32_t n_rows, uint32_t n_in, bool is_largest,
                             std::mt19937& random) {
  Activations a{n_rows, n_in, {}, {}, {}, {}};
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> code(-127, 127);
  for (uint64_t i = 0; i < uint64_t{n_rows} * n_in; ++i) {
    const int largest = (i / kActHalfGroup / 3) % 2 == 0 ? 127 : -127;
    a.x.push_back(normal(random));
    a.q.push_back(static_cast<int8_t>(is_largest ? largest : code(random)));
  }
  for (uint64_t i = 0; i < a.q.size() / kActGroup; ++i)
    a.scales.push_back(std::abs(normal(random)) * 0.03f);
  for (uint64_t i = 0; i < a.q.size() / kActHalfGroup; ++i) {
    int32_t sum = 0;
    for (uint64_t j = 0; j < kActHalfGroup; ++j) sum -= a.q[i * kActHalfGroup + j];
    a.neg_sums.push_back(sum);
  }
  return a;
}

struct Expected {
  std::vector<double> values;
  std::vector<double> tolerances;
};

Expected expected_of(const DrawnMatrix& m, const Activations& a) {
  Expected expected;
  const bool reads_x = is_float(m.type);
  const uint32_t group = reads_x ? 1 : kActHalfGroup;
  const double n_terms = (reads_x ? 1.0 : 2.0) * m.n_in / group;
  const double n_roundings = n_terms + 5 + 16 + 1;
  for (uint32_t r = 0; r < a.n_rows; ++r)
    for (uint32_t o = 0; o < m.n_out; ++o) {
      double sum = 0, size = 0;
      for (uint32_t first = 0; first < m.n_in; first += group) {
        double main = 0, minus = 0;
        for (uint32_t k = first; k < first + group; ++k) {
          const uint64_t at = uint64_t{r} * m.n_in + k;
          const double x = reads_x ? double{a.x[at]} : double{a.scales[at / kActGroup]} * a.q[at];
          const cpu_attn::Element& w = m.elements[uint64_t{o} * m.n_in + k];
          main += w.main * x;
          minus += w.minus * x;
        }
        sum += main - minus;
        size += std::abs(main) + std::abs(minus);
      }
      expected.values.push_back(sum);
      expected.tolerances.push_back(n_roundings * kRounding * 1.001 * size + n_terms * 0x1p-129);
    }
  return expected;
}

PackedMatrix upload(UnderTest& device, const DrawnMatrix& m) {
  PackedMatrix w = m.packed;
  w.bytes = device.upload(std::span(m.packed.bytes, m.packed.total_bytes()));
  return w;
}

struct Shape {
  TensorType type;
  uint32_t n_out;
};

struct LinearCase {
  std::vector<Shape> matrices;
  uint32_t n_in;
  uint32_t n_rows;
  Draw draw = Draw::kRandom;
  bool is_largest = false;  // of the activations
};

void run_linear(UnderTest& device, CaseReport& report, const LinearCase& c) {
  std::mt19937 random(kSeed);
  const Activations a = draw_activations(c.n_rows, c.n_in, c.is_largest, random);
  DeviceLinearArgs args{};
  args.n_matrices = static_cast<uint32_t>(c.matrices.size());
  args.x = device.upload(a.x);
  args.quant = {device.upload(a.q), device.upload(a.scales), device.upload(a.neg_sums)};
  args.n_rows = c.n_rows;
  std::vector<DrawnMatrix> drawn;
  for (uint32_t j = 0; j < args.n_matrices; ++j) {
    const Shape& shape = c.matrices[j];
    drawn.push_back(cpu_attn::draw_matrix(shape.type, shape.n_out, c.n_in, c.draw, random));
    args.w[j] = upload(device, drawn.back());
    args.out[j] = device.make<float>(uint64_t{c.n_rows} * shape.n_out + kGuard);
  }
  device.check(device.kernels().linear(device.stream(), args));
  for (uint32_t j = 0; j < args.n_matrices; ++j) {
    const uint64_t n = uint64_t{c.n_rows} * c.matrices[j].n_out;
    const std::vector<float> out = device.download(args.out[j], n + kGuard);
    const Expected expected = expected_of(drawn[j], a);
    report.expect_near(
        std::span(out).first(n), expected.values,
        [&](uint64_t i) { return expected.tolerances[i]; }, "matrix " + std::to_string(j));
    report.expect_equal(std::as_bytes(std::span(out).subspan(n)),
                        std::vector<std::byte>(kGuard * 4, std::byte{0xFF}), "behind the output");
  }
}

void run_embed(UnderTest& device, CaseReport& report, TensorType type, uint32_t n_in, float scale) {
  constexpr uint32_t kTokens = 37;
  std::mt19937 random(kSeed);
  const DrawnMatrix m = cpu_attn::draw_matrix(type, kTokens, n_in, Draw::kRandom, random);
  std::vector<int32_t> tokens = {0, kTokens - 1, 15, 16, 15};
  for (int i = 0; i < 4; ++i) tokens.push_back(static_cast<int32_t>(random() % kTokens));
  const uint64_t n = tokens.size() * n_in;
  float* out = device.make<float>(n + kGuard);
  device.check(
      device.kernels().embed(device.stream(), {.matrix = upload(device, m),
                                               .tokens = device.upload(tokens),
                                               .out = out,
                                               .n_rows = static_cast<uint32_t>(tokens.size()),
                                               .scale = scale}));
  std::vector<float> wanted(n + kGuard);
  std::memset(wanted.data() + n, 0xFF, kGuard * sizeof(float));
  for (uint64_t i = 0; i < tokens.size(); ++i) {
    const auto row = std::span(wanted).subspan(i * n_in, n_in);
    cpu_attn::unpack_row(m.packed, static_cast<uint32_t>(tokens[i]), row);
    for (float& value : row) value *= scale;
  }
  const std::vector<float> rows = device.download(out, n + kGuard);
  report.expect_equal(std::as_bytes(std::span(rows)), std::as_bytes(std::span(wanted)), "rows");
}

std::string name_of(const LinearCase& c) {
  std::string name = "linear/";
  for (const Shape& shape : c.matrices)
    name +=
        std::string(tensor_type_info(shape.type).name) + ' ' + std::to_string(shape.n_out) + ' ';
  name += "x " + std::to_string(c.n_in) + "/rows " + std::to_string(c.n_rows);
  if (c.draw == Draw::kLargestCodes) name += "/largest codes";
  if (c.draw == Draw::kSmallestCodes) name += "/smallest codes";
  return name + "/seed " + std::to_string(kSeed);
}

void add(std::vector<GpuCase>& cases, const LinearCase& c, bool is_small = true) {
  cases.push_back({name_of(c),
                   [c](UnderTest& device, CaseReport& report) { run_linear(device, report, c); },
                   is_small});
}

/// One block of the type, an odd number of groups, and more than one step of a warp.
std::vector<uint32_t> widths(const TensorTypeInfo& info) {
  if (info.block_elements == 1) return {1, 33, 300};
  if (info.block_elements == 32) return {32, 96, 576};
  return {256, 768};
}

void add_every_type(std::vector<GpuCase>& cases) {
  for (const TensorTypeInfo& info : tensor_types()) {
    for (const uint32_t n_in : widths(info))
      for (const uint32_t n_rows : {1u, 3u, 8u}) add(cases, {{{info.type, 37}}, n_in, n_rows});
    for (const Draw draw : {Draw::kLargestCodes, Draw::kSmallestCodes})
      for (const uint32_t n_rows : {1u, 2u})
        add(cases, {{{info.type, 16}}, 256, n_rows, draw, true});
  }
}

/// Inputs beyond one step of every warp of a thread block, in each kernel.
void add_long_rows(std::vector<GpuCase>& cases) {
  for (const TensorType type : {TensorType::kQ4_0, TensorType::kQ4_K, TensorType::kQ6_K})
    for (const uint32_t n_rows : {1u, 8u}) add(cases, {{{type, 5}}, 17 * 256, n_rows});
  add(cases, {{{TensorType::kQ8_0, 16}}, 4096 + 32, 1});
  for (const uint32_t n_rows : {1u, 5u}) {
    add(cases, {{{TensorType::kF16, 19}}, 2500, n_rows});
    add(cases, {{{TensorType::kF32, 3}}, 1300, n_rows});
  }
}

void add_large(std::vector<GpuCase>& cases) {
  for (const TensorType type :
       {TensorType::kQ4_K, TensorType::kQ6_K, TensorType::kQ8_0, TensorType::kF16})
    for (const uint32_t n_rows : {1u, 8u}) add(cases, {{{type, 1000}}, 4096, n_rows}, false);
  for (const uint32_t n_rows : {1u, 4u})
    add(cases, {{{TensorType::kQ4_K, 300}}, 14336, n_rows}, false);
}

}  // namespace

std::vector<GpuCase> linear_cases() {
  std::vector<GpuCase> cases;
  add_every_type(cases);
  add_long_rows(cases);
  for (uint32_t n_rows = 1; n_rows <= kDeviceFewRows; ++n_rows) {
    add(cases, {{{TensorType::kQ4_K, 1}}, 512, n_rows});
    add(cases, {{{TensorType::kQ4_1, 33}}, 352, n_rows});
    add(cases, {{{TensorType::kBF16, 15}}, 64, n_rows});
  }
  for (const uint32_t n_rows : {1u, 4u}) {
    add(cases,
        {{{TensorType::kQ4_K, 40}, {TensorType::kQ6_K, 16}, {TensorType::kQ5_K, 7}}, 768, n_rows});
    add(cases,
        {{{TensorType::kQ4_0, 17}, {TensorType::kF16, 33}, {TensorType::kQ8_0, 48}}, 96, n_rows});
    add(cases,
        {{{TensorType::kF32, 16}, {TensorType::kF32, 20}, {TensorType::kQ2_K, 1}}, 256, n_rows});
    add(cases, {{{TensorType::kQ4_1, 64}, {TensorType::kQ4_1, 64}}, 576, n_rows});
  }
  add_large(cases);
  for (const TensorTypeInfo& info : tensor_types())
    for (const uint32_t n_in : widths(info))
      for (const float scale : {1.0f, 33.7f})
        cases.push_back({"embed/" + std::string(info.name) + " x " + std::to_string(n_in) +
                             "/scale " + std::to_string(scale) + "/seed " + std::to_string(kSeed),
                         [type = info.type, n_in, scale](UnderTest& device, CaseReport& report) {
                           run_embed(device, report, type, n_in, scale);
                         }});
  return cases;
}

}  // namespace strata::gpu_test
