// tests/engine/scheduled_order.h - orders for an AnswerScheduler over a small engine, and what
// became of them.
#pragma once

#include <gtest/gtest.h>

#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/answer_scheduler.h"
#include "tests/engine/letter_requests.h"

namespace strata::engine::testing {

inline constexpr uint32_t kContext = 256;
inline constexpr uint32_t kLongContext = 2048;

inline SmallModel long_model() {
  SmallModel model = drawn_model();
  model.set("llama.context_length", kLongContext);
  return model;
}

inline EngineOptions options_of(const TemporaryModel& model, uint32_t n_parallel,
                                uint32_t n_ctx = kContext) {
  EngineOptions options;
  options.model_path = model.path();
  options.n_ctx = n_ctx;
  options.chunk_rows = 16;
  options.n_threads = 1;  // beside other tests, two would wait for each other
  options.n_answers = n_parallel;
  return options;
}

inline Engine loaded(const EngineOptions& options) {
  Engine engine = Engine::open(options);
  engine.load({});
  return engine;
}

/// An order and what became of it.
struct Order {
  Tokens prompt;
  GenerationRequest request;
  uint64_t id = 0;
  std::optional<Generation> answer;
  std::exception_ptr failure;
  uint32_t n_ends = 0;
  std::vector<uint64_t>* starts = nullptr;  // ids in the order of their starts
  std::vector<double> scores;               // of its tokens, where they are wanted
  bool throws_at_start = false;
  tiers::Hash128 root;
  std::string asker;
};

inline Order order_of(const Tokens& prompt, uint64_t n_predict) {
  Order order;
  order.prompt = prompt;
  order.request.n_predict = n_predict;
  order.request.ignore_eos = true;
  order.request.sampler.temperature = 0;
  return order;
}

inline void add(AnswerScheduler& scheduler, Order& order) {
  AnswerTask task;
  task.prompt = order.prompt;
  task.is_text = false;
  task.request = order.request;
  task.root = order.root;
  task.asker = order.asker;
  task.events.on_scores = [&order](const TokenScores& scores) {
    order.scores.push_back(scores.token.logprob);
  };
  task.on_start = [&order](uint64_t, uint64_t) {
    if (order.throws_at_start) throw std::runtime_error("a callback");
    if (order.starts != nullptr) order.starts->push_back(order.id);
  };
  task.on_end = [&order](Generation answer) {
    order.answer = std::move(answer);
    ++order.n_ends;
  };
  task.on_failure = [&order](const std::exception_ptr& error) {
    order.failure = error;
    ++order.n_ends;
  };
  order.id = scheduler.add(std::move(task));
}

inline void run(AnswerScheduler& scheduler) {
  for (uint32_t n = 0; scheduler.has_work(); ++n) {
    scheduler.step();
    ASSERT_LT(n, 20000u) << "orders do not end";
  }
}

}  // namespace strata::engine::testing
