#include "tools/gpu/random_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "base/half.h"
#include "base/host_memory.h"
#include "cpu_attn/pack.h"

namespace strata::gpu_bench {
namespace {

constexpr uint32_t kLayerStep = 5;  // panels between the beginnings of neighbouring layers

PackedMatrix matrix_of(TensorType type, uint32_t n_out, uint32_t n_in) {
  return {nullptr, type, n_out, n_in, cpu_attn::panel_bytes(type, n_in)};
}

void put_half(std::byte* to, double value) {
  const uint16_t half = f32_to_f16(static_cast<float>(value));
  std::memcpy(to, &half, sizeof half);
}

/// Panels whose elements have mean 0 and root mean square 1 / sqrt(n_in). An element of Q4_K is
/// d s q - e m with s and m in 0 .. 63 and q in 0 .. 15: mean 0 where e = 7.5 d, root mean square
/// 258 d. One of Q6_K is d s (q - 32) with s in -128 .. 127 and q in 0 .. 63: 1365 d.
std::vector<std::byte> draw_panels(const PackedMatrix& of, std::mt19937_64& random) {
  const uint32_t n_rows = RandomPanels::kDrawnPanels * kPanelRows;
  const double size = 1 / std::sqrt(static_cast<double>(of.n_in));
  std::vector<std::byte> file(n_rows * tensor_row_bytes(of.type, of.n_in));
  for (uint64_t at = 0; at < file.size(); at += sizeof(uint64_t)) {
    const uint64_t word = random();
    std::memcpy(file.data() + at, &word, std::min(sizeof word, file.size() - at));
  }
  const uint64_t block_bytes = tensor_type_info(of.type).block_bytes;
  for (uint64_t at = 0; at < file.size(); at += block_bytes) {
    if (of.type == TensorType::kQ4_K) {
      put_half(file.data() + at, size / 258);
      put_half(file.data() + at + 2, 7.5 * size / 258);
    } else {
      put_half(file.data() + at + block_bytes - 2, size / 1365);
    }
  }
  const uint64_t bytes = RandomPanels::kDrawnPanels * of.panel_bytes;
  const HostMemory packed = HostMemory::reserve(bytes);  // aligned as the packer wants it
  cpu_attn::pack_panels(of.type, n_rows, of.n_in, 0, RandomPanels::kDrawnPanels, file,
                        packed.data());
  return {packed.data(), packed.data() + bytes};
}

}  // namespace

gpu_attn::DeviceModel describe(const RandomModelSizes& sizes) {
  gpu_attn::DeviceModel model;
  model.d_model = sizes.d_model;
  model.head_dim = sizes.head_dim;
  model.vocab_size = sizes.vocab_size;
  model.n_rot = {sizes.head_dim};
  model.kv_layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, sizes.head_dim);
  model.attention_scale = 1 / std::sqrt(static_cast<float>(sizes.head_dim));
  model.embedding = matrix_of(TensorType::kQ6_K, sizes.vocab_size, sizes.d_model);
  model.output = model.embedding;
  const uint32_t q_width = sizes.n_heads * sizes.head_dim;
  const uint32_t kv_width = sizes.n_kv_heads * sizes.head_dim;
  const auto layer_matrix = [](uint32_t n_out, uint32_t n_in) {
    return matrix_of(TensorType::kQ4_K, n_out, n_in);
  };
  gpu_attn::DeviceLayerWeights layer;
  layer.q = layer_matrix(q_width, sizes.d_model);
  layer.k = layer_matrix(kv_width, sizes.d_model);
  layer.v = layer.k;
  layer.attn_output = layer_matrix(sizes.d_model, q_width);
  layer.ffn_gate = layer_matrix(sizes.d_ff, sizes.d_model);
  layer.ffn_up = layer.ffn_gate;
  layer.ffn_down = layer_matrix(sizes.d_model, sizes.d_ff);
  model.layers.assign(sizes.n_layers, layer);
  model.shapes.assign(sizes.n_layers, {.kind = LayerKind::kFull,
                                       .n_heads = sizes.n_heads,
                                       .n_kv_heads = sizes.n_kv_heads,
                                       .d_ff = sizes.d_ff,
                                       .window = 0,
                                       .rope_set = 0,
                                       .has_rope = true});
  return model;
}

RandomPanels::RandomPanels(const gpu_attn::DeviceModel& model) {
  std::mt19937_64 random(20261127);
  for (uint32_t i = 0; i < gpu_attn::kLayerMatrices; ++i) {
    const PackedMatrix& of = model.layers[0].*gpu_attn::kLayerMatrixMembers[i];
    panel_bytes_[i] = of.panel_bytes;
    matrices_[i] = draw_panels(of, random);
  }
  head_ = draw_panels(model.output, random);
}

std::vector<std::byte> RandomPanels::layer_panels(uint32_t layer, uint32_t matrix) const {
  std::vector<std::byte> panels = matrices_[matrix];
  const uint64_t first = uint64_t{layer} * kLayerStep % kDrawnPanels * panel_bytes_[matrix];
  std::ranges::rotate(panels, panels.begin() + static_cast<int64_t>(first));
  return panels;
}

}  // namespace strata::gpu_bench
