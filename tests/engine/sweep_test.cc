// A prompt whose K and V lie on disk: each chunk reads every extent that DRAM lacks once, however
// many rows attend it.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <thread>

#include "engine/kv_placement.h"
#include "tests/engine/selected_walk.h"
#include "tests/engine/zoo_fixture.h"
#include "tests/tiers/simulated_spill.h"

namespace strata::engine {
namespace {

using testing::LoadedMember;
using testing::WalkSetting;
using testing::ZooWalk;

constexpr uint32_t kSweptRows = 384;  // rows of several spans, and tiles of several rows

/// Extents of a sequence, one for each full layer, that no slot holds.
uint64_t n_away(const KvCache& cache, const Sequence& sequence) {
  uint64_t n = 0;
  for (uint32_t layer = 0; layer < cache.shape().n_layers; ++layer) {
    if (cache.shape().layers[layer].kind != LayerKind::kFull) continue;
    for (uint32_t pos = 0; pos + kExtentPositions <= sequence.n_pos(); pos += kExtentPositions)
      if (!cache.store().is_resident(cache.block_id(sequence, layer, 0, pos))) ++n;
  }
  return n;
}

/// Returns what the disk's clock says of the text; computing takes none of its time.
std::chrono::nanoseconds expect_one_sweep_a_chunk(const LoadedMember& member, WalkSetting setting,
                                                  uint64_t n_least, bool reads_ahead = true) {
  setting.kernels = cpu_attn::available_kernels().back();
  setting.chunk_rows = kSweptRows;
  setting.n_ctx = 4096;
  setting.kv_dram_bytes = kv_bytes_for_context(member.model.shape(), setting.k_codec,
                                               setting.v_codec, kSweptRows + 600, kSweptRows);
  const auto layout =
      KvLayout::make(setting.k_codec, setting.v_codec, member.model.shape().head_dim);
  const uint64_t place_bytes =
      uint64_t{member.model.shape().layers.front().n_kv_heads} * kExtentBlocks * layout.block_bytes;
  auto spill = tiers::testing::make_simulated_spill(
      {},
      (place_bytes + tiers::kPlaceAlignment - 1) / tiers::kPlaceAlignment * tiers::kPlaceAlignment,
      4096, 24);
  ZooWalk walk(member.model, setting, std::move(spill.spill));
  walk.walk().set_reads_ahead(reads_ahead);
  Sequence sequence = walk.sequence();
  const auto text = member.text(3500, 20261128);
  uint64_t n_swept = 0;
  for (std::span<const int32_t> rest = text; !rest.empty();) {
    const auto chunk = rest.first(std::min<size_t>(rest.size(), kSweptRows));
    const tiers::StoreCounts before = walk.cache().store().counts();
    const uint64_t n_away_before = n_away(walk.cache(), sequence);
    walk.feed(sequence, chunk);
    const tiers::StoreCounts& after = walk.cache().store().counts();
    // Room for the chunk is made before it reads.
    const uint64_t n_evicted = after.extents_evicted - before.extents_evicted;
    EXPECT_EQ(after.extents_read - before.extents_read, n_away_before + n_evicted)
        << "at " << sequence.n_pos();
    n_swept += after.extents_read - before.extents_read;
    rest = rest.subspan(chunk.size());
  }
  EXPECT_GT(n_swept, n_least);
  return spill.disk->now();
}

TEST(Sweep, AChunkReadsWhatDramLacksOnce) {
  const LoadedMember member("llama3");
  WalkSetting setting;
  expect_one_sweep_a_chunk(member, setting, 100);
  setting.n_threads = 2;
  expect_one_sweep_a_chunk(member, setting, 100);
}

/// The next wave is on its way while one is attended.
TEST(Sweep, ReadAheadTakesLessOfTheDisksTime) {
  const LoadedMember member("llama3");
  const auto ahead = expect_one_sweep_a_chunk(member, {}, 100);
  EXPECT_LT(ahead, expect_one_sweep_a_chunk(member, {}, 100, false));
}

TEST(Sweep, AlsoInQ8) {
  const LoadedMember member("llama3");
  expect_one_sweep_a_chunk(member, {.k_codec = KvCodec::kQ8_0, .v_codec = KvCodec::kQ8_0}, 20);
}

TEST(Sweep, AlsoWhereLayersHaveWindows) {
  const LoadedMember member("gemma3");
  expect_one_sweep_a_chunk(member, {}, 20);
}

/// A server reads on a thread of its own and ends on another one.
TEST(Sweep, AWalkMayEndOnAnotherThread) {
  const LoadedMember member("llama3");
  testing::SelectedSetting setting{.method = index::Method::kMean, .place = testing::Place::kUring};
  auto walk = std::make_unique<testing::SelectedWalk>(member.model, setting);
  if (!walk->is_there()) GTEST_SKIP() << "no io_uring here";
  const auto text = member.text(1500, 20261129);
  std::thread([&] { walk->feed_all(text); }).join();
  walk.reset();
}

}  // namespace
}  // namespace strata::engine
