#include "engine/walk.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "base/seconds_since.h"
#include "cpu_attn/pack.h"
#include "engine/rope_table.h"
#include "engine/store_cancel.h"
#include "engine/walk_select.h"
#include "engine/walk_state.h"

namespace strata::engine {
namespace {

using cpu_attn::linear_bytes;

planner::PieceBytes piece_bytes(const Model& model) {
  planner::PieceBytes pieces;
  pieces.embedding_row = tensor_row_bytes(model.embedding().type, model.embedding().n_in);
  pieces.output_head = linear_bytes(model.output());
  for (uint32_t idx = 0; idx < model.shape().n_layers; ++idx) {
    const LayerWeights& w = model.layer(idx);
    pieces.layers.push_back({.qkv = linear_bytes(w.q) + linear_bytes(w.k) + linear_bytes(w.v),
                             .attn_output = linear_bytes(w.attn_output),
                             .ffn_gate_up = linear_bytes(w.ffn_gate) + linear_bytes(w.ffn_up),
                             .ffn_down = linear_bytes(w.ffn_down)});
  }
  return pieces;
}

/// Hands out 64-byte aligned pieces of a buffer; run twice, first to count and then to place.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}
  template <class T>
  std::span<T> take(uint64_t count) {
    const uint64_t at = bytes_;
    bytes_ = round_up(bytes_ + count * sizeof(T), 64);
    return base_ == nullptr ? std::span<T>()
                            : std::span<T>(reinterpret_cast<T*>(base_ + at), count);
  }
  uint64_t bytes() const { return bytes_; }

 private:
  std::byte* base_;
  uint64_t bytes_ = 0;
};

}  // namespace

Walk::State::State(const Model& m, KvCache& c, const KernelTable& kernel_table, ThreadPool& threads,
                   uint32_t rows)
    : model(m),
      shape(m.shape()),
      cache(c),
      kernels(kernel_table),
      pool(threads),
      max_rows(rows),
      pieces(piece_bytes(m)) {
  STRATA_CHECK(max_rows >= 1, "max_rows=%u", max_rows);
  for (const LayerShape& layer : shape.layers) {
    STRATA_CHECK(layer.n_heads / layer.n_kv_heads <= kMaxTileQueries, "%u query heads per KV head",
                 layer.n_heads / layer.n_kv_heads);
    max_q_width = std::max(max_q_width, layer.n_heads * shape.head_dim);
    max_kv_width = std::max(max_kv_width, layer.n_kv_heads * shape.head_dim);
    max_d_ff = std::max(max_d_ff, layer.d_ff);
    max_heads = std::max(max_heads, layer.n_heads);
  }
  const uint64_t widest = std::max({shape.d_model, max_q_width, max_d_ff});
  const uint64_t n = max_rows;
  attend_floats_per_worker = round_up(attend_scratch_floats(kMaxTileQueries, shape.head_dim) +
                                          uint64_t{kMaxTileQueries} * (3 * shape.head_dim + 6),
                                      16);
  const auto carve = [&](Carver& carver) {
    residual = carver.take<float>(n * shape.d_model);
    normed = carver.take<float>(n * shape.d_model);
    projected = carver.take<float>(n * shape.d_model);
    q = carver.take<float>(n * max_q_width);
    q_by_head = carver.take<float>(n * max_q_width);
    attended = carver.take<float>(n * max_q_width);
    k = carver.take<float>(n * max_kv_width);
    v = carver.take<float>(n * max_kv_width);
    gate = carver.take<float>(n * max_d_ff);
    up = carver.take<float>(n * max_d_ff);
    quant.q = carver.take<int8_t>(n * widest).data();
    quant.scales = carver.take<float>(n * div_up(widest, kActGroup)).data();
    quant.neg_sums = carver.take<int32_t>(n * div_up(widest, kActHalfGroup)).data();
    cos_sin.clear();
    for (const RopeSpec& rope : model.spec().rope_sets)
      cos_sin.push_back(carver.take<float>(n * rope.n_rot));
    zero_block = carver.take<std::byte>(cache.layout().block_bytes);
    attend_memory = carver.take<float>(pool.size() * attend_floats_per_worker);
    span_partials = carver.take<float>(kSplitFloatsMax);
    run_m = carver.take<float>(n * max_heads);
    run_l = carver.take<float>(n * max_heads);
  };
  Carver counter(nullptr);
  carve(counter);
  memory = HostMemory::reserve(counter.bytes());
  Carver placer(memory.data());
  carve(placer);
  for (const RopeSpec& rope : model.spec().rope_sets) rope_tables.emplace_back(rope);
  reserve_lists();
}

