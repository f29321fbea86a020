// A restored context that DRAM has room for is read once, in the order of its files as far as the
// layers allow, and has the bits of a context that was computed.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/engine/cached_run.h"
#include "tests/engine/scripted_io.h"

namespace strata::engine {
namespace {

using testing::cached_setting;
using testing::CachedRun;
using testing::IoScript;
using testing::is_same;
using testing::kCachedModel;
using testing::kCachedSeed;
using testing::LoadedMember;
using testing::Logits;
using testing::ScriptedIo;
using testing::TestFolder;
using testing::WalkSetting;
using testing::ZooWalk;

constexpr uint32_t kSaved = 5120;  // two packs, of 16 and 4 extents
constexpr uint32_t kFrames = 6;
constexpr uint32_t kLent = 9;
constexpr uint64_t kFrameBytes = uint64_t{1} << 20;  // of them two make a stretch: runs of 2 layers

std::unique_ptr<tiers::Spill> scripted_transfers(const std::shared_ptr<IoScript>& script,
                                                 uint32_t n_lent = 0) {
  auto spill = std::make_unique<tiers::Spill>();
  spill->transfers = std::make_unique<tiers::TransferQueue>(
      std::make_unique<ScriptedIo>(script, kFrames / 2),
      tiers::TransferOptions{.frame_bytes = kFrameBytes,
                             .n_frames = kFrames,
                             .n_lent = n_lent,
                             .join_bytes = n_lent > 0 ? kFrameBytes : 0});
  return spill;
}

TEST(WalkSettle, ReadsRunsOfLayersInTheOrderOfTheFilesAndOnce) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(kSaved + 40, kCachedSeed);
  const auto saved = std::span(text).first(kSaved);
  const auto rest = std::span(text).subspan(kSaved);
  testing::save_text(member, folder, {saved.begin(), saved.end()});
  Logits expected;
  {
    ZooWalk whole(member.model, cached_setting());
    Sequence sequence = whole.sequence();
    whole.feed(sequence, saved);
    expected = whole.feed(sequence, rest);
  }
  const auto script = std::make_shared<IoScript>();
  ZooWalk walk(member.model, cached_setting(), scripted_transfers(script));
  ContextCache contexts({.directory = folder.path("contexts"), .limits = {}, .saves = false},
                        walk.cache(), kCachedModel, "test");
  Sequence sequence = contexts.restore(walk.cache(), saved);
  ASSERT_EQ(sequence.n_pos(), kSaved);
  const uint32_t n_layers = member.model.shape().n_layers;
  ASSERT_GT(n_layers, 2u);
  script->places.clear();
  EXPECT_TRUE(is_same(walk.feed(sequence, rest), expected));

  // What follows the first step reads nothing: all of it has stayed.
  ASSERT_EQ(script->places.size(), kSaved / kExtentPositions * n_layers);
  EXPECT_FALSE(walk.cache().store().has_away());
  const uint64_t region = place_bytes(member.model.shape(), {.n_ctx = 8192, .chunk_rows = 128});
  const auto rank = [&](const std::pair<uint32_t, uint64_t>& place) {
    const uint64_t layer = place.second / region % n_layers;
    return std::tuple(layer / 2, place.first, place.second);
  };
  EXPECT_TRUE(std::ranges::is_sorted(script->places, {}, rank));
}

/// Nothing is copied, and neighbouring layers of an extent are one request.
TEST(WalkSettle, ReadsWholeStretchesIntoTheSlotsTheyStayIn) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(kSaved + 40, kCachedSeed);
  const auto saved = std::span(text).first(kSaved);
  const auto rest = std::span(text).subspan(kSaved);
  testing::save_text(member, folder, {saved.begin(), saved.end()});
  const auto script = std::make_shared<IoScript>();
  ZooWalk walk(member.model, cached_setting(), scripted_transfers(script, kLent));
  ContextCache contexts({.directory = folder.path("contexts"), .limits = {}, .saves = false},
                        walk.cache(), kCachedModel, "test");
  Sequence sequence = contexts.restore(walk.cache(), saved);
  ASSERT_EQ(sequence.n_pos(), kSaved);
  script->places.clear();
  const Logits logits = walk.feed(sequence, rest);
  ZooWalk whole(member.model, cached_setting());
  Sequence other = whole.sequence();
  whole.feed(other, saved);
  EXPECT_TRUE(is_same(logits, whole.feed(other, rest)));
  const tiers::StoreCounts& counts = walk.cache().store().counts();
  const uint32_t n_layers = member.model.shape().n_layers;
  EXPECT_EQ(counts.extents_in_place, kSaved / kExtentPositions * n_layers);
  EXPECT_EQ(counts.extents_settled, counts.extents_in_place);
  EXPECT_FALSE(walk.cache().store().has_away());
  // By two layers at a time, and where their number is odd the last is alone.
  EXPECT_EQ(script->places.size(), kSaved / kExtentPositions * ((n_layers + 1) / 2));
}

