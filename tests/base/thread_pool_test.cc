#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <numeric>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace strata {
namespace {

TEST(ThreadPool, EveryWorkerRunsOncePerRegion) {
  for (const uint32_t n_threads : {1u, 2u, 5u}) {
    ThreadPool pool(n_threads);
    std::vector<uint32_t> calls(n_threads, 0);
    for (uint32_t region = 1; region <= 2000; ++region) {
      pool.run([&](uint32_t worker) { ++calls[worker]; });
      for (const uint32_t n : calls) ASSERT_EQ(n, region);
    }
  }
}

/// Those that the calling thread may use.
std::vector<size_t> allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  EXPECT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  std::vector<size_t> cpus;
  for (size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  return cpus;
}

void use_cpus(const std::vector<size_t>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const size_t cpu : cpus) CPU_SET(cpu, &set);
  EXPECT_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
}

/// Also where the caller is on the CPU that one of them had: spinning for each other there, they
/// take turns of milliseconds.
TEST(ThreadPool, WorkersHaveCpusOfTheirOwnWhereThereIsOneForEach) {
  const std::vector<size_t> all = allowed_cpus();
  const auto n_cpus = static_cast<uint32_t>(all.size());
  ThreadPool pool(n_cpus);
  std::vector<std::vector<size_t>> found(n_cpus);
  for (uint32_t i = 0; i < 3 * n_cpus; ++i) {
    use_cpus({all[i % n_cpus]});  // the caller, and no thread of the pool
    pool.run([&](uint32_t worker) { found[worker] = allowed_cpus(); });
    std::vector<size_t> used;
    for (const auto& cpus : found) used.insert(used.end(), cpus.begin(), cpus.end());
    std::ranges::sort(used);
    EXPECT_EQ(used, all) << "the caller is on CPU " << found[0].at(0);
  }
  use_cpus(all);
}

TEST(ThreadPool, WorkersAreFreeWhereTheyAreMoreThanCpus) {
  const std::vector<size_t> all = allowed_cpus();
  ThreadPool pool(static_cast<uint32_t>(all.size()) + 1);
  std::vector<std::vector<size_t>> found(pool.size());
  pool.run([&](uint32_t worker) { found[worker] = allowed_cpus(); });
  for (const auto& cpus : found) EXPECT_EQ(cpus, all);
}

TEST(ThreadPool, GuidedPiecesAreAShareOfWhatIsLeft) {
  for (const uint32_t n_threads : {1u, 2u, 3u}) {
    ThreadPool pool(n_threads);
    for (const uint64_t n_items : {0u, 1u, 2u, 7u, 96u, 1001u}) {
      std::vector<uint64_t> ends(n_items, 0);  // of the piece that begins there
      pool.for_each_guided(n_items, [&](uint64_t begin, uint64_t end, uint32_t worker) {
        ASSERT_LT(worker, n_threads);
        ASSERT_LT(begin, end);
        ASSERT_EQ(std::exchange(ends.at(begin), end), 0u) << "twice from " << begin;
      });
      uint64_t begin = 0;
      while (begin < n_items) {
        const uint64_t left = n_items - begin;
        const uint64_t wanted =
            n_threads == 1 ? left : std::max<uint64_t>(1, left / (2 * n_threads));
        ASSERT_EQ(std::exchange(ends[begin], 0) - begin, wanted) << "from " << begin;
        begin += wanted;
      }
      EXPECT_EQ(std::ranges::count(ends, 0u), std::ssize(ends)) << "pieces overlap";
    }
  }
}

TEST(ThreadPool, ForEachCoversEveryItemOnce) {
  ThreadPool pool(3);
  for (const uint64_t n_items : {0u, 1u, 2u, 7u, 64u, 1001u}) {
    for (const uint64_t grain : {1u, 3u, 16u, 2000u}) {
      std::vector<uint32_t> seen(n_items, 0);
      pool.for_each(n_items, grain, [&](uint64_t begin, uint64_t end, uint32_t worker) {
        ASSERT_LT(worker, 3u);
        ASSERT_LE(end - begin, grain);
        for (uint64_t i = begin; i < end; ++i) ++seen[i];
      });
      for (const uint32_t n : seen) ASSERT_EQ(n, 1u) << n_items << " items, grain " << grain;
    }
  }
}

