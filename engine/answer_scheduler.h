// engine/answer_scheduler.h - who answers next: orders wait until K and V have room for all that
// they may come to, begin with what is known of their text, and leave their sequences behind as a
// cache of beginnings (docs/adr/0015-several-answers.md).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/answer_batch.h"
#include "engine/kv_room.h"
#include "engine/layer_blocks.h"
#include "engine/prompt_tokens.h"
#include "engine/restore_beside.h"
#include "engine/shared_contexts.h"

namespace strata::engine {

/// One answer that is wanted.
struct AnswerTask {
  std::vector<TokenId> prompt;
  // The prompt stands for a text: earlier answers in it may keep the tokens that they were
  // generated as (docs/adr/0005-answers-known-by-their-bytes.md).
  bool is_text = true;
  // Only what was read with the same root is a beginning of it (prefix_root()).
  tiers::Hash128 root;
  // Who asks: orders of several take turns.
  std::string asker;
  GenerationRequest request;  // without the prompt
  GenerationEvents events;
  // Tokens of the prompt that need no reading, of all of them: earlier answers in it may have other
  // tokens than in `prompt`.
  std::function<void(uint64_t n_cached, uint64_t n_prompt)> on_start;
  // One of the two is called, once.
  std::function<void(Generation answer)> on_end;
  std::function<void(const std::exception_ptr& error)> on_failure;
};

struct SchedulerOptions {
  uint32_t n_parallel = 4;   // answers at work
  uint32_t n_idle_max = 16;  // sequences that are kept of answers that have ended
  uint32_t chunk_rows_beside = 64;
  std::optional<ContextCacheOptions> contexts;  // nothing = none are read or saved
};

/// A sequence that is held, by an answer at work or as a beginning for another.
struct HeldContext {
  uint64_t id = 0;
  uint32_t slot = 0;
  Sequence sequence;
  std::vector<uint8_t> is_generated;    // of its tokens
  std::unique_ptr<ContextCache> saver;  // null: it is not saved
};

struct HeldFacts {
  // A number that no other held context has: the lowest that was free when it came, or the one it
  // was restored into.
  uint32_t slot = 0;
  bool is_busy = false;
  uint64_t n_tokens = 0, n_prompt = 0, n_answered = 0;
};

/// Whose a slot is, as seen by who has a root.
struct SlotLook {
  enum class Place : uint8_t { kFree, kForeign, kBusy, kIdle };  // kForeign: another root's
  Place place = Place::kFree;
  uint64_t n_tokens = 0;  // where it is idle
};

/// Threads: one at a time, that of the walk; callbacks come on it, inside step() and end_all().
class AnswerScheduler {
 public:
  /// The engine is loaded, was opened for n_parallel answers, and outlives this. Errors: kUsage
  /// (more in parallel than half the rows of a step).
  AnswerScheduler(Engine& engine, SchedulerOptions options);

  /// Returns what cancel() names it by.
  uint64_t add(AnswerTask task);
  /// Ends a task with what it has; nothing where it has ended. on_end comes within the next step().
  void cancel(uint64_t id);
  /// Ends all tasks, with what they have or, where there is an error, with that.
  void end_all(const std::exception_ptr& error = nullptr);

  bool has_work() const { return !waiting_.empty() || !working_.empty(); }
  size_t n_waiting() const { return waiting_.size(); }
  /// Starts what may start, takes what is at work one step further, and ends what has ended.
  void step();
  /// Where nothing is at work: waits until what was read is on the disk, index rows included. False
  /// where something is not, now or since the start.
  bool finish();

