// Index rows of saved contexts: what is loaded is what would be built of K and V, and where it
// lacks, K and V are read.
#include "engine/index_rows.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <optional>
#include <tuple>

#include "tests/engine/cached_run.h"

namespace strata::engine {
namespace {

using index::Budget;
using index::Method;
using testing::cached_setting;
using testing::CachedRun;
using testing::is_same;
using testing::joined;
using testing::kCachedSeed;
using testing::LoadedMember;
using testing::Logits;
using testing::save_text;
using testing::TestFolder;
using testing::WalkSetting;
using testing::ZooWalk;

constexpr Method kMethods[] = {Method::kPq,      Method::kQuest,       Method::kCuboid,
                               Method::kMean,    Method::kRabitq,      Method::kRabitqTail,
                               Method::kCluster, Method::kClusterTail, Method::kSparq};

WalkSetting setting_with(Method method) {
  WalkSetting setting = cached_setting();
  setting.n_threads = 1;
  setting.method = method;
  setting.rule.budget = {Budget::Kind::kTokens, 512};
  return setting;
}

/// A run that chooses, as `run --attn` is one: it saves rows and no K and V.
class SelectingRun : public CachedRun {
 public:
  SelectingRun(const LoadedMember& member, const TestFolder& folder, Method method,
               const tiers::PackLimits& limits = {})
      : CachedRun(member, folder, limits, setting_with(method), false) {}

  /// The logits of what is not restored of the prompt, all of it selected.
  Logits ask(std::span<const int32_t> prompt) {
    begin(prompt);
    return feed_selected(prompt.subspan(n_restored()));
  }
  uint32_t n_indexed() const { return static_cast<uint32_t>(counts().indexed_tokens); }
};

/// What a walk without saved contexts gives of the last tokens, after an index of the others.
Logits fresh(const LoadedMember& member, Method method, std::span<const int32_t> prompt,
             uint32_t n_exact) {
  ZooWalk walk(member.model, setting_with(method));
  Sequence sequence = walk.sequence();
  walk.feed(sequence, prompt.first(n_exact));
  return walk.feed(sequence, prompt.subspan(n_exact), 0, Attention::kSelected);
}

uint32_t segment_positions(Method method) { return method == Method::kPq ? 1024 : 256; }
uint32_t whole_segments(uint32_t n, Method method) {
  return n / segment_positions(method) * segment_positions(method);
}

std::vector<std::string> rows_files(const TestFolder& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path("contexts")))
    if (entry.path().extension() == ".rows") names.push_back(entry.path().string());
  std::ranges::sort(names);
  return names;
}

/// Changes a bit of a byte.
void flip(const std::string& path, uint64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(at));
  const int byte = file.get();
  file.seekp(static_cast<std::streamoff>(at));
  file.put(static_cast<char>(byte ^ 1));
}

/// Those of the pack that begins the text: the larger of two.
std::string first_rows(const TestFolder& folder) {
  return std::ranges::max(rows_files(folder), {},
                          [](const std::string& path) { return std::filesystem::file_size(path); });
}

/// Everything an index keeps of its first segments.
std::vector<std::byte> segments_of(const index::Selector& index, uint32_t n_streams, uint32_t n) {
  std::vector<std::byte> all(n * n_streams * index.segment_bytes());
  std::span<std::byte> to = all;
  for (index::StreamIdx stream = 0; stream < n_streams; ++stream)
    for (uint32_t i = 0; i < n; ++i, to = to.subspan(index.segment_bytes()))
      index.copy_segment(stream, i, to.first(index.segment_bytes()));
  return all;
}

