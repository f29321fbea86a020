// engine/walk_device.cc - steps on a device: what it gets of a step, and what the host does between
// a layer's operations: of rows of selected steps it chooses the blocks and brings those that only
// a file holds, of others it attends a part beside the device, and few rows it multiplies where
// weights lie.
#include <algorithm>
#include <optional>

#include "base/check.h"
#include "engine/walk_select.h"

namespace strata::engine {

/// Of the rows of one sequence. Those of a selected step are in groups which are what the device
/// walks at a time, the others in one.
class Walk::State::DeviceContexts : public ContextChooser,
                                    public TextAttender,
                                    public RowMultiplier,
                                    public LayerTaker {
 public:
  DeviceContexts(State& state, uint32_t first_group) : state_(state), first_group_(first_group) {
    wait();
  }

  /// However the rows end, the device reads nothing of theirs any more.
  ~DeviceContexts() {
    if (state_.is_selected) state_.let_go_chosen(/*are_copied=*/has_ended);
  }
  DeviceContexts(const DeviceContexts&) = delete;
  DeviceContexts& operator=(const DeviceContexts&) = delete;

  bool asks_index(uint32_t layer, uint32_t n_part_rows) const override;

  void choose(uint32_t layer, uint32_t first_row, uint32_t n_part_rows, const float* queries,
              const BlockWeights& weights) override;

  size_t bring(uint32_t layer, std::span<const tiers::BlockId> blocks) override;

  void attend(uint32_t layer, uint32_t first_row, uint32_t n_part_rows, uint32_t first_pos,
              const float* queries, const gpu_attn::SplitPartials& out) override;

  void multiply(gpu_attn::HostProduct product, uint32_t layer, uint32_t n_part_rows, const float* x,
                const std::array<float*, 3>& out) override;

  LayerLease take_layer(uint32_t layer) override;
  bool read_ahead(std::chrono::microseconds most) override {
    return state_.model.read_ahead(state_.pool, most);
  }

  ChosenContext context(uint32_t kv_head) const override {
    const Selection& of = *state_.selection;
    return {of.heads[group_idx_ * of.max_kv_heads + kv_head].chosen,
            state_.groups[group_idx_].held_pos / kBlockPositions};
  }

  bool has_ended = false;  // the rows, as they should

 private:
  void wait() {
    waiting_.emplace(state_.trace, TraceEvent{.kind = TraceKind::kWait,
                                              .resource = Resource::kDevice,
                                              .name = "wait for the device"});
  }

  /// The host's part of a layer, between waits.
  template <class Work>
  void work(const char* name, uint32_t layer, const Work& of_layer) {
    waiting_.reset();
    state_.check_cancelled();
    {
      const TraceScope working(state_.trace,
                               {.kind = TraceKind::kOperation, .index = layer, .name = name});
      of_layer();
    }
    wait();
  }

  void choose_for(uint32_t layer, uint32_t first_row, uint32_t n_part_rows, const float* queries,
                  const BlockWeights& weights);
  /// Of rows from row_begin of the step on.
  void take_queries(uint32_t layer, uint32_t row_begin, uint32_t n_part_rows, const float* queries);

  State& state_;
  std::optional<TraceScope> waiting_;
  uint32_t first_group_;
  uint32_t group_idx_ = 0;
  bool has_waves_ = false;
};

/// Not by means of rows, which are made of their queries here.
bool Walk::State::DeviceContexts::asks_index(uint32_t layer, uint32_t n_part_rows) const {
  const Selection& of = *state_.selection;
  return of.choosers.front().rule().mode_of(layer) == index::LayerMode::kIndex &&
         of.mean_rows(n_part_rows) == 1;
}

void Walk::State::DeviceContexts::multiply(gpu_attn::HostProduct product, uint32_t layer,
                                           uint32_t n_part_rows, const float* x,
                                           const std::array<float*, 3>& out) {
  work("multiply beside the device", layer,
       [&] { state_.multiply_beside(product, layer, n_part_rows, x, out); });
}

LayerLease Walk::State::DeviceContexts::take_layer(uint32_t layer) {
  LayerLease lease;
  work("take_weights", layer,
       [&] { lease = state_.model.take_layer(layer, state_.pool, state_.cancel); });
  return lease;
}

void Walk::State::DeviceContexts::choose(uint32_t layer, uint32_t first_row, uint32_t n_part_rows,
                                         const float* queries, const BlockWeights& weights) {
  work("choose", layer, [&] { choose_for(layer, first_row, n_part_rows, queries, weights); });
}

void Walk::State::DeviceContexts::choose_for(uint32_t layer, uint32_t first_row,
                                             uint32_t n_part_rows, const float* queries,
                                             const BlockWeights& weights) {
  group_idx_ = first_group_ + first_row / kDeviceFewRows;
  const Group& group = state_.groups[group_idx_];
  STRATA_CHECK(group.row_begin == state_.groups[first_group_].row_begin + first_row &&
                   group.n_rows == n_part_rows,
               "rows %u to %u of a group of %u rows from %u on", first_row, first_row + n_part_rows,
               group.n_rows, group.row_begin);
  if (queries != nullptr) take_queries(layer, group.row_begin, n_part_rows, queries);
  state_.let_go_chosen(/*are_copied=*/true);
  state_.selection->file_bytes_before = state_.cache.store().transfer_counts().read_bytes;
  state_.select_group(group_idx_, layer, /*attends=*/false, weights);
}

size_t Walk::State::DeviceContexts::bring(uint32_t layer, std::span<const tiers::BlockId> blocks) {
  size_t n = 0;
  work("bring blocks", layer, [&] {
    state_.let_go_chosen(/*are_copied=*/true);
    n = state_.bring_chosen(layer, blocks);
  });
  return n;
}

void Walk::State::DeviceContexts::attend(uint32_t layer, uint32_t first_row, uint32_t n_part_rows,
                                         uint32_t first_pos, const float* queries,
                                         const gpu_attn::SplitPartials& out) {
  work("attend beside the device", layer, [&] {
    take_queries(layer, state_.groups[first_group_].row_begin + first_row, n_part_rows, queries);
    // Not before the device has what it lacked of the text: that was read by the same frames.
    if (!has_waves_) state_.plan_waves_beside(first_group_);
    has_waves_ = true;
    state_.attend_beside(layer, {first_group_, first_row, n_part_rows}, first_pos, out);
  });
}

void Walk::State::DeviceContexts::take_queries(uint32_t layer, uint32_t row_begin,
                                               uint32_t n_part_rows, const float* queries) {
  const LayerShape& of = state_.shape.layers[layer];
  // Of a KV head.
  const uint64_t row_floats = uint64_t{of.n_heads / of.n_kv_heads} * state_.shape.head_dim;
  for (uint64_t head = 0; head < of.n_kv_heads; ++head)
    std::copy_n(queries + head * n_part_rows * row_floats, n_part_rows * row_floats,
                state_.q_by_head.data() + (head * state_.n_rows + row_begin) * row_floats);
}

/// Whether the last n_rows of so many positions are the CPU's, if they attend everything: many of
/// them, and all where other steps choose, for which the device's memory is then.
bool Walk::State::is_left(uint32_t n_rows_of, uint32_t end_pos) const {
  return device->has_cpu_part(end_pos) && (selection || n_rows_of > kDeviceFewRows);
}

/// False where rows of the step are the CPU's, for which all of the step is.
bool Walk::State::is_for_device() {
  if (!device) return false;
  const bool is_any_left = !is_selected && std::ranges::any_of(groups, [&](const Group& group) {
    return is_left(group.n_rows, group.first_pos + group.n_rows);
  });
  if (!is_any_left) return true;
  for (const Group& group : groups) device->leave_rows(*group.sequence);
  device->leave_weights();
  return false;
}

/// The rows of one sequence, and the logits of those of them that want any.
void Walk::State::run_on_device(uint32_t first_group, std::span<float> logits) {
  const Group& group = groups[first_group];
  const uint32_t n_of_sequence = rows_of_sequence(group);
  const auto of_sequence = [&](std::span<const float> rows, uint64_t width) {
    return rows.subspan(group.row_begin * width, n_of_sequence * width);
  };
  for (uint32_t set = 0; set < cos_sin.size(); ++set)
    sequence_angles[set] = of_sequence(cos_sin[set], model.spec().rope_sets[set].n_rot);
  begin_waves();
  DeviceContexts contexts(*this, first_group);
  device->run({.sequence = group.sequence,
               .residual = of_sequence(residual, shape.d_model),
               .positions = std::span(positions).subspan(group.row_begin, n_of_sequence),
               .cos_sin = sequence_angles,
               .logit_rows = sequence_logit_rows,
               .chooser = is_selected ? &contexts : nullptr,
               .attender = is_selected ? nullptr : &contexts,
               .multiplier = &contexts,
               .taker = &contexts},
              logits);
  contexts.has_ended = true;
}

/// The operations of the plan, on the device: the CPU embeds the tokens.
void Walk::State::run_on_device() {
  ++counts.steps;
  embed();
  logit_values.resize(logit_rows.size() * uint64_t{shape.vocab_size});
  sequence_angles.resize(cos_sin.size());
  uint64_t n_done = 0;
  for (uint32_t idx = 0; idx < groups.size(); ++idx) {
    const Group& group = groups[idx];
    if (!group.is_first()) continue;
    check_cancelled();
    const uint32_t end_row = group.row_begin + rows_of_sequence(group);
    sequence_logit_rows.clear();
    for (const uint32_t row : logit_rows)
      if (row >= group.row_begin && row < end_row)
        sequence_logit_rows.push_back(row - group.row_begin);
    const uint64_t n_values = sequence_logit_rows.size() * uint64_t{shape.vocab_size};
    run_on_device(idx, std::span(logit_values).subspan(n_done, n_values));
    n_done += n_values;
  }
}

}  // namespace strata::engine
