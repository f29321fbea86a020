// Norm, activation, int8 form and argmax against double precision.
//
// u = 2^-24. A sum of n squares in f32 has depth roundings at most for a term (what a thread adds
// in turn, then two trees of five), so depth u of relative error, for all terms are positive; the
// factor 1 / sqrt has half of that, 4 u of rsqrtf and 2 u / 2 of what is under the root.
#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/gpu_attn/row_oracle.h"

namespace strata::gpu_test {
namespace {

constexpr uint32_t kSeed = 20250731;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::string shape_name(uint32_t n_rows, uint32_t n) {
  return std::to_string(n_rows) + "x" + std::to_string(n) + "/seed " + std::to_string(kSeed);
}

/// Relative error of 1 / rms of n values, each of them exact.
double factor_error(uint32_t n) {
  const double depth = std::max<double>(16, 4 * std::ceil(n / 4096.0)) + 10;
  return (depth / 2 + 5) * kUnit;
}

struct NormCase {
  uint32_t n_rows;
  uint32_t n;
  bool has_projected = true;
  bool has_bias = false;
  bool has_post_norm = false;
  bool has_quant = true;
};

struct NormRows {
  std::vector<float> residual, projected, bias, post_norm, weight;
};

NormRows draw_norm(const NormCase& of, std::mt19937& random) {
  const uint64_t values = uint64_t{of.n_rows} * of.n;
  NormRows rows;
  rows.residual = normal_row(values, random);
  if (of.has_projected) rows.projected = normal_row(values, random, 0.5f);
  if (of.has_bias) rows.bias = normal_row(of.n, random, 0.2f);
  if (of.has_post_norm) rows.post_norm = normal_row(of.n, random);
  rows.weight = normal_row(of.n, random);
  return rows;
}

/// What should be, and how far f32 may be from it.
struct NormWanted {
  std::vector<double> residual, normed, residual_tolerance, normed_tolerance;
};

constexpr float kEps = 1e-5f;

double rms_factor(const std::vector<double>& x) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  return 1 / std::sqrt(squares / static_cast<double>(x.size()) + double{kEps});
}

/// Adds a row's. The residual errs by u of each sum and by the post norm's relative error; of the
/// norm of x + dx, |dx_i| <= t_i, the factor errs by sqrt(sum t^2 / sum x^2) besides (Cauchy).
void add_norm_row(const NormCase& of, const NormRows& rows, uint32_t row, NormWanted& wanted) {
  std::vector<double> added(of.n, 0.0), sum(of.n), tolerance(of.n);
  for (uint32_t i = 0; i < of.n && of.has_projected; ++i)
    added[i] = double{rows.projected[uint64_t{row} * of.n + i]} +
               (of.has_bias ? double{rows.bias[i]} : 0.0);
  const double post_factor = of.has_post_norm ? rms_factor(added) : 1;
  const double post_error = of.has_post_norm ? factor_error(of.n) + 4 * kUnit : kUnit;
  double tolerance_squares = 0, squares = 0;
  for (uint32_t i = 0; i < of.n; ++i) {
    if (of.has_post_norm) added[i] *= post_factor * double{rows.post_norm[i]};
    sum[i] = double{rows.residual[uint64_t{row} * of.n + i]} + added[i];
    tolerance[i] = post_error * std::abs(added[i]) + kUnit * std::abs(sum[i]);
    tolerance_squares += tolerance[i] * tolerance[i];
    squares += sum[i] * sum[i];
  }
  const double factor = rms_factor(sum);
  const double error = factor_error(of.n) + std::sqrt(tolerance_squares / squares) + 2 * kUnit;
  for (uint32_t i = 0; i < of.n; ++i) {
    const double normed = sum[i] * factor * double{rows.weight[i]};
    wanted.residual.push_back(sum[i]);
    wanted.residual_tolerance.push_back(tolerance[i]);
    wanted.normed.push_back(normed);
    wanted.normed_tolerance.push_back(error * std::abs(normed) +
                                      tolerance[i] * factor * std::abs(rows.weight[i]));
  }
}

template <class T>
T* upload_or_null(UnderTest& on, const std::vector<T>& values) {
  return values.empty() ? nullptr : on.upload(values);
}

struct NormOnDevice {
  DeviceNormArgs args;
  std::vector<float> residual, normed;
};

NormOnDevice run_norm(UnderTest& on, const NormCase& of, const NormRows& rows) {
  const uint64_t values = uint64_t{of.n_rows} * of.n;
  DeviceNormArgs args{.residual = on.upload(rows.residual),
                      .projected = upload_or_null(on, rows.projected),
                      .bias = upload_or_null(on, rows.bias),
                      .post_norm = upload_or_null(on, rows.post_norm),
                      .weight = on.upload(rows.weight),
                      .normed = on.make<float>(values),
                      .quant = {},
                      .n_rows = of.n_rows,
                      .n = of.n,
                      .eps = kEps};
  if (of.has_quant) args.quant = make_quant(on, values);
  on.check(on.kernels().norm(on.stream(), args));
  return {args, on.download(args.residual, values), on.download(args.normed, values)};
}

GpuCase norm_case(const NormCase& of) {
  std::string name = "rows/norm/" + shape_name(of.n_rows, of.n);
  if (!of.has_projected) name += "/alone";
  if (of.has_bias) name += "/bias";
  if (of.has_post_norm) name += "/post norm";
  if (!of.has_quant) name += "/f32 only";
  return {name, [of](UnderTest& on, CaseReport& report) {
            std::mt19937 random(kSeed);
            const NormRows rows = draw_norm(of, random);
            NormWanted wanted;
            for (uint32_t row = 0; row < of.n_rows; ++row) add_norm_row(of, rows, row, wanted);
            const NormOnDevice got = run_norm(on, of, rows);
            report.expect_near(
                got.residual, wanted.residual,
                [&](uint64_t i) { return wanted.residual_tolerance[i]; }, "residual");
            report.expect_near(
                got.normed, wanted.normed, [&](uint64_t i) { return wanted.normed_tolerance[i]; },
                "normed");
            if (of.has_quant) expect_quant(on, report, got.args.quant, got.normed, "quant");
          }};
}

GpuCase norm_edges_case() {
  return {"rows/norm/zeros, NaN and infinity", [](UnderTest& on, CaseReport& report) {
            const NormCase of{.n_rows = 4, .n = 64, .has_projected = false};
            NormRows rows;
            rows.residual.assign(uint64_t{4} * of.n, 0.5f);
            rows.weight.assign(of.n, 1.0f);
            std::fill_n(rows.residual.begin(), of.n, 0.0f);
            rows.residual[2 * of.n + 7] = kNan;
            rows.residual[3 * of.n + 7] = kInfinity;
            const NormOnDevice got = run_norm(on, of, rows);
            for (uint32_t i = 0; i < of.n; ++i) {
              report.expect(got.normed[i] == 0, "zeros stay zeros");
              report.expect(std::abs(got.normed[of.n + i] - 1) < 1e-4f, "a row beside a NaN");
              report.expect(std::isnan(got.normed[2 * of.n + i]), "a NaN is in all of its row");
            }
            report.expect(std::isnan(got.normed[3 * of.n + 7]), "an infinity gives a NaN");
            expect_quant(on, report, got.args.quant, got.normed, "quant");
          }};
}

double activation_of(DeviceActivation kind, double gate, double up) {
  if (kind == DeviceActivation::kSiluMul) return gate / (1 + std::exp(-gate)) * up;
  const double u = std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate);
  return gate / (1 + std::exp(-2 * u)) * up;
}

