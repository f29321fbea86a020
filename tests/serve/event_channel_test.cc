#include "tools/serve/event_channel.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/error.h"

namespace strata::serve {
namespace {

using std::chrono::milliseconds;
using Kind = AnswerEvent::Kind;

AnswerEvent event_of(Kind kind, const std::string& text = "", uint64_t n_read = 0) {
  AnswerEvent event;
  event.kind = kind;
  event.text = text;
  event.n_read = n_read;
  return event;
}

TEST(EventChannel, WhatIsNotTakenIsJoined) {
  EventChannel channel;
  for (const uint64_t n : {1u, 2u, 3u}) channel.tell(event_of(Kind::kPrompt, "", n));
  AnswerEvent scored = event_of(Kind::kText, "a");
  scored.tokens.push_back({{7, "a", -1.5}, {}});
  channel.tell(scored);
  channel.tell(event_of(Kind::kText, "b"));
  channel.tell(scored);
  AnswerEvent event;
  ASSERT_TRUE(channel.wait_next(event, milliseconds(0)));
  EXPECT_EQ(event.kind, Kind::kPrompt);
  EXPECT_EQ(event.n_read, 3u);
  ASSERT_TRUE(channel.wait_next(event, milliseconds(0)));
  EXPECT_EQ(event.text, "aba");
  EXPECT_EQ(event.tokens.size(), 2u);
  EXPECT_FALSE(channel.wait_next(event, milliseconds(0)));
  channel.tell(event_of(Kind::kText, "c"));
  channel.tell(event_of(Kind::kEnd));
  channel.tell(event_of(Kind::kText, "never"));
  ASSERT_TRUE(channel.wait_next(event, milliseconds(0)));
  EXPECT_EQ(event.text, "c");
  EXPECT_FALSE(channel.is_left());
  ASSERT_TRUE(channel.wait_next(event, milliseconds(0)));
  EXPECT_EQ(event.kind, Kind::kEnd);
  EXPECT_TRUE(channel.is_left());
  EXPECT_FALSE(channel.wait_next(event, milliseconds(0)));
}

TEST(EventChannel, NothingComesAfterItWasLeft) {
  EventChannel channel;
  channel.tell(event_of(Kind::kText, "a"));
  channel.leave();
  channel.tell(event_of(Kind::kEnd));
  AnswerEvent event;
  EXPECT_FALSE(channel.wait_next(event, std::chrono::hours(1)));  // at once
}

TEST(EventChannel, AnEndThatCouldNotBeToldIsAnErrorBehindWhatWasTold) {
  EventChannel channel;
  channel.tell(event_of(Kind::kText, "a"));
  channel.end_untold();
  channel.tell(event_of(Kind::kText, "b"));
  AnswerEvent event;
  ASSERT_TRUE(channel.wait_next(event, milliseconds(0)));
  EXPECT_EQ(event.text, "a");
  ASSERT_TRUE(channel.wait_next(event, milliseconds(0)));
  EXPECT_EQ(event.kind, Kind::kError);
  ASSERT_TRUE(event.error);
  EXPECT_EQ(event.error->code(), ErrorCode::kOutOfMemory);
  EXPECT_EQ(event.text, "");
  EXPECT_TRUE(channel.is_left());
  EXPECT_FALSE(channel.wait_next(event, milliseconds(0)));
}

TEST(EventChannel, WhoWaitsIsWoken) {
  EventChannel channel;
  std::thread teller([&] { channel.tell(event_of(Kind::kEnd)); });
  AnswerEvent event;
  EXPECT_TRUE(channel.wait_next(event, milliseconds::max()));
  teller.join();
}

}  // namespace
}  // namespace strata::serve