/// Also shares without items, and of workers that are held up.
TEST(ThreadPool, OwnItemsComeFirstAndNoneTwice) {
  for (const std::vector<uint32_t>& begins :
       {std::vector<uint32_t>{0, 0, 0, 0}, {0, 1, 1, 1}, {0, 0, 0, 2}, {0, 7, 9, 96}}) {
    ThreadPool pool(3);
    for (uint32_t held_up = 0; held_up < 4; ++held_up) {  // 3: none
      std::vector<uint32_t> seen(begins.back(), 0);
      std::atomic<uint32_t> n_done = 0;
      std::vector<std::vector<uint64_t>> firsts(3);  // of each worker's pieces
      pool.for_each_own(begins, [&](uint64_t begin, uint64_t end, uint32_t worker) {
        ASSERT_LT(begin, end);
        ASSERT_LE(end, begins.back());
        for (uint64_t i = begin; i < end; ++i) ++seen[i];
        firsts.at(worker).push_back(begin);
        n_done += static_cast<uint32_t>(end - begin);
        // The others do all that is left.
        if (worker == held_up)
          while (n_done < begins.back()) std::this_thread::yield();
      });
      for (const uint32_t n : seen) ASSERT_EQ(n, 1u);
      for (uint32_t worker = 0; worker < 3; ++worker) {
        bool took_others = false;
        for (size_t i = 0; i < firsts[worker].size(); ++i) {
          const bool is_own =
              firsts[worker][i] >= begins[worker] && firsts[worker][i] < begins[worker + 1];
          took_others |= !is_own;
          if (!is_own) continue;
          EXPECT_FALSE(took_others) << "worker " << worker << " piece " << i;
          if (i == 0) {
            EXPECT_EQ(firsts[worker][i], begins[worker]);
          } else {
            EXPECT_GT(firsts[worker][i], firsts[worker][i - 1]);
          }
        }
      }
    }
  }
}

