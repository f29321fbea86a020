#include "planner/virtual/predicted_step.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/even_spread.h"
#include "planner/virtual/virtual_table.h"

namespace strata::planner {
namespace {

constexpr float kEps = 1e-5F;

VirtualDeviceOptions device_options(const Placement& placement) {
  return {.hbm_bytes_max = placement.hbm_bytes_max,
          .pinned_bytes_max = placement.pinned_bytes_max,
          .has_bytes = false};
}

}  // namespace

PredictedStep::PredictedStep(const DeviceProfile& profile, const PredictedModel& model,
                             const Placement& placement, uint32_t n_positions_max,
                             uint32_t n_rows_max)
    : model_(model),
      placement_(placement),
      n_positions_max_(n_positions_max),
      n_rows_max_(n_rows_max),
      n_selected_(std::min(div_up(placement.selected_positions, kBlockPositions),
                           div_up(n_positions_max, kBlockPositions))),
      n_hits_(static_cast<uint64_t>(static_cast<double>(n_selected_) * placement.hit_share)),
      device_(profile, device_options(placement)),
      table_(virtual_table()) {
  const ModelShape& shape = model.shape;
  STRATA_CHECK(shape.layers.size() == shape.n_layers, "%zu layers for %u", shape.layers.size(),
               shape.n_layers);
  STRATA_CHECK(model.pieces.layers.size() == shape.n_layers, "%zu piece sizes for %u layers",
               model.pieces.layers.size(), shape.n_layers);
  for (uint32_t i = 0; i < shape.n_layers; ++i) {
    const LayerKind kind = shape.layers[i].kind;
    STRATA_CHECK(kind == LayerKind::kFull || kind == LayerKind::kWindow, "layer %u of kind %u", i,
                 static_cast<unsigned>(kind));
    layers_.push_back({.is_streamed = is_spread_to(i, placement.n_streamed_layers, shape.n_layers),
                       .is_full = kind == LayerKind::kFull});
    if (layers_[i].is_streamed) streamed_layers_.push_back(i);
    if (layers_[i].is_full && is_kv_ahead()) ahead_kv_layers_.push_back(i);
  }
  make_streams();
  take_rows();
  take_weights();
  take_kv();
}

/// Memory of the device, or null, and why_not() says what it was for.
std::byte* PredictedStep::take(uint64_t bytes, const char* what) {
  void* memory = nullptr;
  const int number = table_.allocate(as_device(device_), bytes, &memory);
  if (table_.status(number) == DeviceStatus::kOutOfMemory) {
    if (why_not_.empty()) why_not_ = std::string("HBM does not hold ") + what;
    return nullptr;
  }
  check(number);
  return static_cast<std::byte*>(memory);
}

/// Pinned addresses of no memory: for what is too large to be there.
std::byte* PredictedStep::pin_nowhere(uint64_t bytes, const char* what) {
  std::byte* memory = pointer_to(nowhere_);
  nowhere_ += round_up(bytes, uint64_t{1} << 30);
  void* mapped = nullptr;
  const int number = table_.pin(as_device(device_), memory, std::max<uint64_t>(bytes, 1), &mapped);
  if (table_.status(number) != DeviceStatus::kPinRefused) {
    check(number);
    return memory;
  }
  if (why_not_.empty()) why_not_ = std::string("DRAM does not hold ") + what;
  return nullptr;
}

/// Pinned memory that is there: kernels read tables and positions in it.
template <class T>
T* PredictedStep::pin_real(uint64_t n) {
  real_.push_back(HostMemory::reserve(std::max<uint64_t>(n, 1) * sizeof(T)));
  void* mapped = nullptr;
  const int number =
      table_.pin(as_device(device_), real_.back().data(), real_.back().size(), &mapped);
  if (table_.status(number) == DeviceStatus::kPinRefused) {
    if (why_not_.empty()) why_not_ = "DRAM does not hold tables";
    return nullptr;
  }
  check(number);
  return reinterpret_cast<T*>(real_.back().data());
}

void PredictedStep::make_streams() {
  Device* device = as_device(device_);
  for (DeviceStream** stream : {&kernels_, &stores_, &weights_ahead_.stream, &kv_ahead_.stream})
    check(table_.create_stream(device, stream));
  for (DeviceEvent** event : {&rotated_, &stored_, &queried_, &finished_})
    check(table_.create_event(device, event));
  for (AheadBuffers* ahead : {&weights_ahead_, &kv_ahead_})
    for (uint32_t slot = 0; slot < AheadBuffers::kSlots; ++slot) {
      check(table_.create_event(device, &ahead->arrived[slot]));
      check(table_.create_event(device, &ahead->used[slot]));
    }
}

void PredictedStep::make_ahead(AheadBuffers& ahead, uint64_t slot_bytes, const char* what) {
  for (std::byte*& slot : ahead.slots) slot = take(slot_bytes, what);
}

uint64_t PredictedStep::layer_bytes(uint32_t layer) const {
  const LayerPieceBytes& bytes = model_.pieces.layers[layer];
  return bytes.qkv + bytes.attn_output + bytes.ffn_gate_up + bytes.ffn_down;
}

uint64_t PredictedStep::kv_bytes(uint32_t layer) const {
  return model_.shape.layers[layer].n_kv_heads * layers_[layer].stride * model_.layout.block_bytes;
}

/// Does K and V of full layers come to HBM a layer ahead?
bool PredictedStep::is_kv_ahead() const {
  return n_rows_max_ > 1 ? placement_.kv != KvPlace::kHbm : placement_.kv == KvPlace::kDramStreamed;
}

void PredictedStep::take_rows() {
  const ModelShape& shape = model_.shape;
  const uint64_t n = n_rows_max_;
  uint64_t q_width = 0, qkv_width = 0, d_ff = 0, scratch = 0, n_heads = 0;
  for (const LayerShape& of : shape.layers) {
    const uint64_t width = uint64_t{of.n_heads} * shape.head_dim;
    const uint64_t kv_width = uint64_t{of.n_kv_heads} * shape.head_dim;
    q_width = std::max(q_width, width);
    qkv_width = std::max(qkv_width, width + 2 * kv_width);
    d_ff = std::max<uint64_t>(d_ff, of.d_ff);
    n_heads = std::max<uint64_t>(n_heads, of.n_heads);
    const uint32_t widest = std::max({of.d_ff, shape.d_model, of.n_heads * shape.head_dim});
    scratch = std::max(scratch, device_linear_scratch_bytes(n_rows_max_, widest, widest));
  }
  const char* what = "a step's rows";
  const auto floats = [&](uint64_t count) {
    return reinterpret_cast<float*>(take(count * sizeof(float), what));
  };
  const uint64_t widest = std::max({q_width, d_ff, uint64_t{shape.d_model}});
  const uint64_t n_splits =
      div_up(n_positions_max_, uint64_t{kPredictedSplitBlocks} * kBlockPositions);
  norm_weight_ = floats(widest);
  residual_ = floats(n * shape.d_model);
  normed_ = floats(n * shape.d_model);
  quant_ = take(std::min<uint64_t>(n, kDeviceFewRows) * widest * 2 + 256, what);
  projected_ = take(
      std::max({n * qkv_width, 2 * n * d_ff, uint64_t{shape.vocab_size}}) * sizeof(float), what);
  attended_ = floats(2 * n * q_width);
  added_ = floats(n * shape.d_model);
  if (n == 1) partials_ = floats(n_splits * n_heads * (shape.head_dim + 2));
  if (scratch > 0) scratch_ = take(scratch, what);
  tokens_ = pin_real<int32_t>(n_positions_max_);
  positions_ = pin_real<uint32_t>(n_positions_max_);
  selected_position_ = pin_real<uint32_t>(1);
  host_q_ = pin_real<float>(q_width);
  host_partials_ = pin_real<float>(n_heads * (shape.head_dim + 2));
  host_token_ = pin_real<int32_t>(2);
}

void PredictedStep::take_weights() {
  uint64_t slot_bytes = 0;
  head_ = take(model_.pieces.output_head, "the output head");
  embedding_ =
      pin_nowhere(model_.pieces.embedding_row * round_up(model_.shape.vocab_size, kPanelRows),
                  "the embedding beside weights and K and V");
  for (uint32_t i = 0; i < layers_.size(); ++i) {
    const uint64_t bytes = layer_bytes(i);
    layers_[i].weights = layers_[i].is_streamed ? pin_nowhere(bytes, "the streamed weights")
                                                : take(bytes, "the weights");
    if (layers_[i].is_streamed) slot_bytes = std::max(slot_bytes, bytes);
  }
  if (slot_bytes > 0) make_ahead(weights_ahead_, slot_bytes, "two layers of streamed weights");
}

void PredictedStep::take_kv() {
  const bool is_selected =
      placement_.kv == KvPlace::kSelectedDram || placement_.kv == KvPlace::kSelectedNvme;
  const uint64_t block_bytes = model_.layout.block_bytes;
  uint64_t slot_bytes = 0, missed_bytes = 0;
  for (uint32_t i = 0; i < layers_.size() && why_not_.empty(); ++i) {
    Layer& layer = layers_[i];
    const LayerShape& of = model_.shape.layers[i];
    const uint64_t chunk_blocks = div_up(n_rows_max_, kBlockPositions) + 1;
    layer.stride = div_up(n_positions_max_, kBlockPositions);
    if (!layer.is_full)
      layer.stride = std::min(layer.stride, div_up(of.window, kBlockPositions) + chunk_blocks);
    const bool is_near = !layer.is_full || placement_.kv == KvPlace::kHbm;
    const bool is_on_disk = layer.is_full && placement_.kv == KvPlace::kSelectedNvme;
    if (is_near)
      layer.kv = take(kv_bytes(i), "K and V");
    else if (is_on_disk)  // the open blocks; the others are on the disk
      layer.kv = pin_nowhere(of.n_kv_heads * block_bytes, "the open blocks");
    else
      layer.kv = pin_nowhere(kv_bytes(i), "K and V");
    layer.table = pin_real<std::byte*>(of.n_kv_heads * layer.stride);
    if (layer.is_full && is_kv_ahead()) slot_bytes = std::max(slot_bytes, kv_bytes(i));
    if (layer.is_full && is_selected && n_rows_max_ == 1) {
      layer.cache = take(std::max<uint64_t>(of.n_kv_heads * n_hits_, 1) * block_bytes,
                         "the cached blocks of K and V");
      layer.selected = pin_real<std::byte*>(of.n_kv_heads * n_selected_);
      missed_bytes = std::max(missed_bytes, of.n_kv_heads * (n_selected_ - n_hits_) * block_bytes);
    }
  }
  if (slot_bytes > 0) make_ahead(kv_ahead_, slot_bytes, "K and V of two layers");
  if (placement_.kv == KvPlace::kSelectedNvme) staging_ = pin_nowhere(missed_bytes, "staging");
  if (!why_not_.empty()) return;
  std::iota(positions_, positions_ + n_positions_max_, 0U);
  *selected_position_ = static_cast<uint32_t>(n_selected_ * kBlockPositions - 1);
  for (uint32_t i = 0; i < layers_.size(); ++i)
    if (layers_[i].selected != nullptr) set_selected(i);
}

/// A wrong call or a hazard is a bug of the schedule.
void PredictedStep::check(int number) const {
  STRATA_CHECK(number == 0, "%s: %s", table_.message(number),
               device_.hazards().empty() ? "" : device_.hazards()[0].text.c_str());
}

/// Keeps the copies of weights two streamed layers ahead.
void PredictedStep::ask_weights() {
  if (streamed_layers_.empty()) return;
  AheadBuffers& ahead = weights_ahead_;
  for (; ahead.n_asked < ahead.n_taken + AheadBuffers::kSlots; ++ahead.n_asked) {
    const uint32_t layer = streamed_layers_[ahead.n_asked % streamed_layers_.size()];
    const uint64_t slot = ahead.n_asked % AheadBuffers::kSlots;
    check(table_.await(ahead.stream, ahead.used[slot]));
    check(table_.copy(ahead.stream, ahead.slots[slot], layers_[layer].weights, layer_bytes(layer)));
    check(table_.record(ahead.stream, ahead.arrived[slot]));
  }
}

void PredictedStep::run(uint32_t first_pos, uint32_t n_rows, bool wants_logits) {
  STRATA_CHECK(
      why_not_.empty() && n_rows <= n_rows_max_ && uint64_t{first_pos} + n_rows <= n_positions_max_,
      "positions %u + %u", first_pos, n_rows);
  const Rows rows{first_pos, n_rows};
  const ModelShape& shape = model_.shape;
  ask_weights();
  ask_kv();
  const DeviceEmbedArgs embed{.matrix = {.bytes = embedding_,
                                         .type = TensorType::kF16,
                                         .n_out = shape.vocab_size,
                                         .n_in = shape.d_model,
                                         .panel_bytes = kPanelRows * model_.pieces.embedding_row},
                              .tokens = tokens_ + first_pos,
                              .out = residual_,
                              .n_rows = n_rows,
                              .scale = 1};
  check(table_.kernels.embed(kernels_, embed));
  norm(nullptr, n_rows);
  for (uint32_t layer = 0; layer < layers_.size(); ++layer) run_layer(layer, rows);
  if (wants_logits) finish(n_rows);
  check(table_.record(kernels_, finished_));
  check(table_.wait_event(finished_));
}

void PredictedStep::run_layer(uint32_t layer, const Rows& rows) {
  const ModelShape& shape = model_.shape;
  const LayerShape& of = shape.layers[layer];
  const LayerPieceBytes& bytes = model_.pieces.layers[layer];
  const uint64_t q_width = uint64_t{of.n_heads} * shape.head_dim;
  const uint64_t kv_width = uint64_t{of.n_kv_heads} * shape.head_dim;
  const uint64_t slot = weights_ahead_.n_taken % AheadBuffers::kSlots;
  std::byte* weights = layers_[layer].weights;
  if (layers_[layer].is_streamed) {
    weights = weights_ahead_.slots[slot];
    check(table_.await(kernels_, weights_ahead_.arrived[slot]));
  }
  linear(weights, bytes.qkv, shape.d_model, {q_width, kv_width, kv_width}, normed_, projected_,
         rows.n_rows);
  weights += bytes.qkv;
  attend(layer, rows);
  linear(weights, bytes.attn_output, q_width, {shape.d_model}, attended_,
         reinterpret_cast<std::byte*>(added_), rows.n_rows);
  weights += bytes.attn_output;
  norm(added_, rows.n_rows);
  linear(weights, bytes.ffn_gate_up, shape.d_model, {of.d_ff, of.d_ff}, normed_, projected_,
         rows.n_rows);
  weights += bytes.ffn_gate_up;
  auto* gate = reinterpret_cast<float*>(projected_);
  const DeviceActivateArgs activate{.gate = gate,
                                    .up = gate + uint64_t{rows.n_rows} * of.d_ff,
                                    .out = gate,
                                    .quant = quant_rows(rows.n_rows, of.d_ff),
                                    .n_rows = rows.n_rows,
                                    .n = of.d_ff,
                                    .kind = DeviceActivation::kSiluMul};
  check(table_.kernels.activate(kernels_, activate));
  linear(weights, bytes.ffn_down, of.d_ff, {shape.d_model}, gate,
         reinterpret_cast<std::byte*>(added_), rows.n_rows);
  if (layers_[layer].is_streamed) {
    check(table_.record(kernels_, weights_ahead_.used[slot]));
    ++weights_ahead_.n_taken;
    ask_weights();
  }
  norm(added_, rows.n_rows);
}

/// The int8 form of rows that few-row products read; nothing where they are many or not wanted.
QuantRows PredictedStep::quant_rows(uint32_t n_rows, uint64_t width) const {
  if (n_rows > kDeviceFewRows || !model_.is_quantised) return {};
  const uint64_t n = n_rows * width;
  std::byte* scales = quant_ + round_up(n, 256);
  std::byte* sums = scales + n / kActGroup * sizeof(float);
  return {reinterpret_cast<int8_t*>(quant_), reinterpret_cast<float*>(scales),
          reinterpret_cast<int32_t*>(sums)};
}

/// Matrices that share `weight_bytes` by their rows; their outputs stand behind each other.
void PredictedStep::linear(std::byte* weights, uint64_t weight_bytes, uint64_t n_in,
                           std::initializer_list<uint64_t> n_out, const float* x, std::byte* out,
                           uint32_t n_rows) {
  DeviceLinearArgs args{};
  const uint64_t sum = std::accumulate(n_out.begin(), n_out.end(), uint64_t{0});
  auto* to = reinterpret_cast<float*>(out);
  for (const uint64_t width : n_out) {
    PackedMatrix& w = args.w[args.n_matrices];
    w.bytes = weights;
    w.type = model_.is_quantised ? TensorType::kQ4_K : TensorType::kF16;
    w.n_out = static_cast<uint32_t>(width);
    w.n_in = static_cast<uint32_t>(n_in);
    w.panel_bytes = weight_bytes / sum * width / w.n_panels();
    weights += w.total_bytes();
    args.out[args.n_matrices++] = to;
    to += n_rows * width;
  }
  args.x = x;
  args.quant = quant_rows(n_rows, n_in);
  args.n_rows = n_rows;
  args.scratch = scratch_;
  check(table_.kernels.linear(kernels_, args));
}

void PredictedStep::norm(const float* projected, uint32_t n_rows) {
  const uint32_t n = model_.shape.d_model;
  const DeviceNormArgs args{.residual = residual_,
                            .projected = projected,
                            .bias = nullptr,
                            .post_norm = nullptr,
                            .weight = norm_weight_,
                            .normed = normed_,
                            .quant = quant_rows(n_rows, n),
                            .n_rows = n_rows,
                            .n = n,
                            .eps = kEps};
  check(table_.kernels.norm(kernels_, args));
}

/// Logits of the last row, and the likeliest token to the host.
void PredictedStep::finish(uint32_t n_rows) {
  const ModelShape& shape = model_.shape;
  const float* last = normed_ + uint64_t{n_rows - 1} * shape.d_model;
  linear(head_, model_.pieces.output_head, shape.d_model, {shape.vocab_size}, last, projected_, 1);
  auto* value = reinterpret_cast<float*>(added_);
  const DeviceArgmaxArgs args{.x = reinterpret_cast<const float*>(projected_),
                              .n_rows = 1,
                              .n = shape.vocab_size,
                              .value = value,
                              .index = reinterpret_cast<int32_t*>(value + 1)};
  check(table_.kernels.argmax(kernels_, args));
  check(table_.copy(kernels_, host_token_, value, 2 * sizeof(float)));
}

}  // namespace strata::planner
