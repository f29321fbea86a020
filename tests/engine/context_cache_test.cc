// Contexts that are saved and found again: by text alone, with the bits of a run that read it all.
#include <gtest/gtest.h>

#include <bit>
#include <filesystem>
#include <fstream>

#include "engine/context_cache.h"
#include "engine/kv_placement.h"
#include "tests/engine/test_folder.h"
#include "tests/engine/zoo_fixture.h"

namespace strata::engine {
namespace {

using testing::load_model;
using testing::Logits;
using testing::ModelFile;
using testing::random_tokens;
using testing::TestFolder;
using testing::WalkSetting;
using testing::ZooWalk;

constexpr uint32_t kSeed = 20261125;
constexpr uint32_t kChunk = 128;
constexpr tiers::Hash128 kModel{1, 2};

struct LoadedMember {
  explicit LoadedMember(const std::string& name)
      : member(makers::zoo_member(name)),
        written(member.model),
        file(written.open()),
        model(load_model(file)) {}
  std::vector<int32_t> text(uint32_t n, uint32_t seed = kSeed) const {
    return random_tokens(n, member.model.vocab_size, seed);
  }
  const makers::ZooMember& member;
  ModelFile written;
  GgufFile file;
  Model model;
};

WalkSetting setting() {
  WalkSetting setting;
  setting.kernels = cpu_attn::available_kernels().back();
  setting.n_threads = 2;
  setting.chunk_rows = kChunk;
  setting.n_ctx = 8192;
  return setting;
}

bool is_same(std::span<const std::vector<float>> a, std::span<const std::vector<float>> b) {
  if (a.size() != b.size()) return false;
  for (size_t row = 0; row < a.size(); ++row)
    for (size_t i = 0; i < a[row].size(); ++i)
      if (std::bit_cast<uint32_t>(a[row][i]) != std::bit_cast<uint32_t>(b[row][i])) return false;
  return true;
}

/// A walk whose cache directory is `folder`, as one run of the program has it.
class CachedRun {
 public:
  CachedRun(const LoadedMember& member, const TestFolder& folder)
      : walk_(member.model, setting(), transfers(member)),
        contexts_({.directory = folder.path("contexts"), .limits = {}, .saves = true},
                  walk_.cache(), kModel, "test"),
        sequence_(walk_.sequence()) {}

  /// Reads a prompt, from what is saved of it on; the logits of the rows that were read.
  Logits read(std::span<const int32_t> prompt) {
    sequence_ = contexts_.restore(walk_.cache(), prompt.first(prompt.size() - 1));
    n_restored_ = sequence_.n_pos();
    contexts_.begin(sequence_, prompt);
    Logits logits;
    while (sequence_.n_pos() < prompt.size()) {
      const auto rest = prompt.subspan(sequence_.n_pos());
      for (auto& row : walk_.feed(sequence_, rest.first(std::min<size_t>(rest.size(), kChunk))))
        logits.push_back(std::move(row));
      contexts_.save_closed(walk_.cache(), sequence_);
    }
    return logits;
  }
  void finish(const std::string& session = "") {
    contexts_.finish(walk_.cache(), sequence_, session);
    EXPECT_EQ(contexts_.problem(), "");
  }
  uint32_t n_restored() const { return n_restored_; }
  ContextCacheCounts counts() const { return contexts_.counts(); }
  const tiers::StoreCounts& store() { return walk_.cache().store().counts(); }

 private:
  static std::unique_ptr<tiers::Spill> transfers(const LoadedMember& member) {
    std::vector<std::string> notices;
    return tiers::open_spill(
        {.place_bytes = place_bytes(member.model.shape(), {.n_ctx = 8192, .chunk_rows = kChunk}),
         .n_frames = 16,
         .io = tiers::IoChoice::kThreads},
        notices);
  }
  ZooWalk walk_;
  ContextCache contexts_;
  Sequence sequence_;
  uint32_t n_restored_ = 0;
};

std::vector<int32_t> joined(std::vector<int32_t> a, std::span<const int32_t> b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(ContextCache, AnotherQuestionAboutASavedTextHasTheBitsOfAFreshRun) {
  for (const auto& listed : makers::zoo()) {
    SCOPED_TRACE(listed.model.name);
    const LoadedMember member(listed.model.name);
    const TestFolder folder;
    const auto document = member.text(1100);
    const auto first = joined(document, member.text(30, 1));
    const auto second = joined(document, member.text(40, 2));
    {
      CachedRun run(member, folder);
      run.read(first);
      EXPECT_EQ(run.n_restored(), 0u);
      run.finish();
      EXPECT_EQ(run.counts().saved_tokens, first.size());
    }
    const Logits whole = ZooWalk(member.model, setting()).feed_all(second);
    CachedRun run(member, folder);
    const Logits rest = run.read(second);
    // Whole blocks of the document.
    EXPECT_EQ(run.n_restored(), document.size() / kBlockPositions * kBlockPositions);
    EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
  }
}

TEST(ContextCache, TheSameTextAgainIsUsedToItsLastTokenButOne) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(5000);  // two packs
  const Logits whole = ZooWalk(member.model, setting()).feed_all(text);
  CachedRun first(member, folder);
  first.read(text);
  first.finish();
  CachedRun second(member, folder);
  const Logits rest = second.read(text);
  EXPECT_EQ(second.n_restored(), 4992u);  // the last block is not whole without its last token
  EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
}

TEST(ContextCache, ASavedTextGrowsRunAfterRun) {
  const LoadedMember member("gemma3");
  const TestFolder folder;
  const auto text = member.text(1500);
  const Logits whole = ZooWalk(member.model, setting()).feed_all(text);
  for (const uint32_t n : {400u, 700u, 1000u, 1500u}) {
    CachedRun run(member, folder);
    const Logits rest = run.read(std::span(text).first(n));
    run.finish("talk");
    EXPECT_TRUE(is_same(rest, std::span(whole).first(n).last(rest.size()))) << n;
  }
}

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

TEST(ContextCache, ADamagedBlockIsComputedAgain) {
  for (const std::string name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const TestFolder folder;
    const auto text = member.text(1500);
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

}  // namespace
}  // namespace strata::engine
