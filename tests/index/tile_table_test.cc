// Index rows of sequences that fork, are cut and grow again, against a plain copy of what each
// holds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <utility>

#include "base/error.h"
#include "index/tile_table.h"

namespace strata::index {
namespace {

constexpr uint64_t kTileBytes = 64;
constexpr uint32_t kStreams = 3;
constexpr uint32_t kSlotBlocks = TileMemory::kSlotTiles * kExtentBlocks;

std::shared_ptr<TileMemory> memory(uint32_t n_slots) {
  return std::make_shared<TileMemory>(kTileBytes, n_slots);
}

TEST(TileTable, AForkThatGrowsLeavesTheOtherAsItWas) {
  const auto slots = memory(4 * kStreams);
  TileTable table(slots, kStreams);
  table.open_blocks(10);
  std::memset(table.tile(1, 1), 7, kTileBytes);
  TileTable fork(table);
  EXPECT_EQ(slots->n_free(), 3 * kStreams);
  fork.open_blocks(11);
  std::memset(fork.tile(1, 1), 9, kTileBytes);
  EXPECT_EQ(table.tile(1, 1)[0], std::byte{7});
  EXPECT_EQ(fork.tile(1, 1)[0], std::byte{9});
  EXPECT_EQ(slots->n_free(), 2 * kStreams);
}

/// They are written together, position by position: memory is touched as it is filled.
TEST(TileTable, SlotsOfTheSamePositionsLieSideBySide) {
  TileTable table(memory(4 * kStreams), kStreams);
  table.open_blocks(3 * kSlotBlocks);
  for (const uint32_t slot : {0u, 1u, 2u}) {
    std::vector<std::byte*> tiles;
    for (uint32_t stream = 0; stream < kStreams; ++stream)
      tiles.push_back(table.tile(stream, slot * TileMemory::kSlotTiles));
    const auto [first, last] = std::ranges::minmax(tiles);
    EXPECT_EQ(static_cast<uint64_t>(last - first),
              (kStreams - 1) * TileMemory::kSlotTiles * kTileBytes);
  }
}

TEST(TileTable, WhatDoesNotFitChangesNothing) {
  const auto slots = memory(kStreams + 1);
  TileTable table(slots, kStreams);
  table.open_blocks(kSlotBlocks);
  EXPECT_THROW(table.open_blocks(kSlotBlocks + 1), Error);
  EXPECT_EQ(table.n_blocks(), kSlotBlocks);
  EXPECT_EQ(slots->n_free(), 1u);
}

/// Of tiles that nobody has written, of one that is, and of its slot.
TEST(TileMemory, WhatMayBeWrittenHasAnotherEdition) {
  const auto slots = memory(2 * kStreams);
  TileTable table(slots, kStreams);
  table.open_blocks(20);
  const TileSlot slot = table.slots(1)[0], other = table.slots(2)[0];
  for (uint32_t i = 0; i < TileMemory::kSlotTiles; ++i) EXPECT_EQ(slots->edition(slot, i), 0u);
  EXPECT_EQ(slots->edition(slot), 0u);
  table.tile(1, 2);
  const uint64_t of_tile = slots->edition(slot, 2), of_slot = slots->edition(slot);
  EXPECT_NE(of_tile, 0u);
  EXPECT_NE(of_slot, 0u);
  EXPECT_EQ(slots->edition(slot, 1), 0u);
  EXPECT_EQ(slots->edition(other), 0u);
  static_cast<void>(std::as_const(table).tile(1, 2));
  EXPECT_EQ(slots->edition(slot), of_slot);
  table.tile(1, 0);
  EXPECT_EQ(slots->edition(slot, 2), of_tile);
  EXPECT_NE(slots->edition(slot), of_slot);
  table.tile(1, 2);
  EXPECT_NE(slots->edition(slot, 2), of_tile);
}

TEST(TileMemory, ACopyHasEditionsOfTheTilesThatAreUsed) {
  const auto slots = memory(4);
  TileTable table(slots, 1);
  table.open_blocks(2 * kExtentBlocks + 1);  // three tiles
  for (uint32_t i = 0; i < 3; ++i) *table.tile(0, i) = std::byte{7};
  TileTable fork(table);
  fork.open_blocks(3 * kExtentBlocks + 1);
  const TileSlot copy = fork.slots(0).front();
  ASSERT_NE(copy, table.slots(0).front());
  for (uint32_t i = 0; i < TileMemory::kSlotTiles; ++i)
    EXPECT_EQ(slots->edition(copy, i) > 0, i < 3) << i;
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(*slots->tile(copy, i), std::byte{7});
}

/// A copy of every slot elsewhere, made anew of the tiles whose editions say so.
class Mirror {
 public:
  explicit Mirror(const TileMemory& memory)
      : memory_(memory),
        bytes_(memory.arena().size()),
        slots_(memory.n_slots(), 0),
        tiles_(uint64_t{memory.n_slots()} * TileMemory::kSlotTiles, 0) {}
  void follow() {
    for (uint32_t slot = 0; slot < memory_.n_slots(); ++slot) {
      const auto of = static_cast<TileSlot>(slot);
      if (slots_[slot] == memory_.edition(of)) continue;
      slots_[slot] = memory_.edition(of);
      for (uint32_t i = 0; i < TileMemory::kSlotTiles; ++i) {
        uint64_t& tile = tiles_[slot * TileMemory::kSlotTiles + i];
        if (tile == memory_.edition(of, i)) continue;
        tile = memory_.edition(of, i);
        std::memcpy(bytes_.data() + (memory_.tile(of, i) - memory_.arena().data()),
                    memory_.tile(of, i), memory_.tile_bytes());
        ++n_copied_;
      }
    }
  }
  const std::byte* at(const std::byte* tile) const {
    return bytes_.data() + (tile - memory_.arena().data());
  }
  uint64_t n_copied() const { return n_copied_; }

