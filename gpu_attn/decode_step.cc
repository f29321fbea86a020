#include "gpu_attn/decode_step.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include "base/check.h"
#include "base/checked_math.h"
#include "gpu_attn/attend_splits.h"

namespace strata::gpu_attn {
namespace {

constexpr uint64_t kInputAlignment = 256;

bool is_float(TensorType type) {
  return type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBF16;
}

}  // namespace

DeviceStepInputs::DeviceStepInputs(const DeviceModel& model, uint32_t n_rows, std::byte* base)
    : model_(model),
      base_(base),
      n_rows_(n_rows),
      row_bytes_(round_up(uint64_t{n_rows} * 4, kInputAlignment)) {
  uint64_t at = 2 * row_bytes_;
  for (const uint32_t n_rot : model.n_rot)
    at += round_up(uint64_t{n_rows} * n_rot * 4, kInputAlignment);
  residual_at_ = at;
  const bool are_sent = model.embedding.bytes == nullptr;  // rows of the embedding
  bytes_ = at + (are_sent ? uint64_t{n_rows} * model.d_model * 4 : 0);
}

float* DeviceStepInputs::cos_sin(uint32_t rope_set) const {
  uint64_t at = 2 * row_bytes_;
  for (uint32_t set = 0; set < rope_set; ++set)
    at += round_up(uint64_t{n_rows_} * model_.n_rot[set] * 4, kInputAlignment);
  return reinterpret_cast<float*>(base_ + at);
}

uint64_t DeviceStepInputs::max_bytes(const DeviceModel& model, uint32_t max_rows) {
  return DeviceStepInputs(model, max_rows, nullptr).bytes();
}

DeviceStep::DeviceStep(const DeviceTable& table, const DeviceModel& model,
                       LayerWeightsSource& weights, const DeviceStepSizes& sizes, std::byte* memory)
    : table_(table),
      model_(model),
      weights_(weights),
      sizes_(sizes),
      buffers_(carve(model, sizes, memory)) {
  STRATA_CHECK(
      sizes.max_rows >= 1 && model.layers.size() == model.shapes.size() && !model.layers.empty(),
      "max_rows=%u, %zu layers, %zu shapes", sizes.max_rows, model.layers.size(),
      model.shapes.size());
}

/// One step under way. After an error nothing more is queued.
class DeviceStep::Queue {
 public:
  Queue(const DeviceStep& step, DeviceStream* stream, const DeviceStepRows& rows)
      : step_(step),
        model_(step.model_),
        b_(step.buffers_),
        stream_(stream),
        rows_(rows),
        inputs_(step.model_, rows.n_rows, step.buffers_.inputs),
        are_few_(rows.n_rows <= kDeviceFewRows) {}

  int run() {
    begin();
    const uint32_t n_layers = static_cast<uint32_t>(model_.layers.size());
    for (uint32_t layer = 0; layer < n_layers && error_ == 0; ++layer) {
      const DeviceLayerWeights* weights = nullptr;
      keep(step_.weights_.take(stream_, layer, &weights));
      if (error_ != 0) break;
      attention(layer, *weights);
      feed_forward(layer, *weights);
      keep(step_.weights_.release(stream_, layer));
      if (layer + 1 < n_layers)
        next_norm(layer, model_.layers[layer + 1].attn_norm,
                  quant_for({&model_.layers[layer + 1].q, &model_.layers[layer + 1].k,
                             &model_.layers[layer + 1].v}));
    }
    if (!rows_.logit_rows.empty()) logits();
    return error_;
  }

 private:
  struct Part {  // rows of the step
    uint32_t first;
    uint32_t n_rows;
  };
  struct Attended {
    ChosenTables tables;
    uint32_t first_block;
    uint64_t position_stride;  // between KV heads; 0: all stand at the same positions
  };

  void keep(int error) {
    if (error_ == 0) error_ = error;
  }
  template <class Args>
  void call(int (*DeviceKernels::*operation)(DeviceStream*, const Args&), const Args& args) {
    if (error_ == 0) error_ = (step_.table_.kernels.*operation)(stream_, args);
  }

