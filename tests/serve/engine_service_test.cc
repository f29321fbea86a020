#include "tools/serve/engine_service.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "engine/context_size.h"
#include "engine/prompt_tokens.h"
#include "tests/engine/letter_requests.h"
#include "tests/sanitizer.h"

namespace strata::serve {
namespace {

using engine::Engine;
using engine::FinishReason;
using engine::testing::below;
using engine::testing::drawn_letter;
using engine::testing::drawn_model;
using engine::testing::TemporaryModel;
using engine::testing::TestFolder;
using std::chrono::milliseconds;
using Kind = AnswerEvent::Kind;

constexpr uint32_t kContext = 256;
constexpr milliseconds kLong = std::chrono::minutes(5);  // a test that waits so long has failed

/// An engine, and a service over it.
struct Served {
  explicit Served(const TemporaryModel& model, const EngineService::Options& options = {},
                  uint32_t n_ctx = kContext)
      : engine(opened(model, options, n_ctx)), service(EngineService::start(engine, options)) {}
  static Engine opened(const TemporaryModel& model, const EngineService::Options& options,
                       uint32_t n_ctx) {
    engine::EngineOptions of;
    of.model_path = model.path();
    of.n_ctx = n_ctx;
    of.chunk_rows = 16;
    of.n_threads = 1;  // beside other tests, two would wait for each other
    of.io = tiers::IoChoice::kThreads;
    EngineService::prepare(options, of);
    Engine engine = Engine::open(of);
    engine.load({});
    return engine;
  }
  /// From now on, and before the first order, no step ends until it is let go or cancelled.
  void hold_steps() {
    engine.walk().set_between_operations([this] {
      while (!lets_go && !engine.walk().cancel()->load()) std::this_thread::yield();
    });
  }
  Engine engine;
  std::atomic<bool> lets_go = false;
  std::unique_ptr<EngineService> service;
};

AnswerOrder text_order(const std::string& text, uint64_t n_predict) {
  AnswerOrder order;
  order.text = text;
  order.n_predict = n_predict;
  order.ignore_eos = true;
  order.sampler.temperature = 0;
  // What is said is text, each token of it.
  for (const engine::TokenId token : {0, 1, engine::testing::kByteC3, engine::testing::kByteA9})
    order.sampler.logit_bias.emplace_back(token, -std::numeric_limits<double>::infinity());
  return order;
}

/// All that is told of an order.
struct Told {
  std::string text;
  std::vector<ScoredToken> tokens;
  std::vector<AnswerEvent> events;
  const AnswerEvent& last() const { return events.back(); }
};

Told listen(AnswerStream& stream) {
  Told told;
  for (;;) {
    AnswerEvent event;
    if (!stream.wait_next(event, kLong)) {
      ADD_FAILURE() << "no event came";
      event.kind = Kind::kError;
    }
    told.text += event.text;
    told.tokens.insert(told.tokens.end(), event.tokens.begin(), event.tokens.end());
    told.events.push_back(event);
    if (event.kind == Kind::kEnd || event.kind == Kind::kError) return told;
  }
}

std::string drawn_text(std::mt19937& random, uint32_t n) {
  std::string text;
  while (text.size() < n) text += drawn_letter(random);
  return text;
}

/// What a text is answered with by an engine that has nothing else to do.
std::string alone(Engine& engine, const AnswerOrder& order) {
  const auto prompt = engine::encode_text_prompt(engine.tokenizer(), order.text, true);
  engine::GenerationRequest request;
  request.prompt = prompt;
  request.vocab_size = engine.spec().shape.vocab_size;
  request.n_ctx = engine.context().n_ctx;
  request.n_predict = order.n_predict;
  request.chunk_rows = 16;
  request.sampler = order.sampler;
  request.ignore_eos = order.ignore_eos;
  engine::Sequence sequence = engine.cache().make_sequence();
  return generate(engine.walk(), sequence, engine.tokenizer(), request).text;
}

TEST(EngineService, AnOrderIsToldFromItsPromptToItsEnd) {
  const TemporaryModel model(drawn_model());
  Served served(model);
  const auto stream = served.service->submit(text_order("thequickbrownfox", 12));
  const Told told = listen(*stream);
  Kind highest = Kind::kPrompt;
  for (const AnswerEvent& event : told.events) {
    EXPECT_GE(event.kind, highest);
    highest = event.kind;
  }
  EXPECT_EQ(told.events.front().kind, Kind::kPrompt);
  EXPECT_EQ(told.events.front().n_prompt,
            served.service->tokenize("thequickbrownfox", true, true).size());
  EXPECT_EQ(told.last().finish_reason, FinishReason::kLength);
  EXPECT_EQ(told.last().usage.completion_tokens, 12u);
  EXPECT_TRUE(served.service->drain(kLong));
  Engine lone = Served::opened(model, {}, kContext);
  EXPECT_EQ(told.text, alone(lone, text_order("thequickbrownfox", 12)));
  const ServiceCounts counts = served.service->counts();
  EXPECT_EQ(counts.orders, 1u);
  EXPECT_EQ(counts.answered, 1u);
  EXPECT_EQ(counts.answer_tokens, 12u);
  EXPECT_EQ(counts.n_busy + counts.n_waiting, 0u);
}

TEST(EngineService, MessagesAreRenderedAndStopTextsAndScoresTold) {
  const TemporaryModel model(drawn_model());
  Served served(model);
  AnswerOrder order = text_order("", 12);
  order.messages = {{"user", "thequickbrownfox"}};
  order.n_logprobs = 3;
  EXPECT_EQ(served.service->rendered(order), "thequickbrownfox");
  const Told told = listen(*served.service->submit(order));
  ASSERT_EQ(told.tokens.size(), 12u);
  std::string pieces;
  for (const ScoredToken& token : told.tokens) {
    pieces += token.token.bytes;
    ASSERT_EQ(token.likeliest.size(), 3u);
    EXPECT_GE(token.likeliest[0].logprob, token.token.logprob);
    EXPECT_GE(token.likeliest[0].logprob, token.likeliest[1].logprob);
  }
  EXPECT_EQ(pieces, told.text);
  order.stop = {told.text.substr(4, 3)};
  const Told stopped = listen(*served.service->submit(order));
  EXPECT_EQ(stopped.last().finish_reason, FinishReason::kStop);
  EXPECT_EQ(stopped.last().stop_text, order.stop[0]);
  EXPECT_EQ(stopped.text, told.text.substr(0, told.text.find(order.stop[0])));
}

/// Clients that come and go at random, each as a thread.
TEST(EngineService, WhateverClientsDoEveryAnswerIsTheLoneOneAndNoOrderIsLost) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const TemporaryModel model(drawn_model());
  EngineService::Options options;
  options.n_parallel = 3;
  std::vector<AnswerOrder> orders;
  std::vector<std::string> wanted;
  {
    Engine engine = Served::opened(model, {}, kContext);
    const std::string document = drawn_text(random, 90);
    for (int i = 0; i < 12; ++i) {
      orders.push_back(text_order(
          document.substr(0, below(random, 90)) + drawn_text(random, 1 + below(random, 40)),
          below(random, 40)));
      if (i % 2 == 0) orders.back().sampler.temperature = 1.1;
      orders.back().sampler.seed = random();
      wanted.push_back(alone(engine, orders.back()));
    }
  }
  Served served(model, options);
  std::atomic<uint64_t> n_submitted = 0, n_whole = 0;
  const auto client = [&](uint32_t client_seed) {
    std::mt19937 draws(client_seed);
    for (uint64_t n = 0; n < sanitizer::rounds(12, 5); ++n) {
      const uint32_t i = below(draws, 12);
      const auto stream = served.service->submit(orders[i]);
      ++n_submitted;
      switch (below(draws, 5)) {
        case 0:
          continue;  // it is dropped
        case 1: {
          AnswerEvent event;
          for (uint32_t k = 0; k < below(draws, 4); ++k) stream->wait_next(event, kLong);
          stream->cancel();
          EXPECT_FALSE(stream->wait_next(event, kLong));
          continue;
        }
        default:
          const Told told = listen(*stream);
          EXPECT_EQ(told.last().kind, Kind::kEnd);
          EXPECT_EQ(told.text, wanted[i]);
          ++n_whole;
      }
    }
  };
  std::vector<std::thread> clients;
  for (uint32_t c = 0; c < 6; ++c) clients.emplace_back(client, static_cast<uint32_t>(random()));
  for (std::thread& thread : clients) thread.join();
  EXPECT_TRUE(served.service->drain(kLong));
  const ServiceCounts counts = served.service->counts();
  EXPECT_EQ(counts.orders, n_submitted);
  EXPECT_EQ(counts.answered + counts.cancelled, n_submitted);
  EXPECT_GE(counts.answered, n_whole);
  EXPECT_EQ(counts.failed, 0u);
  EXPECT_EQ(counts.n_busy + counts.n_waiting, 0u);
}

template <class Refused>
ErrorCode code_of(const Refused& refused) {
  try {
    refused();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "it is not refused";
  return ErrorCode::kIo;
}

TEST(EngineService, WhatCanNeverBeAnsweredIsRefusedAtOnce) {
  const TemporaryModel model(drawn_model());
  Served served(model);
  const auto code = [&](const AnswerOrder& order) {
    return code_of([&] { (void)served.service->submit(order); });
  };
  EXPECT_EQ(code(text_order(std::string(kContext, 'x'), 1)), ErrorCode::kContextLengthExceeded);
  EXPECT_EQ(code(text_order("", 1)), ErrorCode::kBadText);
  AnswerOrder both = text_order("text", 1);
  both.tokens = {3};
  EXPECT_EQ(code(both), ErrorCode::kUsage);
  AnswerOrder unknown = text_order("", 1);
  unknown.tokens = {3, 4000};
  EXPECT_EQ(code(unknown), ErrorCode::kUsage);
  AnswerOrder hot = text_order("text", 1);
  hot.sampler.top_p = 7;
  EXPECT_EQ(code(hot), ErrorCode::kUsage);
  AnswerOrder stops = text_order("text", 1);
  stops.stop = {""};
  EXPECT_EQ(code(stops), ErrorCode::kUsage);
  EXPECT_EQ(served.service->counts().refused, 6u);
  EXPECT_EQ(served.service->counts().orders, 0u);
}

TEST(EngineService, BeyondItsQueueItIsBusyAndInTheEndItStops) {
  const TemporaryModel model(drawn_model());
  EngineService::Options options;
  options.n_parallel = 1;
  options.n_queued_max = 2;
  Served served(model, options, 256);
  std::vector<std::unique_ptr<AnswerStream>> streams;
  const auto submit = [&] { streams.push_back(served.service->submit(text_order("abc", 250))); };
  served.hold_steps();
  for (int i = 0; i < 3; ++i) submit();
  EXPECT_EQ(code_of(submit), ErrorCode::kBusy);
  streams.clear();
  served.lets_go = true;
  EXPECT_TRUE(served.service->drain(kLong));
  EXPECT_EQ(code_of(submit), ErrorCode::kCancelled);
  EXPECT_EQ(served.service->counts().cancelled, 3u);
}

TEST(EngineService, AClientThatDoesNotReadStopsNobodyAndFindsAllLater) {
  const TemporaryModel model(drawn_model());
  Served served(model);
  const auto silent = served.service->submit(text_order("silentclient", 60));
  const Told other = listen(*served.service->submit(text_order("another", 100)));
  EXPECT_EQ(other.last().kind, Kind::kEnd);
  EXPECT_TRUE(served.service->drain(kLong));
  const Told told = listen(*silent);
  ASSERT_EQ(told.events.size(), 3u);  // one of each kind
  Engine lone = Served::opened(model, {}, kContext);
  EXPECT_EQ(told.text, alone(lone, text_order("silentclient", 60)));
}

TEST(EngineService, WhatHasNotEndedInTimeIsCancelled) {
  const TemporaryModel model(drawn_model());
  EngineService::Options options;
  options.n_parallel = 1;
  Served served(model, options);
  served.hold_steps();
  const auto first = served.service->submit(text_order("first", 200));
  const auto second = served.service->submit(text_order("second", 200));
  EXPECT_FALSE(served.service->drain(milliseconds(0)));
  for (AnswerStream* stream : {first.get(), second.get()}) {
    const Told told = listen(*stream);
    EXPECT_EQ(told.last().kind, Kind::kEnd);
    EXPECT_EQ(told.last().finish_reason, FinishReason::kCancelled);
  }
  served.service->drain(kLong);  // again does no harm
}

TEST(EngineService, AServiceThatGoesEndsItsOrders) {
  const TemporaryModel model(drawn_model());
  auto served = std::make_unique<Served>(model);
  served->hold_steps();
  const auto stream = served->service->submit(text_order("first", 200));
  served.reset();
  EXPECT_EQ(listen(*stream).last().finish_reason, FinishReason::kCancelled);
}

TEST(EngineService, ARestartFindsWhatWasReadAndAnswered) {
  engine::testing::SmallModel small = drawn_model();
  small.set("llama.context_length", uint32_t{2048});
  const TemporaryModel model(small);
  const TestFolder folder;
  EngineService::Options options;
  options.n_parallel = 2;
  options.session_dir = folder.path("contexts");
  std::mt19937 random(4);
  const std::string document = drawn_text(random, 500);
  Told first;
  {
    Served served(model, options, 2048);
    first = listen(*served.service->submit(text_order(document, 300)));
    EXPECT_TRUE(served.service->drain(kLong));
    EXPECT_TRUE(served.service->take_notices().empty());
  }
  Served again(model, options, 2048);
  const Told told =
      listen(*again.service->submit(text_order(document + first.text + "andthen", 3)));
  EXPECT_EQ(told.last().usage.cached_tokens, first.last().usage.prompt_tokens + 299);
}

TEST(EngineService, AnOwnerFindsOnlyWhatItsOwnOrdersHaveRead) {
  engine::testing::SmallModel small = drawn_model();
  small.set("llama.context_length", uint32_t{2048});
  const TemporaryModel model(small);
  const TestFolder folder;
  EngineService::Options options;
  options.n_parallel = 2;
  options.session_dir = folder.path("contexts");
  std::mt19937 random(5);
  const std::string document = drawn_text(random, 500);
  const auto n_cached = [&](Served& served, const std::string& owner) {
    AnswerOrder order = text_order(document, 3);
    order.owner = owner;
    return listen(*served.service->submit(std::move(order))).last().usage.cached_tokens;
  };
  {
    Served served(model, options, 2048);
    EXPECT_EQ(n_cached(served, "first"), 0u);
    EXPECT_GE(n_cached(served, "first"), 480u);
    EXPECT_EQ(n_cached(served, "second"), 0u);
    EXPECT_EQ(n_cached(served, ""), 0u);
    EXPECT_GE(n_cached(served, "second"), 480u);
    EXPECT_TRUE(served.service->drain(kLong));
  }
  Served again(model, options, 2048);
  EXPECT_EQ(n_cached(again, "third"), 0u);
  EXPECT_GE(n_cached(again, "second"), 480u);
  EXPECT_GE(n_cached(again, "first"), 480u);
  EXPECT_GE(n_cached(again, ""), 480u);
}

/// What one owner's order is just reading, another's does not wait for.
TEST(EngineService, OwnersReadTheSameTextBesideEachOther) {
  const TemporaryModel model(drawn_model());
  EngineService::Options options;
  options.n_parallel = 2;
  Served served(model, options);
  std::mt19937 random(6);
  AnswerOrder order = text_order(drawn_text(random, 200), 3);
  order.owner = "first";
  const auto first = served.service->submit(order);
  order.owner = "second";
  const auto second = served.service->submit(order);
  const Told told = listen(*second), told_first = listen(*first);
  EXPECT_EQ(told.last().usage.cached_tokens, 0u);
  EXPECT_EQ(told.text, told_first.text);
}

TEST(EngineService, WhatIsSaidOfAnAnswerIsANoticeThatKnowsWhetherItWasAlone) {
  const TemporaryModel model(drawn_model());
  EngineService::Options options;
  options.n_parallel = 2;
  options.review = [](const engine::Generation& answer, bool was_alone) {
    return std::vector{std::to_string(answer.usage.completion_tokens) +
                       (was_alone ? " alone" : " beside")};
  };
  {
    Served lone(model, options);
    EXPECT_EQ(listen(*lone.service->submit(text_order("text", 3))).last().kind, Kind::kEnd);
    EXPECT_TRUE(lone.service->drain(kLong));
    EXPECT_EQ(lone.service->take_notices(), std::vector<std::string>{"3 alone"});
  }
  Served served(model, options);
  served.hold_steps();
  const auto first = served.service->submit(text_order("text", 4));
  const auto second = served.service->submit(text_order("other", 5));
  served.lets_go = true;
  EXPECT_EQ(listen(*first).last().kind, Kind::kEnd);
  EXPECT_EQ(listen(*second).last().kind, Kind::kEnd);
  EXPECT_TRUE(served.service->drain(kLong));
  const auto said = served.service->take_notices();
  EXPECT_EQ(std::set(said.begin(), said.end()), (std::set<std::string>{"4 beside", "5 beside"}));
}

TEST(EngineService, AFolderThatCannotBeUsedIsANotice) {
  engine::testing::SmallModel small = drawn_model();
  const TemporaryModel model(small);
  EngineService::Options options;
  options.session_dir = "/proc/nowhere";
  std::atomic<int> n_told = 0;
  options.on_notices = [&n_told] { ++n_told; };
  Served served(model, options);
  EXPECT_EQ(listen(*served.service->submit(text_order("text", 3))).last().kind, Kind::kEnd);
  EXPECT_FALSE(served.service->drain(kLong));  // it was not saved
  EXPECT_EQ(served.service->take_notices().size(), 1u);
  EXPECT_EQ(n_told, 1);
}

/// What is said of the layers once it is so, or what was said after a long time.
std::vector<engine::LayerBlocks> layers_when(
    const EngineService& service,
    const std::function<bool(const std::vector<engine::LayerBlocks>&)>& is_so) {
  const auto until = std::chrono::steady_clock::now() + kLong;
  std::vector<engine::LayerBlocks> layers;
  do {
    layers = service.layer_blocks();
    std::this_thread::yield();
  } while ((layers.empty() || !is_so(layers)) && std::chrono::steady_clock::now() < until);
  return layers;
}

TEST(EngineService, LooksAtTheLayersNoMoreOftenThanItMay) {
  const TemporaryModel model(drawn_model());
  EngineService::Options options;
  options.layers_kept = std::chrono::hours(1);
  Served served(model, options);
  EXPECT_FALSE(layers_when(*served.service, [](const auto&) { return true; }).empty());
  std::mt19937 random(8);
  for (uint32_t i = 0; i < 2; ++i) {  // an order that has come has had a look at the layers, too
    (void)served.service->layer_blocks();
    (void)listen(*served.service->submit(text_order(drawn_text(random, 100), 3)));
  }
  EXPECT_EQ(served.service->layer_blocks().at(0).dram, 0u);
}

TEST(EngineService, SaysWhereTheBlocksOfEachLayerAre) {
  const TemporaryModel model(drawn_model());
  EngineService::Options options;
  options.layers_kept = milliseconds(0);
  Served served(model, options);
  std::mt19937 random(8);
  (void)listen(*served.service->submit(text_order(drawn_text(random, 100), 3)));
  // The first look may have been before the answer's sequence was kept.
  const auto layers =
      layers_when(*served.service, [](const auto& seen) { return seen[0].dram > 0; });
  const ModelShape& shape = served.engine.spec().shape;
  ASSERT_EQ(layers.size(), shape.n_layers);
  for (uint32_t i = 0; i < shape.n_layers; ++i) {
    EXPECT_EQ(layers[i].dram, layers[0].dram);
    EXPECT_EQ(layers[i].dram % shape.layers[i].n_kv_heads, 0u);
    EXPECT_GE(layers[i].dram, 4 * shape.layers[i].n_kv_heads);
    EXPECT_EQ(layers[i].nvme + layers[i].hbm, 0u);
  }
  EXPECT_EQ(served.service->facts().layer_places, std::vector<std::string>(shape.n_layers, "dram"));
}

TEST(EngineService, SaysWhatItServes) {
  const TemporaryModel model(drawn_model());
  Served served(model);
  const ServiceFacts& facts = served.service->facts();
  EXPECT_EQ(facts.model_name, "small");
  EXPECT_EQ(facts.attention, "exact");
  EXPECT_EQ(facts.n_ctx, kContext);
  EXPECT_EQ(facts.chat_template, "{{ messages[0].content }}");
  EXPECT_GT(facts.n_parameters, 1000u);
  const std::string again =
      served.service->detokenize(served.service->tokenize("hello", false, false));
  EXPECT_TRUE(again.ends_with("hello")) << again;
  EXPECT_EQ(code_of([&] { (void)served.service->detokenize({-1}); }), ErrorCode::kUsage);
}

}  // namespace
}  // namespace strata::serve
