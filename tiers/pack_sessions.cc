// The named sessions of a PackDirectory.
#include <algorithm>
#include <ranges>

#include "base/error.h"
#include "tiers/pack_directory.h"

namespace strata::tiers {

SessionManifest PackDirectory::read_session(const DirectoryFile& file) const {
  if (file.bytes() > kSessionBytesMax)
    throw Error(ErrorCode::kBadFile,
                "a session of " + std::to_string(file.bytes()) + " bytes, where " +
                    std::to_string(kSessionBytesMax) + " is the most",
                file.path(), "Remove it by its name.");
  std::vector<std::byte> bytes(static_cast<size_t>(file.bytes()));
  file.read(bytes, 0);
  return parse_session(bytes, file.path());
}

std::optional<SessionManifest> PackDirectory::session(const std::string& name) const {
  const auto file = directory_->open_file(session_file_name(name));
  if (!file) return std::nullopt;
  return read_session(*file);
}

/// Of all sessions that are whole: a damaged one can never be restored, so it pins nothing. Where
/// one cannot be read now, nothing is evicted. Errors: kIo.
std::set<std::string> PackDirectory::pinned_packs(const std::string& except_session) const {
  std::set<std::string> pinned;
  for (const std::string& file_name : directory_->names()) {
    const std::string name = session_of_file_name(file_name);
    if (name.empty() || name == except_session) continue;
    try {
      if (const auto manifest = session(name))
        pinned.insert(manifest->packs.begin(), manifest->packs.end());
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kIo) throw;
    }
  }
  return pinned;
}

std::optional<Hash128> PackDirectory::root_of(const SessionManifest& session,
                                              const PackShape& shape) const {
  if (session.packs.empty()) return std::nullopt;
  std::optional<Hash128> root;
  try {
    if (const auto first = directory_->open_file(session.packs.front())) {
      const PackHead head = read_pack_head(*first, session.packs.front());
      if (head.run.first_pos == 0 && head.run.shape == shape) root = head.run.chain_before;
    }
  } catch (const Error& error) {
    if (!is_of_file(error)) throw;
  }
  return root;
}

/// Backwards: a text loses its end before its beginning.
void PackDirectory::note_use_of(const SessionManifest& session) const {
  for (const std::string& pack : std::views::reverse(session.packs))
    if (const auto file = directory_->open_file(pack)) file->touch();
}

uint64_t PackDirectory::bytes_of(const std::string& name, const SessionManifest& session) const {
  const auto rows = rows_bytes();
  const auto manifest = directory_->status_of(session_file_name(name));
  uint64_t bytes = manifest ? manifest->bytes : 0;
  for (const std::string& pack : session.packs) {
    const auto status = directory_->status_of(pack);
    bytes += status ? status->bytes : 0;
    if (const auto of_rows = rows.find(pack); of_rows != rows.end()) bytes += of_rows->second;
  }
  return bytes;
}

uint64_t PackDirectory::pinned_bytes(const std::string& name,
                                     std::span<const std::string> packs) const {
  std::set<std::string> pinned = pinned_packs(name);
  pinned.insert(packs.begin(), packs.end());
  uint64_t bytes = 0;
  for (const auto& [pack, of_rows] : rows_bytes())
    if (pinned.contains(pack)) bytes += of_rows;
  for (const std::string& pack : pinned)
    if (const auto status = directory_->status_of(pack)) bytes += status->bytes;
  return bytes;
}

void PackDirectory::pin(const std::string& name, const SessionManifest& session) {
  const std::string file_name = session_file_name(name);
  const std::vector<std::byte> bytes = encode_session(session);
  if (bytes.size() > kSessionBytesMax)
    throw Error(ErrorCode::kDoesNotFit,
                "a session of " + std::to_string(session.tokens.size()) + " tokens is too long",
                name, "Save at most 60 million tokens under one name.");
  const DirectoryLock lock = directory_->lock(limits_.lock_wait);
  for (const std::string& pack : session.packs) {
    if (directory_->status_of(pack)) continue;
    throw Error(ErrorCode::kIo, "a saved context was evicted before its session could keep it",
                directory_->path_of(pack), "Raise the budget of saved contexts and save again.");
  }
  make_room(bytes.size(), limits_.free_floor_bytes + bytes.size(),
            {session.packs.begin(), session.packs.end()});
  UnpublishedFile file = UnpublishedFile::create(directory_, UnpublishedFile::Place::kReplaces);
  file.append(bytes);
  file.sync();
  file.publish(file_name);
  remove_covered(session.packs);
}

/// Packs go first: interrupted, the session is still there and can be removed again.
std::optional<uint64_t> PackDirectory::remove_session(const std::string& name, bool with_packs) {
  const std::string file_name = session_file_name(name);
  const DirectoryLock lock = directory_->lock(limits_.lock_wait);
  std::optional<SessionManifest> manifest;
  try {
    manifest = session(name);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
  }
  uint64_t removed_bytes = 0;
  const auto remove_file = [&](const std::string& file) {
    const auto status = directory_->status_of(file);
    if (!directory_->remove(file)) return false;
    removed_bytes += status ? status->bytes : 0;
    return true;
  };
  if (with_packs && manifest) {
    const std::set<std::string> kept = pinned_packs(name);
    for (const std::string& pack : manifest->packs) {
      if (kept.contains(pack)) continue;
      index_.remove(pack);
      for (const std::string& rows : rows_of(pack)) remove_file(rows);
      remove_file(pack);
    }
  }
  const bool was_there = remove_file(file_name);
  directory_->sync();
  return was_there ? std::optional(removed_bytes) : std::nullopt;
}

bool PackDirectory::unpin(const std::string& name) {
  return remove_session(name, false).has_value();
}

std::optional<uint64_t> PackDirectory::remove(const std::string& name) {
  return remove_session(name, true);
}

std::vector<SessionEntry> PackDirectory::list() const {
  const auto rows = rows_bytes();
  const auto entry_of = [&](const std::string& file_name) -> std::optional<SessionEntry> {
    SessionEntry entry;
    entry.name = session_of_file_name(file_name);
    try {
      const auto file = directory_->open_file(file_name);
      if (!file) return std::nullopt;
      entry.saved_ns = file->status().modified_ns;
      entry.bytes = file->bytes();
      const SessionManifest manifest = read_session(*file);
      entry.model_name = manifest.model_name;
      entry.model = manifest.model;
      entry.n_tokens = manifest.tokens.size();
      entry.n_packs = static_cast<uint32_t>(manifest.packs.size());
      for (const std::string& pack : manifest.packs) {
        const auto status = directory_->status_of(pack);
        entry.bytes += status ? status->bytes : 0;
        if (const auto of_rows = rows.find(pack); of_rows != rows.end())
          entry.bytes += of_rows->second;
        entry.n_packs_missing += status ? 0u : 1u;
      }
    } catch (const Error& error) {
      entry.problem = error.what();
    }
    return entry;
  };
  std::vector<SessionEntry> entries;
  for (const std::string& file_name : directory_->names()) {
    if (session_of_file_name(file_name).empty()) continue;
    auto entry = entry_of(file_name);
    if (entry && entry->n_packs_missing > 0) {
      // Another process may be removing it, or have given its name to another one: under the lock
      // none is.
      try {
        const DirectoryLock lock = directory_->lock(limits_.lock_wait);
        entry = entry_of(file_name);
      } catch (const Error& error) {
        entry->problem = error.what();
      }
    }
    if (entry) entries.push_back(std::move(*entry));
  }
  return entries;
}

}  // namespace strata::tiers