 private:
  const TileMemory& memory_;
  std::vector<std::byte> bytes_;
  std::vector<uint64_t> slots_, tiles_;
  uint64_t n_copied_ = 0;
};

/// A table and, beside it, what each of its tiles should hold.
struct Model {
  std::unique_ptr<TileTable> table;
  std::map<std::pair<uint32_t, uint32_t>, uint8_t> values;  // (stream, extent)
};

void expect_values(const Model& model) {
  for (const auto& [at, value] : model.values) {
    const auto [stream, extent] = at;
    const std::span<const std::byte* const> tiles = model.table->tiles(stream);
    ASSERT_LT(extent, tiles.size());
    ASSERT_EQ(tiles[extent][kTileBytes - 1], std::byte{value}) << stream << " " << extent;
  }
}

void append(Model& model, uint32_t n_blocks, std::mt19937_64& random) {
  const uint32_t first = model.table->n_blocks();
  model.table->open_blocks(first + n_blocks);
  for (uint32_t stream = 0; stream < kStreams; ++stream)
    for (uint32_t block = first; block < first + n_blocks; ++block) {
      const auto value = static_cast<uint8_t>(random());
      std::memset(model.table->tile(stream, block / kExtentBlocks), value, kTileBytes);
      model.values[{stream, block / kExtentBlocks}] = value;
    }
}

TEST(TileTable, RandomForksCutsAndAppendsKeepEveryRowAlsoOfACopy) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const auto slots = memory(200);
  Mirror mirror(*slots);
  uint64_t n_written = 0;
  std::vector<Model> models;
  models.push_back({std::make_unique<TileTable>(slots, kStreams), {}});
  for (uint32_t step = 0; step < 400; ++step) {
    Model& model = models[random() % models.size()];
    switch (random() % 4) {
      case 0:
        if (models.size() < 5)
          models.push_back({std::make_unique<TileTable>(*model.table), model.values});
        else
          models.erase(models.begin() + static_cast<std::ptrdiff_t>(random() % models.size()));
        break;
      case 1: {
        const auto kept = static_cast<uint32_t>(random() % (model.table->n_blocks() + 1));
        model.table->truncate(kept);
        std::erase_if(model.values, [&](const auto& entry) {
          return entry.first.second >= (kept + kExtentBlocks - 1) / kExtentBlocks;
        });
        break;
      }
      default:
        if (model.table->n_blocks() < 6 * kSlotBlocks) {
          const uint32_t n = 1 + static_cast<uint32_t>(random() % 150);
          append(model, n, random);
          n_written += n * kStreams;
        }
    }
    for (const Model& each : models) expect_values(each);
    // Not every time: what is written twice between is copied once.
    if (random() % 4 > 0) continue;
    mirror.follow();
    for (const Model& each : models)
      for (const auto& [at, value] : each.values)
        ASSERT_EQ(mirror.at(each.table->tiles(at.first)[at.second])[kTileBytes - 1],
                  std::byte{value});
  }
  EXPECT_GT(mirror.n_copied(), 0u);
  EXPECT_LT(mirror.n_copied(), n_written);
  models.clear();
  EXPECT_EQ(slots->n_free(), 200u);
}

}  // namespace
}  // namespace strata::index
