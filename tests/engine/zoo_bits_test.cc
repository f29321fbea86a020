// Law L1 over the zoo: on one instruction set a row's bits do not depend on chunks, threads,
// batches, forks or on what was cut off before.
#include <gtest/gtest.h>

#include <bit>
#include <optional>

#include "tests/engine/zoo_fixture.h"
#include "tests/sanitizer.h"

namespace strata::engine {
namespace {

using testing::first_difference;
using testing::load_model;
using testing::LoadedMember;
using testing::Logits;
using testing::ModelFile;
using testing::random_tokens;
using testing::walked_isas;
using testing::WalkSetting;
using testing::ZooWalk;

constexpr uint32_t kBitsSeed = 20241126;
constexpr uint32_t kBitsTokens = 270;  // past a segment
// Past a span of 1024 positions, whose partials threads share out where rows are few.
constexpr uint32_t kLongTextTokens = 1300;

void expect_same_bits(std::span<const std::vector<float>> a, std::span<const std::vector<float>> b,
                      const std::string& what) {
  const auto difference = first_difference(a, b);
  EXPECT_FALSE(difference.has_value()) << what << ": " << difference.value_or("");
}

std::string text_of(const WalkSetting& setting) {
  return "chunks of " + std::to_string(setting.chunk_rows) + " with " +
         std::to_string(setting.n_threads) + " threads";
}

/// Runs `check(member, kernels)` for every member and instruction set.
template <class Check>
void for_each_member_and_isa(const Check& check) {
  for (const auto& listed : makers::zoo()) {
    const LoadedMember member(listed.model.name);
    for (const KernelTable* kernels : walked_isas()) {
      SCOPED_TRACE(listed.model.name + ", " + kernels->name + ", seed " +
                   std::to_string(kBitsSeed));
      check(member, kernels);
    }
  }
}

/// The widest instruction set only: for what concerns block tables and threads, not kernels.
template <class Check>
void for_each_member(const Check& check) {
  for (const auto& listed : makers::zoo()) {
    SCOPED_TRACE(listed.model.name + ", seed " + std::to_string(kBitsSeed));
    check(LoadedMember(listed.model.name), cpu_attn::available_kernels().back());
  }
}

TEST(ZooBits, DoNotDependOnChunks) {
  for_each_member_and_isa([](const LoadedMember& member, const KernelTable* kernels) {
    const auto tokens = member.text(kBitsTokens, kBitsSeed);
    ZooWalk whole(member.model, {.kernels = kernels});
    const Logits wanted = whole.feed_all(tokens);
    for (const uint32_t chunk_rows : {1u, 7u, 32u}) {
      if (sanitizer::kAny && chunk_rows != 7) continue;
      const WalkSetting setting{.kernels = kernels, .chunk_rows = chunk_rows};
      ZooWalk walk(member.model, setting);
      expect_same_bits(walk.feed_all(tokens), wanted, text_of(setting));
    }
  });
}

/// Few steps: a parallel region is slow where other programs take the cores.
TEST(ZooBits, DoNotDependOnThreads) {
  for_each_member([](const LoadedMember& member, const KernelTable* kernels) {
    if (member.model.shape().n_layers > 10) return;  // gemma3 has the same layers, and fewer
    const auto tokens = member.text(kBitsTokens, kBitsSeed);
    ZooWalk whole(member.model, {.kernels = kernels});
    const Logits wanted = whole.feed_all(tokens);
    for (const uint32_t n_threads : {2u, 3u}) {
      const WalkSetting setting{.kernels = kernels, .n_threads = n_threads};
      ZooWalk walk(member.model, setting);
      Sequence sequence = walk.sequence();
      Logits found = walk.feed(sequence, std::span(tokens).first(kBitsTokens - 1));
      found.push_back(walk.feed(sequence, std::span(tokens).last(1)).front());
      expect_same_bits(found, wanted, text_of(setting));
    }
  });
}

TEST(ZooBits, OfAQuantisedCacheDoNotDependOnChunks) {
  for_each_member_and_isa([](const LoadedMember& member, const KernelTable* kernels) {
    if (member.member.model.head_dim % 32 != 0) return;
    const auto tokens = member.text(kBitsTokens / 2, kBitsSeed);
    WalkSetting setting{.kernels = kernels, .k_codec = KvCodec::kQ8_0, .v_codec = KvCodec::kQ8_0};
    ZooWalk whole(member.model, setting);
    const Logits wanted = whole.feed_all(tokens);
    for (const uint32_t chunk_rows : {1u, 33u}) {
      if (sanitizer::kAny && chunk_rows != 33) continue;
      setting.chunk_rows = chunk_rows;
      ZooWalk walk(member.model, setting);
      expect_same_bits(walk.feed_all(tokens), wanted, text_of(setting));
    }
  });
}

TEST(ZooBits, OfALongTextDoNotDependOnHowThreadsShareItsSpans) {
  for (const char* name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const auto tokens = member.text(kLongTextTokens, kBitsSeed);
    WalkSetting setting{.kernels = cpu_attn::available_kernels().back(),
                        .n_ctx = kLongTextTokens + 64};
    ZooWalk whole(member.model, setting);
    const Logits wanted = whole.feed_all(tokens);
    for (const uint32_t n_threads : {1u, 2u, 3u}) {
      setting.n_threads = n_threads;
      ZooWalk walk(member.model, setting);
      Sequence sequence = walk.sequence();
      const uint32_t n_prompt = kLongTextTokens - 4;
      walk.feed(sequence, std::span(tokens).first(n_prompt), 259);
      Logits tail;
      for (uint32_t i = n_prompt; i < kLongTextTokens; ++i)
        tail.push_back(walk.feed(sequence, std::span(tokens).subspan(i, 1)).front());
      expect_same_bits(tail, std::span(wanted).subspan(n_prompt), text_of(setting));
    }
  }
}

TEST(ZooBits, OfForksAreThoseOfTheirTextsAlone) {
  for_each_member([](const LoadedMember& member, const KernelTable* kernels) {
    const auto prompt = member.text(77, kBitsSeed);  // in the middle of a block
    const auto left_tail = member.text(70, kBitsSeed + 1);
    const auto right_tail = member.text(70, kBitsSeed + 2);
    const WalkSetting setting{.kernels = kernels, .chunk_rows = 32, .n_sequences = 3};
    ZooWalk walk(member.model, setting);
    Sequence left = walk.sequence();
    walk.feed(left, prompt);
    Sequence right = left.fork();
    Logits left_logits, right_logits;
    for (uint32_t done = 0; done < 70;
         done += 14) {  // in turn, so that each sees the other's blocks
      for (auto& row : walk.feed(left, std::span(left_tail).subspan(done, 14)))
        left_logits.push_back(std::move(row));
      for (auto& row : walk.feed(right, std::span(right_tail).subspan(done, 14)))
        right_logits.push_back(std::move(row));
    }
    for (const auto& [tail, found] :
         {std::pair(&left_tail, &left_logits), std::pair(&right_tail, &right_logits)}) {
      auto tokens = prompt;
      tokens.insert(tokens.end(), tail->begin(), tail->end());
      ZooWalk alone(member.model, {.kernels = kernels});
      const Logits wanted = alone.feed_all(tokens);
      expect_same_bits(*found, std::span(wanted).subspan(prompt.size()), "a fork");
    }
  });
}

/// Feeds 150 tokens, cuts to `n_kept`, and goes on with another text; what the walk cannot keep is
/// fed again, as its callers do.
void expect_cut_changes_nothing(const LoadedMember& member, const KernelTable* kernels,
                                uint32_t n_kept, bool also_fork) {
  const auto first = member.text(150, kBitsSeed);
  const auto second = member.text(60, kBitsSeed + 3);
  ZooWalk walk(member.model, {.kernels = kernels, .chunk_rows = 32, .n_sequences = 3});
  Sequence sequence = walk.sequence();
  const Logits before = walk.feed(sequence, first);
  std::optional<Sequence> fork;
  if (also_fork) fork = sequence.fork();
  const uint32_t n_held = sequence.truncate(n_kept);
  ASSERT_LE(n_held, n_kept);
  const auto again = std::span(first).subspan(n_held, n_kept - n_held);
  const Logits repeated = walk.feed(sequence, again);
  expect_same_bits(repeated, std::span(before).subspan(n_held, again.size()), "what was fed again");
  const Logits found = walk.feed(sequence, second);
  std::vector<int32_t> tokens(first.begin(), first.begin() + n_kept);
  tokens.insert(tokens.end(), second.begin(), second.end());
  ZooWalk alone(member.model, {.kernels = kernels});
  const Logits wanted = alone.feed_all(tokens);
  expect_same_bits(found, std::span(wanted).subspan(n_kept), "after a cut");
  if (!fork) return;
  tokens = first;
  tokens.insert(tokens.end(), second.begin(), second.end());
  const Logits of_fork = walk.feed(*fork, second);
  const Logits uncut = alone.feed_all(tokens);
  expect_same_bits(of_fork, std::span(uncut).subspan(first.size()), "the fork of a cut sequence");
}

TEST(ZooBits, OfATruncatedSequenceAreThoseOfItsTextAlone) {
  for_each_member([](const LoadedMember& member, const KernelTable* kernels) {
    // By less than a chunk, to a block's end, and far behind what windowed layers hold.
    for (const uint32_t n_kept : {139u, 128u, 20u})
      expect_cut_changes_nothing(member, kernels, n_kept, n_kept == 139);
  });
}

TEST(ZooBits, OfSequencesInOneStepAreThoseOfEachAlone) {
  for_each_member([](const LoadedMember& member, const KernelTable* kernels) {
    const std::vector<std::vector<int32_t>> texts = {
        member.text(90, kBitsSeed), member.text(61, kBitsSeed + 4), member.text(33, kBitsSeed + 5)};
    // Rows of each text in every step: prompts beside decoding, and texts that have ended.
    const uint32_t rows_per_step[] = {9, 5, 1};
    ZooWalk walk(member.model, {.kernels = kernels, .chunk_rows = 16, .n_sequences = 3});
    std::vector<Sequence> sequences;
    for (size_t i = 0; i < texts.size(); ++i) sequences.push_back(walk.sequence());
    std::vector<Logits> found(texts.size());
    for (;;) {
      std::vector<StepRow> rows;
      std::vector<size_t> owners;
      for (size_t i = 0; i < texts.size(); ++i) {
        const uint32_t begin = sequences[i].n_pos();
        const auto end =
            std::min<uint32_t>(begin + rows_per_step[i], static_cast<uint32_t>(texts[i].size()));
        for (uint32_t at = begin; at < end; ++at) {
          rows.push_back({&sequences[i], texts[i][at], true});
          owners.push_back(i);
        }
      }
      if (rows.empty()) break;
      Logits logits = walk.step(rows);
      for (size_t row = 0; row < owners.size(); ++row)
        found[owners[row]].push_back(std::move(logits[row]));
    }
    for (size_t i = 0; i < texts.size(); ++i) {
      ZooWalk alone(member.model, {.kernels = kernels});
      expect_same_bits(found[i], alone.feed_all(texts[i]), "text " + std::to_string(i));
    }
  });
}

TEST(ZooBits, OfRowsThatWantLogitsDoNotDependOnThoseThatDoNot) {
  for_each_member([](const LoadedMember& member, const KernelTable* kernels) {
    const auto tokens = member.text(24, kBitsSeed);
    ZooWalk walk(member.model, {.kernels = kernels, .n_sequences = 2});
    const Logits wanted = walk.feed_all(tokens);
    Sequence sequence = walk.sequence();
    std::vector<StepRow> rows;
    for (size_t i = 0; i < tokens.size(); ++i) rows.push_back({&sequence, tokens[i], i % 5 == 3});
    const Logits found = walk.step(rows);
    ASSERT_EQ(found.size(), 5u);
    for (size_t i = 0; i < found.size(); ++i)
      expect_same_bits(std::span(found).subspan(i, 1), std::span(wanted).subspan(5 * i + 3, 1),
                       "row " + std::to_string(5 * i + 3));
  });
}

TEST(ZooBits, WindowedLayersLetGoOfBlocksAndFullOnesKeepThem) {
  const LoadedMember member("gemma3");
  ZooWalk walk(member.model, {.kernels = cpu_attn::available_kernels().back(), .chunk_rows = 32});
  Sequence sequence = walk.sequence();
  walk.feed(sequence, member.text(kBitsTokens, kBitsSeed));
  EXPECT_EQ(walk.cache().block(sequence, 0, 0, 0), nullptr);
  EXPECT_EQ(walk.cache().block(sequence, 6, 1, 100), nullptr);
  EXPECT_NE(walk.cache().block(sequence, 5, 0, 0), nullptr);
  EXPECT_NE(walk.cache().block(sequence, 0, 0, kBitsTokens - member.member.model.window), nullptr);
}

/// Keys that say the same as options: the model with them, and without.
TEST(ZooBits, OfRopeOptionsAreThoseOfTheFilesKeys) {
  const LoadedMember by_keys("llama-yarn");
  makers::RandomTransformer plain = by_keys.member.model;
  plain.name += "-plain";
  plain.rope = {};
  const ModelFile written(plain);
  RopeOverrides options;
  options.scaling = "yarn";
  const makers::RandomRope& rope = by_keys.member.model.rope;
  options.freq_base = rope.freq_base;
  options.factor = rope.factor;
  options.n_ctx_original = rope.n_ctx_original;
  // The file holds f32.
  options.yarn_attn_factor = static_cast<double>(static_cast<float>(rope.attn_factor));
  options.yarn_beta_fast = rope.beta_fast;
  options.yarn_beta_slow = rope.beta_slow;
  const Model by_options = load_model(written.open(), options);
  const auto tokens = by_keys.text(100, kBitsSeed);
  const WalkSetting setting{.kernels = cpu_attn::available_kernels().back()};
  ZooWalk first(by_keys.model, setting);
  ZooWalk second(by_options, setting);
  expect_same_bits(second.feed_all(tokens), first.feed_all(tokens), "options");
}

}  // namespace
}  // namespace strata::engine
