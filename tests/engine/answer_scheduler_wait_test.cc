// Which orders wait for what another one reads, and for how much of it; and for whose turn it is.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "engine/answer_scheduler.h"
#include "tests/engine/letter_requests.h"
#include "tests/engine/scheduled_order.h"

namespace strata::engine {
namespace {

using testing::add;
using testing::drawn_model;
using testing::drawn_tokens;
using testing::joined;
using testing::kLongContext;
using testing::letters;
using testing::loaded;
using testing::long_model;
using testing::options_of;
using testing::Order;
using testing::order_of;
using testing::run;
using testing::TemporaryModel;
using testing::Tokens;

TEST(AnswerScheduler, ADocumentReadSparselyIsWaitedForAsFarAsItIsReadExactly) {
  const TemporaryModel model(long_model());
  EngineOptions options = options_of(model, 2, kLongContext);
  options.method = index::Method::kQuest;
  options.selection.budget = {index::Budget::Kind::kTokens, 64};
  options.sparse_from = 96;
  Engine engine = loaded(options);
  AnswerScheduler scheduler(engine, {.n_parallel = 2, .contexts = std::nullopt});
  std::mt19937 random(5);
  const Tokens document = drawn_tokens(random, 600);
  std::deque<Order> orders = {order_of(joined(document, letters("first")), 3),
                              order_of(joined(document, letters("thesecond")), 3)};
  for (Order& order : orders) add(scheduler, order);
  scheduler.step();
  EXPECT_EQ(scheduler.held().size(), 1u);
  for (uint32_t n = 0; scheduler.held().size() < 2 && n < 100; ++n) scheduler.step();
  EXPECT_LT(scheduler.held()[0].n_tokens, 200u);
  run(scheduler);
  EXPECT_EQ(orders[1].answer->usage.cached_tokens, 96u);
}

TEST(AnswerScheduler, OnlyWhatHasTheSameRootIsWaitedFor) {
  const TemporaryModel model(drawn_model());
  for (const bool is_same : {false, true}) {
    Engine engine = loaded(options_of(model, 2));
    AnswerScheduler scheduler(engine, {.n_parallel = 2, .contexts = std::nullopt});
    std::mt19937 random(5);
    const Tokens document = drawn_tokens(random, 100);
    std::deque<Order> orders = {order_of(document, 2), order_of(document, 2)};
    orders[1].root.low = is_same ? 0 : 7;
    for (Order& order : orders) add(scheduler, order);
    scheduler.step();
    EXPECT_EQ(scheduler.held().size(), is_same ? 1u : 2u);
    run(scheduler);
    EXPECT_EQ(orders[1].answer->usage.cached_tokens > 0, is_same);
  }
}

/// Askers of an engine that answers one order at a time.
class AnswerTurns : public ::testing::Test {
 protected:
  const Order& ask(const std::string& asker) {
    Order& order = orders_.emplace_back(order_of(letters("abc"), 3));
    order.asker = asker;
    order.starts = &starts_;
    add(scheduler_, order);
    return order;
  }
  /// The askers, in the order in which their orders were started.
  std::string started() const {
    std::string askers;
    for (const uint64_t id : starts_) askers += std::ranges::find(orders_, id, &Order::id)->asker;
    return askers;
  }

  TemporaryModel model_{drawn_model()};
  Engine engine_ = loaded(options_of(model_, 1));
  AnswerScheduler scheduler_{engine_, {.n_parallel = 1, .contexts = std::nullopt}};
  std::deque<Order> orders_;
  std::vector<uint64_t> starts_;
};

TEST_F(AnswerTurns, NobodyWaitsForAnothersBacklog) {
  ask("a");
  scheduler_.step();
  for (const char* asker : {"a", "a", "a", "b", "b", "c"}) ask(asker);
  run(scheduler_);
  EXPECT_EQ(started(), "abcabaa");
}

TEST_F(AnswerTurns, WhoComesAgainAndAgainPassesNobodyTwice) {
  ask("a");
  scheduler_.step();
  for (int i = 0; i < 3; ++i) ask("a");
  const Order* last_of_b = &ask("b");
  const Order* last_of_c = &ask("c");
  for (uint32_t n = 0; std::ranges::count(started(), 'a') < 4; ++n) {
    ASSERT_LT(n, 200u) << started();
    scheduler_.step();
    if (last_of_b->answer) last_of_b = &ask("b");
    if (last_of_c->answer) last_of_c = &ask("c");
  }
  EXPECT_EQ(started(), "abcabcabca");
  run(scheduler_);
}

TEST_F(AnswerTurns, WhatHasLeftTheQueueWasNoTurn) {
  ask("a");
  scheduler_.step();
  for (int i = 0; i < 5; ++i) scheduler_.cancel(ask("b").id);
  scheduler_.step();
  for (const char* asker : {"a", "a", "b", "a"}) ask(asker);
  run(scheduler_);
  EXPECT_EQ(started(), "abaaa");
}

TEST_F(AnswerTurns, WhatHasLeftTheQueueLeavesItsTurnToTheNext) {
  ask("a");
  scheduler_.step();
  for (int i = 0; i < 3; ++i) scheduler_.cancel(ask("b").id);
  ask("b");
  scheduler_.step();
  for (int i = 0; i < 3; ++i) ask("c");
  run(scheduler_);
  EXPECT_EQ(started(), "abccc");
}

}  // namespace
}  // namespace strata::engine
