// Which orders wait for what another one reads, and for how much of it.
#include <gtest/gtest.h>

#include <deque>
#include <random>

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

}  // namespace
}  // namespace strata::engine
