#include "engine/answer_scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace strata::engine {
namespace {

// Later orders that may start before one that waits; after them nobody does.
constexpr uint32_t kOvertakenMax = 8;
// A position is read from any disk this much quicker than it is computed, so a saved beginning is
// taken where it has so large a share more than one in memory.
constexpr uint32_t kSavedShare = 16;

uint32_t common_positions(std::span<const TokenId> a, std::span<const TokenId> b) {
  const auto differs = std::ranges::mismatch(a, b);
  return static_cast<uint32_t>(differs.in1 - a.begin());
}

uint64_t goal_of(const std::vector<TokenId>& prompt, const GenerationRequest& request) {
  const uint64_t room = request.n_ctx - std::min<uint64_t>(request.n_ctx, prompt.size());
  return prompt.size() + std::min(request.n_predict, room);
}

/// The last token of a prompt is always walked, for its logits.
std::span<const TokenId> without_last(std::span<const TokenId> prompt) {
  return prompt.first(prompt.size() - 1);
}

}  // namespace

AnswerScheduler::AnswerScheduler(Engine& engine, SchedulerOptions options)
    : engine_(engine),
      options_(std::move(options)),
      contexts_(engine, options_.contexts),
      batch_(engine.walk(),
             {.chunk_rows_beside = options_.chunk_rows_beside,
              // As much as is left beside n_parallel others, and never more.
              .question_rows = std::min(options_.chunk_rows_beside, engine.walk().max_rows() / 2),
              .drafts_beside = engine.reads_disk() || engine.options().n_draft_max.has_value(),
              .make_room = [this] { return drop_idle(); }}) {
  if (options_.n_parallel >= 1 && options_.n_parallel <= engine.walk().max_rows() / 2) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("{} answers at a time in steps of {} rows", options_.n_parallel,
                          engine.walk().max_rows()),
              "--parallel", fmt::format("use 1 to {}", engine.walk().max_rows() / 2));
}

uint64_t AnswerScheduler::add(AnswerTask task) {
  task.request.vocab_size = engine_.spec().shape.vocab_size;
  task.request.n_ctx = engine_.context().n_ctx;
  task.request.n_ctx_train = engine_.spec().shape.n_ctx_train;
  task.request.chunk_rows = engine_.context().chunk_rows;
  task.request.attention = engine_.attention();
  task.request.sparse_from = engine_.options().sparse_from;
  task.request.n_draft_max = engine_.n_draft_max();
  const uint64_t turn = next_turn(task.asker);
  const auto behind = std::ranges::upper_bound(waiting_, turn, {}, &Waiting::turn);
  Waiting& order = *waiting_.emplace(behind);
  order.id = ++n_ids_;
  order.turn = turn;
  order.task = std::move(task);
  is_changed_ = true;
  return n_ids_;
}

/// An asker's next order comes behind everybody's first. Source: start-time fair queueing (Goyal,
/// Vin, Cheng 1996), in which every order is as long as another.
uint64_t AnswerScheduler::next_turn(const std::string& asker) {
  std::erase_if(turns_had_, [this](const auto& had) { return had.second < turn_; });
  const auto had = turns_had_.find(asker);
  uint64_t turn = had == turns_had_.end() ? turn_ : had->second + 1;
  for (const Waiting& order : waiting_)
    if (order.task.asker == asker) turn = std::max(turn, order.turn + 1);
  return turn;
}

/// One that waits leaves without having been started: its asker's later ones move up by a turn.
AnswerTask AnswerScheduler::leave_queue(size_t at) {
  Waiting left = std::move(waiting_[at]);
  waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(at));
  for (Waiting& order : waiting_)
    if (order.task.asker == left.task.asker && order.turn > left.turn)
      std::swap(order.turn, left.turn);
  std::ranges::sort(waiting_, {}, [](const Waiting& of) { return std::pair(of.turn, of.id); });
  is_changed_ = true;
  return std::move(left.task);
}

