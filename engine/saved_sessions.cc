#include "engine/saved_sessions.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace strata::engine {
namespace {

constexpr uint32_t kPinTriesMax = 3;

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
  return session && session->model == kind.shape.model && session->tokens.size() > tokens.size() &&
         std::ranges::equal(std::span(session->tokens).first(tokens.size()), tokens) &&
         n_found(directory, kind, session->tokens) == session->tokens.size();
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

/// What has the name now. Errors: kIo, kBadFile, kUnsupported.
std::optional<NamedContext> named_context(const tiers::PackDirectory& directory,
                                          const std::string& name) {
  auto session = directory.session(name);
  if (!session) return std::nullopt;
  NamedContext named{std::move(session->tokens), 0};
  for (const tiers::SessionEntry& entry : directory.list())
    if (entry.name == name) named.bytes = entry.bytes;
  return named;
}

}  // namespace

void pin_session(tiers::PackDirectory& directory, const SessionKind& kind,
                 std::span<const int32_t> tokens, const std::string& session) {
  std::vector<std::string> tried;
  for (uint32_t n_tries = 1;; ++n_tries) {
    const tiers::SessionManifest manifest = manifest_of(directory, kind, tokens);
    // Nothing was read before it was stopped: an earlier session of that name stays.
    if (manifest.packs.empty()) return;
    // What was stopped half-way does not cut what was saved whole.
    if (is_longer_session(directory, kind, session, manifest.tokens)) return;
    try {
      return directory.pin(session, manifest);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kIo || n_tries == kPinTriesMax || manifest.packs == tried)
        throw;
    }
    tried = manifest.packs;
  }
}

tiers::PackDirectory SavedSessions::open() const {
  return tiers::PackDirectory::open(
      options_.directory, options_.limits,
      options_.calls == nullptr ? tiers::system_calls() : *options_.calls);
}

NamedContext SavedSessions::save(const std::string& name, const TextToName& text) const {
  (void)tiers::session_file_name(name);  // throws where it reaches another file
  text.publisher->wait_named(text.n_given, options_.wait_max);
  const SessionKind kind = kind_of(text.root);
  tiers::PackDirectory directory = open();
  if (text.root != tiers::Hash128{})
    if (const auto earlier = directory.session(name);
        earlier && n_found(directory, kind, earlier->tokens) == 0)
      throw Error(ErrorCode::kUsage, fmt::format("the name '{}' is taken", name), "filename",
                  "Save under another name.");
  const uint32_t n_saved = n_found(directory, kind, text.tokens);
  if (n_saved < text.tokens.size()) {
    const std::string problem = text.publisher->problem();
    throw Error(
        ErrorCode::kIo,
        fmt::format("of {} tokens only {} are saved{}", text.tokens.size(), n_saved,
                    problem.empty() ? "" : ": " + problem),
        options_.directory,
        "Make room on the disk or raise --cache-budget, erase the slot and send its text again.");
  }
  pin_session(directory, kind, text.tokens, name);
  auto named = named_context(directory, name);
  if (!named)
    throw Error(ErrorCode::kIo, fmt::format("session '{}' was just removed", name),
                options_.directory, "Save it again.");
  return std::move(*named);
}

std::optional<NamedContext> SavedSessions::find(const std::string& name,
                                                const tiers::Hash128& root) const {
  tiers::PackDirectory directory = open();
  auto named = named_context(directory, name);
  if (!named) return std::nullopt;
  const uint32_t n_saved = n_found(directory, kind_of(root), named->tokens);
  if (n_saved == 0) return std::nullopt;
  if (n_saved < kSavedTokensMin)
    throw Error(ErrorCode::kUsage,
                fmt::format("of '{}' {} tokens can be restored; wanted {} or more", name, n_saved,
                            kSavedTokensMin),
                "filename", "Send the text: so few tokens are read anew more quickly.");
  return named;
}

}  // namespace strata::engine
