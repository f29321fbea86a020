// engine/model.h - a model in memory: its spec, its packed weights, its tokenizer data stays apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/host_memory.h"
#include "base/packed_matrix.h"
#include "base/thread_pool.h"
#include "engine/gguf/gguf_file.h"
#include "engine/model_spec.h"

namespace strata::engine {

/// One layer's weights. Empty spans: the architecture has no such tensor.
struct LayerWeights {
  PackedMatrix q, k, v, attn_output, ffn_gate, ffn_up, ffn_down;
  std::span<const float> attn_norm, ffn_norm;  // [d_model]
  std::span<const float> q_bias, k_bias, v_bias, output_bias;
  std::span<const float> q_norm, k_norm;                 // [head_dim]
  std::span<const float> post_attn_norm, post_ffn_norm;  // [d_model]
};

/// Immutable once loaded.
class Model {
 public:
  using Progress = std::function<bool(uint64_t done_bytes, uint64_t total_bytes)>;  // false cancels

  /// Reads every tensor and packs it for the kernels, each piece once; no mapping of the file
  /// stays. Errors: kIo, kOutOfMemory, kBadFile, kUnsupported, kCancelled.
  static Model load(const GgufFile& file, ModelSpec spec, ThreadPool& pool,
                    const Progress& progress = {});

  /// What weight_bytes() will be.
  static uint64_t packed_bytes(const GgufFile& file, const ModelSpec& spec);

  const ModelSpec& spec() const { return spec_; }
  const ModelShape& shape() const { return spec_.shape; }
  const LayerWeights& layer(uint32_t idx) const { return layers_[idx]; }
  const PackedMatrix& embedding() const { return embedding_; }
  const PackedMatrix& output() const { return output_; }  // the embedding where tied
  std::span<const float> output_norm() const { return output_norm_; }
  uint64_t weight_bytes() const { return weight_bytes_; }  // as packed
  /// All of them, as they lie: what a decode step streams.
  std::span<const std::byte> weight_memory() const { return {memory_.data(), weight_bytes_}; }

 private:
  class Layout;
  Model() = default;
  void add_layer(Layout& layout, uint32_t idx);
  void lay_out(Layout& layout);
  ModelSpec spec_;
  HostMemory memory_;
  uint64_t weight_bytes_ = 0;
  std::vector<LayerWeights> layers_;
  PackedMatrix embedding_, output_;
  std::span<const float> output_norm_;
};

}  // namespace strata::engine
