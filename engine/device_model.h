// engine/device_model.h - a model as a device's step wants it: from the head of its file, before
// anything is read, and with its weights on the device.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/device.h"
#include "engine/device_plan.h"
#include "engine/layers_from_file.h"
#include "engine/model.h"
#include "engine/staged_copy.h"
#include "gpu_attn/device_model.h"
#include "gpu_attn/streamed_weights.h"

namespace strata::engine {

/// Shapes, types and numbers; no matrix has bytes, and the embedding never gets any: the CPU
/// decodes rows of it.
gpu_attn::DeviceModel describe_for_device(const GgufFile& file, const ModelSpec& spec,
                                          const KvLayout& layout);

/// What a run wants that steps on a device cannot do.
struct BeyondDevices {
  bool estimates_tails = false;  // of what rows do not attend
  bool reads_sparsely = false;   // a prompt
  bool spills = false;           // K and V, beside a device that nobody has named
  bool streams_weights = false;  // from the model file, beside a device that nobody has named
};

/// Empty, or why steps of this model, or of such a run of it, cannot run on a device.
std::string why_not_on_device(const gpu_attn::DeviceModel& model, const BeyondDevices& wanted = {});

/// Of the output projection and of every vector.
uint64_t device_head_bytes(const gpu_attn::DeviceModel& model, const GgufFile& file);

/// The weights of a loaded model in a device's memory: those that stay, and two slots for those
/// that pass. Either come from the host's memory, or where that does not hold them from the model
/// file: once, or in every step. Not movable: `model` points into it.
class DeviceWeights {
 public:
  /// Copies what stays; `host` outlives this. Errors: kOutOfMemory, kDeviceLost; of what stays and
  /// is read those of Model::read_layer.
  DeviceWeights(const OpenDevice& device, const Model& host, gpu_attn::DeviceModel described,
                const DevicePlan& plan, ThreadPool& pool);
  DeviceWeights(const DeviceWeights&) = delete;
  DeviceWeights& operator=(const DeviceWeights&) = delete;

  const gpu_attn::DeviceModel& model() const { return model_; }
  gpu_attn::LayerWeightsSource& source() {
    return streamed_ ? static_cast<gpu_attn::LayerWeightsSource&>(*streamed_) : *source_;
  }
  uint64_t streamed_bytes() const { return streamed_ ? streamed_->queued_bytes() : 0; }
  /// Steps from now on have what comes from the file by `taker`; null: no step runs.
  void use(LayerTaker* taker) {
    if (from_file_) from_file_->use(taker);
  }
  /// Before a step is queued on `stream`: whether the CPU multiplies what the plan gives it.
  void begin_step(const Stream& stream, bool cpu_multiplies);
  /// Until all that is queued on it has ended; meanwhile what comes is copied for the next step.
  void wait(Stream& stream);
  /// What a step has taken from the file is given back: another is to take it. Errors: kDeviceLost.
  void leave();

 private:
  void place_head(const OpenDevice& device, const Model& host, StagedCopy& staged);
  void place_layers(const OpenDevice& device, const Model& host, const DevicePlan& plan,
                    StagedCopy& staged, ThreadPool& pool);
  void stream_layers(const OpenDevice& device, const Model& host, const DevicePlan& plan);
  std::vector<gpu_attn::StreamedLayer> layers_passing(const Model& host,
                                                      const std::vector<PieceSet>& stays) const;
  const float* place_vector(std::span<const float> values, StagedCopy& staged);

  gpu_attn::DeviceModel model_;
  Stream stream_;
  DeviceBuffer head_;  // output projection, vectors
  uint64_t head_used_ = 0;
  std::vector<DeviceBuffer> layers_;         // those that stay
  PinnedMemory pages_;                       // of the host's weights, where layers pass
  std::optional<LayersFromFile> from_file_;  // where some of them are not among those
  Event ended_;
  DeviceBuffer slots_;  // goes before the pages: the driver ends copies into it first
  std::unique_ptr<gpu_attn::StreamedWeights> streamed_;
  uint32_t few_rows_round_ = 0;  // of streamed_: without what the CPU multiplies by
  std::unique_ptr<gpu_attn::LayerWeightsSource> source_;  // of a model that stays whole
};

}  // namespace strata::engine
