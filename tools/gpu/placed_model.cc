#include "tools/gpu/placed_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <span>
#include <stdexcept>
#include <string>

#include "base/check.h"

namespace strata::gpu_bench {
namespace {

using engine::device_aligned;
using gpu_attn::DeviceKvTable;
using gpu_attn::DeviceLayerWeights;
using gpu_attn::DeviceStep;
using gpu_attn::DeviceStepInputs;
using gpu_attn::layer_bytes;

constexpr uint32_t kRowsMin = 512;       // that buffers are made for: the engine's chunk
constexpr uint32_t kPoolPeriod = 509;    // blocks behind which the pool's bytes come again
constexpr uint32_t kDrawnValues = 8191;  // of residuals
constexpr double kRopeBase = 5e5;

uint32_t blocks_of(uint64_t n_positions) { return static_cast<uint32_t>(blocks_for(n_positions)); }

/// Entries of a table.
uint32_t stride_of(const TextSteps& text) {
  const uint32_t n_blocks = blocks_of(text.end_position());
  return text.is_decoding() ? gpu_attn::captured_blocks(n_blocks) : n_blocks;
}

}  // namespace

ModelSource::ModelSource(const RandomModelSizes& sizes, uint64_t pool_bytes)
    : model_(describe(sizes)), panels_(model_), pool_(HostMemory::reserve(pool_bytes)) {
  // Pairs of f16 below 2: a bit of each exponent is off.
  const uint64_t period = uint64_t{kPoolPeriod} * model_.kv_layout.block_bytes;
  const auto words = pool_.as<uint64_t>(std::min(period, pool_.size()) / sizeof(uint64_t));
  std::mt19937_64 random(7);
  for (uint64_t& word : words) word = random() & 0xBFFFBFFFBFFFBFFFu;
  for (uint64_t at = period; at < pool_.size(); at += period)
    std::memcpy(pool_.data() + at, pool_.data(), std::min(period, pool_.size() - at));
}

void OnDevice::check(int error) const {
  if (error != 0)
    throw std::runtime_error("error " + std::to_string(error) + ": " + table.message(error));
}

TakenMemory::~TakenMemory() {
  for (void* memory : taken_) on_.table.release(on_.device, memory);
  for (void* memory : pinned_) on_.table.unpin(on_.device, memory);
}

std::byte* TakenMemory::take(uint64_t bytes) {
  void* memory = nullptr;
  on_.check(on_.table.allocate(on_.device, std::max<uint64_t>(bytes, 1), &memory));
  taken_.push_back(memory);
  return static_cast<std::byte*>(memory);
}

std::byte* TakenMemory::pin(const HostMemory& memory) {
  void* mapped = nullptr;
  on_.check(on_.table.pin(on_.device, memory.data(), memory.size(), &mapped));
  pinned_.push_back(memory.data());
  return static_cast<std::byte*>(mapped);
}

PlacedModel::PlacedModel(const OnDevice& on, const ModelSource& source, const TextSteps& text,
                         uint64_t hbm_bytes_max)
    : on_(on), source_(source), text_(text), model_(source.model()), memory_(on) {
  STRATA_CHECK(text.first_position % kBlockPositions == 0, "first_position=%u",
               text.first_position);
  for (const LayerShape& shape : model_.shapes) n_streams_ += shape.n_kv_heads;
  stride_ = stride_of(text);
  plan_ = engine::plan_device(needs(), hbm_bytes_max == 0 ? UINT64_MAX : hbm_bytes_max);
  place_weights();
  place_kv();
  step_ = std::make_unique<DeviceStep>(on_.table, model_, *weights_, sizes(),
                                       memory_.take(DeviceStep::memory_bytes(model_, sizes())));
  write_inputs();
  on_.check(on_.table.wait_stream(on_.stream));
}

PlacedModel::~PlacedModel() {
  on_.table.wait_stream(on_.stream);
  if (streamed_ != nullptr) streamed_->wait();
  on_.table.destroy_graph(graph_);
}

gpu_attn::DeviceStepSizes PlacedModel::sizes() const {
  return {.max_rows = std::max(text_.n_rows, kRowsMin),
          .max_logit_rows = 1,
          .max_blocks = stride_,
          .n_multiprocessors = on_.n_multiprocessors};
}

uint64_t PlacedModel::head_bytes() const {
  return device_aligned(model_.output.total_bytes()) +
         device_aligned(model_.d_model * sizeof(float));
}

engine::DeviceNeeds PlacedModel::needs() const {
  engine::DeviceNeeds needs;
  needs.buffer_bytes = device_aligned(DeviceStep::memory_bytes(model_, sizes())) +
                       device_aligned(2 * n_entries() * sizeof(std::byte*));
  needs.head_bytes = head_bytes();
  for (const DeviceLayerWeights& layer : model_.layers)
    needs.layer_bytes.push_back(layer_bytes(layer));
  needs.block_bytes = model_.kv_layout.block_bytes;
  needs.kv_bytes = n_entries() * needs.block_bytes;
  return needs;
}

/// Copies the panels, then what is there as often as the matrix is longer.
void PlacedModel::fill_matrix(std::byte* to, const PackedMatrix& of,
                              const std::vector<std::byte>& panels) {
  if (!on_.has_bytes) return;
  const uint64_t bytes = of.total_bytes();
  uint64_t filled = std::min<uint64_t>(bytes, panels.size());
  on_.check(on_.table.copy(on_.stream, to, panels.data(), filled));
  for (; filled < bytes; filled *= 2)
    on_.check(on_.table.copy(on_.stream, to + filled, to, std::min(filled, bytes - filled)));
  on_.check(on_.table.wait_stream(on_.stream));
}

void PlacedModel::place_weights() {
  std::byte* head = memory_.take(head_bytes());
  model_.output.bytes = head;
  fill_matrix(head, model_.output, source_.panels().head_panels());
  std::byte* norm = head + device_aligned(model_.output.total_bytes());
  if (on_.has_bytes) {
    const std::vector<float> ones(model_.d_model, 1.0F);
    on_.check(on_.table.copy(on_.stream, norm, ones.data(), ones.size() * sizeof(float)));
    on_.check(on_.table.wait_stream(on_.stream));
  }
  model_.output_norm = reinterpret_cast<const float*>(norm);
  for (uint32_t layer = 0; layer < model_.layers.size(); ++layer) {
    DeviceLayerWeights& weights = model_.layers[layer];
    weights.attn_norm = model_.output_norm;
    weights.ffn_norm = model_.output_norm;
    if (!plan_.resident[layer].is_whole()) continue;
    std::byte* at = memory_.take(layer_bytes(weights));
    for (uint32_t i = 0; i < gpu_attn::kLayerMatrices; ++i) {
      PackedMatrix& matrix = weights.*gpu_attn::kLayerMatrixMembers[i];
      matrix.bytes = at;
      if (on_.has_bytes) fill_matrix(at, matrix, source_.panels().layer_panels(layer, i));
      at += matrix.total_bytes();
    }
  }
  if (plan_.n_streamed() > 0)
    stream_layers();
  else
    weights_ = std::make_unique<gpu_attn::ResidentWeights>(model_.layers);
}

void PlacedModel::stream_layers() {
  const uint64_t of_layer = device_aligned(layer_bytes(model_.layers[0]));
  streamed_bytes_ = HostMemory::reserve(plan_.n_streamed() * of_layer);
  std::vector<gpu_attn::StreamedLayer> streamed;
  for (uint32_t layer = 0; layer < model_.layers.size(); ++layer) {
    if (plan_.resident[layer].is_whole()) continue;
    std::byte* host = streamed_bytes_.data() + streamed.size() * of_layer;
    gpu_attn::StreamedLayer of{.layer = layer, .host = host, .bytes = 0, .offsets = {}};
    for (uint32_t i = 0; i < gpu_attn::kLayerMatrices; ++i) {
      const uint64_t bytes = (model_.layers[layer].*gpu_attn::kLayerMatrixMembers[i]).total_bytes();
      of.offsets[i] = of.bytes;
      if (on_.has_bytes) {
        const std::vector<std::byte> panels = source_.panels().layer_panels(layer, i);
        for (uint64_t at = 0; at < bytes; at += panels.size())
          std::memcpy(host + of.bytes + at, panels.data(),
                      std::min<uint64_t>(panels.size(), bytes - at));
      }
      of.bytes += bytes;
    }
    streamed.push_back(of);
  }
  memory_.pin(streamed_bytes_);
  std::byte* slots = memory_.take(gpu_attn::kStreamSlots * gpu_attn::stream_slot_bytes(streamed));
  std::unique_ptr<gpu_attn::StreamedWeights> made;
  on_.check(gpu_attn::StreamedWeights::create(on_.table, on_.device, model_.layers, streamed, slots,
                                              &made));
  streamed_ = made.get();
  weights_ = std::move(made);
}

/// Tables and blocks: the first ones of all tables, layer by layer, have slots of the device.
void PlacedModel::place_kv() {
  const uint64_t block_bytes = model_.kv_layout.block_bytes;
  std::byte* slots = memory_.take(n_slots() * block_bytes);
  fill_slots(slots);
  const bool is_mirrored = text_.n_rows <= kDeviceFewRows;
  uint64_t n_own = 0;
  for (uint64_t entry = 0; entry < n_entries(); ++entry)
    if (is_open(entry) && (is_mirrored || entry >= n_slots())) ++n_own;
  std::byte* pool = memory_.pin(source_.pool());
  own_blocks_ = HostMemory::reserve(std::max<uint64_t>(n_own, 1) * block_bytes);
  std::byte* own = memory_.pin(own_blocks_);
  table_memory_ = HostMemory::reserve(2 * n_entries() * sizeof(std::byte*));
  std::byte* pinned_table = memory_.pin(table_memory_);
  const auto blocks = table_memory_.as<std::byte*>(n_entries());
  const auto homes = table_memory_.as<std::byte*>(n_entries(), n_entries() * sizeof(std::byte*));
  for (uint64_t entry = 0; entry < n_entries(); ++entry) {
    const bool has_slot = entry < n_slots();
    std::byte* home = pool + entry % source_.n_pool_blocks() * block_bytes;
    if (is_open(entry) && (is_mirrored || !has_slot)) {
      home = own;
      own += block_bytes;
    }
    blocks[entry] = has_slot ? slots + entry * block_bytes : home;
    homes[entry] = home;
  }
  std::byte* table = pinned_table;
  if (on_.has_bytes) {
    const uint64_t bytes = 2 * n_entries() * sizeof(std::byte*);
    table = memory_.take(bytes);
    on_.check(on_.table.copy(on_.stream, table, table_memory_.data(), bytes));
  }
  blocks_ = reinterpret_cast<std::byte* const*>(table);
  homes_ = is_mirrored ? blocks_ + n_entries() : nullptr;
}

/// What entry e holds is block e of the pool, which begins anew behind its end.
void PlacedModel::fill_slots(std::byte* slots) {
  if (!on_.has_bytes || text_.first_position == 0) return;
  const uint64_t bytes = n_slots() * model_.kv_layout.block_bytes;
  const uint64_t pool_bytes = source_.n_pool_blocks() * model_.kv_layout.block_bytes;
  for (uint64_t at = 0; at < bytes; at += pool_bytes) {
    const void* from = at == 0 ? source_.pool().data() : slots;
    on_.check(on_.table.copy(on_.stream, slots + at, from, std::min(pool_bytes, bytes - at)));
  }
  on_.check(on_.table.wait_stream(on_.stream));
}

void PlacedModel::write_inputs() {
  input_bytes_ = device_aligned(DeviceStepInputs::max_bytes(model_, text_.n_rows));
  inputs_ = HostMemory::reserve(input_bytes_ * text_.n_steps);
  memory_.pin(inputs_);
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> drawn(kDrawnValues);
  for (float& value : drawn) value = normal(random);
  const uint32_t n_pairs = model_.n_rot[0] / 2;
  std::vector<double> frequencies;
  for (uint32_t i = 0; i < n_pairs; ++i)
    frequencies.push_back(std::pow(kRopeBase, -static_cast<double>(i) / n_pairs));
  uint64_t n_drawn = 0;
  for (uint32_t step = 0; step < text_.n_steps; ++step) {
    const DeviceStepInputs inputs(model_, text_.n_rows, inputs_.data() + step * input_bytes_);
    for (uint32_t row = 0; row < text_.n_rows; ++row) {
      const uint32_t position = text_.first_position + step * text_.n_rows + row;
      inputs.positions()[row] = position;
      inputs.tokens()[row] = 0;  // the host has embedded them
      float* angles = inputs.cos_sin(0) + uint64_t{row} * model_.n_rot[0];
      for (uint32_t i = 0; i < n_pairs; ++i) {
        *angles++ = static_cast<float>(std::cos(position * frequencies[i]));
        *angles++ = static_cast<float>(std::sin(position * frequencies[i]));
      }
      float* residual = inputs.residual() + uint64_t{row} * model_.d_model;
      for (uint32_t i = 0; i < model_.d_model; ++i) residual[i] = drawn[n_drawn++ % kDrawnValues];
    }
  }
}

void PlacedModel::queue_step(uint32_t step) {
  const uint32_t n_kv_heads = model_.shapes[0].n_kv_heads;
  const uint32_t end = text_.first_position + (step + 1) * text_.n_rows;
  tables_.clear();
  for (uint64_t layer = 0; layer < model_.layers.size(); ++layer) {
    const uint64_t at = layer * n_kv_heads * stride_;
    tables_.push_back({.blocks = blocks_ + at,
                       .mirror = homes_ == nullptr ? nullptr : homes_ + at,
                       .stride = stride_,
                       .first_block = 0,
                       .n_blocks = text_.is_decoding() ? stride_ : blocks_of(end)});
  }
  const uint32_t last_row = text_.n_rows - 1;
  const bool is_last = step + 1 == text_.n_steps;
  on_.check(
      step_->queue(on_.stream, {.n_rows = text_.n_rows,
                                .logit_rows = std::span<const uint32_t>(&last_row, is_last ? 1 : 0),
                                .kv = tables_,
                                .inputs = inputs_.data() + step * input_bytes_}));
}

void PlacedModel::queue() {
  for (uint32_t step = 0; step < text_.n_steps; ++step) queue_step(step);
}

void PlacedModel::queue_graph() {
  if (graph_ == nullptr) {
    on_.check(on_.table.begin_capture(on_.stream));
    queue();
    on_.check(on_.table.end_capture(on_.stream, &graph_));
  }
  on_.check(on_.table.launch_graph(on_.stream, graph_));
}

std::vector<float> PlacedModel::logits() const {
  std::vector<float> values(model_.vocab_size);
  on_.check(
      on_.table.copy(on_.stream, values.data(), step_->logits(), values.size() * sizeof(float)));
  on_.check(on_.table.wait_stream(on_.stream));
  return values;
}

uint64_t PlacedModel::hbm_read_bytes() const {
  const uint64_t n_resident = model_.layers.size() - plan_.n_streamed();
  const uint64_t n_blocks = blocks_of(text_.end_position());
  uint64_t n_held = 0;  // blocks that are read
  for (uint64_t stream = 0; stream < n_streams_; ++stream)
    if (n_slots() > stream * stride_) n_held += std::min(n_slots() - stream * stride_, n_blocks);
  return n_resident * layer_bytes(model_.layers[0]) + model_.output.total_bytes() +
         n_held * model_.kv_layout.block_bytes;
}

uint64_t PlacedModel::link_read_bytes() const {
  const uint64_t of_all =
      model_.layers.size() * layer_bytes(model_.layers[0]) + model_.output.total_bytes() +
      uint64_t{n_streams_} * blocks_of(text_.end_position()) * model_.kv_layout.block_bytes;
  return of_all - hbm_read_bytes();
}

uint64_t PlacedModel::flop() const {
  uint64_t of_row = 0;  // products
  for (const auto member : gpu_attn::kLayerMatrixMembers) {
    const PackedMatrix& matrix = model_.layers[0].*member;
    of_row += 2 * uint64_t{matrix.n_out} * matrix.n_in;
  }
  const uint64_t n_rows = uint64_t{text_.n_rows} * text_.n_steps;
  const uint64_t first = text_.first_position;
  const uint64_t n_pairs = n_rows * first + n_rows * (n_rows + 1) / 2;
  const uint64_t attention = 4 * n_pairs * model_.shapes[0].n_heads * model_.head_dim;
  return model_.layers.size() * (n_rows * of_row + attention) +
         2 * uint64_t{model_.output.n_out} * model_.output.n_in;
}

}  // namespace strata::gpu_bench
