// engine/answer_batch.h - several answers over one walk: a step takes the decoded token of every
// one that answers, and a chunk of a prompt beside them.
// Why: decoding reads every weight for each token; several sequences in one step share that, and a
// prompt that is read by chunks lets the others go on. Drafts share it as well, where they may: all
// of a step together have as many rows as those of one answer alone.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/answer.h"

namespace strata::engine {

struct AnswerBatchOptions {
  // Rows of a prompt's chunk while another answer decodes: what that one waits for. From 64 rows
  // on a step is bound by arithmetic, so shorter chunks cost the prompt and longer ones the others.
  // Chunks that select are always whole.
  uint32_t chunk_rows_beside = 64;
  // Of a selected question, beside others or not: the rows of a step share a choice, so an answer's
  // bits depend on how many they are. No more than others leave of the walk's rows.
  uint32_t question_rows = UINT32_MAX;
  // Whether answers guess ahead in steps that they share. Where those read the disk that costs
  // little; in memory a row of each answer keeps the cores busy, and guesses take time from others
  // (docs/adr/0017-prompt-lookup.md).
  bool drafts_beside = true;
  // Asked where the KV budget holds no more rows, drafts aside: gives something up. False = nothing
  // is left, and the answers that still do not fit fail.
  std::function<bool()> make_room;
};

/// Threads: one at a time, that of the walk.
class AnswerBatch {
 public:
  explicit AnswerBatch(Walk& walk, AnswerBatchOptions options = {})
      : walk_(walk), options_(std::move(options)) {
    rows_.reserve(walk.max_rows());
  }

  /// Takes every answer that has not ended one step further, but of those that read a prompt only
  /// one, in turn. At most as many answers as the walk has rows. What selects and what does not are
  /// walked one after the other. A step that fails is walked again, each answer alone, undrafted,
  /// so that only those fail (Answer::failure) which the error concerns; one that the walk's flag
  /// ends cancels its answers. Throws nothing but std::bad_alloc of lists.
  void step(std::span<Answer* const> answers);

 private:
  struct Part {
    Answer* answer;
    uint32_t first_row;
    uint32_t n_rows;
    uint32_t n_logits;  // of the last rows
  };
  Answer* next_reader(std::span<Answer* const> answers) const;
  void add(Answer& answer, uint32_t n_rows_max);
  void walk_parts(Attention attention);
  void walk_last_alone(Attention attention);
  void walk_rows(const std::function<std::span<const StepRow>()>& rows, Attention attention);
  bool drop_drafts();
  bool walk_alone(const Part& part, Attention attention);
  void take(const Part& part, uint32_t logits_idx);

  Walk& walk_;
  AnswerBatchOptions options_;
  const Answer* last_reader_ = nullptr;  // only compared, never read
  std::vector<StepRow> rows_;
  std::vector<Part> parts_;
};

}  // namespace strata::engine
