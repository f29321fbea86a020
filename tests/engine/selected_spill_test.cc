// Selected steps whose K and V are mostly in a file: the bits of the same selection with all of it
// in DRAM (law L1), and what a disk that lies, fails or hangs does to them.
#include <gtest/gtest.h>

#include <random>

#include "tests/engine/selected_walk.h"

namespace strata::engine {
namespace {

using index::Budget;
using index::Method;
using testing::first_difference;
using testing::is_same;
using testing::LoadedMember;
using testing::Logits;
using testing::Place;
using testing::SelectedSetting;
using testing::SelectedWalk;

constexpr uint32_t kSelectedSeed = 20261126;
constexpr uint32_t kExact = 1024;  // positions read exactly: four extents
constexpr uint32_t kText = 1104;
constexpr uint32_t kOpenPositions = 320;  // an extent that is not closed, and whole blocks

/// A member of full layers and the logits of texts of which the first kExact tokens are read
/// exactly and selection answers the rest.
class SelectedSpill : public ::testing::Test {
 protected:
  SelectedSpill() : member_("llama3"), text_(member_.text(kText, kSelectedSeed)) {}

  std::span<const int32_t> context() const { return std::span(text_).first(kExact); }
  std::span<const int32_t> rest() const { return std::span(text_).subspan(kExact); }
  Logits selected(const SelectedSetting& setting) const {
    SelectedWalk walk(member_.model, setting);
    return selected(walk);
  }
  Logits selected(SelectedWalk& walk) const {
    Sequence sequence = walk.sequence();
    walk.feed(sequence, context());
    return walk.feed(sequence, rest(), 0, Attention::kSelected);
  }

  LoadedMember member_;
  std::vector<int32_t> text_;
};

TEST_F(SelectedSpill, PlacementChangesNoBitOfAnyMethod) {
  for (const auto& method : index::method_names()) {
    SCOPED_TRACE(method.name);
    const SelectedSetting setting{.method = method.method};
    const Logits expected = selected(setting);
    SelectedSetting away = setting;
    away.place = Place::kSimulated;
    away.n_threads = 1 + static_cast<uint32_t>(method.method) % 2;
    SelectedWalk walk(member_.model, away);
    EXPECT_EQ(first_difference(selected(walk), expected), std::nullopt);
    const SelectionCounts& counts = walk.walk().selection_counts();
    EXPECT_GT(counts.missing_blocks, 0u);
    EXPECT_LT(counts.missing_blocks, counts.pinned_blocks);
    EXPECT_LE(counts.pinned_blocks, counts.attended_blocks);
    EXPECT_LT(counts.attended_blocks, counts.blocks / 2);
    EXPECT_GE(counts.file_bytes, counts.missing_blocks * walk.cache().layout().block_bytes);
  }
}

TEST_F(SelectedSpill, NorDoesTheBackEndOrTheCodec) {
  for (const KvCodec codec : {KvCodec::kF16, KvCodec::kQ8_0}) {
    SCOPED_TRACE(kv_codec_name(codec));
    SelectedSetting setting{.method = Method::kQuest, .codec = codec};
    const Logits expected = selected(setting);
    for (const Place place : {Place::kSimulated, Place::kThreads, Place::kUring}) {
      setting.place = place;
      SelectedWalk walk(member_.model, setting);
      if (!walk.is_there()) continue;
      EXPECT_TRUE(is_same(selected(walk), expected)) << walk.io_name();
      EXPECT_GT(walk.walk().selection_counts().missing_blocks, 0u);
    }
  }
}

TEST_F(SelectedSpill, NorDoesReadingNothingAhead) {
  SelectedSetting setting{.method = Method::kQuest};
  const Logits expected = selected(setting);
  setting.place = Place::kSimulated;
  SelectedWalk walk(member_.model, setting);
  walk.walk().set_reads_ahead(false);
  EXPECT_TRUE(is_same(selected(walk), expected));
  EXPECT_GT(walk.walk().selection_counts().missing_blocks, 0u);
}

/// Where reads take different times, blocks of one head are there before those of another, and it
/// is attended then: a layer waits more than once.
TEST_F(SelectedSpill, EachHeadWaitsForItsOwnBlocks) {
  SelectedSetting setting{.place = Place::kSimulated};
  setting.disk.latency_spread = std::chrono::milliseconds(5);
  const auto waits_of = [&](bool reads_ahead) {
    SelectedWalk walk(member_.model, setting);
    walk.walk().set_reads_ahead(reads_ahead);
    Sequence sequence = walk.sequence();
    walk.feed(sequence, context());
    walk.evict_most();
    Trace trace(4096);
    walk.walk().set_trace(&trace);
    walk.feed(sequence, rest().first(1), 0, Attention::kSelected);
    walk.walk().set_trace(nullptr);
    return std::ranges::count_if(trace.events(), [](const TraceEvent& event) {
      return std::string_view(event.name) == "pin_blocks";
    });
  };
  const auto n_layers = static_cast<std::ptrdiff_t>(member_.model.shape().n_layers);
  EXPECT_EQ(waits_of(false), n_layers);
  EXPECT_GT(waits_of(true), n_layers);
}

/// Full layers, windowed ones beside them, one KV head; with room for little more than one span of
/// what a layer attends.
TEST(SelectedSpillOfTheZoo, ABudgetOfEverythingIsExactAttentionInManyWaves) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const auto& listed : makers::zoo()) {
    SCOPED_TRACE(listed.model.name);
    const LoadedMember member(listed.model.name);
    const auto text =
        member.text(1500 + static_cast<uint32_t>(random() % 100), static_cast<uint32_t>(random()));
    const auto n_exact = static_cast<uint32_t>(text.size() - 1 - random() % 30);
    SelectedSetting setting{.budget = {Budget::Kind::kShare, 1.0}};
    const Logits expected = SelectedWalk(member.model, setting).feed_all(text);
    setting.place = Place::kSimulated;
    setting.n_threads = 1 + static_cast<uint32_t>(random() % 2);
    setting.chunk_rows = 32u << random() % 3;
    const auto& layers = member.model.shape().layers;
    const auto n_full =
        static_cast<uint32_t>(std::ranges::count(layers, uint32_t{0}, &LayerShape::window));
    setting.dram_positions =
        setting.chunk_rows + kOpenPositions + 1024 / n_full + static_cast<uint32_t>(random() % 64);
    SelectedWalk away(member.model, setting);
    Sequence sequence = away.sequence();
    away.feed(sequence, std::span(text).first(n_exact));
    const Logits logits =
        away.feed(sequence, std::span(text).subspan(n_exact), 0, Attention::kSelected);
    ASSERT_EQ(first_difference(logits, std::span(expected).subspan(n_exact)), std::nullopt);
    const SelectionCounts& counts = away.walk().selection_counts();
    EXPECT_EQ(counts.attended_blocks, counts.blocks);
    // Windowed layers leave room that they do not always need.
    if (n_full == layers.size()) {
      EXPECT_GT(counts.missing_blocks, counts.steps);
    }
  }
}

