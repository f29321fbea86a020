// KV that spills to a disk: the same bits as with everything in DRAM (law L1), and what a disk
// that lies, fails or hangs does to a run.
#include <gtest/gtest.h>

#include <random>

#include "engine/kv_placement.h"
#include "tests/engine/zoo_fixture.h"
#include "tests/tiers/simulated_spill.h"
#include "tests/tiers/stops_at.h"

namespace strata::engine {
namespace {

using testing::is_same;
using testing::LoadedMember;
using testing::Logits;
using testing::random_tokens;
using testing::WalkSetting;
using testing::ZooWalk;
using tiers::SimulatedDisk;

constexpr uint32_t kSpillSeed = 20261125;
constexpr uint32_t kSpillFrames = 48;

uint64_t place_bytes(const ModelShape& shape, const WalkSetting& setting) {
  uint64_t n_kv_heads = 0;
  for (const LayerShape& layer : shape.layers)
    n_kv_heads = std::max<uint64_t>(n_kv_heads, layer.n_kv_heads);
  const auto layout = KvLayout::make(setting.k_codec, setting.v_codec, shape.head_dim);
  const uint64_t bytes = n_kv_heads * kExtentBlocks * layout.block_bytes;
  return (bytes + tiers::kPlaceAlignment - 1) / tiers::kPlaceAlignment * tiers::kPlaceAlignment;
}

/// A DRAM budget that holds n_positions of every full layer, beside all of the windowed ones.
WalkSetting small_dram(const LoadedMember& of, WalkSetting setting, uint64_t n_positions) {
  setting.kv_dram_bytes = kv_bytes_for_context(of.model.shape(), setting.k_codec, setting.v_codec,
                                               n_positions, setting.chunk_rows);
  return setting;
}

WalkSetting drawn_setting(std::mt19937_64& random) {
  WalkSetting setting;
  setting.kernels = cpu_attn::available_kernels().back();
  setting.n_threads = 1 + static_cast<uint32_t>(random() % 2);
  setting.chunk_rows = std::array{1u, 32u, 64u, 200u, 512u}[random() % 5];
  setting.n_ctx = 2048;
  return setting;
}

TEST(Spill, PlacementChangesNoBit) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const makers::ZooMember* listed : testing::walked_members(random)) {
    SCOPED_TRACE(listed->model.name);
    const LoadedMember member(listed->model.name);
    WalkSetting setting = drawn_setting(random);
    setting.chunk_rows = std::max(setting.chunk_rows, 32u);
    const auto text = random_tokens(1500 + static_cast<uint32_t>(random() % 400),
                                    listed->model.vocab_size, static_cast<uint32_t>(random()));
    ZooWalk whole(member.model, setting);
    const Logits expected = whole.feed_all(text);
    WalkSetting spilling = drawn_setting(random);
    spilling.chunk_rows = std::max(spilling.chunk_rows, 32u);
    spilling = small_dram(member, spilling, spilling.chunk_rows + 420 + random() % 256);
    auto spill = tiers::testing::make_simulated_spill(
        {.seed = random(), .latency_spread = std::chrono::microseconds(200)},
        place_bytes(member.model.shape(), spilling), 4096, kSpillFrames);
    ZooWalk away(member.model, spilling, std::move(spill.spill));
    EXPECT_TRUE(is_same(away.feed_all(text), expected));
    // Windowed layers leave room that they do not always need.
    const auto& layers = member.model.shape().layers;
    if (std::ranges::none_of(layers, [](const LayerShape& of) { return of.window > 0; })) {
      EXPECT_GT(away.cache().store().counts().extents_read, 0u);
    }
  }
}

/// A member of full layers, its text, and the logits of a run that has everything in DRAM.
class FaultySpill : public ::testing::Test {
 protected:
  FaultySpill() : member_("llama3") {}

  WalkSetting setting(uint32_t chunk_rows) const {
    WalkSetting setting;
    setting.kernels = cpu_attn::available_kernels().back();
    setting.n_threads = 2;
    setting.chunk_rows = chunk_rows;
    setting.n_ctx = 2048;
    return setting;
  }
  std::vector<int32_t> text(uint32_t n) const {
    return random_tokens(n, member_.member.model.vocab_size, kSpillSeed);
  }
  Logits expected(std::span<const int32_t> text) const {
    return ZooWalk(member_.model, setting(512)).feed_all(text);
  }

  LoadedMember member_;
};

