// tools/eval/text_eval.h - the end of a text, token by token as it stands there: what each
// contender predicts against what exact attention does.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/eval/attention_metrics.h"
#include "tools/eval/prediction.h"
#include "tools/eval/split_runner.h"

namespace strata::eval {

struct TextSample {
  std::string name;
  std::vector<int32_t> tokens;  // more than n_last + 1
};

/// One contender on one text, or on several (add).
struct TextRun {
  std::vector<Prediction> predictions;
  KvRead read;
  double index_bytes_per_position = 0;
  std::optional<AttentionTally> attention;  // where it was asked for
  std::optional<MissingTally> missing;      // likewise, where memory is taken to be small

  void add(const TextRun& other);
};

struct TextEvents {
  SplitRunner::OnRead on_read;
  /// Before each pass over the last tokens.
  std::function<void(const std::string& what)> on_pass;
};

/// Reads all of the text but its last n_last + 1 tokens exactly, then feeds those but the last one
/// by one, once exactly and once for each contender: n_last predictions of the text's next token.
/// Holds the exact logits meanwhile: n_last * vocab_size * 4 bytes. `probes`: also hears what each
/// choice misses. The runs are in the order of the contenders. Errors: kBadFile (logits that are
/// not finite); those of SplitRunner.
std::vector<TextRun> evaluate_text(SplitRunner& runner, const TextSample& sample, uint32_t n_last,
                                   std::span<const Contender> contenders, bool probes,
                                   const TextEvents& events = {});

}  // namespace strata::eval
