// Processes that are killed while they save, and processes that save and evict at the same time.
// STRATA_KILLS sets how often the first is done (300).
#include <gtest/gtest.h>
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cinttypes>
#include <random>

#include "tests/tiers/long_run.h"
#include "tests/tiers/saving_process.h"

namespace strata::tiers {
namespace {

/// From now on this process has so long to live.
void die_in(std::chrono::nanoseconds time) {
  struct sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGKILL;
  timer_t timer = {};
  ASSERT_EQ(::timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
  struct itimerspec when = {};
  when.it_value.tv_sec = static_cast<time_t>(time.count() / 1'000'000'000);
  when.it_value.tv_nsec = static_cast<long>(std::max<int64_t>(time.count() % 1'000'000'000, 1));
  ASSERT_EQ(::timer_settime(timer, 0, &when, nullptr), 0);
}

TEST(PackKill, AProcessKilledWhileSavingLeavesWholePacksAndNothingElse) {
  const uint64_t wanted_kills = repeats("STRATA_KILLS", 300);
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const FreshPath directory;
  std::array<uint64_t, 4> n_kills_after{};  // nothing, opening, both packs, everything
  uint64_t n_kills = 0;
  std::string newest;  // the trial that the session holds
  std::array<std::chrono::nanoseconds, 4> save_time{};
  for (uint64_t trial = 0; n_kills < wanted_kills; ++trial) {
    ASSERT_LT(trial, 10 * wanted_kills) << n_kills << " kills only";
    const bool has_unnamed = trial % 2 == 0;
    const bool syncs = trial % 16 / 2 == 7;
    auto& time = save_time[trial % 2 * 2 + (syncs ? 1 : 0)];
    Pipe steps;
    const bool is_killed = time.count() > 0;
    const std::chrono::nanoseconds life(
        static_cast<int64_t>(random() % (static_cast<uint64_t>(time.count()) * 9 / 8 + 1)));
    const auto start = std::chrono::steady_clock::now();
    const pid_t child = start_process([&] {
      if (is_killed) die_in(life);
      RealCalls calls(has_unnamed, syncs);
      save_trial(directory.path(), trial, calls, [&](char c) { steps.tell(c); });
    });
    const int status = wait_for_end(child);
    if (!is_killed) time = std::chrono::steady_clock::now() - start;
    const std::string told = steps.told();
    if (WIFSIGNALED(status)) {
      ASSERT_EQ(WTERMSIG(status), SIGKILL);
      ++n_kills;
      ++n_kills_after[told.size() - 1];
    } else {
      ASSERT_EQ(WEXITSTATUS(status), 0);
    }
    WatchedCalls calls;
    PackDirectory packs = PackDirectory::open(directory.path(), {}, calls);
    for (const std::string& name : names_in(directory.path()))
      ASSERT_TRUE(is_pack_file_name(name) || name == "book.session" ||
                  std::ranges::count(names_in(directory.path()), pack_of_rows_file(name)) == 1)
          << name;
    ASSERT_EQ(problems_of(packs), "") << "trial " << trial << " told " << told;
    if (told.starts_with("op")) {
      FoundContext found = packs.find(small_shape(), {}, random_text(trial, 500));
      ASSERT_EQ(found.n_positions, 500u);
      ASSERT_EQ(expect_whole_rows(packs, found, small_rows()), 1u);
    }
    const auto session = packs.session("book");
    const std::string held = session ? session->model_name : "";
    ASSERT_TRUE(held == std::to_string(trial) || (held == newest && !told.starts_with("ops")))
        << held << " after " << newest;
    newest = held;
  }
  std::printf("%" PRIu64 " kills: %" PRIu64 " while opening, %" PRIu64
              " while writing packs, %" PRIu64 " while writing the session, %" PRIu64
              " behind it; 0 half-restored\n",
              n_kills, n_kills_after[0], n_kills_after[1], n_kills_after[2], n_kills_after[3]);
}

/// Saves one or both segments of a pack's rows, or reads them, or takes them for wrong.
void use_rows(PackDirectory& packs, std::mt19937_64& random) {
  const auto text = random_text(100 + random() % 2, 512);
  const std::string pack = save_run(packs, run_of(small_shape(), text, 0, 512));
  save_rows(packs, pack, small_rows(), 0, static_cast<uint32_t>(1 + random() % 2));
  packs.discard_rows(rows_file_name(pack, small_rows().kind));
  const FoundContext found = packs.find(small_shape(), {}, text);
  expect_whole(found);
  expect_whole_rows(packs, found, small_rows());
}

/// Saves, looks up, pins and removes at random beside others that do the same.
void use_at_random(const std::string& path, uint64_t seed, const PackLimits& limits) {
  std::mt19937_64 random(seed);
  RealCalls calls(seed % 2 == 0, false);
  PackDirectory packs = PackDirectory::open(path, limits, calls);
  for (int i = 0; i < 60 && !::testing::Test::HasFailure(); ++i) {
    const auto text = random_text(random() % 6, 500);
    const std::string name = "session" + std::to_string(random() % 2);
    try {
      const uint64_t action = random() % 10;
      if (action >= 8) {
        use_rows(packs, random);
        continue;
      }
      if (action == 0) packs.unpin(name);
      if (action == 1) packs.remove(name);
      if (action >= 2 && action < 5) {
        const FoundContext found = packs.find(small_shape(), {}, text);
        expect_whole(found);
      }
      if (action < 5) continue;
      auto names = std::vector{save_run(packs, run_of(small_shape(), text, 0, 256))};
      names.push_back(save_run(packs, run_of(small_shape(), text, 256, 500)));
      if (action == 7) packs.pin(name, {small_shape().model, "m", text, names});
    } catch (const Error& error) {
      // The others pin what fills the budget, or evict what was to be pinned.
      const bool is_evicted = std::string(error.what()).find("evicted") != std::string::npos;
      EXPECT_TRUE(error.code() == ErrorCode::kDoesNotFit || is_evicted) << error.what();
    }
  }
  EXPECT_EQ(packs.refused().size(), 0u);
}

TEST(PackKill, ProcessesThatSaveAndEvictTogetherDamageNothing) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  const FreshPath directory;
  const PackRun run = run_of(small_shape(), random_text(0, 500), 0, 256);
  const PackLimits limits = {.budget_bytes = 7 * pack_bytes_max(run),
                             .lock_wait = std::chrono::minutes(5)};
  std::vector<pid_t> children;
  for (uint64_t i = 0; i < 3; ++i)
    children.push_back(start_process([&] { use_at_random(directory.path(), seed + i, limits); }));
  for (const pid_t child : children) EXPECT_EQ(wait_for_end(child), 0);
  WatchedCalls calls;
  PackDirectory packs = PackDirectory::open(directory.path(), limits, calls);
  EXPECT_EQ(problems_of(packs), "");
  EXPECT_LE(packs.used_bytes(), limits.budget_bytes);
  for (const std::string& name : names_in(directory.path()))
    EXPECT_TRUE(is_pack_file_name(name) || name.ends_with(".session") ||
                !pack_of_rows_file(name).empty())
        << name;
}

}  // namespace
}  // namespace strata::tiers