void AnswerScheduler::cancel(uint64_t id) {
  for (Waiting& order : waiting_)
    if (order.id == id) order.is_cancelled = true;
  for (const auto& work : working_)
    if (work->id == id) work->answer->cancel();
}

void AnswerScheduler::end_all(const std::exception_ptr& error) {
  for (Waiting& order : waiting_) order.is_cancelled = true;
  for (const auto& work : working_) error ? work->answer->fail(error) : work->answer->cancel();
  end_cancelled(error);
  end_answers();
}

void AnswerScheduler::step() {
  end_cancelled(nullptr);
  end_answers();
  admit();
  list_answers();
  batch_.step(answers_);
  end_answers();
}

/// In the order of their turns, those that have room, as far as nobody is overtaken too often.
void AnswerScheduler::admit() {
  const bool is_changed = std::exchange(is_changed_, false);
  for (size_t i = 0; i < waiting_.size() && working_.size() < options_.n_parallel;) {
    Waiting& order = waiting_[i];
    const Outcome outcome =
        is_changed || is_beginning_read(order) ? try_start(order) : Outcome::kWaits;
    if (outcome == Outcome::kWaits) {
      if (order.n_overtaken >= kOvertakenMax) return;
      ++i;
      continue;
    }
    if (outcome == Outcome::kFailed) {
      (void)leave_queue(i);
      continue;
    }
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    bool is_enough = false;
    for (size_t earlier = 0; earlier < i; ++earlier)
      is_enough |= ++waiting_[earlier].n_overtaken >= kOvertakenMax;
    if (is_enough) return;
  }
}

/// Whether what it waits for has come, or will not come any more.
bool AnswerScheduler::is_beginning_read(const Waiting& order) const {
  if (order.waits_for == 0) return false;
  const auto reader = std::ranges::find_if(
      working_, [&](const auto& work) { return work->context.id == order.waits_for; });
  return reader == working_.end() || (*reader)->context.sequence.n_pos() >= order.waits_for_pos;
}

AnswerScheduler::Outcome AnswerScheduler::try_start(Waiting& order) {
  try {
    prepare(order);
    look_for_saved(order);
    const Beginning from = find_beginning(order);
    order.waits_for = order.n_overtaken < kOvertakenMax ? from.waits_for : 0;
    order.waits_for_pos = from.waits_for_pos;
    if (order.waits_for != 0) return Outcome::kWaits;
    const uint64_t n_goal = goal_of(order.prompt.tokens, order.task.request);
    // Restoring takes room, so it is made before files are opened.
    if (from.place == Beginning::Place::kSaved &&
        !make_room(engine_.cache().make_sequence(), n_goal))
      return Outcome::kWaits;
    const size_t n_idle = idle_.size();
    HeldContext context = take_beginning(from, order);
    const bool was_idle = idle_.size() < n_idle;
    if (!make_room(context.sequence, n_goal)) {
      if (was_idle) idle_.push_back(std::move(context));
      return Outcome::kWaits;
    }
    start(order, std::move(context), n_goal);
    return Outcome::kStarted;
  } catch (const Error& error) {
    // Of an index, whose room is not counted beforehand, or where the count erred.
    const bool is_full = error.code() == ErrorCode::kDoesNotFit;
    if (is_full && drop_idle()) is_changed_ = true;
    if (is_full && (is_changed_ || !working_.empty())) return Outcome::kWaits;
    order.task.on_failure(std::current_exception());
  } catch (...) {
    order.task.on_failure(std::current_exception());
  }
  return Outcome::kFailed;
}

/// An order that waits is looked at often, and the folder only where something has left memory.
void AnswerScheduler::look_for_saved(Waiting& order) {
  if (order.prompt.tokens.size() <= kSavedTokensMin || order.n_looked_drops == n_drops_) return;
  order.n_looked_drops = n_drops_;
  order.n_saved = contexts_.n_saved(without_last(order.prompt.tokens), order.task.root);
}

