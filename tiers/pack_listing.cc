// What concerns all files of a PackDirectory: lists of them, checks, removal.
#include <map>

#include "base/check.h"
#include "base/error.h"
#include "tiers/pack_directory.h"

namespace strata::tiers {
namespace {

/// "" where there are none.
std::string text_of(const BadBlocks& bad) {
  std::string text;
  if (bad.n_wrong > 0) text = std::to_string(bad.n_wrong) + " blocks are not what was saved";
  if (bad.n_unread == 0) return text;
  if (!text.empty()) text += ", ";
  return text + std::to_string(bad.n_unread) + " blocks cannot be read now";
}

/// Rows of another version are no damage: they are ignored.
void verify_rows(const DurableDirectory& directory, const PackReader& pack, const std::string& name,
                 PackVerdict& verdict) {
  try {
    const auto rows =
        RowsReader::open(directory, pack.name(), pack.head(), kind_of_rows_file(name));
    if (rows) rows->check();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported)
      verdict.rows.push_back({name, error.what(), error.code() == ErrorCode::kBadFile});
  }
}

}  // namespace

std::vector<PackEntry> PackDirectory::packs() {
  look();
  std::map<std::string, std::vector<std::string>> sessions_of;
  for (const std::string& file_name : directory_->names()) {
    const std::string name = session_of_file_name(file_name);
    if (name.empty()) continue;
    try {
      const auto manifest = session(name);
      if (!manifest) continue;
      // A manifest may name a pack twice.
      const std::set<std::string> pinned(manifest->packs.begin(), manifest->packs.end());
      for (const std::string& pack : pinned) sessions_of[pack].push_back(name);
    } catch (const Error&) {
      continue;  // list() says so
    }
  }
  std::map<std::string, PackEntry> entries;
  for (const auto& [name, head] : index_.heads()) {
    entries[name].first_pos = head.run.first_pos;
    entries[name].n_positions = head.n_positions();
  }
  for (const RefusedFile& file : refused_) entries[file.name].problem = file.problem;
  const auto rows = rows_bytes();
  std::vector<PackEntry> listed;
  for (auto& [name, entry] : entries) {
    const auto status = directory_->status_of(name);
    if (!status) continue;  // evicted meanwhile
    entry.name = name;
    if (const auto of_rows = rows.find(name); of_rows != rows.end())
      entry.rows_bytes = of_rows->second;
    entry.bytes = status->bytes + entry.rows_bytes;
    entry.used_ns = status->modified_ns;
    if (const auto pins = sessions_of.find(name); pins != sessions_of.end())
      entry.sessions = pins->second;
    listed.push_back(std::move(entry));
  }
  return listed;
}

std::vector<std::string> PackDirectory::remove_unpinned(std::span<const std::string> packs) {
  const DirectoryLock lock = directory_->lock(limits_.lock_wait);
  const std::set<std::string> pinned = pinned_packs("");
  std::vector<std::string> removed;
  for (const std::string& pack : packs) {
    STRATA_CHECK(is_pack_file_name(pack), "%s", pack.c_str());
    if (pinned.contains(pack)) continue;
    index_.remove(pack);
    if (remove_pack(pack)) removed.push_back(pack);
  }
  directory_->sync();
  return removed;
}

std::optional<PackVerdict> PackDirectory::verify_pack(const std::string& pack) const {
  STRATA_CHECK(is_pack_file_name(pack), "%s", pack.c_str());
  PackVerdict verdict{.name = pack, .n_bad_blocks = 0, .problem = "", .rows = {}};
  try {
    const auto reader = PackReader::open(*directory_, pack);
    if (!reader) return std::nullopt;
    const BadBlocks bad = reader->count_bad_blocks();
    verdict.n_bad_blocks = bad.n();
    verdict.problem = text_of(bad);
    for (const std::string& name : rows_of(pack)) verify_rows(*directory_, *reader, name, verdict);
  } catch (const Error& error) {
    verdict.problem = error.what();
  }
  return verdict;
}

}  // namespace strata::tiers