void Walk::State::reserve_lists() {
  uint32_t n_kv_heads = 0;
  for (const LayerShape& layer : shape.layers) n_kv_heads = std::max(n_kv_heads, layer.n_kv_heads);
  for (auto* list : {&positions, &logit_rows, &sequence_logit_rows}) list->reserve(max_rows);
  sequence_angles.reserve(cos_sin.size());
  tokens.reserve(max_rows);
  groups.reserve(max_rows);
  settled_ends.reserve(shape.n_layers);
  step_shape.sequences.reserve(max_rows);
  plan.ops.reserve(kOpsPerLayer * shape.n_layers + kOpsPerStep);
  op_seconds.reserve(plan.ops.capacity());
  tiles.reserve(uint64_t{max_rows} * n_kv_heads);
  tile_partials.reserve(uint64_t{kTilesPerThread} * pool.size());
  tile_queries.reserve(tiles.capacity());
  share_begins.resize(pool.size() + 1);
  split_items.reserve(kSplitFloatsMax / (shape.head_dim + 2));
  logit_values.reserve(shape.vocab_size);
}

uint32_t Walk::State::group_rows_max(const Sequence& sequence) const {
  if (!is_selected) return UINT32_MAX;
  STRATA_CHECK(sequence.index() != nullptr, "a sequence without an index");
  const uint32_t run_rows = selection->run_rows(sequence.index()->has_tail());
  return device ? std::min(run_rows, kDeviceFewRows) : run_rows;
}

void Walk::State::group_rows(std::span<const StepRow> rows) {
  for (uint32_t row = 0; row < n_rows; ++row) {
    const StepRow& of = rows[row];
    STRATA_CHECK(of.sequence != nullptr, "row %u has no sequence", row);
    STRATA_CHECK(of.token >= 0 && static_cast<uint32_t>(of.token) < shape.vocab_size,
                 "token %d of %u", of.token, shape.vocab_size);
    if (groups.empty() || groups.back().sequence != of.sequence) {
      for (const Group& group : groups)
        STRATA_CHECK(group.sequence != of.sequence, "rows of a sequence apart, row %u", row);
      const uint32_t n_pos = of.sequence->n_pos();
      groups.push_back({of.sequence, row, 0, n_pos, n_pos});
      step_shape.sequences.push_back({n_pos, 0});
    } else if (groups.back().n_rows == group_rows_max(*of.sequence)) {
      const Group& last = groups.back();
      groups.push_back({of.sequence, row, 0, last.first_pos + last.n_rows, last.held_pos});
    }
    Group& group = groups.back();
    positions.push_back(group.first_pos + group.n_rows++);
    ++step_shape.sequences.back().n_rows;
    tokens.push_back(of.token);
    if (of.wants_logits) logit_rows.push_back(row);
  }
}

void Walk::State::begin(std::span<const StepRow> rows) {
  groups.clear();
  tokens.clear();
  positions.clear();
  logit_rows.clear();
  step_shape.sequences.clear();
  n_rows = static_cast<uint32_t>(rows.size());
  group_rows(rows);
  step_shape.n_logit_rows = static_cast<uint32_t>(logit_rows.size());
  for (uint32_t set = 0; set < rope_tables.size(); ++set)
    rope_tables[set].angles(
        positions, cos_sin[set].first(uint64_t{n_rows} * model.spec().rope_sets[set].n_rot));
  planner::build_step_plan(shape, pieces, kv_position_bytes(cache.layout()), step_shape, plan);
}