TEST(IndexRows, OfAContextThatWasReadExactlyAreSavedByTheFirstQuestionAndReadByTheNext) {
  for (const std::string name : {"llama3", "gemma3"}) {
    const LoadedMember member(name);
    const auto document = member.text(4096, kCachedSeed);
    const auto asked = joined(document, member.text(40, 2));
    for (const Method method : kMethods) {
      if (name != "llama3" && method != Method::kPq) continue;  // windows concern K and V alone
      SCOPED_TRACE(name + " " + index::rows_kind(method));
      const TestFolder folder;
      save_text(member, folder, joined(document, member.text(30, 1)));
      SelectingRun first(member, folder, method);
      const Logits built = first.ask(asked);
      EXPECT_EQ(first.n_restored(), 4096u);
      EXPECT_EQ(first.n_indexed(), 0u);
      first.finish();
      EXPECT_EQ(first.counts().saved_tokens, 0u);
      EXPECT_GT(first.counts().saved_rows_bytes, 0u);
      EXPECT_EQ(rows_files(folder).size(), 1u);

      SelectingRun second(member, folder, method);
      const Logits loaded = second.ask(asked);
      EXPECT_EQ(second.n_restored(), 4096u);
      EXPECT_EQ(second.n_indexed(), 4096u);
      EXPECT_TRUE(is_same(loaded, built));
      const uint32_t n_streams = second.cache().n_index_streams();
      const uint32_t n_segments = 4096 / segment_positions(method);
      EXPECT_EQ(second.counts().rows_read_bytes,
                segments_of(*second.sequence().index(), n_streams, n_segments).size());
      EXPECT_EQ(segments_of(*second.sequence().index(), n_streams, n_segments),
                segments_of(*first.sequence().index(), n_streams, n_segments));
      // Of K and V no extent, and of single blocks what was chosen.
      EXPECT_GT(first.store().extents_read, 0u);
      EXPECT_EQ(second.store().extents_read, 0u);
      const SelectionCounts& sums = second.walk().selection_counts();
      EXPECT_GT(sums.missing_blocks, 0u);
      EXPECT_LE(sums.missing_blocks, sums.attended_blocks);
      EXPECT_LT(sums.missing_blocks, uint64_t{n_streams} * 4096 / kBlockPositions);
      second.finish();
      EXPECT_EQ(second.counts().saved_rows_bytes, 0u) << "they are there";
    }
  }
}

/// Packs that grew with the text, so that segments begin in one and end in another.
class GrownContext {
 public:
  GrownContext(const LoadedMember& member, std::span<const uint32_t> ends)
      : member_(member), text_(member.text(ends.back(), kCachedSeed)) {
    for (const uint32_t end : ends) save_text(member, folder_, std::span(text_).first(end));
  }
  /// The first n tokens and a question.
  std::vector<int32_t> prompt(uint32_t n) const {
    return joined({text_.begin(), text_.begin() + n}, member_.text(30, n));
  }
  const TestFolder& folder() const { return folder_; }
  std::span<const int32_t> text() const { return text_; }

 private:
  const LoadedMember& member_;
  std::vector<int32_t> text_;
  TestFolder folder_;
};

TEST(IndexRows, OfAnyPartOfManyPacksAreThoseOfAnIndexBuiltAnew) {
  const LoadedMember member("llama3");
  const uint32_t ends[] = {400, 1100, 3000, 5000};
  const GrownContext context(member, ends);
  for (const Method method : kMethods) {
    SCOPED_TRACE(index::rows_kind(method));
    {
      SelectingRun run(member, context.folder(), method);
      run.ask(context.prompt(5000));
      run.finish();
      EXPECT_EQ(run.contexts().rows_problem(), "");
    }
    const bool is_pq = method == Method::kPq;  // the others have segments as short as an extent
    for (const uint32_t n :
         is_pq ? std::vector{1023u, 1056u, 3072u, 3500u, 4992u} : std::vector{300u, 1300u}) {
      SCOPED_TRACE(n);
      const auto prompt = context.prompt(n);
      SelectingRun run(member, context.folder(), method);
      const Logits loaded = run.ask(prompt);
      const uint32_t n_restored = run.n_restored();
      EXPECT_EQ(n_restored, n / kBlockPositions * kBlockPositions);
      EXPECT_EQ(run.n_indexed(), whole_segments(n_restored, method));
      EXPECT_TRUE(is_same(loaded, fresh(member, method, prompt, n_restored)));
    }
  }
}

TEST(IndexRows, OfForksAndCutContextsGoOnAsThoseOfAnIndexBuiltAnew) {
  const LoadedMember member("llama3");
  const uint32_t ends[] = {3000};
  const GrownContext context(member, ends);
  const auto other = member.text(1300, 77);
  for (const Method method : kMethods) {
    SCOPED_TRACE(index::rows_kind(method));
    {
      SelectingRun run(member, context.folder(), method);
      run.ask(context.prompt(3000));
      run.finish();
    }
    SelectingRun run(member, context.folder(), method);
    run.begin(context.prompt(3000));
    ASSERT_GE(run.n_indexed(), 2048u);
    Sequence fork = run.sequence().fork();
    const auto question = std::span(other).first(30);
    const Logits of_fork = run.feed_selected(fork, question);
    const auto after = [&](uint32_t n, std::span<const int32_t> rest) {
      return joined({context.text().begin(), context.text().begin() + n}, rest);
    };
    EXPECT_TRUE(is_same(of_fork, fresh(member, method, after(3000, question), 3000)));
    // Cut where a segment ends, another text goes on: its own index.
    EXPECT_EQ(run.sequence().truncate(2048), 2048u);
    EXPECT_EQ(run.sequence().n_exact(), 2048u);
    run.feed(run.sequence(), other);
    EXPECT_EQ(run.sequence().n_exact(), 2048u + 1300);
    const Logits of_cut = run.feed_selected(run.sequence(), question);
    EXPECT_EQ(run.sequence().n_exact(), 2048u + 1300) << "what is behind is not exact";
    EXPECT_TRUE(
        is_same(of_cut, fresh(member, method, joined(after(2048, other), question), 2048 + 1300)));
  }
}

