#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
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

}  // namespace
}  // namespace strata