/// Earlier answers in the prompt keep the tokens they were generated as, where those are held or
/// saved; and where the prompt still fits with them.
void AnswerScheduler::prepare(Waiting& order) {
  if (order.is_prepared) return;
  order.is_prepared = true;
  const std::vector<TokenId>& asked = order.task.prompt;
  if (!order.task.is_text) {
    order.prompt = {asked, std::vector<uint8_t>(asked.size()), 0};
    return;
  }
  const Tokenizer& tokenizer = engine_.tokenizer();
  const std::string text = marked_text(tokenizer, asked);
  const tiers::TokenBytes bytes_of = [&](int32_t token, std::string& out) {
    append_marked(tokenizer, token, out);
  };
  tiers::TextMatch match(text, bytes_of);
  for (const HeldContext& held : idle_)
    if (held.sequence.chain_at(0) == order.task.root)
      match.follow(0, held.sequence.tokens(), held.is_generated);
  tiers::KnownText known = match.take_best();
  // Shorter texts are not saved.
  tiers::KnownText saved;
  if (asked.size() >= kSavedTokensMin) saved = contexts_.known_text(text, order.task.root);
  if (saved.n_bytes > known.n_bytes) known = std::move(saved);
  order.prompt = with_known_beginning(tokenizer, asked, known);
  if (order.prompt.tokens.size() > asked.size() &&
      order.prompt.tokens.size() >= order.task.request.n_ctx)
    order.prompt = with_known_beginning(tokenizer, asked, {});
}

/// How much of a prompt a fork of the sequence would keep: where answers select, of what was read
/// exactly. A question is then read exactly or selected by how much of its text is held or saved
/// (Answer), as it is in any run: so there an answer does depend on which others came before.
uint32_t AnswerScheduler::kept_of(const Sequence& sequence, const Waiting& order) const {
  if (sequence.chain_at(0) != order.task.root) return 0;
  uint32_t n = common_positions(sequence.tokens(), without_last(order.prompt.tokens));
  if (engine_.attention() == Attention::kSelected) n = std::min(n, sequence.n_exact());
  return sequence.kept_by_truncate(n);
}

AnswerScheduler::Beginning AnswerScheduler::find_beginning(const Waiting& order) const {
  Beginning best;
  const auto consider = [&](const Sequence& sequence, Beginning::Place place, size_t idx) {
    const uint32_t n = kept_of(sequence, order);
    if (n >= kBlockPositions && n > best.n_kept) best = {place, idx, n, 0, 0};
  };
  for (size_t i = 0; i < idle_.size(); ++i) consider(idle_[i].sequence, Beginning::Place::kIdle, i);
  for (size_t i = 0; i < working_.size(); ++i)
    consider(working_[i]->context.sequence, Beginning::Place::kWorking, i);
  // What was found before the disk hung is not to be had any more.
  if (const uint32_t n = contexts_.is_in_use() ? order.n_saved : 0;
      n > best.n_kept && n - best.n_kept >= n / kSavedShare)
    best = {Beginning::Place::kSaved, 0, n, 0, 0};
  find_reading(order, best);
  return best;
}

/// An answer that is about to read more of what the prompt begins with, exactly: what it selects
/// for could not be kept (kept_of()).
void AnswerScheduler::find_reading(const Waiting& order, Beginning& best) const {
  uint32_t n_most = best.n_kept;
  for (const auto& work : working_) {
    const Answer& answer = *work->answer;
    if (!answer.is_reading() || answer.attention() != Attention::kExact) continue;
    if (work->context.sequence.chain_at(0) != order.task.root) continue;
    const auto n = static_cast<uint32_t>(
        std::min<uint64_t>(common_positions(work->prompt.tokens, without_last(order.prompt.tokens)),
                           answer.n_read_exactly()));
    if (n < n_most + kBlockPositions || n <= answer.sequence().n_pos()) continue;
    n_most = n;
    best.waits_for = work->context.id;
    best.waits_for_pos = n;
  }
}

