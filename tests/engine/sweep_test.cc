// A prompt whose K and V lie on disk: each chunk reads every extent that DRAM lacks once, however
// many rows attend it.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <numeric>
#include <thread>

#include "engine/kv_placement.h"
#include "tests/engine/cached_run.h"
#include "tests/engine/selected_walk.h"
#include "tests/engine/zoo_fixture.h"
#include "tests/tiers/simulated_spill.h"

namespace strata::engine {
namespace {

using testing::CachedRun;
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

/// Feeds a text by chunks, each of which reads what was away before it, and what left DRAM to make
/// room for it, once. Returns how many extents of a layer each chunk read.
std::vector<uint64_t> expect_one_sweep_each(ZooWalk& walk, Sequence& sequence,
                                            std::span<const int32_t> text) {
  std::vector<uint64_t> n_swept;
  for (std::span<const int32_t> rest = text; !rest.empty();) {
    const auto chunk = rest.first(std::min<size_t>(rest.size(), kSweptRows));
    const tiers::StoreCounts before = walk.cache().store().counts();
    const uint64_t n_away_before = n_away(walk.cache(), sequence);
    walk.feed(sequence, chunk);
    const tiers::StoreCounts& after = walk.cache().store().counts();
    // Room for the chunk is made before it reads.
    const uint64_t n_evicted = after.extents_evicted - before.extents_evicted;
    n_swept.push_back(after.extents_read - before.extents_read);
    EXPECT_EQ(n_swept.back(), n_away_before + n_evicted) << "at " << sequence.n_pos();
    rest = rest.subspan(chunk.size());
  }
  return n_swept;
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
  const auto swept = expect_one_sweep_each(walk, sequence, text);
  EXPECT_GT(std::accumulate(swept.begin(), swept.end(), uint64_t{0}), n_least);
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

constexpr uint32_t kSavedPositions = 6 * kExtentPositions;

/// What a new run reads of a saved text, by chunks of more text behind it.
struct RestoredSweep {
  uint32_t dram_positions = 0;  // that DRAM holds; 0 = all
  bool has_spill = false;
  uint32_t n_threads = 2;
  std::string member = "llama3";

  std::vector<uint64_t> run() const {
    const LoadedMember loaded(member);
    const testing::TestFolder folder;
    const auto text = loaded.text(kSavedPositions + 3 * kSweptRows, 20261130);
    testing::save_text(loaded, folder, {text.begin(), text.begin() + kSavedPositions});
    WalkSetting setting = testing::cached_setting();
    setting.n_threads = n_threads;
    setting.chunk_rows = kSweptRows;
    if (dram_positions > 0)
      setting.kv_dram_bytes =
          kv_bytes_for_context(loaded.model.shape(), setting.k_codec, setting.v_codec,
                               dram_positions, setting.chunk_rows);
    ZooWalk walk(loaded.model, setting, spill(loaded, folder));
    ContextCache contexts({.directory = folder.path("contexts"), .limits = {}, .saves = false},
                          walk.cache(), testing::kCachedModel, "test");
    Sequence sequence = contexts.restore(walk.cache(), std::span(text).first(kSavedPositions));
    EXPECT_EQ(sequence.n_pos(), kSavedPositions);
    EXPECT_EQ(n_away(walk.cache(), sequence), n_saved(loaded));
    return expect_one_sweep_each(walk, sequence, std::span(text).subspan(kSavedPositions));
  }
  /// Extents of the full layers of the saved text.
  static uint64_t n_saved(const LoadedMember& loaded) {
    const auto& layers = loaded.model.shape().layers;
    return kSavedPositions / kExtentPositions *
           static_cast<uint64_t>(std::ranges::count(layers, LayerKind::kFull, &LayerShape::kind));
  }

 private:
  std::unique_ptr<tiers::Spill> spill(const LoadedMember& loaded,
                                      const testing::TestFolder& folder) const {
    if (!has_spill) return CachedRun::transfers(loaded);
    const uint64_t place = place_bytes(loaded.model.shape(), {});
    std::vector<std::string> notices;
    return tiers::open_spill({.directory = folder.path("spill"),
                              .budget_bytes = 512 * place,
                              .place_bytes = place,
                              .n_frames = 16,
                              .io = tiers::IoChoice::kThreads},
                             notices);
  }
};

/// They are read by the first chunk, and stay.
TEST(Sweep, OfARestoredContextThatDramHasRoomFor) {
  for (const char* member : {"llama3", "gemma3"}) {
    const LoadedMember loaded(member);
    EXPECT_EQ(RestoredSweep{.member = member}.run(),
              (std::vector<uint64_t>{RestoredSweep::n_saved(loaded), 0, 0}));
  }
}

/// Every chunk reads what DRAM lacks once, of packs as of a spill file.
TEST(Sweep, OfARestoredContextThatDramHasNoRoomFor) {
  const LoadedMember loaded("llama3");
  const uint64_t n = RestoredSweep::n_saved(loaded);
  for (const uint32_t n_threads : {1u, 2u}) {
    const RestoredSweep without{.dram_positions = 3 * kSweptRows + 300, .n_threads = n_threads};
    const auto of_packs = without.run();
    ASSERT_EQ(of_packs.size(), 3u);
    EXPECT_EQ(of_packs.front(), n);
    EXPECT_GT(of_packs.back(), 0u);  // less what found room and stayed
    RestoredSweep with = without;
    with.dram_positions = kSweptRows + 600;
    with.has_spill = true;
    const auto swept = with.run();
    ASSERT_EQ(swept.size(), 3u);
    EXPECT_GE(swept.front(), n);
    EXPECT_GT(swept.back(), n);  // those of the chunks before as well
  }
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
