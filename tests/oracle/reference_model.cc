#include "tests/oracle/reference_model.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

#include "engine/gguf/dequantise.h"

namespace strata::oracle {
namespace {

using engine::GgufFile;

class Reader {
 public:
  Reader(const GgufFile& file, uint32_t n_ctx)
      : file_(file), architecture_(file.get_string("general.architecture").value()) {
    n_ctx_train_ = uint("context_length");
    n_ctx_ = n_ctx == 0 ? n_ctx_train_ : n_ctx;
  }

  ReferenceModel read() {
    ReferenceModel model;
    const uint32_t n_layers = uint("block_count");
    model.d_model = uint("embedding_length");
    model.n_heads = uint("attention.head_count");
    model.n_kv_heads = uint("attention.head_count_kv", model.n_heads);
    model.head_dim = uint("attention.key_length", model.d_model / model.n_heads);
    model.norm_eps = real("attention.layer_norm_rms_epsilon", NAN);
    model.score_scale = 1 / std::sqrt(static_cast<double>(model.head_dim));
    if (architecture_ == "gemma3") {
      model.embedding_scale = std::sqrt(static_cast<double>(model.d_model));
      // The 27B alone divides by sqrt(d_model / n_heads) (Gemma 3 report, query_pre_attn_scalar).
      if (n_layers == 62)
        model.score_scale = 1 / std::sqrt(static_cast<double>(model.d_model) / model.n_heads);
    }
    model.pairs_halves =
        architecture_ == "qwen2" || architecture_ == "qwen3" || architecture_ == "gemma3";
    model.has_gelu = architecture_ == "gemma3";
    model.embedding = matrix("token_embd.weight");
    model.vocab_size = static_cast<uint32_t>(model.embedding.rows.size());
    model.output =
        matrix(file_.find_tensor("output.weight") ? "output.weight" : "token_embd.weight");
    model.output_norm = vector("output_norm.weight");
    for (uint32_t i = 0; i < n_layers; ++i) model.layers.push_back(layer(i, model.head_dim));
    return model;
  }

 private:
  std::string key(const std::string& suffix) const { return architecture_ + "." + suffix; }
  uint32_t uint(const std::string& suffix) const {
    return static_cast<uint32_t>(file_.get_uint(key(suffix)).value());
  }
  uint32_t uint(const std::string& suffix, uint32_t when_absent) const {
    return static_cast<uint32_t>(file_.get_uint(key(suffix)).value_or(when_absent));
  }
  double real(const std::string& suffix, double when_absent) const {
    return file_.get_real(key(suffix)).value_or(when_absent);
  }

  std::vector<float> vector(const std::string& name) const {
    const engine::GgufTensor* tensor = file_.find_tensor(name);
    if (tensor == nullptr) return {};
    std::vector<std::byte> bytes(tensor->bytes);
    file_.read(*tensor, 0, bytes);
    std::vector<float> values(tensor->shape[0] * tensor->n_rows());
    engine::dequantise(tensor->type, bytes, values);
    return values;
  }

  ReferenceMatrix matrix(const std::string& name) const {
    const engine::GgufTensor* tensor = file_.find_tensor(name);
    if (tensor == nullptr) throw std::runtime_error("no tensor " + name);
    const std::vector<float> values = vector(name);
    ReferenceMatrix matrix;
    matrix.is_quantised = tensor_type_info(tensor->type).block_elements > 1;
    const auto n_in = static_cast<ptrdiff_t>(tensor->shape[0]);
    for (auto row = values.begin(); row != values.end(); row += n_in)
      matrix.rows.emplace_back(row, row + n_in);
    return matrix;
  }

  ReferenceLayer layer(uint32_t i, uint32_t head_dim) const {
    const std::string blk = "blk." + std::to_string(i) + ".";
    ReferenceLayer layer;
    layer.q = matrix(blk + "attn_q.weight");
    layer.k = matrix(blk + "attn_k.weight");
    layer.v = matrix(blk + "attn_v.weight");
    layer.attn_output = matrix(blk + "attn_output.weight");
    layer.ffn_gate = matrix(blk + "ffn_gate.weight");
    layer.ffn_up = matrix(blk + "ffn_up.weight");
    layer.ffn_down = matrix(blk + "ffn_down.weight");
    layer.q_bias = vector(blk + "attn_q.bias");
    layer.k_bias = vector(blk + "attn_k.bias");
    layer.v_bias = vector(blk + "attn_v.bias");
    layer.output_bias = vector(blk + "attn_output.bias");
    layer.attn_norm = vector(blk + "attn_norm.weight");
    layer.q_norm = vector(blk + "attn_q_norm.weight");
    layer.k_norm = vector(blk + "attn_k_norm.weight");
    layer.post_attn_norm = vector(blk + "post_attention_norm.weight");
    layer.ffn_norm = vector(blk + "ffn_norm.weight");
    layer.post_ffn_norm = vector(blk + "post_ffw_norm.weight");
    if (is_windowed(i)) {
      layer.window = uint("attention.sliding_window");
      layer.rope.frequencies = plain_frequencies(real("rope.freq_base_swa", 10000), head_dim);
    } else if (architecture_ != "smollm3" || i % 4 != 3) {
      layer.rope = scaled_rope(head_dim);
    }
    return layer;
  }

