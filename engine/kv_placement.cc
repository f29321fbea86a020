#include "engine/kv_placement.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked_math.h"
#include "engine/kv_cache.h"
#include "tiers/block_store.h"
#include "tiers/spill.h"

namespace strata::engine {
namespace {

// A span of four extents, each of whose blocks another fork has written, three times over.
constexpr uint32_t kFramesMin = 48;
constexpr uint64_t kStagingBytes = uint64_t{64} << 20;  // hides the latency of any disk here

uint64_t n_full_layers(const ModelShape& shape) {
  return static_cast<uint64_t>(
      std::ranges::count_if(shape.layers, [](const LayerShape& of) { return of.window == 0; }));
}

/// The blocks of full layers for so many positions, and those of windowed layers for the context.
uint64_t slots_for(const ModelShape& shape, const KvContext& context, uint64_t n_positions) {
  ModelShape full = shape;
  ModelShape windowed = shape;
  std::erase_if(full.layers, [](const LayerShape& of) { return of.window > 0; });
  std::erase_if(windowed.layers, [](const LayerShape& of) { return of.window == 0; });
  return kv_bytes_for_context(full, context.k_codec, context.v_codec,
                              std::min(n_positions, context.n_ctx), context.chunk_rows) +
         kv_bytes_for_context(windowed, context.k_codec, context.v_codec, context.n_ctx,
                              context.chunk_rows);
}

}  // namespace

uint64_t place_bytes(const ModelShape& shape, const KvContext& context) {
  const auto layout = KvLayout::make(context.k_codec, context.v_codec, shape.head_dim);
  uint64_t n_streams = 0;
  for (const LayerShape& layer : shape.layers)
    if (layer.window == 0) n_streams = std::max<uint64_t>(n_streams, layer.n_kv_heads);
  return round_up(n_streams * kExtentBlocks * layout.block_bytes, tiers::kPlaceAlignment);
}

bool can_spill(const ModelShape& shape) { return n_full_layers(shape) > 0; }

uint64_t smallest_spilling_dram(const ModelShape& shape, const KvContext& context) {
  const uint64_t step = round_up(context.chunk_rows, kExtentPositions);
  const uint64_t held = 2 * step + 3 * kExtentPositions;
  return slots_for(shape, context, held) + kFramesMin * place_bytes(shape, context);
}

uint64_t spill_bytes(const ModelShape& shape, const KvContext& context) {
  const uint64_t n_extents = div_up(context.n_ctx, kExtentPositions) + 2;
  return n_extents * n_full_layers(shape) * place_bytes(shape, context);
}

KvPlacement place_spilling(const ModelShape& shape, const KvContext& context, uint64_t dram_bytes) {
  const uint64_t smallest = smallest_spilling_dram(shape, context);
  STRATA_CHECK(can_spill(shape) && dram_bytes >= smallest, "%lu bytes of DRAM, %lu needed",
               static_cast<unsigned long>(dram_bytes), static_cast<unsigned long>(smallest));
  KvPlacement placement;
  placement.place_bytes = place_bytes(shape, context);
  placement.nvme_bytes = spill_bytes(shape, context);
  // Staging takes at most half of what is free beyond the least.
  const uint64_t more_frames =
      std::min(kStagingBytes, (dram_bytes - smallest) / 2) / placement.place_bytes;
  placement.n_frames = static_cast<uint32_t>(std::max<uint64_t>(kFramesMin, more_frames));
  placement.slot_bytes = dram_bytes - placement.n_frames * placement.place_bytes;
  return placement;
}

}  // namespace strata::engine