  /// The int8 form, where one of the matrices reads it: few rows of a quantised type.
  QuantRows quant_for(std::initializer_list<const PackedMatrix*> readers) const {
    if (!are_few_) return {};
    for (const PackedMatrix* of : readers)
      if (!is_float(of->type)) return b_.quant;
    return {};
  }

  void linear(std::initializer_list<std::pair<const PackedMatrix*, float*>> tasks, const float* x,
              uint32_t n_rows) {
    DeviceLinearArgs args{};
    for (const auto& [w, out] : tasks) {
      args.w[args.n_matrices] = *w;
      args.out[args.n_matrices++] = out;
    }
    args.x = x;
    args.quant = b_.quant;
    args.n_rows = n_rows;
    args.scratch = b_.scratch;
    call(&DeviceKernels::linear, args);
  }

  /// Waits for the host's products in place of what would be queued; false where it has none.
  bool take_from_host(HostProduct product, uint32_t layer, const float* x,
                      std::span<const float*> products) {
    const LayerPiece piece =
        product == HostProduct::kFfn ? LayerPiece::kFfn : LayerPiece::kAttention;
    if (rows_.products == nullptr || !rows_.products->pieces(layer).has(piece)) return false;
    if (error_ == 0)
      keep(rows_.products->multiply(stream_, product, layer, rows_.n_rows, x, products));
    return true;
  }

  void begin();
  void attention(uint32_t layer, const DeviceLayerWeights& w);
  void rotate(uint32_t layer, const DeviceLayerWeights& w, Part part);
  Attended attended_by(uint32_t layer, Part part);
  void attend(uint32_t layer, Part part, const QuantRows& quant);
  void prefill(uint32_t layer);
  void feed_forward(uint32_t layer, const DeviceLayerWeights& w);
  void next_norm(uint32_t layer, const float* weight, const QuantRows& quant);
  void logits();

