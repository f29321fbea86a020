// tests/tools/announced_model.h - a model file of gigabytes that takes none: a head that announces
// its tensors, and a hole where they would be. For what reads heads alone.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/checked_math.h"
#include "base/tensor_type.h"
#include "tests/engine/small_model.h"

namespace strata::cli::testing {

struct AnnouncedModel {
  std::string name;
  uint32_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab_size, n_ctx;

  /// Q4_K matrices, Q6_K embedding and output head, f32 norms.
  void write(const std::string& path) const {
    struct Tensor {
      std::string name;
      std::vector<uint64_t> shape;
      TensorType type;
    };
    const uint64_t q = uint64_t{n_heads} * head_dim, kv = uint64_t{n_kv_heads} * head_dim;
    std::vector<Tensor> tensors = {{"token_embd.weight", {d_model, vocab_size}, TensorType::kQ6_K},
                                   {"output.weight", {d_model, vocab_size}, TensorType::kQ6_K},
                                   {"output_norm.weight", {d_model}, TensorType::kF32}};
    for (uint32_t i = 0; i < n_layers; ++i) {
      const std::string of = "blk." + std::to_string(i) + ".";
      const auto add = [&](const char* tensor, uint64_t n_in, uint64_t n_out) {
        tensors.push_back({of + tensor, {n_in, n_out}, TensorType::kQ4_K});
      };
      add("attn_q.weight", d_model, q);
      add("attn_k.weight", d_model, kv);
      add("attn_v.weight", d_model, kv);
      add("attn_output.weight", q, d_model);
      add("ffn_gate.weight", d_model, d_ff);
      add("ffn_up.weight", d_model, d_ff);
      add("ffn_down.weight", d_ff, d_model);
      for (const char* norm : {"attn_norm.weight", "ffn_norm.weight"})
        tensors.push_back({of + norm, {d_model}, TensorType::kF32});
    }
    engine::testing::RawGguf head;
    head.header(tensors.size(), 11);
    string_key(head, "general.architecture", "llama");
    string_key(head, "general.name", name);
    head.uint_key("llama.block_count", n_layers)
        .uint_key("llama.context_length", n_ctx)
        .uint_key("llama.embedding_length", d_model)
        .uint_key("llama.feed_forward_length", d_ff)
        .uint_key("llama.attention.head_count", n_heads)
        .uint_key("llama.attention.head_count_kv", n_kv_heads)
        .uint_key("llama.attention.key_length", head_dim);
    real_key(head, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    real_key(head, "llama.rope.freq_base", 5e5f);
    uint64_t offset = 0;
    for (const Tensor& tensor : tensors) {
      head.tensor(tensor.name, tensor.shape, static_cast<uint32_t>(tensor.type), offset);
      uint64_t bytes = tensor_row_bytes(tensor.type, tensor.shape[0]);
      if (tensor.shape.size() > 1) bytes *= tensor.shape[1];
      offset += round_up(bytes, 32);
    }
    const auto& bytes = head.bytes();
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    std::filesystem::resize_file(path, round_up(bytes.size(), 32) + offset);
  }

 private:
  static void string_key(engine::testing::RawGguf& head, const std::string& key,
                         const std::string& value) {
    head.string(key).u32(8).string(value);
  }
  static void real_key(engine::testing::RawGguf& head, const std::string& key, float value) {
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    head.string(key).u32(6).u32(bits);
  }
};

}  // namespace strata::cli::testing
