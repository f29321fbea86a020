// planner/virtual/predicted_step.h - a model laid out on a virtual device, and its steps: the same
// calls that a walk on a card makes. Used by planner/virtual/predict.cc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/device_table.h"
#include "base/host_memory.h"
#include "planner/virtual/predict.h"

namespace strata::planner {

inline constexpr uint32_t kPredictedSplitBlocks = 64;  // of attention's splits

/// Two buffers that copies fill ahead of the kernels that read them.
struct AheadBuffers {
  static constexpr uint32_t kSlots = 2;
  DeviceStream* stream = nullptr;
  std::byte* slots[kSlots] = {};
  DeviceEvent* arrived[kSlots] = {};
  DeviceEvent* used[kSlots] = {};
  uint64_t n_asked = 0;  // fills that were queued; fill i goes to slot i % kSlots
  uint64_t n_taken = 0;  // that kernels were queued behind
};

class PredictedStep {
 public:
  /// Takes all memory. n_rows_max is 1 for decoding.
  PredictedStep(const DeviceProfile& profile, const PredictedModel& model,
                const Placement& placement, uint32_t n_positions_max, uint32_t n_rows_max);

  /// Empty where all memory was there; else what was not, and no step may run.
  const std::string& why_not() const { return why_not_; }
  VirtualDevice& device() { return device_; }

  /// Rows [first_pos, first_pos + n_rows) through all layers; the host waits for the end.
  void run(uint32_t first_pos, uint32_t n_rows, bool wants_logits);

 private:
  struct Layer {
    std::byte* weights = nullptr;  // where they lie in HBM or, streamed, in DRAM
    bool is_streamed = false;
    bool is_full = true;
    std::byte* kv = nullptr;     // home of K and V, [n_kv_heads][stride] blocks
    std::byte* cache = nullptr;  // of selected blocks in HBM
    uint64_t stride = 0;         // blocks of a KV head
    std::byte* table_base = nullptr;
    uint64_t n_in_table = 0;         // blocks of a KV head
    std::byte** table = nullptr;     // [n_kv_heads][stride], of what a step attends and writes
    std::byte** selected = nullptr;  // [n_kv_heads][n_selected_]
  };
  struct Rows {
    uint32_t first_pos;
    uint32_t n_rows;
  };
  struct AttendTable {
    const std::byte* const* blocks;
    uint64_t stride;
    uint64_t first_block;
    uint64_t n_blocks;
    const uint32_t* positions;
  };

  // predicted_step.cc: memory
  std::byte* take(uint64_t bytes, const char* what);
  std::byte* pin_nowhere(uint64_t bytes, const char* what);
  template <class T>
  T* pin_real(uint64_t n);
  void make_streams();
  void take_weights();
  void take_kv();
  void take_rows();
  void make_ahead(AheadBuffers& ahead, uint64_t slot_bytes, const char* what);
  uint64_t layer_bytes(uint32_t layer) const;
  uint64_t kv_bytes(uint32_t layer) const;
  bool is_kv_ahead() const;

  // predicted_step.cc: a step
  void check(int number) const;
  void ask_weights();
  void run_layer(uint32_t layer, const Rows& rows);
  void linear(std::byte* weights, uint64_t weight_bytes, uint64_t n_in,
              std::initializer_list<uint64_t> n_out, const float* x, std::byte* out,
              uint32_t n_rows);
  QuantRows quant_rows(uint32_t n_rows, uint64_t width) const;
  void norm(const float* projected, uint32_t n_rows);
  void finish(uint32_t n_rows);

  // predicted_attention.cc
  void set_selected(uint32_t layer);
  void set_open_blocks(uint32_t layer, const Rows& rows);
  void ask_kv();
  void copy_kv(uint32_t layer, std::byte* slot, uint64_t n_blocks);
  void set_table(uint32_t layer, const Rows& rows, std::byte* base);
  void attend(uint32_t layer, const Rows& rows);
  void rotate(uint32_t layer, const Rows& rows);
  void attend_table(uint32_t layer, const Rows& rows);
  void queue_attend(uint32_t layer, const AttendTable& table);
  void fetch_q(uint32_t layer);
  void attend_on_cpu(uint32_t layer, const Rows& rows);
  void attend_selected(uint32_t layer);
  void read_selected(uint32_t layer);
  void prefill_table(uint32_t layer, const Rows& rows);
  void store_chunk(uint32_t layer, const Rows& rows, const std::byte* slot);
  void merge(uint32_t layer, uint32_t n_splits);
  uint64_t first_block(uint32_t layer, const Rows& rows) const;

  const PredictedModel& model_;
  Placement placement_;
  uint64_t n_positions_max_;
  uint32_t n_rows_max_;
  uint64_t n_selected_;  // blocks of a KV head
  uint64_t n_hits_;      // of these in HBM
  std::string why_not_;
  std::vector<HostMemory> real_;  // outlives the device
  uint64_t nowhere_ = uint64_t{1} << 57;
  VirtualDevice device_;
  const DeviceTable& table_;
  DeviceStream* kernels_ = nullptr;
  DeviceStream* stores_ = nullptr;  // copies out
  AheadBuffers weights_ahead_, kv_ahead_;
  DeviceEvent* rotated_ = nullptr;
  DeviceEvent* stored_ = nullptr;
  DeviceEvent* queried_ = nullptr;  // q is with the host
  DeviceEvent* finished_ = nullptr;
  std::vector<Layer> layers_;
  std::vector<uint32_t> streamed_layers_, ahead_kv_layers_;
  std::byte* head_ = nullptr;
  std::byte* embedding_ = nullptr;
  std::byte* staging_ = nullptr;  // of the disk's reads
  // Rows in HBM.
  float* norm_weight_ = nullptr;
  float* residual_ = nullptr;
  float* normed_ = nullptr;
  std::byte* quant_ = nullptr;
  std::byte* projected_ = nullptr;  // q, k, v; gate and up; logits
  float* attended_ = nullptr;       // also the attention's output
  float* partials_ = nullptr;
  float* added_ = nullptr;
  std::byte* scratch_ = nullptr;
  // Of the host, pinned, with bytes.
  int32_t* tokens_ = nullptr;
  uint32_t* positions_ = nullptr;
  uint32_t* selected_position_ = nullptr;
  float* host_q_ = nullptr;
  float* host_partials_ = nullptr;
  int32_t* host_token_ = nullptr;
};

}  // namespace strata::planner