  const DeviceStep& step_;
  const DeviceModel& model_;
  const Buffers& b_;
  DeviceStream* stream_;
  const DeviceStepRows& rows_;
  DeviceStepInputs inputs_;  // on the device
  bool are_few_;
  std::array<const float*, 3> qkv_{};  // of the layer, where rotate() reads them
  const float* projected_ = nullptr;   // what the next norm adds
  int error_ = 0;
};

void DeviceStep::Queue::begin() {
  keep(step_.table_.copy(stream_, b_.inputs, rows_.inputs, inputs_.bytes()));
  if (model_.embedding.bytes != nullptr)
    call(&DeviceKernels::embed, DeviceEmbedArgs{.matrix = model_.embedding,
                                                .tokens = inputs_.tokens(),
                                                .out = inputs_.residual(),
                                                .n_rows = rows_.n_rows,
                                                .scale = model_.embedding_scale});
  const DeviceLayerWeights& first = model_.layers[0];
  call(&DeviceKernels::norm, DeviceNormArgs{.residual = inputs_.residual(),
                                            .projected = nullptr,
                                            .bias = nullptr,
                                            .post_norm = nullptr,
                                            .weight = first.attn_norm,
                                            .normed = b_.normed,
                                            .quant = quant_for({&first.q, &first.k, &first.v}),
                                            .n_rows = rows_.n_rows,
                                            .n = model_.d_model,
                                            .eps = model_.norm_eps});
}

/// Rotates the part's rows to the front of b_.rotated, and stores their K and V.
void DeviceStep::Queue::rotate(uint32_t layer, const DeviceLayerWeights& w, Part part) {
  const LayerShape& shape = model_.shapes[layer];
  const DeviceKvTable& kv = rows_.kv[layer];
  const uint32_t n_rot = shape.has_rope ? model_.n_rot[shape.rope_set] : 0;
  const uint64_t kv_width = uint64_t{shape.n_kv_heads} * model_.head_dim;
  const uint64_t q_width = uint64_t{shape.n_heads} * model_.head_dim;
  const float* cos_sin =
      n_rot == 0 ? nullptr : inputs_.cos_sin(shape.rope_set) + uint64_t{part.first} * n_rot;
  call(&DeviceKernels::rotate, DeviceRotateArgs{.q = qkv_[0] + part.first * q_width,
                                                .k = qkv_[1] + part.first * kv_width,
                                                .v = qkv_[2] + part.first * kv_width,
                                                .q_bias = w.q_bias,
                                                .k_bias = w.k_bias,
                                                .v_bias = w.v_bias,
                                                .q_norm = w.q_norm,
                                                .k_norm = w.k_norm,
                                                .cos_sin = cos_sin,
                                                .positions = inputs_.positions() + part.first,
                                                .blocks = kv.blocks,
                                                .mirror = kv.mirror,
                                                .block_stride = kv.stride,
                                                .first_block = kv.first_block,
                                                .layout = model_.kv_layout,
                                                .q_out = b_.rotated,
                                                .n_rows = part.n_rows,
                                                .n_kv_heads = shape.n_kv_heads,
                                                .group = shape.n_heads / shape.n_kv_heads,
                                                .n_rot = n_rot,
                                                .pairing = model_.pairing,
                                                .q_scale = model_.attention_scale,
                                                .norm_eps = model_.norm_eps});
}

/// What the part's rows attend: what is chosen for each KV head, or all that there is.
DeviceStep::Queue::Attended DeviceStep::Queue::attended_by(uint32_t layer, Part part) {
  const DeviceKvTable& kv = rows_.kv[layer];
  if (error_ != 0 || rows_.chooser == nullptr || !rows_.chooser->chooses(layer))
    return {
        {kv.blocks, kv.stride, kv.n_blocks, inputs_.positions() + part.first}, kv.first_block, 0};
  ChosenTables chosen;
  keep(rows_.chooser->choose(stream_, layer, part.n_rows, b_.rotated, chosen));
  return {chosen, 0, part.n_rows};
}

/// Attention of few rows: what rotate() gave last. The host's part of it, where it has one, is
/// asked for first and merged last.
void DeviceStep::Queue::attend(uint32_t layer, Part part, const QuantRows& quant) {
  const LayerShape& shape = model_.shapes[layer];
  const Attended of = attended_by(layer, part);
  const uint32_t group = shape.n_heads / shape.n_kv_heads;
  const uint32_t n_blocks = rows_.host == nullptr
                                ? of.tables.n_blocks
                                : rows_.host->device_blocks(layer, of.tables.n_blocks);
  const bool is_shared = n_blocks < of.tables.n_blocks;
  const AttendSplit split =
      attend_split(n_blocks, shape.n_kv_heads, group, part.n_rows, step_.sizes_.n_multiprocessors);
  if (is_shared && error_ == 0) keep(rows_.host->ask(stream_, layer, part.n_rows, b_.rotated));
  call(&DeviceKernels::attend, DeviceAttendArgs{.q = b_.rotated,
                                                .positions = of.tables.positions,
                                                .position_stride = of.position_stride,
                                                .blocks = of.tables.blocks,
                                                .block_stride = of.tables.stride,
                                                .first_block = of.first_block,
                                                .n_blocks = n_blocks,
                                                .layout = model_.kv_layout,
                                                .n_rows = part.n_rows,
                                                .n_kv_heads = shape.n_kv_heads,
                                                .group = group,
                                                .window = shape.window,
                                                .split_blocks = split.blocks,
                                                .n_splits = split.n_splits,
                                                .o = b_.partial_o,
                                                .m = b_.partial_m,
                                                .l = b_.partial_l});
  if (is_shared && error_ == 0) {
    const uint64_t at = uint64_t{split.n_splits} * part.n_rows * shape.n_heads;  // queries
    keep(rows_.host->attend(
        stream_, layer, part.n_rows,
        {b_.partial_o + at * model_.head_dim, b_.partial_m + at, b_.partial_l + at}));
  }
  const uint64_t q_width = uint64_t{shape.n_heads} * model_.head_dim;
  call(&DeviceKernels::merge, DeviceMergeArgs{.o = b_.partial_o,
                                              .m = b_.partial_m,
                                              .l = b_.partial_l,
                                              .out = b_.attended + part.first * q_width,
                                              .quant = quant,
                                              .n_splits = split.n_splits + (is_shared ? 1 : 0),
                                              .n_rows = part.n_rows,
                                              .n_kv_heads = shape.n_kv_heads,
                                              .group = group,
                                              .head_dim = model_.head_dim});
}

/// Attention of many rows: what rotate() gave last, all of them.
void DeviceStep::Queue::prefill(uint32_t layer) {
  const LayerShape& shape = model_.shapes[layer];
  const DeviceKvTable& kv = rows_.kv[layer];
  const uint32_t group = shape.n_heads / shape.n_kv_heads;
  call(&DeviceKernels::prefill,
       DevicePrefillArgs{
           .q = b_.rotated,
           .positions = inputs_.positions(),
           .blocks = kv.blocks,
           .block_stride = kv.stride,
           .first_block = kv.first_block,
           .n_blocks = kv.n_blocks,
           .layout = model_.kv_layout,
           .n_rows = rows_.n_rows,
           .n_kv_heads = shape.n_kv_heads,
           .group = group,
           .window = shape.window,
           .out = b_.attended,
           .quant = {},
           .n_splits = device_prefill_splits(rows_.n_rows, shape.n_kv_heads, group, model_.head_dim,
                                             kv.n_blocks, step_.sizes_.n_multiprocessors),
           .scratch = b_.scratch});
}

/// Heads wider than prefill takes are attended as few rows at a time, each part after the K and V
/// of those before it.
void DeviceStep::Queue::attention(uint32_t layer, const DeviceLayerWeights& w) {
  qkv_ = {b_.q, b_.k, b_.v};
  if (!take_from_host(HostProduct::kQkv, layer, b_.normed, qkv_))
    linear({{&w.q, b_.q}, {&w.k, b_.k}, {&w.v, b_.v}}, b_.normed, rows_.n_rows);
  if (!are_few_ && model_.head_dim <= kDevicePrefillHeadDimMax) {
    rotate(layer, w, {0, rows_.n_rows});
    prefill(layer);
  } else {
    for (uint32_t first = 0; first < rows_.n_rows; first += kDeviceFewRows) {
      const Part part{first, std::min(kDeviceFewRows, rows_.n_rows - first)};
      rotate(layer, w, part);
      attend(layer, part, quant_for({&w.attn_output}));
    }
  }
  projected_ = b_.projected;
  if (!take_from_host(HostProduct::kAttnOutput, layer, b_.attended, {&projected_, 1}))
    linear({{&w.attn_output, b_.projected}}, b_.attended, rows_.n_rows);
  call(&DeviceKernels::norm, DeviceNormArgs{.residual = inputs_.residual(),
                                            .projected = projected_,
                                            .bias = w.output_bias,
                                            .post_norm = w.post_attn_norm,
                                            .weight = w.ffn_norm,
                                            .normed = b_.normed,
                                            .quant = quant_for({&w.ffn_gate, &w.ffn_up}),
                                            .n_rows = rows_.n_rows,
                                            .n = model_.d_model,
                                            .eps = model_.norm_eps});
}

void DeviceStep::Queue::feed_forward(uint32_t layer, const DeviceLayerWeights& w) {
  projected_ = b_.projected;
  if (take_from_host(HostProduct::kFfn, layer, b_.normed, {&projected_, 1})) return;
  linear({{&w.ffn_gate, b_.gate}, {&w.ffn_up, b_.up}}, b_.normed, rows_.n_rows);
  call(&DeviceKernels::activate, DeviceActivateArgs{.gate = b_.gate,
                                                    .up = b_.up,
                                                    .out = b_.gate,
                                                    .quant = quant_for({&w.ffn_down}),
                                                    .n_rows = rows_.n_rows,
                                                    .n = model_.shapes[layer].d_ff,
                                                    .kind = model_.activation});
  linear({{&w.ffn_down, b_.projected}}, b_.gate, rows_.n_rows);
}

/// Adds what the layer's feed-forward gave, and norms for the next layer.
void DeviceStep::Queue::next_norm(uint32_t layer, const float* weight, const QuantRows& quant) {
  call(&DeviceKernels::norm, DeviceNormArgs{.residual = inputs_.residual(),
                                            .projected = projected_,
                                            .bias = nullptr,
                                            .post_norm = model_.layers[layer].post_ffn_norm,
                                            .weight = weight,
                                            .normed = b_.normed,
                                            .quant = quant,
                                            .n_rows = rows_.n_rows,
                                            .n = model_.d_model,
                                            .eps = model_.norm_eps});
}

/// Runs of neighbouring rows that want logits are normed to the front, then multiplied as one.
void DeviceStep::Queue::logits() {
  const uint64_t d_model = model_.d_model;
  const auto n = static_cast<uint32_t>(rows_.logit_rows.size());
  const bool is_quantised = n <= kDeviceFewRows && !is_float(model_.output.type);
  for (uint32_t begin = 0, end = 0; begin < n; begin = end) {
    const uint64_t row = rows_.logit_rows[begin];
    for (end = begin + 1; end < n && rows_.logit_rows[end] == row + (end - begin);) ++end;
    const uint64_t at = begin * d_model;
    call(&DeviceKernels::norm,
         DeviceNormArgs{.residual = inputs_.residual() + row * d_model,
                        .projected = projected_ + row * d_model,
                        .bias = nullptr,
                        .post_norm = model_.layers.back().post_ffn_norm,
                        .weight = model_.output_norm,
                        .normed = b_.normed + at,
                        .quant = !is_quantised
                                     ? QuantRows{}
                                     : QuantRows{b_.quant.q + at, b_.quant.scales + at / kActGroup,
                                                 b_.quant.neg_sums + at / kActHalfGroup},
                        .n_rows = end - begin,
                        .n = model_.d_model,
                        .eps = model_.norm_eps});
  }
  linear({{&model_.output, b_.logits}}, b_.normed, n);
  if (!rows_.wants_best) return;
  call(&DeviceKernels::argmax, DeviceArgmaxArgs{.x = b_.logits,
                                                .n_rows = n,
                                                .n = model_.vocab_size,
                                                .value = b_.best_logits,
                                                .index = b_.best_tokens});
}

int DeviceStep::queue(DeviceStream* stream, const DeviceStepRows& rows) {
  STRATA_CHECK(rows.n_rows >= 1 && rows.n_rows <= sizes_.max_rows, "%u rows of %u", rows.n_rows,
               sizes_.max_rows);
  STRATA_CHECK(rows.logit_rows.size() <= sizes_.max_logit_rows &&
                   (rows.logit_rows.empty() || rows.logit_rows.back() < rows.n_rows),
               "%zu logit rows of %u", rows.logit_rows.size(), sizes_.max_logit_rows);
  STRATA_CHECK(rows.kv.size() == model_.layers.size(), "%zu tables", rows.kv.size());
  STRATA_CHECK(rows.chooser == nullptr || rows.n_rows <= kDeviceFewRows, "%u rows choose",
               rows.n_rows);
  STRATA_CHECK(rows.host == nullptr || (rows.chooser == nullptr && rows.n_rows <= kDeviceFewRows),
               "%u rows are shared with the host", rows.n_rows);
  STRATA_CHECK(rows.products == nullptr || rows.n_rows <= kDeviceFewRows,
               "%u rows are multiplied on the host", rows.n_rows);
  for (const DeviceKvTable& kv : rows.kv)
    STRATA_CHECK(kv.n_blocks <= sizes_.max_blocks && kv.n_blocks <= kv.stride,
                 "n_blocks=%u max_blocks=%u", kv.n_blocks, sizes_.max_blocks);
  return Queue(*this, stream, rows).run();
}

}  // namespace strata::gpu_attn