HeldContext AnswerScheduler::fork(const HeldContext& parent, uint32_t n_kept) {
  HeldContext child = hold(parent.sequence.fork(), contexts_.saver(parent.saver.get()));
  child.sequence.truncate(n_kept);
  return child;
}

/// A sequence all of which the prompt begins with goes on as this answer's; of others a fork does.
HeldContext AnswerScheduler::take_beginning(const Beginning& from, const Waiting& order) {
  switch (from.place) {
    case Beginning::Place::kIdle: {
      HeldContext& parent = idle_[from.idx];
      if (parent.sequence.n_pos() > from.n_kept) return fork(parent, from.n_kept);
      HeldContext whole = std::move(parent);
      idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(from.idx));
      return whole;
    }
    case Beginning::Place::kWorking:
      return fork(working_[from.idx]->context, from.n_kept);
    case Beginning::Place::kSaved: {
      std::unique_ptr<ContextCache> saver = contexts_.saver(nullptr);
      Sequence restored =
          contexts_.restore(saver.get(), without_last(order.prompt.tokens), order.task.root);
      return hold(std::move(restored), std::move(saver));
    }
    case Beginning::Place::kNowhere:
      break;
  }
  return hold(engine_.cache().make_sequence(order.task.root), contexts_.saver(nullptr));
}

std::vector<SequenceGoal> AnswerScheduler::goals() const {
  std::vector<SequenceGoal> goals;
  for (const auto& work : working_) goals.push_back({&work->context.sequence, work->n_goal});
  return goals;
}

/// Gives up sequences that nobody uses, the one that was used the least recently first, until all
/// at work and this one have room. False where they cannot; alone it begins in any case.
bool AnswerScheduler::make_room(const Sequence& sequence, uint64_t n_goal) {
  std::vector<SequenceGoal> all = goals();
  all.push_back({&sequence, n_goal});
  if (!working_.empty() && !could_hold(engine_.cache(), all)) return false;
  while (!can_hold(engine_.cache(), all))
    if (!drop_idle()) return working_.empty();
  return true;
}

bool AnswerScheduler::drop_idle() {
  if (idle_.empty()) return false;
  idle_.erase(idle_.begin());
  ++n_drops_;
  return true;
}

void AnswerScheduler::make_answer(Working& work) {
  work.task.request.prompt = work.prompt.tokens;
  GenerationEvents events = work.task.events;
  events.on_prefill = [this, &work](uint64_t done, uint64_t total) {
    const bool goes_on = !work.task.events.on_prefill || work.task.events.on_prefill(done, total);
    contexts_.save_closed(work.context.saver.get(), work.context.sequence);
    return goes_on;
  };
  work.answer = std::make_unique<Answer>(work.context.sequence, engine_.tokenizer(),
                                         work.task.request, events);
  contexts_.begin(work.context.saver.get(), work.context.sequence, work.prompt);
  if (work.task.on_start)
    work.task.on_start(work.answer->usage().cached_tokens, work.prompt.tokens.size());
}

void AnswerScheduler::start(Waiting& order, HeldContext context, uint64_t n_goal) {
  uint64_t& had = turns_had_[order.task.asker];
  had = std::max(had, order.turn);
  turn_ = std::max(turn_, order.turn);
  auto made = std::make_unique<Working>(
      Working{order.id, {}, {}, std::move(context), n_goal, nullptr, nullptr});
  Working& work = *made;
  work.task = std::move(order.task);
  work.prompt = std::move(order.prompt);
  const bool is_alone = working_.empty() && waiting_.size() == 1;
  try {
    make_answer(work);
    working_.push_back(std::move(made));
  } catch (...) {
    order.task = std::move(work.task);  // whose caller hears of it
    order.prompt = std::move(work.prompt);
    throw;
  }
  if (is_alone)
    restore(work);
  else if (engine_.attention() == Attention::kExact && engine_.walk().device() == nullptr &&
           RestoreBeside::is_possible(engine_.cache()))
    work.restoring = std::make_unique<RestoreBeside>(
        engine_.cache(), engine_.pool(), work.context.sequence, engine_.walk().cancel());
}

