// engine/device_walk.h - steps on a device: a model's weights and the copies of K and V there, and
// the operations of gpu_attn over them. Why beside the walk: sequences, the KV cache, logits and
// errors are those of Walk, which gives the rows of one sequence to this in place of its own
// operations.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "engine/device.h"
#include "engine/device_beside.h"
#include "engine/device_chooser.h"
#include "engine/device_kv.h"
#include "engine/device_model.h"
#include "engine/device_plan.h"
#include "engine/device_products.h"
#include "engine/layers_from_file.h"
#include "engine/model.h"
#include "index/choose.h"

namespace strata::engine {

/// Rows of one sequence, for which the cache has opened room.
struct DeviceRows {
  const Sequence* sequence;
  std::span<const float> residual;                  // [n_rows, d_model], embedded
  std::span<const uint32_t> positions;              // [n_rows]
  std::span<const std::span<const float>> cos_sin;  // per RoPE set: [n_rows, n_rot]
  std::span<const uint32_t> logit_rows;             // those that want logits, ascending
  ContextChooser* chooser = nullptr;                // null: the rows attend everything
  TextAttender* attender = nullptr;                 // of the CPU's part of that
  RowMultiplier* multiplier = nullptr;              // by what the plan gives the CPU, of few rows
  LayerTaker* taker = nullptr;                      // of weights that come from the model file
};

/// What a model and a context of n_ctx, whose K and V take kv_bytes, want of a device, walked in
/// chunks of max_rows. `rule`: by which blocks are chosen of K and V that spill; null: none are.
/// What an index does is not known here: add_index_needs().
DeviceNeeds device_needs(const gpu_attn::DeviceModel& model, const GgufFile& file,
                         const ModelShape& shape, const DeviceFacts& facts, uint64_t n_ctx,
                         uint64_t kv_bytes, uint32_t max_rows, const index::Rule* rule = nullptr);

/// The same of n_answers that choose by `method` and `rule` at a time.
void add_index_needs(const ModelShape& shape, const KvLayout& layout, uint64_t n_ctx,
                     uint32_t max_rows, uint32_t n_answers,
                     const std::optional<index::Method>& method, const index::Rule& rule,
                     DeviceNeeds& needs);

/// One caller at a time. `model` and `cache` outlive it.
class DeviceWalk {
 public:
  /// Allocates what `plan` says and copies the weights that stay, which the threads of `pool` read
  /// where the model's memory does not hold them. Rows of an index come last; where memory for them
  /// alone is refused the host searches (index_problem()). Errors: those of DeviceWeights.
  DeviceWalk(const OpenDevice& device, const Model& model, gpu_attn::DeviceModel described,
             KvCache& cache, const DevicePlan& plan, uint32_t max_rows, uint64_t n_ctx,
             ThreadPool& pool);
  ~DeviceWalk();

  /// Computes the rows: their K and V are on the device and at home, the logits of logit_rows in
  /// `logits` [n, vocab_size]. Waits for it; after an error nothing of it is under way. Errors:
  /// those of DeviceKv::begin_step, of the chooser and of the taker; kDeviceLost. Rows that choose
  /// are walked kDeviceFewRows at a time, each part with a choice of its own per layer.
  void run(const DeviceRows& rows, std::span<float> logits);

  const DevicePlan& plan() const;  // as it is
  const DeviceKvCounts& kv_counts() const;
  bool has_copy(tiers::BlockId block) const;  // DeviceKv::has_copy
  /// Whether K and V spill: then the end of a text is the CPU's, from where the device's memory
  /// does not hold it, but for rows that choose what they attend.
  bool is_spilling() const;
  /// Of a text of end_pos positions: the first that the CPU attends in a full layer for few rows, a
  /// multiple of kSegmentPositions, or beyond the end.
  uint32_t first_cpu_pos(uint32_t layer, uint32_t end_pos) const;
  /// Whether K and V spill and the CPU has a part of what rows that stand at the end of so many
  /// positions attend, if they attend everything: many of them are not for run() then.
  bool has_cpu_part(uint32_t end_pos) const;
  /// The CPU computes what follows the positions of the sequence.
  void leave_rows(const Sequence& sequence);
  /// Its steps take the model's layers from now on, until the next run().
  void leave_weights();
  // Of weights, since the start: that passed through the device, that the CPU multiplied by.
  uint64_t streamed_bytes() const;
  uint64_t cpu_weight_bytes() const;
  DeviceIndexCounts index_counts() const;
  /// Why there is no room for an index's rows that had some as planned (plan() says so now); ""
  /// where there is, or where none was planned.
  const std::string& index_problem() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace strata::engine
