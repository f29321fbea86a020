#include "planner/virtual/virtual_clock.h"

#include <gtest/gtest.h>

#include <string>

#include "planner/virtual/shared_flows.h"

namespace strata::planner {
namespace {

TEST(VirtualClock, EventsOfOneTimeRunInTheOrderInWhichTheyWereGiven) {
  VirtualClock clock;
  std::string order;
  const auto note = [&order](char c) { return [&order, c] { order += c; }; };
  clock.at(VirtualTime(20), 0, note('c'));
  clock.at(VirtualTime(10), 0, note('a'));
  clock.at(VirtualTime(20), 0, note('d'));
  clock.at(VirtualTime(10), 0, [&] {
    order += 'b';
    clock.at(VirtualTime(20), 0, note('e'));
  });
  while (clock.run_next()) continue;
  EXPECT_EQ(order, "abcde");
  EXPECT_EQ(clock.now(), VirtualTime(20));
  EXPECT_EQ(clock.n_events(), 5u);
}

TEST(VirtualClock, RunsUntilATimeAndStandsThere) {
  VirtualClock clock;
  int n = 0;
  clock.at(VirtualTime(10), 0, [&n] { ++n; });
  clock.at(VirtualTime(11), 0, [&n] { ++n; });
  clock.run_until(VirtualTime(10));
  EXPECT_EQ(n, 1);
  clock.run_until(VirtualTime(100));
  EXPECT_EQ(n, 2);
  EXPECT_EQ(clock.now(), VirtualTime(100));
}

TEST(VirtualClock, HashTellsTimesAndLabelsApart) {
  const auto hash_of = [](std::vector<std::pair<int, uint64_t>> events) {
    VirtualClock clock;
    for (const auto& [time, label] : events) clock.at(VirtualTime(time), label, [] {});
    while (clock.run_next()) continue;
    return clock.hash();
  };
  EXPECT_EQ(hash_of({{1, 5}, {2, 6}}), hash_of({{2, 6}, {1, 5}}));
  EXPECT_NE(hash_of({{1, 5}, {2, 6}}), hash_of({{1, 5}, {3, 6}}));
  EXPECT_NE(hash_of({{1, 5}, {2, 6}}), hash_of({{1, 6}, {2, 5}}));
  EXPECT_NE(hash_of({{1, 5}}), hash_of({{1, 5}, {1, 5}}));
}

/// Lanes in bytes per second: link in 25, link out 25, DRAM 40, NVMe 7.
constexpr LaneRates kLaneRates = {25e9, 25e9, 40e9, 7e9};

/// Milliseconds at which each flow ends when all start together.
std::vector<double> ends_ms(const std::vector<Flow>& flows) {
  VirtualClock clock;
  SharedFlows shared(clock, kLaneRates);
  std::vector<double> ends(flows.size());
  for (size_t i = 0; i < flows.size(); ++i)
    shared.start(flows[i], [&, i] {
      ends[i] = std::chrono::duration<double, std::milli>(clock.now()).count();
    });
  while (clock.run_next()) continue;
  return ends;
}

TEST(SharedFlows, OneFlowRunsAtItsNarrowestLane) {
  const auto ends = ends_ms({flow_over(25'000'000, Lane::kLinkIn, Lane::kDram)});
  EXPECT_NEAR(ends[0], 1.0, 1e-5);  // the clock's nanosecond
}

TEST(SharedFlows, FlowsOfOneLaneShareItAndTheLastRunsOn) {
  // 12.5 each until the small one is through at 0.8 ms, then 25 for what is left.
  const auto ends = ends_ms({flow_over(10'000'000, Lane::kLinkIn, Lane::kDram),
                             flow_over(30'000'000, Lane::kLinkIn, Lane::kDram)});
  EXPECT_NEAR(ends[0], 0.8, 1e-5);
  EXPECT_NEAR(ends[1], 1.6, 1e-5);
}

TEST(SharedFlows, DramIsSharedByCopiesInBothDirectionsAndTheCpu) {
  // Three want 25 + 25 + 34 of 40: a third each, 13.33.
  Flow cpu = flow_over(40'000'000, Lane::kDram);
  cpu.bytes_per_s = 34e9;
  const auto ends = ends_ms({flow_over(40'000'000, Lane::kLinkIn, Lane::kDram),
                             flow_over(40'000'000, Lane::kLinkOut, Lane::kDram), cpu});
  for (const double end : ends) EXPECT_NEAR(end, 3.0, 1e-5);
}

TEST(SharedFlows, WhatAFlowCannotUseTheOthersGet) {
  // The disk takes 7 of 40, the copy 25 of the 33 that are left: neither is held up.
  auto ends = ends_ms({flow_over(7'000'000, Lane::kNvme, Lane::kDram),
                       flow_over(25'000'000, Lane::kLinkIn, Lane::kDram)});
  EXPECT_NEAR(ends[0], 1.0, 1e-5);
  EXPECT_NEAR(ends[1], 1.0, 1e-5);
  // A CPU that wants 34 beside the disk gets the 33 that the disk leaves.
  Flow cpu = flow_over(20'000'000, Lane::kDram);
  cpu.bytes_per_s = 34e9;
  Flow disk = flow_over(7'000'000, Lane::kNvme, Lane::kDram);
  ends = ends_ms({cpu, disk});
  EXPECT_NEAR(ends[0], 20.0 / 33.0, 1e-5);
}

TEST(SharedFlows, AWeightTakesThatManyBytesOfItsLane) {
  Flow gather{.bytes = 20'000'000, .bytes_per_s = 34e9};
  gather.weights[static_cast<size_t>(Lane::kDram)] = 2;
  EXPECT_NEAR(ends_ms({gather})[0], 1.0, 1e-5);  // 20 of 40
}

TEST(SharedFlows, AFlowOfNoBytesEndsAtOnce) {
  EXPECT_EQ(ends_ms({flow_over(0, Lane::kLinkIn)})[0], 0);
}

}  // namespace
}  // namespace strata::planner
