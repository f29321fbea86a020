#include "engine/answer_batch.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"

namespace strata::engine {

/// The one behind the last one that read, in the order given.
Answer* AnswerBatch::next_reader(std::span<Answer* const> answers) const {
  const auto reads = [](const Answer* answer) { return answer->is_reading(); };
  const auto last = std::ranges::find(answers, last_reader_);
  const auto behind = last == answers.end() ? answers.begin() : last + 1;
  auto found = std::find_if(behind, answers.end(), reads);
  if (found == answers.end()) found = std::find_if(answers.begin(), behind, reads);
  return found == answers.end() || !reads(*found) ? nullptr : *found;
}

void AnswerBatch::add(Answer& answer, uint32_t n_rows_max) {
  const auto first = static_cast<uint32_t>(rows_.size());
  const uint32_t n_logits = answer.append_rows(n_rows_max, rows_);
  parts_.push_back({&answer, first, static_cast<uint32_t>(rows_.size()) - first, n_logits});
}

void AnswerBatch::step(std::span<Answer* const> answers) {
  STRATA_CHECK(answers.size() <= walk_.max_rows(), "%zu answers in a walk of %u rows",
               answers.size(), walk_.max_rows());
  Answer* reader = next_reader(answers);
  if (reader != nullptr) last_reader_ = reader;
  const auto decodes = [](const Answer* answer) {
    return !answer->is_reading() && !answer->has_ended();
  };
  const auto n_decoding = static_cast<uint32_t>(std::ranges::count_if(answers, decodes));
  // Rows for drafts: what one row of each leaves.
  const bool may_draft = options_.drafts_beside || (n_decoding == 1 && reader == nullptr);
  const uint32_t n_spare =
      may_draft ? walk_.max_rows() - std::min(walk_.max_rows(), n_decoding + 1) : 0;
  // An answer whose prompt ends in the first of the two goes on with the next step: what it attends
  // then is attended in the first.
  const Attention reading = reader != nullptr ? reader->attention() : Attention::kExact;
  for (const Attention attention : {Attention::kSelected, Attention::kExact}) {
    rows_.clear();
    parts_.clear();
    for (Answer* answer : answers)
      if (answer != reader && decodes(answer) && answer->attention() == attention)
        add(*answer, 1 + std::min(answer->request().n_draft_max, n_spare) / n_decoding);
    const bool is_turn = reader != nullptr && reading == attention;
    // What a chunk of a prompt chooses depends on where it begins and ends: it is always whole.
    const bool is_whole = is_turn && reader->reads_sparsely();
    if (is_turn && !is_whole) {
      uint32_t n_max = walk_.max_rows() - static_cast<uint32_t>(rows_.size());
      if (attention == Attention::kSelected)
        n_max = std::min({n_max, options_.question_rows, walk_.selected_rows_max()});
      else if (n_decoding > 0)
        n_max = std::min(n_max, options_.chunk_rows_beside);
      add(*reader, n_max);
      if (attention == Attention::kExact && parts_.size() > 1 &&
          walk_.leaves_device(std::span(rows_).subspan(parts_.back().first_row))) {
        walk_last_alone(attention);
        continue;
      }
    }
    if (!parts_.empty()) walk_parts(attention);
    if (!is_whole) continue;
    rows_.clear();
    parts_.clear();
    add(*reader, walk_.max_rows());
    walk_parts(attention);
  }
}

/// The others first, as they are without it: all of a step is the CPU's where a part of it is.
void AnswerBatch::walk_last_alone(Attention attention) {
  Part last = parts_.back();
  const std::vector<StepRow> rows(rows_.begin() + last.first_row, rows_.end());
  parts_.pop_back();
  rows_.resize(last.first_row);
  walk_parts(attention);
  last.first_row = 0;
  parts_.assign(1, last);
  rows_.assign(rows.begin(), rows.end());
  walk_parts(attention);
}

/// Takes the drafts out of the step. False where there are none.
bool AnswerBatch::drop_drafts() {
  uint32_t n_gone = 0;
  for (Part& part : parts_) {
    part.first_row -= n_gone;
    const uint32_t n_dropped = part.answer->drop_draft();
    part.n_rows -= n_dropped;
    part.n_logits -= n_dropped;
    n_gone += n_dropped;
    const auto end = rows_.begin() + part.first_row + part.n_rows;
    rows_.erase(end, end + n_dropped);
  }
  return n_gone > 0;
}

/// Walks rows of the step. Where they find no room, drafts go first: no answer needs them, and what
/// make_room gives up somebody may.
void AnswerBatch::walk_rows(const std::function<std::span<const StepRow>()>& rows,
                            Attention attention) {
  for (;;) {
    try {
      return walk_.step(rows(), attention);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kDoesNotFit) throw;
      if (drop_drafts()) continue;
      if (!options_.make_room || !options_.make_room()) throw;
    }
  }
}

void AnswerBatch::walk_parts(Attention attention) {
  std::exception_ptr error;
  bool is_cancelled = false;
  try {
    walk_rows([&] { return std::span<const StepRow>(rows_); }, attention);
    uint32_t logits_idx = 0;
    for (const Part& part : parts_) {
      take(part, logits_idx);
      logits_idx += part.n_logits;
    }
    return;
  } catch (const Error& failure) {
    error = std::current_exception();
    is_cancelled = failure.code() == ErrorCode::kCancelled;
  } catch (...) {
    error = std::current_exception();
  }
  const bool is_undrafted_now = !is_cancelled && drop_drafts();
  if (!is_cancelled && !is_undrafted_now && parts_.size() == 1)
    return parts_[0].answer->fail(error);
  for (const Part& part : parts_) {
    if (is_cancelled)
      part.answer->cancel();
    else
      is_cancelled = !walk_alone(part, attention);
  }
}

/// False where the walk's flag ended it.
bool AnswerBatch::walk_alone(const Part& part, Attention attention) {
  try {
    walk_rows([&] { return std::span(rows_).subspan(part.first_row, part.n_rows); }, attention);
    take(part, 0);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) {
      part.answer->cancel();
      return false;
    }
    part.answer->fail(std::current_exception());
  } catch (...) {
    part.answer->fail(std::current_exception());
  }
  return true;
}

/// What goes wrong here is the answer's alone.
void AnswerBatch::take(const Part& part, uint32_t logits_idx) {
  try {
    part.answer->take_step(part.n_logits > 0 ? walk_.logits(logits_idx, part.n_logits)
                                             : std::span<const float>());
  } catch (...) {
    part.answer->fail(std::current_exception());
  }
}

}  // namespace strata::engine