TEST(IndexRows, OfAnIndexThatGrewWithTheTextAreSavedWithIt) {
  const LoadedMember member("llama3");
  const auto text = member.text(2100, kCachedSeed);
  const TestFolder folder;
  {
    CachedRun run(member, folder, {}, setting_with(Method::kPq));
    run.read(text);
    run.finish("talk");
    EXPECT_EQ(run.counts().saved_tokens, 2100u);
    EXPECT_GT(run.counts().saved_rows_bytes, 0u);
  }
  SelectingRun run(member, folder, Method::kPq);
  run.ask(joined(text, member.text(10, 3)));
  EXPECT_EQ(run.n_indexed(), 2048u);
}

TEST(IndexRows, OfSelectedStepsAreNeverSaved) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(4000, kCachedSeed);
  save_text(member, folder, std::span(text).first(1100));
  SelectingRun run(member, folder, Method::kPq);
  run.ask(text);
  EXPECT_EQ(run.sequence().n_exact(), 1100u);
  // Another process has read and saved all of it meanwhile.
  save_text(member, folder, text);
  run.finish();
  SelectingRun second(member, folder, Method::kPq);
  const auto asked = joined(text, member.text(20, 9));
  const Logits logits = second.ask(asked);
  EXPECT_EQ(second.n_restored(), 4000u);
  EXPECT_EQ(second.n_indexed(), 1024u);
  EXPECT_TRUE(is_same(logits, fresh(member, Method::kPq, asked, 4000)));
}

TEST(IndexRows, ThatAreDamagedAreRemovedAndMadeAnew) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(3100, kCachedSeed);
  save_text(member, folder, text);
  const auto asked = joined(text, member.text(20, 9));
  const auto ask = [&](uint32_t n_indexed, uint64_t n_damaged) {
    SelectingRun run(member, folder, Method::kPq);
    Logits logits = run.ask(asked);
    EXPECT_EQ(run.n_indexed(), n_indexed);
    EXPECT_EQ(run.counts().damaged_rows, n_damaged);
    EXPECT_EQ(run.counts().damaged_packs, 0u);
    run.finish();
    EXPECT_EQ(run.contexts().rows_problem(), "");
    return logits;
  };
  const Logits expected = ask(0, 0);
  const auto files = rows_files(folder);
  ASSERT_EQ(files.size(), 1u);
  const uint64_t bytes = std::filesystem::file_size(files[0]);
  flip(files[0], bytes / 2);  // in the second of three segments
  EXPECT_TRUE(is_same(ask(1024, 1), expected));
  flip(files[0], bytes - 1);
  EXPECT_TRUE(is_same(ask(0, 1), expected));
  std::filesystem::resize_file(files[0], bytes - 1);
  EXPECT_TRUE(is_same(ask(0, 1), expected));
  std::filesystem::remove(files[0]);
  EXPECT_TRUE(is_same(ask(0, 0), expected));
  EXPECT_TRUE(is_same(ask(3072, 0), expected));
}