/// Other bits than the choice by weight alone, and those follow from the steps: not from threads,
/// nor from what a disk takes for a read. With all of it in DRAM there is nothing to prefer.
TEST_F(SelectedSpill, BlocksInDramArePreferredAndNothingButTheStepsDecides) {
  for (const auto method : {Method::kRabitq, Method::kRabitqTail}) {
    SelectedSetting setting{.method = method};
    const Logits by_weight = selected(setting);
    setting.residency_tolerance = 0.1;
    EXPECT_EQ(first_difference(selected(setting), by_weight), std::nullopt);
    setting.place = Place::kSimulated;
    SelectedWalk near(member_.model, setting);
    const Logits expected = selected(near);
    EXPECT_FALSE(is_same(expected, by_weight));
    for (const uint32_t n_threads : {1u, 3u}) {
      setting.n_threads = n_threads;
      setting.disk = {.seed = n_threads, .latency_spread = std::chrono::milliseconds(5)};
      SelectedWalk again(member_.model, setting);
      EXPECT_EQ(first_difference(selected(again), expected), std::nullopt);
      EXPECT_EQ(again.walk().selection_counts().missing_blocks,
                near.walk().selection_counts().missing_blocks);
    }
    setting.residency_tolerance = 0;
    SelectedWalk far(member_.model, setting);
    EXPECT_EQ(first_difference(selected(far), by_weight), std::nullopt);
    const auto n_missing = far.walk().selection_counts().missing_blocks;
    EXPECT_LT(near.walk().selection_counts().missing_blocks, n_missing - n_missing / 10);
    EXPECT_EQ(near.walk().selection_counts().attended_blocks,
              far.walk().selection_counts().attended_blocks);
  }
}

