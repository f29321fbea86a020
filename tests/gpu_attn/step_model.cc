#include "tests/gpu_attn/step_model.h"

#include <algorithm>
#include <cmath>

#include "tests/gpu_attn/row_oracle.h"

namespace strata::gpu_test {
namespace {

using cpu_attn::DrawnMatrix;

enum Matrix : uint32_t { kQ, kK, kV, kAttnOutput, kGate, kUp, kDown };

/// Values of the size that keeps a row's size: 1 / sqrt(n_in), times `gain`.
DrawnMatrix draw(TensorType type, uint32_t n_out, uint32_t n_in, float gain, std::mt19937& random) {
  const TensorTypeInfo& info = tensor_type_info(type);
  const float size = gain / std::sqrt(static_cast<float>(n_in));
  // The root mean square of a code: of -8 .. 7, of -128 .. 127.
  const float code_size = type == TensorType::kQ4_0 ? 4.6f : type == TensorType::kQ8_0 ? 74.0f : 1;
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> spread(0.5f, 1.4f);
  DrawnMatrix m{type, n_out, n_in, {}, {}, {}, {}};
  m.file.resize(n_out * tensor_row_bytes(type, n_in));
  for (uint64_t at = 0; at < m.file.size(); at += info.block_bytes) {
    cpu_attn::draw_block(info, m.file.data() + at, cpu_attn::Draw::kRandom, random);
    const float scale = type == TensorType::kF16 ? normal(random) : spread(random) / code_size;
    cpu_attn::put_half(m.file.data() + at, scale * size);
  }
  for (uint32_t row = 0; row < n_out; ++row)
    for (uint32_t i = 0; i < n_in; ++i)
      m.elements.push_back(cpu_attn::file_element(
          type,
          reinterpret_cast<const uint8_t*>(m.file.data()) + row * tensor_row_bytes(type, n_in), i));
  m.packed = {nullptr, type, n_out, n_in, cpu_attn::panel_bytes(type, n_in)};
  m.storage.resize(m.packed.total_bytes() + 63);
  auto* aligned = m.storage.data() + (64 - reinterpret_cast<uintptr_t>(m.storage.data()) % 64) % 64;
  cpu_attn::pack_panels(type, n_out, n_in, 0, m.packed.n_panels(), m.file, aligned);
  m.packed.bytes = aligned;
  return m;
}

StepLayer draw_layer(const StepModelOptions& of, std::mt19937& random) {
  using M = StepModel;
  const uint32_t q_width = M::kHeads * of.head_dim, kv_width = M::kKvHeads * of.head_dim;
  StepLayer layer;
  const std::pair<uint32_t, uint32_t> sizes[] = {
      {q_width, M::kDModel}, {kv_width, M::kDModel}, {kv_width, M::kDModel}, {M::kDModel, q_width},
      {M::kDFf, M::kDModel}, {M::kDFf, M::kDModel},  {M::kDModel, M::kDFf}};
  for (uint32_t i = 0; i < gpu_attn::kLayerMatrices; ++i)
    layer.matrices[i] = draw(of.weights, sizes[i].first, sizes[i].second, 1, random);
  const auto vector = [&](bool is_there, uint32_t n, float size) {
    return is_there ? normal_row(n, random, size) : std::vector<float>();
  };
  layer.attn_norm = vector(true, M::kDModel, 1);
  layer.ffn_norm = vector(true, M::kDModel, 1);
  layer.q_bias = vector(of.has_biases, q_width, 0.5f);
  layer.k_bias = vector(of.has_biases, kv_width, 0.5f);
  layer.v_bias = vector(of.has_biases, kv_width, 0.5f);
  layer.output_bias = vector(of.has_biases, M::kDModel, 0.5f);
  layer.q_norm = vector(of.has_qk_norm, of.head_dim, 1);
  layer.k_norm = vector(of.has_qk_norm, of.head_dim, 1);
  layer.post_attn_norm = vector(of.has_post_norms, M::kDModel, 1);
  layer.post_ffn_norm = vector(of.has_post_norms, M::kDModel, 1);
  return layer;
}

std::vector<double> multiply(const DrawnMatrix& w, const std::vector<double>& x) {
  std::vector<double> out(w.n_out, 0.0);
  for (uint32_t o = 0; o < w.n_out; ++o)
    for (uint32_t i = 0; i < w.n_in; ++i) {
      const cpu_attn::Element& element = w.elements[uint64_t{o} * w.n_in + i];
      out[o] += (element.main - element.minus) * x[i];
    }
  return out;
}

void add(std::vector<double>& x, const std::vector<float>& bias) {
  for (uint64_t i = 0; i < bias.size(); ++i) x[i] += double{bias[i]};
}

}  // namespace

StepModel StepModel::draw(const StepModelOptions& options, uint32_t seed) {
  std::mt19937 random(seed);
  StepModel model;
  model.options = options;
  gpu_attn::DeviceModel& shape = model.shape;
  shape.d_model = kDModel;
  shape.head_dim = options.head_dim;
  shape.vocab_size = kVocab;
  shape.n_rot = {options.head_dim, options.head_dim / 2};
  shape.pairing = options.pairing;
  shape.activation = options.activation;
  shape.kv_layout = KvLayout::make(options.kv_codec, options.kv_codec, options.head_dim);
  shape.attention_scale = 1 / std::sqrt(static_cast<float>(options.head_dim));
  shape.embedding_scale = options.embedding_scale;
  for (uint32_t i = 0; i < options.n_layers; ++i) {
    const bool is_window = options.window > 0 && i % 2 == 1;
    shape.shapes.push_back({.kind = is_window ? LayerKind::kWindow : LayerKind::kFull,
                            .n_heads = kHeads,
                            .n_kv_heads = kKvHeads,
                            .d_ff = kDFf,
                            .window = is_window ? options.window : 0,
                            .rope_set = static_cast<uint8_t>(i % 2),
                            .has_rope = !options.has_bare_layer || i + 1 < options.n_layers});
    model.layers.push_back(draw_layer(options, random));
  }
  model.embedding = gpu_test::draw(options.weights, kVocab, kDModel, 8, random);
  model.output = gpu_test::draw(options.weights, kVocab, kDModel, 1, random);
  model.output_norm = normal_row(kDModel, random);
  return model;
}

std::vector<float> StepModel::angles(uint32_t rope_set, uint32_t position) const {
  std::vector<float> cos_sin;
  const uint32_t n_rot = shape.n_rot[rope_set];
  for (uint32_t i = 0; i < n_rot / 2; ++i) {
    const double theta = position * std::pow(rope_set == 0 ? 1e4 : 100.0, -2.0 * i / n_rot);
    cos_sin.push_back(static_cast<float>(std::cos(theta)));
    cos_sin.push_back(static_cast<float>(std::sin(theta)));
  }
  return cos_sin;
}

StepReference::StepReference(const StepModel& model)
    : model_(model), k_(model.layers.size()), v_(model.layers.size()) {}

StepReference::Row StepReference::rms_norm(const Row& x, const std::vector<float>& weight) const {
  double squares = 0;
  for (const double value : x) squares += value * value;
  const double factor =
      1 / std::sqrt(squares / static_cast<double>(x.size()) + double{model_.shape.norm_eps});
  Row out(x.size());
  for (uint64_t i = 0; i < x.size(); ++i) out[i] = x[i] * factor * double{weight[i]};
  return out;
}

/// QK-norm and rotation of each head.
void StepReference::rotate(uint32_t layer, Row& heads, const std::vector<float>& norm) const {
  const LayerShape& of = model_.shape.shapes[layer];
  const uint32_t head_dim = model_.shape.head_dim;
  const std::vector<float> cos_sin = model_.angles(of.rope_set, position_);
  const auto n_pairs = static_cast<uint32_t>(cos_sin.size() / 2);
  for (uint64_t at = 0; at < heads.size(); at += head_dim) {
    const auto begin = heads.begin() + static_cast<int64_t>(at);
    Row head(begin, begin + head_dim);
    if (!norm.empty()) head = rms_norm(head, norm);
    for (uint32_t i = 0; i < n_pairs && of.has_rope; ++i) {
      const bool is_adjacent = model_.shape.pairing == RopePairing::kAdjacent;
      double& a = head[is_adjacent ? 2 * i : i];
      double& b = head[is_adjacent ? 2 * i + 1 : i + n_pairs];
      const double c = double{cos_sin[2 * i]}, s = double{cos_sin[2 * i + 1]};
      const double turned = a * c - b * s;
      b = a * s + b * c;
      a = turned;
    }
    std::ranges::copy(head, begin);
  }
}

StepReference::Row StepReference::attended(uint32_t layer, const Row& q) const {
  const uint32_t head_dim = model_.shape.head_dim;
  const uint32_t window = model_.shape.shapes[layer].window;
  const uint32_t first = window == 0 || position_ < window ? 0 : position_ - window + 1;
  Row out(q.size(), 0.0);
  for (uint32_t head = 0; head < StepModel::kHeads; ++head) {
    const uint32_t kv_at = head / (StepModel::kHeads / StepModel::kKvHeads) * head_dim;
    Row weights;
    double largest = -INFINITY, sum = 0;
    for (uint32_t p = first; p <= position_; ++p) {
      double score = 0;
      for (uint32_t d = 0; d < head_dim; ++d)
        score += q[head * head_dim + d] * k_[layer][p][kv_at + d];
      weights.push_back(score * double{model_.shape.attention_scale});
      largest = std::max(largest, weights.back());
    }
    for (double& weight : weights) sum += weight = std::exp(weight - largest);
    for (uint32_t p = first; p <= position_; ++p)
      for (uint32_t d = 0; d < head_dim; ++d)
        out[head * head_dim + d] += weights[p - first] / sum * v_[layer][p][kv_at + d];
  }
  return out;
}

void StepReference::attention(uint32_t layer, Row& residual) {
  const StepLayer& w = model_.layers[layer];
  const Row normed = rms_norm(residual, w.attn_norm);
  Row q = multiply(w.matrices[kQ], normed);
  Row k = multiply(w.matrices[kK], normed);
  Row v = multiply(w.matrices[kV], normed);
  add(q, w.q_bias);
  add(k, w.k_bias);
  add(v, w.v_bias);
  rotate(layer, q, w.q_norm);
  rotate(layer, k, w.k_norm);
  k_[layer].push_back(k);
  v_[layer].push_back(v);
  Row projected = multiply(w.matrices[kAttnOutput], attended(layer, q));
  add(projected, w.output_bias);
  if (!w.post_attn_norm.empty()) projected = rms_norm(projected, w.post_attn_norm);
  for (uint64_t i = 0; i < residual.size(); ++i) residual[i] += projected[i];
}

void StepReference::feed_forward(uint32_t layer, Row& residual) const {
  const StepLayer& w = model_.layers[layer];
  const Row normed = rms_norm(residual, w.ffn_norm);
  Row gate = multiply(w.matrices[kGate], normed);
  const Row up = multiply(w.matrices[kUp], normed);
  for (uint64_t i = 0; i < gate.size(); ++i) {
    const double x = gate[i];
    const double act =
        model_.shape.activation == DeviceActivation::kSiluMul
            ? x / (1 + std::exp(-x))
            : 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    gate[i] = act * up[i];
  }
  Row projected = multiply(w.matrices[kDown], gate);
  if (!w.post_ffn_norm.empty()) projected = rms_norm(projected, w.post_ffn_norm);
  for (uint64_t i = 0; i < residual.size(); ++i) residual[i] += projected[i];
}

std::vector<double> StepReference::next(int32_t token) {
  Row residual(StepModel::kDModel);
  for (uint32_t i = 0; i < StepModel::kDModel; ++i) {
    const auto at = static_cast<uint64_t>(token) * StepModel::kDModel + i;
    residual[i] =
        double{model_.embedding.elements[at].value()} * double{model_.shape.embedding_scale};
  }
  for (uint32_t layer = 0; layer < model_.layers.size(); ++layer) {
    attention(layer, residual);
    feed_forward(layer, residual);
  }
  ++position_;
  return multiply(model_.output, rms_norm(residual, model_.output_norm));
}

}  // namespace strata::gpu_test