/// exp has 2 ulp (4 u), its argument E, where it is a polynomial, 4 u |E|; both are scaled by
/// e / (1 + e); sum, quotient and product have u each. What is below the smallest normal number may
/// be zero.
double activation_tolerance(DeviceActivation kind, double gate, double up) {
  const double u = std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate);
  const double exponent = kind == DeviceActivation::kSiluMul ? 0 : std::abs(2 * u);
  return (7 + 4 * std::min(exponent, 90.0)) * kUnit * std::abs(activation_of(kind, gate, up)) +
         0x1p-126 * (1 + std::abs(up)) * 16;
}

GpuCase activate_case(DeviceActivation kind, uint32_t n_rows, uint32_t n, bool in_place,
                      bool has_quant) {
  std::string name =
      "rows/activate/" + std::string(kind == DeviceActivation::kSiluMul ? "silu/" : "gelu/") +
      shape_name(n_rows, n) + (in_place ? "/in place" : "") + (has_quant ? "" : "/f32 only");
  return {
      name, [=](UnderTest& on, CaseReport& report) {
        std::mt19937 random(kSeed);
        const uint64_t values = uint64_t{n_rows} * n;
        std::vector<float> gate = normal_row(values, random, 3.0f);
        const std::vector<float> up = normal_row(values, random);
        for (uint64_t i = 0; i < std::min<uint64_t>(values, 32); ++i)
          gate[i] = static_cast<float>(i) * 8 - 128;  // where exp leaves its range
        float* gate_at = on.upload(gate);
        DeviceActivateArgs args{.gate = gate_at,
                                .up = on.upload(up),
                                .out = in_place ? gate_at : on.make<float>(values),
                                .quant = {},
                                .n_rows = n_rows,
                                .n = n,
                                .kind = kind};
        if (has_quant) args.quant = make_quant(on, values);
        on.check(on.kernels().activate(on.stream(), args));
        const auto out = on.download(args.out, values);
        std::vector<double> wanted(values);
        for (uint64_t i = 0; i < values; ++i)
          wanted[i] = activation_of(kind, double{gate[i]}, double{up[i]});
        report.expect_near(
            out, wanted,
            [&](uint64_t i) { return activation_tolerance(kind, double{gate[i]}, double{up[i]}); },
            "out");
        if (has_quant) expect_quant(on, report, args.quant, out, "quant");
      }};
}

