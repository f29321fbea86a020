// engine/walk_select.cc - which blocks the rows of a step attend, and the index that says so.
//
// As soon as the queries of a layer exist, each KV head asks the index of its sequence for the
// weight of every full block, or is given what a device has found (engine/device_index.h), and what
// is chosen becomes the context of that head: chosen blocks in the order of the text, then those
// still open. Attention reads that context as it reads any other, in the same arithmetic order, so
// that a budget of everything gives the bits of exact attention.
// Neighbouring rows of one sequence share one choice per KV head: of a question all of them, of a
// prompt's chunk kRunRows at a time, scored by means of kMeanRows. What the step itself adds is
// attended by every row behind it.
//
// Tried for a run of a prompt (Gemma 3 270M, 30,720 tokens of this tree's pages, rabitq at 2,048
// from 8,192 on, KL to exact reading, nat, +- 0.009 at most): of 32 rows means of 8 0.058; of
// 128 rows means of 4 0.065, of 8 0.069, of 16 0.068; means of 8 as long as their rows 0.069; one
// query of every 8 0.058, but with the largest perplexity of all (15.60; means of 8 15.40).
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <thread>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "engine/walk_select.h"

namespace strata::engine {
namespace {

// Of the index that a worker scores at a time: pieces much shorter than a layer, so that workers
// finish together.
constexpr uint32_t kBlocksPerTask = 512;
constexpr uint32_t kScoredQueries = 96;  // of a KV head in a run; of more their means are scored
// Of each block that the heads of a layer may attend: Head::chosen and blocks, Selection::reads,
// what the store lists of those it reads, and a bit of Selection::resident.
constexpr uint64_t kListedBytes = sizeof(uint32_t) + 2 * sizeof(tiers::BlockId) + 24 + 1;

SelectionSizes selection_sizes(const ModelShape& shape, uint64_t n_ctx) {
  SelectionSizes sizes;
  sizes.stride = static_cast<uint32_t>(round_up(n_ctx / kBlockPositions + 1, kExtentBlocks));
  for (const LayerShape& layer : shape.layers) {
    if (layer.window > 0) continue;
    sizes.max_kv_heads = std::max(sizes.max_kv_heads, layer.n_kv_heads);
    sizes.max_group_heads = std::max(sizes.max_group_heads, layer.n_heads / layer.n_kv_heads);
  }
  const uint64_t rows =
      std::min<uint64_t>(kScoredQueries / std::max(1u, sizes.max_group_heads),
                         kWeightFloatsMax / std::max<uint64_t>(1, sizes.row_floats()));
  sizes.max_rows = static_cast<uint32_t>(std::max<uint64_t>(1, rows));
  return sizes;
}

/// Full blocks of a choice at most.
uint64_t most_blocks(const index::Rule& rule, uint64_t n_ctx) {
  using Kind = index::Budget::Kind;
  const uint64_t always = rule.n_sink_blocks + rule.n_window_blocks;
  const double value = rule.budget.value;
  const auto n_all = static_cast<double>(n_ctx);
  double n_positions = n_all;
  if (rule.budget.kind == Kind::kTokens) n_positions = std::min(value, n_all);
  if (rule.budget.kind == Kind::kShare) n_positions = value * n_all;
  if (std::ranges::count(rule.layers, index::LayerMode::kDense) > 0) n_positions = n_all;
  return std::max(always, static_cast<uint64_t>(n_positions) / kBlockPositions + 1);
}

}  // namespace

uint64_t selection_bytes(const ModelShape& shape, uint64_t n_ctx, index::Method method) {
  const SelectionSizes sizes = selection_sizes(shape, n_ctx);
  const uint64_t listed = uint64_t{sizes.stride} * sizes.max_kv_heads * kListedBytes;
  if (!index::has_tail(method))
    return listed +
           (sizes.row_floats() * sizes.max_rows + sizes.mean_floats(shape)) * sizeof(float);
  // For a tail: two sums, and the weights of what is retrieved once more; no means.
  return listed +
         2 * (sizes.row_floats() + sizes.sum_floats(shape)) * sizes.max_rows * sizeof(float);
}

uint64_t sparse_selection_bytes(const ModelShape& shape, uint64_t n_ctx, index::Method method,
                                const index::Rule& rule, uint32_t chunk_rows) {
  const SelectionSizes sizes = selection_sizes(shape, n_ctx);
  const uint64_t n_more = div_up(chunk_rows, sizes.run_rows(index::has_tail(method))) - 1;
  const uint64_t n_blocks = std::min<uint64_t>(sizes.stride, most_blocks(rule, n_ctx)) +
                            div_up(chunk_rows, kBlockPositions) + 1;  // those still open
  uint64_t bytes = n_blocks * sizes.max_kv_heads * kListedBytes;
  if (index::has_tail(method))
    bytes += 2 * sizes.sum_floats(shape) * sizes.max_rows * sizeof(float);
  return n_more * bytes;
}

namespace {

/// What so many KV heads choose of a text, and its windows.
uint64_t chosen_and_windows(const ModelShape& shape, uint64_t n_ctx, const index::Rule& rule,
                            uint32_t chunk_rows, uint64_t n_kv_heads) {
  const uint64_t n_open = div_up(selection_sizes(shape, n_ctx).max_rows, kBlockPositions) + 1;
  uint64_t n_blocks = n_kv_heads * std::min(blocks_for(n_ctx), most_blocks(rule, n_ctx) + n_open);
  for (const LayerShape& layer : shape.layers)
    if (layer.window > 0)
      n_blocks += layer.n_kv_heads * stream_blocks_max(layer, n_ctx, chunk_rows);
  return n_blocks;
}

}  // namespace

uint64_t chosen_on_device_min(const ModelShape& shape, uint64_t n_ctx, const index::Rule& rule,
                              uint32_t chunk_rows) {
  return chosen_and_windows(shape, n_ctx, rule, chunk_rows,
                            selection_sizes(shape, n_ctx).max_kv_heads);
}

uint64_t chosen_on_device(const ModelShape& shape, uint64_t n_ctx, const index::Rule& rule,
                          uint32_t chunk_rows) {
  uint64_t n_kv_heads = 0;
  for (const LayerShape& layer : shape.layers)
    if (layer.window == 0) n_kv_heads += layer.n_kv_heads;
  return chosen_and_windows(shape, n_ctx, rule, chunk_rows, n_kv_heads);
}

uint64_t device_weight_floats(const ModelShape& shape, uint64_t n_ctx) {
  const SelectionSizes sizes = selection_sizes(shape, n_ctx);
  return sizes.row_floats() * std::min(sizes.max_rows, kDeviceFewRows);
}

void check_modes(const index::Rule& rule, const ModelShape& shape) {
  const auto refuse = [](size_t layer, const std::string& why) {
    throw Error(ErrorCode::kUsage, fmt::format("layer {} {}", layer, why), "--attn-layers",
                "`strata inspect` says which layers a model has");
  };
  uint32_t n_kv_heads = 0;  // of the full layer before; 0 = there is none
  for (size_t layer = 0; layer < rule.layers.size(); ++layer) {
    const bool is_named = rule.layers[layer] != index::LayerMode::kIndex;
    if (layer >= shape.layers.size() && is_named)
      refuse(layer, fmt::format("is not there: the model has {}", shape.layers.size()));
    if (layer >= shape.layers.size()) continue;
    const LayerShape& of = shape.layers[layer];
    const bool reuses = rule.layers[layer] == index::LayerMode::kReuse;
    if (of.window > 0 && reuses) refuse(layer, "attends a window, so that nothing is chosen");
    if (of.window > 0) continue;
    if (reuses && n_kv_heads != of.n_kv_heads)
      refuse(layer, "has no full layer of as many KV heads before it, whose blocks it could reuse");
    n_kv_heads = of.n_kv_heads;
  }
}

Walk::State::Selection::Selection(const index::Rule& rule, const ModelShape& shape,
                                  const KernelTable& kernels, uint32_t n_threads,
                                  uint32_t max_groups, uint64_t n_ctx, bool has_tail)
    : SelectionSizes(selection_sizes(shape, n_ctx)),
      parts_left(max_kv_heads),
      is_chosen(max_kv_heads),
      next_span(max_kv_heads),
      resident(max_kv_heads),
      retrieved_weights(max_kv_heads) {
  weights.resize(row_floats() * max_rows);
  if (!has_tail) means.resize(mean_floats(shape));
  for (uint32_t i = 0; i < n_threads; ++i) {
    choosers.emplace_back(kernels, rule);
    choosers.back().reserve(stride, max_group_heads * max_rows);
  }
  heads.resize(uint64_t{max_groups} * max_kv_heads);
  for (uint32_t head = 0; head < max_kv_heads; ++head) {
    heads[head].blocks.reserve(stride + kSpanPositions / kBlockPositions);
    heads[head].chosen.reserve(stride);
    resident[head].reserve(div_up(stride, kResidentBits));
  }
  if (has_tail) {
    const uint64_t n_queries = uint64_t{max_group_heads} * max_rows;
    for (uint32_t head = 0; head < max_kv_heads; ++head) {
      retrieved_weights[head].reserve(n_queries * stride);
      heads[head].left_out_sums.reserve(n_queries * (uint64_t{shape.head_dim} + 2));
      heads[head].retrieved_sums.reserve(n_queries * (uint64_t{shape.head_dim} + 2));
    }
  }
  reads.reserve(uint64_t{stride} * max_kv_heads);
}

Walk::State::HeadTable Walk::State::head_table(uint32_t group_idx, uint32_t layer,
                                               uint32_t kv_head) const {
  if (is_selected && shape.layers[layer].window == 0) {
    const auto& head = selection->heads[group_idx * selection->max_kv_heads + kv_head];
    return {head.blocks.data(), 0, head.n_skipped, head.has_tail, head.n_retrieved};
  }
  const auto all = cache.stream_blocks(*groups[group_idx].sequence, layer, kv_head);
  return {all.blocks.data(), all.first_block, 0, false, 0};
}

/// Queries per KV head that a group is scored by.
uint32_t Walk::State::n_scored(const Group& group, uint32_t layer) const {
  const LayerShape& of = shape.layers[layer];
  const auto n_means =
      static_cast<uint32_t>(div_up(group.n_rows, selection->mean_rows(group.n_rows)));
  const uint32_t group_heads = of.n_heads / of.n_kv_heads;
  // What Selection::weights and means were reserved for.
  STRATA_CHECK(n_means <= selection->max_rows && group_heads <= selection->max_group_heads &&
                   of.n_kv_heads <= selection->max_kv_heads,
               "%u of %u means, %u of %u heads of each of %u of %u KV heads", n_means,
               selection->max_rows, group_heads, selection->max_group_heads, of.n_kv_heads,
               selection->max_kv_heads);
  return n_means * group_heads;
}

/// Leaves what the group is scored by in selection->means: each query head's queries, mean_rows()
/// neighbours added in order.
void Walk::State::put_means(const Group& group, uint32_t layer) {
  const LayerShape& of = shape.layers[layer];
  const uint32_t mean_rows = selection->mean_rows(group.n_rows);
  const uint32_t row_floats = of.n_heads / of.n_kv_heads * shape.head_dim;
  float* mean = selection->means.data();
  for (uint32_t head = 0; head < of.n_kv_heads; ++head)
    for (uint32_t row = 0; row < group.n_rows; row += mean_rows, mean += row_floats) {
      const uint32_t n = std::min(mean_rows, group.n_rows - row);
      const float* from =
          q_by_head.data() + (uint64_t{head} * n_rows + group.row_begin + row) * row_floats;
      std::copy_n(from, row_floats, mean);
      for (uint32_t i = 1; i < n; ++i)
        kernels.add(mean, from + uint64_t{i} * row_floats, row_floats, mean);
      kernels.scale(mean, 1.0f / static_cast<float>(n), row_floats, mean);
    }
}

/// selection->weights [n_kv_heads][n_queries][stride] of blocks [0, n_blocks), unless others are
/// given, and then the choice of every head, by the worker that has scored the last of its blocks;
/// and then, where it attends, the spans of every head.
void Walk::State::choose_heads(uint32_t group_idx, uint32_t layer, uint32_t n_blocks, bool attends,
                               const BlockWeights& given) {
  const Group& group = groups[group_idx];
  const LayerShape& of = shape.layers[layer];
  const uint32_t n_queries = n_scored(group, layer);
  const uint64_t row_floats = uint64_t{of.n_heads / of.n_kv_heads} * shape.head_dim;
  const bool has_means = selection->mean_rows(group.n_rows) > 1;
  const bool is_scored = given.values != nullptr;
  if (has_means) put_means(group, layer);
  selection->of_layer =
      is_scored ? given : BlockWeights{selection->weights.data(), selection->stride};
  const auto queries_of = [&](uint32_t head) -> const float* {
    if (has_means) return selection->means.data() + uint64_t{head} * n_queries * shape.head_dim;
    return q_by_head.data() + (uint64_t{head} * n_rows + group.row_begin) * row_floats;
  };
  const index::Selector& index = *group.sequence->index();
  STRATA_CHECK(
      index.scratch_floats(n_queries) <= attend_scratch_floats(kMaxTileQueries, shape.head_dim),
      "scratch of %lu floats", static_cast<unsigned long>(index.scratch_floats(n_queries)));
  const auto n_parts =
      is_scored ? 1u : std::max(1u, static_cast<uint32_t>(div_up(n_blocks, kBlocksPerTask)));
  for (uint32_t head = 0; head < of.n_kv_heads; ++head) {
    selection->parts_left[head].store(n_parts, std::memory_order_relaxed);
    selection->is_chosen[head].store(false, std::memory_order_relaxed);
    selection->next_span[head].store(0, std::memory_order_relaxed);
  }
  selection->has_failed.store(false, std::memory_order_relaxed);
  uint32_t n_begun = 0;  // heads
  const uint64_t n_scored_items = uint64_t{of.n_kv_heads} * n_parts;
  const uint64_t n_items = n_scored_items + (attends ? uint64_t{of.n_kv_heads} * pool.size() : 0);
  pool.for_each(n_items, 1, [&](uint64_t from, uint64_t to, uint32_t w) {
    for (uint64_t item = from; item < to; ++item) {
      if (item >= n_scored_items) {
        attend_head_spans(layer, static_cast<uint32_t>((item - n_scored_items) % of.n_kv_heads), w);
        continue;
      }
      const auto head = static_cast<uint32_t>(item / n_parts);
      const uint32_t first = static_cast<uint32_t>(item % n_parts) * kBlocksPerTask;
      try {
        if (!is_scored)
          index.estimate({.stream = cache.index_stream(layer, head),
                          .q = queries_of(head),
                          .n_queries = n_queries,
                          .first_block = first,
                          .end_block = std::min(n_blocks, first + kBlocksPerTask),
                          .scratch = buffers_of(w).scratch,
                          .log_weights = selection->weights.data() +
                                         uint64_t{head} * n_queries * selection->stride,
                          .weight_stride = selection->stride});
        if (selection->parts_left[head].fetch_sub(1, std::memory_order_acq_rel) == 1) {
          choose_head(group_idx, layer, head, n_blocks, w);
          selection->is_chosen[head].store(true, std::memory_order_release);
        }
      } catch (...) {  // for those who wait for this head's choice
        selection->has_failed.store(true, std::memory_order_release);
        throw;
      }
      if (w == 0) n_begun = begin_chosen(group_idx, layer, n_begun);
    }
  });
  SelectionCounts& sums = selection->counts;
  const uint64_t index_bytes = sums.index_bytes;
  for (uint32_t head = 0; head < of.n_kv_heads; ++head)
    sums.index_bytes +=
        index.estimate_bytes(n_blocks, is_scored ? nullptr : queries_of(head), n_queries);
  if (is_scored) sums.scanned_on_device_bytes += sums.index_bytes - index_bytes;
}

/// Begins to read what heads from n_begun on have chosen and only a file holds, while others are
/// still being scored: by the calling thread, which alone moves blocks. Returns how many heads are
/// begun then; the last ones are read by begin_pins().
uint32_t Walk::State::begin_chosen(uint32_t group_idx, uint32_t layer, uint32_t n_begun) {
  const uint32_t n_heads = shape.layers[layer].n_kv_heads;
  if (!reads_ahead || !reads_chosen(layer)) return n_heads;
  tiers::BlockStore& store = cache.store();
  for (; n_begun < n_heads; ++n_begun) {
    if (!selection->is_chosen[n_begun].load(std::memory_order_acquire)) break;
    const auto& head = selection->heads[group_idx * selection->max_kv_heads + n_begun];
    const auto all = cache.stream_blocks(*groups[group_idx].sequence, layer, n_begun).blocks;
    selection->reads.clear();
    for (const uint32_t block : head.chosen)
      if (!is_at_hand(all[block])) selection->reads.push_back(all[block]);
    try {
      if (!selection->reads.empty()) store.begin_blocks(selection->reads);
    } catch (const Error&) {
      return n_heads;  // begin_pins() meets it again, outside of the pool
    }
  }
  return n_begun;
}

/// A bit per block of a KV head that is at hand as the layers before have left it, and not merely
/// on its way to DRAM; a probe says so itself. Empty where residency has no say.
std::span<const uint64_t> Walk::State::list_resident(uint32_t group_idx, uint32_t layer,
                                                     uint32_t kv_head, uint32_t n_blocks) {
  std::vector<uint64_t>& bits = selection->resident[kv_head];
  bits.clear();
  if (selection->choosers.front().rule().residency_tolerance <= 0) return bits;
  if (probe == nullptr && !reads_chosen(layer)) return bits;
  const auto all = cache.stream_blocks(*groups[group_idx].sequence, layer, kv_head).blocks;
  bits.resize(div_up(n_blocks, kResidentBits));
  for (uint32_t block = 0; block < n_blocks; ++block)
    if (probe != nullptr ? probe->holds(layer, kv_head, block) : is_at_hand(all[block]))
      bits[block / kResidentBits] |= uint64_t{1} << block % kResidentBits;
  return bits;
}

void Walk::State::choose_head(uint32_t group_idx, uint32_t layer, uint32_t kv_head,
                              uint32_t n_blocks, uint32_t worker) {
  const Group& group = groups[group_idx];
  const uint32_t n_queries = n_scored(group, layer);
  const BlockWeights& estimated = selection->of_layer;
  const uint64_t n_weights = n_queries * estimated.stride;
  const index::Choice& choice = selection->choosers[worker].choose(
      {.log_weights = {estimated.values + kv_head * n_weights, n_weights},
       .weight_stride = estimated.stride,
       .n_queries = n_queries,
       .n_blocks = n_blocks,
       // As if the run stood first: rows of the step before it take nothing of the budget.
       .n_positions = group.held_pos + group.n_rows,
       .resident = list_resident(group_idx, layer, kv_head, n_blocks)});
  auto& head = selection->heads[group_idx * selection->max_kv_heads + kv_head];
  head.chosen = choice.blocks;
  if (group.sequence->index()->has_tail() && choice.blocks.size() < n_blocks)
    put_tail_table(group_idx, layer, kv_head, n_blocks, selection->choosers[worker].rule());
  else
    put_table(group_idx, layer, kv_head, n_blocks);
}

/// The table of a head without a tail: chosen blocks in the order of the text, then the open ones.
void Walk::State::put_table(uint32_t group_idx, uint32_t layer, uint32_t kv_head,
                            uint32_t n_blocks) {
  const auto all = cache.stream_blocks(*groups[group_idx].sequence, layer, kv_head).blocks;
  auto& head = selection->heads[group_idx * selection->max_kv_heads + kv_head];
  head.has_tail = false;
  head.n_retrieved = 0;
  head.blocks.clear();
  for (const uint32_t block : head.chosen) head.blocks.push_back(all[block]);
  head.blocks.insert(head.blocks.end(), all.begin() + n_blocks, all.end());
  head.n_skipped = (n_blocks - static_cast<uint32_t>(head.chosen.size())) * kBlockPositions;
}

/// What the rule says of a layer without asking the index.
void Walk::State::choose_by_mode(uint32_t group_idx, uint32_t layer, uint32_t n_blocks,
                                 index::LayerMode mode) {
  const uint32_t n_kv_heads = shape.layers[layer].n_kv_heads;
  for (uint32_t kv_head = 0; kv_head < n_kv_heads; ++kv_head) {
    auto& head = selection->heads[group_idx * selection->max_kv_heads + kv_head];
    if (mode == index::LayerMode::kDense) {
      head.chosen.resize(n_blocks);
      std::iota(head.chosen.begin(), head.chosen.end(), 0u);
    }
    put_table(group_idx, layer, kv_head, n_blocks);
    selection->is_chosen[kv_head].store(true, std::memory_order_relaxed);
  }
  if (mode == index::LayerMode::kReuse) begin_chosen(group_idx, layer, 0);
}

void Walk::State::select_group(uint32_t group_idx, uint32_t layer, bool attends,
                               const BlockWeights& given) {
  const Group& group = groups[group_idx];
  const uint32_t n_kv_heads = shape.layers[layer].n_kv_heads;
  const uint32_t n_blocks = group.held_pos / kBlockPositions;
  SelectionCounts& sums = selection->counts;
  const SelectionCounts before = sums;
  const index::LayerMode mode = selection->choosers.front().rule().mode_of(layer);
  const bool asks_index = mode == index::LayerMode::kIndex;
  if (asks_index)
    choose_heads(group_idx, layer, n_blocks, attends, given);
  else
    choose_by_mode(group_idx, layer, n_blocks, mode);
  if (asks_index && group.sequence->index()->has_tail()) estimate_tails(group_idx, layer, n_blocks);
  for (uint32_t head = 0; head < n_kv_heads; ++head) {
    sums.blocks += n_blocks;
    sums.attended_blocks +=
        selection->heads[group_idx * selection->max_kv_heads + head].chosen.size();
    sums.open_positions += group.first_pos + group.n_rows - n_blocks * kBlockPositions;
  }
  const SelectionCounts of_group = sums.since(before);
  counts.read_bytes += of_group.attended_positions() * kv_position_bytes(cache.layout()) +
                       of_group.index_bytes - of_group.scanned_on_device_bytes;
}

void Walk::State::select_layer(uint32_t layer) {
  // begin_chosen() reads while heads are still scored.
  if (reads_chosen(layer))
    selection->file_bytes_before = cache.store().transfer_counts().read_bytes;
  for (uint32_t idx = 0; idx < groups.size(); ++idx) select_group(idx, layer);
}

/// Floats of the partials of a KV head's spans, at most.
uint64_t Walk::State::head_floats(uint32_t layer) const {
  const LayerShape& of = shape.layers[layer];
  const Group& group = groups.front();
  const uint64_t n_spans = (group.first_pos + group.n_rows - 1) / kSpanPositions + 1;
  return n_spans * group.n_rows * (of.n_heads / of.n_kv_heads) * (uint64_t{shape.head_dim} + 2);
}

/// Whether the rows of a step are one group of one tile for each KV head, few enough to be split
/// into spans, that attends what an index chooses of blocks in DRAM: a decoded token, most often.
bool Walk::State::attends_as_chosen(uint32_t layer) const {
  const LayerShape& of = shape.layers[layer];
  if (groups.size() != 1 || pool.size() == 1 || probe != nullptr || reads_chosen(layer))
    return false;
  return selection->choosers.front().rule().mode_of(layer) == index::LayerMode::kIndex &&
         !groups.front().sequence->index()->has_tail() &&
         groups.front().n_rows <= tile_rows(layer, groups.front().n_rows) &&
         of.n_kv_heads < kTilesPerThread * pool.size() &&
         of.n_kv_heads * head_floats(layer) <= kSplitFloatsMax;
}

/// Scores, choices and attention of a layer in one parallel region: who has nothing left to score
/// attends the heads that have chosen, instead of waiting for the last choice. A worker takes all
/// spans of a head, for it fetches the next one's first blocks, and helps with others' at the end.
void Walk::State::attend_as_chosen(uint32_t layer) {
  select_group(0, layer, /*attends=*/true);
  list_tiles(layer);
  tile_partials.clear();
  for (uint32_t head = 0; head < tiles.size(); ++head)
    tile_partials.push_back(head * head_floats(layer));
  merge_split(layer);
}

/// Those that no other worker has taken, once the head has chosen.
void Walk::State::attend_head_spans(uint32_t layer, uint32_t kv_head, uint32_t worker) {
  while (!selection->is_chosen[kv_head].load(std::memory_order_acquire)) {
    if (selection->has_failed.load(std::memory_order_acquire)) return;
    std::this_thread::yield();
  }
  const AttendTile tile = tile_at(0, layer, kv_head, 0, groups[0].n_rows);
  const uint64_t span_floats = tile.n_queries * (uint64_t{shape.head_dim} + 2);
  std::atomic<uint32_t>& next = selection->next_span[kv_head];
  for (;;) {
    const uint32_t i = next.fetch_add(1, std::memory_order_relaxed);
    if (tile.first_span + i >= tile.end_span) return;
    const uint64_t at = kv_head * head_floats(layer) + i * span_floats;
    AttendBuffers buffers = with_span_at(at, tile.n_queries, buffers_of(worker));
    STRATA_CHECK(at + span_floats <= span_partials.size(), "%lu floats of span partials",
                 static_cast<unsigned long>(at + span_floats));
    attend_span(tile, tile.first_span + i, buffers);
  }
}

void Walk::select_by(const index::Rule& rule, uint64_t n_ctx) {
  State& s = *state_;
  const index::SelectorSource* source = s.cache.selectors();  // null: indexes are attached later
  s.selection =
      std::make_unique<State::Selection>(rule, s.shape, s.kernels, s.pool.size(), s.max_rows, n_ctx,
                                         source != nullptr && index::has_tail(source->method()));
}

uint32_t Walk::selected_rows_max() const {
  STRATA_CHECK(state_->selection != nullptr, "no rule to select by");
  return state_->selection->max_rows;
}

const SelectionCounts& Walk::selection_counts() const {
  STRATA_CHECK(state_->selection != nullptr, "no rule to select by");
  return state_->selection->counts;
}

}  // namespace strata::engine
