#include "tiers/pack_eviction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/tiers/failing_calls.h"
#include "tests/tiers/pack_fixture.h"

namespace strata::tiers {
namespace {

EvictionCandidate pack(int64_t used_ns, uint64_t bytes = 10) {
  EvictionCandidate candidate;
  candidate.name = "pack" + std::to_string(used_ns);
  candidate.bytes = bytes;
  candidate.used_ns = used_ns;
  return candidate;
}

using Plan = std::vector<uint32_t>;

TEST(PackEviction, TheLeastRecentlyUsedGoFirstAndNoMoreThanNeeded) {
  const std::vector<EvictionCandidate> packs = {pack(3), pack(1), pack(2)};
  EXPECT_EQ(plan_eviction(packs, 1), Plan({1}));
  EXPECT_EQ(plan_eviction(packs, 10), Plan({1}));
  EXPECT_EQ(plan_eviction(packs, 11), Plan({1, 2}));
  EXPECT_EQ(plan_eviction(packs, 30), Plan({1, 2, 0}));
  EXPECT_EQ(plan_eviction(packs, 31), std::nullopt);
  EXPECT_EQ(plan_eviction(packs, UINT64_MAX), std::nullopt);
}

TEST(PackEviction, PinnedPacksStayAndDamagedOnesGoFirst) {
  std::vector<EvictionCandidate> packs = {pack(1), pack(2), pack(3)};
  packs[0].is_pinned = true;
  packs[2].is_damaged = true;
  EXPECT_EQ(plan_eviction(packs, 1), Plan({2}));
  EXPECT_EQ(plan_eviction(packs, 20), Plan({2, 1}));
  EXPECT_EQ(plan_eviction(packs, 21), std::nullopt);
}

TEST(PackEviction, ATextLosesItsEndBeforeItsBeginning) {
  // The text 0 - 1 - 2 is used at its end; 3 is another text, used after the first one's beginning.
  std::vector<EvictionCandidate> packs = {pack(1), pack(2), pack(9), pack(5)};
  for (uint32_t i = 1; i < 3; ++i) {
    packs[i].first_pos = i * 256;
    packs[i].continues = {i - 1};
  }
  EXPECT_EQ(plan_eviction(packs, 40), Plan({3, 2, 1, 0}));
}

/// A disk of a given size, on which only the directory's packs lie.
class SmallDisk final : public WatchedCalls {
 public:
  SmallDisk(std::string path, uint64_t bytes) : path_(std::move(path)), bytes_(bytes) {}
  int free_bytes(int, uint64_t& bytes) override {
    bytes = bytes_;
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      bytes -= std::min<uint64_t>(bytes, std::filesystem::file_size(entry.path()));
    return 0;
  }

