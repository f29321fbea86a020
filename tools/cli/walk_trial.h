// tools/cli/walk_trial.h - tokens of a small random model, decoded and read, to be timed: the
// engine's own walk with next to no weights, over K and V of many layers and heads.
// Why not the kernels alone: a token goes to another layer and another stream all the time, waits
// for every thread between two operations, and merges what they found. What a prompt's rows take
// beside their products is what they take where the kernel that multiplies does nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/kernel_table.h"
#include "base/kv_layout.h"
#include "engine/engine.h"

namespace strata::cli {

struct WalkTrialShape {
  uint32_t n_layers = 8;
  uint32_t n_kv_heads = 4;  // each of four query heads
  uint32_t head_dim = 64;
  KvCodec codec = KvCodec::kF16;
  uint32_t width = 64, d_ff = 64;  // of rows: with 64 matrices have some KiB
  uint32_t n_held = 0;             // positions that the deepest context holds
  uint32_t n_tokens = 0;           // decoded or read from one depth at most
};

/// Which kernels do their work where a prompt is read; the others return at once.
enum class ReadWork : uint8_t {
  kRows,       // all that neither multiplies with weights nor attends
  kAttention,  // that, and attention
};

class WalkTrial {
 public:
  /// Positions whose K and V, of all layers, take about so many bytes; whole extents, at least one.
  static uint32_t positions_of(const WalkTrialShape& shape, uint64_t bytes);

  /// Makes the model in memory and fills its context with random K and V. Errors: kOutOfMemory,
  /// kDoesNotFit, kCancelled.
  WalkTrial(const WalkTrialShape& shape, const KernelTable& kernels, uint32_t n_threads,
            const std::atomic<bool>* cancel);
  ~WalkTrial();

  /// From now on tokens are decoded behind so many positions, no more than the time before.
  void begin_at(uint32_t n_positions);
  /// One token, and its logits.
  void decode();
  /// A step of so many rows of a prompt, kReadRowsMax at most.
  static constexpr uint32_t kReadRowsMax = 512;
  void read(uint32_t n_rows, ReadWork work);
  /// Bytes of K and V that a token behind so many positions reads.
  uint64_t kv_bytes(uint32_t n_positions) const;
  /// Operations of attention of read() behind so many positions, as plans count them.
  double attend_flop(uint32_t n_positions, uint32_t n_rows) const;
  /// Values that rows of read() write beside products, as plans count them.
  double row_values(uint32_t n_rows) const;

 private:
  WalkTrialShape shape_;
  KernelTable kernels_, partial_;  // all, and those of reading_
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<engine::Walk> reading_;  // made when something is first read
  std::unique_ptr<engine::Sequence> filled_, running_;
  int32_t token_ = 0;
};

}  // namespace strata::cli