void AnswerScheduler::restore(Working& work) {
  try {
    work.answer->restore(engine_.walk());
  } catch (...) {
    work.answer->fail(std::current_exception());
  }
}

/// Those whose beginning is there. The first of the others is being restored, and where nobody
/// waits for the walk, the walk may do that.
void AnswerScheduler::list_answers() {
  answers_.clear();
  Working* restored = nullptr;
  for (const auto& work : working_) {
    if (work->restoring && restored == nullptr && !work->restoring->go_on())
      work->restoring.reset();
    if (!work->restoring)
      answers_.push_back(work->answer.get());
    else if (restored == nullptr)
      restored = work.get();
  }
  if (!answers_.empty() || restored == nullptr) return;
  restored->restoring.reset();
  restore(*restored);
  answers_.push_back(restored->answer.get());
}

void AnswerScheduler::end_cancelled(const std::exception_ptr& error) {
  for (size_t i = 0; i < waiting_.size();) {
    if (!waiting_[i].is_cancelled) {
      ++i;
      continue;
    }
    const AnswerTask task = leave_queue(i);
    i = 0;
    if (error) {
      task.on_failure(error);
      continue;
    }
    Generation nothing;
    nothing.finish_reason = FinishReason::kCancelled;
    nothing.usage.prompt_tokens = task.prompt.size();
    task.on_end(std::move(nothing));
  }
}

void AnswerScheduler::end_answers() {
  for (size_t i = 0; i < working_.size();) {
    if (!working_[i]->answer->has_ended()) {
      ++i;
      continue;
    }
    const std::unique_ptr<Working> ended = std::move(working_[i]);
    working_.erase(working_.begin() + static_cast<std::ptrdiff_t>(i));
    is_changed_ = true;
    ended->restoring.reset();
    // What a failed one holds may be what failed.
    if (ended->answer->failure()) {
      ended->task.on_failure(ended->answer->failure());
      continue;
    }
    ended->task.on_end(ended->answer->take_result());
    keep(*ended);
  }
}

void AnswerScheduler::keep(Working& ended) {
  HeldContext& context = ended.context;
  contexts_.save_rest(context.saver.get(), context.sequence);
  if (context.sequence.n_pos() < kBlockPositions) return;
  context.is_generated = std::move(ended.prompt.is_generated);
  context.is_generated.resize(context.sequence.n_pos(), 1);
  idle_.push_back(std::move(context));
  if (idle_.size() > options_.n_idle_max) drop_idle();
}

bool AnswerScheduler::finish() {
  for (HeldContext& held : idle_) contexts_.finish(held.saver.get(), held.sequence);
  contexts_.wait_saved();  // also what was given up meanwhile
  return !contexts_.has_failed();
}

std::vector<HeldFacts> AnswerScheduler::held() const {
  std::vector<HeldFacts> facts;
  for (const auto& work : working_)
    facts.push_back({work->context.slot, true, work->context.sequence.n_pos(),
                     work->prompt.tokens.size(), work->answer->tokens().size()});
  for (const HeldContext& held : idle_)
    facts.push_back({held.slot, false, held.sequence.n_pos(), 0, 0});
  return facts;
}

std::vector<LayerBlocks> AnswerScheduler::held_blocks() const {
  std::vector<const Sequence*> sequences;
  for (const auto& work : working_) sequences.push_back(&work->context.sequence);
  for (const HeldContext& held : idle_) sequences.push_back(&held.sequence);
  return layer_blocks(engine_, sequences);
}

}  // namespace strata::engine
