#include "tiers/pack_directory.h"

#include <algorithm>
#include <functional>
#include <map>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "tiers/pack_eviction.h"

namespace strata::tiers {
namespace {

/// The file itself is at fault, not the reading of it.
bool is_of_file(const Error& error) {
  return error.code() == ErrorCode::kBadFile || error.code() == ErrorCode::kUnsupported;
}

bool is_session_file(const std::string& name) { return !session_of_file_name(name).empty(); }

/// A whole pack of that name, or nothing where there is none or a damaged one.
std::shared_ptr<const PackReader> open_whole(const DurableDirectory& directory,
                                             const std::string& name) {
  try {
    return PackReader::open(directory, name);
  } catch (const Error& error) {
    if (!is_of_file(error)) throw;
    return nullptr;
  }
}

}  // namespace

PackDirectory PackDirectory::open(const std::string& path, const PackLimits& limits,
                                  DurableCalls& calls) {
  PackDirectory packs(DurableDirectory::open(path, calls), limits);
  packs.directory_->remove_leftovers();
  packs.remove_orphaned_rows();
  packs.look();
  return packs;
}

void PackDirectory::look() {
  refused_.clear();
  std::set<std::string> there;
  std::vector<PackIndex::Use> unknown;
  for (const std::string& name : directory_->names()) {
    if (!is_pack_file_name(name)) continue;
    there.insert(name);
    if (index_.has(name) || passed_over_.contains(name)) continue;
    if (const auto status = directory_->status_of(name))
      unknown.push_back({status->modified_ns, name});
  }
  std::erase_if(passed_over_, [&](const std::string& name) { return !there.contains(name); });
  // What was used last comes first: once one is passed over, nothing that is older is read.
  std::ranges::sort(unknown, std::greater<>());
  for (const auto& [used_ns, name] : unknown) {
    const auto oldest = passed_over_.empty() ? std::nullopt : index_.oldest();
    if (oldest && used_ns < oldest->used_ns) {
      passed_over_.insert(name);
      continue;
    }
    try {
      if (const auto file = directory_->open_file(name))
        add_to_index(name, read_pack_head(*file, name), used_ns);
    } catch (const Error& error) {
      refused_.push_back({name, error.what(), error.code() == ErrorCode::kBadFile});
    }
  }
  std::ranges::sort(refused_, {}, &RefusedFile::name);
  std::vector<std::string> gone;
  for (const auto& [name, head] : index_.heads())
    if (!there.contains(name)) gone.push_back(name);
  for (const std::string& name : gone) index_.remove(name);
}

/// What was used the least recently is passed over where there are too many.
void PackDirectory::add_to_index(const std::string& name, PackHead head, int64_t used_ns) {
  index_.add(name, std::move(head), used_ns);
  while (index_.bytes() > limits_.index_bytes) {
    const std::string oldest = index_.oldest()->pack;
    index_.remove(oldest);
    passed_over_.insert(oldest);
  }
}

void PackDirectory::note_use(const PackReader& pack) {
  pack.touch();
  if (const auto status = directory_->status_of(pack.name()))
    index_.use(pack.name(), status->modified_ns);
}

uint64_t PackDirectory::used_bytes() const {
  uint64_t bytes = 0;
  for (const std::string& name : directory_->names()) {
    if (!is_pack_file_name(name) && !is_session_file(name) && pack_of_rows_file(name).empty())
      continue;
    if (const auto status = directory_->status_of(name)) bytes += status->bytes;
  }
  return bytes;
}

FoundContext PackDirectory::find(const PackShape& shape, const Hash128& root,
                                 std::span<const int32_t> tokens) {
  look();
  while (true) {
    const TextCover cover = index_.find(shape, root, tokens);
    FoundContext found;
    for (const PackStretch& stretch : cover.stretches) {
      std::shared_ptr<const PackReader> pack;
      try {
        pack = PackReader::open(*directory_, stretch.pack);
      } catch (const Error& error) {
        refused_.push_back({stretch.pack, error.what(), error.code() == ErrorCode::kBadFile});
      }
      if (!pack) {  // evicted meanwhile, or damaged: the next best cover does without it
        index_.remove(stretch.pack);
        break;
      }
      found.pieces.push_back(
          {std::move(pack), stretch.first_block, stretch.n_blocks, stretch.n_positions});
      found.n_positions += stretch.n_positions;
    }
    if (found.pieces.size() != cover.stretches.size()) continue;
    for (const FoundPiece& piece : found.pieces) note_use(*piece.pack);
    return found;
  }
}

KnownText PackDirectory::find_text(const PackShape& shape, const Hash128& root,
                                   std::string_view text, const TokenBytes& bytes_of) {
  look();
  return index_.find_text(shape, root, text, bytes_of);
}

PackWriter PackDirectory::start(PackRun run) {
  const uint64_t bytes = pack_bytes_max(run);
  {
    const DirectoryLock lock = directory_->lock(limits_.lock_wait);
    make_room(bytes, checked_add(bytes, limits_.free_floor_bytes).value_or(UINT64_MAX), {});
  }
  return PackWriter(directory_, std::move(run));
}

std::string PackDirectory::publish(PackWriter writer) {
  if (!writer.is_sealed()) writer.seal();
  const std::string name = writer.file_name();
  const DirectoryLock lock = directory_->lock(limits_.lock_wait);
  if (const auto pack = open_whole(*directory_, name)) {
    pack->touch();
    // Whoever gave it its name may have ended before the name was on the disk.
    directory_->sync();
    return name;
  }
  directory_->remove(name);
  make_room(writer.bytes(), limits_.free_floor_bytes, {});
  const bool is_published = writer.publish();
  if (!is_published)
    throw Error(ErrorCode::kIo, "another program makes files in the directory of saved contexts",
                directory_->path_of(name), "End the other program, or name another directory.");
  const auto status = directory_->status_of(name);
  add_to_index(name, writer.head(), status ? status->modified_ns : 0);
  return name;
}

bool PackDirectory::discard(const std::string& pack) {
  STRATA_CHECK(is_pack_file_name(pack), "%s", pack.c_str());
  const DirectoryLock lock = directory_->lock(limits_.lock_wait);
  const auto whole = open_whole(*directory_, pack);
  if (whole && whole->count_bad_blocks() == 0) return false;
  index_.remove(pack);
  return remove_pack(pack);
}

/// Under the lock. Evicts until `bytes` more fit into the budget and free_bytes are free.
void PackDirectory::make_room(uint64_t bytes, uint64_t free_bytes, std::set<std::string> pinned,
                              const std::string& pack_of_rows) {
  look();
  uint64_t used = 0;
  std::vector<EvictionCandidate> candidates;
  std::map<std::string, uint32_t> idx_of;
  for (const std::string& name : directory_->names()) {
    const bool is_pack = is_pack_file_name(name);
    const std::string pack = pack_of_rows_file(name);
    if (!is_pack && pack.empty() && !is_session_file(name)) continue;
    const auto status = directory_->status_of(name);
    if (!status) continue;
    used += status->bytes;
    // Names are sorted: rows follow their pack.
    if (!pack.empty() && idx_of.contains(pack)) candidates[idx_of[pack]].bytes += status->bytes;
    if (!is_pack) continue;
    EvictionCandidate candidate;
    candidate.name = name;
    candidate.bytes = status->bytes;
    candidate.used_ns = status->modified_ns;
    candidate.is_damaged = std::ranges::any_of(
        refused_, [&](const RefusedFile& file) { return file.is_damaged && file.name == name; });
    if (const auto head = index_.heads().find(name); head != index_.heads().end())
      candidate.first_pos = head->second.run.first_pos;
    idx_of[name] = static_cast<uint32_t>(candidates.size());
    candidates.push_back(std::move(candidate));
  }
  const uint64_t free_now = directory_->free_bytes();
  const uint64_t wanted = checked_add(used, bytes).value_or(UINT64_MAX);
  const uint64_t over_budget = wanted > limits_.budget_bytes ? wanted - limits_.budget_bytes : 0;
  const uint64_t over_floor = free_bytes > free_now ? free_bytes - free_now : 0;
  const uint64_t evicted_bytes = std::max(over_budget, over_floor);
  if (evicted_bytes == 0) return;
  pinned.merge(pinned_packs(""));
  for (EvictionCandidate& candidate : candidates) {
    candidate.is_pinned = pinned.contains(candidate.name);
    for (const std::string& before : index_.continued_by(candidate.name))
      if (const auto at = idx_of.find(before); at != idx_of.end())
        candidate.continues.push_back(at->second);
  }
  if (const auto at = idx_of.find(pack_of_rows); at != idx_of.end())
    pin_text(candidates, at->second);
  const auto plan = plan_eviction(candidates, evicted_bytes);
  if (!plan)
    throw Error(ErrorCode::kDoesNotFit,
                "saving " + std::to_string(bytes) + " bytes needs " +
                    std::to_string(evicted_bytes) + " bytes more than the budget of " +
                    std::to_string(limits_.budget_bytes) + " bytes and the disk's free space of " +
                    std::to_string(free_now) + " bytes allow, and sessions keep the rest",
                directory_->path(), "Raise the budget, free space, or remove a session.");
  for (const uint32_t i : *plan) {
    remove_pack(candidates[i].name);
    index_.remove(candidates[i].name);
  }
}

}  // namespace strata::tiers
