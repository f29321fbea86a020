// Selected steps on a device, by the emulator: the host chooses between a layer's queries and their
// attention, and blocks that the device's memory does not hold take the place of others there.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <string>
#include <utility>

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

/// The same blocks are chosen as on the CPU, by their place alone and by queries, whose rounding is
/// too little to change a choice here. The logits then differ by rounding: 1e-3 of their size, and
/// ten times that is allowed. (Weights in int8 make steps of 1/127 of such differences.)
TEST(DeviceSelection, AgreesWithTheCpu) {
  for (const char* name : {"llama3", "gemma3", "qwen3"}) {
    for (const index::Method method : {index::Method::kRecent, index::Method::kQuest}) {
      SCOPED_TRACE(std::string(name) + " " + std::to_string(static_cast<int>(method)));
      const LoadedMember member(name);
      const auto text = text_of(member);
      WalkSetting few = selection_setting(method, kFewTokens);
      few.chunk_rows = kDeviceFewRows;  // that share a choice on a device
      DeviceRun device(member, few);
      const Logits found = asked(device.walk(), text, Attention::kSelected);
      testing::ZooWalk cpu(member.model, few);
      const Logits wanted = asked(cpu, text, Attention::kSelected);
      EXPECT_FALSE(testing::is_same(wanted, asked(cpu, text, Attention::kExact)));
      ASSERT_EQ(found.size(), wanted.size());
      for (size_t row = 0; row < wanted.size(); ++row) {
        double square = 0, difference = 0;
        for (size_t i = 0; i < wanted[row].size(); ++i) {
          square += double{wanted[row][i]} * wanted[row][i];
          difference += std::pow(double{wanted[row][i]} - found[row][i], 2);
        }
        EXPECT_LT(std::sqrt(difference / square), 0.01) << row;
      }
      EXPECT_EQ(device.walk().walk().selection_counts().attended_blocks,
                cpu.walk().selection_counts().attended_blocks);
    }
  }
}

/// Rows of two sequences in one step, of one more than share a choice.
TEST(DeviceSelection, SequencesInOneStepAnswerAsByThemselves) {
  const LoadedMember member("llama3");
  const auto text = text_of(member);
  const WalkSetting quest = selection_setting(index::Method::kQuest, kFewTokens);
  DeviceRun whole(member, quest);
  const auto begin = [&](DeviceRun& run, uint32_t n) {
    Sequence sequence = run.walk().sequence();
    run.walk().feed(sequence, std::span(text).first(n));
    return sequence;
  };
  const auto rows_of = [&](Sequence& sequence, uint32_t n) {
    std::vector<StepRow> rows;
    for (uint32_t i = 0; i < n; ++i)
      rows.push_back({&sequence, text[sequence.n_pos() + i], i % 3 == 1});
    return rows;
  };
  Logits expected;
  {
    Sequence first = begin(whole, 300), second = begin(whole, 250);
    for (auto& row : whole.walk().step(rows_of(first, 10), Attention::kSelected))
      expected.push_back(std::move(row));
    for (auto& row : whole.walk().step(rows_of(second, 2), Attention::kSelected))
      expected.push_back(std::move(row));
  }
  DeviceRun some(member, quest, hbm_with(whole, whole.plan().kv_bytes / 4));
  Sequence first = begin(some, 300), second = begin(some, 250);
  auto rows = rows_of(first, 10);
  for (const StepRow& row : rows_of(second, 2)) rows.push_back(row);
  EXPECT_TRUE(testing::is_same(some.walk().step(rows, Attention::kSelected), expected));
}