 private:
  std::string path_;
  uint64_t bytes_;
};

TEST(PackEviction, TheDiskKeepsItsFreeFloor) {
  const FreshPath fresh;
  const auto run = [](uint64_t seed) {
    return run_of(small_shape(), random_text(seed, 256), 0, 256);
  };
  const uint64_t pack_bytes = pack_bytes_max(run(0));
  SmallDisk disk(fresh.path(), 5 * pack_bytes);
  PackDirectory packs =
      PackDirectory::open(fresh.path(), {.free_floor_bytes = 2 * pack_bytes}, disk);
  for (uint64_t i = 0; i < 10; ++i) {
    save_run(packs, run(i));
    EXPECT_LE(packs.used_bytes(), 3 * pack_bytes);
    EXPECT_EQ(packs.find(small_shape(), {}, random_text(i, 256)).n_positions, 256u);
  }
  EXPECT_EQ(packs.n_packs(), 3u);
  PackDirectory full =
      PackDirectory::open(fresh.path(), {.free_floor_bytes = 5 * pack_bytes}, disk);
  EXPECT_EQ(code_of([&] { save_run(full, run(11)); }), "does_not_fit");
  EXPECT_EQ(full.n_packs(), 3u) << "nothing was evicted in vain";
}

TEST(PackEviction, WritersThatStartTogetherStayWithinTheBudget) {
  const FreshPath fresh;
  WatchedCalls calls;
  const auto run = [](uint64_t seed) {
    return run_of(small_shape(), random_text(seed, 256), 0, 256);
  };
  const PackLimits limits = {.budget_bytes = 2 * pack_bytes_max(run(0)) - 1};
  PackDirectory packs = PackDirectory::open(fresh.path(), limits, calls);
  PackWriter first = packs.start(run(1));
  PackWriter second = packs.start(run(2));
  write_blocks(first);
  write_blocks(second);
  packs.publish(std::move(first));
  packs.publish(std::move(second));
  EXPECT_LE(packs.used_bytes(), limits.budget_bytes);
  EXPECT_EQ(packs.find(small_shape(), {}, random_text(2, 256)).n_positions, 256u);
}

TEST(PackEviction, WhatWasFoundLastStaysLongest) {
  const FreshPath fresh;
  WatchedCalls calls;
  const auto text = [](uint64_t seed) { return random_text(seed, 256); };
  const uint64_t pack_bytes = pack_bytes_max(run_of(small_shape(), text(0), 0, 256));
  PackDirectory packs = PackDirectory::open(fresh.path(), {.budget_bytes = 3 * pack_bytes}, calls);
  for (uint64_t i = 0; i < 3; ++i) save_text(packs, small_shape(), text(i));
  EXPECT_EQ(packs.find(small_shape(), {}, text(0)).n_positions, 256u);
  save_text(packs, small_shape(), text(3));
  EXPECT_EQ(packs.find(small_shape(), {}, text(0)).n_positions, 256u);
  EXPECT_EQ(packs.find(small_shape(), {}, text(1)).n_positions, 0u);
  EXPECT_EQ(packs.find(small_shape(), {}, text(2)).n_positions, 256u);
}

/// The index finds no more than one pack, and still no text loses its beginning first.
TEST(PackEviction, ABeginningThatIsPassedOverStaysWithItsText) {
  const FreshPath fresh;
  WatchedCalls calls;
  const auto text = random_text(1, 512);
  const auto run = [](std::span<const int32_t> of, uint32_t first_pos) {
    return run_of(small_shape(), of, first_pos, first_pos + 256);
  };
  const auto other = random_text(2, 256);
  std::string beginning, of_other, end;
  {
    PackDirectory packs = PackDirectory::open(fresh.path(), {}, calls);
    beginning = save_run(packs, run(text, 0));
    of_other = save_run(packs, run(other, 0));
    end = save_run(packs, run(text, 256));
  }
  PackLimits limits = {.budget_bytes = 3 * pack_bytes_max(run(text, 0)), .index_bytes = 3000};
  PackDirectory packs = PackDirectory::open(fresh.path(), limits, calls);
  ASSERT_EQ(packs.n_passed_over(), 2u);
  const std::string added = save_run(packs, run(random_text(3, 256), 0));
  auto left = std::vector{beginning, end, added};
  std::ranges::sort(left);
  EXPECT_EQ(names_in(fresh.path()), left);
  // The text's end, pushed out of the index by now, goes before its beginning.
  const std::string last = save_run(packs, run(random_text(4, 256), 0));
  left = {beginning, added, last};
  std::ranges::sort(left);
  EXPECT_EQ(names_in(fresh.path()), left);
}

TEST(PackEviction, APassedOverPackThatIsDamagedGoesFirst) {
  const FreshPath fresh;
  WatchedCalls calls;
  std::vector<std::string> names;
  const auto run = [](uint64_t seed) {
    return run_of(small_shape(), random_text(seed, 256), 0, 256);
  };
  {
    PackDirectory packs = PackDirectory::open(fresh.path(), {}, calls);
    for (uint64_t i = 0; i < 4; ++i) names.push_back(save_run(packs, run(i)));
  }
  const std::string path = fresh.path() + "/" + names[1];
  const auto time = std::filesystem::last_write_time(path);
  auto bytes = bytes_of_file(path);
  bytes.back() ^= std::byte{1};
  write_file(path, bytes);
  std::filesystem::last_write_time(path, time);
  PackLimits limits = {.budget_bytes = 4 * pack_bytes_max(run(0)), .index_bytes = 3000};
  PackDirectory packs = PackDirectory::open(fresh.path(), limits, calls);
  ASSERT_EQ(packs.n_passed_over(), 3u);
  names[1] = save_run(packs, run(5));
  std::ranges::sort(names);
  EXPECT_EQ(names_in(fresh.path()), names);
}

TEST(PackEviction, RandomUseNeverExceedsTheBudgetNorLosesAPinnedPack) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 5; ++round) {
    const FreshPath fresh;
    WatchedCalls calls;
    calls.has_unnamed_files = random() % 2 == 0;
    const PackLimits limits = {.budget_bytes = 40'000 + random() % 400'000};
    PackDirectory packs = PackDirectory::open(fresh.path(), limits, calls);
    int n_refused = 0;
    for (int i = 0; i < 60; ++i) {
      const auto text = random_text(random() % 8, 1 + random() % 1200);
      const std::string name = "s" + std::to_string(random() % 3);
      const auto names_before = names_in(fresh.path());
      const uint64_t action = random() % 6;
      try {
        if (action == 0) packs.unpin(name);
        if (action == 1) packs.find(small_shape(), {}, text);
        if (action > 1) {
          const auto names = save_text(packs, small_shape(), text, 512);
          if (action == 5) packs.pin(name, {small_shape().model, "m", text, names});
        }
      } catch (const Error& error) {
        ++n_refused;
        const bool is_evicted = std::string(error.what()).find("evicted") != std::string::npos;
        ASSERT_TRUE(error.code() == ErrorCode::kDoesNotFit || is_evicted) << error.what();
      }
      ASSERT_LE(packs.used_bytes(), limits.budget_bytes);
      for (const SessionEntry& session : packs.list()) ASSERT_EQ(session.n_packs_missing, 0u);
    }
    EXPECT_EQ(problems_of(packs), "");
    EXPECT_LT(n_refused, 60);
  }
}

}  // namespace
}  // namespace strata::tiers
