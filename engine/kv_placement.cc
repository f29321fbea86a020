#include "engine/kv_placement.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "base/check.h"
#include "base/checked_math.h"
#include "engine/device_chooser.h"
#include "engine/device_index.h"
#include "engine/device_kv.h"
#include "engine/index_rows.h"
#include "engine/kv_cache.h"
#include "engine/walk.h"
#include "tiers/block_store.h"
#include "tiers/pack_format.h"
#include "tiers/spill.h"

namespace strata::engine {
namespace {

// A span of four extents, each of whose blocks another fork has written, three times over.
constexpr uint32_t kFramesMin = 48;
// Where packs alone are read, each extent has one home. Half of the frames are in flight: 24 reads
// of 192 KiB were as fast as more (docs/measurements.md); larger ones keep a disk busy by fewer.
constexpr uint64_t kRestoreBytes = uint64_t{9} << 20;
constexpr uint64_t kRestoreFramesMin = 24, kRestoreFramesMax = 48;
constexpr uint32_t kBlockFrames = 256;  // blocks of one layer and step: a span of eight KV heads
constexpr uint64_t kRunsWritten = 3;    // being filled, being sealed, and the sealed one's encoding
constexpr uint64_t kPackIndexShare = 64;
constexpr uint64_t kPackIndexMin = uint64_t{256} << 10;
constexpr uint64_t kPackIndexMax = uint64_t{16} << 20;
constexpr uint64_t kStagingBytes = uint64_t{64} << 20;  // hides the latency of any disk here

uint64_t n_full_layers(const ModelShape& shape) {
  return static_cast<uint64_t>(
      std::ranges::count_if(shape.layers, [](const LayerShape& of) { return of.window == 0; }));
}

KvLayout layout_of(const ModelShape& shape, const KvContext& context) {
  return KvLayout::make(context.k_codec, context.v_codec, shape.head_dim);
}

/// The blocks of full layers for so many positions, and twice those of windowed layers for the
/// context.
uint64_t slots_for(const ModelShape& shape, const KvContext& context, uint64_t n_positions) {
  ModelShape full = shape;
  ModelShape windowed = shape;
  std::erase_if(full.layers, [](const LayerShape& of) { return of.window > 0; });
  std::erase_if(windowed.layers, [](const LayerShape& of) { return of.window == 0; });
  return kv_bytes_for_context(full, context.k_codec, context.v_codec,
                              std::min(n_positions, context.n_ctx), context.chunk_rows) +
         2 * kv_bytes_for_context(windowed, context.k_codec, context.v_codec, context.n_ctx,
                                  context.chunk_rows);
}

/// All blocks of a context, wherever they are.
uint64_t whole_context_bytes(const ModelShape& shape, const KvContext& context) {
  return kv_bytes_for_context(shape, context.k_codec, context.v_codec, context.n_ctx,
                              context.chunk_rows);
}

bool has_packs(const ModelShape& shape, const KvContext& context) {
  return context.has_packs && can_spill(shape);  // else none can be read block by block
}

}  // namespace

uint64_t KvPlacement::dram_bytes() const {
  return slot_bytes + n_frames * place_bytes +
         n_block_frames * tiers::block_frame_bytes(block_bytes) + pack_bytes + index_bytes +
         table_bytes;
}

uint64_t place_bytes(const ModelShape& shape, const KvContext& context) {
  const KvLayout layout = layout_of(shape, context);
  uint64_t n_streams = 0;
  for (const LayerShape& layer : shape.layers)
    if (layer.window == 0) n_streams = std::max<uint64_t>(n_streams, layer.n_kv_heads);
  return round_up(n_streams * kExtentBlocks * layout.block_bytes, tiers::kPlaceAlignment);
}

ModelShape shape_of_sequences(ModelShape shape, uint32_t n_sequences) {
  std::vector<LayerShape> windowed;
  std::ranges::copy_if(shape.layers, std::back_inserter(windowed),
                       [](const LayerShape& layer) { return layer.window > 0; });
  for (uint32_t i = 1; i < n_sequences; ++i)
    shape.layers.insert(shape.layers.end(), windowed.begin(), windowed.end());
  return shape;
}

bool can_spill(const ModelShape& shape) { return n_full_layers(shape) > 0; }

uint64_t pack_bytes(const ModelShape& shape, const KvContext& context) {
  if (!has_packs(shape, context)) return 0;
  const KvLayout layout = layout_of(shape, context);
  uint64_t n_streams = 0, n_widest = 0;
  for (const LayerShape& layer : shape.layers) {
    n_streams += layer.n_kv_heads;
    n_widest = std::max<uint64_t>(n_widest, layer.n_kv_heads);
  }
  const uint64_t region =
      round_up(n_widest * kExtentBlocks * layout.block_bytes, tiers::kRegionAlignment);
  // Per block: its tags, a byte of presence for each layer, its tokens, which of them a model
  // generated, and the chain hash behind it.
  const uint64_t per_block = n_streams * sizeof(tiers::Hash128) + shape.layers.size() +
                             kBlockPositions * (sizeof(int32_t) + 1) + sizeof(tiers::Hash128);
  const uint64_t n_read = div_up(context.n_ctx, kBlockPositions);
  const uint64_t n_written = kRunsWritten * tiers::kPackPositionsMax / kBlockPositions;
  // Index rows that are read: those written are fewer.
  const auto n_rows_streams =
      index_shape(shape, context.k_codec, context.v_codec, context.n_ctx).n_streams;
  const uint64_t rows =
      context.method
          ? rows_memory_bytes(n_rows_streams * index::segment_bytes(*context.method, layout))
          : 0;
  const uint64_t per_answer = region + tiers::kPackPositionsMax / kBlockPositions * per_block;
  return 2 * region + (n_read + n_written) * per_block + rows + pack_index_bytes(shape, context) +
         (context.n_answers - 1) * per_answer;
}

uint64_t pack_index_bytes(const ModelShape& shape, const KvContext& context) {
  if (!has_packs(shape, context)) return 0;
  return std::clamp(whole_context_bytes(shape, context) / kPackIndexShare, kPackIndexMin,
                    kPackIndexMax);
}

uint64_t index_dram_bytes(const ModelShape& shape, const KvContext& context) {
  if (!context.method) return 0;
  const index::IndexShape rows =
      index_shape(shape, context.k_codec, context.v_codec, context.n_ctx, context.n_answers);
  return index::index_bytes(*context.method, rows) + index::edition_bytes(*context.method, rows) +
         selection_bytes(shape, context.n_ctx, *context.method) +
         (context.sparse ? sparse_selection_bytes(shape, context.n_ctx, *context.method,
                                                  *context.sparse, context.chunk_rows)
                         : 0);
}

namespace {

/// Of a sequence: its tokens, chain hashes and blocks (KvCacheOptions::n_ctx).
uint64_t sequence_table_bytes(const ModelShape& shape, const KvContext& context) {
  uint64_t n_entries = context.n_ctx;
  for (const LayerShape& layer : shape.layers)
    n_entries += layer.n_kv_heads * stream_blocks_max(layer, context.n_ctx, context.chunk_rows);
  return n_entries * sizeof(int32_t) + blocks_for(context.n_ctx) * sizeof(tiers::Hash128);
}

/// Of DRAM, what a device has that may search the index.
uint64_t device_index_bytes(const ModelShape& shape, const KvContext& context) {
  return DeviceIndex::host_bytes(shape, layout_of(shape, context), context.n_ctx, context.n_answers,
                                 context.method);
}

/// What does not depend on the budget; n_frames and slots are still missing.
KvPlacement without_slots(const ModelShape& shape, const KvContext& context) {
  KvPlacement placement;
  placement.place_bytes = place_bytes(shape, context);
  placement.block_bytes = layout_of(shape, context).block_bytes;
  placement.n_block_frames = context.method ? kBlockFrames : 0;
  placement.pack_bytes = pack_bytes(shape, context);
  placement.pack_index_bytes = pack_index_bytes(shape, context);
  placement.index_bytes = index_dram_bytes(shape, context);
  placement.table_bytes = (context.n_answers - 1) * sequence_table_bytes(shape, context);
  return placement;
}

/// Of what spills.
KvPlacement spilling_without_slots(const ModelShape& shape, const KvContext& context) {
  KvPlacement placement = without_slots(shape, context);
  if (context.spills_beside)
    placement.table_bytes +=
        DeviceKv::host_bytes(shape, context.n_ctx,
                             whole_context_bytes(shape, context) / placement.block_bytes) +
        DeviceChooser::host_bytes(shape, context.n_ctx) +
        DeviceChooser::spilling_bytes(shape, context.n_ctx) + device_index_bytes(shape, context);
  return placement;
}

}  // namespace

KvPlacement place_whole(const ModelShape& shape, const KvContext& context) {
  KvPlacement placement = without_slots(shape, context);
  if (has_packs(shape, context)) {
    placement.n_frames = static_cast<uint32_t>(
        std::clamp(kRestoreBytes / placement.place_bytes, kRestoreFramesMin, kRestoreFramesMax));
  } else {
    placement.n_block_frames = 0;
  }
  // A damaged pack is computed again in a second set of windowed blocks; restored ones of full
  // layers give way to its others.
  placement.slot_bytes = has_packs(shape, context) ? slots_for(shape, context, context.n_ctx)
                                                   : whole_context_bytes(shape, context);
  if (context.has_device)
    placement.table_bytes +=
        DeviceKv::host_bytes(shape, context.n_ctx,
                             placement.slot_bytes / layout_of(shape, context).block_bytes) +
        DeviceChooser::host_bytes(shape, context.n_ctx) + device_index_bytes(shape, context);
  return placement;
}

uint64_t smallest_spilling_dram(const ModelShape& shape, const KvContext& context) {
  const uint64_t step = round_up(context.chunk_rows, kExtentPositions);
  const uint64_t held =
      2 * step + 3 * kExtentPositions + (context.n_answers - 1) * 2 * kExtentPositions;
  KvPlacement placement = spilling_without_slots(shape, context);
  placement.n_frames = kFramesMin;
  placement.slot_bytes = slots_for(shape, context, held);
  if (context.method)
    placement.slot_bytes += chosen_blocks_min(shape, context.n_ctx) * placement.block_bytes;
  return placement.dram_bytes();
}

uint64_t spill_bytes(const ModelShape& shape, const KvContext& context) {
  const uint64_t n_extents = div_up(context.n_ctx, kExtentPositions) + 2 * context.n_answers;
  return n_extents * n_full_layers(shape) * place_bytes(shape, context);
}

KvPlacement place_spilling(const ModelShape& shape, const KvContext& context, uint64_t dram_bytes) {
  const uint64_t smallest = smallest_spilling_dram(shape, context);
  STRATA_CHECK(can_spill(shape) && dram_bytes >= smallest, "%lu bytes of DRAM, %lu needed",
               static_cast<unsigned long>(dram_bytes), static_cast<unsigned long>(smallest));
  KvPlacement placement = spilling_without_slots(shape, context);
  placement.nvme_bytes = spill_bytes(shape, context);
  // Staging takes at most half of what is free beyond the least.
  const uint64_t more_frames =
      std::min(kStagingBytes, (dram_bytes - smallest) / 2) / placement.place_bytes;
  placement.n_frames = static_cast<uint32_t>(std::max<uint64_t>(kFramesMin, more_frames));
  placement.slot_bytes = dram_bytes - placement.dram_bytes();
  return placement;
}

}  // namespace strata::engine