GpuCase activate_edges_case() {
  return {"rows/activate/a NaN stays", [](UnderTest& on, CaseReport& report) {
            for (const auto kind : {DeviceActivation::kSiluMul, DeviceActivation::kGeluMul}) {
              std::vector<float> gate(64, 1.0f), up(64, 0.0f);
              gate[40] = kNan;
              DeviceActivateArgs args{.gate = on.upload(gate),
                                      .up = on.upload(up),
                                      .out = on.make<float>(64),
                                      .quant = make_quant(on, 64),
                                      .n_rows = 1,
                                      .n = 64,
                                      .kind = kind};
              on.check(on.kernels().activate(on.stream(), args));
              const auto out = on.download(args.out, 64);
              report.expect(std::isnan(out[40]) && out[39] == 0, "the NaN and its neighbour");
              expect_quant(on, report, args.quant, out, "quant");
            }
          }};
}

/// Groups of every size of number, zeros, ties of codes, and one with a NaN.
GpuCase quantize_case(uint32_t n_rows, uint32_t n) {
  return {"rows/quantize/" + shape_name(n_rows, n), [=](UnderTest& on, CaseReport& report) {
            std::mt19937 random(kSeed);
            std::vector<float> x = normal_row(uint64_t{n_rows} * n, random);
            for (uint64_t i = 0; i < x.size(); ++i) {
              const uint64_t group = i / kActGroup;
              if (group % 7 == 1) x[i] = 0;
              if (group % 7 == 2) x[i] *= 0x1p-119f;
              if (group % 7 == 3) x[i] *= 0x1p-130f;  // counts as zero
              if (group % 7 == 4) x[i] *= 0x1p120f;
              if (group % 7 == 5)
                x[i] = i % kActGroup == 0 ? 127.0f : static_cast<float>(i % 32) + 0.5f;
            }
            x.back() = kNan;
            const DeviceQuantizeArgs args{
                .x = on.upload(x), .out = make_quant(on, x.size()), .n_rows = n_rows, .n = n};
            on.check(on.kernels().quantize(on.stream(), args));
            expect_quant(on, report, args.out, x, "quant");
          }};
}

void expect_argmax(UnderTest& on, CaseReport& report, const std::vector<float>& x, uint32_t n_rows,
                   const std::vector<int32_t>& wanted, const std::string& what) {
  const auto n = static_cast<uint32_t>(x.size() / n_rows);
  const DeviceArgmaxArgs args{.x = on.upload(x),
                              .n_rows = n_rows,
                              .n = n,
                              .value = on.make<float>(n_rows),
                              .index = on.make<int32_t>(n_rows)};
  on.check(on.kernels().argmax(on.stream(), args));
  const auto value = on.download(args.value, n_rows);
  const auto index = on.download(args.index, n_rows);
  report.expect(index == wanted, what + ": index " + std::to_string(index[0]));
  std::vector<float> values;
  for (uint32_t row = 0; row < n_rows; ++row)
    values.push_back(x[uint64_t{row} * n + static_cast<uint32_t>(wanted[row])]);
  report.expect_equal(std::as_bytes(std::span(value)), std::as_bytes(std::span(values)),
                      what + ": value");
}

