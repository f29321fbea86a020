#include "engine/device_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "base/host_memory.h"
#include "engine/panel_run.h"

namespace strata::engine {
namespace {

using gpu_attn::DeviceLayerWeights;
using gpu_attn::DeviceModel;

constexpr bool are_pieces_alike() {
  for (uint32_t i = 0; i < gpu_attn::kLayerMatrices; ++i)
    if (kLayerMatrices[i].piece != gpu_attn::matrix_piece(i)) return false;
  return std::size(kLayerMatrices) == gpu_attn::kLayerMatrices;
}
static_assert(are_pieces_alike());

constexpr uint32_t kWidthStep = 4;  // of the rows that a device norms and activates

struct VectorPair {
  std::span<const float> LayerWeights::*from;
  const float* DeviceLayerWeights::*to;
};
constexpr std::array kVectors = {
    VectorPair{&LayerWeights::attn_norm, &DeviceLayerWeights::attn_norm},
    VectorPair{&LayerWeights::ffn_norm, &DeviceLayerWeights::ffn_norm},
    VectorPair{&LayerWeights::q_bias, &DeviceLayerWeights::q_bias},
    VectorPair{&LayerWeights::k_bias, &DeviceLayerWeights::k_bias},
    VectorPair{&LayerWeights::v_bias, &DeviceLayerWeights::v_bias},
    VectorPair{&LayerWeights::output_bias, &DeviceLayerWeights::output_bias},
    VectorPair{&LayerWeights::q_norm, &DeviceLayerWeights::q_norm},
    VectorPair{&LayerWeights::k_norm, &DeviceLayerWeights::k_norm},
    VectorPair{&LayerWeights::post_attn_norm, &DeviceLayerWeights::post_attn_norm},
    VectorPair{&LayerWeights::post_ffn_norm, &DeviceLayerWeights::post_ffn_norm},
};
static_assert(kVectors.size() == std::size(kLayerVectors));

const GgufTensor* of_layer(const GgufFile& file, uint32_t layer, std::string_view name) {
  return file.find_tensor(fmt::format("blk.{}.{}", layer, name));
}

PackedMatrix shape_of(const GgufTensor* tensor) {
  STRATA_CHECK(tensor != nullptr, "%s", "a tensor that read_model_spec has found");
  return packed_shape(*tensor);
}

/// Where the matrices of these pieces begin in the host's memory: one follows the other there
/// (Model::load).
const std::byte* begin_of(const Model& host, uint32_t layer, PieceSet pieces) {
  return pieces.attention ? host.layer(layer).q.bytes : host.layer(layer).ffn_gate.bytes;
}

/// Some of a layer's pieces as they lie on the device: those that are in the host's memory, then
/// those that are read from the file.
struct PlacedPieces {
  PlacedPieces(const Model& host, const DeviceLayerWeights& shapes, uint32_t layer, PieceSet of)
      : near(without(of, host.streamed(layer))), read(common_pieces(of, host.streamed(layer))) {
    for (const PieceSet part : {near, read})
      for (uint32_t i = 0; i < gpu_attn::kLayerMatrices; ++i) {
        if (!part.has(kLayerMatrices[i].piece)) continue;
        offsets[i] = bytes;
        bytes += (shapes.*gpu_attn::kLayerMatrixMembers[i]).total_bytes();
        if (part == near) near_bytes = bytes;
      }
  }
  PieceSet near, read;
  std::array<uint64_t, gpu_attn::kLayerMatrices> offsets{};
  uint64_t bytes = 0, near_bytes = 0;  // of both; of what is near
};

}  // namespace

DeviceModel describe_for_device(const GgufFile& file, const ModelSpec& spec,
                                const KvLayout& layout) {
  DeviceModel model;
  model.d_model = spec.shape.d_model;
  model.head_dim = spec.shape.head_dim;
  model.vocab_size = spec.shape.vocab_size;
  model.shapes = spec.shape.layers;
  model.layers.resize(spec.shape.n_layers);
  for (uint32_t layer = 0; layer < spec.shape.n_layers; ++layer)
    for (uint32_t i = 0; i < gpu_attn::kLayerMatrices; ++i)
      model.layers[layer].*gpu_attn::kLayerMatrixMembers[i] =
          shape_of(of_layer(file, layer, kLayerMatrices[i].tensor));
  model.embedding = shape_of(file.find_tensor("token_embd.weight"));
  model.output =
      spec.has_output_tensor ? shape_of(file.find_tensor("output.weight")) : model.embedding;
  for (const RopeSpec& rope : spec.rope_sets) model.n_rot.push_back(rope.n_rot);
  model.pairing = spec.rope_pairing;
  model.activation = spec.activation == Activation::kSilu ? DeviceActivation::kSiluMul
                                                          : DeviceActivation::kGeluMul;
  model.kv_layout = layout;
  model.norm_eps = spec.norm_eps;
  model.attention_scale = spec.attention_scale;
  model.embedding_scale = spec.embedding_scale;
  return model;
}

std::string why_not_on_device(const DeviceModel& model, const BeyondDevices& wanted) {
  if (wanted.estimates_tails)
    return "a device attends chosen blocks, with no estimate of the others (another --attn)";
  if (wanted.reads_sparsely) return "a device reads prompts exactly (without --sparse-prefill)";
  if (wanted.spills)
    return "K and V that spill to disk are the CPU's, unless a card is named (--device cuda:N, "
           "--kv-dram, --dram, or a smaller -c)";
  if (wanted.streams_weights)
    return "weights that are read from disk in every step are the CPU's, unless a card is named "
           "(--device cuda:N, --weights-dram)";
  const auto is_odd = [](uint32_t width) { return width % kWidthStep != 0; };
  if (is_odd(model.d_model) || std::ranges::any_of(model.shapes, is_odd, &LayerShape::d_ff))
    return fmt::format("a device wants widths that are multiples of {}", kWidthStep);
  for (const LayerShape& shape : model.shapes)
    if (shape.n_heads / shape.n_kv_heads > kDeviceGroupMax)
      return fmt::format("a device wants at most {} query heads per KV head", kDeviceGroupMax);
  return "";
}

uint64_t device_head_bytes(const DeviceModel& model, const GgufFile& file) {
  uint64_t bytes =
      device_aligned(model.output.total_bytes()) + device_aligned(model.d_model * sizeof(float));
  for (uint32_t layer = 0; layer < model.layers.size(); ++layer)
    for (const LayerVector& vector : kLayerVectors)
      if (const GgufTensor* tensor = of_layer(file, layer, vector.tensor))
        bytes += device_aligned(tensor->shape[0] * sizeof(float));
  return bytes;
}

DeviceWeights::DeviceWeights(const OpenDevice& device, const Model& host, DeviceModel described,
                             const DevicePlan& plan, ThreadPool& pool)
    : model_(std::move(described)), stream_(Stream::create(device)) {
  StagedCopy staged(device);  // goes before K and V have pages
  try {
    place_head(device, host, staged);
    place_layers(device, host, plan, staged, pool);
  } catch (const Error&) {
    stream_.wait();  // copies of what is staged may still run
    throw;
  }
  stream_.wait();
  if (plan.n_streamed() > 0)
    stream_layers(device, host, plan);
  else
    source_ = std::make_unique<gpu_attn::ResidentWeights>(model_.layers);
}

const float* DeviceWeights::place_vector(std::span<const float> values, StagedCopy& staged) {
  if (values.empty()) return nullptr;
  std::byte* const to = head_.bytes() + head_used_;
  head_used_ += device_aligned(values.size_bytes());
  staged.copy(stream_, to, values.data(), values.size_bytes());
  return reinterpret_cast<const float*>(to);
}

void DeviceWeights::place_head(const OpenDevice& device, const Model& host, StagedCopy& staged) {
  uint64_t bytes =
      device_aligned(host.output().total_bytes()) + device_aligned(host.output_norm().size_bytes());
  for (uint32_t layer = 0; layer < model_.layers.size(); ++layer)
    for (const VectorPair& vector : kVectors)
      bytes += device_aligned((host.layer(layer).*vector.from).size_bytes());
  head_ = DeviceBuffer::allocate(device, bytes, "the output projection");
  staged.copy(stream_, head_.bytes(), host.output().bytes, host.output().total_bytes());
  model_.output.bytes = head_.bytes();
  head_used_ = device_aligned(host.output().total_bytes());
  model_.output_norm = place_vector(host.output_norm(), staged);
  for (uint32_t layer = 0; layer < model_.layers.size(); ++layer)
    for (const VectorPair& vector : kVectors)
      model_.layers[layer].*vector.to = place_vector(host.layer(layer).*vector.from, staged);
}

void DeviceWeights::place_layers(const OpenDevice& device, const Model& host,
                                 const DevicePlan& plan, StagedCopy& staged, ThreadPool& pool) {
  layers_.resize(model_.layers.size());
  HostMemory read;  // goes before K and V have pages
  for (uint32_t layer = 0; layer < model_.layers.size(); ++layer) {
    const PieceSet stays = plan.resident[layer];
    if (!stays.is_any()) continue;
    const PlacedPieces placed(host, model_.layers[layer], layer, stays);
    layers_[layer] =
        DeviceBuffer::allocate(device, placed.bytes, fmt::format("the weights of layer {}", layer));
    std::byte* const to = layers_[layer].bytes();
    if (placed.near.is_any())
      staged.copy(stream_, to, begin_of(host, layer, placed.near), placed.near_bytes);
    if (placed.read.is_any()) {
      const uint64_t bytes = placed.bytes - placed.near_bytes;
      if (read.size() < bytes) read = HostMemory::reserve(bytes);
      host.read_layer(layer, placed.read, read.data(), pool);
      staged.copy(stream_, to + placed.near_bytes, read.data(), bytes);
    }
    for (uint32_t i = 0; i < gpu_attn::kLayerMatrices; ++i)
      if (stays.has(kLayerMatrices[i].piece))
        (model_.layers[layer].*gpu_attn::kLayerMatrixMembers[i]).bytes = to + placed.offsets[i];
  }
}

/// All but what stays of each layer.
std::vector<gpu_attn::StreamedLayer> DeviceWeights::layers_passing(
    const Model& host, const std::vector<PieceSet>& stays) const {
  std::vector<gpu_attn::StreamedLayer> streamed;
  for (uint32_t layer = 0; layer < model_.layers.size(); ++layer) {
    const PieceSet passes = other_pieces(stays[layer]);
    if (!passes.is_any()) continue;
    const PlacedPieces placed(host, model_.layers[layer], layer, passes);
    streamed.push_back({.layer = layer,
                        .host = placed.near.is_any() ? begin_of(host, layer, placed.near) : nullptr,
                        .bytes = placed.near_bytes,
                        .offsets = placed.offsets,
                        .pieces = passes,
                        .brought_bytes = placed.bytes - placed.near_bytes});
  }
  return streamed;
}

void DeviceWeights::begin_step(const Stream& stream, bool cpu_multiplies) {
  if (streamed_ == nullptr) return;
  stream.check(streamed_->begin(stream.get(), cpu_multiplies ? few_rows_round_ : 0),
               "copy weights");
}

void DeviceWeights::wait(Stream& stream) {
  if (from_file_) {
    stream.record(ended_);
    // Asks without a pause where all has been read, as a driver's own wait does.
    while (!ended_.is_done()) {
      stream.check(streamed_->go_on(), "copy weights");
      from_file_->go_on();
    }
  }
  stream.wait();
}

void DeviceWeights::leave() {
  if (from_file_) stream_.check(streamed_->leave(), "copy weights");
}

void DeviceWeights::stream_layers(const OpenDevice& device, const Model& host,
                                  const DevicePlan& plan) {
  pages_ = PinnedMemory::pin(device, host.pages());
  std::vector<gpu_attn::StreamedLayer> streamed = layers_passing(host, plan.resident);
  std::vector<PieceSet> read;  // in every step
  for (uint32_t layer = 0; layer < model_.layers.size(); ++layer)
    read.push_back(without(host.streamed(layer), plan.resident[layer]));
  if (std::ranges::any_of(read, &PieceSet::is_any)) {
    from_file_.emplace(host, std::move(read));
    ended_ = Event::create(device);
  }
  slots_ =
      DeviceBuffer::allocate(device, gpu_attn::kStreamSlots * gpu_attn::stream_slot_bytes(streamed),
                             "the layers that pass through it");
  stream_.check(gpu_attn::StreamedWeights::create(device.table(), device.get(), model_.layers,
                                                  std::move(streamed), slots_.bytes(), &streamed_,
                                                  from_file_ ? &*from_file_ : nullptr),
                "copy weights");
  if (plan.on_cpu.empty()) return;
  std::vector<PieceSet> stays = plan.resident;
  for (uint32_t layer = 0; layer < stays.size(); ++layer)
    for (const LayerPiece piece : kEachPiece)
      if (plan.on_cpu[layer].has(piece)) {
        STRATA_CHECK(!stays[layer].has(piece), "the CPU multiplies what stays of layer %u", layer);
        stays[layer].add(piece);
      }
  few_rows_round_ = streamed_->add_round(layers_passing(host, stays));
}

}  // namespace strata::engine
