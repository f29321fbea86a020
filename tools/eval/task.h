// tools/eval/task.h - a question about a context, and how its answer is scored.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"
#include "tools/eval/split_runner.h"

namespace strata::eval {

struct TaskQuestion {
  enum class Match : uint8_t {
    kContained,  // an answer counts wherever it stands
    kWords,      // the i-th word is the i-th answer
  };
  std::vector<int32_t> tokens = {};  // after the context
  std::vector<std::string> answers = {};
  Match match = Match::kContained;
  uint32_t n_predict = 0;  // tokens that the answer may have
};

/// How many of the answers `text` gives.
uint32_t n_right(const TaskQuestion& question, std::string_view text);

/// A context and what is asked of it, each question for itself.
struct TaskCase {
  std::vector<int32_t> context;
  std::vector<TaskQuestion> questions;
};

struct TaskTally {
  uint64_t n_questions = 0, n_right_questions = 0;  // every answer given
  uint64_t n_answers = 0, n_right_answers = 0;

  /// Whether every answer was given.
  bool put(const TaskQuestion& question, std::string_view text);
  void add(const TaskTally& other);
  double score() const;
  double partial_score() const;
};

struct TaskRun {
  TaskTally tally;
  uint64_t n_kept = 0;  // questions right as under exact attention
  KvRead read;
  double index_bytes_per_position = 0;
};

struct TaskRuns {
  TaskTally exact;
  std::vector<TaskRun> contenders;  // in their order
  uint64_t n_context_max = 0;       // tokens of the longest context
};

/// Reads each case's context exactly; asks its questions exactly and through every contender, the
/// likeliest token each time. `on_case` hears before each case. Errors: kBadFile (logits that are
/// not finite); those of SplitRunner.
TaskRuns evaluate_cases(SplitRunner& runner, const engine::Tokenizer& tokenizer,
                        std::span<const TaskCase> cases, std::span<const Contender> contenders,
                        const std::function<void(size_t idx)>& on_case = {});

}  // namespace strata::eval
