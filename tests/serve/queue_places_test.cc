#include "tools/serve/queue_places.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace strata::serve {
namespace {

constexpr uint32_t kPlacesAtWork = 4, kPlacesBehind = 64;

/// The message of the refusal; "" where the order is taken.
std::string taking(QueuePlaces& places, const std::string& asker) {
  try {
    places.check_free(asker);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBusy);
    return error.what();
  }
  places.take(asker);
  return "";
}

/// How many of an asker's orders are taken until one is not.
uint64_t n_taken_of(QueuePlaces& places, const std::string& asker) {
  uint64_t n = 0;
  while (taking(places, asker).empty()) ++n;
  return n;
}

/// As the engine begins the first.
void begin_first(QueuePlaces& places, const std::string& asker, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) places.begin(asker);
}

TEST(QueuePlaces, AnAskerWithoutANameMayFillTheQueue) {
  QueuePlaces places(kPlacesAtWork, kPlacesBehind);
  EXPECT_EQ(n_taken_of(places, ""), kPlacesAtWork + kPlacesBehind);
  EXPECT_EQ(taking(places, ""), "4 requests are at work and 64 wait");
  begin_first(places, "", kPlacesAtWork);
  places.end("", true);
  EXPECT_EQ(n_taken_of(places, ""), 1u);
  places.end("", false);  // one that waited has left
  EXPECT_EQ(n_taken_of(places, ""), 1u);
  EXPECT_EQ(places.n_open(), kPlacesAtWork + kPlacesBehind);
}

TEST(QueuePlaces, AnAskerLeavesAsManyPlacesFreeAsItHas) {
  QueuePlaces places(kPlacesAtWork, kPlacesBehind);
  EXPECT_EQ(n_taken_of(places, "one"), kPlacesAtWork + kPlacesBehind / 2);
  EXPECT_EQ(taking(places, "one"),
            "32 requests of this key wait, and the 32 places that are free are for others");
  begin_first(places, "one", kPlacesAtWork);
  EXPECT_NE(taking(places, "one"), "") << "those at work took no place of the queue";
  // Another finds places, and both together leave some to a third.
  const uint64_t n_other = n_taken_of(places, "other");
  EXPECT_EQ(n_other, kPlacesBehind / 4);
  EXPECT_EQ(n_taken_of(places, "third"), kPlacesBehind / 8);
  // Places that the first gives up are everybody's.
  for (uint32_t i = 0; i < 20; ++i) places.end("one", false);
  EXPECT_GT(n_taken_of(places, "other"), 0u);
}

TEST(QueuePlaces, TwoThatBothWantMoreGetAThirdEach) {
  QueuePlaces places(kPlacesAtWork, kPlacesBehind);
  uint64_t n_one = 0, n_other = 0;
  for (bool is_taken = true; is_taken;) {
    is_taken = taking(places, "one").empty();
    n_one += is_taken ? 1u : 0u;
    if (!taking(places, "other").empty()) continue;
    is_taken = true;
    ++n_other;
  }
  // None has begun, so what waits beyond the queue is not told from what goes to work.
  EXPECT_NEAR(static_cast<double>(n_one), kPlacesBehind / 3.0 + kPlacesAtWork, 2);
  EXPECT_NEAR(static_cast<double>(n_other), kPlacesBehind / 3.0 + kPlacesAtWork, 2);
  EXPECT_EQ(taking(places, "third"), "");
}

TEST(QueuePlaces, NobodyIsRefusedWhereAPlaceAtWorkIsFree) {
  for (const uint32_t n_queued : {0u, 1u, 2u}) {
    QueuePlaces places(kPlacesAtWork, n_queued);
    for (uint32_t i = 0; i < kPlacesAtWork; ++i) EXPECT_EQ(taking(places, "one"), "") << n_queued;
    begin_first(places, "one", kPlacesAtWork);
    EXPECT_EQ(taking(places, "one").empty(), n_queued > 0);
    EXPECT_EQ(taking(places, "other").empty(), n_queued > 1);
  }
}

}  // namespace
}  // namespace strata::serve
