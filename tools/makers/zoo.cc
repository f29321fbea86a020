#include "tools/makers/zoo.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/check.h"

namespace strata::makers {
namespace {

constexpr uint32_t kVocabSize = 301;  // no multiple of any kernel's grain
constexpr uint32_t kContext = 4096;

/// The common shape: grouped queries whose width differs from d_model, sizes that fill no vector.
/// norm_eps is large, so that a wrong one shows.
RandomTransformer base_model(const std::string& name, const std::string& architecture) {
  RandomTransformer model;
  model.architecture = architecture;
  model.name = name;
  model.n_layers = 3;
  model.d_model = 40;
  model.n_heads = 4;
  model.n_kv_heads = 2;
  model.head_dim = 32;
  model.d_ff = 72;
  model.vocab_size = kVocabSize;
  model.n_ctx = kContext;
  model.norm_eps = 1e-3f;
  model.rope.freq_base = 10000;
  model.seed = name.size() * 1000 + static_cast<uint8_t>(name.back());
  return model;
}

/// Rising from `first` to `last`, one per pair of dimensions.
std::vector<float> rising_factors(uint32_t n, double first, double last) {
  std::vector<float> factors(n);
  for (uint32_t i = 0; i < n; ++i)
    factors[i] = static_cast<float>(first + (last - first) * i / (n - 1));
  return factors;
}

RandomTransformer llama3() {
  RandomTransformer model = base_model("llama3", "llama");
  model.is_tied = false;
  model.rope.freq_base = 500000;
  model.rope.freqs = rising_factors(model.head_dim / 2, 1, 8);
  return model;
}

RandomTransformer llama_linear() {
  RandomTransformer model = base_model("llama-linear", "llama");
  model.n_heads = 3;
  model.n_kv_heads = 3;
  model.has_qkv_bias = true;
  model.has_output_bias = true;
  model.rope.scaling = "linear";
  model.rope.factor = 4;
  return model;
}

RandomTransformer llama_yarn() {
  RandomTransformer model = base_model("llama-yarn", "llama");
  model.n_kv_heads = 1;
  model.rope.scaling = "yarn";
  model.rope.factor = 8;
  model.rope.n_ctx_original = 128;
  model.rope.attn_factor = 1.1;
  model.rope.beta_fast = 16;
  model.rope.beta_slow = 2;
  return model;
}

RandomTransformer llama_longrope() {
  RandomTransformer model = base_model("llama-longrope", "llama");
  model.rope.scaling = "longrope";
  model.rope.n_ctx_original = 512;
  model.rope.attn_factor = 1.2;
  model.rope.long_factors = rising_factors(model.head_dim / 2, 1.5, 20);
  model.rope.short_factors = rising_factors(model.head_dim / 2, 1, 1.8);
  return model;
}

RandomTransformer smollm3() {
  RandomTransformer model = base_model("smollm3", "smollm3");
  model.n_layers = 5;
  model.rope.freq_base = 2e6;
  return model;
}

/// Other engines want q as wide as d_model here.
RandomTransformer qwen2_model(const std::string& name) {
  RandomTransformer model = base_model(name, "qwen2");
  model.d_model = 96;
  model.n_layers = 2;
  model.n_heads = 3;
  model.n_kv_heads = 1;
  model.has_qkv_bias = true;
  return model;
}

RandomTransformer qwen2() {
  RandomTransformer model = qwen2_model("qwen2");
  model.is_tied = false;
  model.rope.freq_base = 1e6;
  return model;
}

RandomTransformer qwen2_yarn() {
  RandomTransformer model = qwen2_model("qwen2-yarn");
  model.rope.scaling = "yarn";
  model.rope.factor = 4;
  model.rope.n_ctx_original = 256;
  return model;
}

RandomTransformer qwen3() {
  RandomTransformer model = base_model("qwen3", "qwen3");
  model.head_dim = 64;
  model.has_qk_norm = true;
  model.rope.freq_base = 1e6;
  return model;
}

RandomTransformer gemma3(const std::string& name) {
  RandomTransformer model = base_model(name, "gemma3");
  model.has_qk_norm = true;
  model.has_post_norms = true;
  model.window = 40;
  model.rope.freq_base = 1e6;
  return model;
}

RandomTransformer gemma3_windows() {
  RandomTransformer model = gemma3("gemma3");
  model.n_layers = 7;  // layer 5 is full
  model.rope.scaling = "linear";
  model.rope.factor = 8;  // full layers only
  return model;
}

RandomTransformer gemma3_pattern() {
  RandomTransformer model = gemma3("gemma3-pattern");
  model.n_layers = 3;
  model.window = 33;
  model.window_pattern = {false, true, true};
  model.rope.window_base = 700;
  model.rope.n_rot = 24;
  return model;
}

RandomTransformer gemma3_deep() {
  RandomTransformer model = gemma3("gemma3-27b");
  model.n_layers = 62;  // by which the 27B, whose scores are scaled otherwise, is known
  model.d_model = 24;
  model.n_heads = 2;
  model.n_kv_heads = 1;
  model.head_dim = 8;
  model.d_ff = 24;
  return model;
}

RandomTransformer halves() {
  RandomTransformer model = base_model("llama-halves", "llama");
  model.embedding_type = TensorType::kF16;
  model.matrix_types = {TensorType::kF16, TensorType::kBF16, TensorType::kF32};
  return model;
}

RandomTransformer quantised() {
  RandomTransformer model = base_model("llama-quantised", "llama");
  model.d_model = 64;
  model.d_ff = 96;
  model.embedding_type = TensorType::kQ8_0;
  model.matrix_types = {TensorType::kQ4_1, TensorType::kQ8_0, TensorType::kQ4_0,
                        TensorType::kQ5_0, TensorType::kQ5_1, TensorType::kIQ4_NL};
  return model;
}

RandomTransformer k_quantised() {
  RandomTransformer model = base_model("llama-k-quantised", "llama");
  model.n_layers = 2;
  model.d_model = 256;
  model.n_heads = 4;
  model.n_kv_heads = 1;
  model.head_dim = 64;
  model.d_ff = 256;
  model.is_tied = false;
  model.embedding_type = TensorType::kQ6_K;
  model.matrix_types = {TensorType::kQ4_K, TensorType::kQ5_K, TensorType::kQ6_K,
                        TensorType::kQ3_K, TensorType::kQ2_K, TensorType::kIQ4_XS};
  return model;
}

std::vector<ZooMember> make_zoo() {
  std::vector<ZooMember> members;
  members.push_back({"output head of its own, rope_freqs of Llama 3", llama3()});
  members.push_back({"one KV head per query head, all biases, linear scaling", llama_linear()});
  members.push_back({"one KV head, YaRN with its own betas and attn_factor", llama_yarn()});
  members.push_back({"long and short RoPE factors", llama_longrope()});
  members.push_back({"layer 3 without RoPE", smollm3()});
  members.push_back({"biases of q, k and v, halves paired", qwen2()});
  members.push_back({"YaRN by default betas, halves paired", qwen2_yarn()});
  members.push_back({"norms of q and k, wide heads", qwen3()});
  members.push_back({"windows with a RoPE base of their own, post-norms, GeGLU", gemma3_windows()});
  members.push_back(
      {"windows by a list, window base from the file, part of a head rotated", gemma3_pattern()});
  members.push_back({"62 layers, scores scaled as in the 27B", gemma3_deep()});
  members.push_back({"F16, BF16 and F32 matrices", halves()});
  members.push_back({"types of blocks of 32", quantised()});
  members.push_back({"types of blocks of 256", k_quantised()});
  return members;
}

}  // namespace

std::span<const ZooMember> zoo() {
  static const std::vector<ZooMember> members = make_zoo();
  return members;
}

const ZooMember& zoo_member(const std::string& name) {
  const auto members = zoo();
  const auto found = std::ranges::find(
      members, name,
      [](const ZooMember& member) -> const std::string& { return member.model.name; });
  STRATA_CHECK(found != members.end(), "no member %s in the zoo", name.c_str());
  return *found;
}

}  // namespace strata::makers
