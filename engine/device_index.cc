#include "engine/device_index.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked_math.h"
#include "engine/device_plan.h"
#include "engine/walk.h"

namespace strata::engine {
namespace {

using index::TileMemory;
using index::TileSlot;

constexpr uint32_t kNoSlot = UINT32_MAX;

/// Slots of a stream in the table.
uint64_t slots_of_table(uint64_t n_ctx) {
  return std::max(1u, index::tile_slots(static_cast<uint32_t>(n_ctx / kBlockPositions)));
}

/// What a device index has, in bytes.
struct IndexSizes {
  uint64_t rows = 0, table = 0, weights = 0;  // of the device; the last two in DRAM as well
  uint64_t editions = 0, listed = 0;          // in DRAM
  uint64_t pinned() const { return table + weights; }
};

IndexSizes sizes_of(const ModelShape& shape, uint64_t n_ctx, uint32_t n_streams, uint64_t n_slots,
                    uint64_t tile_bytes) {
  const uint64_t n_listed = n_streams * slots_of_table(n_ctx);
  return {.rows = n_slots * TileMemory::kSlotTiles * tile_bytes,
          .table = n_listed * TileMemory::kSlotTiles * sizeof(std::byte*),
          .weights = device_weight_floats(shape, n_ctx) * sizeof(float),
          .editions = TileMemory::edition_bytes(n_slots),
          .listed = n_listed * sizeof(uint32_t)};
}

/// Nothing where no device scans rows of that method.
std::optional<IndexSizes> scanned_sizes(const ModelShape& shape, const KvLayout& layout,
                                        uint64_t n_ctx, uint32_t n_answers,
                                        const std::optional<index::Method>& method) {
  const index::IndexShape of = index_shape(shape, layout.k_codec, layout.v_codec, n_ctx, n_answers);
  const bool is_scanned = method && index::has_rotated_codes(*method) && of.n_streams > 0 &&
                          layout.head_dim <= kDeviceScanHeadDimMax;
  if (!is_scanned) return std::nullopt;
  const uint64_t tile_bytes = rabitq_tile_bytes(layout.head_dim);
  const uint64_t n_slots = index::index_bytes(*method, of) / (tile_bytes * TileMemory::kSlotTiles);
  return sizes_of(shape, n_ctx, of.n_streams, n_slots, tile_bytes);
}

const TileMemory& scanned_memory(const KvCache& cache) {
  const index::SelectorSource* source = cache.selectors();
  STRATA_CHECK(source != nullptr && index::has_rotated_codes(source->method()), "%s",
               "an index whose rows a device scans");
  return *source->memory();
}

}  // namespace

uint64_t DeviceIndex::memory_bytes(const ModelShape& shape, const KvLayout& layout, uint64_t n_ctx,
                                   uint32_t n_answers, const std::optional<index::Method>& method) {
  const std::optional<IndexSizes> of = scanned_sizes(shape, layout, n_ctx, n_answers, method);
  return of ? device_aligned(of->rows) + device_aligned(of->table) + device_aligned(of->weights)
            : 0;
}

uint64_t DeviceIndex::host_bytes(const ModelShape& shape, const KvLayout& layout, uint64_t n_ctx,
                                 uint32_t n_answers, const std::optional<index::Method>& method) {
  const std::optional<IndexSizes> of = scanned_sizes(shape, layout, n_ctx, n_answers, method);
  return of ? round_up(of->pinned(), HostMemory::kGrain) + of->editions + of->listed : 0;
}

DeviceIndex::DeviceIndex(const OpenDevice& device, const KvCache& cache, uint64_t n_ctx)
    : cache_(cache),
      memory_(scanned_memory(cache)),
      table_slots_(slots_of_table(n_ctx)),
      arena_(PinnedMemory::pin(device, memory_.arena())),
      slot_editions_(memory_.n_slots(), 0),
      tile_editions_(uint64_t{memory_.n_slots()} * TileMemory::kSlotTiles, 0),
      listed_(cache.n_index_streams() * table_slots_, kNoSlot) {
  const IndexSizes of = sizes_of(cache.shape(), n_ctx, cache.n_index_streams(), memory_.n_slots(),
                                 memory_.tile_bytes());
  rows_ = DeviceBuffer::allocate(device, of.rows, "rows of the index");
  table_ = DeviceBuffer::allocate(device, of.table, "tables of the index");
  weights_ = DeviceBuffer::allocate(device, of.weights, "what the index says of blocks");
  host_memory_ = HostMemory::reserve(of.pinned());
  pinned_ = PinnedMemory::pin(device, {host_memory_.data(), host_memory_.size()});
  entries_ = host_memory_.as<std::byte*>(listed_.size() * TileMemory::kSlotTiles);
  host_weights_ = reinterpret_cast<float*>(host_memory_.data() + of.table);
}

std::byte* DeviceIndex::place(TileSlot slot) const {
  return rows_.bytes() + (memory_.tile(slot, 0) - memory_.arena().data());
}

/// Whether the table is that of these slots, and nothing of them is stale: so with most tokens.
bool DeviceIndex::has_all(const index::TileTable& codes, uint32_t n_slots) const {
  if (changed_begin_ < changed_end_) return false;
  for (index::StreamIdx row = 0; row < cache_.n_index_streams(); ++row) {
    const std::span<const TileSlot> slots = codes.slots(row);
    const uint32_t* listed = &listed_[row * table_slots_];
    for (uint32_t i = 0; i < n_slots; ++i) {
      const auto number = static_cast<uint32_t>(slots[i]);
      if (listed[i] != number || slot_editions_[number] != memory_.edition(slots[i])) return false;
    }
  }
  return true;
}

/// Neighbours among tiles that are stale, which are copied together.
class DeviceIndex::StaleTiles {
 public:
  StaleTiles(DeviceIndex& owner, Stream& stream) : owner_(owner), stream_(stream) {}

