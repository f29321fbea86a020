// tests/golden/golden_comparison.h - walks the prompts of a golden file and compares.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tools/makers/golden_file.h"

namespace strata::golden {

/// What may differ from the reference, in nats of log P. `largest` bounds the change of every one
/// of a row's five likeliest, `mean` their mean over a prompt; a token that leads the second in the
/// reference by `lead` or more must stay the likeliest.
struct Tolerance {
  double largest = 0;
  double mean = 0;
  double lead = 0;
};

/// Loads `model_path` for a context that holds the prompts of tests/golden/<golden_name> whose
/// names `is_chosen`, walks each of them and then the reference's greedy answer, one token at a
/// time, and expects of every row that
///   - each of the reference's five likeliest tokens has its log P within tolerance.largest;
///   - a token that is among our five likeliest and not among the reference's has at most the log P
///     of the reference's fifth plus tolerance.largest: the two sets differ by near ties only;
///   - the likeliest token is the reference's, unless its lead there is below tolerance.lead: the
///     greedy texts are the same up to the first near tie, and go on alike after it.
/// One line per prompt on standard output says what was found.
void expect_agreement(const std::string& model_path, const std::string& golden_name,
                      bool (*is_chosen)(std::string_view prompt_name), const Tolerance& tolerance);

}  // namespace strata::golden