void Walk::State::execute(const StepOp& op) {
  switch (op.kind) {
    case OpKind::kEmbed:
      return embed();
    case OpKind::kAttnNorm:
      return attn_norm();
    case OpKind::kQkv:
      return qkv(op.layer);
    case OpKind::kAttend:
      return attend(op.layer);
    case OpKind::kAttnOutput:
      return attn_output();
    case OpKind::kFfnNorm:
      return ffn_norm();
    case OpKind::kFfnGateUp:
      return ffn_gate_up(op.layer);
    case OpKind::kFfnDown:
      return ffn_down(op.layer);
    case OpKind::kLogits:
      return logits();
  }
}

void Walk::State::release_weights() {
  weights.release();
  held_layer = kNoLayer;
}

void Walk::State::hold_weights(const StepOp& op) {
  if (op.layer != held_layer) {
    release_weights();  // first, so that its slot is filled while the next layer computes
    if (op.layer != kNoLayer) {
      // Of layers that stay this takes no time, and is no event.
      const bool is_streamed =
          model.weight_plan().n_slots > 0 && model.weight_plan().streamed[op.layer].is_any();
      const TraceScope scope(
          is_streamed ? trace : nullptr,
          {.kind = TraceKind::kOperation, .index = op.layer, .name = "take_weights"});
      weights = model.take_layer(op.layer, pool, cancel);
    }
    held_layer = op.layer;
  }
  pack_ahead(op.layer);
}

/// Of weights that all stay this does nothing, and is no event.
void Walk::State::pack_ahead(uint32_t layer) {
  const TraceScope scope(model.weight_plan().n_slots > 0 ? trace : nullptr,
                         {.kind = TraceKind::kOperation, .index = layer, .name = "pack_weights"});
  model.read_ahead(pool);
}

void Walk::State::check_cancelled() const {
  if (cancel != nullptr && cancel->load(std::memory_order_relaxed))
    throw Error(ErrorCode::kCancelled, "the step was stopped");
}

/// Whether the operation reads what an index chooses, and not what the plan says.
bool Walk::State::is_chosen(const StepOp& op) const {
  return is_selected && op.kind == OpKind::kAttend && shape.layers[op.layer].window == 0;
}

/// That selected steps have read so far, of K, V and index rows.
uint64_t Walk::State::chosen_bytes() const {
  if (!is_selected) return 0;
  const SelectionCounts& chosen = selection->counts;
  return chosen.attended_positions() * kv_position_bytes(cache.layout()) + chosen.index_bytes;
}

void Walk::State::run_plan() {
  op_seconds.clear();
  model.begin_round(0);  // of all layers
  for (const StepOp& op : plan.ops) {
    check_cancelled();
    if (between_operations) between_operations();
    if (!settled_ends.empty()) settle_arrived();
    hold_weights(op);
    const auto start =
        timing ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
    {
      TraceScope scope(trace, {.kind = TraceKind::kOperation,
                               .index = op.layer,
                               .name = op_kind_name(op.kind),
                               .bytes = op.weight_bytes + op.kv_read_bytes + op.kv_write_bytes,
                               .detail = op.flop});
      const uint64_t chosen_before = chosen_bytes();
      execute(op);
      if (is_chosen(op)) scope.set_bytes(chosen_bytes() - chosen_before);
    }
    if (timing) op_seconds.push_back(seconds_since(start));
  }
  release_weights();
  pack_ahead(kNoLayer);  // for the next step, while this one's token is chosen
}

Walk::Walk(const Model& model, KvCache& cache, const KernelTable& kernels, ThreadPool& pool,
           uint32_t max_rows)
    : state_(std::make_unique<State>(model, cache, kernels, pool, max_rows)) {}
