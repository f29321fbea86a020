#include "tools/makers/random_transformer.h"

#include <cmath>
#include <span>

#include "tools/makers/random_values.h"
#include "tools/makers/spm_vocabulary.h"

namespace strata::makers {
namespace {

constexpr double kNormDeviation = 0.2;  // of norm weights, around 1
constexpr double kBiasDeviation = 0.5;
constexpr double kLogitDeviation = 2.0;

/// Adds the tensors of one model, each with rows that depend on the seed, its name and the row.
class TensorMaker {
 public:
  TensorMaker(engine::GgufWriter& writer, const RandomTransformer& model)
      : writer_(writer), model_(model) {}

  void add_all() {
    const RandomTransformer& m = model_;
    const double embedding = kLogitDeviation / std::sqrt(m.d_model);
    add("token_embd.weight", m.embedding_type, {m.d_model, m.vocab_size}, 0, embedding);
    for (uint32_t layer = 0; layer < m.n_layers; ++layer) add_layer(layer);
    add_norm("output_norm.weight", m.d_model);
    if (!m.is_tied) add("output.weight", m.embedding_type, {m.d_model, m.vocab_size}, 0, embedding);
    add_factors("rope_freqs.weight", m.rope.freqs);
    add_factors("rope_factors_long.weight", m.rope.long_factors);
    add_factors("rope_factors_short.weight", m.rope.short_factors);
  }

 private:
  void add(const std::string& name, TensorType type, const std::vector<uint64_t>& shape,
           double mean, double deviation) {
    writer_.add_generated_tensor(
        name, type, shape,
        [name, type, mean, deviation, seed = model_.seed](uint64_t row, std::span<std::byte> out) {
          fill_random(type, mean, deviation, row_seed(seed, name, row), out);
        });
  }
  /// `gain`: deviation of an output whose inputs are independent with deviation 1.
  void add_matrix(const std::string& name, uint64_t n_in, uint64_t n_out, double gain) {
    const TensorType type = model_.matrix_types[n_matrices_++ % model_.matrix_types.size()];
    add(name, type, {n_in, n_out}, 0, gain / std::sqrt(static_cast<double>(n_in)));
  }
  void add_norm(const std::string& name, uint64_t n) {
    add(name, TensorType::kF32, {n}, 1, kNormDeviation);
  }
  void add_bias(const std::string& name, uint64_t n) {
    add(name, TensorType::kF32, {n}, 0, kBiasDeviation);
  }
  void add_factors(const std::string& name, const std::vector<float>& factors) {
    if (!factors.empty())
      writer_.add_tensor(name, TensorType::kF32, {factors.size()},
                         std::as_bytes(std::span(factors)));
  }

  void add_layer(uint32_t layer) {
    const RandomTransformer& m = model_;
    const std::string blk = "blk." + std::to_string(layer) + ".";
    const uint64_t q_width = uint64_t{m.n_heads} * m.head_dim;
    const uint64_t kv_width = uint64_t{m.n_kv_heads} * m.head_dim;
    add_norm(blk + "attn_norm.weight", m.d_model);
    add_matrix(blk + "attn_q.weight", m.d_model, q_width, 1.4);
    add_matrix(blk + "attn_k.weight", m.d_model, kv_width, 1.4);
    add_matrix(blk + "attn_v.weight", m.d_model, kv_width, 1.0);
    add_matrix(blk + "attn_output.weight", q_width, m.d_model, 1.0);
    if (m.has_qkv_bias) {
      add_bias(blk + "attn_q.bias", q_width);
      add_bias(blk + "attn_k.bias", kv_width);
      add_bias(blk + "attn_v.bias", kv_width);
    }
    if (m.has_output_bias) add_bias(blk + "attn_output.bias", m.d_model);
    if (m.has_qk_norm) {
      add_norm(blk + "attn_q_norm.weight", m.head_dim);
      add_norm(blk + "attn_k_norm.weight", m.head_dim);
    }
    if (m.has_post_norms) {
      add_norm(blk + "post_attention_norm.weight", m.d_model);
      add_norm(blk + "post_ffw_norm.weight", m.d_model);
    }
    add_norm(blk + "ffn_norm.weight", m.d_model);
    add_matrix(blk + "ffn_gate.weight", m.d_model, m.d_ff, 1.0);
    add_matrix(blk + "ffn_up.weight", m.d_model, m.d_ff, 1.0);
    add_matrix(blk + "ffn_down.weight", m.d_ff, m.d_model, 1.0);
  }

  engine::GgufWriter& writer_;
  const RandomTransformer& model_;
  uint64_t n_matrices_ = 0;
};

void add_rope_keys(engine::GgufWriter& writer, const RandomTransformer& model) {
  const RandomRope& rope = model.rope;
  const std::string prefix = model.architecture + ".rope.";
  const auto real = [&](const char* suffix, double value, double none) {
    if (value != none) writer.add_real(prefix + suffix, static_cast<float>(value));
  };
  writer.add_uint(prefix + "dimension_count", rope.n_rot == 0 ? model.head_dim : rope.n_rot);
  real("freq_base", rope.freq_base, 0);
  real("freq_base_swa", rope.window_base, 0);
  if (!rope.scaling.empty()) writer.add_string(prefix + "scaling.type", rope.scaling);
  real("scaling.factor", rope.factor, 0);
  if (rope.n_ctx_original != 0)
    writer.add_uint(prefix + "scaling.original_context_length", rope.n_ctx_original);
  real("scaling.attn_factor", rope.attn_factor, 0);
  real("scaling.yarn_ext_factor", rope.ext_factor, -1);
  real("scaling.yarn_beta_fast", rope.beta_fast, 0);
  real("scaling.yarn_beta_slow", rope.beta_slow, 0);
}

}  // namespace

void add_random_transformer(engine::GgufWriter& writer, const RandomTransformer& model) {
  const std::string prefix = model.architecture + ".";
  writer.add_string("general.architecture", model.architecture);
  writer.add_string("general.name", model.name);
  writer.add_uint(prefix + "block_count", model.n_layers);
  writer.add_uint(prefix + "context_length", model.n_ctx);
  writer.add_uint(prefix + "embedding_length", model.d_model);
  writer.add_uint(prefix + "feed_forward_length", model.d_ff);
  writer.add_uint(prefix + "attention.head_count", model.n_heads);
  writer.add_uint(prefix + "attention.head_count_kv", model.n_kv_heads);
  writer.add_uint(prefix + "attention.key_length", model.head_dim);
  writer.add_uint(prefix + "attention.value_length", model.head_dim);
  writer.add_real(prefix + "attention.layer_norm_rms_epsilon", model.norm_eps);
  writer.add_uint(prefix + "vocab_size", model.vocab_size);
  if (model.window != 0) writer.add_uint(prefix + "attention.sliding_window", model.window);
  if (!model.window_pattern.empty())
    writer.add_bools(prefix + "attention.sliding_window_pattern", model.window_pattern);
  add_rope_keys(writer, model);
  add_spm_vocabulary(writer, model.vocab_size);
  TensorMaker(writer, model).add_all();
}

void write_random_transformer(const RandomTransformer& model, const std::string& path) {
  engine::GgufWriter writer;
  add_random_transformer(writer, model);
  writer.write(path);
}

}  // namespace strata::makers
