#include "engine/device_beside.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/checked_math.h"

namespace strata::engine {
namespace {

static_assert(kSegmentPositions == kExtentBlocks * kBlockPositions, "a segment is eight blocks");

/// Queries of few rows of the widest layer.
uint64_t most_queries(const ModelShape& shape) {
  uint64_t most_heads = 0;
  for (const LayerShape& layer : shape.layers)
    most_heads = std::max<uint64_t>(most_heads, layer.n_heads);
  return most_heads * kDeviceFewRows;
}

}  // namespace

uint32_t AttentionShares::device_blocks(uint32_t layer, uint32_t n_blocks) const {
  const uint32_t near = near_blocks[layer];
  if (n_blocks <= near) return n_blocks;
  const auto n_far = static_cast<uint32_t>(div_up(n_blocks - near, kExtentBlocks));
  const auto of_link = static_cast<uint32_t>(std::lround(n_far * (1 - of_cpu)));
  return std::min(n_blocks, near + of_link * kExtentBlocks);
}

AttentionShares share_attention(const ModelShape& shape, const DevicePlan& plan,
                                uint64_t block_bytes, uint64_t n_ctx, uint32_t chunk_rows) {
  AttentionShares shares;
  shares.of_cpu = plan.cpu_share;
  const auto most = static_cast<uint32_t>(blocks_for(n_ctx));
  shares.near_blocks.assign(shape.n_layers, most);
  uint64_t n_slots = plan.kv_bytes / block_bytes, n_full = 0;
  for (const LayerShape& layer : shape.layers) {
    if (layer.window == 0) {
      n_full += layer.n_kv_heads;
    } else {
      const uint64_t held = layer.n_kv_heads * stream_blocks_max(layer, n_ctx, chunk_rows);
      n_slots -= std::min(n_slots, held);
    }
  }
  if (n_full == 0 || n_slots >= n_full * most) return shares;
  const uint64_t n_each = n_slots / (n_full * kExtentBlocks);
  uint64_t left = n_slots - n_each * n_full * kExtentBlocks;
  for (uint32_t layer = 0; layer < shape.n_layers; ++layer) {
    if (shape.layers[layer].window > 0) continue;
    const uint64_t one_more = uint64_t{shape.layers[layer].n_kv_heads} * kExtentBlocks;
    const bool has_one = left >= one_more;
    if (has_one) left -= one_more;
    shares.near_blocks[layer] = static_cast<uint32_t>(
        std::min<uint64_t>(most, (n_each + (has_one ? 1 : 0)) * kExtentBlocks));
  }
  return shares;
}

uint64_t DeviceBeside::host_bytes(const ModelShape& shape) {
  return most_queries(shape) * (2 * uint64_t{shape.head_dim} + 2) * sizeof(float);
}

DeviceBeside::DeviceBeside(const OpenDevice& device, const ModelShape& shape,
                           const AttentionShares& shares, Stream& stream, std::byte* host)
    : shape_(shape),
      shares_(shares),
      stream_(stream),
      asked_(Event::create(device)),
      q_(reinterpret_cast<float*>(host)) {
  const uint64_t n = most_queries(shape);
  partials_.o = q_ + n * shape.head_dim;
  partials_.m = partials_.o + n * shape.head_dim;
  partials_.l = partials_.m + n;
}

uint32_t DeviceBeside::device_blocks(uint32_t layer, uint32_t n_blocks) const {
  return shares_.device_blocks(layer, n_blocks);
}

uint64_t DeviceBeside::n_cpu_blocks(uint32_t n_blocks) const {
  uint64_t n = 0;
  for (uint32_t layer = 0; layer < shape_.n_layers; ++layer)
    n += uint64_t{shape_.layers[layer].n_kv_heads} * (n_blocks - device_blocks(layer, n_blocks));
  return n;
}

bool DeviceBeside::has_part(uint32_t n_blocks) const { return n_cpu_blocks(n_blocks) > 0; }

void DeviceBeside::begin(TextAttender& attender, uint32_t first_row, uint32_t n_blocks) {
  attender_ = &attender;
  first_row_ = first_row;
  n_blocks_ = n_blocks;
}

int DeviceBeside::ask(DeviceStream* stream, uint32_t layer, uint32_t n_rows, const float* q) {
  STRATA_CHECK(stream == stream_.get() && n_rows <= kDeviceFewRows, "%u rows", n_rows);
  // The partials of the layer before have left their memory when this copy is over.
  stream_.copy(q_, q,
               uint64_t{shape_.layers[layer].n_heads} * n_rows * shape_.head_dim * sizeof(float));
  stream_.record(asked_);
  return 0;
}

int DeviceBeside::attend(DeviceStream* stream, uint32_t layer, uint32_t n_rows,
                         const gpu_attn::SplitPartials& out) {
  STRATA_CHECK(stream == stream_.get() && attender_ != nullptr, "nobody attends layer %u", layer);
  asked_.wait();
  attender_->attend(layer, first_row_, n_rows, device_blocks(layer, n_blocks_) * kBlockPositions,
                    q_, partials_);
  const uint64_t n = uint64_t{shape_.layers[layer].n_heads} * n_rows;
  stream_.copy(out.o, partials_.o, n * shape_.head_dim * sizeof(float));
  stream_.copy(out.m, partials_.m, n * sizeof(float));
  stream_.copy(out.l, partials_.l, n * sizeof(float));
  return 0;
}

}  // namespace strata::engine
