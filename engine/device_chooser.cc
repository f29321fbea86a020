#include "engine/device_chooser.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked_math.h"

namespace strata::engine {
namespace {

/// Queries of few rows of a layer.
uint64_t query_bytes(const ModelShape& shape) {
  uint64_t most_heads = 0;
  for (const LayerShape& layer : shape.layers)
    most_heads = std::max<uint64_t>(most_heads, layer.n_heads);
  return most_heads * kDeviceFewRows * shape.head_dim * sizeof(float);
}

}  // namespace

uint64_t DeviceChooser::memory_bytes(const ModelShape& shape, uint64_t n_ctx) {
  uint64_t most_heads = 0;
  for (const LayerShape& layer : shape.layers)
    if (layer.window == 0) most_heads = std::max<uint64_t>(most_heads, layer.n_kv_heads);
  const uint64_t tables =
      most_heads * (blocks_for(n_ctx) * sizeof(std::byte*) + kDeviceFewRows * sizeof(uint32_t));
  return std::max(tables, query_bytes(shape));
}

uint64_t DeviceChooser::host_bytes(const ModelShape& shape, uint64_t n_ctx) {
  return round_up(memory_bytes(shape, n_ctx), HostMemory::kGrain);
}

DeviceChooser::DeviceChooser(const OpenDevice& device, const KvCache& cache, DeviceKv& kv,
                             Stream& stream, uint64_t n_ctx)
    : cache_(cache),
      kv_(kv),
      stream_(stream),
      host_memory_(HostMemory::reserve(memory_bytes(cache.shape(), n_ctx))),
      pinned_(PinnedMemory::pin(device, {host_memory_.data(), host_memory_.size()})),
      memory_(DeviceBuffer::allocate(device, memory_bytes(cache.shape(), n_ctx),
                                     "tables of chosen blocks")) {}

void DeviceChooser::begin(ContextChooser& owner, uint32_t first_row,
                          std::span<const uint32_t> positions) {
  owner_ = &owner;
  first_row_ = first_row;
  positions_ = positions;
}

bool DeviceChooser::chooses(uint32_t layer) const {
  return cache_.shape().layers[layer].window == 0;
}

/// Leaves in host_memory_ n_longest entries of each KV head; a head that attends less repeats its
/// last, which no row reaches.
void DeviceChooser::fetch_blocks(uint32_t layer, uint32_t n_longest, uint32_t end_block) {
  const uint32_t n_kv_heads = cache_.shape().layers[layer].n_kv_heads;
  for (uint32_t head = 0; head < n_kv_heads; ++head) {
    const ChosenContext of = owner_->context(head);
    const uint32_t stream_idx = cache_.stream_idx(layer, head);
    for (const uint32_t block : of.blocks) kv_.choose(stream_idx, block);
    for (uint32_t block = of.first_open; block < end_block; ++block) kv_.choose(stream_idx, block);
  }
  for (uint32_t head = 0; head < n_kv_heads; ++head) {
    const ChosenContext of = owner_->context(head);
    const uint32_t stream_idx = cache_.stream_idx(layer, head);
    auto* entry = reinterpret_cast<std::byte**>(host_memory_.data()) + uint64_t{head} * n_longest;
    std::byte** const end = entry + n_longest;
    for (const uint32_t block : of.blocks) *entry++ = kv_.fetch(stream_idx, block);
    for (uint32_t block = of.first_open; block < end_block; ++block)
      *entry++ = kv_.fetch(stream_idx, block);
    std::fill(entry, end, *(entry - 1));
  }
}

int DeviceChooser::choose(DeviceStream* stream, uint32_t layer, uint32_t n_rows, const float* q,
                          gpu_attn::ChosenTables& tables) {
  const LayerShape& shape = cache_.shape().layers[layer];
  STRATA_CHECK(stream == stream_.get() && n_rows == positions_.size(), "%u rows of %zu", n_rows,
               positions_.size());
  auto* host = host_memory_.data();
  stream_.copy(host, q, uint64_t{shape.n_heads} * n_rows * cache_.shape().head_dim * sizeof(float));
  stream_.wait();  // the tables and lists of the layer before have been read, too
  owner_->choose(layer, first_row_, n_rows, reinterpret_cast<const float*>(host));

  const uint32_t end_block = positions_.back() / kBlockPositions + 1;
  uint32_t n_longest = 0;
  for (uint32_t head = 0; head < shape.n_kv_heads; ++head) {
    const ChosenContext of = owner_->context(head);
    n_longest =
        std::max(n_longest, static_cast<uint32_t>(of.blocks.size()) + end_block - of.first_open);
  }
  fetch_blocks(layer, n_longest, end_block);
  const uint64_t n_entries = uint64_t{shape.n_kv_heads} * n_longest;
  auto* positions = reinterpret_cast<uint32_t*>(host + n_entries * sizeof(std::byte*));
  for (uint32_t head = 0; head < shape.n_kv_heads; ++head) {
    const ChosenContext of = owner_->context(head);
    const uint32_t n_left_out = of.first_open - static_cast<uint32_t>(of.blocks.size());
    for (const uint32_t position : positions_)
      *positions++ = position - n_left_out * kBlockPositions;
  }
  kv_.flush_chosen(stream_);
  stream_.copy(
      memory_.bytes(), host,
      n_entries * sizeof(std::byte*) + uint64_t{shape.n_kv_heads} * n_rows * sizeof(uint32_t));
  tables = {.blocks = memory_.as<const std::byte*>(),
            .stride = n_longest,
            .n_blocks = n_longest,
            .positions = memory_.as<uint32_t>(n_entries * sizeof(std::byte*))};
  return 0;
}

}  // namespace strata::engine
