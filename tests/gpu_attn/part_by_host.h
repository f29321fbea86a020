// tests/gpu_attn/part_by_host.h - attention of a text's end on the host, for steps of small models:
// sums in double over what the device's blocks hold in f16.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "base/half.h"
#include "gpu_attn/decode_step.h"
#include "tests/gpu_attn/under_test.h"

namespace strata::gpu_test {

class PartByHost final : public gpu_attn::HostAttention {
 public:
  /// `blocks` [n_layers][n_kv_heads * stride], on the device; of full layers the device attends the
  /// first n_device.
  PartByHost(UnderTest& on, const gpu_attn::DeviceModel& model,
             std::vector<std::vector<std::byte*>> blocks, uint32_t stride, uint32_t n_device)
      : on_(on), model_(model), blocks_(std::move(blocks)), stride_(stride), n_device_(n_device) {}

  /// Where the rows of the step begin.
  void begin(uint32_t first_position) { first_position_ = first_position; }
  uint32_t n_parts() const { return n_parts_; }  // that were attended

  uint32_t device_blocks(uint32_t layer, uint32_t n_blocks) const override {
    return model_.shapes[layer].window > 0 ? n_blocks : std::min(n_device_, n_blocks);
  }
  int ask(DeviceStream*, uint32_t layer, uint32_t n_rows, const float* q) override {
    q_ = on_.download(q, uint64_t{n_rows} * model_.shapes[layer].n_heads * model_.head_dim);
    return 0;
  }
  int attend(DeviceStream* stream, uint32_t layer, uint32_t n_rows,
             const gpu_attn::SplitPartials& out) override {
    const LayerShape& shape = model_.shapes[layer];
    const uint32_t group = shape.n_heads / shape.n_kv_heads;
    o_.assign(q_.size(), 0.0f);
    m_.assign(q_.size() / model_.head_dim, -std::numeric_limits<float>::infinity());
    l_.assign(m_.size(), 0.0f);
    for (uint32_t head = 0; head < shape.n_kv_heads; ++head)
      for (uint32_t row = 0; row < n_rows; ++row)
        for (uint32_t i = 0; i < group; ++i)
          attend_query(layer, head, first_position_ + row, (head * n_rows + row) * group + i);
    ++n_parts_;
    const auto send = [&](float* to, const std::vector<float>& from) {
      return on_.table().copy(stream, to, on_.upload(from), from.size() * sizeof(float));
    };
    if (const int error = send(out.o, o_); error != 0) return error;
    if (const int error = send(out.m, m_); error != 0) return error;
    return send(out.l, l_);
  }

 private:
  /// A block's K by dimension, then V by position.
  void attend_query(uint32_t layer, uint32_t head, uint32_t position, uint32_t query) {
    const KvLayout& layout = model_.kv_layout;
    const uint32_t head_dim = model_.head_dim;
    const float* q = q_.data() + uint64_t{query} * head_dim;
    std::vector<double> scores, o(head_dim);
    std::vector<std::vector<std::byte>> held;
    for (uint32_t block = n_device_; block * kBlockPositions <= position; ++block)
      held.push_back(on_.download(blocks_[layer][head * stride_ + block], layout.block_bytes));
    const auto value = [](const std::byte* at) {
      uint16_t bits;
      std::memcpy(&bits, at, sizeof bits);
      return static_cast<double>(f16_to_f32(bits));
    };
    const uint32_t first = n_device_ * kBlockPositions;
    for (uint32_t at = first; at <= position; ++at) {
      const std::byte* k = held[(at - first) / kBlockPositions].data();
      double score = 0;
      for (uint32_t d = 0; d < head_dim; ++d)
        score +=
            double{q[d]} * value(k + 2 * (uint64_t{d} * kBlockPositions + at % kBlockPositions));
      scores.push_back(score);
    }
    if (scores.empty()) return;
    const double top = std::ranges::max(scores);
    double l = 0;
    for (uint32_t i = 0; i < scores.size(); ++i) {
      const double weight = std::exp(scores[i] - top);
      const std::byte* v = held[i / kBlockPositions].data() + layout.v_offset;
      for (uint32_t d = 0; d < head_dim; ++d)
        o[d] += weight * value(v + 2 * (uint64_t{i % kBlockPositions} * head_dim + d));
      l += weight;
    }
    for (uint32_t d = 0; d < head_dim; ++d)
      o_[uint64_t{query} * head_dim + d] = static_cast<float>(o[d]);
    m_[query] = static_cast<float>(top);
    l_[query] = static_cast<float>(l);
  }

  UnderTest& on_;
  const gpu_attn::DeviceModel& model_;
  std::vector<std::vector<std::byte*>> blocks_;
  uint32_t stride_, n_device_;
  uint32_t first_position_ = 0;
  uint32_t n_parts_ = 0;
  std::vector<float> q_, o_, m_, l_;
};

}  // namespace strata::gpu_test
