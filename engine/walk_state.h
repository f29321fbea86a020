// engine/walk_state.h - what a walk owns: buffers for one step of max_rows rows, and the operations
// of the step plan. Included by engine/walk*.cc only.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/host_memory.h"
#include "base/kernel_table.h"
#include "base/step_plan.h"
#include "base/thread_pool.h"
#include "base/trace.h"
#include "engine/device_walk.h"
#include "engine/kv_cache.h"
#include "engine/model.h"
#include "engine/rope_table.h"
#include "engine/walk.h"
#include "planner/step_plan_builder.h"

namespace strata::engine {

inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Times that one step computes lost extents again before it gives up: a disk that loses more is
// broken.
inline constexpr uint32_t kMaxRepairs = 256;
inline constexpr uint32_t kTilesPerThread = 4;                // enough for an even share
inline constexpr uint32_t kOpsPerLayer = 7, kOpsPerStep = 2;  // of a step plan

struct Walk::State {
  State(const Model& model, KvCache& cache, const KernelTable& kernels, ThreadPool& pool,
        uint32_t max_rows);

  /// Neighbouring rows of one sequence. All of its rows in the step, but in a selected one: there
  /// those that share a choice, and a sequence may have several groups, which stand together.
  struct Group {
    Sequence* sequence;
    uint32_t row_begin;
    uint32_t n_rows;
    uint32_t first_pos;
    uint32_t held_pos;  // positions of the sequence before the step
    bool is_first() const { return first_pos == held_pos; }  // of its sequence
  };

  void reserve_lists();                       // so that no step allocates
  void begin(std::span<const StepRow> rows);  // groups, positions, angles, plan
  void group_rows(std::span<const StepRow> rows);
  uint32_t group_rows_max(const Sequence& sequence) const;
  uint32_t rows_of_sequence(const Group& first) const;
  void run_plan();
  bool is_chosen(const StepOp& op) const;
  uint64_t chosen_bytes() const;
  void check_cancelled() const;
  void execute(const StepOp& op);

  // Steps on a device (engine/walk_device.cc).
  class DeviceContexts;
  bool is_for_device();
  bool is_left(uint32_t n_rows_of, uint32_t end_pos) const;
  void run_on_device();
  void run_on_device(uint32_t first_group, std::span<float> logits);

  /// Holds the weights of the operation's layer, and of no other; then asks for what comes next.
  void hold_weights(const StepOp& op);
  void pack_ahead(uint32_t layer);
  void release_weights();
  void embed();
  void attn_norm();
  void qkv(uint32_t layer);
  void attend(uint32_t layer);
  void attend_tables(uint32_t layer);
  void attn_output();
  void ffn_norm();
  void ffn_gate_up(uint32_t layer);
  void ffn_down(uint32_t layer);
  void logits();

  // Helpers of the operations (engine/walk_layer.cc).
  struct Linear {
    const PackedMatrix* w;
    float* out;
    uint64_t out_stride;
  };
  /// Normalises rows of `x` into normed_ and quantises them for the matrices that will read them.
  void norm_rows(const float* x, uint32_t n, std::span<const float> weight, bool quantise);
  /// Quantises n rows [n_in] of x into quant_ where any of the matrices wants it.
  void quantise_rows(const float* x, uint32_t n, uint32_t n_in);
  /// out = W x for every matrix in one parallel region; all read the same n rows. Who waits fetches
  /// the first bytes of `next`, what is multiplied after it.
  void linear(std::span<const Linear> tasks, const float* x, uint32_t n,
              std::initializer_list<const PackedMatrix*> next);
  /// Products and activation of n rows of x, for the down projection, into `gate`, quantised where
  /// that wants it.
  void gate_up(const LayerWeights& w, uint32_t d_ff, const float* x, uint32_t n);
  /// x [n, n_in], whichever rows, to out [n, n_out], as RowMultiplier has it.
  void multiply_beside(gpu_attn::HostProduct product, uint32_t layer, uint32_t n, const float* x,
                       const std::array<float*, 3>& out);
  /// residual += maybe_norm(projected + bias) for every row.
  void add_to_residual(std::span<const float> bias, std::span<const float> post_norm);
  void rotate_and_store(uint32_t layer, uint32_t row_begin, uint32_t row_end);
  const Group& group_of_row(uint32_t row) const;
  template <class Task>
  void for_rows(uint32_t n, const Task& task);

