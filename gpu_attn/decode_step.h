// gpu_attn/decode_step.h - queues one step of a whole model on a device: rows of one sequence
// through all layers, from tokens to logits and the likeliest token. Why beside the kernels: the
// order of operations is the same for every engine, bench and test that drives a device.
//
// Nothing here waits or allocates, but who brings weights, chooses or computes on the host. What
// differs from step to step (tokens, positions, angles, block pointers) lies in memory that the
// operations read, so a captured step can run again for the next token after its inputs were
// rewritten. Fixed by a capture: n_rows, the logit rows, the pointers, and how attention is cut.
// DeviceKvTable::n_blocks may be more than the text has; attention then looks at positions, but the
// cut is for n_blocks: a text of a share s of it keeps a share s of the card busy, so attention
// takes up to 1 / s times as long. Capture anew when a table has grown by an eighth or so. A
// windowed layer's table should begin where its window does (first_block), or most of its cut is
// empty.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "gpu_attn/device_model.h"

namespace strata::gpu_attn {

/// The block tables of one layer, in the device's memory: entry [head * stride + i] is block
/// first_block + i of a KV head's text.
struct DeviceKvTable {
  std::byte* const* blocks = nullptr;
  std::byte* const* mirror = nullptr;  // as DeviceRotateArgs::mirror
  uint64_t stride = 0;
  uint32_t first_block = 0;
  uint32_t n_blocks = 0;  // at least as many as the rows' positions reach
};

/// Blocks of a table that a decoded token's step is captured for, where the text has n_blocks: it
/// is good for the tokens until then, and its cut is that of little more than the text.
constexpr uint32_t captured_blocks(uint32_t n_blocks) {
  constexpr uint32_t kShare = 16, kMost = 16;
  const uint32_t share = n_blocks / kShare;
  return n_blocks + (share < 1 ? 1 : share > kMost ? kMost : share);
}

struct DeviceStepSizes {
  uint32_t max_rows = 0;
  uint32_t max_logit_rows = 0;
  uint32_t max_blocks = 0;  // of a table
  uint32_t n_multiprocessors = 0;
};

/// What a step of n_rows reads anew, laid out in one piece that one copy brings to the device:
///   positions [n_rows], tokens [n_rows], per RoPE set cos_sin [n_rows, n_rot / 2] pairs (cos,
///   sin), residual [n_rows, d_model] where the model's embedding has no bytes
/// each part begins at a multiple of 256 bytes.
class DeviceStepInputs {
 public:
  /// `base` is bytes() large, of the host (pinned) or of the device.
  DeviceStepInputs(const DeviceModel& model, uint32_t n_rows, std::byte* base);

  uint32_t* positions() const { return reinterpret_cast<uint32_t*>(base_); }
  int32_t* tokens() const { return reinterpret_cast<int32_t*>(base_ + row_bytes_); }
  float* cos_sin(uint32_t rope_set) const;
  float* residual() const { return reinterpret_cast<float*>(base_ + residual_at_); }
  uint64_t bytes() const { return bytes_; }  // to be sent

  /// The largest bytes() of up to max_rows.
  static uint64_t max_bytes(const DeviceModel& model, uint32_t max_rows);

