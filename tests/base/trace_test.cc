#include "base/trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

namespace strata {
namespace {

TEST(Trace, HoldsTheLastEventsAndCountsTheOthers) {
  Trace trace(4);
  EXPECT_TRUE(trace.events().empty());
  for (uint32_t i = 0; i < 11; ++i) {
    trace.add({.index = i});
    const auto events = trace.events();
    ASSERT_EQ(events.size(), std::min(i + 1, 4u));
    EXPECT_EQ(trace.n_held(), events.size());
    EXPECT_EQ(trace.n_dropped(), i + 1 - events.size());
    for (size_t at = 0; at < events.size(); ++at)
      EXPECT_EQ(events[at].index, trace.n_dropped() + at);
  }
}

TEST(Trace, AScopeIsRecordedWithItsTimeAlsoWhereAnExceptionEndsIt) {
  Trace trace(4);
  const auto before = std::chrono::steady_clock::now().time_since_epoch();
  try {
    const TraceScope outer(&trace, {.name = "outer"});
    const TraceScope inner(&trace, {.kind = TraceKind::kOperation, .name = "inner", .bytes = 7});
    throw std::runtime_error("");
  } catch (const std::runtime_error&) {
  }
  const auto after = std::chrono::steady_clock::now().time_since_epoch();
  const auto events = trace.events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_STREQ(events[0].name, "inner");
  EXPECT_EQ(events[0].kind, TraceKind::kOperation);
  EXPECT_EQ(events[0].bytes, 7u);
  EXPECT_STREQ(events[1].name, "outer");
  EXPECT_LE(before, events[1].begin);
  EXPECT_LE(events[1].begin, events[0].begin);
  EXPECT_LE(events[0].begin, events[0].end);
  EXPECT_LE(events[0].end, events[1].end);
  EXPECT_LE(events[1].end, after);
}

}  // namespace
}  // namespace strata