TEST_F(FaultySpill, AThousandFaultsChangeNoBit) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const auto all = text(1700);
  const Logits whole = expected(all);
  uint64_t n_faults = 0, n_corrupt = 0, n_lost = 0, n_replaced = 0;
  while (n_faults < 1000) {
    const WalkSetting small = small_dram(member_, setting(16u << random() % 4), 1000);
    auto spill = tiers::testing::make_simulated_spill(tiers::testing::faulty_disk(random()),
                                                      place_bytes(member_.model.shape(), small),
                                                      4096, kSpillFrames);
    ZooWalk away(member_.model, small, std::move(spill.spill));
    ASSERT_TRUE(is_same(away.feed_all(all), whole));
    const auto& counts = away.cache().store().counts();
    // Steps that were undone hold no frame: what is not lost to a hang is free again.
    tiers::BlockStore& store = away.cache().store();
    while (store.wait_for_transfer()) continue;
    ASSERT_EQ(store.transfers()->n_free() + store.transfers()->n_quarantined(), kSpillFrames);
    n_faults += spill.disk->injected_total();
    n_corrupt += counts.corrupt_blocks;
    n_lost += counts.lost_extents;
    n_replaced += counts.replaced_blocks;
  }
  EXPECT_GT(n_corrupt, 0u);
  EXPECT_GT(n_lost, 0u);
  // All blocks of what was lost, and those of other layers that the same rows gave.
  EXPECT_GE(n_replaced, n_lost * kExtentBlocks * member_.model.shape().layers.front().n_kv_heads);
  std::printf("%lu faults, %lu corrupt blocks, %lu extents lost, %lu blocks computed again\n",
              static_cast<unsigned long>(n_faults), static_cast<unsigned long>(n_corrupt),
              static_cast<unsigned long>(n_lost), static_cast<unsigned long>(n_replaced));
}

/// Disks as different as they come: at every step the same blocks are in DRAM.
TEST_F(FaultySpill, ResidencyFollowsFromTheStepsAlone) {
  const auto all = text(1900);
  const WalkSetting small = small_dram(member_, setting(128), 1000);
  const auto residents_on = [&](const SimulatedDisk& disk) {
    auto spill = tiers::testing::make_simulated_spill(
        disk, place_bytes(member_.model.shape(), small), 4096, kSpillFrames);
    ZooWalk away(member_.model, small, std::move(spill.spill));
    Sequence sequence = away.sequence();
    std::vector<bool> residents;
    for (uint32_t pos = 0; pos < all.size(); pos += 100) {
      away.feed(sequence, std::span(all).subspan(pos, 100));
      for (uint32_t layer = 0; layer < member_.model.shape().n_layers; ++layer)
        for (uint32_t at = 0; at < sequence.n_pos(); at += kBlockPositions)
          residents.push_back(
              away.cache().store().is_resident(away.cache().block_id(sequence, layer, 0, at)));
    }
    EXPECT_GT(away.cache().store().counts().extents_evicted, 10u);
    EXPECT_GT(away.cache().store().counts().extents_read, 10u);
    return residents;
  };
  const auto quick = residents_on({.latency = std::chrono::nanoseconds(1)});
  EXPECT_EQ(quick, residents_on({.seed = 1,
                                 .latency = std::chrono::milliseconds(20),
                                 .latency_spread = std::chrono::milliseconds(200)}));
  EXPECT_EQ(quick,
            residents_on({.seed = 2,
                          .latency_spread = std::chrono::milliseconds(5),
                          .faults = {.short_read = 0.3, .short_write = 0.3, .stall = 0.02}}));
}

/// What closes is written while the next chunk is computed: no step waits for it.
TEST_F(FaultySpill, WritesAreOnTheirWayWhileTheNextChunkIsComputed) {
  const auto all = text(6 * kExtentPositions);
  const WalkSetting roomy = small_dram(member_, setting(kExtentPositions), 2048);
  auto spill =
      tiers::testing::make_simulated_spill({.latency = std::chrono::milliseconds(5)},
                                           place_bytes(member_.model.shape(), roomy), 4096, 96);
  ZooWalk away(member_.model, roomy, std::move(spill.spill));
  tiers::BlockStore& store = away.cache().store();
  Sequence sequence = away.sequence();
  for (uint32_t pos = 0; pos < all.size(); pos += kExtentPositions) {
    away.feed(sequence, std::span(all).subspan(pos, kExtentPositions));
    EXPECT_GT(store.transfers()->io().in_flight(), 0u) << "at " << sequence.n_pos();
  }
  EXPECT_EQ(store.transfer_counts().stalls, 0u);
  while (store.wait_for_transfer()) continue;
  EXPECT_EQ(store.transfer_counts().writes, 6 * member_.model.shape().n_layers);
}

