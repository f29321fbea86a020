// What ends a step beside K and V that spill, by the emulator: a stop, and a disk that has lost
// what the device gave up. The text goes on.
#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "tests/device/spill_run.h"
#include "tests/engine/thrown_error.h"
#include "tests/engine/zoo_distance.h"

namespace strata::engine {
namespace {

using testing::kSpillChunk;
using testing::LoadedMember;
using testing::Logits;
using testing::SpillRun;

constexpr uint32_t kFaultsSeed = 20261201;
constexpr uint32_t kTextRead = 600;

Logits token(SpillRun& run, Sequence& sequence, int32_t id) {
  const std::vector<StepRow> row{{&sequence, id, true}};
  return run.walk().step(row);
}

/// In q8_0 the same bits as with all of it in DRAM.
TEST(DeviceSpillFaults, CodecsOfEightBitsToo) {
  const LoadedMember member("llama3");
  const auto text = member.text(kTextRead + 1, kFaultsSeed);
  testing::WalkSetting q8 = testing::spill_setting();
  q8.k_codec = q8.v_codec = KvCodec::kQ8_0;
  Logits of_both[2];
  for (const bool is_away : {false, true}) {
    SpillRun run(member, q8, 1, is_away ? kSpillChunk + 300 : 0);
    Sequence sequence = run.walk().sequence();
    of_both[is_away] = run.walk().feed(sequence, std::span(text).first(kTextRead));
    of_both[is_away].push_back(token(run, sequence, text[kTextRead])[0]);
    EXPECT_EQ(run.store().extents_read > 0, is_away);
  }
  EXPECT_EQ(testing::first_difference(of_both[0], of_both[1]), std::nullopt);
}

/// A chunk behind the cut is the CPU's alone.
TEST(DeviceSpillFaults, AStoppedChunkOfTheCpuLeavesTheTextAsItWas) {
  const LoadedMember member("llama3");
  const auto text = member.text(kTextRead + 1, kFaultsSeed);
  SpillRun calm(member, testing::spill_setting(), 1, kSpillChunk + 300);
  Sequence of_calm = calm.walk().sequence();
  Logits expected = calm.walk().feed(of_calm, std::span(text).first(kTextRead));
  expected.erase(expected.begin(), expected.begin() + 4 * kSpillChunk);
  SpillRun run(member, testing::spill_setting(2), 1, kSpillChunk + 300);
  Sequence sequence = run.walk().sequence();
  run.walk().feed(sequence, std::span(text).first(4 * kSpillChunk));
  const uint64_t attended = run.run->device().kv_counts().attended_bytes;
  const auto rest = std::span(text).subspan(4 * kSpillChunk, kTextRead - 4 * kSpillChunk);
  std::atomic<bool> is_stopped = false;
  uint32_t n_operations = 0;
  run.walk().walk().set_cancel(&is_stopped);
  run.walk().walk().set_between_operations([&] { is_stopped = ++n_operations == 9; });
  testing::expect_error([&] { run.walk().feed(sequence, rest); }, ErrorCode::kCancelled, "stopped");
  run.walk().walk().set_cancel(nullptr);
  run.walk().walk().set_between_operations({});
  EXPECT_EQ(sequence.n_pos(), 4 * kSpillChunk);
  EXPECT_EQ(testing::first_difference(run.walk().feed(sequence, rest), expected), std::nullopt);
  EXPECT_EQ(run.run->device().kv_counts().attended_bytes, attended);
  EXPECT_EQ(testing::first_difference(token(run, sequence, text[kTextRead]),
                                      token(calm, of_calm, text[kTextRead])),
            std::nullopt);
}

/// The beginning of a text gives way to another's and leaves DRAM, and reading it fails: it is
/// computed again, and the token is as near to the reference as any.
TEST(DeviceSpillFaults, WhatTheDeviceGaveUpAndTheDiskHasLostIsComputedAgain) {
  const LoadedMember member("llama3");
  SpillRun run(member, testing::spill_setting(), 1, 250, {}, 1, 3);
  run.walk().walk().set_reads_ahead(false);  // so that what the device lacks is what is read first
  std::vector<std::vector<int32_t>> texts;
  std::vector<Sequence> sequences;
  std::vector<Logits> logits;
  for (uint32_t i = 0; i < 2; ++i) {
    texts.push_back(member.text(kTextRead + 3, kFaultsSeed + 1 + i));
    sequences.push_back(run.walk().sequence());
    logits.push_back(run.walk().feed(sequences[i], std::span(texts[i]).first(kTextRead)));
  }
  for (uint32_t turn = 0; turn < 3; ++turn)
    for (uint32_t i = 0; i < 2; ++i) {
      const uint64_t n_lost = run.store().lost_extents;
      const KvCache& cache = run.walk().cache();
      EXPECT_FALSE(run.run->device().has_copy(cache.stream_blocks(sequences[i], 0, 0).blocks[0]));
      tiers::SimulatedIo& disk = *run.made.disk;
      for (uint64_t k = 0; k < 2; ++k)  // what fails is read once more
        disk.fail_nth(disk.n_submitted() + k, tiers::FaultKind::kReadError);
      logits[i].push_back(token(run, sequences[i], texts[i][kTextRead + turn])[0]);
      EXPECT_EQ(run.store().lost_extents, n_lost + 1);
      EXPECT_TRUE(run.run->device().has_copy(cache.stream_blocks(sequences[i], 0, 0).blocks[0]));
    }
  for (uint32_t i = 0; i < 2; ++i)
    testing::expect_near(logits[i], testing::reference_of(member.file, texts[i]));
}

}  // namespace
}  // namespace strata::engine
