// Law L1 for answers: whoever is walked beside an answer, its tokens are those it has alone.
#include "engine/answer_batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/engine.h"
#include "tests/engine/letter_requests.h"
#include "tests/sanitizer.h"

namespace strata::engine {
namespace {

using testing::below;
using testing::drawn_letter;
using testing::drawn_model;
using testing::drawn_tokens;
using testing::endless_request;
using testing::letter;
using testing::letters;
using testing::SmallModel;
using testing::TinyEngine;
using testing::Tokens;

constexpr uint32_t kBatchContext = 256;

/// What a test compares of an answer.
struct Heard {
  Tokens tokens;
  std::string text;
  FinishReason reason = FinishReason::kStop;
  bool context_full = false;
  std::vector<double> logprobs;
  bool operator==(const Heard&) const = default;
};

Heard heard_of(Generation result, std::vector<double> logprobs) {
  return {std::move(result.tokens), std::move(result.text), result.finish_reason,
          result.context_full, std::move(logprobs)};
}

/// One answer of a drawn batch.
struct Trial {
  Tokens prompt;
  GenerationRequest request;
  uint64_t first_step = 0;             // it is there from this step of the batch on
  uint64_t cancelled_at = UINT64_MAX;  // of its own steps
  std::optional<Tokens> held;          // what its sequence holds before; may be no prefix
  bool is_fork = false;                // of another's sequence, as it is then
  // While it runs.
  std::optional<Sequence> sequence;
  std::unique_ptr<Answer> answer;
  std::vector<double> logprobs;
  uint64_t n_steps = 0;
};

GenerationEvents events_of(Trial& trial) {
  GenerationEvents events;
  events.on_scores = [&trial](const TokenScores& scores) {
    trial.logprobs.push_back(scores.token.logprob);
    for (const TokenLogprob& of : scores.likeliest) trial.logprobs.push_back(of.logprob);
  };
  return events;
}

void draw_request(std::mt19937& random, Trial& trial) {
  trial.request = endless_request(trial.prompt, below(random, 40), kBatchContext);
  if (below(random, 5) == 0) trial.request.n_predict = UINT64_MAX;
  trial.request.ignore_eos = below(random, 2) == 0;
  trial.request.sampler.seed = random();
  if (below(random, 2) == 0) trial.request.sampler.temperature = 1.5;
  if (below(random, 3) == 0) trial.request.sampler.repeat_penalty = 1.3;
  if (below(random, 3) == 0)
    trial.request.stop = {"ab", "q", std::string(1, drawn_letter(random)) + "e"};
  if (below(random, 3) == 0) trial.request.n_logprobs = below(random, 3);
  if (below(random, 2) == 0) trial.request.n_draft_max = 1 + below(random, 16);
}

std::deque<Trial> draw_trials(std::mt19937& random) {
  const Tokens base = drawn_tokens(random, 100);
  std::deque<Trial> trials(2 + below(random, 5));
  for (Trial& trial : trials) {
    const uint32_t n_common = below(random, 100);
    trial.prompt.assign(base.begin(), base.begin() + n_common);
    for (const TokenId token : drawn_tokens(random, 1 + below(random, 60)))
      trial.prompt.push_back(token);
    draw_request(random, trial);
    trial.first_step = below(random, 12);
    if (below(random, 4) == 0) trial.cancelled_at = below(random, 20);
    if (below(random, 4) == 0) {
      trial.held = Tokens(trial.prompt.begin(), trial.prompt.begin() + n_common / 2 + 1);
      for (const TokenId token : drawn_tokens(random, below(random, 20)))
        trial.held->push_back(token);
    }
    trial.is_fork = below(random, 4) == 0;
  }
  return trials;
}

void start(TinyEngine& engine, std::deque<Trial>& trials, Trial& trial) {
  const auto parent = std::ranges::find_if(
      trials, [&](const Trial& of) { return of.answer != nullptr && &of != &trial; });
  trial.sequence = trial.is_fork && parent != trials.end() ? parent->sequence->fork()
                                                           : engine.cache().make_sequence();
  if (trial.held && trial.sequence->n_pos() == 0)
    prefill(engine.walk(), *trial.sequence, *trial.held, 7);
  trial.answer = std::make_unique<Answer>(*trial.sequence, engine.tokenizer(), trial.request,
                                          events_of(trial));
}

/// Walks the trials as they come and go.
void run_batch(TinyEngine& engine, std::deque<Trial>& trials, uint32_t chunk_rows_beside) {
  AnswerBatch batch(engine.walk(), {.chunk_rows_beside = chunk_rows_beside, .make_room = {}});
  for (uint64_t step = 0;; ++step) {
    std::vector<Answer*> answers;
    bool is_any_left = false;
    for (Trial& trial : trials) {
      if (trial.answer == nullptr && trial.first_step <= step) start(engine, trials, trial);
      is_any_left = is_any_left || trial.answer == nullptr || !trial.answer->has_ended();
      if (trial.answer == nullptr) continue;
      if (trial.n_steps++ == trial.cancelled_at) trial.answer->cancel();
      answers.push_back(trial.answer.get());  // ended ones are left alone
    }
    if (!is_any_left) return;
    batch.step(answers);
    ASSERT_LT(step, 4000u) << "an answer does not end";
  }
}

Heard alone(TinyEngine& engine, const Trial& trial) {
  Sequence sequence = engine.cache().make_sequence();
  Trial of;
  const GenerationEvents events = events_of(of);
  GenerationRequest request = trial.request;
  request.n_draft_max = 0;
  Generation result = generate(engine.walk(), sequence, engine.tokenizer(), request, events);
  return heard_of(std::move(result), std::move(of.logprobs));
}

void expect_beginning(const Heard& whole, const Heard& part) {
  EXPECT_EQ(part.reason, FinishReason::kCancelled);
  ASSERT_LE(part.tokens.size(), whole.tokens.size());
  EXPECT_TRUE(std::ranges::equal(
      part.tokens, Tokens(whole.tokens.begin(),
                          whole.tokens.begin() + static_cast<std::ptrdiff_t>(part.tokens.size()))));
}

void expect_same_as_alone(const SmallModel& model, uint32_t n_rounds) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  TinyEngine together(model, {.n_ctx = kBatchContext, .chunk_rows = 16, .kv_bytes = 4 << 20});
  TinyEngine lone(model, {.n_ctx = kBatchContext, .chunk_rows = 16, .kv_bytes = 4 << 20});
  for (uint32_t round = 0; round < n_rounds; ++round) {
    std::deque<Trial> trials = draw_trials(random);
    run_batch(together, trials, 1 + below(random, 16));
    for (Trial& trial : trials) {
      ASSERT_FALSE(trial.answer->failure());
      const Heard found = heard_of(trial.answer->take_result(), trial.logprobs);
      const Heard wanted = alone(lone, trial);
      if (found.reason == FinishReason::kCancelled)
        expect_beginning(wanted, found);
      else
        EXPECT_TRUE(found == wanted) << round << ": " << found.text << " | " << wanted.text;
    }
    trials.clear();
    EXPECT_EQ(together.cache().pool().n_free(), together.cache().pool().n_slots());
  }
}

TEST(AnswerBatch, EveryAnswerOfADrawnBatchIsTheOneItHasAlone) {
  expect_same_as_alone(drawn_model(), static_cast<uint32_t>(sanitizer::rounds(40, 5)));
}

TEST(AnswerBatch, AlsoWhereLayersHaveWindows) {
  expect_same_as_alone(drawn_model("gemma3", 6), static_cast<uint32_t>(sanitizer::rounds(20, 3)));
}

/// Two answers, of which the first decodes when the second comes.
TEST(AnswerBatch, DecodingGoesOnBesideAPromptThatIsRead) {
  TinyEngine engine(drawn_model(), {.n_ctx = kBatchContext, .chunk_rows = 64, .kv_bytes = 1 << 20});
  const Tokens first = letters("abc"), second(100, letter('k')), third(95, letter('l'));
  std::vector<Sequence> sequences;
  for (int i = 0; i < 3; ++i) sequences.push_back(engine.cache().make_sequence());
  const auto answer_to = [&](int i, const Tokens& prompt) {
    GenerationRequest request = endless_request(prompt, 100, kBatchContext);
    request.chunk_rows = 64;
    return std::make_unique<Answer>(sequences[static_cast<size_t>(i)], engine.tokenizer(), request,
                                    GenerationEvents());
  };
  AnswerBatch batch(engine.walk(), {.chunk_rows_beside = 10, .make_room = {}});
  const auto a = answer_to(0, first);
  batch.step(std::vector{a.get()});
  ASSERT_EQ(a->tokens().size(), 1u);
  const auto b = answer_to(1, second), c = answer_to(2, third);
  const std::vector<Answer*> all = {a.get(), b.get(), c.get()};
  for (size_t step = 1; step <= 19; ++step) {
    const uint64_t n_steps = engine.walk().counts().steps;
    batch.step(all);
    EXPECT_EQ(engine.walk().counts().steps, n_steps + 1);
    EXPECT_EQ(a->tokens().size(), 1 + step);
    // The prompts take turns: ten rows of one of them.
    EXPECT_EQ(sequences[1].n_pos(), (step + 1) / 2 * 10);
    EXPECT_EQ(sequences[2].n_pos(), step / 2 * 10);
  }
  EXPECT_FALSE(b->is_reading());
  EXPECT_EQ(b->tokens().size(), 1u);
  // Where nobody decodes, a chunk is as long as it may be.
  a->cancel();
  b->cancel();
  Sequence fresh = engine.cache().make_sequence();
  const std::unique_ptr<Answer> d = [&] {
    GenerationRequest request = endless_request(second, 1, kBatchContext);
    request.chunk_rows = 64;
    return std::make_unique<Answer>(fresh, engine.tokenizer(), request, GenerationEvents());
  }();
  batch.step(std::vector{d.get()});
  EXPECT_EQ(fresh.n_pos(), 64u);
}

TEST(AnswerBatch, WhoAnswersAloneGuesses) {
  std::vector<std::pair<TokenId, TokenId>> next = {{letter('z'), letter('a')}};
  for (char c = 'a'; c < 'z'; ++c) next.emplace_back(letter(c), letter(static_cast<char>(c + 1)));
  TinyEngine engine(testing::make_chain_model(next, 256),
                    {.n_ctx = kBatchContext, .chunk_rows = 64, .kv_bytes = 1 << 20});
  const Tokens prompt = letters("abcdefghijklmnopqrstuvwxyzabc");
  for (const bool drafts_beside : {false, true}) {
    AnswerBatch batch(engine.walk(), {.drafts_beside = drafts_beside, .make_room = {}});
    std::deque<Sequence> sequences;
    std::deque<Answer> answers;
    std::vector<Answer*> all;
    const auto ask = [&] {
      GenerationRequest request = endless_request(prompt, 100, kBatchContext);
      request.n_draft_max = 4;
      request.chunk_rows = 64;
      sequences.push_back(engine.cache().make_sequence());
      answers.emplace_back(sequences.back(), engine.tokenizer(), request, GenerationEvents());
      all.push_back(&answers.back());
    };
    ask();
    batch.step(all);
    const auto n_more = [&](const Answer& of) {
      const size_t before = of.tokens().size();
      batch.step(all);
      return of.tokens().size() - before;
    };
    EXPECT_EQ(n_more(answers[0]), 5u);
    ask();
    EXPECT_EQ(n_more(answers[0]), drafts_beside ? 5u : 1u) << "beside a prompt that is read";
    EXPECT_EQ(n_more(answers[1]), drafts_beside ? 3u : 1u) << "beside another answer";
    answers[0].cancel();
    EXPECT_EQ(n_more(answers[1]), 5u);
  }
}

TEST(AnswerBatch, WhatFailsFailsAlone) {
  // Two layers of two KV heads: four blocks per 32 positions. 24 blocks hold six of 32.
  TinyEngine engine(drawn_model(),
                    {.n_ctx = kBatchContext, .chunk_rows = 16, .kv_bytes = 24 * 1024});
  TinyEngine lone(drawn_model(), {.n_ctx = kBatchContext, .chunk_rows = 16});
  const Tokens small = letters("abcdefg"), large(200, letter('x')), other = letters("hijklm");
  std::vector<Sequence> sequences;
  for (int i = 0; i < 3; ++i) sequences.push_back(engine.cache().make_sequence());
  GenerationEvents throws;
  throws.on_text = [n = 0](std::string_view) mutable -> bool {
    if (++n == 5) throw std::runtime_error("a callback");
    return true;
  };
  Answer a(sequences[0], engine.tokenizer(), endless_request(small, 20, kBatchContext), {});
  Answer b(sequences[1], engine.tokenizer(), endless_request(large, 30, kBatchContext), {});
  Answer c(sequences[2], engine.tokenizer(), endless_request(other, 30, kBatchContext), throws);
  AnswerBatch batch(engine.walk());
  const std::vector<Answer*> all = {&a, &b, &c};
  for (int i = 0; i < 60; ++i) batch.step(all);
  ASSERT_TRUE(a.has_ended() && b.has_ended() && c.has_ended());
  EXPECT_FALSE(a.failure());
  Sequence fresh = lone.cache().make_sequence();
  EXPECT_EQ(a.take_result().tokens, generate(lone.walk(), fresh, lone.tokenizer(),
                                             endless_request(small, 20, kBatchContext))
                                        .tokens);
  ASSERT_TRUE(b.failure());
  try {
    std::rethrow_exception(b.failure());
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDoesNotFit);
  }
  ASSERT_TRUE(c.failure());
  EXPECT_THROW(std::rethrow_exception(c.failure()), std::runtime_error);
}

