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

/// KV heads of the full layer that has most.
uint64_t most_chosen_heads(const ModelShape& shape) {
  uint64_t most = 0;
  for (const LayerShape& layer : shape.layers)
    if (layer.window == 0) most = std::max<uint64_t>(most, layer.n_kv_heads);
  return most;
}

}  // namespace

uint64_t DeviceChooser::memory_bytes(const ModelShape& shape, uint64_t n_ctx) {
  const uint64_t tables = most_chosen_heads(shape) * (blocks_for(n_ctx) * sizeof(std::byte*) +
                                                      kDeviceFewRows * sizeof(uint32_t));
  return std::max(tables, query_bytes(shape));
}

uint64_t DeviceChooser::host_bytes(const ModelShape& shape, uint64_t n_ctx) {
  return round_up(memory_bytes(shape, n_ctx), HostMemory::kGrain);
}

uint64_t DeviceChooser::spilling_bytes(const ModelShape& shape, uint64_t n_ctx) {
  return most_chosen_heads(shape) * blocks_for(n_ctx) *
         (sizeof(tiers::BlockId) + 2 * sizeof(uint32_t));
}

DeviceChooser::DeviceChooser(const OpenDevice& device, const KvCache& cache, DeviceKv& kv,
                             Stream& stream, uint64_t n_ctx)
    : cache_(cache),
      kv_(kv),
      stream_(stream),
      host_memory_(HostMemory::reserve(memory_bytes(cache.shape(), n_ctx))),
      pinned_(PinnedMemory::pin(device, {host_memory_.data(), host_memory_.size()})),
      memory_(DeviceBuffer::allocate(device, memory_bytes(cache.shape(), n_ctx),
                                     "tables of chosen blocks")) {
  if (!cache.store().has_spill()) return;
  const uint64_t n_most = most_chosen_heads(cache.shape()) * blocks_for(n_ctx);
  missing_.reserve(n_most);
  missing_at_.reserve(n_most);
}

void DeviceChooser::begin(ContextChooser& owner, DeviceIndex* index, uint32_t first_row,
                          std::span<const uint32_t> positions) {
  owner_ = &owner;
  index_ = index;
  first_row_ = first_row;
  positions_ = positions;
}

bool DeviceChooser::chooses(uint32_t layer) const {
  return cache_.shape().layers[layer].window == 0;
}

/// What the layer's KV heads attend stays on the device; lists what is not there and can only come
/// by bring().
void DeviceChooser::note_chosen(uint32_t layer, uint32_t end_block) {
  const bool spills = cache_.store().has_spill();
  kv_.begin_choice();
  missing_.clear();
  missing_at_.clear();
  for (uint32_t head = 0; head < cache_.shape().layers[layer].n_kv_heads; ++head) {
    const ChosenContext of = owner_->context(head);
    const uint32_t stream_idx = cache_.stream_idx(layer, head);
    const auto note = [&](uint32_t block) {
      if (kv_.choose(stream_idx, block) || !spills) return;
      missing_.push_back(kv_.block_at(stream_idx, block));
      missing_at_.push_back({stream_idx, block});
    };
    for (const uint32_t block : of.blocks) note(block);
    for (uint32_t block = of.first_open; block < end_block; ++block) note(block);
  }
}

/// In waves, each of which is in DRAM until its copies are made. That of the last is what the next
/// layer's queries are waited for behind.
void DeviceChooser::copy_missing(uint32_t layer) {
  for (size_t done = 0; done < missing_.size();) {
    if (done > 0) {
      kv_.flush_chosen(stream_);
      stream_.wait();
    }
    const size_t end = done + owner_->bring(layer, std::span(missing_).subspan(done));
    for (; done < end; ++done)
      kv_.copy_chosen(stream_, missing_at_[done].first, missing_at_[done].second);
  }
}

/// Leaves in host_memory_ n_longest entries of each KV head; a head that attends less repeats its
/// last, which no row reaches.
void DeviceChooser::put_tables(uint32_t layer, uint32_t n_longest, uint32_t end_block) {
  for (uint32_t head = 0; head < cache_.shape().layers[layer].n_kv_heads; ++head) {
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
  const float* host_q = nullptr;
  BlockWeights weights;
  if (index_ != nullptr && index_->has_rows() && owner_->asks_index(layer, n_rows)) {
    weights = index_->scan(stream_, layer, n_rows, q);
  } else {
    stream_.copy(host, q,
                 uint64_t{shape.n_heads} * n_rows * cache_.shape().head_dim * sizeof(float));
    host_q = reinterpret_cast<const float*>(host);
  }
  stream_.wait();  // the tables and lists of the layer before have been read, too
  owner_->choose(layer, first_row_, n_rows, host_q, weights);

  const uint32_t end_block = positions_.back() / kBlockPositions + 1;
  uint32_t n_longest = 0;
  for (uint32_t head = 0; head < shape.n_kv_heads; ++head) {
    const ChosenContext of = owner_->context(head);
    n_longest =
        std::max(n_longest, static_cast<uint32_t>(of.blocks.size()) + end_block - of.first_open);
  }
  note_chosen(layer, end_block);
  copy_missing(layer);
  put_tables(layer, n_longest, end_block);
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
