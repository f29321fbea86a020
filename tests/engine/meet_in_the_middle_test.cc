// Restoring from both ends: the bits of a run that computes everything, wherever the ends meet and
// whatever the disk does.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <set>

#include "engine/context_cache.h"
#include "engine/kv_placement.h"
#include "engine/meet_in_the_middle.h"
#include "tests/engine/disk_of_files.h"
#include "tests/engine/test_folder.h"
#include "tests/engine/zoo_fixture.h"
#include "tests/sanitizer.h"
#include "tests/tiers/long_run.h"

namespace strata::engine {
namespace {

using std::chrono::milliseconds;
using testing::DiskOfFiles;
using testing::is_same;
using testing::LoadedMember;
using testing::Logits;
using testing::TestFolder;
using testing::WalkSetting;
using testing::ZooWalk;

constexpr uint32_t kDrawSeed = 20261126;
constexpr uint32_t kTokens = 2600;  // ten whole extents of each layer
constexpr tiers::Hash128 kModel{1, 2};

struct DrawnMachine {
  tiers::SimulatedDisk disk{};
  uint32_t chunk_rows = 64;
  // Fewer than there are extents of the only full layer of gemma3.
  uint32_t n_frames = 4;
  uint32_t n_ctx = 8192;
};

WalkSetting setting(const DrawnMachine& machine) {
  WalkSetting setting;
  setting.kernels = cpu_attn::available_kernels().back();
  setting.n_threads = 2;
  setting.chunk_rows = machine.chunk_rows;
  setting.n_ctx = machine.n_ctx;
  return setting;
}

/// A machine that computes a part before the disk has given the rest (slow reads, few at once, and
/// short steps, so that meeting pays), one whose disk gives all first, and then any.
DrawnMachine drawn_machine(uint32_t trial, std::mt19937_64& random) {
  DrawnMachine machine{.chunk_rows = 32u << random() % 3,
                       .n_frames = 4 + static_cast<uint32_t>(random() % 4)};
  machine.disk = {.seed = random(),
                  .latency = milliseconds(100 + random() % 3000),
                  .latency_spread = milliseconds(random() % 500),
                  .look_time = milliseconds(1 + random() % 20)};
  if (trial == 0) {
    machine.disk.latency = milliseconds(3000);
    machine.disk.look_time = milliseconds(2);
    machine.chunk_rows = 32;
    machine.n_frames = 4;
  }
  if (trial == 1) machine.disk.latency = milliseconds(100);
  if (trial == 1) machine.disk.look_time = milliseconds(20);
  return machine;
}

/// A walk beside a folder of saved contexts on a simulated disk.
class SlowRun {
 public:
  SlowRun(const LoadedMember& member, const TestFolder& folder, const DrawnMachine& machine)
      : disk(new DiskOfFiles(machine.disk)),
        walk(member.model, setting(machine), spill(member, machine, disk)),
        contexts({.directory = folder.path("contexts"), .limits = {}, .saves = true}, walk.cache(),
                 kModel, "test") {}

  Sequence restore(std::span<const int32_t> text) { return contexts.restore(walk.cache(), text); }
  /// Nothing is on its way or held for what was given up.
  void expect_no_frame_held() {
    tiers::BlockStore& store = walk.cache().store();
    while (store.wait_for_transfer()) continue;
    EXPECT_EQ(store.transfers()->n_free() + store.transfers()->n_quarantined(),
              store.transfers()->n_frames());
  }

  DiskOfFiles* disk;  // the walk's
  ZooWalk walk;
  ContextCache contexts;

 private:
  static std::unique_ptr<tiers::Spill> spill(const LoadedMember& member,
                                             const DrawnMachine& machine, DiskOfFiles* disk) {
    auto made = std::make_unique<tiers::Spill>();
    made->transfers = std::make_unique<tiers::TransferQueue>(
        std::unique_ptr<DiskOfFiles>(disk),
        tiers::TransferOptions{
            .frame_bytes = place_bytes(member.model.shape(),
                                       {.n_ctx = 8192, .chunk_rows = machine.chunk_rows}),
            .n_frames = machine.n_frames,
            .deadline = std::chrono::seconds(60)});
    return made;
  }
};

class MeetInTheMiddle : public ::testing::TestWithParam<std::string> {
 protected:
  MeetInTheMiddle()
      : member(GetParam()),
        text(member.text(kTokens, kDrawSeed)),
        whole(ZooWalk(member.model, setting({.chunk_rows = 512})).feed_all(text)) {
    SlowRun run(member, folder, {});
    Sequence sequence = run.walk.sequence();
    run.contexts.begin(sequence, std::span(text).first(kSaved));
    run.walk.feed(sequence, std::span(text).first(kSaved));
    run.contexts.finish(run.walk.walk(), sequence);
    EXPECT_EQ(run.contexts.problem(), "");
  }
  /// What follows the saved beginning has the bits of a run that computed all of it.
  void expect_same_rest(SlowRun& run, Sequence& sequence) {
    ASSERT_EQ(sequence.n_pos(), kSaved);
    const Logits rest = run.walk.feed(sequence, std::span(text).subspan(kSaved));
    EXPECT_TRUE(is_same(rest, std::span(whole).last(rest.size())));
  }

