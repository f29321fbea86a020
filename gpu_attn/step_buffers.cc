// The memory of a step on a device: what it carves, and how much that is.
#include <algorithm>
#include <initializer_list>

#include "base/checked_math.h"
#include "gpu_attn/attend_splits.h"
#include "gpu_attn/decode_step.h"

namespace strata::gpu_attn {
namespace {

constexpr uint64_t kAlignment = 256;
constexpr uint32_t kEndlessTable = 1u << 30;  // blocks: as many splits as a table ever has

/// Hands out aligned pieces of a memory; over null it counts.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}
  template <class T>
  T* take(uint64_t count) {
    const uint64_t at = bytes_;
    bytes_ = round_up(bytes_ + count * sizeof(T), kAlignment);
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + at);
  }
  uint64_t bytes() const { return bytes_; }

 private:
  std::byte* base_;
  uint64_t bytes_ = 0;
};

/// Queries times splits, at most, of a layer's attention of few rows, and a split of the host's.
/// Fewer blocks may give more splits, for a split is a whole number of grains: so the bound is that
/// of an endless table.
uint64_t max_partials(const LayerShape& shape, const DeviceStepSizes& sizes) {
  uint64_t largest = 0;
  for (uint32_t n_rows = 1; n_rows <= std::min(kDeviceFewRows, sizes.max_rows); ++n_rows) {
    const uint64_t n_splits = std::min<uint64_t>(
        std::max<uint64_t>(1, div_up(sizes.max_blocks, kAttendSplitGrain)),
        attend_split(kEndlessTable, shape.n_kv_heads, shape.n_heads / shape.n_kv_heads, n_rows,
                     sizes.n_multiprocessors)
            .n_splits);
    largest = std::max(largest, (n_splits + 1) * n_rows * shape.n_heads);
  }
  return largest;
}

/// Scratch of a layer's attention of many rows. More blocks never give fewer splits.
uint64_t prefill_scratch_bytes(const LayerShape& shape, uint32_t head_dim,
                               const DeviceStepSizes& sizes) {
  const uint32_t group = shape.n_heads / shape.n_kv_heads;
  uint64_t largest = 0;
  for (uint32_t n_rows = kDeviceFewRows + 1; n_rows <= sizes.max_rows; ++n_rows)
    largest =
        std::max(largest, device_prefill_scratch_bytes(
                              device_prefill_splits(n_rows, shape.n_kv_heads, group, head_dim,
                                                    sizes.max_blocks, sizes.n_multiprocessors),
                              n_rows, shape.n_kv_heads, group, head_dim));
  return largest;
}

/// The widest of what the matrices give, as scratch of many rows wants it.
uint64_t scratch_bytes(uint32_t n_rows, std::initializer_list<const PackedMatrix*> matrices) {
  uint32_t n_out = 0;
  for (const PackedMatrix* of : matrices) n_out = std::max(n_out, of->n_out);
  return device_linear_scratch_bytes(n_rows, (*matrices.begin())->n_in, n_out);
}

}  // namespace

DeviceStep::Buffers DeviceStep::carve(const DeviceModel& model, const DeviceStepSizes& sizes,
                                      std::byte* memory) {
  const uint64_t n = sizes.max_rows;
  const auto n_logit = sizes.max_logit_rows;
  uint64_t q_width = 0, kv_width = 0, d_ff = 0, partials = 0;
  uint64_t scratch = scratch_bytes(n_logit, {&model.output});
  for (uint32_t layer = 0; layer < model.shapes.size(); ++layer) {
    const LayerShape& shape = model.shapes[layer];
    const DeviceLayerWeights& w = model.layers[layer];
    q_width = std::max(q_width, uint64_t{shape.n_heads} * model.head_dim);
    kv_width = std::max(kv_width, uint64_t{shape.n_kv_heads} * model.head_dim);
    d_ff = std::max(d_ff, uint64_t{shape.d_ff});
    partials = std::max(partials, max_partials(shape, sizes));
    scratch = std::max({scratch, prefill_scratch_bytes(shape, model.head_dim, sizes),
                        scratch_bytes(sizes.max_rows, {&w.q, &w.k, &w.v}),
                        scratch_bytes(sizes.max_rows, {&w.attn_output}),
                        scratch_bytes(sizes.max_rows, {&w.ffn_gate, &w.ffn_up}),
                        scratch_bytes(sizes.max_rows, {&w.ffn_down})});
  }
  const uint64_t widest = std::max({uint64_t{model.d_model}, q_width, d_ff});
  const uint64_t rows = std::max<uint64_t>(n, n_logit);
  Carver carver(memory);
  Buffers b{};
  b.inputs = carver.take<std::byte>(DeviceStepInputs::max_bytes(model, sizes.max_rows));
  // The residual's room behind the inputs. It is there twice where they have it already: the sizes
  // may be asked for before the embedding has its bytes.
  carver.take<float>(n * model.d_model);
  b.normed = carver.take<float>(rows * model.d_model);
  b.projected = carver.take<float>(n * model.d_model);
  b.q = carver.take<float>(n * q_width);
  b.rotated = carver.take<float>(n * q_width);
  b.attended = carver.take<float>(n * q_width);
  b.k = carver.take<float>(n * kv_width);
  b.v = carver.take<float>(n * kv_width);
  b.gate = carver.take<float>(n * d_ff);
  b.up = carver.take<float>(n * d_ff);
  b.quant.q = carver.take<int8_t>(kDeviceFewRows * widest);
  b.quant.scales = carver.take<float>(kDeviceFewRows * div_up(widest, kActGroup));
  b.quant.neg_sums = carver.take<int32_t>(kDeviceFewRows * div_up(widest, kActHalfGroup));
  b.partial_o = carver.take<float>(partials * model.head_dim);
  b.partial_m = carver.take<float>(partials);
  b.partial_l = carver.take<float>(partials);
  b.scratch = carver.take<std::byte>(scratch);
  b.logits = carver.take<float>(uint64_t{n_logit} * model.vocab_size);
  b.best_logits = carver.take<float>(n_logit);
  b.best_tokens = carver.take<int32_t>(n_logit);
  b.bytes = carver.bytes();
  return b;
}

uint64_t DeviceStep::memory_bytes(const DeviceModel& model, const DeviceStepSizes& sizes) {
  return carve(model, sizes, nullptr).bytes;
}

}  // namespace strata::gpu_attn