Walk::~Walk() = default;

uint32_t Walk::max_rows() const { return state_->max_rows; }
KvCache& Walk::cache() { return state_->cache; }
ThreadPool& Walk::pool() { return state_->pool; }
uint64_t Walk::buffer_bytes() const {
  return state_->memory.size() + state_->logit_values.capacity() * sizeof(float);
}
const StepPlan& Walk::plan() const { return state_->plan; }
const WalkCounts& Walk::counts() const { return state_->counts; }
const DeviceWalk* Walk::device() const { return state_->device.get(); }
bool Walk::leaves_device(std::span<const StepRow> rows) const {
  if (!state_->device || rows.empty()) return false;
  const auto n_rows = static_cast<uint32_t>(rows.size());
  return state_->is_left(n_rows, rows.front().sequence->n_pos() + n_rows);
}
void Walk::use_device(std::unique_ptr<DeviceWalk> device) { state_->device = std::move(device); }
void Walk::set_timing(bool on) { state_->timing = on; }
std::span<const double> Walk::op_seconds() const { return state_->op_seconds; }
const std::atomic<bool>* Walk::cancel() const { return state_->cancel; }
void Walk::set_cancel(const std::atomic<bool>* flag) { state_->cancel = flag; }
void Walk::set_between_operations(std::function<void()> between) {
  state_->between_operations = std::move(between);
}
void Walk::set_reads_ahead(bool on) {
  state_->reads_ahead = on;
  state_->model.set_reads_ahead(on);
}
void Walk::set_trace(Trace* trace) { state_->trace = trace; }
Trace* Walk::trace() const { return state_->trace; }

/// After plan_waves(), which lists what is missing. What a selected step reads of full layers is
/// counted when it is chosen.
void Walk::State::count_step() {
  ++counts.steps;
  for (const StepOp& op : plan.ops) {
    counts.read_bytes += op.weight_bytes + (is_chosen(op) ? 0 : op.kv_read_bytes);
    counts.written_bytes += op.kv_write_bytes;
  }
  const auto n_full =
      static_cast<uint64_t>(std::ranges::count(shape.layers, uint32_t{0}, &LayerShape::window));
  if (is_selected) return;  // SelectionCounts say what is chosen
  for (const Group& group : groups)
    counts.extents_attended += n_full * div_up(group.first_pos + group.n_rows, kExtentPositions);
  counts.extents_missing += fetches.size();
}

uint32_t Walk::State::rows_of_sequence(const Group& first) const {
  uint32_t n = 0;
  for (const Group& group : groups)
    if (group.sequence == first.sequence) n += group.n_rows;
  return n;
}

void Walk::State::keep_rows(const Group& first) {
  Sequence& sequence = *first.sequence;
  cache.close_rows(sequence, std::span(tokens).subspan(first.row_begin, rows_of_sequence(first)));
  if (is_selected)
    sequence.mark_selected(first.held_pos);
  else if (sequence.n_exact() == first.held_pos)
    sequence.set_n_exact(sequence.n_pos());
  index_closed(sequence, first.held_pos);
}

void Walk::State::run_step(std::span<const StepRow> rows, Attention attention) {
  const TraceScope scope(trace, {.kind = TraceKind::kStep,
                                 .index = static_cast<uint32_t>(rows.size()),
                                 .name = "step",
                                 .detail = rows.front().sequence->n_pos()});
  is_selected = attention == Attention::kSelected;
  STRATA_CHECK(!is_selected || selection != nullptr, "no rule to select by");
  begin(rows);
  const SelectionCounts selected_before = is_selected ? selection->counts : SelectionCounts();
  if (is_selected) ++selection->counts.steps;
  cache.store().begin_step(is_selected ? tiers::ReadGrain::kBlocks : tiers::ReadGrain::kExtents);
  try {
    for (const Group& group : groups)
      if (is_selected && group.is_first()) index_missed(*group.sequence);
    for (const Group& group : groups)
      if (group.is_first()) cache.open_rows(*group.sequence, rows_of_sequence(group));
    if (is_for_device()) {
      run_on_device();
    } else {
      plan_waves();
      count_step();
      run_plan();
    }
  } catch (...) {
    release_weights();
    drop_fetches();
    cache.store().drop_begun();
    for (const Group& group : groups)
      if (group.is_first()) cache.abandon_rows(*group.sequence);
    if (is_selected) selection->counts = selected_before;  // it runs again, or never was
    throw;
  }
  for (const Group& group : groups)
    if (group.is_first()) keep_rows(group);
}

