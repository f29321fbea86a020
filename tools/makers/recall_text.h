// tools/makers/recall_text.h - texts for a recall model: passages at chosen depths among words that
// no passage uses.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/makers/recall_model.h"

namespace strata::makers {

struct RecallPassage {
  std::vector<uint32_t> words;
  double depth = 0;  // 0 = at the begin of the text, 1 = at its end
};

struct RecallText {
  std::vector<uint32_t> words;
  std::vector<uint32_t> passage_begin;  // word index of each passage, in the order given
};

/// A text of n_words. Passages stand at their depths as far as they leave each other room; words
/// between them are drawn from fours that no passage uses, so that a passage's words stand nowhere
/// else. Errors: kUsage (no room for the passages; no word left between them).
RecallText make_recall_text(const RecallModel& model, uint32_t n_words,
                            const std::vector<RecallPassage>& passages, uint64_t seed);

/// A question and its answer.
struct RecallQuestion {
  std::vector<uint32_t> ask;
  std::vector<uint32_t> answer;
  std::vector<uint32_t> passages;  // that the answer's first word is found by, a layer each: the
                                   // last layer's is the last
};

/// What is asked of a text, and the passages that hold it. Errors of the makers below: kUsage (the
/// vocabulary has too few words).
struct RecallTask {
  std::vector<RecallPassage> passages;
  std::vector<RecallQuestion> questions;
};

/// n_keys passages of a key and n_answer words after it, at depths 0 .. 1. For one hop, no aliases.
RecallTask make_recall_task(const RecallModel& model, uint32_t n_keys, uint32_t n_answer,
                            uint64_t seed);

/// Every pair of n_side first and n_side second words is a key with a value of its own: each word
/// of a key stands in n_side keys. For key_words = 2.
RecallTask make_key_value_task(const RecallModel& model, uint32_t n_side, uint64_t seed);

/// n_chains chains of n_answer answers. Each answer is as many hops away from the one before as the
/// model has, each hop in a passage of its own; passages are scattered over the text.
RecallTask make_chain_task(const RecallModel& model, uint32_t n_chains, uint32_t n_answer,
                           uint64_t seed);

}  // namespace strata::makers