  /// Gemma 3 has five windowed layers before each full one, unless the file lists them.
  bool is_windowed(uint32_t i) const {
    if (architecture_ != "gemma3" || uint("attention.sliding_window", 0) == 0) return false;
    const auto* pattern = file_.find(key("attention.sliding_window_pattern"));
    if (pattern != nullptr && pattern->is_array)
      return std::get<engine::GgufValue::Integers>(pattern->values).at(i) != 0;
    return i % 6 != 5;
  }

  /// base^(-2i / n_rot) (RoFormer, arXiv 2104.09864, section 3.2.2).
  std::vector<double> plain_frequencies(double base, uint32_t head_dim) const {
    const uint32_t n_rot = uint("rope.dimension_count", head_dim);
    std::vector<double> frequencies;
    for (uint32_t i = 0; i < n_rot / 2; ++i)
      frequencies.push_back(std::exp(-std::log(base) * 2 * i / n_rot));
    return frequencies;
  }

  ReferenceRope scaled_rope(uint32_t head_dim) const {
    const double base = real("rope.freq_base", 10000);
    ReferenceRope rope{plain_frequencies(base, head_dim), real("rope.scaling.attn_factor", 1)};
    const std::string scaling(file_.get_string(key("rope.scaling.type")).value_or("linear"));
    const double factor = real("rope.scaling.factor", 1);
    const uint32_t n_original = uint("rope.scaling.original_context_length", n_ctx_train_);
    std::string factor_name = "rope_freqs.weight";
    if (scaling == "longrope")  // LongRoPE (arXiv 2402.13753): one set of factors per context
      factor_name = n_ctx_ > n_original ? "rope_factors_long.weight" : "rope_factors_short.weight";
    const std::vector<float> factors = vector(factor_name);
    for (size_t i = 0; i < factors.size(); ++i)
      rope.frequencies[i] /= static_cast<double>(factors[i]);
    if (scaling == "linear")
      for (double& frequency : rope.frequencies) frequency /= factor;
    if (scaling == "yarn") scale_by_yarn(base, factor, n_original, rope);
    return rope;
  }

  /// YaRN (arXiv 2309.00071) section 3.2: pairs that turn more than beta_fast times in the original
  /// context keep their frequency, those below beta_slow are interpolated, between them a ramp over
  /// whole pair indices, as its authors' code has it; section 3.4: the temperature.
  void scale_by_yarn(double base, double factor, uint32_t n_original, ReferenceRope& rope) const {
    const auto n_rot = static_cast<double>(2 * rope.frequencies.size());
    const auto pair_that_turns = [&](double times) {
      return n_rot / 2 * std::log(n_original / (times * 2 * std::numbers::pi)) / std::log(base);
    };
    const double first =
        std::max(std::floor(pair_that_turns(real("rope.scaling.yarn_beta_fast", 32))), 0.0);
    const double last =
        std::min(std::ceil(pair_that_turns(real("rope.scaling.yarn_beta_slow", 1))), n_rot - 1);
    const double extrapolation = real("rope.scaling.yarn_ext_factor", 1);
    for (size_t i = 0; i < rope.frequencies.size(); ++i) {
      const double ramp = (static_cast<double>(i) - first) / std::max(last - first, 0.001);
      const double kept = (1 - std::clamp(ramp, 0.0, 1.0)) * extrapolation;
      rope.frequencies[i] = rope.frequencies[i] * kept + rope.frequencies[i] / factor * (1 - kept);
    }
    if (extrapolation != 0 && factor > 1) rope.magnitude *= 0.1 * std::log(factor) + 1;
  }

  const GgufFile& file_;
  std::string architecture_;
  uint32_t n_ctx_train_ = 0;
  uint32_t n_ctx_ = 0;
};

}  // namespace

ReferenceModel read_reference_model(const GgufFile& file, uint32_t n_ctx) {
  return Reader(file, n_ctx).read();
}

}  // namespace strata::oracle
