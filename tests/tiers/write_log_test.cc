// Power that goes at any call of a save, on a disk that keeps, loses, tears and reorders what was
// not synced: every prefix of the calls' log is replayed. STRATA_LOG_STATES sets how many states
// behind each call, where there are too many for all of them (4).
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <cinttypes>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "tests/tiers/fresh_folder.h"
#include "tests/tiers/long_run.h"
#include "tests/tiers/saving_process.h"
#include "tests/tiers/write_log.h"

namespace strata::tiers {
namespace {

constexpr uint32_t kTrials = 2;   // that are saved one after another
constexpr size_t kAllStates = 3;  // unsynced calls of which every combination is tried

/// Every combination of lost and done where there are few; then some with torn writes.
std::vector<std::vector<Unsynced>> fates_of(size_t n_calls, uint64_t n_drawn,
                                            std::mt19937_64& random) {
  std::vector<std::vector<Unsynced>> all;
  if (n_calls <= kAllStates)
    for (uint64_t bits = 0; bits < uint64_t{1} << n_calls; ++bits) {
      std::vector<Unsynced>& fates = all.emplace_back();
      for (size_t i = 0; i < n_calls; ++i)
        fates.push_back((bits >> i) % 2 == 0 ? Unsynced::kLost : Unsynced::kDone);
    }
  for (uint64_t i = 0; n_calls > 0 && i < n_drawn; ++i) {
    std::vector<Unsynced>& fates = all.emplace_back();
    for (size_t call = 0; call < n_calls; ++call)
      fates.push_back(std::array{Unsynced::kLost, Unsynced::kDone, Unsynced::kTorn}[random() % 3]);
  }
  return all;
}

void write_image(const DiskImage& image, const std::string& folder) {
  std::filesystem::remove_all(folder);
  ASSERT_EQ(::mkdir(folder.c_str(), 0700), 0);
  for (const auto& [name, bytes] : image) {
    const std::string path = folder + "/" + name;
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  }
}

/// Saves trials one after another; then the power goes behind each call in turn.
void replay(bool has_unnamed, std::mt19937_64& random, uint64_t n_drawn) {
  const FreshFolder folder;
  LoggingCalls calls(has_unnamed);
  for (uint32_t trial = 0; trial < kTrials; ++trial)
    save_trial(folder.path("packs"), trial, calls, [&](char step) { calls.tell(step); });
  uint64_t n_states = 0, n_with_unsynced = 0;
  std::string told;  // of the trial that is being saved
  uint64_t trial = 0;
  std::set<std::string> sessions;
  for (size_t end = 1; end <= calls.log().size(); ++end) {
    const auto log = std::span(calls.log()).first(end);
    if (const LoggedCall& last = log.back(); last.kind == LoggedCall::Kind::kTold) {
      if (last.told == 'o' && told == "ops") {
        ++trial;
        told.clear();
      }
      told += last.told;
    }
    const std::vector<size_t> unsynced = unsynced_calls(log);
    for (const auto& fates : fates_of(unsynced.size(), n_drawn, random)) {
      SCOPED_TRACE("behind call " + std::to_string(end) + " of " +
                   std::to_string(calls.log().size()));
      const std::string after = folder.path("after");
      write_image(image_after(log, unsynced, fates, random), after);
      const std::string before = trial == 0 ? "" : std::to_string(trial - 1);
      sessions.insert(look_after_end(after, trial, told, before));
      if (::testing::Test::HasFailure()) return;
      ++n_states;
      if (!unsynced.empty()) ++n_with_unsynced;
    }
  }
  EXPECT_EQ(trial, kTrials - 1);
  EXPECT_EQ(sessions.size(), kTrials + 1);  // with none
  std::printf("%s: %zu calls, %" PRIu64 " states of the disk (%" PRIu64
              " with calls that were not synced): 0 half-restored, 0 promised and lost\n",
              has_unnamed ? "nameless files" : "hidden files", calls.log().size(), n_states,
              n_with_unsynced);
}

TEST(WriteLog, PowerLostBehindAnyCallLeavesWhatWasPromisedAndNothingHalf) {
  const uint64_t seed = std::random_device{}();
  std::printf("seed %" PRIu64 "\n", seed);
  std::mt19937_64 random(seed);
  const uint64_t n_drawn = repeats("STRATA_LOG_STATES", 4);
  for (const bool has_unnamed : {true, false}) {
    replay(has_unnamed, random, n_drawn);
    if (HasFailure()) return;
  }
}

/// The judge judges: what a sync did not cover may be gone, what it did cover is not.
TEST(WriteLog, WhatASyncCoversStays) {
  using Kind = LoggedCall::Kind;
  const std::vector<std::byte> bytes(1024, std::byte{1});
  const std::vector<LoggedCall> log = {
      {.kind = Kind::kName, .file = 0, .name = "a"},
      {.kind = Kind::kWrite, .file = 0, .bytes = bytes},
      {.kind = Kind::kSync, .file = 0},
      {.kind = Kind::kWrite, .file = 0, .offset = 1024, .bytes = bytes},
      {.kind = Kind::kRename, .file = 0, .name = "b", .old_name = "a"},
  };
  const std::vector<size_t> unsynced = {0, 3, 4};
  EXPECT_EQ(unsynced_calls(log), unsynced);
  std::mt19937_64 random(1);
  const auto lost = std::vector(3, Unsynced::kLost), done = std::vector(3, Unsynced::kDone);
  EXPECT_TRUE(image_after(log, unsynced, lost, random).empty());
  const DiskImage all = image_after(log, unsynced, done, random);
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all.at("b").size(), 2048u);
  const std::vector some = {Unsynced::kDone, Unsynced::kLost, Unsynced::kLost};
  EXPECT_EQ(image_after(log, unsynced, some, random).at("a"), bytes);
}

}  // namespace
}  // namespace strata::tiers
