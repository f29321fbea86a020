// tools/eval/recall_tasks.h - tasks for a recall model (docs/recall-model.md), whose exact answers
// are known to be right at any length.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/eval/task.h"
#include "tools/makers/recall_model.h"

namespace strata::eval {

/// "recall", "key-value" or "multi-hop": the one that a model with these options can do.
std::string recall_task_name(const makers::RecallOptions& options);

/// One context of about n_tokens, with the questions and the longest of them after it: key passages
/// at depths 0 to 1, each asked for. Errors: kUsage (too short for the passages).
TaskCase make_recall_case(const makers::RecallModel& model, const engine::Tokenizer& tokenizer,
                          uint64_t n_tokens, uint64_t seed);

}  // namespace strata::eval