  static constexpr uint32_t kSaved = 2584;  // 80 whole blocks and a part of one
  LoadedMember member;
  TestFolder folder;
  std::vector<int32_t> text;
  Logits whole;
};

INSTANTIATE_TEST_SUITE_P(Zoo, MeetInTheMiddle, ::testing::Values("llama3", "gemma3"),
                         [](const auto& of) { return of.param; });

TEST_P(MeetInTheMiddle, EveryMeetingPointGivesTheSameBits) {
  const uint64_t seed = tiers::repeats("STRATA_MEETING_SEED", std::random_device{}());
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::set<uint32_t> meetings;
  for (uint32_t trial = 0; trial < sanitizer::rounds(24, 8); ++trial) {
    const DrawnMachine machine = drawn_machine(trial, random);
    SlowRun slow(member, folder, machine);
    Sequence sequence = slow.restore(std::span(text).first(kSaved));
    const Meeting met = meet_in_the_middle(slow.walk.walk(), sequence, machine.chunk_rows);
    meetings.insert(met.computed_tokens);
    if (met.computed_tokens + met.loaded_tokens > 0) {
      EXPECT_EQ(met.computed_tokens + met.loaded_tokens, kSaved);
      EXPECT_FALSE(slow.walk.cache().store().has_away());
    }
    EXPECT_EQ(slow.walk.cache().store().counts().replaced_blocks, 0u);  // nothing was wrong
    slow.expect_no_frame_held();
    expect_same_rest(slow, sequence);
  }
  EXPECT_GE(meetings.size(), 2u);
}

TEST_P(MeetInTheMiddle, AFastDiskIsReadWhenAStepNeedsIt) {
  SlowRun run(member, folder, {.disk = {.look_time = milliseconds(5)}});
  Sequence sequence = run.restore(std::span(text).first(kSaved));
  const Meeting met = meet_in_the_middle(run.walk.walk(), sequence, 64);
  EXPECT_EQ(met.computed_tokens, 0u);
  EXPECT_TRUE(run.walk.cache().store().has_away());
  expect_same_rest(run, sequence);
}

tiers::SimulatedDisk slow_disk() {
  return {.latency = milliseconds(1500), .look_time = milliseconds(4)};
}

TEST_P(MeetInTheMiddle, WithoutRoomForItAllNothingIsComputedTwice) {
  SlowRun run(member, folder, {.disk = slow_disk(), .n_ctx = 2700});
  Sequence sequence = run.restore(std::span(text).first(kSaved));
  tiers::BlockStore& store = run.walk.cache().store();
  std::vector<tiers::BlockId> others;
  for (uint32_t i = 0; i < 60; ++i) others.push_back(*store.open_block(tiers::kNoBlock));
  EXPECT_EQ(meet_in_the_middle(run.walk.walk(), sequence, 64).computed_tokens, 0u);
  for (const tiers::BlockId block : others) store.release(block);
  expect_same_rest(run, sequence);
}

TEST_P(MeetInTheMiddle, StoppedItHoldsNothingAndTheTextCanGoOn) {
  for (const uint32_t n_steps : {1u, 2u, 4u}) {
    SlowRun run(member, folder, {.disk = slow_disk()});
    Sequence sequence = run.restore(std::span(text).first(kSaved));
    uint32_t n = 0;
    EXPECT_THROW(
        meet_in_the_middle(run.walk.walk(), sequence, 64, [&](uint64_t) { return ++n < n_steps; }),
        Error);
    run.expect_no_frame_held();
    expect_same_rest(run, sequence);
  }
}

TEST_P(MeetInTheMiddle, TheFlagOfACancelledStepStopsIt) {
  SlowRun run(member, folder, {.disk = slow_disk()});
  Sequence sequence = run.restore(std::span(text).first(kSaved));
  const std::atomic<bool> cancel = true;
  run.walk.walk().set_cancel(&cancel);
  const auto now = [&] { return run.walk.cache().store().transfers()->io().now(); };
  const auto start = now();
  EXPECT_THROW(meet_in_the_middle(run.walk.walk(), sequence, 64), Error);
  EXPECT_LT(now() - start, slow_disk().latency);  // not one read was waited for
  run.walk.walk().set_cancel(nullptr);
  run.expect_no_frame_held();
  expect_same_rest(run, sequence);
}

TEST_P(MeetInTheMiddle, WhatIsReadAtOnceIsReadAgainWhereTheFirstReadFails) {
  for (const tiers::FaultKind kind : {tiers::FaultKind::kReadError, tiers::FaultKind::kBitFlip}) {
    SlowRun slow(member, folder, {});
    slow.disk->disk().fail_nth(0, kind);
    Sequence sequence = slow.restore(std::span(text).first(kSaved));
    EXPECT_EQ(slow.disk->disk().injected(kind), 1u);
    EXPECT_EQ(slow.contexts.counts().damaged_packs, 0u);
    expect_same_rest(slow, sequence);
  }
}

TEST_P(MeetInTheMiddle, WhatTheDiskLosesIsComputedAgain) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  uint64_t n_lost = 0;
  for (uint32_t trial = 0; trial < sanitizer::rounds(12, 4); ++trial) {
    DrawnMachine machine{.disk = slow_disk()};
    machine.disk.seed = random();
    SlowRun slow(member, folder, machine);
    // What is read at once fails as a whole.
    Sequence sequence = slow.restore(std::span(text).first(kSaved));
    slow.disk->disk().set_faults(
        {.short_read = 0.05, .read_error = 0.2, .bit_flip = 0.2, .hang = 0.001});
    meet_in_the_middle(slow.walk.walk(), sequence, machine.chunk_rows);
    slow.expect_no_frame_held();
    expect_same_rest(slow, sequence);
    n_lost += slow.walk.cache().store().counts().lost_extents;
  }
  EXPECT_GT(n_lost, 0u);
}

}  // namespace
}  // namespace strata::engine