/// Sound in every hash, but of another index: as another shape or program would have left it.
TEST(IndexRows, OfAnotherShapeOrFormatAreMadeAnew) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(3100, kCachedSeed);
  save_text(member, folder, text);
  const auto asked = joined(text, member.text(20, 9));
  tiers::RowsShape shape;
  const auto ask = [&](uint32_t n_indexed) {
    SelectingRun run(member, folder, Method::kQuest);
    Logits logits = run.ask(asked);
    EXPECT_EQ(run.n_indexed(), n_indexed);
    EXPECT_EQ(run.counts().damaged_packs, 0u);
    shape = rows_shape(run.cache(), run.sequence()).value_or(shape);
    run.finish();
    EXPECT_EQ(run.contexts().rows_problem(), "");
    return logits;
  };
  const Logits expected = ask(0);
  EXPECT_TRUE(is_same(ask(3072), expected));
  const std::string path = rows_files(folder)[0];
  const std::string pack =
      tiers::pack_of_rows_file(std::filesystem::path(path).filename().string());
  /// Of n segments; version 0 = this program's.
  const auto put = [&](const tiers::RowsShape& of, uint32_t n, uint32_t version) {
    std::vector<std::byte> bytes(n * of.segment_bytes(), std::byte{7});
    tiers::RowsHead head{.shape = of, .first_segment = 0, .hashes = {}};
    for (uint32_t i = 0; i < n; ++i)
      head.hashes.push_back(tiers::hash_bytes(std::span(bytes).first(of.segment_bytes())));
    auto end = tiers::encode_rows_end(head, pack);
    if (version != 0) {
      std::memcpy(end.data() + end.size() - tiers::kRowsTrailerBytes + 8, &version, 4);
      const auto seal = tiers::hash_bytes(std::span(end).first(end.size() - 16));
      std::memcpy(end.data() + end.size() - 16, &seal, 16);
    }
    bytes.insert(bytes.end(), end.begin(), end.end());
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  };
  tiers::RowsShape wider = shape, fewer = shape, longer = shape;
  wider.stream_bytes *= 2;  // of a larger head_dim
  fewer.n_streams -= 1;
  longer.segment_positions *= 2;
  for (const auto& [other, n, version] : {std::tuple{wider, 12u, 0u},
                                          {fewer, 12u, 0u},
                                          {longer, 6u, 0u},
                                          {shape, 12u, tiers::kRowsVersion + 1}}) {
    SCOPED_TRACE(version);
    put(other, n, version);
    EXPECT_TRUE(is_same(ask(0), expected));
    EXPECT_TRUE(is_same(ask(3072), expected)) << "they were written again";
  }
  // What the same index wrote is taken as it is, though it be wrong: so the file was read above.
  put(shape, 12, 0);
  EXPECT_FALSE(is_same(ask(3072), expected));
}

/// Several threads read: which of two damaged segments one of them meets first is chance.
TEST(IndexRows, AreTakenUpToTheFirstThatIsDamaged) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(8100, kCachedSeed);  // two packs
  save_text(member, folder, text);
  const auto asked = joined(text, member.text(20, 9));
  SelectingRun first(member, folder, Method::kQuest);
  const Logits expected = first.ask(asked);
  first.finish();
  for (const auto& [earlier, later] : {std::pair{5u, 9u}, {0u, 1u}, {14u, 15u}}) {
    const auto file = first_rows(folder);
    const uint64_t segment_bytes =
        first.sequence().index()->segment_bytes() * first.cache().n_index_streams();
    for (const uint32_t segment : {later, earlier}) flip(file, segment * segment_bytes + 100);
    SelectingRun run(member, folder, Method::kQuest);
    EXPECT_TRUE(is_same(run.ask(asked), expected));
    EXPECT_EQ(run.n_indexed(), earlier * 256);
    EXPECT_EQ(run.counts().damaged_rows, 1u);
    run.finish();  // and writes them anew
  }
}

TEST(IndexRows, ThatDoNotFitCostNoPack) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(2100, kCachedSeed);
  save_text(member, folder, text);
  const uint64_t used = tiers::PackDirectory::open(folder.path("contexts"), {}).used_bytes();
  const auto asked = joined(text, member.text(20, 9));
  {
    SelectingRun run(member, folder, Method::kPq, {.budget_bytes = used});
    run.ask(asked);
    run.finish();
    EXPECT_NE(run.contexts().rows_problem().find("budget"), std::string::npos);
    EXPECT_EQ(run.counts().saved_rows_bytes, 0u);
  }
  SelectingRun run(member, folder, Method::kPq);
  run.ask(asked);
  EXPECT_EQ(run.n_restored(), 2100u);
  EXPECT_EQ(run.n_indexed(), 0u);
}

TEST(IndexRows, OfMethodsThatKeepNoneAreNone) {
  const LoadedMember member("llama3");
  const TestFolder folder;
  const auto text = member.text(1100, kCachedSeed);
  save_text(member, folder, text);
  for (const Method method : {Method::kRecent, Method::kOracle}) {
    SelectingRun run(member, folder, method);
    run.begin(joined(text, member.text(20, 9)));
    EXPECT_EQ(run.sequence().n_indexed(),
              method == Method::kRecent ? run.n_restored() / kBlockPositions : 0u);
    run.finish();
    EXPECT_TRUE(rows_files(folder).empty());
  }
}

TEST(IndexRows, TheirSizeIsKnownBeforeThereIsAnIndex) {
  const auto layout = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 64);
  for (const Method method : kMethods) {
    const index::SelectorSource source(method, {layout, 2, 64},
                                       *cpu_attn::available_kernels().back());
    EXPECT_EQ(index::segment_bytes(method, layout), source.make()->segment_bytes());
  }
}

}  // namespace
}  // namespace strata::engine