/// Ctrl-C while the disk does not answer: the step ends long before the deadline of 10 s, and can
/// be run again.
TEST_F(FaultySpill, AStepThatWaitsForTheDiskIsStopped) {
  const auto all = text(1500);
  const WalkSetting small = small_dram(member_, setting(64), 700);
  const uint64_t place = place_bytes(member_.model.shape(), small);
  auto made = std::make_unique<tiers::SimulatedIo>(SimulatedDisk{});
  tiers::SimulatedIo& disk = *made;
  auto spill = std::make_unique<tiers::Spill>();
  spill->places = std::make_unique<tiers::testing::CountedPlaces>(place, 4096);
  spill->file = disk.add_memory_file(place);
  auto io = std::make_unique<tiers::testing::StopsAt>(std::move(made));
  tiers::testing::StopsAt& stop = *io;
  spill->transfers = std::make_unique<tiers::TransferQueue>(
      std::move(io), tiers::TransferOptions{.frame_bytes = place, .n_frames = kSpillFrames});
  ZooWalk away(member_.model, small, std::move(spill));
  Sequence sequence = away.sequence();
  Logits logits = away.feed(sequence, std::span(all).first(1400));
  for (uint64_t i = 0; i < 8; ++i) disk.fail_nth(disk.n_submitted() + i, tiers::FaultKind::kHang);
  const auto start = disk.now();
  stop.stop_at(start + std::chrono::seconds(2));
  away.walk().set_cancel(&stop.flag());
  try {
    away.feed(sequence, std::span(all).subspan(1400));
    ADD_FAILURE() << "was not stopped";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
  EXPECT_GE(disk.now() - start, std::chrono::seconds(2));
  EXPECT_LT(disk.now() - start, std::chrono::seconds(3));
  stop.stop_at(std::chrono::nanoseconds::max());
  stop.flag() = false;
  const Logits rest = away.feed(sequence, std::span(all).subspan(sequence.n_pos()));
  logits.resize(all.size() - rest.size());
  logits.insert(logits.end(), rest.begin(), rest.end());
  EXPECT_TRUE(is_same(logits, expected(all)));
}

/// Windowed layers hold no row before a lost extent, so all before it is computed again: within the
/// memory and the places that the context has.
TEST(Spill, AnExtentLostLateIsComputedAgainBesideWindowedLayers) {
  const LoadedMember member("gemma3");
  WalkSetting setting;
  setting.kernels = cpu_attn::available_kernels().back();
  setting.n_threads = 2;
  setting.chunk_rows = 512;
  setting.n_ctx = 3072;
  const auto text = random_tokens(3000, member.member.model.vocab_size, kSpillSeed);
  ZooWalk in_dram(member.model, setting);
  Sequence held = in_dram.sequence();
  const Logits whole = in_dram.feed(held, text);
  const ModelShape& shape = member.model.shape();
  const KvContext context{.n_ctx = setting.n_ctx, .chunk_rows = setting.chunk_rows};
  const KvPlacement placement =
      place_spilling(shape, context, smallest_spilling_dram(shape, context));
  WalkSetting small = setting;
  small.kv_dram_bytes = placement.slot_bytes;
  const auto n_places = static_cast<uint32_t>(placement.nvme_bytes / placement.place_bytes);
  auto spill = tiers::testing::make_simulated_spill({.seed = kSpillSeed}, placement.place_bytes,
                                                    n_places, placement.n_frames);
  const tiers::IoFile file = spill.spill->file;
  ZooWalk walk(member.model, small, std::move(spill.spill));
  Sequence sequence = walk.sequence();
  walk.feed(sequence, std::span(text).first(2900));
  (void)walk.cache().store().make_room(walk.cache().pool().n_slots());  // all that can leave
  // An extent of the full layer, so early that windowed layers hold nothing of it.
  constexpr uint32_t kFullLayer = 5, kFirstPos = 7 * kExtentPositions;
  ASSERT_EQ(walk.cache().block_id(sequence, 0, 0, kFirstPos), tiers::kNoBlock);
  ASSERT_FALSE(
      walk.cache().store().is_resident(walk.cache().block_id(sequence, kFullLayer, 0, kFirstPos)));
  const std::span block(in_dram.cache().block(held, kFullLayer, 0, kFirstPos),
                        in_dram.cache().layout().block_bytes);
  uint32_t n_damaged = 0;
  for (const uint64_t place : spill.places->taken()) {
    const auto bytes = spill.disk->medium(file).subspan(place, placement.place_bytes);
    if (!std::ranges::equal(bytes.first(block.size()), block)) continue;
    for (std::byte& byte : bytes) byte ^= std::byte{1};
    ++n_damaged;
  }
  ASSERT_EQ(n_damaged, 1u);
  const Logits rest = walk.feed(sequence, std::span(text).subspan(2900));
  EXPECT_TRUE(is_same(rest, Logits(whole.begin() + 2900, whole.end())));
  const tiers::StoreCounts& counts = walk.cache().store().counts();
  EXPECT_EQ(counts.lost_extents, 1u);
  EXPECT_EQ(counts.places_refused, 0u);
}

}  // namespace
}  // namespace strata::engine
