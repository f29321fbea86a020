// engine/walk_layer.cc - the operations of a layer other than attention.
#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/checked_math.h"
#include "cpu_attn/linear.h"
#include "cpu_attn/pack.h"
#include "engine/walk_state.h"

namespace strata::engine {
namespace {

constexpr uint32_t kRowsPerTask = 16;  // rows a worker takes at a time in row-wise operations
// Of each worker's share of the next matrices: about what memory gives while it waits and the
// caller works alone.
constexpr uint64_t kAheadBytes = 64 << 10;

bool is_float(TensorType type) {
  return type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBF16;
}

using Matrices = std::span<const PackedMatrix* const>;

/// Where a worker begins in the joined panels of matrices, each of which all workers share, so that
/// their shares have as many bytes; n_workers: behind the last panel.
struct SharePlace {
  uint32_t panel;
  std::span<const std::byte> bytes;  // from there to the end of the matrix
};
SharePlace place_of_share(Matrices matrices, uint32_t worker, uint32_t n_workers) {
  uint64_t before = 0;  // bytes of the panels before the share
  for (const PackedMatrix* w : matrices) before += w->total_bytes();
  before = before * worker / n_workers;
  uint32_t first = 0;
  for (const PackedMatrix* w : matrices) {
    if (before < w->total_bytes()) {
      const uint64_t panel = before / w->panel_bytes;
      const uint64_t at = panel * w->panel_bytes;
      return {first + static_cast<uint32_t>(panel),
              w->bytes == nullptr ? std::span<const std::byte>()  // streamed, and not there
                                  : std::span(w->bytes + at, w->total_bytes() - at)};
    }
    before -= w->total_bytes();
    first += w->n_panels();
  }
  return {first, {}};
}

}  // namespace

template <class Task>
void Walk::State::for_rows(uint32_t n, const Task& task) {
  pool.for_each(n, kRowsPerTask, [&](uint64_t begin, uint64_t end, uint32_t) {
    for (uint64_t row = begin; row < end; ++row) task(static_cast<uint32_t>(row));
  });
}

void Walk::State::norm_rows(const float* x, uint32_t n, std::span<const float> weight,
                            bool quantise) {
  const uint32_t d_model = shape.d_model;
  for_rows(n, [&](uint32_t row) {
    float* out = normed.data() + uint64_t{row} * d_model;
    kernels.rms_norm(x + uint64_t{row} * d_model, weight.data(), d_model, model.spec().norm_eps,
                     out);
    if (quantise) {
      kernels.quantize_rows(
          out, 1, d_model,
          {quant.q + uint64_t{row} * d_model, quant.scales + uint64_t{row} * (d_model / kActGroup),
           quant.neg_sums + uint64_t{row} * (d_model / kActHalfGroup)});
    }
  });
}

void Walk::State::quantise_rows(const float* x, uint32_t n, uint32_t n_in) {
  for_rows(n, [&](uint32_t row) {
    kernels.quantize_rows(
        x + uint64_t{row} * n_in, 1, n_in,
        {quant.q + uint64_t{row} * n_in, quant.scales + uint64_t{row} * (n_in / kActGroup),
         quant.neg_sums + uint64_t{row} * (n_in / kActHalfGroup)});
  });
}

void Walk::State::linear(std::span<const Linear> tasks, const float* x, uint32_t n,
                         std::initializer_list<const PackedMatrix*> next) {
  const bool is_few = n <= cpu_attn::kFewRows;
  for (uint32_t worker = 0; worker < pool.size(); ++worker) {
    const auto ahead = is_few
                           ? place_of_share({next.begin(), next.size()}, worker, pool.size()).bytes
                           : std::span<const std::byte>();
    pool.set_ahead(worker, ahead.first(std::min(ahead.size(), kAheadBytes)));
  }
  const auto multiply = [&](uint64_t begin, uint64_t end, uint32_t) {
    uint32_t first = 0;  // of this matrix in the joined panels
    for (const Linear& task : tasks) {
      const uint32_t last = first + task.w->n_panels();
      const auto from = std::max(static_cast<uint32_t>(begin), first);
      const auto to = std::min(static_cast<uint32_t>(end), last);
      if (from < to)
        kernels.linear({.w = *task.w,
                        .x = x,
                        .quant = quant,
                        .out = task.out,
                        .out_stride = task.out_stride,
                        .n_rows = n,
                        .panel_begin = from - first,
                        .panel_end = to - first});
      first = last;
    }
  };
  std::array<const PackedMatrix*, 3> matrices;
  STRATA_CHECK(tasks.size() <= matrices.size(), "%zu matrices at once", tasks.size());
  for (size_t i = 0; i < tasks.size(); ++i) matrices[i] = tasks[i].w;
  const Matrices joined = std::span(matrices).first(tasks.size());
  if (is_few) {
    for (uint32_t worker = 0; worker <= pool.size(); ++worker)
      share_begins[worker] = place_of_share(joined, worker, pool.size()).panel;
    pool.for_each_own(share_begins, multiply);
  } else {
    const uint32_t n_panels = place_of_share(joined, 1, 1).panel;
    pool.for_each(n_panels, cpu_attn::panels_per_piece(n_panels, pool.size(), n, kernels.has_tiles),
                  multiply);
  }
}

void Walk::State::embed() {
  const uint32_t d_model = shape.d_model;
  for_rows(n_rows, [&](uint32_t row) {
    float* out = residual.data() + uint64_t{row} * d_model;
    cpu_attn::unpack_row(model.embedding(), static_cast<uint32_t>(tokens[row]), {out, d_model});
    if (model.spec().embedding_scale != 1.0f)
      kernels.scale(out, model.spec().embedding_scale, d_model, out);
  });
}

void Walk::State::attn_norm() {
  const LayerWeights& w = *weights;
  norm_rows(residual.data(), n_rows, w.attn_norm,
            !is_float(w.q.type) || !is_float(w.k.type) || !is_float(w.v.type));
}

const Walk::State::Group& Walk::State::group_of_row(uint32_t row) const {
  const auto after = std::ranges::upper_bound(groups, row, {}, &Group::row_begin);
  return *(after - 1);
}

/// Biases, QK-norm and RoPE of rows [row_begin, row_end); q goes to q_by_head times the attention
/// scale, k and v into blocks.
void Walk::State::rotate_and_store(uint32_t layer, uint32_t row_begin, uint32_t row_end) {
  const LayerShape& of = shape.layers[layer];
  const LayerWeights& w = *weights;
  const ModelSpec& spec = model.spec();
  const uint32_t head_dim = shape.head_dim;
  const uint32_t q_width = of.n_heads * head_dim;
  const uint32_t kv_width = of.n_kv_heads * head_dim;
  const uint32_t group_heads = of.n_heads / of.n_kv_heads;
  const uint32_t n_rot = spec.rope_sets[of.rope_set].n_rot;
  const auto head_row = [&](float* x, std::span<const float> norm, const float* angles) {
    if (!norm.empty()) kernels.rms_norm(x, norm.data(), head_dim, spec.norm_eps, x);
    if (of.has_rope) kernels.rope(x, angles, n_rot, spec.rope_pairing);
  };
  for (uint32_t row = row_begin; row < row_end; ++row) {
    const Group& group = group_of_row(row);
    const float* angles = cos_sin[of.rope_set].data() + uint64_t{row} * n_rot;
    float* q_row = q.data() + uint64_t{row} * q_width;
    float* k_row = k.data() + uint64_t{row} * kv_width;
    float* v_row = v.data() + uint64_t{row} * kv_width;
    if (!w.q_bias.empty()) kernels.add(q_row, w.q_bias.data(), q_width, q_row);
    if (!w.k_bias.empty()) kernels.add(k_row, w.k_bias.data(), kv_width, k_row);
    if (!w.v_bias.empty()) kernels.add(v_row, w.v_bias.data(), kv_width, v_row);
    for (uint32_t head = 0; head < of.n_heads; ++head) {
      head_row(q_row + head * head_dim, w.q_norm, angles);
      float* out = q_by_head.data() + ((uint64_t{head / group_heads} * n_rows + row) * group_heads +
                                       head % group_heads) *
                                          head_dim;
      kernels.scale(q_row + head * head_dim, spec.attention_scale, head_dim, out);
    }
    for (uint32_t head = 0; head < of.n_kv_heads; ++head) {
      head_row(k_row + head * head_dim, w.k_norm, angles);
      std::byte* block = cache.open_block(*group.sequence, layer, head, positions[row]);
      kernels.store_kv(cache.layout(), block, positions[row] % kBlockPositions,
                       k_row + head * head_dim, v_row + head * head_dim);
    }
  }
}

void Walk::State::qkv(uint32_t layer) {
  const LayerShape& of = shape.layers[layer];
  const LayerWeights& w = *weights;
  const uint64_t kv_width = uint64_t{of.n_kv_heads} * shape.head_dim;
  const std::array<Linear, 3> tasks = {
      Linear{&w.q, q.data(), uint64_t{of.n_heads} * shape.head_dim},
      Linear{&w.k, k.data(), kv_width}, Linear{&w.v, v.data(), kv_width}};
  linear(tasks, normed.data(), n_rows, {&w.attn_output});
  pool.for_each(n_rows, kRowsPerTask, [&](uint64_t begin, uint64_t end, uint32_t) {
    rotate_and_store(layer, static_cast<uint32_t>(begin), static_cast<uint32_t>(end));
  });
}

void Walk::State::add_to_residual(std::span<const float> bias, std::span<const float> post_norm) {
  const uint32_t d_model = shape.d_model;
  for_rows(n_rows, [&](uint32_t row) {
    float* x = projected.data() + uint64_t{row} * d_model;
    float* out = residual.data() + uint64_t{row} * d_model;
    if (!bias.empty()) kernels.add(x, bias.data(), d_model, x);
    if (!post_norm.empty())
      kernels.rms_norm(x, post_norm.data(), d_model, model.spec().norm_eps, x);
    kernels.add(out, x, d_model, out);
  });
}

void Walk::State::attn_output() {
  const LayerWeights& w = *weights;
  if (!is_float(w.attn_output.type)) quantise_rows(attended.data(), n_rows, w.attn_output.n_in);
  const std::array<Linear, 1> tasks = {Linear{&w.attn_output, projected.data(), shape.d_model}};
  linear(tasks, attended.data(), n_rows, {&w.ffn_gate, &w.ffn_up});
  add_to_residual(w.output_bias, w.post_attn_norm);
}

void Walk::State::ffn_norm() {
  const LayerWeights& w = *weights;
  norm_rows(residual.data(), n_rows, w.ffn_norm,
            !is_float(w.ffn_gate.type) || !is_float(w.ffn_up.type));
}

void Walk::State::ffn_gate_up(uint32_t layer) {
  gate_up(*weights, shape.layers[layer].d_ff, normed.data(), n_rows);
}

void Walk::State::gate_up(const LayerWeights& w, uint32_t d_ff, const float* x, uint32_t n) {
  const std::array<Linear, 2> tasks = {Linear{&w.ffn_gate, gate.data(), d_ff},
                                       Linear{&w.ffn_up, up.data(), d_ff}};
  linear(tasks, x, n, {&w.ffn_down});
  const auto activate =
      model.spec().activation == Activation::kSilu ? kernels.silu_mul : kernels.gelu_mul;
  const bool quantise = !is_float(w.ffn_down.type);
  for_rows(n, [&](uint32_t row) {
    float* g = gate.data() + uint64_t{row} * d_ff;
    activate(g, up.data() + uint64_t{row} * d_ff, d_ff, g);
    if (quantise)
      kernels.quantize_rows(
          g, 1, d_ff,
          {quant.q + uint64_t{row} * d_ff, quant.scales + uint64_t{row} * (d_ff / kActGroup),
           quant.neg_sums + uint64_t{row} * (d_ff / kActHalfGroup)});
  });
}

void Walk::State::ffn_down(uint32_t layer) {
  const LayerWeights& w = *weights;
  const std::array<Linear, 1> tasks = {Linear{&w.ffn_down, projected.data(), shape.d_model}};
  if (layer + 1 < shape.n_layers) {
    const LayerWeights& next = model.layer(layer + 1);
    linear(tasks, gate.data(), n_rows, {&next.q, &next.k, &next.v});
  } else {
    linear(tasks, gate.data(), n_rows, {&model.output()});
  }
  add_to_residual({}, w.post_ffn_norm);
}

void Walk::State::multiply_beside(gpu_attn::HostProduct product, uint32_t layer, uint32_t n,
                                  const float* x, const std::array<float*, 3>& out) {
  const LayerWeights& w = model.layer(layer);
  const uint64_t kv_width = uint64_t{shape.layers[layer].n_kv_heads} * shape.head_dim;
  switch (product) {
    case gpu_attn::HostProduct::kQkv: {
      if (!is_float(w.q.type) || !is_float(w.k.type) || !is_float(w.v.type))
        quantise_rows(x, n, shape.d_model);
      const std::array<Linear, 3> tasks = {
          Linear{&w.q, out[0], uint64_t{shape.layers[layer].n_heads} * shape.head_dim},
          Linear{&w.k, out[1], kv_width}, Linear{&w.v, out[2], kv_width}};
      return linear(tasks, x, n, {&w.attn_output});
    }
    case gpu_attn::HostProduct::kAttnOutput: {
      if (!is_float(w.attn_output.type)) quantise_rows(x, n, w.attn_output.n_in);
      const std::array<Linear, 1> tasks = {Linear{&w.attn_output, out[0], shape.d_model}};
      return linear(tasks, x, n, {});
    }
    case gpu_attn::HostProduct::kFfn: {
      if (!is_float(w.ffn_gate.type) || !is_float(w.ffn_up.type))
        quantise_rows(x, n, shape.d_model);
      gate_up(w, shape.layers[layer].d_ff, x, n);
      const std::array<Linear, 1> tasks = {Linear{&w.ffn_down, out[0], shape.d_model}};
      return linear(tasks, gate.data(), n, {});
    }
  }
}

void Walk::State::logits() {
  const uint32_t d_model = shape.d_model;
  const auto n = static_cast<uint32_t>(logit_rows.size());
  for (uint32_t i = 0; i < n; ++i)  // gathered to the front: logit_rows ascends, so no row is
                                    // overwritten before it is read
    if (logit_rows[i] != i)
      std::copy_n(residual.data() + uint64_t{logit_rows[i]} * d_model, d_model,
                  residual.data() + uint64_t{i} * d_model);
  norm_rows(residual.data(), n, model.output_norm(), !is_float(model.output().type));
  logit_values.resize(uint64_t{n} * shape.vocab_size);
  const std::array<Linear, 1> tasks = {
      Linear{&model.output(), logit_values.data(), shape.vocab_size}};
  const LayerWeights& first = model.layer(0);  // of the next step
  linear(tasks, normed.data(), n, {&first.q, &first.k, &first.v});
}

}  // namespace strata::engine
