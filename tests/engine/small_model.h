// tests/engine/small_model.h - a model file of a few kilobytes whose keys and tensors a test
// changes before it is written. Header only: the fuzz target builds its valid inputs from it as
// well.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/gguf/gguf_file.h"
#include "engine/gguf/gguf_writer.h"

namespace strata::engine::testing {

struct SmallModel {
  using Value = std::variant<uint32_t, uint64_t, float, bool, std::string, std::vector<int32_t>,
                             std::vector<float>, std::vector<bool>, std::vector<std::string>>;
  struct Tensor {
    std::string name;
    std::vector<uint64_t> shape;
    std::vector<float> values;  // F32
  };
  std::vector<std::pair<std::string, Value>> keys;
  std::vector<Tensor> tensors;

  void set(const std::string& key, Value value) {
    for (auto& [name, held] : keys)
      if (name == key) return void(held = std::move(value));
    keys.emplace_back(key, std::move(value));
  }
  void erase_key(const std::string& key) {
    std::erase_if(keys, [&](const auto& entry) { return entry.first == key; });
  }
  void add_tensor(const std::string& name, std::vector<uint64_t> shape, float value = 0.5f) {
    uint64_t n = 1;
    for (const uint64_t dim : shape) n *= dim;
    tensors.push_back({name, std::move(shape), std::vector<float>(n, value)});
  }
  void erase_tensor(const std::string& name) {
    std::erase_if(tensors, [&](const Tensor& tensor) { return tensor.name == name; });
  }
  Tensor& tensor(const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(),
                         [&](const Tensor& held) { return held.name == name; });
  }

  /// The writer borrows this object's values.
  GgufWriter writer() const {
    GgufWriter out;
    for (const auto& entry : keys) {
      const std::string& key = entry.first;
      std::visit(
          [&](const auto& value) {
            using T = std::decay_t<decltype(value)>;
            if constexpr (std::is_same_v<T, uint32_t>) out.add_uint(key, value);
            if constexpr (std::is_same_v<T, uint64_t>) out.add_u64(key, value);
            if constexpr (std::is_same_v<T, float>) out.add_real(key, value);
            if constexpr (std::is_same_v<T, bool>) out.add_bool(key, value);
            if constexpr (std::is_same_v<T, std::string>) out.add_string(key, value);
            if constexpr (std::is_same_v<T, std::vector<int32_t>>) out.add_ints(key, value);
            if constexpr (std::is_same_v<T, std::vector<float>>) out.add_reals(key, value);
            if constexpr (std::is_same_v<T, std::vector<bool>>) out.add_bools(key, value);
            if constexpr (std::is_same_v<T, std::vector<std::string>>) out.add_strings(key, value);
          },
          entry.second);
    }
    for (const Tensor& tensor : tensors)
      out.add_tensor(tensor.name, TensorType::kF32, tensor.shape,
                     std::as_bytes(std::span(tensor.values)));
    return out;
  }
  std::vector<std::byte> bytes() const { return writer().serialise(); }
};

/// A file's bytes as GgufFile sees them.
inline GgufFile parse_file(const std::vector<std::byte>& bytes) {
  return GgufFile::parse(bytes, bytes.size(), "m.gguf");
}

struct SmallModelOptions {
  std::string architecture = "llama";
  uint32_t n_layers = 2;
  uint32_t d_model = 32;
  uint32_t n_heads = 4;
  uint32_t n_kv_heads = 2;
  uint32_t head_dim = 8;
  uint32_t d_ff = 48;
  uint32_t vocab_size = 16;
  uint32_t n_ctx_train = 64;
};

