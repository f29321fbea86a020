#include "engine/model.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "cpu_attn/pack.h"
#include "engine/gguf/dequantise.h"

namespace strata::engine {
namespace {

constexpr uint64_t kReadBytes = uint64_t{1} << 20;  // file bytes a worker reads and packs at a time

/// Where one tensor goes: a matrix to pack or a vector to decode.
struct Piece {
  const GgufTensor* tensor;
  PackedMatrix* matrix;            // null for vectors
  std::span<const float>* vector;  // null for matrices
  uint64_t memory_offset;
};

}  // namespace

/// Lays the pieces out in memory, 64-byte aligned, in the order they are added.
class Model::Layout {
 public:
  explicit Layout(const GgufFile& file) : file_(file) {}

  void matrix(const std::string& name, PackedMatrix& out) {
    const GgufTensor& tensor = need(name);
    out.type = tensor.type;
    out.n_in = static_cast<uint32_t>(tensor.shape[0]);
    out.n_out = static_cast<uint32_t>(tensor.n_rows());
    out.panel_bytes = cpu_attn::panel_bytes(tensor.type, out.n_in);
    pieces_.push_back({&tensor, &out, nullptr, bytes_});
    bytes_ += out.total_bytes();
  }
  void vector(const std::string& name, std::span<const float>& out) {
    const GgufTensor& tensor = need(name);
    pieces_.push_back({&tensor, nullptr, &out, bytes_});
    bytes_ += round_up(tensor.shape[0] * sizeof(float), 64);
  }
  void optional_vector(const std::string& name, std::span<const float>& out) {
    if (file_.find_tensor(name) != nullptr) vector(name, out);
  }

  std::span<const Piece> pieces() const { return pieces_; }
  uint64_t bytes() const { return bytes_; }

 private:
  const GgufTensor& need(const std::string& name) const {
    const GgufTensor* tensor = file_.find_tensor(name);
    STRATA_CHECK(tensor != nullptr, "tensor %s, which read_model_spec checks", name.c_str());
    return *tensor;
  }
  const GgufFile& file_;
  std::vector<Piece> pieces_;
  uint64_t bytes_ = 0;
};

void Model::add_layer(Layout& layout, uint32_t idx) {
  LayerWeights& out = layers_[idx];
  const std::string prefix = "blk." + std::to_string(idx) + ".";
  layout.vector(prefix + "attn_norm.weight", out.attn_norm);
  layout.matrix(prefix + "attn_q.weight", out.q);
  layout.matrix(prefix + "attn_k.weight", out.k);
  layout.matrix(prefix + "attn_v.weight", out.v);
  layout.matrix(prefix + "attn_output.weight", out.attn_output);
  layout.optional_vector(prefix + "attn_q.bias", out.q_bias);
  layout.optional_vector(prefix + "attn_k.bias", out.k_bias);
  layout.optional_vector(prefix + "attn_v.bias", out.v_bias);
  layout.optional_vector(prefix + "attn_output.bias", out.output_bias);
  if (spec_.has_qk_norm) {
    layout.vector(prefix + "attn_q_norm.weight", out.q_norm);
    layout.vector(prefix + "attn_k_norm.weight", out.k_norm);
  }
  if (spec_.has_post_norms) {
    layout.vector(prefix + "post_attention_norm.weight", out.post_attn_norm);
    layout.vector(prefix + "post_ffw_norm.weight", out.post_ffn_norm);
  }
  layout.vector(prefix + "ffn_norm.weight", out.ffn_norm);
  layout.matrix(prefix + "ffn_gate.weight", out.ffn_gate);
  layout.matrix(prefix + "ffn_up.weight", out.ffn_up);
  layout.matrix(prefix + "ffn_down.weight", out.ffn_down);
}

void Model::lay_out(Layout& layout) {
  layers_.resize(shape().n_layers);
  layout.matrix("token_embd.weight", embedding_);
  for (uint32_t idx = 0; idx < shape().n_layers; ++idx) add_layer(layout, idx);
  layout.vector("output_norm.weight", output_norm_);
  if (spec_.has_output_tensor) layout.matrix("output.weight", output_);
}

uint64_t Model::packed_bytes(const GgufFile& file, const ModelSpec& spec) {
  Model model;
  model.spec_ = spec;
  Layout layout(file);
  model.lay_out(layout);
  return layout.bytes();
}

namespace {

void load_vector(const GgufFile& file, const GgufTensor& tensor, std::span<float> out) {
  std::vector<std::byte> bytes(tensor.bytes);
  file.read(tensor, 0, bytes);
  dequantise(tensor.type, bytes, out);
}

/// Reads and packs a matrix, panels shared out over the pool. Tasks of the pool must not throw: the
/// first error is kept.
void load_matrix(const GgufFile& file, const GgufTensor& tensor, const PackedMatrix& matrix,
                 std::byte* out, ThreadPool& pool) {
  const uint64_t row_bytes = tensor_row_bytes(tensor.type, matrix.n_in);
  const uint64_t panels_per_read = std::max<uint64_t>(1, kReadBytes / (row_bytes * kPanelRows));
  std::mutex error_mutex;
  std::exception_ptr error;
  pool.for_each(matrix.n_panels(), panels_per_read, [&](uint64_t begin, uint64_t end, uint32_t) {
    try {
      const uint64_t row_begin = begin * kPanelRows;
      const uint64_t row_end = std::min<uint64_t>(end * kPanelRows, matrix.n_out);
      std::vector<std::byte> rows((row_end - row_begin) * row_bytes);
      file.read(tensor, row_begin * row_bytes, rows);
      cpu_attn::pack_panels(tensor.type, matrix.n_out, matrix.n_in, static_cast<uint32_t>(begin),
                            static_cast<uint32_t>(end), rows, out + begin * matrix.panel_bytes);
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

}  // namespace

Model Model::load(const GgufFile& file, ModelSpec spec, ThreadPool& pool,
                  const Progress& progress) {
  Model model;
  model.spec_ = std::move(spec);
  Layout layout(file);
  model.lay_out(layout);
  model.weight_bytes_ = layout.bytes();
  model.memory_ = HostMemory::reserve(layout.bytes());

  uint64_t total_bytes = 0;
  uint64_t done_bytes = 0;
  for (const Piece& piece : layout.pieces()) total_bytes += piece.tensor->bytes;
  for (const Piece& piece : layout.pieces()) {
    std::byte* at = model.memory_.data() + piece.memory_offset;
    if (piece.matrix != nullptr) {
      load_matrix(file, *piece.tensor, *piece.matrix, at, pool);
      piece.matrix->bytes = at;
    } else {
      const std::span<float> values(reinterpret_cast<float*>(at), piece.tensor->shape[0]);
      load_vector(file, *piece.tensor, values);
      *piece.vector = values;
    }
    done_bytes += piece.tensor->bytes;
    if (progress && !progress(done_bytes, total_bytes))
      throw Error(ErrorCode::kCancelled, "loading was stopped", file.path());
  }
  if (!model.spec_.has_output_tensor) model.output_ = model.embedding_;
  return model;
}

}  // namespace strata::engine