TEST(AnswerBatch, RoomThatIsMadeLetsAStepGoOn) {
  TinyEngine engine(drawn_model(),
                    {.n_ctx = kBatchContext, .chunk_rows = 16, .kv_bytes = 24 * 1024});
  std::vector<Sequence> idle;
  for (int i = 0; i < 4; ++i) {
    idle.push_back(engine.cache().make_sequence());
    prefill(engine.walk(), idle.back(), Tokens(20, letter('i')), 16);
  }
  const Tokens prompt(100, letter('x'));
  Sequence sequence = engine.cache().make_sequence();
  Answer answer(sequence, engine.tokenizer(), endless_request(prompt, 2, kBatchContext), {});
  AnswerBatch batch(engine.walk(), {.make_room = [&] {
                      if (idle.empty()) return false;
                      idle.pop_back();
                      return true;
                    }});
  while (!answer.has_ended()) batch.step(std::vector{&answer});
  EXPECT_FALSE(answer.failure());
  EXPECT_EQ(idle.size(), 2u);  // 16 blocks for the prompt, four for each that stays
}

TEST(AnswerBatch, TheWalksFlagCancelsAllOfAStep) {
  TinyEngine engine(drawn_model(), {.n_ctx = kBatchContext, .chunk_rows = 16, .kv_bytes = 1 << 20});
  const Tokens prompt = letters("abc");
  Sequence one = engine.cache().make_sequence(), two = engine.cache().make_sequence();
  Answer a(one, engine.tokenizer(), endless_request(prompt, 30), {});
  Answer b(two, engine.tokenizer(), endless_request(prompt, 30), {});
  AnswerBatch batch(engine.walk());
  const std::vector<Answer*> all = {&a, &b};
  for (int i = 0; i < 5; ++i) batch.step(all);
  const std::atomic<bool> stop = true;
  engine.walk().set_cancel(&stop);
  batch.step(all);
  engine.walk().set_cancel(nullptr);
  ASSERT_TRUE(a.has_ended() && b.has_ended());
  EXPECT_EQ(a.take_result().finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(b.take_result().finish_reason, FinishReason::kCancelled);
  EXPECT_GT(a.sequence().n_pos(), 3u);
}

constexpr uint32_t kSelectingContext = 1024;

EngineOptions selecting_options(index::Method method, uint32_t chunk_rows) {
  EngineOptions options;
  options.n_ctx = kSelectingContext;
  options.chunk_rows = chunk_rows;
  options.n_threads = 1;  // beside other tests, two would wait for each other
  options.method = method;
  options.selection = {.budget = {.kind = index::Budget::Kind::kTokens, .value = 160}};
  return options;
}
/// An engine whose answers select, in a context of kSelectingContext.
class SelectingEngine {
 public:
  explicit SelectingEngine(EngineOptions options) : model_(long_model()), engine_(open(options)) {
    engine_.load({});
  }
  Engine& engine() { return engine_; }
  GenerationRequest request(const Tokens& prompt, uint64_t n_predict) const {
    GenerationRequest request = endless_request(prompt, n_predict, kSelectingContext);
    request.attention = Attention::kSelected;
    request.sparse_from = engine_.options().sparse_from;
    request.chunk_rows = engine_.options().chunk_rows;
    return request;
  }

 private:
  static SmallModel long_model() {
    SmallModel small = drawn_model();
    small.set("llama.context_length", kSelectingContext);
    return small;
  }
  Engine open(EngineOptions options) const {
    options.model_path = model_.path();
    return Engine::open(options);
  }
  const testing::TemporaryModel model_;
  Engine engine_;
};

/// Selected steps choose by the index of their own sequence, so a batch changes nothing about them.
TEST(AnswerBatch, AnswersThatSelectAreTheOnesTheyHaveAlone) {
  EngineOptions options = selecting_options(index::Method::kQuest, 16);
  options.n_answers = 3;
  options.selection.n_window_blocks = 1;
  SelectingEngine selecting(options);
  Engine& engine = selecting.engine();
  std::mt19937 random(11);
  std::vector<Tokens> prompts;
  // The last one is read sparsely, its end as a question.
  for (const uint32_t n : {300u, 20u, 250 + kQuestionTokensMax})
    prompts.push_back(drawn_tokens(random, n));
  const auto request_of = [&](const Tokens& prompt) {
    GenerationRequest request = selecting.request(prompt, 20);
    if (prompt.size() == prompts.back().size()) request.sparse_from = 90;
    request.n_logprobs = 0;
    return request;
  };
  const auto into = [](std::vector<double>& scores) {
    GenerationEvents events;
    events.on_scores = [&scores](const TokenScores& of) { scores.push_back(of.token.logprob); };
    return events;
  };
  std::vector<std::vector<double>> wanted(prompts.size()), got(prompts.size());
  const AnswerBatchOptions beside = {.chunk_rows_beside = 8, .question_rows = 5, .make_room = {}};
  for (size_t i = 0; i < prompts.size(); ++i) {
    Sequence sequence = engine.cache().make_sequence();
    Answer alone(sequence, engine.tokenizer(), request_of(prompts[i]), into(wanted[i]));
    AnswerBatch batch(engine.walk(), beside);
    for (std::vector<Answer*> one = {&alone}; !alone.has_ended();) batch.step(one);
  }
  std::deque<Sequence> sequences;
  std::vector<std::unique_ptr<Answer>> answers;
  std::vector<Answer*> all;
  for (size_t i = 0; i < prompts.size(); ++i) {
    sequences.push_back(engine.cache().make_sequence());
    answers.push_back(std::make_unique<Answer>(sequences.back(), engine.tokenizer(),
                                               request_of(prompts[i]), into(got[i])));
    all.push_back(answers.back().get());
  }
  AnswerBatch batch(engine.walk(), beside);
  for (int i = 0; i < 300; ++i) batch.step(all);
  for (size_t i = 0; i < all.size(); ++i) {
    ASSERT_TRUE(all[i]->has_ended());
    EXPECT_FALSE(all[i]->failure());
    EXPECT_EQ(got[i], wanted[i]) << i;
  }
}

TEST(AnswerBatch, TheEndOfAPromptThatIsReadSparselyIsReadAsAQuestion) {
  EngineOptions options = selecting_options(index::Method::kMean, 64);
  options.sparse_from = 100;
  SelectingEngine selecting(options);
  Engine& engine = selecting.engine();
  std::mt19937 random(12);
  const Tokens prompt = drawn_tokens(random, 600);
  Sequence sequence = engine.cache().make_sequence();
  Answer answer(sequence, engine.tokenizer(), selecting.request(prompt, 1), {});
  AnswerBatch batch(engine.walk(), {.chunk_rows_beside = 8, .question_rows = 32, .make_room = {}});
  std::vector<uint32_t> ends;
  for (std::vector<Answer*> one = {&answer}; answer.is_reading();) {
    EXPECT_EQ(answer.reads_sparsely(), sequence.n_pos() >= 100 && sequence.n_pos() < 344);
    batch.step(one);
    ends.push_back(sequence.n_pos());
  }
  const std::vector<uint32_t> expected = {64,  100, 164, 228, 292, 344, 376,
                                          408, 440, 472, 504, 536, 568, 600};
  EXPECT_EQ(ends, expected);
}

TEST(AnswerBatch, AQuestionIsReadExactlyUpToWhereSparseReadingBegins) {
  EngineOptions options = selecting_options(index::Method::kMean, 64);
  options.sparse_from = 320;
  SelectingEngine selecting(options);
  Engine& engine = selecting.engine();
  std::mt19937 random(13);
  const Tokens prompt = drawn_tokens(random, 400);
  Sequence sequence = engine.cache().make_sequence();
  prefill(engine.walk(), sequence, std::span(prompt).first(300), options.chunk_rows);
  Answer answer(sequence, engine.tokenizer(), selecting.request(prompt, 1), {});
  AnswerBatch batch(engine.walk());
  EXPECT_EQ(answer.attention(), Attention::kExact);
  for (std::vector<Answer*> one = {&answer}; answer.is_reading();) batch.step(one);
  EXPECT_EQ(sequence.n_exact(), 320u);
}

}  // namespace
}  // namespace strata::engine
