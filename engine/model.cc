#include "engine/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "engine/gguf/dequantise.h"
#include "tiers/traced_io.h"

namespace strata::engine {
namespace {

constexpr uint64_t kReadBytesMax = uint64_t{1} << 30;

const GgufTensor& need(const GgufFile& file, const std::string& name) {
  const GgufTensor* tensor = file.find_tensor(name);
  STRATA_CHECK(tensor != nullptr, "tensor %s, which read_model_spec checks", name.c_str());
  return *tensor;
}

const GgufTensor* find_of_layer(const GgufFile& file, uint32_t layer, std::string_view name) {
  return file.find_tensor(fmt::format("blk.{}.{}", layer, name));
}

const GgufTensor& need_of_layer(const GgufFile& file, uint32_t layer, std::string_view name) {
  return need(file, fmt::format("blk.{}.{}", layer, name));
}

uint64_t vector_bytes(const GgufTensor& tensor) {
  return round_up(tensor.shape[0] * sizeof(float), 64);
}

LayerSize layer_size(const GgufFile& file, uint32_t layer, PieceSet pieces) {
  LayerSize size;
  std::vector<PackedTensor> tensors;
  for (const LayerMatrix& matrix : kLayerMatrices) {
    if (!pieces.has(matrix.piece)) continue;
    const GgufTensor& tensor = need_of_layer(file, layer, matrix.tensor);
    tensors.push_back({&tensor, size.packed_bytes});
    size.packed_bytes += packed_shape(tensor).total_bytes();
  }
  const std::vector<PanelRead> reads = panel_reads(std::move(tensors));
  size.n_reads = static_cast<uint32_t>(reads.size());
  for (const PanelRead& read : reads) {
    size.file_bytes += read.file_bytes;
    size.read_bytes_max = std::max(size.read_bytes_max, read.file_bytes);
  }
  if (size.read_bytes_max > kReadBytesMax)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("wanted {} rows of at most {} bytes together, found {}", kPanelRows,
                            kReadBytesMax, size.read_bytes_max),
                fmt::format("{}: layer {}", file.path(), layer), "use another model");
  return size;
}

/// Recorded behind the frames of K and V: a trace tells lanes by their index.
MakeIo traced_io(const WeightOptions& options) {
  if (options.trace == nullptr) return options.make_io;
  return [make_io = options.make_io, trace = options.trace](uint32_t depth) {
    return std::make_unique<tiers::TracedIo>(make_io ? make_io(depth) : make_weight_io(depth),
                                             *trace, Resource::kWeightDisk, kFirstWeightLane);
  };
}

}  // namespace

WeightSizes weight_sizes(const GgufFile& file, const ModelSpec& spec) {
  WeightSizes sizes;
  sizes.always_bytes = packed_shape(need(file, "token_embd.weight")).total_bytes() +
                       vector_bytes(need(file, "output_norm.weight"));
  if (spec.has_output_tensor)
    sizes.always_bytes += packed_shape(need(file, "output.weight")).total_bytes();
  for (uint32_t layer = 0; layer < spec.shape.n_layers; ++layer) {
    sizes.layers.push_back(layer_size(file, layer, kWholeLayer));
    sizes.pieces.push_back(
        {layer_size(file, layer, {.attention = true}), layer_size(file, layer, {.ffn = true})});
    for (const LayerVector& vector : kLayerVectors)
      if (const GgufTensor* tensor = find_of_layer(file, layer, vector.tensor))
        sizes.always_bytes += vector_bytes(*tensor);
  }
  return sizes;
}

/// Where everything that stays goes, 64-byte aligned, in the order it is added.
struct Model::Layout {
  struct Vector {
    const GgufTensor* tensor;
    std::span<const float>* out;
    uint64_t offset;
  };
  std::byte* memory = nullptr;
  uint64_t bytes = 0;
  std::vector<PackedTensor> matrices;
  std::vector<Vector> vectors;

  void add_matrix(const GgufTensor& tensor, PackedMatrix& out) {
    out = packed_shape(tensor);
    out.bytes = memory + bytes;
    matrices.push_back({&tensor, bytes});
    bytes += out.total_bytes();
  }
  void add_vector(const GgufTensor& tensor, std::span<const float>& out) {
    vectors.push_back({&tensor, &out, bytes});
    bytes += vector_bytes(tensor);
  }
};

void Model::lay_out(Layout& layout, const GgufFile& file) {
  layers_.resize(shape().n_layers);
  layout.add_matrix(need(file, "token_embd.weight"), embedding_);
  for (uint32_t idx = 0; idx < shape().n_layers; ++idx) {
    LayerWeights& out = layers_[idx];
    for (const LayerVector& vector : kLayerVectors)
      if (const GgufTensor* tensor = find_of_layer(file, idx, vector.tensor))
        layout.add_vector(*tensor, out.*vector.member);
    for (const LayerMatrix& matrix : kLayerMatrices) {
      const GgufTensor& tensor = need_of_layer(file, idx, matrix.tensor);
      if (plan_.streamed[idx].has(matrix.piece))
        out.*matrix.member = packed_shape(tensor);
      else
        layout.add_matrix(tensor, out.*matrix.member);
    }
  }
  layout.add_vector(need(file, "output_norm.weight"), output_norm_);
  if (spec_.has_output_tensor)
    layout.add_matrix(need(file, "output.weight"), output_);
  else
    output_ = embedding_;
  STRATA_CHECK(layout.bytes == plan_.resident_bytes, "laid out %lu bytes, planned %lu",
               static_cast<unsigned long>(layout.bytes),
               static_cast<unsigned long>(plan_.resident_bytes));
}

