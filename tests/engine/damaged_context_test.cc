// Saved contexts whose bytes have changed since: computed again, removed, and saved anew.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/engine/cached_run.h"

namespace strata::engine {
namespace {

using testing::CachedRun;
using testing::is_same;
using testing::joined;
using testing::kModel;
using testing::kSeed;
using testing::LoadedMember;
using testing::Logits;
using testing::setting;
using testing::TestFolder;
using testing::ZooWalk;

/// Changes a byte in every 4,096 of the blocks of every pack; its end, which finding reads, stays.
uint32_t damage_packs(const TestFolder& folder) {
  uint32_t n = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path("contexts"))) {
    if (entry.path().extension() != ".pack") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    for (uint64_t at = 100; at < entry.file_size() / 10 * 9; at += 4096) {
      file.seekg(static_cast<std::streamoff>(at));
      const int byte = file.get();
      file.seekp(static_cast<std::streamoff>(at));
      file.put(static_cast<char>(byte ^ 0x10));
    }
    ++n;
  }
  return n;
}

TEST(DamagedContext, ADamagedBlockIsComputedAgain) {
  for (const std::string name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const TestFolder folder;
    const auto text = member.text(1500, kSeed);
    const auto more = joined(text, member.text(50, 3));
    const Logits whole = ZooWalk(member.model, setting()).feed_all(more);
    {
      CachedRun run(member, folder);
      run.read(text);
      run.finish();
    }
    ASSERT_GT(damage_packs(folder), 0u);
    CachedRun run(member, folder);
    const Logits rest = run.read(more);
    EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
    EXPECT_GT(run.store().corrupt_blocks + run.counts().damaged_packs, 0u);
  }
}

TEST(DamagedContext, APackThatAStepFindsDamagedIsSavedAnew) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1500, kSeed);
  const auto more = joined(text, member.text(50, 3));
  {
    CachedRun run(member, folder);
    run.read(text);
    run.finish();
  }
  ASSERT_GT(damage_packs(folder), 0u);
  const auto damaged = [&] {
    uint64_t n = 0;
    auto directory = tiers::PackDirectory::open(folder.path("contexts"), {});
    for (const tiers::PackEntry& pack : directory.packs())
      n += directory.verify_pack(pack.name)->n_bad_blocks;
    return n;
  };
  EXPECT_GT(damaged(), 0u);
  {
    CachedRun run(member, folder);
    // Whole extents alone, which are read by the step that uses them.
    run.begin(std::span(text).first(5 * kExtentPositions + 1));
    EXPECT_EQ(run.counts().damaged_packs, 0u);
    run.feed(run.sequence(), std::span(more).subspan(run.sequence().n_pos(), 100));
    run.finish();
    EXPECT_EQ(run.counts().damaged_packs, 1u);
  }
  EXPECT_EQ(damaged(), 0u);
  CachedRun run(member, folder);
  run.begin(text);
  EXPECT_GE(run.n_restored(), 5 * kExtentPositions);
}

TEST(DamagedContext, WhatIsLostWhileItIsSavedIsComputedAgain) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1100, kSeed);
  const Logits whole = ZooWalk(member.model, setting()).feed_all(text);
  {
    CachedRun run(member, folder);
    run.read(text);
    run.finish();
  }
  const auto elsewhere_options = [&] {
    return ContextCacheOptions{.directory = folder.path("elsewhere"), .limits = {}, .saves = true};
  };
  {
    CachedRun run(member, folder);
    run.begin(std::span(text).first(4 * kExtentPositions + 1));  // on the disk only
    ASSERT_GT(damage_packs(folder), 0u);
    ContextCache elsewhere(elsewhere_options(), run.cache(), kModel, "test");
    elsewhere.begin(run.sequence(), std::span(text).first(4 * kExtentPositions));
    elsewhere.save_closed(run.cache(), run.sequence());
    EXPECT_EQ(elsewhere.problem(), "");
    elsewhere.finish(run.walk(), run.sequence());
    EXPECT_EQ(elsewhere.problem(), "");
    EXPECT_GT(elsewhere.counts().repaired_extents, 0u);
    EXPECT_EQ(elsewhere.counts().saved_tokens, 4 * kExtentPositions);
  }
  ZooWalk walk(member.model, setting(), CachedRun::transfers(member));
  ContextCache elsewhere(elsewhere_options(), walk.cache(), kModel, "test");
  Sequence sequence = elsewhere.restore(walk.cache(), text);
  ASSERT_EQ(sequence.n_pos(), 4 * kExtentPositions);
  const Logits rest = walk.feed(sequence, std::span(text).subspan(sequence.n_pos()));
  EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
  EXPECT_EQ(walk.cache().store().counts().corrupt_blocks, 0u);
}

TEST(DamagedContext, WhatIsComputedAgainServesEveryLayer) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(5 * kExtentPositions, kSeed);
  const auto more = joined(text, member.text(50, 3));
  const Logits whole = ZooWalk(member.model, setting()).feed_all(more);
  {
    CachedRun run(member, folder);
    run.read(text);
    run.finish();
  }
  ASSERT_GT(damage_packs(folder), 0u);
  CachedRun run(member, folder);
  const Logits rest = run.read(more);
  EXPECT_EQ(run.n_restored(), text.size());
  EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
  EXPECT_EQ(run.store().lost_extents, 5u);  // one for each of the positions, not for each layer
}

}  // namespace
}  // namespace strata::engine
