// engine/walk.h - takes a step of n rows through all layers: the one forward pass, for prompts,
// decoding and batches.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/kernel_table.h"
#include "base/step_plan.h"
#include "base/thread_pool.h"
#include "base/trace.h"
#include "engine/attention_probe.h"
#include "engine/kv_cache.h"
#include "engine/model.h"
#include "engine/sequence.h"
#include "index/choose.h"

namespace strata::engine {

class DeviceWalk;

/// What the rows of a step attend in full layers: everything before them, or the blocks that the
/// index of their sequence chooses for them, KV head by KV head. Windowed layers are always exact.
enum class Attention : uint8_t { kExact, kSelected };

/// Positions whose segments one thread merges before the spans are merged in order: part of the
/// arithmetic order (law L1; docs/adr/0001-one-arithmetic-order.md), so prefill and decode both use
/// it. Four segments: enough pieces for the threads at a few thousand positions.
inline constexpr uint32_t kSpanPositions = 4 * kSegmentPositions;
/// 32 MiB of span partials at most, which a walk holds; beyond it tiles stay whole.
inline constexpr uint64_t kSplitFloatsMax = uint64_t{8} << 20;

/// Rows of a prompt that share a choice per KV head: 128 positions, the grain of InfLLM's units.
inline constexpr uint32_t kRunRows = 128;
/// Neighbouring rows of a prompt that are scored as one: engine/walk_select.cc.
inline constexpr uint32_t kMeanRows = 8;

/// What selected steps read, summed over steps, layers and KV heads: of steps that were walked to
/// their end. Of layers that were attended in DRAM alone, where nothing spills, no block is pinned,
/// nor is one that a device has a copy of.
struct SelectionCounts {
  uint64_t steps = 0;
  uint64_t blocks = 0;           // full blocks that could be attended
  uint64_t attended_blocks = 0;  // of these
  uint64_t open_positions = 0;   // of blocks that were not full before the step: all attended
  uint64_t index_bytes = 0;      // of index rows
  uint64_t pinned_blocks = 0;    // of those attended, that can leave DRAM
  uint64_t missing_blocks = 0;   // of these, that were read from a file
  uint64_t file_bytes = 0;       // that these reads moved
  uint64_t scanned_on_device_bytes = 0;  // of index_bytes, what a device read in its memory

