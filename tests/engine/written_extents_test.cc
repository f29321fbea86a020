// What a chunk closes of a model with small extents, that of SmolLM2 135M in q8_0: 3 KV heads of 64
// dimensions in 8 blocks of 4,352 bytes, padded to 104 KiB.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/kv_placement.h"
#include "tests/engine/mebibyte.h"
#include "tests/tiers/block_fixture.h"
#include "tests/tiers/simulated_spill.h"

namespace strata::engine {
namespace {

using tiers::testing::fill_block;
using tiers::testing::holds_serial;
using tiers::testing::make_simulated_spill;
using tiers::testing::SimulatedSpill;

constexpr uint32_t kWrittenLayers = 5;
constexpr uint32_t kWrittenHeads = 3;
constexpr uint64_t kWrittenPlaceBytes = uint64_t{104} << 10;

ModelShape small_extents_shape() {
  ModelShape shape{.architecture = "llama",
                   .n_layers = kWrittenLayers,
                   .d_model = 576,
                   .head_dim = 64,
                   .vocab_size = 10,
                   .n_ctx_train = 1u << 16,
                   .layers = {}};
  for (uint32_t i = 0; i < kWrittenLayers; ++i)
    shape.layers.push_back({.n_heads = 9, .n_kv_heads = kWrittenHeads, .d_ff = 16});
  return shape;
}

struct WrittenText {
  explicit WrittenText(uint32_t chunk_rows, const tiers::SimulatedDisk& disk = {},
                       uint32_t n_frames = 64)
      : made(make_simulated_spill(disk, kWrittenPlaceBytes, 400, n_frames)),
        cache(small_extents_shape(),
              {.k_codec = KvCodec::kQ8_0,
               .v_codec = KvCodec::kQ8_0,
               .budget_bytes = 64 * kMiB,
               .chunk_rows = chunk_rows},
              std::move(made.spill)),
        sequence(cache.make_sequence()) {}

  static uint64_t serial(uint32_t layer, uint32_t head, uint32_t pos) {
    return (uint64_t{layer} * kWrittenHeads + head) << 32 | pos;
  }
  void append(uint32_t n_rows) {
    const uint32_t begin = sequence.n_pos();
    cache.open_rows(sequence, n_rows);
    for (uint32_t layer = 0; layer < kWrittenLayers; ++layer)
      for (uint32_t head = 0; head < kWrittenHeads; ++head)
        for (uint32_t pos = begin / kBlockPositions * kBlockPositions; pos < begin + n_rows;
             pos += kBlockPositions)
          fill_block(cache.open_block(sequence, layer, head, pos), cache.layout().block_bytes,
                     serial(layer, head, pos));
    cache.store().begin_step();
    cache.close_rows(sequence, std::vector<int32_t>(n_rows, 1));
  }
  void settle() {
    while (cache.store().wait_for_transfer()) continue;
  }
  /// Puts out of DRAM what can be, reads every extent back, and counts the blocks that are right.
  uint64_t n_right() {
    settle();
    (void)cache.store().make_room(cache.pool().n_slots());
    uint64_t n = 0;
    for (uint32_t first = 0; first + kExtentPositions <= sequence.n_pos();
         first += kExtentPositions)
      for (uint32_t layer = 0; layer < kWrittenLayers; ++layer) {
        const ExtentBytes held = cache.hold_extent(sequence, layer, first, kExtentBlocks);
        for (uint32_t i = 0; i < held.blocks.size(); ++i) {
          const uint32_t pos = first + i % kExtentBlocks * kBlockPositions;
          if (holds_serial(held.blocks[i], cache.layout().block_bytes,
                           serial(layer, i / kExtentBlocks, pos)))
            ++n;
        }
        cache.release_extent(held);
      }
    return n;
  }
  static uint64_t n_blocks(uint32_t n_extents) {
    return uint64_t{n_extents} * kWrittenLayers * kWrittenHeads * kExtentBlocks;
  }
  const tiers::TransferCounts& moved() const { return cache.store().transfers()->counts(); }

