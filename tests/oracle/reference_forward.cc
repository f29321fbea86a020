#include "tests/oracle/reference_forward.h"

#include <algorithm>
#include <cmath>

namespace strata::oracle {
namespace {

Estimates multiply(const ReferenceMatrix& matrix, const Estimates& x) {
  const Estimates input = matrix.is_quantised ? with_int8_noise(x) : x;
  Estimates out;
  for (const std::vector<float>& row : matrix.rows) out.push_back(dot(row, input));
  return out;
}

void add(Estimates& x, const Estimates& y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] = x[i] + y[i];
}

void add_bias(Estimates& x, const std::vector<float>& bias) {
  for (size_t i = 0; i < bias.size(); ++i) x[i] = x[i] + Estimate{bias[i], 0};
}

Estimates at_rest(Estimates x, RestingKv how) {
  if (how == RestingKv::kF16) return rounded_to_f16(std::move(x));
  if (how == RestingKv::kQ8_0) return with_q8_0_noise(std::move(x));
  return x;
}

class ForwardPass {
 public:
  ForwardPass(const ReferenceModel& model, const ReferenceOptions& options)
      : model_(model), options_(options), keys_(model.layers.size()), values_(model.layers.size()) {
    for (auto* streams : {&keys_, &values_})
      for (auto& of_layer : *streams) of_layer.resize(model.n_kv_heads);
  }

  /// Logits of the next token of the text.
  Estimates step(int32_t token) {
    Estimates x;
    for (const float weight : model_.embedding.rows.at(static_cast<size_t>(token)))
      x.push_back(rounded(static_cast<double>(weight) * model_.embedding_scale, 2));
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      const ReferenceLayer& layer = model_.layers[i];
      Estimates attended = attention(i, rms_norm(x, layer.attn_norm, model_.norm_eps));
      if (!layer.post_attn_norm.empty())
        attended = rms_norm(attended, layer.post_attn_norm, model_.norm_eps);
      add(x, attended);
      Estimates fed = feed_forward(layer, rms_norm(x, layer.ffn_norm, model_.norm_eps));
      if (!layer.post_ffn_norm.empty()) fed = rms_norm(fed, layer.post_ffn_norm, model_.norm_eps);
      add(x, fed);
    }
    ++position_;
    return multiply(model_.output, rms_norm(x, model_.output_norm, model_.norm_eps));
  }

 private:
  /// Head `head` of a row, with QK-norm and RoPE.
  Estimates head_of(const ReferenceLayer& layer, const Estimates& row, uint32_t head,
                    const std::vector<float>& norm) const {
    const auto begin = row.begin() + static_cast<ptrdiff_t>(head) * model_.head_dim;
    Estimates x(begin, begin + model_.head_dim);
    if (!norm.empty()) x = rms_norm(x, norm, model_.norm_eps);
    const size_t n_pairs = layer.rope.frequencies.size();
    for (size_t i = 0; i < n_pairs; ++i) {
      const double angle = position_ * layer.rope.frequencies[i];
      const Estimate cosine = rounded(layer.rope.magnitude * std::cos(angle));
      const Estimate sine = rounded(layer.rope.magnitude * std::sin(angle));
      Estimate& a = model_.pairs_halves ? x[i] : x[2 * i];
      Estimate& b = model_.pairs_halves ? x[i + n_pairs] : x[2 * i + 1];
      const Estimate turned_a = a * cosine - b * sine;
      b = a * sine + b * cosine;
      a = turned_a;
    }
    return x;
  }

  Estimates attention(size_t layer_idx, const Estimates& x) {
    const ReferenceLayer& layer = model_.layers[layer_idx];
    Estimates q = multiply(layer.q, x), k = multiply(layer.k, x), v = multiply(layer.v, x);
    add_bias(q, layer.q_bias);
    add_bias(k, layer.k_bias);
    add_bias(v, layer.v_bias);
    for (uint32_t head = 0; head < model_.n_kv_heads; ++head) {
      const auto begin = v.begin() + static_cast<ptrdiff_t>(head) * model_.head_dim;
      keys_[layer_idx][head].push_back(at_rest(head_of(layer, k, head, layer.k_norm), options_.k));
      values_[layer_idx][head].push_back(
          at_rest(Estimates(begin, begin + model_.head_dim), options_.v));
    }
    Estimates attended;
    for (uint32_t head = 0; head < model_.n_heads; ++head) {
      const uint32_t kv_head = head / (model_.n_heads / model_.n_kv_heads);
      const Estimates query = head_of(layer, q, head, layer.q_norm);
      const Estimates out =
          attend(query, keys_[layer_idx][kv_head], values_[layer_idx][kv_head], layer.window);
      attended.insert(attended.end(), out.begin(), out.end());
    }
    Estimates out = multiply(layer.attn_output, attended);
    add_bias(out, layer.output_bias);
    return out;
  }

  /// A window of w positions holds the query's own and the w - 1 before it.
  Estimates attend(const Estimates& query, const std::vector<Estimates>& keys,
                   const std::vector<Estimates>& values, uint32_t window) const {
    const size_t first = window == 0 || keys.size() <= window ? 0 : keys.size() - window;
    Estimates scores;
    std::vector<std::span<const Estimate>> attended;
    for (size_t i = first; i < keys.size(); ++i) {
      scores.push_back(dot(query, keys[i]) * rounded(model_.score_scale));
      attended.emplace_back(values[i]);
    }
    return softmax_mean(scores, attended);
  }

  Estimates feed_forward(const ReferenceLayer& layer, const Estimates& x) const {
    Estimates gate = multiply(layer.ffn_gate, x);
    const Estimates up = multiply(layer.ffn_up, x);
    for (size_t i = 0; i < gate.size(); ++i)
      gate[i] = (model_.has_gelu ? gelu_tanh(gate[i]) : silu(gate[i])) * up[i];
    return multiply(layer.ffn_down, gate);
  }

  const ReferenceModel& model_;
  const ReferenceOptions options_;
  std::vector<std::vector<std::vector<Estimates>>> keys_, values_;  // [layer][kv head][position]
  double position_ = 0;
};

}  // namespace

RestingKv resting(KvCodec codec) {
  return codec == KvCodec::kF16 ? RestingKv::kF16 : RestingKv::kQ8_0;
}

std::vector<Estimates> reference_logits(const ReferenceModel& model,
                                        std::span<const int32_t> tokens,
                                        const ReferenceOptions& options) {
  ForwardPass pass(model, options);
  std::vector<Estimates> logits;
  for (const int32_t token : tokens) logits.push_back(pass.step(token));
  return logits;
}

}  // namespace strata::oracle
