// engine/model.h - a model's spec and its packed weights, in memory or streamed; its tokenizer data
// stays apart.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/host_memory.h"
#include "base/packed_matrix.h"
#include "base/thread_pool.h"
#include "base/trace.h"
#include "engine/gguf/gguf_file.h"
#include "engine/layer_weights.h"
#include "engine/model_spec.h"
#include "engine/weight_budget.h"
#include "engine/weight_loader.h"
#include "engine/weight_stream.h"

namespace strata::engine {

/// How weights come into memory, and which of them stay there.
struct WeightOptions {
  LoadMode load = LoadMode::kAuto;
  std::optional<WeightPlan> plan;                      // nothing: everything stays
  MakeIo make_io;                                      // empty: make_weight_io
  std::chrono::milliseconds deadline = kReadDeadline;  // of a read that does not come back
  Trace* trace = nullptr;  // of reads in steps, and waits for them; outlives the model
};

/// The sizes that plan_weights() decides about. Errors: kUnsupported (a row too long to be read at
/// once).
WeightSizes weight_sizes(const GgufFile& file, const ModelSpec& spec);

/// Unchanged once loaded, but for the slots that streamed layers pass through.
class Model {
 public:
  using Progress = std::function<bool(uint64_t done_bytes, uint64_t total_bytes)>;  // false cancels

  /// Reads every tensor that stays and packs it for the kernels; no mapping of the file is left.
  /// `file` must outlive the model where layers are streamed. Errors: kIo, kOutOfMemory, kBadFile,
  /// kUnsupported, kCancelled.
  static Model load(const GgufFile& file, ModelSpec spec, ThreadPool& pool,
                    const Progress& progress = {}, const WeightOptions& options = {});

  const ModelSpec& spec() const { return spec_; }
  const ModelShape& shape() const { return spec_.shape; }
  /// Shapes and vectors of any layer; the matrices that are streamed have no bytes here.
  const LayerWeights& layer(uint32_t idx) const { return layers_[idx]; }
  const PackedMatrix& embedding() const { return embedding_; }
  const PackedMatrix& output() const { return output_; }  // the embedding where tied
  std::span<const float> output_norm() const { return output_norm_; }

  /// A layer's weights for as long as the lease lives. Blocks where they are streamed and not there
  /// yet. One walk at a time takes layers. Errors: those of WeightStream::take.
  LayerLease take_layer(uint32_t idx, ThreadPool& pool,
                        const std::atomic<bool>* cancel = nullptr) const;
  /// Packs what has arrived of the next streamed layer and asks for more; called between
  /// operations. Waits for the disk at most so long, where nothing has. Whether reads are on their
  /// way: none where everything is resident.
  bool read_ahead(ThreadPool& pool, std::chrono::microseconds most = {}) const {
    return stream_ != nullptr && stream_->read_ahead(pool, most);
  }
  /// A device holds these pieces of each layer: steps of its round read what is streamed of the
  /// others. Returns the round's number; that of steps that read all is 0.
  uint32_t add_round(const std::vector<PieceSet>& held) const;
  /// WeightStream::begin_round().
  void begin_round(uint32_t round) const {
    if (stream_ != nullptr) stream_->begin_round(round);
  }
  /// Of a layer that is streamed in this round: whether take_layer() would not wait.
  bool is_layer_there(uint32_t idx) const { return stream_->is_there(idx); }
  /// Reads streamed pieces of a layer once, for who keeps them elsewhere: packed, one matrix behind
  /// the other. Errors: those of load_panels.
  void read_layer(uint32_t idx, PieceSet pieces, std::byte* memory, ThreadPool& pool) const;
  /// WeightStream::set_reads_ahead().
  void set_reads_ahead(bool on) const {
    if (stream_ != nullptr) stream_->set_reads_ahead(on);
  }

  uint64_t weight_bytes() const {
    return plan_.total_bytes();
  }  // in DRAM: as packed, or the plan's
  const WeightPlan& weight_plan() const { return plan_; }
  PieceSet streamed(uint32_t idx) const { return plan_.streamed[idx]; }
  const LoadReport& load_report() const { return load_report_; }
  /// What streaming has cost; zero where everything is resident.
  WeightReadCounts read_counts() const;
  /// All of it, whole pages, for a device to pin.
  std::span<std::byte> pages() const { return {memory_.data(), memory_.size()}; }
  /// What stays, as it lies: what a decode step reads of DRAM.
  std::span<const std::byte> weight_memory() const {
    return {memory_.data(), plan_.resident_bytes};
  }

 private:
  struct Layout;
  Model() = default;
  void lay_out(Layout& layout, const GgufFile& file);
  std::vector<StreamedLayer> layers_streaming(const std::vector<PieceSet>& pieces) const;
  void make_stream(const WeightOptions& options);
  ModelSpec spec_;
  WeightPlan plan_;
  LoadReport load_report_;
  HostMemory memory_;
  std::vector<LayerWeights> layers_;
  PackedMatrix embedding_, output_;
  std::span<const float> output_norm_;
  // Where layers are streamed.
  const GgufFile* file_ = nullptr;
  MakeIo make_io_;
  std::chrono::milliseconds deadline_{};
  std::unique_ptr<WeightStream> stream_;
};

}  // namespace strata::engine
