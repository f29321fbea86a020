// engine/shared_contexts.h - saved contexts for several answers at a time: one directory, and for
// each answer what is saved of its text. What goes wrong with them never ends an answer: they are
// not used any more then, and a line says why.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/context_cache.h"
#include "engine/engine.h"
#include "engine/prompt_tokens.h"
#include "engine/saved_sessions.h"

namespace strata::engine {

/// Threads: one at a time, that of the walk.
class SharedContexts {
 public:
  /// Nothing is read or written without options, and where the model has no full layer. The engine
  /// was opened with EngineOptions::reads_saved, and outlives this.
  SharedContexts(Engine& engine, std::optional<ContextCacheOptions> options);

  bool is_in_use() const { return root_ != nullptr; }
  /// Whether anything went wrong so far.
  bool has_failed() const { return has_failed_; }
  // `root` as KvCache::make_sequence has it.
  uint32_t n_saved(std::span<const TokenId> tokens, const tiers::Hash128& root);
  /// As ContextCache::known_text, of marked_text(); nothing where none is known.
  tiers::KnownText known_text(const std::string& text, const tiers::Hash128& root);

  /// What saves one text; null where nothing is saved. `parent` saves the text that it begins with;
  /// null = none does.
  std::unique_ptr<ContextCache> saver(const ContextCache* parent);
  /// The saved beginning of `tokens`; an empty sequence where there is none. Errors: kDoesNotFit,
  /// which says nothing against the folder: with more room it may go well.
  Sequence restore(ContextCache* saver, std::span<const TokenId> tokens,
                   const tiers::Hash128& root);
  // As those of ContextCache; nothing where `saver` is null.
  void begin(ContextCache* saver, const Sequence& sequence, const PromptTokens& prompt);
  void save_closed(ContextCache* saver, const Sequence& sequence);
  void save_rest(ContextCache* saver, Sequence& sequence);
  void finish(ContextCache* saver, Sequence& sequence);
  /// Waits until what was saved is on the disk.
  void wait_saved();
  /// As ContextCache::save_to_name. Errors: kUnsupported where nothing is saved.
  TextToName save_to_name(ContextCache* saver, Sequence& sequence);
  /// The folder's named sessions; nothing where it is not in use. Keeps working where saving ends.
  /// `cancel` is as in ContextCacheOptions, of these alone.
  std::optional<SavedSessions> sessions(const std::atomic<bool>* cancel = nullptr) const;

  /// Takes the lines for the user that have come up since the last call.
  std::vector<std::string> take_notices();

 private:
  template <class Use>
  void use(ContextCache* saver, const Use& what);
  void give_up(const Error& error);
  void note_problems(const ContextCache& saver);

  Engine& engine_;
  std::unique_ptr<ContextCache> root_;  // null: not in use
  std::vector<std::string> notices_;
  bool has_failed_ = false;
  std::string said_problem_, said_rows_problem_;
};

}  // namespace strata::engine
