#include "engine/shared_contexts.h"

#include <exception>
#include <utility>

#include "base/error.h"

namespace strata::engine {

SharedContexts::SharedContexts(Engine& engine, std::optional<ContextCacheOptions> options)
    : engine_(engine) {
  if (!options || !engine.cache().store().can_adopt()) return;
  const ModelSpec& spec = engine.spec();
  try {
    root_ = std::make_unique<ContextCache>(*options, engine.cache(), engine.fingerprint(),
                                           spec.name.empty() ? spec.shape.architecture : spec.name);
  } catch (const Error& error) {
    give_up(error);
  }
}

void SharedContexts::give_up(const Error& error) {
  has_failed_ = true;
  if (error.code() == ErrorCode::kCancelled) return;
  std::string line = std::string("saved contexts are not used: ") + error.what();
  if (!error.where().empty()) line += " | " + error.where();
  if (!error.remedy().empty()) line += " | " + error.remedy();
  notices_.push_back(std::move(line));
  root_.reset();
}

/// Where a pack did not get its name, nothing more is saved; it is said once.
void SharedContexts::note_problems(const ContextCache& saver) {
  const auto note = [&](const std::string& problem, std::string& said, const char* what) {
    if (problem.empty() || problem == said) return;
    said = problem;
    has_failed_ = true;
    notices_.push_back(what + problem);
  };
  note(saver.problem(), said_problem_, "contexts are not saved whole: ");
  note(saver.rows_problem(), said_rows_problem_, "index rows are not saved: ");
}

template <class Use>
void SharedContexts::use(ContextCache* saver, const Use& what) {
  if (saver == nullptr || !is_in_use()) return;
  try {
    what();
  } catch (const Error& error) {
    return give_up(error);  // `saver` may be gone with the root
  }
  note_problems(*saver);
}

uint32_t SharedContexts::n_saved(std::span<const TokenId> tokens, const tiers::Hash128& root) {
  uint32_t n = 0;
  use(root_.get(), [&] { n = root_->n_saved(tokens, root); });
  return n;
}

tiers::KnownText SharedContexts::known_text(const std::string& text, const tiers::Hash128& root) {
  tiers::KnownText known;
  use(root_.get(), [&] {
    known = root_->known_text(
        text,
        [&](int32_t token, std::string& out) { append_marked(engine_.tokenizer(), token, out); },
        root);
  });
  return known;
}

std::unique_ptr<ContextCache> SharedContexts::saver(const ContextCache* parent) {
  if (!is_in_use()) return nullptr;
  return (parent != nullptr ? parent : root_.get())->beside();
}

Sequence SharedContexts::restore(ContextCache* saver, std::span<const TokenId> tokens,
                                 const tiers::Hash128& root) {
  Sequence sequence = engine_.cache().make_sequence(root);
  std::exception_ptr no_room;
  use(saver, [&] {
    try {
      sequence = saver->restore(engine_.cache(), tokens, root);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kDoesNotFit) throw;
      no_room = std::current_exception();
    }
  });
  if (no_room) std::rethrow_exception(no_room);
  return sequence;
}

void SharedContexts::begin(ContextCache* saver, const Sequence& sequence,
                           const PromptTokens& prompt) {
  use(saver, [&] { saver->begin(sequence, prompt.tokens, prompt.is_generated); });
}

void SharedContexts::save_closed(ContextCache* saver, const Sequence& sequence) {
  use(saver, [&] { saver->save_closed(engine_.cache(), sequence); });
}

void SharedContexts::save_rest(ContextCache* saver, Sequence& sequence) {
  use(saver, [&] { saver->save_rest(engine_.walk(), sequence); });
}

void SharedContexts::finish(ContextCache* saver, Sequence& sequence) {
  use(saver, [&] { saver->finish(engine_.walk(), sequence); });
}

void SharedContexts::wait_saved() {
  use(root_.get(), [&] { root_->wait_saved(); });
}

TextToName SharedContexts::save_to_name(ContextCache* saver, Sequence& sequence) {
  std::optional<TextToName> text;
  use(saver, [&] { text = saver->save_to_name(engine_.walk(), sequence); });
  if (text) return std::move(*text);
  throw Error(
      ErrorCode::kUnsupported, "this server does not save contexts", "",
      "Start it without --no-save and --no-cache; where it was, its standard error says why.");
}

std::optional<SavedSessions> SharedContexts::sessions(const std::atomic<bool>* cancel) const {
  if (!is_in_use()) return std::nullopt;
  ContextCacheOptions options = root_->options();
  options.cancel = cancel;
  return SavedSessions(std::move(options), {root_->shape(), root_->model_name(), {}});
}

std::vector<std::string> SharedContexts::take_notices() { return std::exchange(notices_, {}); }

}  // namespace strata::engine
