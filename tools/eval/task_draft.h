// tools/eval/task_draft.h - long-context tasks as text, drawn from a seed. In the spirit of RULER
// (arXiv 2404.06654) and InfiniteBench (arXiv 2402.13718); every word is our own.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace strata::eval {

/// Draws the same on every machine.
class TaskDraw {
 public:
  explicit TaskDraw(uint64_t seed) : random_(seed) {}
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  template <class T>
  const T& of(std::span<const T> items) {
    return items[below(static_cast<uint32_t>(items.size()))];
  }
  std::string name();                     // "Tarvik"
  std::string number(uint32_t n_digits);  // no zero first
  std::string hex(uint32_t n_digits);

 private:
  std::mt19937_64 random_;
};

struct TaskDraft {
  struct Asked {
    std::string question;
    std::vector<std::string> answers;
  };
  std::string introduction;            // before the document
  std::vector<std::string> facts;      // lines that the answers need, in the order they stand
  bool spreads = false;                // facts stand at even distances, not where it is drawn
  std::function<std::string()> other;  // draws any other line; refers to the TaskDraw
  std::vector<Asked> asked = std::vector<Asked>(1);  // each by itself
  uint32_t n_predict = 0;                            // tokens of each answer
};

/// needle, multi-key, multi-value, multi-query, key-value, variables, common-words, frequent-words,
/// passkey, json, log.
std::span<const std::string_view> text_task_names();

/// `draw` outlives the draft. `name` is one of text_task_names().
TaskDraft draft_task(std::string_view name, TaskDraw& draw);

}  // namespace strata::eval