/// Where blocks lie changes no bit: all in the device's memory, none, and so few that they take
/// each other's places, with steps between that attend everything.
TEST(DeviceSelection, BlocksThatTakeOthersPlacesChangeNoBit) {
  for (const auto& [name, between] : {std::pair{"llama3", 0u}, {"llama3", 5u}, {"gemma3", 5u}}) {
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

/// Windows move on and the full layer wants slots; there is room for what windowed layers hold and
/// for two blocks of each of its KV heads.
TEST(DeviceSelection, WindowedLayersKeepTheirCopies) {
  const LoadedMember member("gemma3");
  const auto text = text_of(member);
  const WalkSetting quest = selection_setting(index::Method::kQuest, kFewTokens);
  DeviceRun whole(member, quest);
  const KvCache& like = whole.walk().cache();
  uint64_t n_slots = 0;
  for (const LayerShape& layer : like.shape().layers)
    n_slots += layer.n_kv_heads *
               (layer.window == 0 ? 2 : stream_blocks_max(layer, quest.n_ctx, quest.chunk_rows));
  DeviceRun some(member, quest, hbm_with(whole, n_slots * like.layout().block_bytes));
  Sequence sequence = some.walk().sequence();
  some.walk().feed(sequence, std::span(text).first(200));
  for (uint32_t i = 200; i < 290; ++i)
    some.walk().feed(sequence, std::span(text).subspan(i, 1), 0, Attention::kSelected);
  const KvCache& cache = some.walk().cache();
  uint32_t n_windowed = 0;
  for (uint32_t layer = 0; layer < cache.shape().n_layers; ++layer)
    for (uint32_t head = 0; head < cache.shape().layers[layer].n_kv_heads; ++head) {
      if (cache.shape().layers[layer].window == 0) continue;
      for (const tiers::BlockId block : cache.stream_blocks(sequence, layer, head).blocks) {
        ++n_windowed;
        EXPECT_TRUE(some.device().has_copy(block)) << layer;
      }
    }
  EXPECT_GT(n_windowed, 0u);
  EXPECT_GT(some.device().kv_counts().missed_bytes, 0u);
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

/// The flag comes up while the first layer attends; with layers that stay and layers that pass.
TEST(DeviceSelection, AStepThatIsStoppedLeavesTheSequenceAsItWas) {
  static std::atomic<bool> is_stopped;
  const LoadedMember member("llama3");
  const auto text = text_of(member);
  const WalkSetting quest = selection_setting(index::Method::kQuest, kFewTokens);
  DeviceTable stopping = gpu_emu::emulated_device();
  stopping.kernels.attend = [](DeviceStream* stream, const DeviceAttendArgs& args) {
    is_stopped = true;
    return gpu_emu::emulated_device().kernels.attend(stream, args);
  };
  DeviceRun whole(member, quest);
  Sequence fresh = whole.walk().sequence();
  whole.walk().feed(fresh, std::span(text).first(kRead));
  const std::vector<StepRow> fresh_rows{{&fresh, text[kRead], true}};
  const Logits expected = whole.walk().step(fresh_rows, Attention::kSelected);
  const uint64_t step_bytes = whole.device().kv_counts().chosen_bytes;
  for (const uint64_t hbm_bytes :
       {hbm_with(whole, 2 * step_bytes), testing::least_hbm(whole.needs())}) {
    SCOPED_TRACE(hbm_bytes);
    DeviceRun run(member, quest, hbm_bytes, stopping);
    Sequence sequence = run.walk().sequence();
    run.walk().feed(sequence, std::span(text).first(kRead));
    run.walk().walk().set_cancel(&is_stopped);
    const std::vector<StepRow> rows{{&sequence, text[kRead], true}};
    is_stopped = false;
    const uint64_t chosen_before = run.device().kv_counts().chosen_bytes;
    EXPECT_THROW(run.walk().step(rows, Attention::kSelected), Error);
    EXPECT_GT(run.device().kv_counts().chosen_bytes, chosen_before);
    run.walk().walk().set_cancel(nullptr);
    EXPECT_EQ(sequence.n_pos(), kRead);
    EXPECT_TRUE(testing::is_same(run.walk().step(rows, Attention::kSelected), expected));
  }
}

}  // namespace
}  // namespace strata::engine
