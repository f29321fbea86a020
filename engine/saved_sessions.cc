#include "engine/saved_sessions.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/kv_layout.h"

namespace strata::engine {
namespace {

constexpr uint32_t kPinTriesMax = 3;

bool is_everybodys(const tiers::Hash128& root) { return root == tiers::Hash128{}; }

uint32_t n_found(tiers::PackDirectory& directory, const SessionKind& kind,
                 std::span<const int32_t> tokens) {
  return directory.find(kind.shape, kind.root, tokens).n_positions;
}

/// A session of that name which goes on where this text ends, and is there.
bool is_longer_session(tiers::PackDirectory& directory, const SessionKind& kind,
                       const std::string& name, std::span<const int32_t> tokens) {
  std::optional<tiers::SessionManifest> session;
  try {
    session = directory.session(name);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    return false;  // it can never be restored
  }
  if (!session || session->tokens.size() <= tokens.size() ||
      !std::ranges::equal(std::span(session->tokens).first(tokens.size()), tokens))
    return false;
  SessionKind own = kind;
  const auto root = directory.root_of(*session, kind.shape);
  if (!root) return false;
  own.root = *root;
  // One that was read exactly stays where the same text is read in another way.
  const bool is_of_kind = own.root == kind.root || is_everybodys(own.root);
  return is_of_kind && n_found(directory, own, session->tokens) == session->tokens.size();
}

/// What is there now of the text.
tiers::SessionManifest manifest_of(tiers::PackDirectory& directory, const SessionKind& kind,
                                   std::span<const int32_t> tokens) {
  const tiers::FoundContext found = directory.find(kind.shape, kind.root, tokens);
  tiers::SessionManifest manifest;
  manifest.model = kind.shape.model;
  manifest.model_name = kind.model_name;
  manifest.tokens.assign(tokens.begin(), tokens.begin() + found.n_positions);
  for (const tiers::FoundPiece& piece : found.pieces)
    if (manifest.packs.empty() || manifest.packs.back() != piece.pack->name())
      manifest.packs.push_back(piece.pack->name());
  return manifest;
}

/// A session of that name, and whether it is a text's of this kind.
struct FoundSession {
  std::optional<tiers::SessionManifest> manifest;
  bool is_there = false;
  bool is_own = false;
};

/// What is refused whole is nobody's that is known: an owner hears no more of it than that it is
/// there. Errors: kIo; where the root is everybody's also kBadFile, kUnsupported.
FoundSession find_session(const tiers::PackDirectory& directory, const SessionKind& kind,
                          const std::string& name) {
  FoundSession found;
  try {
    found.manifest = directory.session(name);
  } catch (const Error& error) {
    if (!tiers::is_of_file(error) || is_everybodys(kind.root)) throw;
    return {std::nullopt, true, false};
  }
  found.is_there = found.manifest.has_value();
  found.is_own = found.is_there && directory.root_of(*found.manifest, kind.shape) == kind.root;
  return found;
}

/// What has the name now. Errors: kIo, kBadFile, kUnsupported.
std::optional<NamedContext> named_context(const tiers::PackDirectory& directory,
                                          const std::string& name) {
  auto session = directory.session(name);
  if (!session) return std::nullopt;
  const uint64_t bytes = directory.bytes_of(name, *session);
  return NamedContext{std::move(session->tokens), bytes};
}

void check_pinned(const tiers::PackDirectory& directory, const std::string& name,
                  const tiers::SessionManifest& manifest, uint64_t bytes_max) {
  if (bytes_max == UINT64_MAX) return;
  const uint64_t bytes = directory.pinned_bytes(name, manifest.packs);
  if (bytes > bytes_max)
    throw Error(ErrorCode::kDoesNotFit,
                fmt::format("sessions would keep {} bytes of saved contexts, and {}, half of the "
                            "budget, are the most that names may keep",
                            bytes, bytes_max),
                "--cache-budget", "Remove a session (strata session rm), or raise --cache-budget.");
}

}  // namespace

PinOutcome pin_session(tiers::PackDirectory& directory, const SessionKind& kind,
                       std::span<const int32_t> tokens, const std::string& session,
                       uint64_t pinned_bytes_max) {
  std::vector<std::string> tried;
  for (uint32_t n_tries = 1;; ++n_tries) {
    const tiers::SessionManifest manifest = manifest_of(directory, kind, tokens);
    // Nothing was read before it was stopped: an earlier session of that name stays.
    if (manifest.packs.empty()) return PinOutcome::kNothingSaved;
    // What was stopped half-way does not cut what was saved whole.
    if (is_longer_session(directory, kind, session, manifest.tokens))
      return PinOutcome::kLongerStays;
    check_pinned(directory, session, manifest, pinned_bytes_max);
    try {
      directory.pin(session, manifest);
      return PinOutcome::kPinned;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kIo || n_tries == kPinTriesMax || manifest.packs == tried)
        throw;
    }
    tried = manifest.packs;
  }
}