  /// Of a KV head of a layer: attended, and what exact attention would have attended.
  uint64_t attended_positions() const { return attended_blocks * kBlockPositions + open_positions; }
  uint64_t all_positions() const { return blocks * kBlockPositions + open_positions; }
  double attended_share() const {
    return all_positions() == 0
               ? 1.0
               : static_cast<double>(attended_positions()) / static_cast<double>(all_positions());
  }
  /// Share of the attended blocks that was in DRAM, or on a device.
  double hit_rate() const {
    return attended_blocks == 0
               ? 1.0
               : 1.0 - static_cast<double>(missing_blocks) / static_cast<double>(attended_blocks);
  }
  void add(const SelectionCounts& other) {
    steps += other.steps;
    blocks += other.blocks;
    attended_blocks += other.attended_blocks;
    open_positions += other.open_positions;
    index_bytes += other.index_bytes;
    pinned_blocks += other.pinned_blocks;
    missing_blocks += other.missing_blocks;
    file_bytes += other.file_bytes;
    scanned_on_device_bytes += other.scanned_on_device_bytes;
  }
  SelectionCounts since(const SelectionCounts& before) const {
    return {steps - before.steps,
            blocks - before.blocks,
            attended_blocks - before.attended_blocks,
            open_positions - before.open_positions,
            index_bytes - before.index_bytes,
            pinned_blocks - before.pinned_blocks,
            missing_blocks - before.missing_blocks,
            file_bytes - before.file_bytes,
            scanned_on_device_bytes - before.scanned_on_device_bytes};
  }
};

/// What choosing blocks by a method holds in memory beside the index, for contexts of n_ctx:
/// estimated weights, an upper bound.
uint64_t selection_bytes(const ModelShape& shape, uint64_t n_ctx, index::Method method);
/// What it holds more where prompts are read by selected chunks of so many rows: what each run of a
/// chunk has chosen, an upper bound.
uint64_t sparse_selection_bytes(const ModelShape& shape, uint64_t n_ctx, index::Method method,
                                const index::Rule& rule, uint32_t chunk_rows);
/// Errors: kUsage where the rule names a layer that is not there, or lets one reuse what the full
/// layer before it attends where it has a window, or where there is none or with other KV heads.
void check_modes(const index::Rule& rule, const ModelShape& shape);
/// Blocks that a selected step over contexts of n_ctx must have in DRAM at a time: those of one
/// span of what every KV head of the widest full layer attends.
uint64_t chosen_blocks_min(const ModelShape& shape, uint64_t n_ctx);

/// Blocks that a device has room for where it attends what is chosen of K and V that spill: what
/// the KV heads of one layer attend at a time, and what windowed layers hold of a text.
uint64_t chosen_on_device_min(const ModelShape& shape, uint64_t n_ctx, const index::Rule& rule,
                              uint32_t chunk_rows);
/// What a token attends of a text: what the KV heads of all full layers choose, and the windows.
uint64_t chosen_on_device(const ModelShape& shape, uint64_t n_ctx, const index::Rule& rule,
                          uint32_t chunk_rows);
/// Estimated weights of the rows of a layer that choose together on a device, at most.
uint64_t device_weight_floats(const ModelShape& shape, uint64_t n_ctx);

/// One row of a step. Rows of one sequence stand together and in order; row i of a sequence gets
/// position n_pos() + i.
struct StepRow {
  Sequence* sequence = nullptr;
  int32_t token = 0;
  bool wants_logits = false;
};

/// What the steps moved and found, those that were repeated or undone and repairs included.
struct WalkCounts {
  uint64_t steps = 0;
  // DRAM traffic of weights, K and V, by the formulas of the step plan.
  uint64_t read_bytes = 0, written_bytes = 0;
  // Extents of full layers that an exact step attended to, and those of them that were not in DRAM
  // when it began. What windowed layers attend to never leaves DRAM.
  uint64_t extents_attended = 0, extents_missing = 0;
  // Rows of selected steps whose K and V a repair computed again exactly: other bits than before.
  uint64_t rows_made_exact = 0;
};

/// Runs steps of at most `max_rows` rows. All memory is allocated by the constructor, but for the
/// logits of a step that wants more of them than any before. One caller at a time.
class Walk {
 public:
  /// Errors: kOutOfMemory.
  Walk(const Model& model, KvCache& cache, const KernelTable& kernels, ThreadPool& pool,
       uint32_t max_rows);
  ~Walk();

  uint32_t max_rows() const;
  KvCache& cache();
  ThreadPool& pool();
  /// Bytes reserved for steps, logits included; committed when first touched. At most
  /// walk_buffer_bytes() (engine/context_size.h) while a step wants one row's logits.
  uint64_t buffer_bytes() const;

  /// Walks 1..max_rows rows. Afterwards their tokens belong to their sequences, and logits(i) is
  /// that of the i-th row that wanted them. Errors: kDoesNotFit where the KV budget has no free
  /// block; kIo where weights are streamed and do not come; kCancelled; what a spill file brings.
  /// Nothing of the step is kept then, as with every exception.
  void step(std::span<const StepRow> rows, Attention attention = Attention::kExact);
  /// From now on steps may be kSelected; their sequences have an index (KvCacheOptions::selectors).
  /// Reserves for contexts of n_ctx; lists of what further runs of a chunk choose grow when they
  /// are first used. Called again it changes the rule and counts from 0.
  void select_by(const index::Rule& rule, uint64_t n_ctx);
  /// Rows of one sequence in a selected step that share one choice per KV head and are each scored
  /// for it, at most. A step with more has a choice for every kRunRows of them, scored by means of
  /// kMeanRows (of a method with a tail: for every selected_rows_max(), each scored), of the blocks
  /// that were full before the step.
  uint32_t selected_rows_max() const;
  const SelectionCounts& selection_counts() const;
  /// Computes the positions of a lost extent of `sequence` again, as step() does where it meets
  /// one: for callers that read blocks themselves. Logits of the last step are gone then. Errors:
  /// those of step().
  void repair(Sequence& sequence, const tiers::LostExtent& lost);
  /// Of `n` rows from the idx-th on that wanted them, [n, vocab_size] f32, valid until the next
  /// step.
  std::span<const float> logits(uint32_t idx, uint32_t n = 1) const;

