// Every allocation failure of a server: an error for the order, and the next one is answered.
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <string>

#include "base/error.h"
#include "tests/allocation/refused_memory.h"
#include "tests/engine/letter_requests.h"
#include "tools/serve/engine_service.h"

namespace strata::serve {
namespace {

using engine::testing::drawn_model;
using engine::testing::TemporaryModel;
using engine::testing::TestFolder;

std::string letters(uint32_t n) {
  std::mt19937 random(5);
  std::string text;
  while (text.size() < n) text += engine::testing::drawn_letter(random);
  return text;
}

AnswerOrder order_of(const std::string& text) {
  AnswerOrder order;
  order.text = text;
  order.n_predict = 8;
  order.ignore_eos = true;
  order.sampler.temperature = 0;
  return order;
}

TEST(FailingService, AnswersTheNextOrder) {
  const TemporaryModel model(drawn_model());
  const TestFolder folder;
  EngineService::Options options;
  options.session_dir = folder.path("contexts");
  options.free_floor_bytes = 0;
  engine::EngineOptions of;
  of.model_path = model.path();
  of.n_ctx = 1024;
  of.allow_untrained = true;
  of.chunk_rows = 16;
  of.n_threads = 1;
  of.io = tiers::IoChoice::kThreads;
  EngineService::prepare(options, of);
  engine::Engine engine = engine::Engine::open(of);
  engine.load({});
  const auto service = EngineService::start(engine, options);
  const std::string text = letters(300);
  const auto run = [&] {
    const auto stream = service->submit(order_of(text));
    std::string answer;
    for (;;) {
      AnswerEvent event;
      if (!stream->wait_next(event, std::chrono::minutes(5))) return std::string("no event");
      answer += event.text;
      if (event.kind == AnswerEvent::Kind::kEnd) return answer;
      if (event.kind == AnswerEvent::Kind::kError) throw Error(*event.error);
    }
  };
  strata::testing::expect_survives_refusals(
      {.name = "an order", .run = run, .keeps_nothing = false}, 200);
}

}  // namespace
}  // namespace strata::serve
