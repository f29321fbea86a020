// tests/tiers/block_fixture.h - a block store over a simulated disk, whose blocks hold bytes that
// are a function of a serial number: what a block must hold is known without keeping it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>

#include "base/checked_math.h"
#include "tests/tiers/simulated_spill.h"
#include "tiers/block_store.h"

namespace strata::tiers::testing {

inline constexpr uint32_t kHeadDim = 8;  // f16: blocks of 1 KiB, extents of two device blocks

/// Fills a block with the bytes of a serial number.
inline void fill_block(std::byte* block, uint32_t block_bytes, uint64_t serial) {
  SimulatedDraws draws(serial);
  for (uint32_t at = 0; at < block_bytes; at += 8) {
    const uint64_t word = draws.next();
    std::memcpy(block + at, &word, sizeof word);
  }
}

inline bool holds_serial(const std::byte* block, uint32_t block_bytes, uint64_t serial) {
  SimulatedDraws draws(serial);
  uint64_t difference = 0;
  for (uint32_t at = 0; at < block_bytes; at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, block + at, sizeof word);
    difference |= word ^ draws.next();
  }
  return difference == 0;
}

struct StoreSetting {
  SimulatedDisk disk{};
  uint32_t n_layers = 2;
  uint32_t n_kv_heads = 1;
  uint32_t n_slots = 64;
  uint32_t n_places = 64;
  uint32_t n_frames = 8;
  uint64_t join_bytes = 0;  // 0: every extent is a request of its own
  std::chrono::microseconds deadline = std::chrono::seconds(10);
  KvCodec codec = KvCodec::kF16;
  uint32_t head_dim = kHeadDim;
  uint32_t n_block_frames = 0;  // 0: single blocks are not read
  SimulatedDisk block_disk{};   // how these reads go; the medium is that of `disk`
};

struct BlockFixture {
  using Run = std::array<BlockId, kExtentBlocks>;

  explicit BlockFixture(const StoreSetting& setting_)
      : setting(setting_),
        layout(KvLayout::make(setting_.codec, setting_.codec, setting_.head_dim)),
        extent_bytes(
            round_up(uint64_t{setting_.n_kv_heads} * kExtentBlocks * layout.block_bytes, 4096)),
        spill(make_simulated_spill(setting_.disk, extent_bytes, setting_.n_places,
                                   setting_.n_frames, setting_.deadline, setting_.join_bytes)),
        store(layout, setting_.n_layers, uint64_t{setting_.n_slots} * layout.block_bytes,
              Hash128{1, 2}, with_block_reads()) {}

  /// Opens one block for each serial and fills it; makes room where that is possible.
  bool open(std::span<const uint64_t> serials, std::span<BlockId> blocks) {
    if (!store.make_room(serials.size())) return false;
    BlockId previous = kNoBlock;
    for (size_t i = 0; i < serials.size(); ++i) {
      const auto block = store.open_block(previous);
      EXPECT_TRUE(block.has_value());
      previous = blocks[i] = *block;
      fill_block(store.open_bytes(*block), layout.block_bytes, serials[i]);
    }
    return true;
  }
  void freeze(uint32_t layer, uint32_t first_pos, uint64_t text, std::span<const BlockId> blocks,
              uint32_t n_run = 1) {
    std::array<Hash128, kExtentBlocks> chain;
    for (uint32_t i = 0; i < kExtentBlocks; ++i) chain[i] = {text, i};
    EXPECT_TRUE(store.freeze(layer, first_pos, chain, blocks, n_run));
  }
  bool holds(BlockId block, uint64_t serial) const {
    return holds_serial(store.bytes(block), layout.block_bytes, serial);
  }
  /// One extent of one head: blocks of the serials first, first + 1, ..., frozen and written.
  Run store_run(uint64_t first) {
    std::array<uint64_t, kExtentBlocks> serials;
    for (uint32_t i = 0; i < kExtentBlocks; ++i) serials[i] = first + i;
    Run run;
    EXPECT_TRUE(open(serials, run));
    freeze(0, 0, first, run);
    settle();
    return run;
  }
  void release(std::span<const BlockId> blocks) {
    for (const BlockId block : blocks) store.release(block);
  }
  /// Waits until nothing is being written or read any more.
  void settle() {
    while (store.wait_for_transfer()) {
    }
  }
  /// Puts everything that can be away out of DRAM.
  void evict_all() { (void)store.make_room(store.pool().n_slots()); }
  /// Reads the extent: true where it came rightly; then it is held.
  bool take(ExtentId extent) {
    while (!store.fetch(extent))
      if (!store.wait_for_transfer()) return false;
    try {
      store.take({&extent, 1}, serial_pool);
    } catch (const LostExtent& lost) {
      EXPECT_EQ(lost.extent(), extent);
      store.release(extent);
      return false;
    }
    return true;
  }

  /// Brings the blocks into DRAM in a step of single blocks: false where an extent was lost.
  bool pin(std::span<const BlockId> blocks) {
    try {
      store.pin(blocks, serial_pool);
    } catch (const LostExtent&) {
      return false;
    }
    return true;
  }
  bool all_frames_are_free() const {
    return store.transfers()->n_free() == setting.n_frames &&
           (store.block_transfers() == nullptr ||
            store.block_transfers()->n_free() == setting.n_block_frames);
  }

  StoreSetting setting;
  KvLayout layout;
  uint64_t extent_bytes;
  SimulatedSpill spill;
  BlockStore store;
  ThreadPool serial_pool{1};

 private:
  std::unique_ptr<Spill> with_block_reads() {
    if (setting.n_block_frames > 0)
      add_block_transfers(spill, setting.block_disk, layout.block_bytes, setting.n_block_frames,
                          setting.deadline);
    return std::move(spill.spill);
  }
};

}  // namespace strata::tiers::testing