void Walk::step(std::span<const StepRow> rows, Attention attention) {
  State& s = *state_;
  STRATA_CHECK(!rows.empty() && rows.size() <= s.max_rows, "%zu rows in a walk of %u", rows.size(),
               s.max_rows);
  const StoreCancel cancel(s.cache.store(), s.cancel);
  for (uint32_t n_repairs = 0;; ++n_repairs) {
    try {
      s.run_step(rows, attention);
      return;
    } catch (const tiers::LostExtent& lost) {
      if (n_repairs == kMaxRepairs) throw;
      s.repair(*s.holder_of(rows, lost), lost);
    }
  }
}

void Walk::repair(Sequence& sequence, const tiers::LostExtent& lost) {
  state_->repair(sequence, lost);
}

std::span<const float> Walk::logits(uint32_t idx, uint32_t n) const {
  const State& s = *state_;
  STRATA_CHECK(idx + n <= s.logit_rows.size(), "logits %u to %u of %zu", idx, idx + n,
               s.logit_rows.size());
  return std::span(s.logit_values)
      .subspan(uint64_t{idx} * s.shape.vocab_size, uint64_t{n} * s.shape.vocab_size);
}

namespace {

void read_chunks(Walk& walk, Sequence& sequence, std::span<const int32_t> tokens,
                 const std::function<PromptChunk()>& chunk_at,
                 const std::function<bool(uint64_t done, uint64_t total)>& on_chunk) {
  std::vector<StepRow> rows;
  for (uint64_t done = 0; done < tokens.size();) {
    const PromptChunk chunk = chunk_at();
    const uint64_t n = std::min<uint64_t>(chunk.n_rows, tokens.size() - done);
    rows.clear();
    for (uint64_t i = done; i < done + n; ++i)
      rows.push_back({&sequence, tokens[i], i + 1 == tokens.size()});
    walk.step(rows, chunk.attention);
    done += n;
    if (on_chunk && !on_chunk(done, tokens.size()) && done < tokens.size())
      throw Error(ErrorCode::kCancelled, "reading the prompt was stopped after " +
                                             std::to_string(done) + " of " +
                                             std::to_string(tokens.size()) + " tokens");
  }
}

}  // namespace

void prefill(Walk& walk, Sequence& sequence, std::span<const int32_t> tokens, uint32_t chunk_rows,
             const std::function<bool(uint64_t done, uint64_t total)>& on_chunk,
             Attention attention) {
  chunk_rows = std::min(chunk_rows, walk.max_rows());
  if (attention == Attention::kSelected)
    chunk_rows = std::min(chunk_rows, walk.selected_rows_max());
  read_chunks(
      walk, sequence, tokens,
      [&] {
        return PromptChunk{chunk_rows, attention};
      },
      on_chunk);
}

void prefill_sparsely(Walk& walk, Sequence& sequence, std::span<const int32_t> tokens,
                      uint32_t chunk_rows, uint64_t sparse_from,
                      const std::function<bool(uint64_t done, uint64_t total)>& on_chunk) {
  chunk_rows = std::min(chunk_rows, walk.max_rows());
  read_chunks(
      walk, sequence, tokens, [&] { return next_chunk(sequence.n_pos(), chunk_rows, sparse_from); },
      on_chunk);
}

}  // namespace strata::engine