TEST_F(SelectedSpill, TwoSequencesInAStepForksAndACutTextChangeNoBit) {
  const auto all_of = [&](Place place) {
    SelectedSetting setting{.method = Method::kQuest, .place = place};
    setting.n_sequences = 2;
    SelectedWalk walk(member_.model, setting);
    const auto other = member_.text(1100, kSelectedSeed + 1);
    Sequence one = walk.sequence();
    Sequence two = walk.sequence();
    walk.feed(one, context());
    walk.feed(two, std::span(other).first(1000));
    Logits all;
    const auto step = [&](std::span<const StepRow> rows) {
      for (auto& row : walk.step(rows, Attention::kSelected)) all.push_back(std::move(row));
    };
    for (uint32_t i = 0; i < 40; ++i)
      step(std::array<StepRow, 3>{
          {{&one, text_[i], true}, {&two, other[2 * i], true}, {&two, other[2 * i + 1], true}}});
    Sequence fork = one.fork();
    for (uint32_t i = 0; i < 40; ++i)
      step(std::array<StepRow, 2>{{{&one, text_[i + 7], true}, {&fork, text_[i], true}}});
    two = walk.sequence();
    EXPECT_EQ(fork.truncate(900), 900u);
    for (uint32_t i = 0; i < 40; ++i)
      step(std::array<StepRow, 2>{{{&one, text_[i], true}, {&fork, text_[i + 3], true}}});
    if (place != Place::kDram) {
      EXPECT_GT(walk.walk().selection_counts().missing_blocks, 0u);
    }
    return all;
  };
  const Logits expected = all_of(Place::kDram);
  EXPECT_EQ(first_difference(all_of(Place::kSimulated), expected), std::nullopt);
}

/// Exact steps read extents of which some blocks are in DRAM, and the other way round.
TEST_F(SelectedSpill, ExactAndSelectedStepsTakeTurns) {
  const auto all_of = [&](Place place) {
    SelectedWalk walk(member_.model, {.place = place});
    Sequence sequence = walk.sequence();
    walk.feed(sequence, context());
    Logits all;
    for (uint32_t i = 0; i < rest().size(); i += 20) {
      const auto part = rest().subspan(i, std::min<size_t>(20, rest().size() - i));
      for (auto& row :
           walk.feed(sequence, part, 0, i / 20 % 2 == 0 ? Attention::kSelected : Attention::kExact))
        all.push_back(std::move(row));
    }
    return all;
  };
  EXPECT_EQ(first_difference(all_of(Place::kSimulated), all_of(Place::kDram)), std::nullopt);
}

TEST_F(SelectedSpill, FaultsOfTheDiskChangeNoBit) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const Logits expected = selected(SelectedSetting{});
  uint64_t n_faults = 0, n_lost = 0;
  while (n_faults < 200) {
    SelectedSetting setting{.place = Place::kSimulated};
    setting.disk = {.seed = random(), .latency_spread = std::chrono::milliseconds(1)};
    setting.disk.faults = {.short_read = 0.1,
                           .ended_early = 0.005,
                           .read_error = 0.03,
                           .bit_flip = 0.05,
                           .misdirected_read = 0.03,
                           .short_write = 0.02,
                           .torn_write = 0.05,
                           .misdirected_write = 0.01,
                           .lost_write = 0.01,
                           .stall = 0.01,
                           .hang = 0.0002};
    SelectedWalk walk(member_.model, setting);
    ASSERT_EQ(first_difference(selected(walk), expected), std::nullopt);
    // No row of a selected step was in an extent that closed, so none was computed otherwise.
    EXPECT_EQ(walk.walk().counts().rows_made_exact, 0u);
    n_faults += walk.n_faults();
    n_lost += walk.cache().store().counts().lost_extents;
  }
  EXPECT_GT(n_lost, 0u);
}

