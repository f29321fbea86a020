// Matrices times many rows beside products in double precision of the file's own values.
//
// Tolerance of one output, u = 2^-11 (f16, half a unit): x and w are rounded once each, an x far
// below its row's largest X by 2^-38 X at most (by 2^-139 in a row of f32's smallest numbers), a w
// below f16's normal numbers by 2^-25; w is decoded in f32 from a product and a minimum; n_in
// products are summed in f32, truncated.
//   |error| <= R + sum |x w| n_in 2^-23 + sum |x| (2^-25 + 2^-22 (|main| + |minus|))
//              + sum |w| max(2^-38 X, 2^-139) + 2^-149
// R is what the roundings to f16 do: (2 u + u^2) sum |x w| at most, and below 8 times its root mean
// square, 8 sqrt(2 sum (x w)^2) u, but for a chance of 2 exp(-32), since they are independent
// (Hoeffding). The smaller of both counts.
#include <algorithm>
#include <cmath>
#include <random>

#include "tests/cpu_attn/drawn_matrix.h"
#include "tests/gpu_attn/under_test.h"

namespace strata::gpu_test {
namespace {

using cpu_attn::Draw;
using cpu_attn::DrawnMatrix;

constexpr double kUnit = 0x1p-11;
constexpr double kLargestF16 = 65504;

struct Wide {
  std::vector<TensorType> types;  // one for each matrix
  std::vector<uint32_t> n_outs;
  uint32_t n_in = 0;
  uint32_t n_rows = 0;
  Draw draw = Draw::kRandom;
  bool has_extremes = false;  // rows of any size, of zeros; float weights beyond f16
  uint32_t sampled_rows = 0;  // 0 = all
  uint32_t seed = 1;

