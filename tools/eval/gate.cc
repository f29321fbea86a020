#include "tools/eval/gate.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"

namespace strata::eval {
namespace {

std::string reason_of(const Verdict& of, const GateLimits& limits) {
  std::vector<std::string> reasons;
  // Written so that a figure that is not a number fails.
  if (!(of.kl <= limits.kl_most))
    reasons.push_back(fmt::format("KL {:.4f} nat, wanted at most {}", of.kl, limits.kl_most));
  if (!(of.kl_of_oracle <= limits.kl_of_oracle_most))
    reasons.push_back(fmt::format("KL {:.2f} times the oracle's, wanted at most {}",
                                  of.kl_of_oracle, limits.kl_of_oracle_most));
  if (!(of.top1 >= of.top1_of_oracle - limits.top1_below_oracle))
    reasons.push_back(fmt::format("top-1 {:.1f} %, the oracle's {:.1f} %", 100 * of.top1,
                                  100 * of.top1_of_oracle));
  if (!(of.mass_of_oracle >= limits.mass_of_oracle))
    reasons.push_back(fmt::format("mass {:.3f} times the oracle's, wanted {}", of.mass_of_oracle,
                                  limits.mass_of_oracle));
  if (!(of.kv_read_share <= limits.kv_read_share_most))
    reasons.push_back(
        fmt::format("{:.0f} % of K and V read, wanted at most {:.0f} %: judge a longer "
                    "text or a smaller budget",
                    100 * of.kv_read_share, 100 * limits.kv_read_share_most));
  if (of.n_tasks == 0 && of.shorter_task > 0)
    reasons.push_back(fmt::format(
        "its answers were judged at {} tokens, fewer than the {} of its texts: raise --lengths",
        of.shorter_task, of.context));
  else if (of.n_tasks == 0)
    reasons.emplace_back("its answers were not judged: give tasks, or a longer text");
  else if (!(of.kept >= limits.kept_least))
    reasons.push_back(
        fmt::format("{}, wanted at least {:.0f} %", answers_text(of), 100 * limits.kept_least));
  return fmt::format("{}", fmt::join(reasons, "; "));
}

void add_answers(std::span<const EvalRow> rows, Verdict& of) {
  for (const EvalRow& row : rows) {
    if (row.method != of.method || row.reads_sparsely != of.reads_sparsely) continue;
    if (row.budget != of.budget || !row.exact_score) continue;
    if (row.context < of.context) {
      of.shorter_task = std::max(of.shorter_task, row.context);
      continue;
    }
    ++of.n_tasks;
    if (!row.kept_score || *row.exact_score < kGatingScore) continue;
    of.n_cases += row.n_cases;
    of.kept = std::min(of.kept, *row.kept_score);
  }
}

Verdict verdict_of(const EvalRow& row, const EvalRow& oracle, std::span<const EvalRow> all,
                   const GateLimits& limits) {
  if (!row.agreement || !row.attention || !oracle.agreement || !oracle.attention)
    STRATA_CHECK(false, "no probed attention of %s", row.method.c_str());
  Verdict of{.method = row.method, .budget = row.budget, .reads_sparsely = row.reads_sparsely};
  of.context = row.context;
  of.tokens = row.agreement->kl.n;
  of.kl = row.agreement->kl.mean;
  // Where the oracle differs in nothing, only what differs in nothing is as good.
  const double oracle_kl = oracle.agreement->kl.mean;
  of.kl_of_oracle = oracle_kl > 0 ? of.kl / oracle_kl : (of.kl > 0 ? 1e9 : 1);
  of.top1 = row.agreement->top1;
  of.top1_of_oracle = oracle.agreement->top1;
  of.mass = row.attention->mass_mean;
  of.mass_of_oracle = of.mass / oracle.attention->mass_mean;
  of.kv_read_share = row.kv_read_share;
  of.read_bytes_per_token = row.kv_read_bytes_per_token + row.index_read_bytes_per_token;
  add_answers(all, of);
  of.reason = reason_of(of, limits);
  of.passes = of.reason.empty();
  return of;
}

}  // namespace

std::vector<Verdict> judge(std::span<const EvalRow> rows, const GateLimits& limits) {
  const bool has_all =
      std::ranges::any_of(rows, [](const EvalRow& row) { return row.text == kAllTexts; });
  std::vector<const EvalRow*> judged;
  for (const EvalRow& row : rows)
    if (row.agreement && (!has_all || row.text == kAllTexts)) judged.push_back(&row);
  std::vector<Verdict> verdicts;
  for (const EvalRow* row : judged) {
    if (row->method == "oracle" || row->method == "recent") continue;
    const auto oracle = std::ranges::find_if(judged, [&](const EvalRow* of) {
      return of->method == "oracle" && of->budget == row->budget;
    });
    STRATA_CHECK(oracle != judged.end(), "no oracle at the budget %s", row->budget.c_str());
    verdicts.push_back(verdict_of(*row, **oracle, rows, limits));
  }
  return verdicts;
}

std::string answers_text(const Verdict& of) {
  if (of.n_cases > 0)
    return fmt::format(
        "{:.0f} % of exact attention's answers in the worst task ({} questions in all)",
        100 * of.kept, of.n_cases);
  return of.n_tasks > 0 ? "exact attention solves less than half of every task that was tried"
                        : "its answers were not judged";
}

const Verdict* cheapest(std::span<const Verdict> verdicts, bool reads_sparsely) {
  const Verdict* best = nullptr;
  for (const Verdict& of : verdicts) {
    if (!of.passes || of.reads_sparsely != reads_sparsely) continue;
    if (best == nullptr || of.read_bytes_per_token < best->read_bytes_per_token) best = &of;
  }
  return best;
}

}  // namespace strata::eval