  /// The plan of the last step, with bytes and FLOP by formula, and (where `set_timing(true)`)
  /// seconds per operation.
  const StepPlan& plan() const;
  const WalkCounts& counts() const;
  void set_timing(bool on);
  std::span<const double> op_seconds() const;
  /// From now on a step looks at the flag between its operations, and while it waits for the spill
  /// file, and ends with kCancelled where it is set. Null = it looks at none.
  void set_cancel(const std::atomic<bool>* flag);
  const std::atomic<bool>* cancel() const;
  /// From now on a step calls this between its operations, on the calling thread; what it throws
  /// ends the step. Empty = it calls nothing. Steps on a device have no such operations.
  void set_between_operations(std::function<void()> between);
  /// From now on steps and their operations are recorded, without an allocation. Null = none is.
  /// `trace` outlives the walk or is taken away before.
  void set_trace(Trace* trace);
  /// Where it is off, K and V of a file are read when they are attended and not before, streamed
  /// weights (of every walk over the model) when their layer begins, so that the disk and the CPU
  /// take turns: the bits are the same. On from the start; benches show what it brings.
  void set_reads_ahead(bool on);
  /// From now on steps run on a device, and none is probed. Rows of selected steps share a choice
  /// kDeviceFewRows at a time there, and no method has a tail.
  void use_device(std::unique_ptr<DeviceWalk> device);
  const DeviceWalk* device() const;  // null: the CPU alone
  /// Whether these rows, of one sequence and of an exact step, are the CPU's although a device
  /// computes others (docs/adr/0024-spill-beside-a-card.md): then all of a step that has them is,
  /// so that they are to step alone, or others' bits change.
  bool leaves_device(std::span<const StepRow> rows) const;
  /// From now on the full layers of selected steps are attended twice, exactly and as chosen, and
  /// the probe hears of both; no bit of the step changes. All of K and V is in DRAM then. Null =
  /// nothing hears, and nothing is done for it. `probe` outlives the walk or is taken away before.
  void set_probe(AttentionProbe* probe);
  Trace* trace() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Feeds `tokens` to a sequence in chunks; the last row's logits are wanted. `on_chunk(done,
/// total)` after each chunk; it returns false to stop (throws Error(kCancelled); the chunks walked
/// so far stay in the sequence). Selected chunks have selected_rows_max() rows at most.
void prefill(Walk& walk, Sequence& sequence, std::span<const int32_t> tokens, uint32_t chunk_rows,
             const std::function<bool(uint64_t done, uint64_t total)>& on_chunk = {},
             Attention attention = Attention::kExact);

/// What is walked next of a prompt.
struct PromptChunk {
  uint64_t n_rows;  // at most
  Attention attention;
};
/// At position n_pos: exact chunks end where sparse reading begins.
inline PromptChunk next_chunk(uint64_t n_pos, uint64_t chunk_rows, uint64_t sparse_from) {
  if (n_pos >= sparse_from) return {chunk_rows, Attention::kSelected};
  return {std::min(chunk_rows, sparse_from - n_pos), Attention::kExact};
}

/// As prefill(), exactly up to position sparse_from and from there on by selected steps of whole
/// chunks: each row attends the chunk, sinks, window and what was chosen of the rest. For prompts
/// so long that attending all of them is what reading takes.
void prefill_sparsely(Walk& walk, Sequence& sequence, std::span<const int32_t> tokens,
                      uint32_t chunk_rows, uint64_t sparse_from,
                      const std::function<bool(uint64_t done, uint64_t total)>& on_chunk = {});

inline constexpr uint64_t kNeverSparse = UINT64_MAX;
/// Where sparse reading begins unless said otherwise: up to there attention takes about as many
/// operations as the weights of a model of 135 million parameters, and less beside larger ones.
inline constexpr uint64_t kSparseFrom = 8192;

}  // namespace strata::engine