  SimulatedSpill made;
  KvCache cache;
  Sequence sequence;
};

TEST(WrittenExtents, APlaceIsThatOfTheModel) {
  KvContext context;
  context.k_codec = context.v_codec = KvCodec::kQ8_0;
  EXPECT_EQ(place_bytes(small_extents_shape(), context), kWrittenPlaceBytes);
  EXPECT_LT(kWrittenPlaceBytes, tiers::kSmallTransferBytes);
}

TEST(WrittenExtents, AChunkWritesThoseOfALayerTogether) {
  struct Row {
    uint32_t chunk_rows, n_closed, n_requests;  // of a layer
  };
  for (const Row row : {Row{512, 2, 1}, Row{1024, 4, 1}, Row{1280, 5, 2}, Row{2048, 8, 2}}) {
    SCOPED_TRACE(row.chunk_rows);
    WrittenText at(row.chunk_rows);
    for (uint32_t chunk = 1; chunk <= 2; ++chunk) {
      at.append(row.chunk_rows);
      EXPECT_EQ(at.made.disk->n_submitted(), uint64_t{chunk} * kWrittenLayers * row.n_requests)
          << "all of them, at the end of the step";
      at.settle();
      EXPECT_EQ(at.moved().writes, uint64_t{chunk} * kWrittenLayers * row.n_closed);
      EXPECT_LE(at.moved().requests, at.moved().writes / 2);
      EXPECT_GE(at.moved().written_bytes / at.moved().requests, tiers::kSmallTransferBytes);
    }
    EXPECT_EQ(at.n_right(), WrittenText::n_blocks(2 * row.n_closed));
    EXPECT_EQ(at.cache.store().counts().extents_read, 2u * kWrittenLayers * row.n_closed);
  }
}

/// A chunk that does not end with an extent leaves rows behind, which the next one closes.
TEST(WrittenExtents, ChunksMayEndAnywhere) {
  WrittenText at(600);
  for (int i = 0; i < 5; ++i) at.append(600);  // 2, 2, 3, 2 and 2 extents
  at.settle();
  EXPECT_EQ(at.moved().writes, 11u * kWrittenLayers);
  EXPECT_EQ(at.moved().requests, 5u * kWrittenLayers);
  EXPECT_EQ(at.n_right(), WrittenText::n_blocks(11));
}

/// Decoding closes one extent of each layer: those are far apart in the file.
TEST(WrittenExtents, ASingleExtentOfEachLayerIsWrittenAloneAtTheEndOfItsStep) {
  WrittenText at(256);
  at.append(255);
  EXPECT_EQ(at.moved().requests, 0u);
  at.append(1);
  EXPECT_EQ(at.made.disk->n_submitted(), kWrittenLayers);
  EXPECT_EQ(at.n_right(), WrittenText::n_blocks(1));
}

/// A wait for frames that somebody stops: what was frozen is on its way, and the next step freezes
/// the rest, each extent once.
TEST(WrittenExtents, AStoppedStepIsFrozenByTheNextOne) {
  WrittenText at(512, {.latency = std::chrono::milliseconds(50)}, 6);
  const std::atomic<bool> stopped = true;
  at.cache.store().set_cancel(&stopped);
  at.append(512);  // ten extents and six frames
  EXPECT_EQ(at.sequence.n_pos(), 512u);
  EXPECT_EQ(at.made.disk->n_submitted(), 3u);
  at.cache.store().set_cancel(nullptr);
  at.append(512);
  at.settle();
  EXPECT_EQ(at.cache.store().counts().extents_written, 4u * kWrittenLayers);
  EXPECT_EQ(at.moved().written_bytes, 4u * kWrittenLayers * kWrittenPlaceBytes);
  EXPECT_EQ(at.cache.store().counts().frames_refused, 0u);
  EXPECT_LE(at.moved().requests, at.moved().writes / 2);
  EXPECT_EQ(at.n_right(), WrittenText::n_blocks(4));
}

/// What fails stays in DRAM; nothing is lost.
TEST(WrittenExtents, AFailedRequestKeepsItsExtentsInDram) {
  for (const auto fault : {tiers::FaultKind::kWriteError, tiers::FaultKind::kNoSpace,
                           tiers::FaultKind::kHangThenMove}) {
    SCOPED_TRACE(tiers::fault_kind_name(fault));
    WrittenText at(512);
    at.made.disk->fail_nth(2, fault);
    at.append(512);
    EXPECT_EQ(at.n_right(), WrittenText::n_blocks(2));
    EXPECT_EQ(at.cache.store().counts().write_failures, 2u);
    EXPECT_EQ(at.cache.store().counts().extents_read, 2u * (kWrittenLayers - 1));
    for (const uint32_t pos : {0u, 256u})
      EXPECT_TRUE(at.cache.store().is_resident(at.cache.block_id(at.sequence, 2, 0, pos)));
    EXPECT_EQ(at.made.places->n_taken(), fault == tiers::FaultKind::kNoSpace
                                             ? 2u * (kWrittenLayers - 1)
                                             : 2u * kWrittenLayers);
  }
}

}  // namespace
}  // namespace strata::engine