  std::vector<HeldFacts> held() const;
  SlotLook look_at_slot(uint32_t slot, const tiers::Hash128& root) const;
  /// Writes what is not saved yet of an idle slot's context, for a name. Waits for no disk (as
  /// ContextCache::save_rest). Errors: kUnsupported where nothing is saved.
  TextToName save_slot(uint32_t slot);
  /// Makes the saved beginning of `tokens` a context like those that answers leave, in place of
  /// what is in the slot, which is free or idle. Returns its positions; its blocks are read when an
  /// order begins with it. Errors: kDoesNotFit (beside what is at work), kIo (none is to be had).
  uint32_t restore_slot(uint32_t slot, std::span<const TokenId> tokens, const tiers::Hash128& root);
  /// Gives up an idle slot's context and returns its positions. What is saved of it stays.
  uint64_t erase_slot(uint32_t slot);
  /// The names of saved contexts; nothing where none are read or saved.
  std::optional<SavedSessions> sessions(const std::atomic<bool>* cancel = nullptr) const {
    return contexts_.sessions(cancel);
  }
  /// Where K and V of all that is held are (layer_blocks()).
  std::vector<LayerBlocks> held_blocks() const;
  std::vector<std::string> take_notices() { return contexts_.take_notices(); }

 private:
  struct Waiting {
    uint64_t id = 0;
    uint64_t turn = 0;
    AnswerTask task;
    PromptTokens prompt;
    bool is_prepared = false;
    uint32_t n_saved = 0;  // positions of it, as of when n_looked_drops sequences had been dropped
    std::optional<uint64_t> n_looked_drops;
    bool is_cancelled = false;
    uint32_t n_overtaken = 0;  // by orders behind it, since it could not start
    // Another answer is reading what it begins with; 0 = none is.
    uint64_t waits_for = 0;
    uint32_t waits_for_pos = 0;
  };
  struct Working {
    uint64_t id = 0;
    AnswerTask task;
    PromptTokens prompt;
    HeldContext context;
    uint64_t n_goal = 0;
    std::unique_ptr<Answer> answer;            // refers to all of the above
    std::unique_ptr<RestoreBeside> restoring;  // likewise; null: what it begins with is there
  };
  /// Where the longest known beginning of a prompt is.
  struct Beginning {
    enum class Place : uint8_t { kNowhere, kIdle, kWorking, kSaved };
    Place place = Place::kNowhere;
    size_t idx = 0;          // of idle_ or working_
    uint32_t n_kept = 0;     // positions
    uint64_t waits_for = 0;  // an answer that will have more of it, at waits_for_pos
    uint32_t waits_for_pos = 0;
  };

  enum class Outcome : uint8_t { kStarted, kFailed, kWaits };

  uint64_t next_turn(const std::string& asker);
  AnswerTask leave_queue(size_t at);
  void admit();
  bool is_beginning_read(const Waiting& order) const;
  Outcome try_start(Waiting& order);
  void prepare(Waiting& order);
  void look_for_saved(Waiting& order);
  Beginning find_beginning(const Waiting& order) const;
  void find_reading(const Waiting& order, Beginning& best) const;
  uint32_t kept_of(const Sequence& sequence, const Waiting& order) const;
  HeldContext take_beginning(const Beginning& from, const Waiting& order);
  HeldContext fork(const HeldContext& parent, uint32_t n_kept);
  HeldContext hold(Sequence sequence, std::unique_ptr<ContextCache> saver);
  bool is_used_slot(uint32_t slot) const;
  size_t idle_idx(uint32_t slot) const;
  std::vector<SequenceGoal> goals() const;
  bool make_room(const Sequence& sequence, uint64_t n_goal);
  bool drop_idle();
  void make_answer(Working& work);
  void start(Waiting& order, HeldContext context, uint64_t n_goal);
  void restore(Working& work);
  void list_answers();
  void end_cancelled(const std::exception_ptr& error);
  void end_answers();
  void keep(Working& ended);

  Engine& engine_;
  SchedulerOptions options_;
  SharedContexts contexts_;
  AnswerBatch batch_;
  uint64_t n_ids_ = 0;
  uint64_t n_drops_ = 0;                       // of idle sequences
  bool is_changed_ = false;                    // since orders that wait were last looked at
  uint64_t turn_ = 0;                          // the highest of an order that was started
  std::map<std::string, uint64_t> turns_had_;  // by asker, of orders that were started
  std::deque<Waiting> waiting_;                // in the order of their turns
  std::vector<std::unique_ptr<Working>> working_;
  std::vector<HeldContext> idle_;  // used the least recently first
  std::vector<Answer*> answers_;   // of working_
};

}  // namespace strata::engine