  // Attention (engine/walk_attend.cc).
  struct AttendTile;
  struct AttendBuffers;
  /// Some rows of a group, the first of which is row `first` of it.
  struct PartRows {
    uint32_t group_idx, first, n_rows;
  };
  AttendBuffers buffers_of(uint32_t worker) const;
  void attend_span(const AttendTile& tile, uint32_t span, AttendBuffers& buffers) const;
  void attend_segment(const AttendTile& tile, uint32_t segment_pos, uint32_t end_pos,
                      bool has_prepared_q, AttendBuffers& buffers) const;
  void attend_whole(const AttendTile& tile, AttendBuffers& buffers) const;
  void store_output(const AttendTile& tile, const AttendBuffers& run) const;
  AttendTile tile_at(uint32_t group_idx, uint32_t layer, uint32_t kv_head, uint32_t row,
                     uint32_t end_row) const;
  uint32_t tile_rows(uint32_t layer, uint32_t n_rows_all) const;
  void list_tiles(uint32_t layer);
  void list_tiles_of(uint32_t group_idx, uint32_t layer, uint32_t begin_row, uint32_t end_row);
  AttendBuffers with_span_at(uint64_t floats, uint32_t n_queries, AttendBuffers buffers) const;
  void attend_tiles(uint32_t layer);
  void attend_beside(uint32_t layer, const PartRows& rows, uint32_t first_pos,
                     const gpu_attn::SplitPartials& out);
  void attend_split(uint32_t layer);
  void merge_split(uint32_t layer);

  // Retrieval (engine/walk_select.cc; the index it asks, engine/walk_index.cc).
  struct HeadTable;
  struct Selection;
  HeadTable head_table(uint32_t group_idx, uint32_t layer, uint32_t kv_head) const;
  void select_layer(uint32_t layer);
  void select_group(uint32_t group_idx, uint32_t layer, bool attends = false,
                    const BlockWeights& given = {});
  void put_means(const Group& group, uint32_t layer);
  uint32_t n_scored(const Group& group, uint32_t layer) const;
  void choose_heads(uint32_t group_idx, uint32_t layer, uint32_t n_blocks, bool attends,
                    const BlockWeights& given);
  std::span<const uint64_t> list_resident(uint32_t group_idx, uint32_t layer, uint32_t kv_head,
                                          uint32_t n_blocks);
  void choose_head(uint32_t group_idx, uint32_t layer, uint32_t kv_head, uint32_t n_blocks,
                   uint32_t worker);
  void put_table(uint32_t group_idx, uint32_t layer, uint32_t kv_head, uint32_t n_blocks);
  void choose_by_mode(uint32_t group_idx, uint32_t layer, uint32_t n_blocks, index::LayerMode mode);
  void put_tail_table(uint32_t group_idx, uint32_t layer, uint32_t kv_head, uint32_t n_blocks,
                      const index::Rule& rule);
  void leave_out_chosen(uint32_t group_idx, uint32_t layer, uint32_t kv_head,
                        const index::Rule& rule, uint32_t n_blocks);
  void keep_retrieved(uint32_t group_idx, uint32_t layer, uint32_t kv_head, const index::Rule& rule,
                      uint32_t n_blocks);
  void sum_means(uint32_t group_idx, uint32_t layer, uint32_t n_blocks, bool of_retrieved);
  void estimate_tails(uint32_t group_idx, uint32_t layer, uint32_t n_blocks);
  void merge_span(const AttendTile& tile, uint32_t span, AttendBuffers& buffers) const;
  void merge_tail(const AttendTile& tile, AttendBuffers& buffers) const;
  uint32_t begin_chosen(uint32_t group_idx, uint32_t layer, uint32_t n_begun);
  bool attends_as_chosen(uint32_t layer) const;
  void attend_as_chosen(uint32_t layer);
  void attend_head_spans(uint32_t layer, uint32_t kv_head, uint32_t worker);
  uint64_t head_floats(uint32_t layer) const;
  void index_closed(Sequence& sequence, uint32_t held_pos);
  void index_missed(Sequence& sequence);

  // For a probe (engine/walk_probe.cc).
  void attend_exactly(uint32_t layer);
  void tell_probe(uint32_t layer);

