// Selected steps on a device, by the emulator: the host chooses between a layer's queries and their
// attention, and blocks that the device's memory does not hold take the place of others there.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <string>

#include "base/error.h"
#include "tests/device/device_run.h"

namespace strata::engine {
namespace {

using testing::DeviceRun;
using testing::LoadedMember;
using testing::Logits;
using testing::WalkSetting;

constexpr uint32_t kSelectSeed = 20261127;
constexpr uint32_t kRead = 330;   // exactly
constexpr uint32_t kAsked = 12;   // in selected steps
constexpr uint32_t kAnswer = 12;  // token by token

WalkSetting selection_setting(index::Method method, const index::Budget& budget) {
  WalkSetting of{.kernels = cpu_attn::available_kernels().back(),
                 .chunk_rows = 12,
                 .n_ctx = kRead + kAsked + kAnswer + 8};
  of.n_sequences = 2;
  of.method = method;
  of.rule.budget = budget;
  of.rule.n_sink_blocks = 1;
  of.rule.n_window_blocks = 1;
  return of;
}

constexpr index::Budget kEverything{.kind = index::Budget::Kind::kShare, .value = 1};
constexpr index::Budget kFewTokens{.kind = index::Budget::Kind::kTokens, .value = 160};

/// The text is read exactly; the logits of what follows, a question in one step and then an answer.
/// `between`, where it is not 0, is after how many tokens of the answer one is walked exactly.
template <class Run>
Logits asked(Run& walk, std::span<const int32_t> text, Attention attention, uint32_t between = 0) {
  Sequence sequence = walk.sequence();
  walk.feed(sequence, text.first(kRead));
  Logits logits = walk.feed(sequence, text.subspan(kRead, kAsked), 0, attention);
  for (uint32_t i = 0; i < kAnswer; ++i) {
    const bool is_exact = between != 0 && i % between == 0;
    for (auto& row : walk.feed(sequence, text.subspan(kRead + kAsked + i, 1), 0,
                               is_exact ? Attention::kExact : attention))
      logits.push_back(std::move(row));
  }
  return logits;
}

std::vector<int32_t> text_of(const LoadedMember& member) {
  return member.text(kRead + kAsked + kAnswer, kSelectSeed);
}

/// The least budget at which no weights pass, and so much of K and V.
uint64_t hbm_with(const DeviceRun& whole, uint64_t kv_bytes) {
  return whole.plan().hbm_bytes - whole.plan().kv_bytes + kv_bytes;
}

/// Law L6. Tables of so few blocks are one split, whoever cuts them.
TEST(DeviceSelection, ABudgetOfEverythingIsExactAttention) {
  for (const char* name : {"llama3", "gemma3", "llama-quantised"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const auto text = text_of(member);
    WalkSetting whole = selection_setting(index::Method::kQuest, kEverything);
    whole.chunk_rows = kDeviceFewRows;  // more rows of an exact step are attended by other kernels
    whole.n_ctx = 256;
    DeviceRun run(member, whole);
    const auto walked = [&](Attention attention) {
      Sequence sequence = run.walk().sequence();
      run.walk().feed(sequence, std::span(text).first(150));
      Logits logits = run.walk().feed(sequence, std::span(text).subspan(150, 40), 0, attention);
      for (uint32_t i = 190; i < 200; ++i)
        logits.push_back(
            run.walk().feed(sequence, std::span(text).subspan(i, 1), 0, attention).front());
      return logits;
    };
    EXPECT_TRUE(testing::is_same(walked(Attention::kSelected), walked(Attention::kExact)));
  }
}

/// What is chosen by its place alone is chosen alike by the CPU, whose logits then differ by
/// rounding: 1e-3 of their size, and ten times that is allowed. (Weights in int8 make steps of 1/127
/// of such differences.)
TEST(DeviceSelection, AgreesWithTheCpuWhereBothChooseAlike) {
  for (const char* name : {"llama3", "gemma3", "qwen3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const auto text = text_of(member);
    const WalkSetting recent = selection_setting(index::Method::kRecent, kFewTokens);
    DeviceRun device(member, recent);
    const Logits found = asked(device.walk(), text, Attention::kSelected);
    testing::ZooWalk cpu(member.model, recent);
    const Logits wanted = asked(cpu, text, Attention::kSelected);
    const Logits exact = asked(cpu, text, Attention::kExact);
    EXPECT_FALSE(testing::is_same(wanted, exact));
    ASSERT_EQ(found.size(), wanted.size());
    for (size_t row = 0; row < wanted.size(); ++row) {
      double square = 0, difference = 0;
      for (size_t i = 0; i < wanted[row].size(); ++i) {
        square += double{wanted[row][i]} * wanted[row][i];
        difference += std::pow(double{wanted[row][i]} - found[row][i], 2);
      }
      EXPECT_LT(std::sqrt(difference / square), 0.01) << row;
    }
  }
}

/// Where blocks lie changes no bit: all in the device's memory, none, and so few that they take
/// each other's places, with steps between that attend everything.
TEST(DeviceSelection, BlocksThatTakeOthersPlacesChangeNoBit) {
  for (const char* name : {"llama3", "gemma3"}) {
    for (const uint32_t between : {0u, 5u}) {
      SCOPED_TRACE(std::string(name) + " " + std::to_string(between));
      const LoadedMember member(name);
      const auto text = text_of(member);
      const WalkSetting quest = selection_setting(index::Method::kQuest, kFewTokens);
      DeviceRun whole(member, quest);
      const Logits expected = asked(whole.walk(), text, Attention::kSelected, between);
      const DeviceKvCounts& all = whole.device().kv_counts();
      EXPECT_GT(all.chosen_bytes, 0u);
      EXPECT_EQ(all.missed_bytes, 0u);
      const uint64_t per_step = all.chosen_bytes / (kAnswer + kAsked);
      for (const uint64_t kv_bytes : {uint64_t{0}, per_step, per_step * 3}) {
        SCOPED_TRACE(kv_bytes);
        DeviceRun some(member, quest, hbm_with(whole, kv_bytes));
        EXPECT_EQ(some.plan().n_streamed(), 0u);
        EXPECT_TRUE(
            testing::is_same(asked(some.walk(), text, Attention::kSelected, between), expected));
        EXPECT_EQ(some.device().kv_counts().chosen_bytes, all.chosen_bytes);
        EXPECT_GT(some.device().kv_counts().missed_bytes, 0u);
      }
    }
  }
}

/// Most of what a token attends was attended by the one before it, and stayed.
TEST(DeviceSelection, WhatWasChosenStays) {
  const LoadedMember member("llama3");
  const auto text = text_of(member);
  const WalkSetting recent = selection_setting(index::Method::kRecent, kFewTokens);
  DeviceRun whole(member, recent);
  asked(whole.walk(), text, Attention::kSelected);
  const uint64_t chosen = whole.device().kv_counts().chosen_bytes;
  DeviceRun some(member, recent, hbm_with(whole, chosen / (kAnswer + kAsked) * 2));
  asked(some.walk(), text, Attention::kSelected);
  // The last blocks of the text are not among those that were there first.
  EXPECT_GT(some.device().kv_counts().missed_bytes, 0u);
  EXPECT_LT(some.device().kv_counts().missed_bytes, chosen / 4);
}

TEST(DeviceSelection, AChoiceThatIsStoppedLeavesTheSequenceAsItWas) {
  const LoadedMember member("llama3");
  const auto text = text_of(member);
  const WalkSetting quest = selection_setting(index::Method::kQuest, kFewTokens);
  DeviceRun run(member, quest);
  Sequence sequence = run.walk().sequence();
  run.walk().feed(sequence, std::span(text).first(kRead));
  const std::atomic<bool> stopped = true;
  run.walk().walk().set_cancel(&stopped);
  const std::vector<StepRow> rows{{&sequence, text[kRead], true}};
  EXPECT_THROW(run.walk().step(rows, Attention::kSelected), Error);
  run.walk().walk().set_cancel(nullptr);
  EXPECT_EQ(sequence.n_pos(), kRead);
  const Logits found = run.walk().step(rows, Attention::kSelected);
  DeviceRun other(member, quest);
  Sequence fresh = other.walk().sequence();
  other.walk().feed(fresh, std::span(text).first(kRead));
  const std::vector<StepRow> fresh_rows{{&fresh, text[kRead], true}};
  EXPECT_TRUE(testing::is_same(found, other.walk().step(fresh_rows, Attention::kSelected)));
}

}  // namespace
}  // namespace strata::engine
