// tools/gpu/placed_model.h - a random model and a text's K and V within a budget of a device's
// memory, and the steps over them. Why beside the engine: what a device's steps take is measured
// without a file, an arena and a host's walk. Who gets the memory is the engine's to say
// (engine/device_plan.h): layers that do not fit come through two slots in every step, blocks that
// do not fit are read in place.
//
// Blocks in place are those of one region of pinned memory (ModelSource), which is used again
// behind its end: a step reads each of them as often as its text is long, with the whole region,
// far more than a second cache holds, between two reads. What a step writes has blocks of its own.
//
// The same object stands on a virtual device without bytes: there nothing is filled, and block
// tables lie in pinned memory, where that device can look at them.
#pragma once

#include <memory>
#include <vector>

#include "base/host_memory.h"
#include "engine/device_plan.h"
#include "gpu_attn/decode_step.h"
#include "gpu_attn/streamed_weights.h"
#include "tools/gpu/random_model.h"

namespace strata::gpu_bench {

/// Steps of n_rows each, one behind the other; their last rows want logits. Everything before
/// first_position, a multiple of kBlockPositions, is there already.
struct TextSteps {
  uint32_t first_position = 0;
  uint32_t n_rows = 1;
  uint32_t n_steps = 1;

  uint32_t end_position() const { return first_position + n_rows * n_steps; }
  bool is_decoding() const { return n_rows == 1; }
};

/// What every placement of a model begins from.
class ModelSource {
 public:
  ModelSource(const RandomModelSizes& sizes, uint64_t pool_bytes);

  const gpu_attn::DeviceModel& model() const { return model_; }
  const RandomPanels& panels() const { return panels_; }
  /// Random blocks of K and V, so many; finite as f16.
  const HostMemory& pool() const { return pool_; }
  uint64_t n_pool_blocks() const { return pool_.size() / model_.kv_layout.block_bytes; }

 private:
  gpu_attn::DeviceModel model_;
  RandomPanels panels_;
  HostMemory pool_;
};

/// A device and a stream of it. Errors of the device are thrown as std::runtime_error.
struct OnDevice {
  const DeviceTable& table;
  Device* device;
  DeviceStream* stream;
  uint32_t n_multiprocessors;  // that attention is cut for
  bool has_bytes = true;

  void check(int error) const;
};

/// Memory of a device and pins of the host's, given back at the end.
class TakenMemory {
 public:
  explicit TakenMemory(const OnDevice& on) : on_(on) {}
  ~TakenMemory();
  TakenMemory(const TakenMemory&) = delete;
  TakenMemory& operator=(const TakenMemory&) = delete;

  std::byte* take(uint64_t bytes);
  std::byte* pin(const HostMemory& memory);  // its address on the device

 private:
  const OnDevice on_;
  std::vector<void*> taken_;
  std::vector<void*> pinned_;
};

class PlacedModel {
 public:
  /// `hbm_bytes_max` 0: as much as it wants. Throws where a step does not fit.
  PlacedModel(const OnDevice& on, const ModelSource& source, const TextSteps& text,
              uint64_t hbm_bytes_max);
  ~PlacedModel();

  const engine::DevicePlan& plan() const { return plan_; }

  /// Queues all steps: as the host calls for each operation, or as a graph. Those that stream
  /// layers are not captured, as in the engine.
  void queue();
  void queue_graph();
  bool can_be_graph() const { return text_.is_decoding() && plan_.n_streamed() == 0; }
  /// Of the last step; waits.
  std::vector<float> logits() const;

  /// Of one decoded token: weights and whole blocks of K and V, read once.
  uint64_t hbm_read_bytes() const;
  uint64_t link_read_bytes() const;
  /// Of all steps: products and attention, multiply and add count as two.
  uint64_t flop() const;

 private:
  uint64_t n_entries() const { return uint64_t{n_streams_} * stride_; }
  bool is_open(uint64_t entry) const {
    return entry % stride_ >= text_.first_position / kBlockPositions;
  }
  gpu_attn::DeviceStepSizes sizes() const;
  uint64_t head_bytes() const;
  engine::DeviceNeeds needs() const;
  uint64_t n_slots() const { return plan_.kv_bytes / model_.kv_layout.block_bytes; }
  void place_weights();
  void fill_matrix(std::byte* to, const PackedMatrix& of, const std::vector<std::byte>& panels);
  void stream_layers();
  void place_kv();
  void fill_slots(std::byte* slots);
  void write_inputs();
  void queue_step(uint32_t step);

  const OnDevice on_;
  const ModelSource& source_;
  const TextSteps text_;
  gpu_attn::DeviceModel model_;
  uint32_t n_streams_ = 0;   // of K and V: layers times KV heads
  uint32_t stride_ = 0;      // blocks of a table
  engine::DevicePlan plan_;  // of K and V the first blocks have slots
  HostMemory streamed_bytes_, own_blocks_, table_memory_, inputs_;
  TakenMemory memory_;        // behind what it pins
  uint64_t input_bytes_ = 0;  // of a step
  std::byte* const* blocks_ = nullptr;
  std::byte* const* homes_ = nullptr;
  gpu_attn::StreamedWeights* streamed_ = nullptr;
  std::unique_ptr<gpu_attn::LayerWeightsSource> weights_;
  std::unique_ptr<gpu_attn::DeviceStep> step_;
  std::vector<gpu_attn::DeviceKvTable> tables_;  // [n_layers]
  DeviceGraph* graph_ = nullptr;
};

}  // namespace strata::gpu_bench