  // Attention in waves (engine/walk_waves.cc), over extents that are partly on disk
  // (engine/walk_stream.cc) and over chosen blocks that are, which a device gets copies of in place
  // of that (engine/walk_chosen.cc); extents that are read once, since DRAM has room for all
  // (engine/walk_settle.cc).
  struct Wave;
  void begin_runs();
  void attend_wave(const Wave& wave, uint32_t first_head, uint32_t end_head);
  void store_runs();
  AttendBuffers with_run_of(uint32_t tile_idx, AttendBuffers buffers) const;
  void begin_waves();
  void plan_waves();
  void plan_waves_beside(uint32_t group_idx);
  void plan_layer_waves(uint32_t layer);
  void plan_group_waves(uint32_t group_idx, uint32_t layer, uint32_t first_pos);
  bool list_missing(uint32_t group_idx, uint32_t layer, uint32_t begin_pos, uint32_t end_pos);
  void fetch_to(uint32_t end);
  void fetch_ahead();
  void fetch_until(uint32_t end);
  void drop_fetches();
  void attend_streamed(uint32_t layer);
  bool plan_settling();
  void list_settling(uint32_t first_layer, uint32_t end_layer);
  void plan_stretches();
  void fetch_stretches();
  void settle_arrived();
  void settle_until(uint32_t end);
  void settle_layer(uint32_t layer);
  bool reads_chosen(uint32_t layer) const;
  void plan_chosen(uint32_t layer);
  std::span<const tiers::BlockId> chosen_of(uint32_t group_idx, uint32_t layer, uint32_t kv_head,
                                            uint32_t span) const;
  uint64_t n_frozen(uint32_t group_idx, uint32_t layer, uint32_t span) const;
  void list_wave(Wave& wave);
  std::span<const tiers::BlockId> reads_of(const Wave& wave) const;
  uint64_t n_missing(std::span<const tiers::BlockId> blocks) const;
  bool is_at_hand(tiers::BlockId block) const;
  bool begin_pins(std::span<const tiers::BlockId> blocks, bool is_least);
  void finish_pins(uint32_t layer, std::span<const tiers::BlockId> blocks);
  void attend_begun(const Wave& wave);
  void attend_pinned(const Wave& wave);
  void attend_chosen(uint32_t layer);
  void count_chosen(const tiers::StoreCounts& before);
  size_t bring_chosen(uint32_t layer, std::span<const tiers::BlockId> blocks);
  void let_go_chosen(bool are_copied);
  void run_step(std::span<const StepRow> rows, Attention attention);
  void count_step();
  /// What the step has walked belongs to the sequence of a first group.
  void keep_rows(const Group& first);
  Sequence* holder_of(std::span<const StepRow> rows, const tiers::LostExtent& lost) const;
  void compute_again(Sequence& sequence, uint32_t first_pos);
  void repair(Sequence& sequence, const tiers::LostExtent& lost);

  const Model& model;
  const ModelShape& shape;
  KvCache& cache;
  const KernelTable& kernels;
  ThreadPool& pool;
  const uint32_t max_rows;
  WalkCounts counts;

  // Widths of the widest layer.
  uint32_t max_q_width = 0;
  uint32_t max_kv_width = 0;
  uint32_t max_d_ff = 0;
  uint32_t max_heads = 0;

  // Step.
  std::vector<Group> groups;
  std::vector<int32_t> tokens;       // [n_rows]
  std::vector<uint32_t> positions;   // [n_rows]
  std::vector<uint32_t> logit_rows;  // rows that want logits
  uint32_t n_rows = 0;
  std::vector<uint32_t> share_begins;  // of each worker, and the end: in the panels of an operation
  StepShape step_shape;
  StepPlan plan;
  LayerLease weights;  // of held_layer
  uint32_t held_layer = kNoLayer;
  planner::PieceBytes pieces;
  bool timing = false;
  bool reads_ahead = true;
  std::vector<double> op_seconds;
  Trace* trace = nullptr;
  AttentionProbe* probe = nullptr;
  const std::atomic<bool>* cancel = nullptr;
  std::function<void()> between_operations;

  // Buffers, all [max_rows, width] f32 unless said otherwise.
  HostMemory memory;
  std::span<float> residual, normed, q, k, v, attended, projected, gate, up;
  // [n_kv_heads][n_rows][group, head_dim], RoPE applied, times the attention scale.
  std::span<float> q_by_head;
  std::vector<RopeTable> rope_tables;     // per RoPE set
  std::vector<std::span<float>> cos_sin;  // per RoPE set: [max_rows, n_rot]
  QuantRows quant{};
  std::vector<float> logit_values;  // [n_logit_rows, vocab_size]
  // Stands for blocks that a windowed layer has let go of: attended by no row.
  std::span<std::byte> zero_block;
  std::span<float> attend_memory;  // per worker
  uint64_t attend_floats_per_worker = 0;
  std::vector<AttendTile> tiles;
  // Split attention: which (tile, span) each item is, where a tile's partials begin, and the
  // partials: per item o [n_queries, head_dim], m [n_queries], l [n_queries].
  std::vector<std::pair<uint32_t, uint32_t>> split_items;
  std::vector<uint64_t> tile_partials;
  std::span<float> span_partials;  // [kSplitFloatsMax]

