#include "tools/eval/task.h"

#include <algorithm>
#include <sstream>

#include "tools/eval/prediction.h"

namespace strata::eval {
namespace {

double share_of(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

/// The likeliest tokens after a question, as text.
std::string answer(SplitRunner& runner, const engine::Tokenizer& tokenizer,
                   engine::Sequence& sequence, const TaskQuestion& question) {
  std::vector<int32_t> next = question.tokens, tokens;
  while (tokens.size() < question.n_predict) {
    const auto logits = runner.feed(sequence, next);
    check_finite(logits);
    next = {likeliest(logits)};
    if (tokenizer.is_end(next.front())) break;
    tokens.push_back(next.front());
  }
  return tokenizer.decode(tokens);
}

/// Asks every question of a case of the context that was read. is_right: of each.
TaskTally ask_all(SplitRunner& runner, const engine::Tokenizer& tokenizer, const TaskCase& of,
                  const Contender* contender, std::vector<bool>& is_right) {
  TaskTally tally;
  is_right.clear();
  const auto n_context = static_cast<uint32_t>(of.context.size());
  runner.use(contender);
  engine::Sequence sequence = runner.start();
  for (const TaskQuestion& question : of.questions) {
    is_right.push_back(tally.put(question, answer(runner, tokenizer, sequence, question)));
    // What a windowed layer has let go of only the context itself still has.
    if (sequence.truncate(n_context) != n_context) sequence = runner.start();
  }
  return tally;
}

}  // namespace

uint32_t n_right(const TaskQuestion& question, std::string_view text) {
  uint32_t n = 0;
  if (question.match == TaskQuestion::Match::kContained) {
    for (const std::string& wanted : question.answers)
      n += text.find(wanted) != std::string_view::npos ? 1u : 0u;
    return n;
  }
  std::istringstream words{std::string(text)};
  std::string word;
  for (const std::string& wanted : question.answers) {
    if (!(words >> word)) break;
    n += word == wanted ? 1u : 0u;
  }
  return n;
}

bool TaskTally::put(const TaskQuestion& question, std::string_view text) {
  const uint32_t n = n_right(question, text);
  ++n_questions;
  n_right_questions += n == question.answers.size() ? 1u : 0u;
  n_answers += question.answers.size();
  n_right_answers += n;
  return n == question.answers.size();
}

void TaskTally::add(const TaskTally& other) {
  n_questions += other.n_questions;
  n_right_questions += other.n_right_questions;
  n_answers += other.n_answers;
  n_right_answers += other.n_right_answers;
}

double TaskTally::score() const { return share_of(n_right_questions, n_questions); }
double TaskTally::partial_score() const { return share_of(n_right_answers, n_answers); }

TaskRuns evaluate_cases(SplitRunner& runner, const engine::Tokenizer& tokenizer,
                        std::span<const TaskCase> cases, std::span<const Contender> contenders,
                        const std::function<void(size_t idx)>& on_case) {
  TaskRuns runs;
  runs.contenders.resize(contenders.size());
  std::vector<bool> exact, found;
  for (size_t idx = 0; idx < cases.size(); ++idx) {
    if (on_case) on_case(idx);
    const TaskCase& of = cases[idx];
    runner.read(of.context);
    runs.n_context_max = std::max<uint64_t>(runs.n_context_max, of.context.size());
    runs.exact.add(ask_all(runner, tokenizer, of, nullptr, exact));
    for (size_t i = 0; i < contenders.size(); ++i) {
      TaskRun& run = runs.contenders[i];
      run.tally.add(ask_all(runner, tokenizer, of, &contenders[i], found));
      for (size_t question = 0; question < exact.size(); ++question)
        run.n_kept += exact[question] && found[question] ? 1u : 0u;
      run.read.add(runner.kv_read());
      run.index_bytes_per_position = runner.index_bytes_per_position();
    }
  }
  return runs;
}

}  // namespace strata::eval
