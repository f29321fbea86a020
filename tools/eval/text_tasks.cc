#include "tools/eval/text_tasks.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "engine/prompt_tokens.h"
#include "tools/eval/task_draft.h"

namespace strata::eval {
namespace {

using engine::PromptPart;

/// Lines in their order: facts in the order given, at drawn places with the first at `depth`, or at
/// even distances.
std::string join_lines(const TaskDraft& draft, const std::vector<std::string>& others, double depth,
                       TaskDraw& draw) {
  const auto n_others = static_cast<uint32_t>(others.size());
  const auto first = static_cast<uint32_t>(depth * n_others);
  std::vector<uint32_t> before = {first};  // other lines that stand before each fact
  for (size_t i = 1; i < draft.facts.size(); ++i)
    before.push_back(first + draw.below(n_others - first + 1));
  std::ranges::sort(before);
  for (size_t i = 0; i < before.size() && draft.spreads; ++i)
    before[i] = static_cast<uint32_t>((2 * i + 1) * n_others / (2 * before.size()));
  std::string text = draft.introduction + "\n\n";
  size_t fact = 0;
  for (uint32_t line = 0; line <= n_others; ++line) {
    while (fact < before.size() && before[fact] == line) text += draft.facts[fact++] + "\n";
    if (line < n_others) text += others[line] + "\n";
  }
  return text;
}

}  // namespace

uint64_t TaskWriter::n_tokens_of(const std::string& text) const {
  engine::EncodeOptions plain;
  plain.add_special = false;
  return tokenizer_.encode(text, plain).size();
}

/// The prompt, cut before the question.
TaskWriter::Split TaskWriter::encode(const std::string& document,
                                     const std::string& question) const {
  if (chat_ == nullptr)
    return {encode_text_prompt(tokenizer_, document, false), [&] {
              engine::EncodeOptions plain;
              plain.add_special = false;
              return tokenizer_.encode("Question: " + question + "\nAnswer:", plain);
            }()};
  engine::TemplateContext context;
  const engine::TokenizerSpec& spec = tokenizer_.spec();
  if (spec.bos != engine::kNoToken) context.bos_token = tokenizer_.piece(spec.bos, true);
  if (spec.eos != engine::kNoToken) context.eos_token = tokenizer_.piece(spec.eos, true);
  std::vector<PromptPart> before, after;
  for (const PromptPart& part : chat_->render_parts({{"user", document + question}}, context)) {
    const size_t at = after.empty() ? part.text.find(question) : std::string::npos;
    if (!after.empty()) {
      after.push_back(part);
    } else if (at == std::string::npos) {
      before.push_back(part);
    } else {
      if (at > 0) before.push_back({part.text.substr(0, at), part.is_markup});
      after.push_back({part.text.substr(at), part.is_markup});
    }
  }
  if (after.empty())
    throw Error(ErrorCode::kTemplate, "the chat template changes the question",
                "tokenizer.chat_template", "evaluate by texts (-f) instead of tasks");
  Split split{encode_chat_prompt(tokenizer_, before), {}};
  for (const PromptPart& part : after) {
    engine::EncodeOptions options;
    options.add_special = false;
    options.parse_special = part.is_markup;
    const auto more = tokenizer_.encode(part.text, options);
    split.question.insert(split.question.end(), more.begin(), more.end());
  }
  return split;
}

TaskCase TaskWriter::make(std::string_view task, uint64_t n_tokens, double depth,
                          uint64_t seed) const {
  TaskDraw draw(seed);
  const TaskDraft draft = draft_task(task, draw);
  uint64_t n_least = 0;
  const std::string least = join_lines(draft, {}, depth, draw);
  for (const TaskDraft::Asked& of : draft.asked) {
    const Split split = encode(least, of.question);
    n_least = std::max<uint64_t>(n_least, split.context.size() + split.question.size());
  }
  n_least += draft.n_predict;
  if (n_least > n_tokens)
    throw Error(ErrorCode::kUsage,
                fmt::format("the task {} needs {} tokens, found {}", task, n_least, n_tokens),
                "--lengths", "give a greater length");
  // Lines are counted one by one: joined, a text has at most as many tokens as its lines.
  std::vector<std::string> others;
  for (uint64_t left = n_tokens - n_least;;) {
    std::string line = draft.other();
    const uint64_t n_line = n_tokens_of(line + "\n");
    if (n_line > left) break;
    left -= n_line;
    others.push_back(std::move(line));
  }
  TaskCase made;
  const std::string document = join_lines(draft, others, depth, draw);
  for (const TaskDraft::Asked& of : draft.asked) {
    Split split = encode(document, of.question);
    made.context = std::move(split.context);  // the same for every question
    made.questions.push_back(
        {.tokens = std::move(split.question), .answers = of.answers, .n_predict = draft.n_predict});
  }
  return made;
}

}  // namespace strata::eval
