// tools/cli/eval_inputs.h - what `eval` judges, from its options: methods, budgets, texts, tasks.
#pragma once

#include <string>
#include <vector>

#include "engine/engine.h"
#include "tools/cli/command_line.h"
#include "tools/eval/task.h"
#include "tools/eval/text_eval.h"

namespace strata::cli {

/// The parts of "a,b,c"; none of them empty. Errors: kUsage.
std::vector<std::string> split_list(const std::string& text, const std::string& where);

/// Errors: kDoesNotFit, with both numbers.
void check_eval_memory(uint64_t needed_bytes, uint64_t free_bytes);

/// Every method at every budget; with --gate the oracle is one of them. Errors: kUsage.
std::vector<eval::Contender> contenders_of(const Command& command);

/// The first tokens of every text of -f, as many as the context holds. Errors: kBadText (not UTF-8,
/// shorter than what is to be predicted of it), kUsage (a context shorter than that), kIo.
std::vector<eval::TextSample> read_samples(const Command& command, const engine::Engine& engine);

/// The first --positions tokens of the first text, with more than --steps of them. Errors: kUsage
/// (a text or context that is shorter), kBadText, kIo.
std::vector<int32_t> read_beginning(const Command& command, const engine::Engine& engine);

/// The cases of one task at one length.
struct TaskSet {
  std::string task;
  uint64_t length = 0;
  std::vector<eval::TaskCase> cases;
};

/// Every task of --tasks at every length. With --gate and no --tasks those that are hard to find
/// the answers of, each at `text_length` as far as it fits: what --attn auto may take has answered
/// them, or exact attention has not. Errors: kUsage (a task that this model has not, a length that
/// is too short).
std::vector<TaskSet> make_task_sets(const Command& command, const engine::Engine& engine,
                                    uint64_t text_length);

}  // namespace strata::cli
