// tests/tiers/pack_store.h - a block store without a spill file, whose adopted extents lie in a
// pack on a simulated disk.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/checked_math.h"
#include "tests/tiers/pack_fixture.h"
#include "tiers/block_store.h"
#include "tiers/simulated_io.h"

namespace strata::tiers::testing {

struct PackStoreSetting {
  SimulatedDisk disk{};
  KvCodec codec = KvCodec::kF16;
  uint32_t head_dim = 8;  // f16: blocks of 1 KiB
  uint32_t n_kv_heads = 2;
  uint32_t n_layers = 3;
  uint32_t n_extents = 4;  // of each layer
  uint32_t n_slots = 0;    // 0: as many as there are blocks
  uint32_t n_frames = 4;
  uint32_t n_lent = 16;
  uint64_t join_bytes = 0;
  std::chrono::microseconds deadline = std::chrono::seconds(1);
};

struct PackStore {
  explicit PackStore(const PackStoreSetting& setting_)
      : setting(setting_),
        layout(KvLayout::make(setting.codec, setting.codec, setting.head_dim)),
        packs(PackDirectory::open(folder.path(), {})),
        store(layout, setting.n_layers, uint64_t{n_slots()} * layout.block_bytes, Hash128{1, 2},
              make_spill()) {
    store.set_headroom(0);
    PackShape shape;
    shape.model = {1, 2};
    shape.k_codec = shape.v_codec = setting.codec;
    shape.head_dim = setting.head_dim;
    for (uint32_t i = 0; i < setting.n_layers; ++i) shape.layers.push_back({setting.n_kv_heads, 0});
    const auto text = random_text(7, setting.n_extents * kExtentPositions);
    name = save_text(packs, shape, text).at(0);
    found = packs.find(shape, Hash128{}, text);
    // The simulator does not look into the files that it is given.
    file = disk->add_memory_file(0);
    std::vector<std::byte> bytes = bytes_of_file(folder.path() + "/" + name);
    bytes.resize(round_up(bytes.size(), kPlaceAlignment));
    disk->set_content(file, bytes);
    for (uint32_t extent = 0; extent < setting.n_extents; ++extent)
      for (uint32_t layer = 0; layer < setting.n_layers; ++layer) adopt(layer, extent);
  }

  struct Adopted {
    uint32_t layer, pack_extent;
    std::vector<BlockId> blocks;
  };
  const PackReader& pack() const { return *found.pieces.at(0).pack; }
  uint32_t extent_blocks() const { return setting.n_kv_heads * kExtentBlocks; }
  uint32_t n_slots() const {
    if (setting.n_slots > 0) return setting.n_slots;
    return setting.n_layers * setting.n_extents * extent_blocks();
  }
  uint32_t n_free_slots() const { return store.pool().n_free(); }
  void adopt(uint32_t layer, uint32_t pack_extent) {
    Adopted of{.layer = layer, .pack_extent = pack_extent, .blocks = {}};
    of.blocks.resize(extent_blocks());
    store.adopt({.pack = found.pieces.at(0).pack,
                 .file = file,
                 .pack_extent = pack_extent,
                 .layer = layer,
                 .first_pos = pack_extent * kExtentPositions},
                of.blocks);
    adopted.push_back(std::move(of));
  }
  ExtentId extent(size_t i) const { return store.extent_of(adopted[i].blocks[0]); }
  std::vector<ExtentId> all() const {
    std::vector<ExtentId> ids;
    for (size_t i = 0; i < adopted.size(); ++i) ids.push_back(extent(i));
    return ids;
  }
  /// Begins to read them all.
  void fetch(std::span<const ExtentId> ids) {
    for (const ExtentId id : ids) ASSERT_TRUE(store.fetch(id));
    store.poll();
  }
  /// Waits for an extent that was fetched and lets go of it: true where it came rightly.
  bool take(ExtentId id) {
    bool is_right = true;
    try {
      store.take({&id, 1}, serial_pool);
    } catch (const LostExtent& lost) {
      EXPECT_EQ(lost.extent(), id);
      cause = lost.what();
      is_right = false;
    }
    store.release(id);
    return is_right;
  }
  bool is_resident(size_t i) const {
    return std::ranges::all_of(adopted[i].blocks,
                               [&](BlockId id) { return store.is_resident(id); });
  }
  /// Whether the extent's blocks, which are readable, have the bytes that were saved.
  bool has_right_bytes(size_t i) const {
    const Adopted& of = adopted[i];
    for (uint32_t idx = 0; idx < of.blocks.size(); ++idx) {
      const auto wanted =
          block_bytes(pack().head(), pack().geometry(), of.layer, idx / kExtentBlocks,
                      of.pack_extent * kExtentBlocks + idx % kExtentBlocks);
      if (std::memcmp(store.bytes(of.blocks[idx]), wanted.data(), wanted.size()) != 0) return false;
    }
    return true;
  }
  /// Likewise, all of them in DRAM.
  bool holds(size_t i) const { return is_resident(i) && has_right_bytes(i); }
  /// In place of one that was lost.
  void adopt_anew(size_t i) {
    const Adopted old = adopted[i];
    for (const BlockId block : old.blocks) store.release(block);
    adopt(old.layer, old.pack_extent);
    adopted[i] = std::move(adopted.back());
    adopted.pop_back();
  }
  void settle() {
    while (store.wait_for_transfer()) {
    }
  }
  const TransferQueue& transfers() const { return *store.transfers(); }
  /// Nothing is on its way or was lost of what is read with.
  bool nothing_is_held() const {
    return transfers().n_free() == setting.n_frames &&
           transfers().n_lent_free() == setting.n_lent && store.n_lost_slots() == 0;
  }

  PackStoreSetting setting;
  FreshPath folder;
  KvLayout layout;
  PackDirectory packs;
  SimulatedIo* disk = nullptr;
  std::string name;
  FoundContext found;
  IoFile file{};
  std::vector<Adopted> adopted;
  BlockStore store;
  ThreadPool serial_pool{1};
  std::string cause;  // of the last extent that was lost

 private:
  std::unique_ptr<Spill> make_spill() {
    auto io = std::make_unique<SimulatedIo>(setting.disk);
    disk = io.get();
    auto spill = std::make_unique<Spill>();
    spill->transfers = std::make_unique<TransferQueue>(
        std::move(io),
        TransferOptions{.frame_bytes = round_up(uint64_t{extent_blocks()} * layout.block_bytes,
                                                kPlaceAlignment),
                        .n_frames = setting.n_frames,
                        .n_lent = setting.n_lent,
                        .join_bytes = setting.join_bytes,
                        .deadline = setting.deadline});
    return spill;
  }
};

}  // namespace strata::tiers::testing