/// Those of which any of these pieces is.
std::vector<StreamedLayer> Model::layers_streaming(const std::vector<PieceSet>& pieces) const {
  std::vector<StreamedLayer> streamed;
  for (uint32_t idx = 0; idx < shape().n_layers; ++idx) {
    if (!pieces[idx].is_any()) continue;
    StreamedLayer layer;
    layer.layer = idx;
    layer.pieces = pieces[idx];
    layer.weights = layers_[idx];
    std::vector<PackedTensor> tensors;
    uint64_t offset = 0;
    for (const LayerMatrix& matrix : kLayerMatrices) {
      layer.matrix_offsets.push_back(offset);
      if (!layer.pieces.has(matrix.piece)) continue;
      tensors.push_back({&need_of_layer(*file_, idx, matrix.tensor), offset});
      offset += (layer.weights.*matrix.member).total_bytes();
    }
    layer.reads = panel_reads(std::move(tensors));
    streamed.push_back(std::move(layer));
  }
  return streamed;
}

void Model::make_stream(const WeightOptions& options) {
  auto reader = std::make_unique<PanelReader>(*file_, traced_io(options), plan_.n_buffers,
                                              plan_.buffer_bytes);
  stream_ = std::make_unique<WeightStream>(
      *file_, std::move(reader), layers_streaming(plan_.streamed), shape().n_layers,
      std::span(memory_.data() + plan_.resident_bytes, plan_.n_slots * plan_.slot_bytes),
      plan_.slot_bytes, options.deadline);
}

uint32_t Model::add_round(const std::vector<PieceSet>& held) const {
  std::vector<PieceSet> pieces = plan_.streamed;
  for (size_t idx = 0; idx < pieces.size(); ++idx) pieces[idx] = without(pieces[idx], held[idx]);
  return pieces == plan_.streamed ? 0 : stream_->add_round(layers_streaming(pieces));
}

void Model::read_layer(uint32_t idx, PieceSet pieces, std::byte* memory, ThreadPool& pool) const {
  std::vector<PieceSet> only(shape().n_layers);
  only[idx] = pieces;
  load_panels(*file_, layers_streaming(only).front().reads, memory, pool, load_report_.used,
              make_io_, deadline_, {});
}

Model Model::load(const GgufFile& file, ModelSpec spec, ThreadPool& pool, const Progress& progress,
                  const WeightOptions& options) {
  Model model;
  model.spec_ = std::move(spec);
  model.plan_ = options.plan ? *options.plan : plan_weights(weight_sizes(file, model.spec_), 0);
  const WeightPlan& plan = model.plan_;
  model.memory_ = HostMemory::reserve(plan.resident_bytes + plan.n_slots * plan.slot_bytes);
  Layout layout;
  layout.memory = model.memory_.data();
  model.lay_out(layout, file);

  uint64_t vector_file_bytes = 0;
  for (const Layout::Vector& vector : layout.vectors)
    file.ask_for(*vector.tensor, 0, vector.tensor->bytes);
  for (const Layout::Vector& vector : layout.vectors) {
    const GgufTensor& tensor = *vector.tensor;
    std::vector<std::byte> bytes(tensor.bytes);
    file.read(tensor, 0, bytes);
    const auto values = model.memory_.as<float>(tensor.shape[0], vector.offset);
    dequantise(tensor.type, bytes, values);
    *vector.out = values;
    vector_file_bytes += tensor.bytes;
  }
  uint64_t total_bytes = vector_file_bytes;
  const std::vector<PanelRead> reads = panel_reads(std::move(layout.matrices));
  for (const PanelRead& read : reads) total_bytes += read.weight_bytes();
  model.load_report_ =
      load_panels(file, reads, model.memory_.data(), pool, options.load, options.make_io,
                  options.deadline, [&](uint64_t done_bytes) {
                    return !progress || progress(vector_file_bytes + done_bytes, total_bytes);
                  });
  if (plan.n_streamed() == 0) return model;
  model.file_ = &file;
  model.make_io_ = options.make_io;
  model.deadline_ = options.deadline;
  model.make_stream(options);
  return model;
}

LayerLease Model::take_layer(uint32_t idx, ThreadPool& pool,
                             const std::atomic<bool>* cancel) const {
  if (stream_ != nullptr && stream_->is_streamed(idx)) return stream_->take(idx, pool, cancel);
  return LayerLease(layers_[idx]);
}

WeightReadCounts Model::read_counts() const {
  return stream_ != nullptr ? stream_->counts() : WeightReadCounts{};
}

}  // namespace strata::engine
