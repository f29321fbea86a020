#include "tools/eval/eval_row.h"

#include <algorithm>

namespace strata::eval {
namespace {

EvalRow contender_row(const std::string& task, uint64_t context, const Contender& contender,
                      const KvRead& read, double index_bytes_per_position) {
  EvalRow row;
  row.task = task;
  row.method = contender.method_name;
  row.budget = contender.budget_text;
  row.reads_sparsely = contender.reads_sparsely;
  row.context = context;
  row.budget_share = budget_share(contender.rule.budget, context);
  const auto n_steps = static_cast<double>(std::max<uint64_t>(1, read.steps));
  row.kv_read_share = read.share();
  row.kv_read_bytes_per_token = static_cast<double>(read.kv_bytes) / n_steps;
  row.index_bytes_per_token = index_bytes_per_position;
  row.index_read_bytes_per_token = static_cast<double>(read.index_bytes) / n_steps;
  return row;
}

}  // namespace

std::string method_text(const std::string& method, bool reads_sparsely) {
  return reads_sparsely ? method + ", read sparsely" : method;
}

std::optional<double> budget_share(const index::Budget& budget, uint64_t context) {
  switch (budget.kind) {
    case index::Budget::Kind::kTokens:
      return std::min(1.0, budget.value / static_cast<double>(context));
    case index::Budget::Kind::kShare:
      return budget.value;
    case index::Budget::Kind::kMass:
    case index::Budget::Kind::kLogGap:
      return std::nullopt;
  }
  return std::nullopt;
}

EvalRow text_row(const std::string& text, uint64_t context, const Contender& contender,
                 const TextRun& run) {
  EvalRow row = contender_row("text", context, contender, run.read, run.index_bytes_per_position);
  row.text = text;
  row.agreement = agreement_of(run.predictions);
  if (run.attention) row.attention = run.attention->summary();
  row.missing = run.missing;
  return row;
}

EvalRow task_row(const std::string& task, uint64_t length, const Contender& contender,
                 const TaskRuns& runs, size_t idx) {
  const TaskRun& run = runs.contenders[idx];
  EvalRow row = contender_row(task, length, contender, run.read, run.index_bytes_per_position);
  row.score = run.tally.score();
  row.partial_score = run.tally.partial_score();
  row.exact_score = runs.exact.score();
  row.exact_partial_score = runs.exact.partial_score();
  if (const uint64_t n = runs.exact.n_right_questions; n > 0)
    row.kept_score = static_cast<double>(run.n_kept) / static_cast<double>(n);
  row.n_cases = run.tally.n_questions;
  return row;
}

void compare_with_oracle(std::span<EvalRow> rows) {
  for (EvalRow& row : rows) {
    if (!row.agreement) continue;
    double oracle = 0;
    for (const EvalRow& of : rows)
      if (of.agreement && of.method == "oracle" && of.text == row.text && of.budget == row.budget)
        oracle = of.agreement->kl.mean;
    if (oracle > 0) row.kl_of_oracle = row.agreement->kl.mean / oracle;
  }
}

}  // namespace strata::eval
