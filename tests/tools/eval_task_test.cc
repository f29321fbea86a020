// Tasks made from a seed: their lengths, where their facts stand, how answers are scored, and that
// a model which knows what is right scores as it must.
#include "tools/eval/task.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "base/error.h"
#include "tests/engine/recall_fixture.h"
#include "tests/tools/eval_fixture.h"
#include "tools/eval/recall_tasks.h"
#include "tools/eval/task_draft.h"
#include "tools/eval/text_tasks.h"

namespace strata::eval {
namespace {

using engine::Tokenizer;
using engine::testing::LoadedMember;
using engine::testing::RecallFile;
using index::Budget;
using testing::contender;
using testing::TestRunner;

TEST(Tasks, AnswersAreFoundWhereverTheyStandOrWordByWord) {
  const TaskQuestion contained{.answers = {"123", "456"}};
  EXPECT_EQ(n_right(contained, "It is 456 and 1234."), 2u);
  EXPECT_EQ(n_right(contained, "It is 45 6."), 0u);
  const TaskQuestion words{.answers = {"w1", "w2"}, .match = TaskQuestion::Match::kWords};
  EXPECT_EQ(n_right(words, " w1 w2"), 2u);
  EXPECT_EQ(n_right(words, " w2 w1"), 0u);
  EXPECT_EQ(n_right(words, " w11 w2"), 1u);
  EXPECT_EQ(n_right(words, " w1"), 1u);
  TaskTally tally;
  tally.put(words, " w1 w2");
  tally.put(words, " w1 w3");
  EXPECT_EQ(tally.score(), 0.5);
  EXPECT_EQ(tally.partial_score(), 0.75);
}

/// A tokenizer of text: the zoo's.
std::unique_ptr<Tokenizer> zoo_tokenizer() {
  const LoadedMember member("llama3");
  return Tokenizer::make(engine::read_tokenizer_spec(member.file));
}

TEST(Tasks, FillTheirLengthAndHoldTheirAnswers) {
  const auto tokenizer = zoo_tokenizer();
  const auto chat = engine::ChatTemplate::parse("[{{ messages[0].content }}]");
  for (const engine::ChatTemplate* of : {static_cast<const engine::ChatTemplate*>(nullptr), &chat})
    for (const std::string_view name : text_task_names()) {
      SCOPED_TRACE(std::string(name));
      const TaskWriter writer(*tokenizer, of);
      const uint64_t length = name == "common-words" || name == "log" ? 6000 : 3000;
      const TaskCase first = writer.make(name, length, 0.5, 7);
      ASSERT_EQ(first.questions.size(), name == "log" ? 20u : 1u);
      const std::string text = tokenizer->decode(first.context);
      uint64_t n_longest = 0;
      for (const TaskQuestion& question : first.questions) {
        n_longest = std::max<uint64_t>(n_longest, question.tokens.size());
        EXPECT_EQ(n_right(question, text), question.answers.size());
        if (of != nullptr) {
          EXPECT_TRUE(tokenizer->decode(question.tokens).ends_with("]"));
        }
      }
      const uint64_t n = first.context.size() + n_longest + first.questions[0].n_predict;
      EXPECT_LE(n, length);
      EXPECT_GE(n, length - length / 10);
      EXPECT_EQ(writer.make(name, length, 0.5, 7).context, first.context);
      EXPECT_NE(writer.make(name, length, 0.5, 8).context, first.context);
    }
}

TEST(Tasks, TheFactStandsAtItsDepth) {
  const auto tokenizer = zoo_tokenizer();
  const TaskWriter writer(*tokenizer, nullptr);
  for (const double depth : {0.0, 0.5, 1.0}) {
    const TaskCase of = writer.make("needle", 4000, depth, 3);
    const std::string text = tokenizer->decode(of.context);
    const auto at = static_cast<double>(text.find(of.questions[0].answers[0]));
    EXPECT_NEAR(at / static_cast<double>(text.size()), depth, 0.05);  // lines of some 2 % each
  }
  EXPECT_THROW(writer.make("needle", 20, 0.5, 3), Error);
}

TEST(Tasks, FactsOfALogStandAtEvenDistances) {
  const auto tokenizer = zoo_tokenizer();
  const TaskCase of = TaskWriter(*tokenizer, nullptr).make("log", 8000, 0.5, 4);
  const std::string text = tokenizer->decode(of.context);
  for (size_t i = 0; i < of.questions.size(); ++i) {
    const auto at = static_cast<double>(text.find(of.questions[i].answers[0]));
    EXPECT_NEAR(at / static_cast<double>(text.size()), (static_cast<double>(i) + 0.5) / 20, 0.05);
  }
}

TEST(Tasks, FrequentWordsStandMostOften) {
  const auto tokenizer = zoo_tokenizer();
  const TaskWriter writer(*tokenizer, nullptr);
  for (const uint64_t length : {600u, 3000u, 12000u})
    for (const uint64_t seed : {1u, 2u, 3u}) {
      const TaskCase of = writer.make("frequent-words", length, 0.5, seed);
      std::istringstream lines(tokenizer->decode(of.context));
      std::map<std::string, uint32_t> times;
      for (std::string line; std::getline(lines, line);) ++times[line];
      uint32_t least = UINT32_MAX, others_most = 0, n_others = 0;
      for (const std::string& answer : of.questions[0].answers) {
        least = std::min(least, times[answer]);
        times.erase(answer);
      }
      times.erase("");
      for (const auto& [line, n] : times) {
        others_most = std::max(others_most, n);
        n_others += n;
      }
      EXPECT_GT(least, others_most) << length << " " << seed;
      EXPECT_GE(of.questions[0].answers.size(), 3u);
      EXPECT_GT(n_others, 5u);
    }
}

TaskRuns run_recall(const makers::RecallOptions& options, uint64_t length, double share) {
  const auto model = makers::RecallModel::make(options);
  const RecallFile written(model);
  const auto file = written.open();
  const auto read_back = makers::read_recall_options(file);
  EXPECT_TRUE(read_back.has_value());
  const auto again = makers::RecallModel::make(*read_back);
  const auto tokenizer = Tokenizer::make(engine::read_tokenizer_spec(file));
  const engine::Model loaded = engine::testing::load_model(file);
  const std::vector<TaskCase> cases = {make_recall_case(again, *tokenizer, length, 5)};
  TestRunner runner(loaded, cases[0].context.size(), 64);
  return evaluate_cases(*runner, *tokenizer, cases,
                        std::vector{contender("oracle", {Budget::Kind::kShare, share}),
                                    contender("recent", {Budget::Kind::kShare, share}),
                                    contender("recent", {Budget::Kind::kShare, 1.0})});
}

TEST(Tasks, RecallModelsScoreWhatTheyMust) {
  for (const auto& options :
       {makers::recall_variant(), makers::key_value_variant(), makers::multi_hop_variant()}) {
    SCOPED_TRACE(recall_task_name(options));
    const TaskRuns runs = run_recall(options, 4096, 0.1);
    EXPECT_EQ(runs.exact.score(), 1);
    EXPECT_LE(runs.n_context_max, 4096u);
    EXPECT_GT(runs.n_context_max, 4000u);
    const TaskTally& recent = runs.contenders[1].tally;
    EXPECT_LT(recent.score(), 0.6);
    EXPECT_GT(recent.n_questions, 3u);
    EXPECT_EQ(runs.contenders[0].tally.score(), 1);
    EXPECT_EQ(runs.contenders[2].tally.score(), 1);
    EXPECT_LE(runs.contenders[0].read.share(), 0.1);
    EXPECT_EQ(runs.contenders[2].read.share(), 1);
    // Exact attention answers all, so that what is right was kept.
    for (const TaskRun& run : runs.contenders) EXPECT_EQ(run.n_kept, run.tally.n_right_questions);
  }
}

}  // namespace
}  // namespace strata::eval