/// A complete model of any architecture Strata runs, tied embeddings, F32.
inline SmallModel make_small_model(const SmallModelOptions& o = {}) {
  SmallModel model;
  const std::string prefix = o.architecture + ".";
  const bool is_gemma = o.architecture == "gemma3";
  model.set("general.architecture", o.architecture);
  model.set("general.name", std::string("small"));
  model.set("general.license", std::string("apache-2.0"));
  model.set(prefix + "block_count", o.n_layers);
  model.set(prefix + "context_length", o.n_ctx_train);
  model.set(prefix + "embedding_length", o.d_model);
  model.set(prefix + "feed_forward_length", o.d_ff);
  model.set(prefix + "attention.head_count", o.n_heads);
  model.set(prefix + "attention.head_count_kv", o.n_kv_heads);
  model.set(prefix + "attention.key_length", o.head_dim);
  model.set(prefix + "attention.value_length", o.head_dim);
  model.set(prefix + "attention.layer_norm_rms_epsilon", 1e-5f);
  model.set(prefix + "rope.freq_base", 10000.0f);
  if (is_gemma) model.set(prefix + "attention.sliding_window", uint32_t{16});
  model.set("tokenizer.ggml.model", std::string("llama"));
  model.set("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "</s>", "a"});
  model.set("tokenizer.ggml.scores", std::vector<float>{0, 0, 0, 0});
  model.set("tokenizer.chat_template", std::string("{{ messages[0].content }}"));

  const uint64_t d = o.d_model, q = uint64_t{o.n_heads} * o.head_dim,
                 kv = uint64_t{o.n_kv_heads} * o.head_dim;
  model.add_tensor("token_embd.weight", {d, o.vocab_size});
  model.add_tensor("output_norm.weight", {d});
  for (uint32_t i = 0; i < o.n_layers; ++i) {
    const std::string blk = "blk." + std::to_string(i) + ".";
    model.add_tensor(blk + "attn_norm.weight", {d});
    model.add_tensor(blk + "attn_q.weight", {d, q});
    model.add_tensor(blk + "attn_k.weight", {d, kv});
    model.add_tensor(blk + "attn_v.weight", {d, kv});
    model.add_tensor(blk + "attn_output.weight", {q, d});
    if (o.architecture == "qwen2") {
      model.add_tensor(blk + "attn_q.bias", {q});
      model.add_tensor(blk + "attn_k.bias", {kv});
      model.add_tensor(blk + "attn_v.bias", {kv});
    }
    if (is_gemma || o.architecture == "qwen3") {
      model.add_tensor(blk + "attn_q_norm.weight", {o.head_dim});
      model.add_tensor(blk + "attn_k_norm.weight", {o.head_dim});
    }
    if (is_gemma) model.add_tensor(blk + "post_attention_norm.weight", {d});
    model.add_tensor(blk + "ffn_norm.weight", {d});
    model.add_tensor(blk + "ffn_gate.weight", {d, o.d_ff});
    model.add_tensor(blk + "ffn_up.weight", {d, o.d_ff});
    model.add_tensor(blk + "ffn_down.weight", {o.d_ff, d});
    if (is_gemma) model.add_tensor(blk + "post_ffw_norm.weight", {d});
  }
  return model;
}

/// Appends little-endian fields by hand: for files that the writer would refuse to write.
class RawGguf {
 public:
  RawGguf& u8(uint8_t value) { return put(value); }
  RawGguf& u32(uint32_t value) { return put(value); }
  RawGguf& u64(uint64_t value) { return put(value); }
  RawGguf& text(const std::string& raw) {
    for (const char c : raw) bytes_.push_back(static_cast<std::byte>(c));
    return *this;
  }
  RawGguf& string(const std::string& value) { return u64(value.size()).text(value); }
  RawGguf& header(uint64_t n_tensors, uint64_t n_keys, uint32_t version = 3) {
    return text("GGUF").u32(version).u64(n_tensors).u64(n_keys);
  }
  RawGguf& uint_key(const std::string& key, uint32_t value) {
    return string(key).u32(4).u32(value);
  }
  RawGguf& tensor(const std::string& name, const std::vector<uint64_t>& shape, uint32_t type,
                  uint64_t offset) {
    string(name).u32(static_cast<uint32_t>(shape.size()));
    for (const uint64_t dim : shape) u64(dim);
    return u32(type).u64(offset);
  }
  RawGguf& zeros(uint64_t n) {
    bytes_.resize(bytes_.size() + n);
    return *this;
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  template <typename T>
  RawGguf& put(T value) {
    const size_t begin = bytes_.size();
    bytes_.resize(begin + sizeof(T));
    std::memcpy(bytes_.data() + begin, &value, sizeof(T));
    return *this;
  }
  std::vector<std::byte> bytes_;
};

}  // namespace strata::engine::testing