/// What `what` returns of the folder, which is opened for it: use_patiently(). A folder that cannot
/// be used is no fault of who asks.
template <class Use>
auto SavedSessions::use(uint64_t index_bytes, std::chrono::milliseconds silence_max,
                        Use what) const {
  tiers::PackLimits limits = options_.limits;
  limits.index_bytes = index_bytes;
  const DiskPatience patience{silence_max, options_.cancel};
  // One at a time, also of those that were left at the disk.
  if (is_asked_->exchange(true)) fail_hung();
  const std::shared_ptr<const void> asked(
      is_asked_.get(), [is_asked = is_asked_](const void*) { *is_asked = false; });
  std::shared_ptr<tiers::DurableDirectory> files;
  try {
    files = open_patiently(options_.directory, options_.calls, patience, asked);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUsage) throw;
    throw Error(ErrorCode::kIo, "the folder of saved contexts cannot be used any more",
                options_.directory, "Make it the server's user's alone again (chmod 700).");
  }
  return use_patiently(std::move(files), limits, patience,
                       [asked, what = std::move(what)](tiers::PackDirectory directory) {
                         return what(std::move(directory));
                       });
}

void SavedSessions::wait_on_disk(const TextToName& text) const {
  text.publisher->wait_named(text.n_given, options_.wait_max, options_.cancel);
}

namespace {

/// SavedSessions::save in an open folder.
NamedContext save_in(tiers::PackDirectory directory, const ContextCacheOptions& options,
                     const SessionKind& kind, const std::string& name, const TextToName& text) {
  if (!is_everybodys(kind.root))
    if (const FoundSession earlier = find_session(directory, kind, name);
        earlier.is_there && !earlier.is_own)
      throw Error(ErrorCode::kUsage, fmt::format("the name '{}' is taken", name), "filename",
                  "Save under another name.");
  const uint32_t n_saved = n_found(directory, kind, text.tokens);
  // Where a longer text's pack has taken the place of the end's, whole blocks are found.
  if (n_saved < text.tokens.size() / kBlockPositions * kBlockPositions) {
    const std::string problem = text.publisher->problem();
    throw Error(
        ErrorCode::kIo,
        fmt::format("of {} tokens only {} are saved{}", text.tokens.size(), n_saved,
                    problem.empty() ? "" : ": " + problem),
        options.directory,
        "Make room on the disk or raise --cache-budget, erase the slot and send its text again.");
  }
  const uint64_t budget_bytes = options.limits.budget_bytes;
  const uint64_t pinned_bytes_max = budget_bytes == UINT64_MAX ? budget_bytes : budget_bytes / 2;
  PinOutcome outcome = PinOutcome::kNothingSaved;
  text.publisher->while_none_is_named(
      [&] { outcome = pin_session(directory, kind, text.tokens, name, pinned_bytes_max); },
      options.wait_max, options.cancel);
  if (outcome == PinOutcome::kNothingSaved)
    throw Error(ErrorCode::kIo, "what was saved has just been removed", options.directory,
                "Save it again.");
  auto named = named_context(directory, name);
  if (!named)
    throw Error(ErrorCode::kIo, fmt::format("session '{}' was just removed", name),
                options.directory, "Save it again.");
  return std::move(*named);
}

std::optional<NamedContext> find_in(const tiers::PackDirectory& directory, const SessionKind& kind,
                                    const std::string& name) {
  FoundSession found = find_session(directory, kind, name);
  if (!found.is_own) return std::nullopt;
  if (found.manifest->tokens.size() < kSavedTokensMin)
    throw Error(ErrorCode::kUsage,
                fmt::format("'{}' has {} tokens; wanted {} or more", name,
                            found.manifest->tokens.size(), kSavedTokensMin),
                "filename", "Send the text: so few tokens are read anew more quickly.");
  directory.note_use_of(*found.manifest);
  const uint64_t bytes = directory.bytes_of(name, *found.manifest);
  return NamedContext{std::move(found.manifest->tokens), bytes};
}

}  // namespace

NamedContext SavedSessions::save(const std::string& name, const TextToName& text) const {
  (void)tiers::session_file_name(name);  // throws where it reaches another file
  ContextCacheOptions own = options_;
  own.cancel = nullptr;  // is the caller's, who looks at it while this goes on
  return use(own.limits.index_bytes, own.wait_max,
             [own, kind = kind_of(text.root), name, text](tiers::PackDirectory directory) {
               return save_in(std::move(directory), own, kind, name, text);
             });
}

std::optional<NamedContext> SavedSessions::find(const std::string& name,
                                                const tiers::Hash128& root) const {
  return use(0, options_.silence_max,  // nothing is looked up by its text
             [kind = kind_of(root), name](tiers::PackDirectory directory) {
               return find_in(directory, kind, name);
             });
}

}  // namespace strata::engine
