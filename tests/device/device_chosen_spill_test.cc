// Blocks that an index chooses of K and V that spill, beside a device, by the emulator: copies
// there of what was chosen, the rest in DRAM and in a file; against the same placement with all of
// it in DRAM, bit for bit.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "tests/device/spill_run.h"
#include "tests/engine/thrown_error.h"
#include "tests/engine/zoo_distance.h"

namespace strata::engine {
namespace {

using testing::chosen_setting;
using testing::first_difference;
using testing::kManyTexts;
using testing::kSpillBlockFrames;
using testing::LoadedMember;
using testing::Logits;
using testing::SpillRun;
using testing::WalkSetting;
using tiers::SimulatedDisk;

constexpr uint32_t kChosenSeed = 20261130;
constexpr uint32_t kChosenRead = 1024;  // exactly: four extents of each layer
constexpr uint32_t kChosenAsked = 12;   // in one selected step: more than choose together
constexpr uint32_t kChosenAnswer = 12;  // token by token
constexpr uint32_t kSomeHeld = 560;     // positions that DRAM holds, where not all of them
constexpr index::Budget kAllOfIt{.kind = index::Budget::Kind::kShare, .value = 1};

std::vector<int32_t> chosen_text(const LoadedMember& member,
                                 uint32_t n = kChosenRead + kChosenAsked + kChosenAnswer,
                                 uint32_t text = 0) {
  return member.text(n, kChosenSeed + text);
}

/// A run whose device has room for n_segments, of which so many texts have even parts that none has
/// one for its beginning: prompts are the CPU's, which is quicker than the emulator.
SpillRun chosen_run(const LoadedMember& member, const WalkSetting& setting, uint64_t n_segments,
                    uint64_t n_positions, const SimulatedDisk& disk = {}, uint32_t n_held = 1,
                    const DeviceTable& table = gpu_emu::emulated_device()) {
  return SpillRun(member, setting, n_segments, n_positions, disk, kManyTexts, n_held, table);
}

/// Logits behind kChosenRead tokens that are read exactly: of a question in one step, then of an
/// answer.
Logits answer_chosen(testing::ZooWalk& walk, Sequence& sequence, std::span<const int32_t> text) {
  walk.feed(sequence, text.first(kChosenRead));
  Logits logits =
      walk.feed(sequence, text.subspan(kChosenRead, kChosenAsked), 0, Attention::kSelected);
  for (const int32_t token : text.subspan(kChosenRead + kChosenAsked)) {
    const std::vector<StepRow> row{{&sequence, token, true}};
    logits.push_back(walk.step(row, Attention::kSelected)[0]);
  }
  return logits;
}
Logits answer_chosen(SpillRun& of, std::span<const int32_t> text) {
  Sequence sequence = of.walk().sequence();
  return answer_chosen(of.walk(), sequence, text);
}

/// What the device has room for is some blocks less than a token chooses of all layers, or more.
TEST(DeviceChosenSpill, AnswersAreThoseOfAllOfItInDram) {
  struct Room {
    const char* name;
    uint64_t n_segments;
    uint32_t n_texts;  // one: a prompt's first segment is the device's
  };
  for (const auto& [name, n_segments, n_texts] :
       {Room{"llama3", 1, 1}, {"llama3", 3, kManyTexts}, {"gemma3", 2, 3}}) {
    SCOPED_TRACE(std::string(name) + " " + std::to_string(n_segments));
    const LoadedMember member(name);
    const auto text = chosen_text(member);
    SpillRun whole(member, chosen_setting(), n_segments, 0, {}, n_texts);
    const Logits expected = answer_chosen(whole, text);
    EXPECT_EQ(whole.store().n_evicted(), 0u);
    SpillRun away(member, chosen_setting(index::Method::kQuest, 2), n_segments, kSomeHeld,
                  {.seed = 1, .latency_spread = std::chrono::microseconds(200)}, n_texts);
    EXPECT_EQ(first_difference(answer_chosen(away, text), expected), std::nullopt);
    EXPECT_GT(away.store().blocks_read, 0u);
    const DeviceKvCounts& counts = away.run->device().kv_counts();
    EXPECT_EQ(counts.chosen_bytes, whole.run->device().kv_counts().chosen_bytes);
    EXPECT_EQ(counts.missed_bytes, whole.run->device().kv_counts().missed_bytes);
    const SelectionCounts& chosen = away.walk().walk().selection_counts();
    EXPECT_EQ(chosen.missing_blocks, away.store().blocks_read);
    EXPECT_LT(chosen.missing_blocks, chosen.pinned_blocks);
    EXPECT_LT(chosen.pinned_blocks, chosen.attended_blocks);
    EXPECT_LT(chosen.attended_blocks, chosen.blocks);
    EXPECT_GE(chosen.file_bytes, chosen.missing_blocks * away.layout.block_bytes);
  }
}

/// Whatever the disk's speed, the size of DRAM, the number of threads and what is read ahead.
TEST(DeviceChosenSpill, BitsFollowFromThePlanAlone) {
  const LoadedMember member("llama3");
  const auto text = chosen_text(member);
  for (const index::Method method : {index::Method::kRabitq, index::Method::kRecent}) {
    SCOPED_TRACE(static_cast<int>(method));
    SpillRun first = chosen_run(member, chosen_setting(method), 2, kSomeHeld);
    const Logits expected = answer_chosen(first, text);
    for (const uint32_t n_positions : {540u, 900u}) {
      SCOPED_TRACE(n_positions);
      SpillRun other =
          chosen_run(member, chosen_setting(method, 3), 2, n_positions,
                     {.seed = n_positions, .latency_spread = std::chrono::milliseconds(1)});
      other.walk().walk().set_reads_ahead(n_positions == 900);
      EXPECT_EQ(first_difference(answer_chosen(other, text), expected), std::nullopt);
    }
  }
}

TEST(DeviceChosenSpill, CodecsOfEightBitsToo) {
  const LoadedMember member("llama3");
  const auto text = chosen_text(member);
  WalkSetting q8 = chosen_setting();
  q8.k_codec = q8.v_codec = KvCodec::kQ8_0;
  SpillRun whole = chosen_run(member, q8, 2, 0);
  SpillRun away = chosen_run(member, q8, 2, kSomeHeld);
  EXPECT_EQ(first_difference(answer_chosen(away, text), answer_chosen(whole, text)), std::nullopt);
  EXPECT_GT(away.store().blocks_read, 0u);
}

/// Law L6, beside exact steps that are of both sides in one run and of one side in the other.
TEST(DeviceChosenSpill, ABudgetOfEverythingIsExactAttention) {
  for (const char* name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const LoadedMember member(name);
    const auto text = chosen_text(member);
    WalkSetting whole = chosen_setting();
    whole.rule.budget = kAllOfIt;
    SpillRun away =
        chosen_run(member, whole, std::string_view(name) == "llama3" ? 2 : 5, kSomeHeld);
    Sequence sequence = away.walk().sequence();
    Logits logits = away.walk().feed(sequence, std::span(text).first(kChosenRead));
    for (auto& row : away.walk().feed(sequence, std::span(text).subspan(kChosenRead, kChosenAsked),
                                      0, Attention::kSelected))
      logits.push_back(std::move(row));
    for (uint32_t i = kChosenRead + kChosenAsked; i < text.size(); ++i)
      logits.push_back(away.walk()
                           .feed(sequence, std::span(text).subspan(i, 1), 0, Attention::kSelected)
                           .front());
    testing::expect_near(logits, testing::reference_of(member.file, text));
    const SelectionCounts& counts = away.walk().walk().selection_counts();
    EXPECT_EQ(counts.attended_blocks, counts.blocks);
  }
}

/// What the device has of a choice needs neither the disk nor DRAM, whatever has left that.
TEST(DeviceChosenSpill, ATokenThatChoosesTheSameReadsNothing) {
  const LoadedMember member("llama3");
  const auto text = chosen_text(member);
  SpillRun run = chosen_run(member, chosen_setting(index::Method::kRecent), 3, kSomeHeld);
  Sequence sequence = run.walk().sequence();
  run.walk().feed(sequence, std::span(text).first(kChosenRead));
  const auto token = [&] {
    run.walk().feed(sequence, std::span(text).subspan(sequence.n_pos(), 1), 0,
                    Attention::kSelected);
  };
  tiers::BlockStore& store = run.walk().cache().store();
  const auto leave_dram = [&] { EXPECT_TRUE(store.make_room(store.n_pinnable())); };
  token();
  const uint64_t n_read = store.counts().blocks_read, n_pinned = store.counts().blocks_pinned;
  const uint64_t missed = run.run->device().kv_counts().missed_bytes;
  EXPECT_GT(n_pinned, 0u);
  leave_dram();
  for (uint32_t i = 0; i < 5; ++i) token();
  EXPECT_EQ(store.counts().blocks_pinned, n_pinned);
  EXPECT_EQ(store.counts().blocks_read, n_read);
  EXPECT_EQ(run.run->device().kv_counts().missed_bytes, missed);
}

/// A third of a token's choice has no room: of the same choice again a part is there, where the
/// oldest first would give up all of it.
TEST(DeviceChosenSpill, ADeviceSmallerThanATokensChoiceKeepsAPartOfIt) {
  const LoadedMember member("llama3");
  const auto text = chosen_text(member);
  SpillRun run = chosen_run(member, chosen_setting(index::Method::kRecent), 1, kSomeHeld);
  Sequence sequence = run.walk().sequence();
  run.walk().feed(sequence, std::span(text).first(kChosenRead));
  const auto tokens = [&](uint32_t n) {
    for (uint32_t i = 0; i < n; ++i)
      run.walk().feed(sequence, std::span(text).subspan(sequence.n_pos(), 1), 0,
                      Attention::kSelected);
    return run.run->device().kv_counts();
  };
  const DeviceKvCounts before = tokens(4), after = tokens(8);
  const uint64_t chosen = after.chosen_bytes - before.chosen_bytes;
  const uint64_t room = run.run->plan().kv_bytes;
  EXPECT_GT(chosen / 8, room);
  const uint64_t least = chosen - 8 * room;  // that any rule would miss
  EXPECT_LT(after.missed_bytes - before.missed_bytes, least + (chosen - least) / 4);
}

/// Nor does a text's turn give up what it has chosen in its last, for another's that came between.
TEST(DeviceChosenSpill, TextsThatTakeTurnsKeepAPartOfTheirChoices) {
  const LoadedMember member("llama3");
  SpillRun run = chosen_run(member, chosen_setting(index::Method::kRecent), 1, 2 * kSomeHeld);
  std::vector<std::vector<int32_t>> texts;
  std::vector<Sequence> sequences;
  for (uint32_t i = 0; i < 2; ++i) {
    texts.push_back(member.text(kChosenRead + 8, kChosenSeed + i));
    sequences.push_back(run.walk().sequence());
    run.walk().feed(sequences[i], std::span(texts[i]).first(kChosenRead));
  }
  const auto tokens = [&](uint32_t n) {
    for (uint32_t i = 0; i < 2 * n; ++i) {
      Sequence& sequence = sequences[i % 2];
      run.walk().feed(sequence, std::span(texts[i % 2]).subspan(sequence.n_pos(), 1), 0,
                      Attention::kSelected);
    }
    return run.run->device().kv_counts();
  };
  const DeviceKvCounts before = tokens(3), after = tokens(5);
  const uint64_t chosen = after.chosen_bytes - before.chosen_bytes;
  const uint64_t room = run.run->plan().kv_bytes;
  const uint64_t least = chosen - 5 * room;  // of two texts' tokens: that any rule would miss
  EXPECT_LT(after.missed_bytes - before.missed_bytes, least + (chosen - least) / 2);
}

/// What was copied to the device leaves DRAM before what was not.
TEST(DeviceChosenSpill, WhatTheDeviceHasLeavesDramFirst) {
  const LoadedMember member("llama3");
  const auto text = chosen_text(member);
  SpillRun run = chosen_run(member, chosen_setting(index::Method::kRecent), 2, 0);
  Sequence sequence = run.walk().sequence();
  run.walk().feed(sequence, std::span(text).first(kChosenRead));
  for (uint32_t i = 0; i < 3; ++i)
    run.walk().feed(sequence, std::span(text).subspan(kChosenRead + i, 1), 0, Attention::kSelected);
  tiers::BlockStore& store = run.walk().cache().store();
  const uint64_t n_pinned = store.counts().blocks_pinned;
  EXPECT_GT(n_pinned, 0u);
  EXPECT_TRUE(store.make_room(store.pool().n_free() + n_pinned));
  const auto blocks = run.walk().cache().stream_blocks(sequence, 0, 0).blocks;
  for (uint32_t i = 0; i < kChosenRead / kBlockPositions; ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(store.is_resident(blocks[i]), !run.run->device().has_copy(blocks[i]));
  }
}

/// Most of a long text, of which DRAM does not hold what a layer lacks at a time.
constexpr uint32_t kLongRead = 1536, kLittleHeld = 320;
WalkSetting waves_setting() {
  WalkSetting of = chosen_setting();
  of.chunk_rows = 32;  // so that little of DRAM is open
  of.rule.budget = {.kind = index::Budget::Kind::kShare, .value = 0.9};
  return of;
}

TEST(DeviceChosenSpill, WavesThatDramHoldsChangeNoBit) {
  const LoadedMember member("llama3");
  const auto text = chosen_text(member, kLongRead + 6);
  const auto walked = [&](uint32_t n_positions, size_t& n_waves) {
    SpillRun run = chosen_run(member, waves_setting(), 3, n_positions);
    Trace trace(1 << 14);
    run.walk().walk().set_trace(&trace);
    Sequence sequence = run.walk().sequence();
    run.walk().feed(sequence, std::span(text).first(kLongRead));
    Logits logits =
        run.walk().feed(sequence, std::span(text).subspan(kLongRead), 0, Attention::kSelected);
    n_waves = static_cast<size_t>(std::ranges::count_if(trace.events(), [](const TraceEvent& of) {
      return of.name == std::string_view("bring blocks");
    }));
    EXPECT_EQ(run.walk().cache().store().block_transfers()->n_free(), kSpillBlockFrames);
    return logits;
  };
  size_t n_whole = 0, n_small = 0;
  const Logits expected = walked(0, n_whole);
  EXPECT_EQ(first_difference(walked(kLittleHeld, n_small), expected), std::nullopt);
  EXPECT_EQ(n_whole, member.model.shape().n_layers);
  EXPECT_GT(n_small, n_whole);
}

/// Three texts take turns where the device and DRAM hold less than one of them wants, and two are
/// in one step.
TEST(DeviceChosenSpill, WhatRanBeforeChangesNoBit) {
  const LoadedMember member("llama3");
  std::vector<std::vector<int32_t>> texts;
  std::vector<Logits> expected;
  for (uint32_t i = 0; i < 3; ++i) {
    texts.push_back(chosen_text(member, kChosenRead + kChosenAsked + 6, i));
    SpillRun alone = chosen_run(member, chosen_setting(), 1, kSomeHeld);
    expected.push_back(answer_chosen(alone, texts[i]));
  }
  SpillRun busy = chosen_run(member, chosen_setting(index::Method::kQuest, 2), 1, 400, {}, 3);
  std::vector<Sequence> sequences;
  for (uint32_t i = 0; i < 3; ++i) {
    sequences.push_back(busy.walk().sequence());
    EXPECT_EQ(first_difference(answer_chosen(busy.walk(), sequences[i],
                                             std::span(texts[i]).first(kChosenRead + kChosenAsked)),
                               std::span(expected[i]).first(kChosenAsked)),
              std::nullopt);
  }
  const auto row_of = [&](Sequence& sequence, uint32_t i) {
    return StepRow{&sequence, texts[i][sequence.n_pos()], true};
  };
  const auto wanted = [&](uint32_t i, uint32_t n_pos) {
    return std::span(expected[i]).subspan(n_pos - kChosenRead, 1);
  };
  for (uint32_t turn = 0; turn < 3; ++turn) {
    const uint32_t one = turn, other = (turn + 1) % 3;
    const uint32_t one_pos = sequences[one].n_pos(), other_pos = sequences[other].n_pos();
    const std::vector<StepRow> rows{row_of(sequences[one], one), row_of(sequences[other], other)};
    const Logits both = busy.walk().step(rows, Attention::kSelected);
    EXPECT_EQ(first_difference(std::span(both).first(1), wanted(one, one_pos)), std::nullopt);
    EXPECT_EQ(first_difference(std::span(both).last(1), wanted(other, other_pos)), std::nullopt);
  }
  Sequence fork = sequences[1].fork();
  for (Sequence* sequence : {&fork, &sequences[1]}) {
    const uint32_t pos = sequence->n_pos();
    const std::vector<StepRow> row{row_of(*sequence, 1)};
    EXPECT_EQ(first_difference(busy.walk().step(row, Attention::kSelected), wanted(1, pos)),
              std::nullopt);
  }
  EXPECT_GT(busy.store().blocks_read, 0u);
}

/// Steps that attend everything come between: before the cut on the device, which has all of it
/// again then, and behind it, where they are the CPU's, also of one row.
TEST(DeviceChosenSpill, ExactStepsTakeTurnsWithThem) {
  const LoadedMember member("llama3");
  const auto text = chosen_text(member);
  const auto walked = [&](uint32_t n_positions) {
    SpillRun run(member, chosen_setting(), 1, n_positions);
    Sequence sequence = run.walk().sequence();
    run.walk().feed(sequence, std::span(text).first(kChosenRead));
    Logits logits;
    for (uint32_t i = 0; i < 12; ++i) {
      const uint32_t n = i % 4 == 3 ? 2 : 1;
      const std::span<const int32_t> next = std::span(text).subspan(sequence.n_pos(), n);
      const auto attention = i % 2 == 0 ? Attention::kSelected : Attention::kExact;
      for (auto& row : run.walk().feed(sequence, next, 0, attention))
        logits.push_back(std::move(row));
    }
    EXPECT_EQ(run.run->device().kv_counts().cpu_bytes, 0u);
    Sequence cut = sequence.fork();
    EXPECT_EQ(cut.truncate(200), 200u);
    for (uint32_t i = 0; i < 6; ++i)
      for (auto& row : run.walk().feed(cut, std::span(text).subspan(kChosenRead + i, 1), 0,
                                       i % 2 == 0 ? Attention::kSelected : Attention::kExact))
        logits.push_back(std::move(row));
    EXPECT_GT(run.run->device().kv_counts().attended_bytes, 0u);
    return logits;
  };
  EXPECT_EQ(first_difference(walked(kSomeHeld), walked(0)), std::nullopt);
}

/// What is lost was read in chunks, which come back bit for bit.
TEST(DeviceChosenSpill, FaultsOfTheDiskChangeNoBit) {
  const LoadedMember member("llama3");
  const auto text = chosen_text(member);
  SpillRun whole = chosen_run(member, chosen_setting(), 1, 0);
  const Logits expected = answer_chosen(whole, text);
  uint64_t n_lost = 0, n_retried = 0;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(seed);
    SpillRun away = chosen_run(member, chosen_setting(index::Method::kQuest, 2), 1, kSomeHeld + 60,
                               tiers::testing::faulty_disk(kChosenSeed + seed));
    EXPECT_EQ(first_difference(answer_chosen(away, text), expected), std::nullopt);
    EXPECT_EQ(away.walk().walk().counts().rows_made_exact, 0u);
    n_lost += away.store().lost_extents;
    n_retried += away.store().retries;
  }
  EXPECT_GT(n_lost, 0u);
  EXPECT_GT(n_retried, n_lost);
}

/// The reads of one wave fail behind another's, whose copies are there: the step runs anew, and
/// nothing stays pinned or under way.
TEST(DeviceChosenSpill, ABlockThatIsLostInALaterWaveChangesNoBit) {
  const LoadedMember member("llama3");
  const auto text = chosen_text(member, kLongRead + 3);
  Logits expected;
  uint64_t n_pinnable = 0, n_lost = 0;
  for (const uint64_t after : {UINT64_MAX / 2, uint64_t{0}, uint64_t{40}, uint64_t{70}}) {
    SCOPED_TRACE(after);
    SpillRun run = chosen_run(member, waves_setting(), 3, kLittleHeld);
    Sequence sequence = run.walk().sequence();
    run.walk().feed(sequence, std::span(text).first(kLongRead));
    tiers::SimulatedIo& disk = *run.made.block_disk;
    for (uint64_t i = after; i < after + kSpillBlockFrames + 1; ++i)
      disk.fail_nth(disk.n_submitted() + i, tiers::FaultKind::kReadError);
    const Logits logits =
        run.walk().feed(sequence, std::span(text).subspan(kLongRead), 0, Attention::kSelected);
    const tiers::BlockStore& store = run.walk().cache().store();
    EXPECT_EQ(store.block_transfers()->n_free(), kSpillBlockFrames);
    if (expected.empty()) {
      expected = logits;
      n_pinnable = store.n_pinnable();
      continue;
    }
    EXPECT_EQ(first_difference(logits, expected), std::nullopt);
    EXPECT_EQ(store.n_pinnable(), n_pinnable);
    n_lost += store.counts().lost_extents;
  }
  EXPECT_GE(n_lost, 3u);
}

/// The flag comes up while the first layer attends.
TEST(DeviceChosenSpill, AStepThatIsStoppedLeavesTheSequenceAsItWas) {
  static std::atomic<bool> is_stopped;
  const LoadedMember member("llama3");
  const auto text = chosen_text(member);
  DeviceTable stopping = gpu_emu::emulated_device();
  stopping.kernels.attend = [](DeviceStream* stream, const DeviceAttendArgs& args) {
    is_stopped = true;
    return gpu_emu::emulated_device().kernels.attend(stream, args);
  };
  SpillRun whole = chosen_run(member, chosen_setting(), 1, 0);
  const Logits expected =
      answer_chosen(whole, std::span(text).first(kChosenRead + kChosenAsked + 1));
  SpillRun run = chosen_run(member, chosen_setting(), 1, kSomeHeld, {}, 1, stopping);
  Sequence sequence = run.walk().sequence();
  answer_chosen(run.walk(), sequence, std::span(text).first(kChosenRead + kChosenAsked));
  const tiers::BlockStore& store = run.walk().cache().store();
  const uint64_t n_pinnable = store.n_pinnable();
  const std::vector<StepRow> row{{&sequence, text[kChosenRead + kChosenAsked], true}};
  run.walk().walk().set_cancel(&is_stopped);
  is_stopped = false;
  testing::expect_error([&] { run.walk().step(row, Attention::kSelected); }, ErrorCode::kCancelled,
                        "stopped");
  run.walk().walk().set_cancel(nullptr);
  EXPECT_EQ(sequence.n_pos(), kChosenRead + kChosenAsked);
  EXPECT_EQ(store.n_pinnable(), n_pinnable);
  EXPECT_EQ(store.block_transfers()->n_free(), kSpillBlockFrames);
  EXPECT_EQ(
      first_difference(run.walk().step(row, Attention::kSelected), std::span(expected).last(1)),
      std::nullopt);
}

/// No placement allows it; the text goes on where it was.
TEST(DeviceChosenSpill, ADeviceThatHoldsNoChoiceOfALayerIsRefusedByName) {
  const LoadedMember member("llama3");
  const auto text = chosen_text(member);
  SpillRun run = chosen_run(member, chosen_setting(), 0, kSomeHeld);
  Sequence sequence = run.walk().sequence();
  run.walk().feed(sequence, std::span(text).first(kChosenRead));
  const std::vector<StepRow> row{{&sequence, text[kChosenRead], true}};
  testing::expect_error([&] { run.walk().step(row, Attention::kSelected); }, ErrorCode::kDoesNotFit,
                        "the device's memory does not hold", "--hbm");
  EXPECT_EQ(sequence.n_pos(), kChosenRead);
  EXPECT_EQ(run.walk().step(row).size(), 1u);
}

/// Blocks at hand, in DRAM or on the device, are preferred, and nothing but the steps decides.
TEST(DeviceChosenSpill, BlocksAtHandMayBePreferred) {
  const LoadedMember member("llama3");
  const auto text = chosen_text(member);
  WalkSetting near = chosen_setting(index::Method::kRabitq);
  SpillRun by_weight = chosen_run(member, near, 1, kSomeHeld);
  const Logits exact_choice = answer_chosen(by_weight, text);
  near.rule.residency_tolerance = 0.1;
  SpillRun first = chosen_run(member, near, 1, kSomeHeld);
  const Logits expected = answer_chosen(first, text);
  EXPECT_NE(first_difference(expected, exact_choice), std::nullopt);
  EXPECT_LT(first.store().blocks_read, by_weight.store().blocks_read);
  near.n_threads = 3;
  SpillRun again = chosen_run(member, near, 1, kSomeHeld,
                              {.seed = 3, .latency_spread = std::chrono::milliseconds(2)});
  EXPECT_EQ(first_difference(answer_chosen(again, text), expected), std::nullopt);
  EXPECT_EQ(again.store().blocks_read, first.store().blocks_read);
}

}  // namespace
}  // namespace strata::engine
