// engine/saved_sessions.h - names of saved contexts, given and looked up beside an engine at work.
// Why: giving a name waits for the disk and for the folder's lock, which the thread of the walk
// must not (docs/adr/0015-several-answers.md).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/context_cache.h"
#include "tiers/pack_directory.h"

namespace strata::engine {

/// Whose texts a name is looked for among: those of a model, shape and root.
struct SessionKind {
  tiers::PackShape shape;
  std::string model_name;  // for people
  tiers::Hash128 root;
};

/// Gives `tokens`, as far as they are saved, the name `session`, unless nothing of them is or a
/// longer session that begins with them has it. Another process may put a longer pack in the place
/// of one of theirs meanwhile: then that one is pinned. Errors: those of PackDirectory::pin.
void pin_session(tiers::PackDirectory& directory, const SessionKind& kind,
                 std::span<const int32_t> tokens, const std::string& session);

struct NamedContext {
  std::vector<int32_t> tokens;
  uint64_t bytes = 0;  // of the manifest and of its packs, rows included
};

/// The named sessions of a folder for texts of one model. Every call opens the folder anew, which
/// takes the memory of its heads once more (tiers::PackLimits::index_bytes), so callers take turns.
/// Threads: any, one at a time, beside that of the walk.
class SavedSessions {
 public:
  SavedSessions(ContextCacheOptions options, SessionKind kind)
      : options_(std::move(options)), kind_(std::move(kind)) {}

  /// Waits until the text is on the disk, gives it the name in place of an earlier one, and returns
  /// what has the name then: a longer text that begins with this one keeps it. A root that is not
  /// everybody's takes the name from no text of another root. Errors: kUsage (the name, or it is
  /// another's), kIo (also where not all of the text could be saved), kDoesNotFit, kCancelled.
  NamedContext save(const std::string& name, const TextToName& text) const;
  /// Nothing where there is none of that name, or none of this model and root. Errors: kUsage (the
  /// name; too little of it is there to be restored), kIo; kBadFile, kUnsupported: it is refused
  /// whole.
  std::optional<NamedContext> find(const std::string& name, const tiers::Hash128& root) const;

 private:
  tiers::PackDirectory open() const;
  SessionKind kind_of(const tiers::Hash128& root) const {
    return {kind_.shape, kind_.model_name, root};
  }

  ContextCacheOptions options_;
  SessionKind kind_;  // of everybody's root
};

}  // namespace strata::engine