  std::string name() const;
};

std::string Wide::name() const {
  std::string text = "wide_linear";
  for (size_t i = 0; i < types.size(); ++i)
    text += "/" + std::string(tensor_type_info(types[i]).name) + " " + std::to_string(n_outs[i]);
  text += "x" + std::to_string(n_in) + "/" + std::to_string(n_rows) + " rows";
  if (draw == Draw::kSubnormalScales) text += "/subnormal";
  if (draw == Draw::kLargestCodes) text += "/largest codes";
  if (has_extremes) text += "/extremes";
  return text + "/seed " + std::to_string(seed);
}

/// Rows of ordinary numbers; where extremes are wanted, of every size, row 1 of zeros, and in row 2
/// one number far above the others.
std::vector<float> draw_rows(const Wide& wide, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(uint64_t{wide.n_rows} * wide.n_in);
  for (uint32_t row = 0; row < wide.n_rows; ++row) {
    const int exponent = wide.has_extremes ? static_cast<int>(row * 37 % 250) - 140 : 0;
    for (uint32_t i = 0; i < wide.n_in; ++i) {
      float& value = x[uint64_t{row} * wide.n_in + i];
      value = std::ldexp(normal(random), exponent);
      if (wide.has_extremes && row == 1) value = 0;
      if (wide.has_extremes && row == 2 && i == 5) value = std::ldexp(1.5f, exponent + 20);
    }
  }
  return x;
}

DrawnMatrix draw_weights(const Wide& wide, uint32_t which, std::mt19937& random) {
  DrawnMatrix m =
      cpu_attn::draw_matrix(wide.types[which], wide.n_outs[which], wide.n_in, wide.draw, random);
  if (!wide.has_extremes || m.type != TensorType::kF32) return m;
  // Some beyond f16, which has its largest number for them.
  auto* panels = m.storage.data() + (m.packed.bytes - m.storage.data());
  for (uint32_t i = 0; i < m.n_out; i += 3) {
    const float value = i % 2 == 0 ? 1e6f : -3e38f;
    const uint32_t column = i % m.n_in;
    std::memcpy(panels + i / kPanelRows * m.packed.panel_bytes +
                    (column * kPanelRows + i % kPanelRows) * sizeof value,
                &value, sizeof value);
    m.elements[uint64_t{i} * m.n_in + column] = {std::copysign(kLargestF16, value), 0};
  }
  return m;
}

/// One row of x times the matrix, and tolerances.
void multiply_exactly(const DrawnMatrix& m, std::span<const float> x, std::vector<double>& out,
                      std::vector<double>& tolerance) {
  const double largest = std::ranges::max(x, {}, [](float v) { return std::abs(v); });
  for (uint32_t j = 0; j < m.n_out; ++j) {
    double sum = 0, size = 0, squares = 0, of_weights = 0, w_size = 0;
    const auto* row = m.elements.data() + uint64_t{j} * m.n_in;
    for (uint32_t i = 0; i < m.n_in; ++i) {
      const double w = row[i].main - row[i].minus;
      const double part = x[i] * w;
      sum += part;
      size += std::abs(part);
      squares += part * part;
      w_size += std::abs(w);
      of_weights +=
          std::abs(x[i]) * (0x1p-25 + 0x1p-22 * (std::abs(row[i].main) + std::abs(row[i].minus)));
    }
    const double rounded =
        std::min((2 * kUnit + kUnit * kUnit) * size, 8 * kUnit * std::sqrt(2 * squares));
    out.push_back(sum);
    tolerance.push_back(rounded + size * m.n_in * 0x1p-23 + of_weights +
                        w_size * std::max(0x1p-38 * std::abs(largest), 0x1p-139) + 0x1p-149);
  }
}

void run_wide(UnderTest& device, CaseReport& report, const Wide& wide) {
  std::mt19937 random(wide.seed);
  const std::vector<float> x = draw_rows(wide, random);
  DeviceLinearArgs args{};
  args.n_matrices = static_cast<uint32_t>(wide.types.size());
  args.x = device.upload(x);
  args.n_rows = wide.n_rows;
  args.scratch = device.make<std::byte>(
      device_linear_scratch_bytes(wide.n_rows, wide.n_in, std::ranges::max(wide.n_outs)));
  std::vector<DrawnMatrix> matrices;
  for (uint32_t i = 0; i < args.n_matrices; ++i) {
    matrices.push_back(draw_weights(wide, i, random));
    const PackedMatrix& packed = matrices.back().packed;
    args.w[i] = packed;
    args.w[i].bytes = device.upload(std::span(packed.bytes, packed.total_bytes()));
    args.out[i] = device.make<float>(uint64_t{wide.n_rows} * packed.n_out);
  }
  device.check(device.kernels().linear(device.stream(), args));

  const uint32_t step = wide.sampled_rows == 0 ? 1 : std::max(1u, wide.n_rows / wide.sampled_rows);
  for (uint32_t i = 0; i < args.n_matrices; ++i) {
    const uint32_t n_out = matrices[i].n_out;
    const auto out = device.download(args.out[i], uint64_t{wide.n_rows} * n_out);
    std::vector<float> compared;
    std::vector<double> wanted, tolerance;
    for (uint32_t row = 0; row < wide.n_rows; row += step) {
      multiply_exactly(matrices[i], std::span(x).subspan(uint64_t{row} * wide.n_in, wide.n_in),
                       wanted, tolerance);
      compared.insert(compared.end(), out.begin() + row * n_out, out.begin() + (row + 1) * n_out);
    }
    report.expect_near(
        compared, wanted, [&](uint64_t k) { return tolerance[k]; },
        "out " + std::to_string(i) + " ");
    report.expect(std::ranges::all_of(out, [](float v) { return std::isfinite(v); }), "all finite");
  }
}

}  // namespace

std::vector<GpuCase> wide_linear_cases() {
  constexpr TensorType kQ4K = TensorType::kQ4_K, kF32 = TensorType::kF32;
  std::vector<Wide> small;
  for (const TensorTypeInfo& info : tensor_types())
    small.push_back({{info.type}, {35}, std::max(96u, 2 * info.block_elements), 17});
  for (const TensorType type : {TensorType::kQ5_0, TensorType::kQ6_K, TensorType::kIQ4_XS})
    small.push_back({{type}, {16}, 256, 9, Draw::kLargestCodes});
  small.push_back({{TensorType::kQ2_K}, {16}, 256, 9, Draw::kSubnormalScales});
  small.push_back({{kF32}, {20}, 64, 40, Draw::kRandom, true});
  small.push_back({{TensorType::kQ8_0}, {20}, 32, 12, Draw::kRandom, true});
  small.push_back({{kQ4K, TensorType::kQ6_K, TensorType::kF16}, {130, 1, 63}, 256, 70});
  small.push_back({{TensorType::kQ4_0}, {64}, 1056, 64});   // a run of chunks that is not whole
  small.push_back({{TensorType::kQ8_0}, {4090}, 96, 130});  // tiles of 128 x 128, half a stage
  small.push_back({{TensorType::kQ4_1}, {3970}, 320, 129});
  small.push_back({{TensorType::kQ8_0}, {8690}, 64, 260});                  // tiles of 128 x 256
  small.push_back({{TensorType::kQ4_0}, {kDeviceLinearPart + 75}, 32, 9});  // in two parts
  std::vector<Wide> large;
  for (const TensorType type : {kQ4K, TensorType::kQ6_K, TensorType::kBF16})
    large.push_back({{type}, {4096}, 4096, 512});
  large.push_back({{kQ4K}, {14336}, 4096, 300});
  large.push_back({{TensorType::kQ8_0, TensorType::kQ8_0}, {576, 192}, 576, 512});
  for (Wide& wide : large) wide.sampled_rows = 8;

  std::vector<GpuCase> cases;
  const auto add = [&](const std::vector<Wide>& all, bool is_small) {
    for (const Wide& wide : all)
      cases.push_back(
          {wide.name(),
           [wide](UnderTest& device, CaseReport& report) { run_wide(device, report, wide); },
           is_small});
  };
  add(small, true);
  add(large, false);
  return cases;
}

}  // namespace strata::gpu_test
