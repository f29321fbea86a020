// K and V that spill beside a device, by the emulator: the beginning of a text there, its end in
// DRAM and in a file, attended by the CPU; against the same placement with all of it in DRAM, bit
// for bit.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "tests/device/spill_run.h"
#include "tests/engine/zoo_distance.h"

namespace strata::engine {
namespace {

using testing::kSpillChunk;
using testing::LoadedMember;
using testing::Logits;
using testing::spill_setting;
using testing::SpillRun;

constexpr uint32_t kSpillSeed = 20261129;
constexpr uint32_t kSpilledPrompt = 1100, kSpilledAnswer = 16;

/// Logits of the rows of a prompt that is read by chunks, and of tokens fed one by one behind it.
Logits answer(testing::ZooWalk& walk, Sequence& sequence, std::span<const int32_t> text,
              uint32_t n_prompt) {
  Logits logits = walk.feed(sequence, text.first(n_prompt));
  for (const int32_t token : text.subspan(n_prompt)) {
    const std::vector<StepRow> row{{&sequence, token, true}};
    logits.push_back(walk.step(row)[0]);
  }
  return logits;
}
Logits answer(SpillRun& of, std::span<const int32_t> text, uint32_t n_prompt = kSpilledPrompt) {
  Sequence sequence = of.walk().sequence();
  return answer(of.walk(), sequence, text, n_prompt);
}

/// A segment near; the prompt goes far beyond it.
TEST(DeviceSpill, AnswersAreThoseOfAllOfItInDram) {
  for (const char* name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const auto text = member.text(kSpilledPrompt + kSpilledAnswer, kSpillSeed);
    SpillRun whole(member, spill_setting(), 1, 0);
    const Logits expected = answer(whole, text);
    EXPECT_EQ(whole.store().extents_evicted, 0u);
    SpillRun away(member, spill_setting(2), 1, kSpillChunk + 420,
                  {.seed = 1, .latency_spread = std::chrono::microseconds(200)});
    EXPECT_EQ(testing::first_difference(answer(away, text), expected), std::nullopt);
    EXPECT_GT(away.store().extents_read, 0u);
    const DeviceKvCounts& counts = away.run->device().kv_counts();
    EXPECT_EQ(counts.far_bytes, 0u);
    EXPECT_GT(counts.cpu_bytes, 0u);
    EXPECT_EQ(counts.cpu_bytes, whole.run->device().kv_counts().cpu_bytes);
  }
}

/// Whatever the disk's speed, the size of DRAM and the number of threads.
TEST(DeviceSpill, BitsFollowFromThePlanAlone) {
  const LoadedMember member("llama3");
  const auto text = member.text(kSpilledPrompt + 6, kSpillSeed + 1);
  SpillRun first(member, spill_setting(), 1, kSpillChunk + 420);
  const Logits expected = answer(first, text);
  for (const uint32_t n_positions : {600u, 900u}) {
    SCOPED_TRACE(n_positions);
    SpillRun other(member, spill_setting(3), 1, n_positions,
                   {.seed = n_positions, .latency_spread = std::chrono::milliseconds(1)});
    EXPECT_EQ(testing::first_difference(answer(other, text), expected), std::nullopt);
    EXPECT_GT(other.store().extents_read, 0u);
  }
  // Another cut has other last bits: the card attends a part of what the CPU did.
  SpillRun cut(member, spill_setting(), 2, kSpillChunk + 420);
  EXPECT_NE(testing::first_difference(answer(cut, text), expected), std::nullopt);
}

/// Prompts are the device's up to the cut, the CPU's behind it, and decoded tokens are of both.
TEST(DeviceSpill, ChunksBehindTheCutAreThoseOfTheCpu) {
  const LoadedMember member("llama3");
  const auto text = member.text(kSpilledPrompt, kSpillSeed + 2);
  SpillRun away(member, spill_setting(), 0, kSpillChunk + 420);  // nothing has room there
  testing::ZooWalk alone(member.model, spill_setting());
  Sequence sequence = away.walk().sequence();
  EXPECT_EQ(testing::first_difference(away.walk().feed(sequence, text), alone.feed_all(text)),
            std::nullopt);
  EXPECT_EQ(away.run->device().kv_counts().attended_bytes, 0u);
  const std::vector<StepRow> row{{&sequence, text[0], true}};
  away.walk().step(row);
  const DeviceKvCounts& counts = away.run->device().kv_counts();
  EXPECT_GT(counts.attended_bytes, 0u);
  EXPECT_EQ(counts.cpu_bytes, counts.attended_bytes);
}

/// A chunk that begins within a block which the device has, and ends behind the cut: what it writes
/// there the device reads with the next token.
TEST(DeviceSpill, RowsThatTheCpuWritesComeToTheDevice) {
  const LoadedMember member("llama3");
  const auto text = member.text(346, kSpillSeed + 7);
  SpillRun run(member, spill_setting(), 1, kSpillChunk + 420);
  Sequence sequence = run.walk().sequence();
  Logits logits;
  const auto feed = [&](uint32_t n_tokens) {
    for (auto& row : run.walk().feed(sequence, std::span(text).subspan(sequence.n_pos(), n_tokens)))
      logits.push_back(std::move(row));
  };
  feed(230);
  feed(8);
  feed(100);
  const KvCache& cache = run.walk().cache();
  const auto blocks = cache.stream_blocks(sequence, 0, 0).blocks;
  EXPECT_TRUE(run.run->device().has_copy(blocks[6]));
  EXPECT_FALSE(run.run->device().has_copy(blocks[7]));
  feed(8);
  EXPECT_TRUE(run.run->device().has_copy(blocks[7]));
  testing::expect_near(logits, testing::reference_of(member.file, text));
}

/// The device has room for the beginnings of two texts of the three that take turns, and forks and
/// cuts go on from there.
TEST(DeviceSpill, WhatRanBeforeChangesNoBit) {
  for (const char* name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    std::vector<std::vector<int32_t>> texts;
    std::vector<Logits> expected;
    for (uint32_t i = 0; i < 3; ++i) {
      texts.push_back(member.text(600 + 5, kSpillSeed + i));
      SpillRun alone(member, spill_setting(), 1, kSpillChunk + 300);
      expected.push_back(answer(alone, texts[i], 600));
    }
    SpillRun busy(member, spill_setting(), 2, 250, {}, 2, 5);
    testing::ZooWalk& walk = busy.walk();
    std::vector<Sequence> sequences;
    for (uint32_t i = 0; i < 3; ++i) {
      sequences.push_back(walk.sequence());
      EXPECT_EQ(testing::first_difference(walk.feed(sequences[i], std::span(texts[i]).first(600)),
                                          std::span(expected[i]).first(600)),
                std::nullopt);
    }
    const auto token_of = [&](Sequence& sequence, uint32_t i) {
      const uint32_t at = sequence.n_pos();
      const std::vector<StepRow> row{{&sequence, texts[i][at], true}};
      EXPECT_EQ(testing::first_difference(walk.step(row), std::span(expected[i]).subspan(at, 1)),
                std::nullopt)
          << i << " " << at;
    };
    for (uint32_t turn = 0; turn < 2; ++turn)
      for (uint32_t i = 0; i < 3; ++i) token_of(sequences[i], i);
    Sequence fork = sequences[1].fork();
    token_of(fork, 1);
    token_of(sequences[1], 1);
    // Windows leave room that texts do not always need, and no way back behind them.
    if (name == std::string("llama3")) {
      EXPECT_GT(busy.store().extents_read, 0u);
      EXPECT_EQ(fork.truncate(600), 600u);
      for (uint32_t i = 0; i < 2; ++i) token_of(fork, 1);
    }
  }
}

/// Rows of two texts in one step, each with a part of the CPU's that is away.
TEST(DeviceSpill, TextsOfAStepAreAttendedAsEachAlone) {
  const LoadedMember member("llama3");
  Logits expected;
  std::vector<std::vector<int32_t>> texts;
  for (uint32_t i = 0; i < 2; ++i) {
    texts.push_back(member.text(700 + 200 * i, kSpillSeed + 5 + i));
    SpillRun alone(member, spill_setting(), 1, kSpillChunk + 420);
    const auto n_prompt = static_cast<uint32_t>(texts[i].size()) - 1;
    expected.push_back(answer(alone, texts[i], n_prompt).back());
  }
  SpillRun both(member, spill_setting(), 2, kSpillChunk + 150, {}, 2, 2);
  std::vector<Sequence> sequences;
  std::vector<StepRow> rows;
  for (uint32_t i = 0; i < 2; ++i) {
    sequences.push_back(both.walk().sequence());
    both.walk().feed(sequences[i], std::span(texts[i]).first(texts[i].size() - 1));
  }
  for (uint32_t i = 0; i < 2; ++i) rows.push_back({&sequences[i], texts[i].back(), true});
  const uint64_t n_read = both.store().extents_read;
  EXPECT_EQ(testing::first_difference(both.walk().step(rows), expected), std::nullopt);
  EXPECT_GT(both.store().extents_read, n_read);
}

/// Of a prompt alone, with nothing of the card's: what is lost is computed again bit for bit.
TEST(DeviceSpill, FaultsOfTheDiskChangeNoBitOfWhatTheCpuRead) {
  const LoadedMember member("llama3");
  const auto text = member.text(kSpilledPrompt + 20, kSpillSeed + 3);
  SpillRun whole(member, spill_setting(), 0, 0);
  const Logits expected = answer(whole, text);
  uint64_t n_lost = 0;
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    SpillRun away(member, spill_setting(2), 0, kSpillChunk + 500,
                  tiers::testing::faulty_disk(kSpillSeed + seed));
    EXPECT_EQ(testing::first_difference(answer(away, text), expected), std::nullopt);
    n_lost += away.store().lost_extents;
  }
  EXPECT_GT(n_lost, 0u);
}

/// With a part of the card's: the answers go on, as near to the reference as any.
TEST(DeviceSpill, FaultsOfTheDiskAreRepairedBesideTheCardsPart) {
  const LoadedMember member("llama3");
  const auto text = member.text(kSpilledPrompt + 20, kSpillSeed + 4);
  const auto reference = testing::reference_of(member.file, text);
  uint64_t n_lost = 0;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(seed);
    SpillRun away(member, spill_setting(2), 1, kSpillChunk + 500,
                  tiers::testing::faulty_disk(kSpillSeed + seed));
    testing::expect_near(answer(away, text), reference);
    n_lost += away.store().lost_extents;
  }
  EXPECT_GT(n_lost, 0u);
}

}  // namespace
}  // namespace strata::engine