 private:
  const DeviceModel& model_;
  std::byte* base_;
  uint32_t n_rows_;
  uint64_t row_bytes_;  // of positions, and of tokens
  uint64_t residual_at_;
  uint64_t bytes_;
};

/// What the rows of a layer attend in place of its DeviceKvTable: tables of blocks, one for each KV
/// head, and where the rows stand in them (DeviceAttendArgs).
struct ChosenTables {
  const std::byte* const* blocks = nullptr;
  uint64_t stride = 0;
  uint32_t n_blocks = 0;                // of the longest
  const uint32_t* positions = nullptr;  // [n_kv_heads][n_rows]
};

/// Chooses the blocks that few rows attend, layer by layer.
class LayerChooser {
 public:
  virtual ~LayerChooser() = default;
  virtual bool chooses(uint32_t layer) const = 0;
  /// Of a layer that it chooses for: `q` of n_rows rows is what the stream computes last, and K and
  /// V of the rows are in their blocks then. The tables are good until the next call. Returns 0 or
  /// the device's error number; throws what choosing throws.
  virtual int choose(DeviceStream* stream, uint32_t layer, uint32_t n_rows, const float* q,
                     ChosenTables& tables) = 0;
};

/// Where partials of one split go: [n_kv_heads][n_rows][group(, head_dim)], as DeviceAttendArgs has
/// them.
struct SplitPartials {
  float* o = nullptr;
  float* m = nullptr;
  float* l = nullptr;
};

/// Attends the end of a text on the host, where few rows attend all of it, while the device attends
/// what is before: the host's part is one more split.
class HostAttention {
 public:
  virtual ~HostAttention() = default;
  /// Of a layer whose table has n_blocks, those that the device attends, from the first on; all:
  /// the host has no part.
  virtual uint32_t device_blocks(uint32_t layer, uint32_t n_blocks) const = 0;
  /// Asks for the host's part, behind which the device's own is queued: `q` of n_rows rows is what
  /// the stream computes last, and K and V of the rows are at home then.
  virtual int ask(DeviceStream* stream, uint32_t layer, uint32_t n_rows, const float* q) = 0;
  /// Waits for what was asked, attends, and queues what brings the partials to `out`, on the
  /// device. Both return 0 or the device's error number, and throw what attending throws.
  virtual int attend(DeviceStream* stream, uint32_t layer, uint32_t n_rows,
                     const SplitPartials& out) = 0;
};

/// What of a layer's products can be the host's: those of q, k and v; of the attention's output; of
/// the FFN, its activation among them.
enum class HostProduct : uint8_t { kQkv, kAttnOutput, kFfn };

/// Multiplies few rows on the host by weights that lie there.
class HostProducts {
 public:
  virtual ~HostProducts() = default;
  /// Of a layer, those whose products are the host's: its weights need have no bytes of them.
  virtual PieceSet pieces(uint32_t layer) const = 0;
  /// `x` [n_rows, the product's n_in] is what the stream computes last. Waits for it, multiplies,
  /// and says where the device reads the products [n_rows, n_out], until this is called again: q, k
  /// and v, or one. Returns 0 or the device's error number, and throws what multiplying throws.
  virtual int multiply(DeviceStream* stream, HostProduct product, uint32_t layer, uint32_t n_rows,
                       const float* x, std::span<const float*> products) = 0;
};

/// Rows of one sequence at positions that ascend by one.
struct DeviceStepRows {
  uint32_t n_rows = 0;
  std::span<const uint32_t> logit_rows;  // those that want logits, ascending
  bool wants_best = false;               // and the likeliest token of each
  std::span<const DeviceKvTable> kv;     // [n_layers]
  const std::byte* inputs = nullptr;     // DeviceStepInputs in pinned host memory, filled
  LayerChooser* chooser = nullptr;       // of few rows; null: all is attended
  HostAttention* host = nullptr;         // of few rows without a chooser; null: by the device
  HostProducts* products = nullptr;      // of few rows; null: by the device
};

class DeviceStep {
 public:
  /// Of the device, in one piece: what step_buffers() of the source carves.
  static uint64_t memory_bytes(const DeviceModel& model, const DeviceStepSizes& sizes);

  /// `memory` is memory_bytes() of the device, 256-byte aligned; it, the model and the source are
  /// borrowed.
  DeviceStep(const DeviceTable& table, const DeviceModel& model, LayerWeightsSource& weights,
             const DeviceStepSizes& sizes, std::byte* memory);

  /// Queues all of it. The inputs may be rewritten once the stream has come past the step.
  /// Returns 0 or the device's error number; K and V of the rows are then not to be used.
  int queue(DeviceStream* stream, const DeviceStepRows& rows);

  // Of the last step, on the device.
  const float* logits() const { return buffers_.logits; }              // [logit rows, vocab_size]
  const int32_t* best_tokens() const { return buffers_.best_tokens; }  // where it was wanted
  const float* best_logits() const { return buffers_.best_logits; }

 private:
  /// Pointers into the memory; rows are those of the step, widths the layer's.
  struct Buffers {
    std::byte* inputs;              // DeviceStepInputs, and the residual behind it
    float *normed, *projected;      // [rows, d_model]
    float *q, *rotated, *attended;  // [rows, q width]
    float *k, *v;                   // [rows, kv width]
    float *gate, *up;               // [rows, d_ff]
    QuantRows quant;                // [kDeviceFewRows, the widest]
    float *partial_o, *partial_m, *partial_l;
    std::byte* scratch;
    float* logits;
    float* best_logits;
    int32_t* best_tokens;
    uint64_t bytes;
  };
  class Queue;

  static Buffers carve(const DeviceModel& model, const DeviceStepSizes& sizes, std::byte* memory);

  const DeviceTable& table_;
  const DeviceModel& model_;
  LayerWeightsSource& weights_;
  DeviceStepSizes sizes_;
  Buffers buffers_;
};

}  // namespace strata::gpu_attn
