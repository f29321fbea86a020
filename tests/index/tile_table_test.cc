// Index rows of sequences that fork, are cut and grow again, against a plain copy of what each
// holds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

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

TEST(TileTable, RandomForksCutsAndAppendsKeepEveryRow) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const auto slots = memory(200);
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
        if (model.table->n_blocks() < 6 * kSlotBlocks)
          append(model, 1 + static_cast<uint32_t>(random() % 150), random);
    }
    for (const Model& each : models) expect_values(each);
  }
  models.clear();
  EXPECT_EQ(slots->n_free(), 200u);
}

}  // namespace
}  // namespace strata::index