  // What an exact step reads back: waves in the order of use, the extents of each, and how far
  // fetching and releasing have come in that list.
  std::vector<Wave> waves;
  uint32_t next_wave = 0;
  std::vector<tiers::ExtentId> fetches;
  uint32_t n_fetched = 0;
  uint32_t n_released = 0;
  std::vector<tiers::ExtentId> span_missing;
  std::vector<uint32_t> settled_ends;  // per layer: of `fetches`, what it needs; none: waves
  uint32_t settled_stretch = 1;        // of `fetches`, asked for together
  uint32_t settled_max = 0;            // on their way at once; 0: not known yet
  std::span<float> run_m, run_l;       // [max_rows, n_heads]; o lies in q, which is free by then
  std::vector<uint64_t> tile_queries;  // queries of the tiles before each tile

  std::unique_ptr<DeviceWalk> device;  // runs the plan in place of the operations above
  // What the device gets of one sequence: angles per RoPE set, and which of its rows want logits.
  std::vector<std::span<const float>> sequence_angles;
  std::vector<uint32_t> sequence_logit_rows;

  bool is_selected = false;              // the step's full layers attend what was chosen
  std::unique_ptr<Selection> selection;  // null where no step may be selected
};

/// The blocks that one KV head attends, as the context they make for it: block i of the table holds
/// what stands at positions [32 i, 32 i + 32) of it, and a row at position p of the text stands at
/// p - n_skipped. In exact attention that is the text itself.
///
/// With a tail, blocks that were retrieved come first, alone in their spans: the last of these ends
/// at n_retrieved, and table blocks up to its end are kNoBlock.
struct Walk::State::HeadTable {
  const tiers::BlockId* blocks;  // of table blocks first_block ..
  uint32_t first_block;          // those before were let go of by a windowed layer
  uint32_t n_skipped;            // positions, whole blocks, modulo 2^32
  bool has_tail;
  uint32_t n_retrieved;  // positions; 0 without a tail

  uint32_t n_retrieved_spans() const { return (n_retrieved + kSpanPositions - 1) / kSpanPositions; }
  /// Where the positions end that a span may hold, in a context of end_pos.
  uint32_t end_of(uint32_t span, uint32_t end_pos) const {
    return span < n_retrieved_spans() ? n_retrieved : end_pos;
  }
  /// kNoBlock where a windowed layer has let go of it.
  tiers::BlockId at(uint32_t pos) const {
    const uint32_t idx = pos / kBlockPositions;
    return idx < first_block ? tiers::kNoBlock : blocks[idx - first_block];
  }
};

/// Spans [first_span, end_span) of one group in one layer. What they read is [first_read, end_read)
/// of a list: the missing extents in `fetches`, in selected steps every block that can leave DRAM
/// in `selection->reads`.
struct Walk::State::Wave {
  uint32_t layer;
  uint32_t group;
  uint32_t first_span;
  uint32_t end_span;
  uint32_t first_read;
  uint32_t end_read;
};

struct Walk::State::AttendTile {
  const Group* group;
  HeadTable table;
  uint32_t layer;
  uint32_t kv_head;
  uint32_t row_begin;  // first row of the tile in the step
  uint32_t n_rows;
  uint32_t n_queries;   // n_rows * group
  uint32_t first_span;  // spans [first_span, end_span) hold every position that a row of the tile
                        // attends
  uint32_t end_span;
  uint32_t first_pos = 0;            // segments before it are another's
  gpu_attn::SplitPartials out = {};  // where its partials go in place of outputs; null: nowhere
};

/// One worker's memory during attention.
struct Walk::State::AttendBuffers {
  float* scratch;
  float* segment_o;
  float* segment_m;
  float* segment_l;
  float* span_o;
  float* span_m;
  float* span_l;
  float* run_o;
  float* run_m;
  float* run_l;
};

}  // namespace strata::engine