GpuCase argmax_case(uint32_t n_rows, uint32_t n) {
  return {"rows/argmax/" + shape_name(n_rows, n), [=](UnderTest& on, CaseReport& report) {
            std::mt19937 random(kSeed);
            const auto x = normal_row(uint64_t{n_rows} * n, random);
            std::vector<int32_t> wanted;
            for (uint32_t row = 0; row < n_rows; ++row) {
              const auto from = x.begin() + static_cast<int64_t>(uint64_t{row} * n);
              wanted.push_back(static_cast<int32_t>(std::max_element(from, from + n) - from));
            }
            expect_argmax(on, report, x, n_rows, wanted, "random");
          }};
}

GpuCase argmax_edges_case() {
  return {"rows/argmax/ties, infinities, NaN", [](UnderTest& on, CaseReport& report) {
            constexpr uint32_t n = 5000;
            expect_argmax(on, report, std::vector<float>(n, -3.0f), 1, {0}, "all equal");
            expect_argmax(on, report, std::vector<float>(n, -kInfinity), 1, {0}, "all -inf");
            std::vector<float> x(n, -1.0f);
            x[4999] = x[2047] = x[1025] = 7;
            expect_argmax(on, report, x, 1, {1025}, "the first of three");
            x.assign(n, -1.0f);
            x[100] = -0.0f;
            x[99] = 0.0f;
            x[3000] = 0.0f;
            expect_argmax(on, report, x, 1, {99}, "zeros are equal");
            x[4000] = kNan;
            x[4500] = -kNan;
            expect_argmax(on, report, x, 1, {4000}, "the first NaN");
            x.assign(n, kNan);
            expect_argmax(on, report, x, 1, {0}, "nothing but NaN");
          }};
}

}  // namespace

std::vector<GpuCase> row_cases() {
  std::vector<GpuCase> cases;
  for (const NormCase& of : std::initializer_list<NormCase>{
           {.n_rows = 1, .n = 32, .has_projected = false},
           {.n_rows = 3, .n = 32, .has_bias = true, .has_post_norm = true},
           {.n_rows = 1, .n = 576},
           {.n_rows = 8, .n = 576, .has_post_norm = true},
           {.n_rows = 300, .n = 576, .has_bias = true},
           {.n_rows = 3, .n = 4, .has_quant = false},
           {.n_rows = 5, .n = 90 * 4, .has_bias = true, .has_post_norm = true, .has_quant = false},
           {.n_rows = 1, .n = 16388, .has_quant = false},
           {.n_rows = 1, .n = 4096, .has_quant = false},
           {.n_rows = 7, .n = 4096, .has_bias = true, .has_post_norm = true},
           {.n_rows = 2, .n = 8192, .has_bias = true},
           {.n_rows = 2, .n = 12320, .has_post_norm = true},
           {.n_rows = 1, .n = 14336},
           {.n_rows = 40, .n = 14336, .has_bias = true, .has_post_norm = true},
           {.n_rows = 2, .n = 16416, .has_bias = true, .has_post_norm = true},
           {.n_rows = 1, .n = 20512, .has_projected = false}})
    cases.push_back(norm_case(of));
  cases.push_back(norm_edges_case());
  for (const auto kind : {DeviceActivation::kSiluMul, DeviceActivation::kGeluMul}) {
    cases.push_back(activate_case(kind, 1, 32, false, true));
    cases.push_back(activate_case(kind, 8, 576, true, true));
    cases.push_back(activate_case(kind, 1, 14336, true, false));
    cases.push_back(activate_case(kind, 5, 4096, false, true));
  }
  cases.push_back(activate_case(DeviceActivation::kGeluMul, 3, 340, true, false));
  cases.push_back(activate_case(DeviceActivation::kSiluMul, 300, 4096, true, true));
  cases.push_back(activate_edges_case());
  for (const uint32_t n : {32u, 576u, 4096u, 14336u}) cases.push_back(quantize_case(1, n));
  cases.push_back(quantize_case(300, 4096));
  cases.push_back(quantize_case(7, 96));
  for (const uint32_t n : {1u, 31u, 1000u, 151937u}) cases.push_back(argmax_case(1, n));
  cases.push_back(argmax_case(8, 32001));
  cases.push_back(argmax_edges_case());
  for (GpuCase& of : rotate_cases()) cases.push_back(std::move(of));
  return cases;
}

}  // namespace strata::gpu_test
