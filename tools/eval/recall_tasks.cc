#include "tools/eval/recall_tasks.h"

#include "tools/makers/recall_text.h"

namespace strata::eval {
namespace {

constexpr uint32_t kKeys = 8, kAnswer = 3;     // of recall
constexpr uint32_t kSide = 4;                  // of key-value: 16 pairs
constexpr uint32_t kChains = 4, kChained = 2;  // of multi-hop: chains, answers of each

makers::RecallTask make_task(const makers::RecallModel& model, uint64_t seed) {
  const std::string name = recall_task_name(model.options());
  if (name == "key-value") return make_key_value_task(model, kSide, seed);
  if (name == "multi-hop") return make_chain_task(model, kChains, kChained, seed);
  return make_recall_task(model, kKeys, kAnswer, seed);
}

}  // namespace

std::string recall_task_name(const makers::RecallOptions& options) {
  if (options.key_words == 2) return "key-value";
  return options.n_layers > 2 || options.asks_by_alias ? "multi-hop" : "recall";
}

TaskCase make_recall_case(const makers::RecallModel& model, const engine::Tokenizer& tokenizer,
                          uint64_t n_tokens, uint64_t seed) {
  const makers::RecallTask task = make_task(model, seed);
  TaskCase of;
  uint64_t n_rest = 0;
  for (const makers::RecallQuestion& question : task.questions) {
    TaskQuestion asked{.match = TaskQuestion::Match::kWords,
                       .n_predict = static_cast<uint32_t>(question.answer.size())};
    for (const uint32_t word : question.ask) asked.tokens.push_back(model.token(word));
    for (const uint32_t word : question.answer) asked.answers.push_back(model.text({word}));
    n_rest = std::max<uint64_t>(n_rest, asked.tokens.size() + asked.n_predict);
    of.questions.push_back(std::move(asked));
  }
  const auto n_words = static_cast<uint32_t>(n_tokens - std::min(n_tokens, n_rest + 1));
  of.context = {tokenizer.spec().bos};
  for (const uint32_t word : make_recall_text(model, n_words, task.passages, seed + 1).words)
    of.context.push_back(model.token(word));
  return of;
}

}  // namespace strata::eval
