// tools/eval/eval_row.h - one line of an evaluation: a method at a budget, on a text or a task.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/eval/task.h"
#include "tools/eval/text_eval.h"

namespace strata::eval {

struct EvalRow {
  std::string task;  // "text", or a task's name
  std::string text;  // of "text": the file, or kAllTexts
  std::string method;
  std::string budget;                  // as it was asked for
  bool reads_sparsely = false;         // the context too was read by the method
  uint64_t context = 0;                // tokens
  std::optional<double> budget_share;  // of the context; none where the budget is a weight
  double kv_read_share = 0;            // measured, of the layers that select
  double kv_read_bytes_per_token = 0;
  double index_bytes_per_token = 0;       // of memory, per position of the context
  double index_read_bytes_per_token = 0;  // per step

  // Of texts.
  std::optional<Agreement> agreement;
  std::optional<double> kl_of_oracle;  // KL over the oracle's at the same budget and text
  std::optional<AttentionSummary> attention;
  std::optional<MissingTally> missing;

  // Of tasks.
  std::optional<double> score, partial_score;  // shares of the cases, and of the answers
  std::optional<double> exact_score, exact_partial_score;
  std::optional<double>
      kept_score;  // of the cases that exact attention answers; none = it has none
  uint64_t n_cases = 0;
};

inline constexpr const char* kAllTexts = "all";

/// What a reader of tables calls the line's method: "quest", "quest, read sparsely".
std::string method_text(const std::string& method, bool reads_sparsely);

/// `context` is the length of the text in tokens.
EvalRow text_row(const std::string& text, uint64_t context, const Contender& contender,
                 const TextRun& run);

/// Of the idx-th contender; `length` is what the cases were made for.
EvalRow task_row(const std::string& task, uint64_t length, const Contender& contender,
                 const TaskRuns& runs, size_t idx);

/// Fills kl_of_oracle wherever the oracle has a row of the same text and budget.
void compare_with_oracle(std::span<EvalRow> rows);

/// Of a budget in tokens or as a share.
std::optional<double> budget_share(const index::Budget& budget, uint64_t context);

}  // namespace strata::eval
