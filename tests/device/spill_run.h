// tests/device/spill_run.h - a model of the zoo whose steps run on a device beside K and V that
// spill to a simulated disk.
#pragma once

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "tests/device/device_run.h"
#include "tests/tiers/simulated_spill.h"

namespace strata::engine::testing {

inline constexpr uint32_t kSpillFrames = 48, kSpillBlockFrames = 24;
inline constexpr uint32_t kSpillChunk = 128;
inline constexpr uint32_t kSpillContext = 2048;
inline constexpr uint32_t kManyTexts =
    8;  // whose beginnings have no room on a device of few segments

inline WalkSetting spill_setting(uint32_t n_threads = 1) {
  WalkSetting of{.kernels = cpu_attn::available_kernels().back(),
                 .n_threads = n_threads,
                 .chunk_rows = kSpillChunk,
                 .n_ctx = kSpillContext};
  return of;
}

/// Ten blocks of a KV head are chosen.
inline WalkSetting chosen_setting(index::Method method = index::Method::kQuest,
                                  uint32_t n_threads = 1) {
  WalkSetting of = spill_setting(n_threads);
  of.method = method;
  of.rule.budget = {.kind = index::Budget::Kind::kTokens, .value = 320};
  of.rule.n_sink_blocks = 1;
  of.rule.n_window_blocks = 1;
  return of;
}

inline uint64_t spill_place_bytes(const ModelShape& shape, const KvLayout& layout) {
  uint64_t n_kv_heads = 0;
  for (const LayerShape& layer : shape.layers)
    n_kv_heads = std::max<uint64_t>(n_kv_heads, layer.n_kv_heads);
  return round_up(n_kv_heads * kExtentBlocks * layout.block_bytes, tiers::kPlaceAlignment);
}

/// Of the device: n_segments of each full layer, and windowed layers of n_texts.
inline uint64_t segment_bytes(const ModelShape& shape, const KvLayout& layout, uint64_t n_segments,
                              uint32_t n_texts) {
  uint64_t n_blocks = n_segments * kExtentBlocks * n_full_streams(shape);
  for (const LayerShape& layer : shape.layers)
    if (layer.window > 0)
      n_blocks += n_texts * layer.n_kv_heads * stream_blocks_max(layer, kSpillContext, kSpillChunk);
  return n_blocks * layout.block_bytes;
}

/// A run: the device has room for n_segments, of which each of n_texts has an even part for its
/// beginning, and DRAM for what n_held texts of n_positions have; 0: all that is asked for, and no
/// block leaves it. Single blocks can be read where the setting has a method, whose rows the device
/// searches where it can and is to.
struct SpillRun {
  SpillRun(const LoadedMember& member, WalkSetting setting, uint64_t n_segments,
           uint64_t n_positions, const tiers::SimulatedDisk& disk = {}, uint32_t n_texts = 1,
           uint32_t n_held = 1, const DeviceTable& table = gpu_emu::emulated_device(),
           bool card_searches = false)
      : layout(KvLayout::make(setting.k_codec, setting.v_codec, member.model.shape().head_dim)),
        made(tiers::testing::make_simulated_spill(
            disk, spill_place_bytes(member.model.shape(), layout), 4096, kSpillFrames)) {
    const ModelShape& shape = member.model.shape();
    if (setting.method)
      tiers::testing::add_block_transfers(made, disk, layout.block_bytes, kSpillBlockFrames);
    if (n_positions > 0)
      setting.kv_dram_bytes = n_held * kv_bytes_for_context(shape, setting.k_codec, setting.v_codec,
                                                            n_positions, kSpillChunk);
    else
      setting.n_sequences = 3;
    const auto placed = [&](const DeviceNeeds& needs, DevicePlan& plan) {
      plan = device_plan_of(needs, plan.resident);
      plan.kv_bytes = segment_bytes(shape, layout, n_segments, n_texts);
      plan.n_texts = n_texts;
      if (card_searches) plan.index_bytes = needs.index_bytes;
    };
    run.emplace(member, setting, 0, table, 0, placed, std::move(made.spill));
  }
  KvLayout layout;
  tiers::testing::SimulatedSpill made;
  std::optional<DeviceRun> run;

  ZooWalk& walk() { return run->walk(); }
  const tiers::StoreCounts& store() { return run->walk().cache().store().counts(); }
};

}  // namespace strata::engine::testing