  void add(uint64_t tile) {
    if (tile != end_) {
      flush();
      begin_ = tile;
    }
    end_ = tile + 1;
  }
  void flush() {
    if (begin_ == end_) return;
    const uint64_t tile_bytes = owner_.memory_.tile_bytes();
    const uint64_t n_bytes = (end_ - begin_) * tile_bytes;
    stream_.copy(owner_.rows_.bytes() + begin_ * tile_bytes,
                 owner_.memory_.arena().data() + begin_ * tile_bytes, n_bytes);
    owner_.counts_.row_bytes += n_bytes;
    begin_ = end_;
  }

 private:
  DeviceIndex& owner_;
  Stream& stream_;
  uint64_t begin_ = 0, end_ = 0;  // tiles of the memory
};

/// Adds all tiles of a slot that are stale, whoever reads them.
void DeviceIndex::follow(TileSlot slot, StaleTiles& stale) {
  const auto number = static_cast<uint32_t>(slot);
  if (slot_editions_[number] == memory_.edition(slot)) return;
  for (uint32_t i = 0; i < TileMemory::kSlotTiles; ++i) {
    const uint64_t tile = uint64_t{number} * TileMemory::kSlotTiles + i;
    if (tile_editions_[tile] == memory_.edition(slot, i)) continue;
    stale.add(tile);
    tile_editions_[tile] = memory_.edition(slot, i);
  }
  slot_editions_[number] = memory_.edition(slot);
}

/// Slot slot_idx of a stream in the table.
void DeviceIndex::list(index::StreamIdx row, uint32_t slot_idx, TileSlot slot) {
  uint32_t& listed = listed_[row * table_slots_ + slot_idx];
  if (listed == static_cast<uint32_t>(slot)) return;
  listed = static_cast<uint32_t>(slot);
  const uint64_t first = (row * table_slots_ + slot_idx) * TileMemory::kSlotTiles;
  for (uint32_t i = 0; i < TileMemory::kSlotTiles; ++i)
    entries_[first + i] = place(slot) + i * memory_.tile_bytes();
  changed_begin_ = std::min(changed_begin_, first);
  changed_end_ = std::max(changed_end_, first + TileMemory::kSlotTiles);
}

void DeviceIndex::flush_table(Stream& stream) {
  if (changed_begin_ >= changed_end_) return;
  const uint64_t begin = changed_begin_ * sizeof(std::byte*);
  const uint64_t n_bytes = changed_end_ * sizeof(std::byte*) - begin;
  stream.copy(table_.bytes() + begin, host_memory_.data() + begin, n_bytes);
  counts_.table_bytes += n_bytes;
  changed_begin_ = UINT64_MAX;
  changed_end_ = 0;
}

void DeviceIndex::begin_step(Stream& stream, const Sequence& sequence) {
  const index::TileTable* codes =
      sequence.index() == nullptr ? nullptr : sequence.index()->rotated_codes();
  has_rows_ = false;
  if (codes == nullptr || &codes->memory() != &memory_) return;
  n_blocks_ = sequence.n_pos() / kBlockPositions;
  const uint32_t n_slots = index::tile_slots(n_blocks_);
  STRATA_CHECK(n_slots <= table_slots_ && n_blocks_ <= codes->n_blocks(),
               "%u blocks, %u of them in the index, %lu slots", n_blocks_, codes->n_blocks(),
               static_cast<unsigned long>(table_slots_));
  has_rows_ = has_all(*codes, n_slots);
  if (has_rows_) return;
  StaleTiles stale(*this, stream);
  try {
    // Slots of the same positions lie side by side (TileTable::open_blocks).
    for (uint32_t i = 0; i < n_slots; ++i)
      for (index::StreamIdx row = 0; row < cache_.n_index_streams(); ++row) {
        const TileSlot slot = codes->slots(row)[i];
        follow(slot, stale);
        list(row, i, slot);
      }
    stale.flush();
  } catch (...) {  // what was to be copied is not known to be
    std::ranges::fill(slot_editions_, 0);
    std::ranges::fill(tile_editions_, 0);
    throw;
  }
  flush_table(stream);
  has_rows_ = true;
}

BlockWeights DeviceIndex::scan(Stream& stream, uint32_t layer, uint32_t n_rows, const float* q) {
  const LayerShape& of = cache_.shape().layers[layer];
  const auto n_tiles = static_cast<uint32_t>(div_up(n_blocks_, kExtentBlocks));
  const uint64_t stride = uint64_t{std::max(1u, n_tiles)} * kExtentBlocks;
  const uint32_t n_queries = n_rows * (of.n_heads / of.n_kv_heads);
  const uint64_t n_bytes = uint64_t{of.n_kv_heads} * n_queries * stride * sizeof(float);
  STRATA_CHECK(has_rows_ && n_bytes <= weights_.size(), "%lu bytes of weights",
               static_cast<unsigned long>(n_bytes));
  if (n_tiles == 0) return {host_weights_, stride};
  const uint64_t table_stride = table_slots_ * TileMemory::kSlotTiles;
  stream.run(&DeviceKernels::scan_codes,
             {.q = q,
              .tiles = table_.as<const std::byte*>() + cache_.index_stream(layer, 0) * table_stride,
              .tile_stride = table_stride,
              .n_tiles = n_tiles,
              .head_dim = cache_.shape().head_dim,
              .n_kv_heads = of.n_kv_heads,
              .n_queries = n_queries,
              .block_scores = weights_.as<float>(),
              .score_stride = stride});
  stream.copy(host_weights_, weights_.bytes(), n_bytes);
  counts_.weight_bytes += n_bytes;
  return {host_weights_, stride};
}

}  // namespace strata::engine
