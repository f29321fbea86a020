// engine/device_beside.h - few rows attend on both sides of the link: the beginning of a text on
// the device, its end by the CPU, where the device's memory does not hold all of K and V. Why: the
// link moves fewer bytes per second than the CPU attends
// (docs/adr/0023-attention-on-both-sides.md).
//
// Who attends which block follows from the plan and the length of the text alone, never from which
// copies the device has or who was quicker. More is not claimed of an answer's bits: they depend on
// the device's memory, the share, n_ctx and the chunk, and where steps are captured on where that
// began (DeviceWalk::State::queue_captured).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/device.h"
#include "engine/device_plan.h"
#include "engine/kv_cache.h"
#include "gpu_attn/decode_step.h"

namespace strata::engine {

/// Of full layers: blocks of a text's beginning that have room on the device, and of what is behind
/// them the CPU's share, in whole segments of 256 positions. What is neither is read across the
/// link.
struct AttentionShares {
  std::vector<uint32_t> near_blocks;  // [n_layers]; of windowed layers all
  double of_cpu = 0;

  /// Of n_blocks, those from the first on that the device attends.
  uint32_t device_blocks(uint32_t layer, uint32_t n_blocks) const;
};

/// The room that `plan` has for K and V, divided evenly; windowed layers come first.
AttentionShares share_attention(const ModelShape& shape, const DevicePlan& plan,
                                uint64_t block_bytes, uint64_t n_ctx, uint32_t chunk_rows);

/// Whoever attends on the host.
class TextAttender {
 public:
  virtual ~TextAttender() = default;
  /// Rows [first_row, first_row + n_rows) of the sequence's rows in the step, by their queries
  /// [n_kv_heads][n_rows][group, head_dim], which carry the attention scale, over positions from
  /// first_pos on, a multiple of kSegmentPositions.
  virtual void attend(uint32_t layer, uint32_t first_row, uint32_t n_rows, uint32_t first_pos,
                      const float* q, const gpu_attn::SplitPartials& out) = 0;
};

class DeviceBeside : public gpu_attn::HostAttention {
 public:
  /// `host` is host_bytes() of pinned memory; it, `shares` and `stream`, on which steps are queued,
  /// are borrowed. Errors: kDeviceLost.
  DeviceBeside(const OpenDevice& device, const ModelShape& shape, const AttentionShares& shares,
               Stream& stream, std::byte* host);
  static uint64_t host_bytes(const ModelShape& shape);

  /// Whether the CPU has a part of what rows attend that stand in the first n_blocks.
  bool has_part(uint32_t n_blocks) const;
  uint64_t n_cpu_blocks(uint32_t n_blocks) const;  // of all KV heads of all layers
  /// What follows are rows from first_row on, which `attender` attends.
  void begin(TextAttender& attender, uint32_t first_row, uint32_t n_blocks);
  void end() { attender_ = nullptr; }  // they are queued: nobody is asked any more

  uint32_t device_blocks(uint32_t layer, uint32_t n_blocks) const override;
  int ask(DeviceStream* stream, uint32_t layer, uint32_t n_rows, const float* q) override;
  int attend(DeviceStream* stream, uint32_t layer, uint32_t n_rows,
             const gpu_attn::SplitPartials& out) override;

 private:
  const ModelShape& shape_;
  const AttentionShares& shares_;
  Stream& stream_;
  Event asked_;  // the queries are on the host, and the rows' K and V at home
  float* q_;     // of few rows
  gpu_attn::SplitPartials partials_;
  TextAttender* attender_ = nullptr;
  uint32_t first_row_ = 0;
  uint32_t n_blocks_ = 0;  // in which the rows stand
};

}  // namespace strata::engine