/// Memory that is asked for may be gone, or never have been.
TEST(ThreadPool, FetchesAheadWithoutTouching) {
  for (const uint32_t n_threads : {1u, 3u}) {
    ThreadPool pool(n_threads);
    const auto* nowhere = reinterpret_cast<const std::byte*>(uintptr_t{4096});
    uint32_t n_runs = 0;
    for (const uint64_t bytes : {uint64_t{0}, uint64_t{1}, uint64_t{100'000}}) {
      for (uint32_t worker = 0; worker < n_threads; ++worker)
        pool.set_ahead(worker, {nowhere, bytes});
      for (int round = 0; round < 3; ++round)
        pool.run([&](uint32_t worker) {
          if (worker == 0) ++n_runs;
        });
    }
    EXPECT_EQ(n_runs, 9u);
  }
}

TEST(ThreadPool, SleepingWorkersWakeForTheNextRegion) {
  ThreadPool pool(4);
  std::atomic<uint32_t> total = 0;
  for (int round = 0; round < 20; ++round) {
    // Longer than the workers spin, by work of worker 0 alone.
    volatile uint64_t sink = 0;
    for (uint64_t i = 0; i < 3000000; ++i) sink = sink + i;
    pool.run([&](uint32_t) { total.fetch_add(1); });
  }
  EXPECT_EQ(total.load(), 80u);
}

TEST(ThreadPool, WhatATaskThrowsIsThrownOnceAllHaveReturned) {
  for (const uint32_t n_threads : {1u, 2u, 5u}) {
    ThreadPool pool(n_threads);
    for (uint32_t thrower = 0; thrower < n_threads; ++thrower) {
      std::atomic<uint32_t> n_inside = 0, n_returned = 0;
      EXPECT_THROW(pool.run([&](uint32_t worker) {
        ++n_inside;
        while (n_inside < n_threads) std::this_thread::yield();
        if (worker == thrower) throw std::bad_alloc();
        ++n_returned;
      }),
                   std::bad_alloc);
      EXPECT_EQ(n_returned, n_threads - 1);
      EXPECT_THROW(pool.run([](uint32_t) { throw std::bad_alloc(); }), std::bad_alloc);
      n_returned = 0;
      pool.run([&](uint32_t) { ++n_returned; });
      EXPECT_EQ(n_returned, n_threads);
    }
  }
}

TEST(ThreadPool, WritesInsideARegionAreSeenAfterIt) {
  ThreadPool pool(2);
  std::vector<uint64_t> values(4096);
  for (uint64_t round = 0; round < 500; ++round) {
    pool.for_each(values.size(), 64, [&](uint64_t begin, uint64_t end, uint32_t) {
      for (uint64_t i = begin; i < end; ++i) values[i] = round + i;
    });
    ASSERT_EQ(std::accumulate(values.begin(), values.end(), uint64_t{0}),
              4096 * round + 4095 * 4096 / 2);
  }
}

/// Every way a pool ends: never used, workers spinning, workers asleep.
TEST(ThreadPool, EndsWhileWorkersStartSpinOrSleep) {
  std::atomic<uint32_t> total = 0;
  for (uint32_t round = 0; round < 150; ++round) {
    ThreadPool pool(2 + round % 4);
    if (round % 3 == 0) continue;
    pool.run([&](uint32_t) { total.fetch_add(1, std::memory_order_relaxed); });
    if (round % 3 == 1) continue;
    volatile uint64_t sink = 0;
    for (uint64_t i = 0; i < 300000; ++i) sink = sink + i;
  }
  uint32_t expected = 0;
  for (uint32_t round = 0; round < 150; ++round) expected += round % 3 == 0 ? 0 : 2 + round % 4;
  EXPECT_EQ(total.load(), expected);
}

/// What a decode step does: regions of every length back to back, plain writes handed from one to
/// the next, with pauses in which some workers fall asleep.
TEST(ThreadPool, ChainsOfRegionsPassPlainWritesOn) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  ThreadPool pool(4);
  std::vector<uint64_t> values(512, 0), copied(512, 0);
  uint64_t round_sum = 0;
  for (uint64_t round = 1; round <= 400; ++round) {
    const uint64_t grain = 1 + random() % 600;
    round_sum += round;
    pool.for_each(values.size(), grain, [&](uint64_t begin, uint64_t end, uint32_t) {
      for (uint64_t i = begin; i < end; ++i) values[i] += round;
    });
    // The other direction, so that a worker reads what another wrote.
    pool.for_each(values.size(), 1 + random() % 100, [&](uint64_t begin, uint64_t end, uint32_t) {
      for (uint64_t i = begin; i < end; ++i) copied[i] = values[values.size() - 1 - i];
    });
    for (const uint64_t value : copied) ASSERT_EQ(value, round_sum) << "round " << round;
    if (random() % 50 == 0) {
      volatile uint64_t sink = 0;
      for (uint64_t i = 0; i < 500000; ++i) sink = sink + i;
    }
  }
}

/// Pools of several callers share nothing.
TEST(ThreadPool, PoolsOfTwoThreadsWorkAtTheSameTime) {
  std::atomic<uint64_t> sums[2] = {0, 0};
  {
    std::vector<std::jthread> callers;
    for (uint32_t caller = 0; caller < 2; ++caller)
      callers.emplace_back([&sums, caller] {
        ThreadPool pool(3);
        for (uint32_t round = 0; round < 300; ++round)
          pool.for_each(100, 7, [&](uint64_t begin, uint64_t end, uint32_t) {
            sums[caller].fetch_add(end - begin, std::memory_order_relaxed);
          });
      });
  }
  EXPECT_EQ(sums[0].load(), 30000u);
  EXPECT_EQ(sums[1].load(), 30000u);
}

}  // namespace
}  // namespace strata
