// tools/cli/run_contexts.h - the saved contexts of the verbs that read texts: what they find and
// keep is said in one line each, and what goes wrong with them never ends an answer.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "engine/context_cache.h"
#include "engine/engine.h"
#include "engine/prompt_tokens.h"
#include "engine/text_roots.h"
#include "tools/cli/settings.h"

namespace strata::cli {

/// What becomes of a context that cannot be found or kept: a note beside an answer, or, where
/// saving is what was asked for, an error.
enum class SavingFailure : bool { kIsNoted, kIsThrown };

class RunContexts {
 public:
  RunContexts(const Settings& settings, SavingFailure failure)
      : settings_(settings), failure_(failure) {}

  /// A sequence that holds what is saved of the prompt's beginning; an empty one where nothing is.
  engine::Sequence restore(engine::Engine& engine, std::span<const engine::TokenId> prompt);
  /// The saved tokens of the prompt's beginning up to the last that a model has generated, by their
  /// bytes (engine/prompt_tokens.h); nothing where none is.
  tiers::KnownText known_text(engine::Engine& engine, std::span<const engine::TokenId> prompt);
  void begin(engine::Engine& engine, const engine::Sequence& sequence,
             const engine::PromptTokens& prompt);
  void save_closed(engine::Engine& engine, const engine::Sequence& sequence);
  /// After the answer: saves the rest and waits for the disk.
  void finish(engine::Engine& engine, engine::Sequence& sequence);

 private:
  bool is_wanted(engine::Engine& engine, uint64_t n_tokens);
  tiers::Hash128 root_for(std::span<const engine::TokenId> text);
  void give_up(const Error& error);
  void give_up_looking(const Error& error);
  void say_unsaved();
  void say_damaged();
  std::string indexed_text(const engine::Sequence& sequence) const;

  Settings settings_;
  SavingFailure failure_;
  bool is_off_ = false;
  std::unique_ptr<engine::ContextCache> cache_;  // from the first prompt on that is worth it
  // What lines have told of.
  engine::ContextCacheCounts said_;
};

}  // namespace strata::cli