TEST(WalkSettle, AStepThatIsStoppedBetweenItsReadsHoldsNoFrameAndRunsAgain) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(2600, kCachedSeed);
  testing::save_text(member, folder, text);
  for (const uint32_t n_lent : {0u, kLent}) {
    SCOPED_TRACE(n_lent);
    const auto script = std::make_shared<IoScript>();
    ZooWalk walk(member.model, cached_setting(), scripted_transfers(script, n_lent));
    ContextCache contexts({.directory = folder.path("contexts"), .limits = {}, .saves = false},
                          walk.cache(), kCachedModel, "test");
    Sequence sequence = contexts.restore(walk.cache(), std::span(text).first(2560));
    ASSERT_EQ(sequence.n_pos(), 2560u);
    std::atomic<bool> cancel = false;
    walk.walk().set_cancel(&cancel);
    uint32_t n_operations = 0;
    walk.walk().set_between_operations([&] { cancel = ++n_operations == 4; });
    EXPECT_THROW(walk.feed(sequence, std::span(text).subspan(2560)), Error);
    walk.walk().set_between_operations({});
    cancel = false;
    tiers::BlockStore& store = walk.cache().store();
    while (store.wait_for_transfer()) continue;
    EXPECT_EQ(store.transfers()->n_free(), kFrames);
    EXPECT_EQ(store.transfers()->n_lent_free(), n_lent);
    EXPECT_EQ(store.n_lost_slots(), 0u);
    ZooWalk whole(member.model, cached_setting());
    Sequence other = whole.sequence();
    whole.feed(other, std::span(text).first(2560));
    EXPECT_TRUE(is_same(walk.feed(sequence, std::span(text).subspan(2560)),
                        whole.feed(other, std::span(text).subspan(2560))));
  }
}

/// DRAM has room for the blocks of the fork, and not for all that lies in their extents.
TEST(WalkSettle, AForkThatIsCutWithinAnExtentIsNotTakenWhereTheExtentHasNoRoom) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  constexpr uint32_t kCut = 2464;  // 77 blocks, of which the last extent has 5
  const auto text = member.text(2600, kCachedSeed);
  const auto rest = std::span(text).subspan(kCut, kBlockPositions);
  testing::save_text(member, folder, text);
  uint64_t n_streams = 0;
  for (const LayerShape& layer : member.model.shape().layers) n_streams += layer.n_kv_heads;
  WalkSetting setting = cached_setting();
  setting.kv_dram_bytes =
      (kCut / kBlockPositions + 2) * n_streams *
      KvLayout::make(setting.k_codec, setting.v_codec, member.model.shape().head_dim).block_bytes;
  ZooWalk walk(member.model, setting, scripted_transfers(std::make_shared<IoScript>()));
  ContextCache contexts({.directory = folder.path("contexts"), .limits = {}, .saves = false},
                        walk.cache(), kCachedModel, "test");
  const Sequence parent = contexts.restore(walk.cache(), std::span(text).first(2560));
  ASSERT_EQ(parent.n_pos(), 2560u);
  Sequence fork = parent.fork();
  ASSERT_EQ(fork.truncate(kCut), kCut);
  ZooWalk whole(member.model, cached_setting());
  Sequence other = whole.sequence();
  whole.feed(other, std::span(text).first(kCut));
  EXPECT_TRUE(is_same(walk.feed(fork, rest), whole.feed(other, rest)));
}

}  // namespace
}  // namespace strata::engine
