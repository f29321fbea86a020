#include "engine/answer_scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <deque>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/kv_placement.h"
#include "tests/engine/letter_requests.h"
#include "tests/engine/scheduled_order.h"
#include "tests/sanitizer.h"
#include "tiers/durable_calls.h"

namespace strata::engine {
namespace {

using testing::add;
using testing::below;
using testing::drawn_model;
using testing::drawn_tokens;
using testing::joined;
using testing::kContext;
using testing::kLongContext;
using testing::letter;
using testing::letters;
using testing::loaded;
using testing::long_model;
using testing::options_of;
using testing::Order;
using testing::order_of;
using testing::run;
using testing::SmallModel;
using testing::TemporaryModel;
using testing::TestFolder;
using testing::Tokens;

Generation alone(Engine& engine, const Order& order) {
  Sequence sequence = engine.cache().make_sequence();
  GenerationRequest request = order.request;
  request.prompt = order.prompt;
  request.vocab_size = engine.spec().shape.vocab_size;
  request.n_ctx = engine.context().n_ctx;
  request.chunk_rows = 16;
  return generate(engine.walk(), sequence, engine.tokenizer(), request);
}

/// Rows that were walked, by what they wrote of K and V.
uint64_t rows_walked(Engine& engine) {
  const ModelShape& shape = engine.spec().shape;
  uint64_t per_row = 0;
  for (const LayerShape& layer : shape.layers)
    per_row += layer.n_kv_heads * kv_position_bytes(engine.cache().layout());
  return engine.walk().counts().written_bytes / per_row;
}

void expect_lone_answers(const SmallModel& small, uint32_t n_rounds) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const TemporaryModel model(small);
  Engine engine = loaded(options_of(model, 3));
  Engine lone = loaded(options_of(model, 1));
  AnswerScheduler scheduler(
      engine, {.n_parallel = 3, .n_idle_max = 4, .chunk_rows_beside = 5, .contexts = std::nullopt});
  const Tokens base = drawn_tokens(random, 100);
  for (uint32_t round = 0; round < n_rounds; ++round) {
    std::deque<Order> orders;
    for (uint32_t step = 0; step < 12 || scheduler.has_work(); ++step) {
      if (orders.size() < 8 && below(random, 2) == 0) {
        const Tokens common(base.begin(), base.begin() + below(random, 100));
        orders.push_back(order_of(joined(common, drawn_tokens(random, 1 + below(random, 50))),
                                  below(random, 30)));
        if (below(random, 6) == 0) orders.back().request.n_predict = UINT64_MAX;
        if (below(random, 2) == 0) orders.back().request.sampler.temperature = 1.2;
        orders.back().request.sampler.seed = random();
        add(scheduler, orders.back());
      }
      if (!orders.empty() && below(random, 30) == 0)
        scheduler.cancel(orders[below(random, static_cast<uint32_t>(orders.size()))].id);
      scheduler.step();
      ASSERT_LT(step, 20000u) << "orders do not end";
    }
    for (const Order& order : orders) {
      ASSERT_EQ(order.n_ends, 1u);
      ASSERT_TRUE(order.answer) << "it failed";
      const Generation wanted = alone(lone, order);
      if (order.answer->finish_reason == FinishReason::kCancelled) {
        const auto differs = std::ranges::mismatch(order.answer->tokens, wanted.tokens);
        EXPECT_EQ(differs.in1, order.answer->tokens.end());
        continue;
      }
      EXPECT_EQ(order.answer->tokens, wanted.tokens);
      EXPECT_EQ(order.answer->text, wanted.text);
      EXPECT_EQ(order.answer->finish_reason, wanted.finish_reason);
    }
  }
}

/// The last tokens of the prompt stand in it again and again.
TEST(AnswerScheduler, NobodyGuessesBesideOthersInMemoryUnlessThatIsWanted) {
  const TemporaryModel model(drawn_model());
  for (const auto wanted : {std::optional<uint32_t>(), std::optional(8u)}) {
    EngineOptions options = options_of(model, 2);
    options.n_draft_max = wanted;
    Engine engine = loaded(options);
    AnswerScheduler scheduler(engine, {.n_parallel = 2, .contexts = std::nullopt});
    const auto proposed = [&](uint32_t n_answers) {
      std::deque<Order> orders;
      for (uint32_t i = 0; i < n_answers; ++i) {
        orders.push_back(order_of(Tokens(30, letter('q')), 20));
        orders.back().request.sampler.logit_bias = {{letter('q'), 100.0F}};
        add(scheduler, orders.back());
      }
      run(scheduler);
      return orders.front().answer->drafts.proposed;  // it is never alone beside another
    };
    EXPECT_GT(proposed(1), 0u);
    EXPECT_EQ(proposed(2) > 0, wanted.has_value());
  }
}

TEST(AnswerScheduler, EveryAnswerIsTheOneItHasAlone) {
  expect_lone_answers(drawn_model(), static_cast<uint32_t>(sanitizer::rounds(20, 3)));
}

TEST(AnswerScheduler, AlsoWhereLayersHaveWindows) {
  expect_lone_answers(drawn_model("gemma3", 6), static_cast<uint32_t>(sanitizer::rounds(10, 2)));
}

TEST(AnswerScheduler, ADocumentAskedByTwoAtOnceIsReadOnce) {
  for (const char* architecture : {"llama", "gemma3"}) {
    SmallModel small = drawn_model(architecture, 6);
    small.set(std::string(architecture) + ".context_length", kLongContext);
    const TemporaryModel model(small);
    Engine engine = loaded(options_of(model, 2, kLongContext));  // with room for both at once
    AnswerScheduler scheduler(engine, {.n_parallel = 2, .contexts = std::nullopt});
    std::mt19937 random(5);
    const Tokens document = drawn_tokens(random, 150);
    std::deque<Order> orders = {order_of(joined(document, letters("first")), 10),
                                order_of(joined(document, letters("thesecond")), 10)};
    for (Order& order : orders) add(scheduler, order);
    run(scheduler);
    EXPECT_EQ(rows_walked(engine), 150u + 5 + 9 + 9 + 9) << architecture;
    EXPECT_EQ(orders[0].answer->usage.cached_tokens, 0u);
    EXPECT_EQ(orders[1].answer->usage.cached_tokens, 150u);
    // A third comes when both have ended.
    orders.push_back(order_of(joined(document, letters("anew")), 10));
    add(scheduler, orders.back());
    run(scheduler);
    if (std::string(architecture) == "llama") {  // windows have gone on
      EXPECT_EQ(orders[2].answer->usage.cached_tokens, 150u);
    }
  }
}

TEST(AnswerScheduler, TheNextTurnGoesOnWithTheSequenceOfTheLast) {
  const TemporaryModel model(drawn_model());
  Engine engine = loaded(options_of(model, 2));
  AnswerScheduler scheduler(engine, {.n_parallel = 2, .contexts = std::nullopt});
  Order first = order_of(letters("thequickbrownfoxjumpsoverthelazydogs"), 6);
  add(scheduler, first);
  run(scheduler);
  ASSERT_EQ(scheduler.held().size(), 1u);
  Order next = order_of(joined(joined(first.prompt, first.answer->tokens), letters("and")), 6);
  add(scheduler, next);
  run(scheduler);
  EXPECT_EQ(next.answer->usage.cached_tokens, first.prompt.size() + 5);
  EXPECT_EQ(scheduler.held().size(), 1u);
  EXPECT_EQ(scheduler.held()[0].n_tokens, next.prompt.size() + 5);
}

TEST(AnswerScheduler, WhatHasNoRoomWaitsAndOthersPassItOnlySoOften) {
  const TemporaryModel model(drawn_model());
  Engine engine = loaded(options_of(model, 4));
  AnswerScheduler scheduler(engine, {.n_parallel = 4, .contexts = std::nullopt});
  std::vector<uint64_t> starts;
  std::deque<Order> orders;
  const auto ask = [&](const Tokens& prompt, uint64_t n_predict) {
    orders.push_back(order_of(prompt, n_predict));
    orders.back().starts = &starts;
    add(scheduler, orders.back());
    return orders.back().id;
  };
  // The first takes half of the room for a long time, the large one all of it.
  ask(letters("a"), 120);
  scheduler.step();
  const uint64_t large = ask(Tokens(200, letter('l')), 40);
  // Prompts are read in turn: three that start in one pass end in one step, and three more start.
  for (uint64_t i = 0; i < 21; ++i) ask(letters("small"), 10 - i % 3);
  run(scheduler);
  for (const Order& order : orders) {
    ASSERT_TRUE(order.answer);
    EXPECT_EQ(order.answer->finish_reason, FinishReason::kLength);
  }
  const auto before = std::ranges::find(starts, large) - starts.begin();
  EXPECT_EQ(before, 1 + 8);  // the first, and as many as may pass
  starts.erase(starts.begin() + before);
  EXPECT_TRUE(std::ranges::is_sorted(starts));
}

TEST(AnswerScheduler, SequencesThatNobodyUsesGoWhenRoomIsNeededTheOldestFirst) {
  const TemporaryModel model(drawn_model());
  Engine engine = loaded(options_of(model, 2));
  AnswerScheduler scheduler(engine, {.n_parallel = 2, .contexts = std::nullopt});
  std::deque<Order> orders;
  for (const char c : {'a', 'b', 'c'}) {
    orders.push_back(order_of(Tokens(60, letter(c)), 2));
    add(scheduler, orders.back());
    run(scheduler);
  }
  ASSERT_EQ(scheduler.held().size(), 3u);
  const uint32_t oldest = scheduler.held()[0].slot;
  // Three of 61 positions are held, of 256: what comes needs 96.
  orders.push_back(order_of(Tokens(80, letter('d')), 2));
  add(scheduler, orders.back());
  run(scheduler);
  ASSERT_EQ(scheduler.held().size(), 3u);
  EXPECT_NE(scheduler.held()[0].slot, oldest);
}

TEST(AnswerScheduler, ARequestThatIsWrongFailsAlone) {
  const TemporaryModel model(drawn_model());
  Engine engine = loaded(options_of(model, 2));
  AnswerScheduler scheduler(engine, {.n_parallel = 2, .contexts = std::nullopt});
  Order good = order_of(letters("good"), 5), wrong = order_of(letters("wrong"), 5),
        large = order_of(Tokens(kContext, letter('x')), 5);
  wrong.request.sampler.top_p = 3;
  for (Order* order : {&wrong, &good, &large}) add(scheduler, *order);
  run(scheduler);
  EXPECT_TRUE(good.answer);
  EXPECT_TRUE(wrong.failure);
  ASSERT_TRUE(large.failure);
  EXPECT_THROW(std::rethrow_exception(large.failure), ContextLengthError);
}

TEST(AnswerScheduler, ACallbackThatThrowsAtTheStartFailsItsAnswerAlone) {
  const TemporaryModel model(drawn_model());
  Engine engine = loaded(options_of(model, 2));
  AnswerScheduler scheduler(engine, {.n_parallel = 2, .contexts = std::nullopt});
  Order good = order_of(letters("good"), 5), wrong = order_of(letters("wrong"), 5);
  wrong.throws_at_start = true;
  for (Order* order : {&wrong, &good}) add(scheduler, *order);
  run(scheduler);
  EXPECT_TRUE(good.answer);
  EXPECT_EQ(wrong.n_ends, 1u);
  ASSERT_TRUE(wrong.failure);
  EXPECT_THROW(std::rethrow_exception(wrong.failure), std::runtime_error);
}

TEST(AnswerScheduler, ASelectedQuestionIsReadAlikeAloneAndBesideOthers) {
  const TemporaryModel model(long_model());
  EngineOptions options = options_of(model, 3, kLongContext);
  options.method = index::Method::kQuest;
  options.selection.budget = {index::Budget::Kind::kTokens, 64};
  std::mt19937 random(31);
  const Tokens document = drawn_tokens(random, 500), question = drawn_tokens(random, 60);
  const auto scores_of = [&](bool is_beside) {
    Engine engine = loaded(options);
    AnswerScheduler scheduler(engine,
                              {.n_parallel = 3, .chunk_rows_beside = 5, .contexts = std::nullopt});
    Order before = order_of(joined(document, letters("x")), 1);
    add(scheduler, before);
    run(scheduler);
    Order beside = order_of(letters("other"), 200);
    if (is_beside) {
      add(scheduler, beside);
      scheduler.step();
    }
    Order asked = order_of(joined(document, question), 20);
    asked.request.n_logprobs = 0;
    add(scheduler, asked);
    run(scheduler);
    EXPECT_GE(asked.answer->usage.cached_tokens, 480u);
    EXPECT_EQ(asked.scores.size(), 20u);
    return asked.scores;
  };
  EXPECT_EQ(scores_of(false), scores_of(true));
}

/// Four texts of which memory holds two, and the file the rest.
TEST(AnswerScheduler, AnswersWhoseContextsSpillAreTheOnesTheyHaveAlone) {
  constexpr uint32_t kSpilling = 32768;
  SmallModel small = drawn_model();
  small.set("llama.context_length", kSpilling);
  const TemporaryModel model(small);
  const TestFolder folder;
  EngineOptions options = options_of(model, 4, kSpilling);
  options.kv_dram_bytes = smallest_spilling_dram(
      Engine::open(options).spec().shape, {.n_ctx = kSpilling, .chunk_rows = 16, .n_answers = 4});
  options.nvme_directory = folder.path();
  options.io = tiers::IoChoice::kThreads;
  Engine engine = loaded(options);
  ASSERT_TRUE(engine.context().kv.is_spilling());
  Engine lone = loaded(options_of(model, 1, 2048));
  AnswerScheduler scheduler(engine, {.n_parallel = 4, .contexts = std::nullopt});
  std::mt19937 random(21);
  const Tokens document = drawn_tokens(random, 700);
  std::deque<Order> orders;
  for (uint64_t i = 0; i < 4; ++i) {
    orders.push_back(order_of(joined(i < 2 ? document : Tokens(), drawn_tokens(random, 900)), 20));
    add(scheduler, orders.back());
  }
  run(scheduler);
  EXPECT_GT(engine.cache().store().counts().extents_evicted, 0u);
  for (const Order& order : orders) {
    ASSERT_TRUE(order.answer);
    EXPECT_EQ(order.answer->tokens, alone(lone, order).tokens);
  }
  EXPECT_EQ(orders[1].answer->usage.cached_tokens, 700u);
}

/// Saved contexts of a folder, as one process has them.
struct SavingRun {
  SavingRun(const TemporaryModel& model, const TestFolder& folder, uint32_t n_parallel = 3,
            uint32_t n_idle_max = 16, tiers::DurableCalls* calls = nullptr)
      : engine(loaded([&] {
          EngineOptions options = options_of(model, n_parallel, kLongContext);
          options.reads_saved = true;
          options.io = tiers::IoChoice::kThreads;
          return options;
        }())),
        scheduler(engine,
                  {.n_parallel = n_parallel,
                   .n_idle_max = n_idle_max,
                   .contexts = ContextCacheOptions{
                       .directory = folder.path("contexts"), .limits = {}, .calls = calls}}) {}
  Engine engine;
  AnswerScheduler scheduler;
};

TEST(AnswerScheduler, WhatWasReadAndAnsweredIsFoundByAnotherProcess) {
  const TemporaryModel model(long_model());
  const TestFolder folder;
  std::mt19937 random(9);
  const Tokens document = drawn_tokens(random, 600);
  std::deque<Order> orders;
  for (const char* question : {"one", "another", "thelast"})
    orders.push_back(order_of(joined(document, letters(question)), 300));
  {
    SavingRun run_of(model, folder);
    for (Order& order : orders) add(run_of.scheduler, order);
    run(run_of.scheduler);
    EXPECT_TRUE(run_of.scheduler.finish());
    EXPECT_TRUE(run_of.scheduler.take_notices().empty());
  }
  SavingRun again(model, folder);
  for (const Order& order : orders) {
    ASSERT_TRUE(order.answer);
    // The conversation goes on: all of it but the last token that was sampled is saved.
    Order next = order_of(joined(joined(order.prompt, order.answer->tokens), letters("go")), 5);
    add(again.scheduler, next);
    run(again.scheduler);
    EXPECT_EQ(next.answer->usage.cached_tokens, order.prompt.size() + 299);
    EXPECT_EQ(next.answer->tokens, alone(again.engine, next).tokens);
  }
}

TEST(AnswerScheduler, IdleSequencesMakeRoomForASavedContext) {
  const TemporaryModel model(long_model());
  const TestFolder folder;
  std::mt19937 random(12);
  const Tokens document = drawn_tokens(random, 600);
  {
    SavingRun run_of(model, folder);
    Order order = order_of(joined(document, letters("one")), 5);
    add(run_of.scheduler, order);
    run(run_of.scheduler);
    EXPECT_TRUE(run_of.scheduler.finish());
  }
  SavingRun again(model, folder, 1, 1000);
  for (size_t n_held = 0;;) {  // until one had to go for another
    Order filler = order_of(drawn_tokens(random, 60), 2);
    add(again.scheduler, filler);
    run(again.scheduler);
    if (again.scheduler.held().size() == n_held) break;
    n_held = again.scheduler.held().size();
    ASSERT_LT(n_held, 500u);
  }
  Order next = order_of(joined(document, letters("another")), 5);
  add(again.scheduler, next);
  run(again.scheduler);
  ASSERT_TRUE(next.answer);
  EXPECT_GE(next.answer->usage.cached_tokens, 576u);
  EXPECT_EQ(again.scheduler.take_notices(), std::vector<std::string>());
  EXPECT_TRUE(again.scheduler.finish());
}

/// A disk that from some time on lists nothing.
class FailingCalls final : public tiers::DurableCalls {
 public:
  int list(int directory, std::vector<std::string>& names) override {
    return fails ? -EIO : DurableCalls::list(directory, names);
  }
  std::atomic<bool> fails = false;
};

TEST(AnswerScheduler, AFolderThatFailsIsNotUsedAnyMoreAndAnswersGoOn) {
  const TemporaryModel model(long_model());
  const TestFolder folder;
  std::mt19937 random(13);
  Order order = order_of(drawn_tokens(random, 600), 5),
        next = order_of(drawn_tokens(random, 600), 5);
  static FailingCalls& calls = *new FailingCalls;  // threads may end after main() does
  calls.fails = false;
  SavingRun run_of(model, folder, 3, 16, &calls);
  add(run_of.scheduler, order);
  run(run_of.scheduler);
  EXPECT_TRUE(run_of.scheduler.finish());
  calls.fails = true;
  add(run_of.scheduler, next);
  run(run_of.scheduler);
  EXPECT_TRUE(next.answer);
  EXPECT_EQ(run_of.scheduler.take_notices().size(), 1u);
  EXPECT_FALSE(run_of.scheduler.finish());
}

TEST(AnswerScheduler, APromptThatWasStoppedIsSavedAsFarAsItWasRead) {
  const TemporaryModel model(long_model());
  const TestFolder folder;
  std::mt19937 random(10);
  Order order = order_of(drawn_tokens(random, 900), 5);
  {
    SavingRun run_of(model, folder);
    add(run_of.scheduler, order);
    for (int i = 0; i < 30; ++i) run_of.scheduler.step();  // chunks of 16
    run_of.scheduler.end_all();
    EXPECT_EQ(order.answer->finish_reason, FinishReason::kCancelled);
    run_of.scheduler.finish();
  }
  SavingRun again(model, folder);
  Order same = order_of(order.prompt, 5);
  add(again.scheduler, same);
  run(again.scheduler);
  EXPECT_EQ(same.answer->usage.cached_tokens, 480u);
}

}  // namespace
}  // namespace strata::engine
