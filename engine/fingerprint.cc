#include "engine/fingerprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

namespace strata::engine {
namespace {

constexpr uint64_t kSampleBytes = 4096;

using Text = std::back_insert_iterator<std::string>;

void add_rope(const RopeSpec& rope, Text out) {
  fmt::format_to(out, "rope {} {:a} {} {:a} {} {:a} {:a} {:a} {:a}", rope.n_rot, rope.freq_base,
                 static_cast<int>(rope.scaling), rope.factor, rope.n_ctx_original,
                 rope.yarn_ext_factor, rope.yarn_attn_factor, rope.yarn_beta_fast,
                 rope.yarn_beta_slow);
  for (const float factor : rope.factors) fmt::format_to(out, " {:a}", factor);
  fmt::format_to(out, "\n");
}

void add_spec(const ModelSpec& spec, Text out) {
  const ModelShape& shape = spec.shape;
  fmt::format_to(out, "{} {} {} {} {}\n", shape.architecture, shape.n_layers, shape.d_model,
                 shape.head_dim, shape.vocab_size);
  for (const LayerShape& layer : shape.layers)
    fmt::format_to(out, "layer {} {} {} {} {} {}\n", layer.n_heads, layer.n_kv_heads, layer.d_ff,
                   layer.window, layer.rope_set, layer.has_rope);
  for (const RopeSpec& rope : spec.rope_sets) add_rope(rope, out);
  fmt::format_to(out, "{} {:a} {:a} {:a} {} {} {} {}\n", static_cast<int>(spec.rope_pairing),
                 spec.norm_eps, spec.attention_scale, spec.embedding_scale,
                 static_cast<int>(spec.activation), spec.has_qkv_bias, spec.has_qk_norm,
                 spec.has_post_norms);
}

/// What is hashed of a tensor: the same number of bytes from either end.
uint64_t sample_bytes(const GgufTensor& tensor) { return std::min(tensor.bytes, kSampleBytes); }

void ask_for_samples(const GgufFile& file) {
  for (const GgufTensor& tensor : file.tensors()) {
    const uint64_t n = sample_bytes(tensor);
    for (const uint64_t offset : {uint64_t{0}, tensor.bytes - n}) file.ask_for(tensor, offset, n);
  }
}

}  // namespace

tiers::Hash128 model_fingerprint(const GgufFile& file, const ModelSpec& spec, CpuIsa isa,
                                 std::string_view device) {
  std::string text;
  const Text out = std::back_inserter(text);
  fmt::format_to(out, "arithmetic {} isa {} file {}\n", kArithmeticVersion, static_cast<int>(isa),
                 file.file_bytes());
  if (!device.empty()) fmt::format_to(out, "device {}\n", device);
  add_spec(spec, out);
  ask_for_samples(file);
  std::vector<std::byte> sample;
  for (const GgufTensor& tensor : file.tensors()) {
    fmt::format_to(out, "{} {}", tensor.name, static_cast<int>(tensor.type));
    for (const uint64_t n : tensor.shape) fmt::format_to(out, " {}", n);
    sample.resize(sample_bytes(tensor));
    for (const uint64_t offset : {uint64_t{0}, tensor.bytes - sample.size()}) {
      file.read(tensor, offset, sample);
      const tiers::Hash128 hash = tiers::hash_bytes(sample);
      fmt::format_to(out, " {:016x}{:016x}", hash.high, hash.low);
    }
    fmt::format_to(out, "\n");
  }
  return tiers::hash_bytes(std::as_bytes(std::span(text)));
}

}  // namespace strata::engine