/// EIO behind a part of a layer's blocks, of which heads have been attended already: their extent
/// is computed again, the step has the same bits, and nothing stays pinned.
TEST_F(SelectedSpill, AFaultBehindHeadsThatWereAttendedChangesNoBit) {
  SelectedSetting setting{.place = Place::kSimulated};
  setting.n_block_frames = 4;  // fewer than a head's blocks: the next head's are asked for later
  Logits expected;
  uint64_t n_pinnable = 0, n_lost = 0;
  for (uint64_t after : {UINT64_MAX / 2, uint64_t{0}, uint64_t{12}, uint64_t{28}, uint64_t{42}}) {
    SCOPED_TRACE(after);
    SelectedWalk walk(member_.model, setting);
    Sequence sequence = walk.sequence();
    walk.feed(sequence, context());
    walk.evict_most();
    walk.fail_blocks(after, setting.n_block_frames + 1);
    const Logits logits = walk.feed(sequence, rest(), 0, Attention::kSelected);
    const tiers::BlockStore& store = walk.cache().store();
    if (expected.empty()) {  // that of no fault
      expected = logits;
      n_pinnable = store.n_pinnable();
      EXPECT_EQ(store.counts().lost_extents, 0u);
      continue;
    }
    EXPECT_EQ(first_difference(logits, expected), std::nullopt);
    n_lost += store.counts().lost_extents;
    EXPECT_EQ(store.n_pinnable(), n_pinnable);
    EXPECT_EQ(store.block_transfers()->n_free(), setting.n_block_frames);
  }
  EXPECT_GE(n_lost, 4u);
}

/// Reads of single blocks that always fail: what they lose is computed again, but not for ever; and
/// when they do not fail any more, the text goes on where it was.
TEST_F(SelectedSpill, AStepThatOnlyLosesBlocksEndsByNameAndTheNextOneIsWhole) {
  const auto whole = context().first(600);
  const auto next = rest().first(2);
  SelectedWalk in_dram(member_.model, {});
  Sequence held = in_dram.sequence();
  in_dram.feed(held, whole);
  const Logits expected = in_dram.feed(held, next, 0, Attention::kSelected);
  SelectedSetting setting{.place = Place::kSimulated};
  setting.dram_positions = 400;
  SelectedWalk walk(member_.model, setting);
  Sequence sequence = walk.sequence();
  walk.feed(sequence, whole);
  walk.evict_most();
  const tiers::BlockStore& store = walk.cache().store();
  const uint64_t n_pinnable = store.n_pinnable();
  walk.break_blocks(true);
  try {
    walk.feed(sequence, next, 0, Attention::kSelected);
    ADD_FAILURE() << "a disk that only fails was not missed";
  } catch (const tiers::LostExtent& lost) {
    EXPECT_EQ(lost.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(lost.what()).find("could not be read back: device error"),
              std::string::npos)
        << lost.what();
  }
  EXPECT_EQ(sequence.n_pos(), whole.size());
  EXPECT_EQ(store.n_pinnable(), n_pinnable);
  walk.break_blocks(false);
  EXPECT_EQ(first_difference(walk.feed(sequence, next, 0, Attention::kSelected), expected),
            std::nullopt);
}

/// What it lost is computed again, but not deadline by deadline for ever; and when it answers, the
/// text goes on where it was.
TEST_F(SelectedSpill, ASilentDiskEndsTheStepInTimeAndTheNextOneIsWhole) {
  const Logits expected = selected(SelectedSetting{});
  SelectedSetting setting{.place = Place::kSimulated};
  setting.disk.stall = std::chrono::seconds(1000);
  SelectedWalk walk(member_.model, setting);
  Sequence sequence = walk.sequence();
  walk.feed(sequence, context());
  walk.evict_most();
  const auto begin = walk.stall_blocks();
  try {
    walk.feed(sequence, rest(), 0, Attention::kSelected);
    ADD_FAILURE() << "a disk that does not answer was not missed";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(error.what()).find("does not answer"), std::string::npos) << error.what();
  }
  EXPECT_EQ(sequence.n_pos(), kExact);
  const auto took = walk.answer_blocks() - begin;
  EXPECT_LT(took, std::chrono::seconds(31));
  EXPECT_TRUE(is_same(walk.feed(sequence, rest(), 0, Attention::kSelected), expected));
}

/// What a selected step wrote and the disk lost comes back as exact attention computes it, and is
/// counted: other bits than before, and with a budget of everything the same.
TEST_F(SelectedSpill, LostRowsOfSelectedStepsComeBackExactAndAreCounted) {
  const auto text = member_.text(2300, kSelectedSeed + 2);
  const auto answers = [&](Budget budget, bool is_damaged) {
    SelectedSetting setting{.budget = budget, .place = Place::kSimulated};
    setting.n_ctx = 3072;
    setting.dram_positions = 1000;  // a span, what is open, and what a fork computes again
    SelectedWalk walk(member_.model, setting);
    Sequence sequence = walk.sequence();
    walk.feed(sequence, std::span(text).first(1600));
    walk.feed(sequence, std::span(text).subspan(1600, 500), 0, Attention::kSelected);
    walk.evict_most();
    if (is_damaged) walk.damage_all();
    const Logits logits =
        walk.feed(sequence, std::span(text).subspan(2100), 0, Attention::kSelected);
    const uint64_t n_exact = walk.walk().counts().rows_made_exact;
    if (is_damaged) {
      EXPECT_GT(walk.cache().store().counts().lost_extents, 0u);
      EXPECT_GT(n_exact, 0u);
      EXPECT_LE(n_exact, 500u);
    } else {
      EXPECT_EQ(n_exact, 0u);
    }
    return logits;
  };
  const Budget everything{Budget::Kind::kShare, 1.0}, little{Budget::Kind::kTokens, 320};
  EXPECT_TRUE(is_same(answers(everything, true), answers(everything, false)));
  EXPECT_FALSE(is_same(answers(little, true), answers(little, false)));
}

