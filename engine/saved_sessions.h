// engine/saved_sessions.h - names of saved contexts, given and looked up beside an engine at work.
// Why: giving a name waits for the disk and for the folder's lock, which the thread of the walk
// must not (docs/adr/0015-several-answers.md).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
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

enum class PinOutcome : uint8_t { kPinned, kLongerStays, kNothingSaved };

/// Gives `tokens`, as far as they are saved, the name `session`, unless nothing of them is or a
/// longer session that begins with them has it. Another process may put a longer pack in the place
/// of one of theirs meanwhile: then that one is pinned. Errors: those of PackDirectory::pin;
/// kDoesNotFit where sessions would keep more than pinned_bytes_max of packs.
PinOutcome pin_session(tiers::PackDirectory& directory, const SessionKind& kind,
                       std::span<const int32_t> tokens, const std::string& session,
                       uint64_t pinned_bytes_max = UINT64_MAX);

struct NamedContext {
  std::vector<int32_t> tokens;
  uint64_t bytes = 0;  // of the manifest and of its packs, rows included
};

/// The named sessions of a folder for texts of one model. Every call opens the folder anew; to
/// save takes the memory of its heads once more (tiers::PackLimits::index_bytes), so callers take
/// turns.
/// Threads: any, one at a time, beside that of the walk.
class SavedSessions {
 public:
  SavedSessions(ContextCacheOptions options, SessionKind kind)
      : options_(std::move(options)), kind_(std::move(kind)) {}

  /// Waits until the text is on the disk, as far as it can be: takes no turn. Errors: kIo,
  /// kCancelled.
  void wait_on_disk(const TextToName& text) const;
  /// After wait_on_disk(): gives the text the name in place of an earlier one, and returns what has
  /// the name then: a longer text that begins with this one keeps it. A root that is not
  /// everybody's takes the name from no text of another root. Sessions keep half of the budget from
  /// being evicted at most. Errors: kUsage (the name, or it is another's), kIo (also where not all
  /// whole blocks of the text could be saved), kDoesNotFit, kCancelled.
  NamedContext save(const std::string& name, const TextToName& text) const;
  /// Nothing where there is none of that name, or none of this model and root; of a root that is
  /// not everybody's also where it is refused, since nobody knows whose it was. Errors: kUsage (the
  /// name; it is too short to be restored), kIo; kBadFile, kUnsupported: it is refused whole.
  std::optional<NamedContext> find(const std::string& name, const tiers::Hash128& root) const;

 private:
  template <class Use>
  auto use(uint64_t index_bytes, std::chrono::milliseconds silence_max, Use what) const;
  SessionKind kind_of(const tiers::Hash128& root) const {
    return {kind_.shape, kind_.model_name, root};
  }

  ContextCacheOptions options_;
  SessionKind kind_;  // of everybody's root
  std::shared_ptr<std::atomic<bool>> is_asked_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace strata::engine
