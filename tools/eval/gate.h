// tools/eval/gate.h - whether a method may stand in for exact attention without being asked for.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tools/eval/eval_row.h"

namespace strata::eval {

/// A task that exact attention solves in fewer cases says nothing about a method.
inline constexpr double kGatingScore = 0.5;

/// Each measured against exact attention or against the oracle at the same budget, over all texts
/// together: 256 tokens of one text leave the agreement uncertain by more than a point. Answers are
/// judged beside texts because a mean over tokens hides the few that retrieve: no method passes
/// without tasks.
struct GateLimits {
  double kl_most = 0.02;            // nat
  double kl_of_oracle_most = 2;     // times the oracle's
  double top1_below_oracle = 0.03;  // share of tokens
  double mass_of_oracle = 0.93;     // times the oracle's mass recall
  double kv_read_share_most = 0.5;  // of K and V: what leaves out little shows little
  double kept_least = 0.95;         // of a task's answers that exact attention gives
};

/// One method at one budget.
struct Verdict {
  std::string method, budget;
  bool reads_sparsely = false;  // the context too was read by the method
  std::string layers = {};      // that did not choose, as --attn-layers spells them
  bool passes = false;
  uint64_t context = 0, tokens = 0;
  double kl = 0, kl_of_oracle = 0, top1 = 0, top1_of_oracle = 0, mass = 0, mass_of_oracle = 0;
  double kv_read_share = 0, read_bytes_per_token = 0;  // K, V and index rows
  bool passed_unjudged = false;                        // a gate of before, which judged no answers
  uint64_t n_tasks = 0;       // that were tried, each at one length, as long as the texts at least
  uint64_t shorter_task = 0;  // tokens of the longest one that was shorter and says nothing of them
  // Over the tasks that gate: cases, and the least share of the answers that exact attention gives.
  // No cases: exact attention solves less than half of every task.
  uint64_t n_cases = 0;
  double kept = 1;
  std::string reason = {};  // what it fails by; empty where it passes
};

/// Of the rows over all texts (or over the only one), for every method of retrieval: not the
/// oracle, which reads every key, and not `recent`, which retrieves nothing. Rows of tasks count
/// for the method and budget they are of. Rows without an oracle at their budget, or without probed
/// attention, are a bug.
std::vector<Verdict> judge(std::span<const EvalRow> rows, const GateLimits& limits = {});

/// What is known of its answers: "98 % of exact attention's answers in the worst task (24
/// questions in all)".
std::string answers_text(const Verdict& of);

/// Of those whose context was read in that way the one that passes and reads the fewest bytes; null
/// where none passes.
const Verdict* cheapest(std::span<const Verdict> verdicts, bool reads_sparsely = false);

}  // namespace strata::eval