/// Windowed layers make the repair begin at 0, past extents that are partly in DRAM: each is then
/// replaced as a whole, so that none has two places. A lost one's place is not used again.
TEST(SelectedSpillOfTheZoo, ARepairLeavesEveryExtentOnePlace) {
  const LoadedMember member("gemma3");
  const auto text = member.text(2120, kSelectedSeed + 3);
  SelectedSetting setting{.place = Place::kSimulated};
  setting.n_ctx = 3072;
  setting.dram_positions = 1000;
  SelectedWalk walk(member.model, setting);
  Sequence sequence = walk.sequence();
  walk.feed(sequence, std::span(text).first(2000));
  walk.feed(sequence, std::span(text).subspan(2000, 20), 0, Attention::kSelected);
  walk.damage_all();
  walk.feed(sequence, std::span(text).subspan(2020), 0, Attention::kSelected);
  const tiers::BlockStore& store = walk.cache().store();
  const auto n_full = static_cast<uint64_t>(
      std::ranges::count(member.model.shape().layers, uint32_t{0}, &LayerShape::window));
  EXPECT_GT(store.counts().lost_extents, 0u);
  EXPECT_EQ(store.counts().places_refused, 0u);
  EXPECT_EQ(store.places()->used_bytes() / store.places()->place_bytes(),
            2120 / kExtentPositions * n_full + store.counts().lost_extents);
}

/// What was to leave DRAM cannot be written, which shows when a layer's waves have been cut.
TEST_F(SelectedSpill, AWaveThatFitsNoMoreWhenItIsReadIsCutAgain) {
  SelectedSetting setting{.budget = {Budget::Kind::kShare, 1.0}};
  setting.chunk_rows = kExtentPositions;  // the last step freezes one extent of every layer
  const Logits expected = selected(setting);
  setting.place = Place::kSimulated;
  setting.dram_positions = 3 * kExtentPositions;
  const uint64_t n_layers = member_.model.shape().n_layers;
  uint64_t n_requests = 0;
  for (const bool fails : {false, true}) {
    SelectedWalk walk(member_.model, setting);
    if (fails) walk.fail_writes(n_requests - n_layers, n_layers);
    Sequence sequence = walk.sequence();
    walk.feed(sequence, context());
    n_requests = walk.n_requests();
    EXPECT_EQ(walk.cache().store().counts().write_failures, 0u);
    const Logits logits = walk.feed(sequence, rest(), 0, Attention::kSelected);
    EXPECT_EQ(first_difference(logits, expected), std::nullopt);
    EXPECT_EQ(walk.cache().store().counts().write_failures, fails ? n_layers : 0u);
  }
}

/// Ctrl-C while the disk does not answer: the step ends, nothing is pinned or begun any more, and
/// it can be run again.
TEST_F(SelectedSpill, AStepThatWaitsForChosenBlocksIsStopped) {
  const Logits expected = selected(SelectedSetting{});
  SelectedSetting setting{.place = Place::kSimulated};
  SelectedWalk walk(member_.model, setting);
  Sequence sequence = walk.sequence();
  walk.feed(sequence, context());
  walk.evict_most();
  const uint64_t n_pinnable = walk.cache().store().n_pinnable();
  walk.hang_and_stop(8, std::chrono::seconds(2));
  try {
    walk.feed(sequence, rest(), 0, Attention::kSelected);
    ADD_FAILURE() << "was not stopped";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
  walk.go_on();
  EXPECT_EQ(sequence.n_pos(), kExact);
  EXPECT_EQ(walk.cache().store().n_pinnable(), n_pinnable);
  EXPECT_TRUE(is_same(walk.feed(sequence, rest(), 0, Attention::kSelected), expected));
}

}  // namespace
}  // namespace strata::engine
