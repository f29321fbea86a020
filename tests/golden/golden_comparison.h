// tests/golden/golden_comparison.h - walks the prompts of a golden file and compares.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tools/makers/golden_file.h"

namespace strata::golden {

/// How far log P of the reference's five likeliest may be off, in nats. `largest` bounds every one
/// of them, `mean` their mean over a prompt.
struct Tolerance {
  double largest = 0;
  double mean = 0;
};

/// Loads `model_path` for a context that holds the prompts of tests/golden/<golden_name> whose
/// names `is_chosen`, walks each of them and its greedy answer, and expects of every row that
///   - each of the reference's five likeliest tokens has its log P within tolerance.largest;
///   - a token that is among our five likeliest and not among the reference's has at most the log P
///     of the reference's fifth plus tolerance.largest: the two sets differ by near ties only;
/// and that the greedy answers are the same up to the first token whose lead in the reference is
/// below 2 * tolerance.largest, where both log P may move towards each other. One line per prompt
/// on standard output says what was found.
void expect_agreement(const std::string& model_path, const std::string& golden_name,
                      bool (*is_chosen)(std::string_view prompt_name), const Tolerance& tolerance);

}  // namespace strata::golden
