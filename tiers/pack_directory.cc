#include "tiers/pack_directory.h"

#include <algorithm>
#include <functional>
#include <map>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"

namespace strata::tiers {
namespace {

// Of a search, each after a pack that had gone meanwhile: others may name packs all the time.
constexpr uint32_t kLooksMax = 8;
// Heads that the disk is asked for before the first of them is read: one after the other, each
// would wait for its own (docs/measurements.md, "Reopened and asked").
constexpr size_t kHeadsAhead = 32;

bool is_session_file(const std::string& name) { return !session_of_file_name(name).empty(); }

/// A file of a pack, and what reading it gave. That takes long, so nobody holds the lock meanwhile:
/// who does something about it looks with is_there() whether the name is still that file's.
struct ReadPack {
  std::shared_ptr<const PackReader> pack;  // null where its head cannot be read
  std::optional<DirectoryFile> file;       // open, so that no other one gets its number
  BadBlocks bad;                           // the first of them

  bool is_whole() const { return pack != nullptr && bad.n() == 0; }
  bool is_there(const DurableDirectory& directory, const std::string& name) const {
    const auto now = directory.status_of(name);
    return file && now && file->status().inode == now->inode;
  }
};

ReadPack read_pack(const DurableDirectory& directory, const std::string& name) {
  ReadPack read;
  try {
    read.file = directory.open_file(name);
    if (!read.file) return read;
    read.pack = PackReader::open(directory, name);
    if (read.pack) read.bad = read.pack->count_bad_blocks(1);
  } catch (const Error& error) {
    ++(is_of_file(error) ? read.bad.n_wrong : read.bad.n_unread);
  }
  return read;
}

}  // namespace

PackDirectory PackDirectory::open(const std::string& path, const PackLimits& limits,
                                  DurableCalls& calls) {
  return open(DurableDirectory::open(path, calls), limits);
}

PackDirectory PackDirectory::open(std::shared_ptr<DurableDirectory> directory,
                                  const PackLimits& limits) {
  PackDirectory packs(std::move(directory), limits);
  packs.directory_->remove_leftovers();
  packs.remove_orphaned_rows();
  packs.look();
  return packs;
}

PackDirectory PackDirectory::for_publishing() const {
  PackLimits limits = limits_;
  limits.index_bytes = 0;
  return {directory_, limits};
}

void PackDirectory::look() {
  refused_.clear();
  std::set<std::string> there;
  std::vector<PackIndex::Use> outside;  // of the index
  for (const std::string& name : directory_->names()) {
    if (!is_pack_file_name(name)) continue;
    there.insert(name);
    if (index_.has(name)) continue;
    if (const auto status = directory_->status_of(name))
      outside.push_back({status->modified_ns, name});
  }
  std::erase_if(passed_over_, [&](const auto& of) { return !there.contains(of.first); });
  std::vector<std::string> gone;
  for (const auto& [name, head] : index_.heads())
    if (!there.contains(name)) gone.push_back(name);
  for (const std::string& name : gone) index_.remove(name);
  // What was used last comes first: once one is passed over, nothing that is older is read.
  std::ranges::sort(outside, std::greater<>());
  bool is_full = false;
  for (size_t i = 0; i < outside.size(); ++i) {
    const PackIndex::Use& use = outside[i];
    is_full = is_full || !has_place_for(use);
    if (!is_full && i % kHeadsAhead == 0) ask_for_heads(std::span(outside).subspan(i));
    if (is_full) {
      passed_over_.try_emplace(use.pack);
      continue;
    }
    passed_over_.erase(use.pack);
    try {
      const auto file = directory_->open_file(use.pack);
      if (!file) continue;
      add_to_index(use.pack, read_pack_head(*file, use.pack), use.used_ns);
      is_full = !index_.has(use.pack);
    } catch (const Error& error) {
      refused_.push_back({use.pack, error.what(), error.code() == ErrorCode::kBadFile});
    }
  }
  std::ranges::sort(refused_, {}, &RefusedFile::name);
}

/// Of the first of these packs. What fails here fails again where it is read.
void PackDirectory::ask_for_heads(std::span<const PackIndex::Use> packs) const {
  if (packs.size() < 2) return;
  try {
    for (const PackIndex::Use& use : packs.first(std::min(packs.size(), kHeadsAhead)))
      if (const auto file = directory_->open_file(use.pack)) ask_for_pack_head(*file);
  } catch (const Error&) {
  }
}

/// The same of what opening the packs of a text reads.
void PackDirectory::ask_for_packs(std::span<const PackStretch> stretches) const {
  if (stretches.size() < 2) return;
  try {
    for (const PackStretch& stretch : stretches)
      PackReader::ask_for(*directory_, stretch.pack, index_.heads().at(stretch.pack));
  } catch (const Error&) {
  }
}

/// Is there room in the index, or something that was used earlier? Where the pack's size in it is
/// not known, any room may do.
bool PackDirectory::has_place_for(const PackIndex::Use& use) const {
  const auto known = passed_over_.find(use.pack);
  const bool is_known = known != passed_over_.end() && known->second;
  const uint64_t bytes = is_known ? known->second->index_bytes : 0;
  if (index_.bytes() + bytes <= limits_.index_bytes) return true;
  const auto oldest = index_.oldest();
  return oldest && *oldest < use;
}

/// What was used the least recently is passed over where there are too many.
void PackDirectory::add_to_index(const std::string& name, PackHead head, int64_t used_ns) {
  index_.add(name, std::move(head), used_ns);
  passed_over_.erase(name);
  while (index_.bytes() > limits_.index_bytes) {
    const std::string oldest = index_.oldest()->pack;
    const PackHead& of_oldest = index_.heads().at(oldest);
    passed_over_[oldest] = {PackIndex::bytes_of(of_oldest), PackPlace::of(of_oldest)};
    index_.remove(oldest);
  }
}

/// Of one that is there; reads its head where that was not done yet. What cannot be read has no
/// place, as what look() refuses has none.
PackPlace PackDirectory::place_of(const std::string& pack) {
  if (index_.has(pack)) return PackPlace::of(index_.heads().at(pack));
  const auto known = passed_over_.find(pack);
  if (known == passed_over_.end()) return {};
  if (known->second) return known->second->place;
  try {
    const auto file = directory_->open_file(pack);
    if (!file) return {};
    const PackHead head = read_pack_head(*file, pack);
    known->second = {PackIndex::bytes_of(head), PackPlace::of(head)};
    return known->second->place;
  } catch (const Error& error) {
    refused_.push_back({pack, error.what(), error.code() == ErrorCode::kBadFile});
    return {};
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
  for (uint32_t n_looks = 1;;) {
    const TextCover cover = index_.find(shape, root, tokens);
    FoundContext found;
    ask_for_packs(cover.stretches);
    for (const PackStretch& stretch : cover.stretches) {
      std::shared_ptr<const PackReader> pack;
      try {
        pack = PackReader::open(*directory_, stretch.pack);
      } catch (const Error& error) {
        refused_.push_back({stretch.pack, error.what(), error.code() == ErrorCode::kBadFile});
      }
      if (!pack) {  // evicted or replaced meanwhile, or damaged: the next best cover does without
        index_.remove(stretch.pack);
        // A longer one may have taken its place.
        if (n_looks++ < kLooksMax) look();
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

uint32_t PackDirectory::n_found(const PackShape& shape, const Hash128& root,
                                std::span<const int32_t> tokens) {
  look();
  return index_.find(shape, root, tokens).n_positions;
}

KnownText PackDirectory::find_text(const PackShape& shape, const Hash128& root,
                                   std::string_view text, const TokenBytes& bytes_of) {
  look();
  return find_text_in_index(shape, root, text, bytes_of);
}

bool PackDirectory::has_room_for(const PackRun& run) const {
  const uint64_t bytes = pack_bytes_max(run);
  const auto used = checked_add(used_bytes(), bytes);
  const auto free = checked_add(limits_.free_floor_bytes, bytes);
  return used && *used <= limits_.budget_bytes && free && *free <= directory_->free_bytes();
}

std::optional<PackWriter> PackDirectory::try_start(PackRun& run) {
  if (!has_room_for(run)) return std::nullopt;
  return PackWriter(directory_, std::move(run));
}

PackWriter PackDirectory::start(PackRun run) {
  if (auto writer = try_start(run)) return std::move(*writer);
  const uint64_t bytes = pack_bytes_max(run);
  const std::string name = pack_file_name(PackHead::of(run));
  const DirectoryLock lock = directory_->lock(limits_.lock_wait);
  // What has this name stays until the run is in its place, and gives the budget its bytes back.
  const auto before = directory_->status_of(name);
  make_room(bytes - std::min(bytes, before ? before->bytes : 0),
            checked_add(bytes, limits_.free_floor_bytes).value_or(UINT64_MAX), {name});
  return PackWriter(directory_, std::move(run));
}

std::string PackDirectory::publish(PackWriter writer) {
  if (!writer.is_sealed()) writer.seal();
  const std::string name = writer.file_name();
  const ReadPack read = read_pack(*directory_, name);
  const DirectoryLock lock = directory_->lock(limits_.lock_wait);
  const auto there = read.is_whole() && read.is_there(*directory_, name) ? read.pack : nullptr;
  if (there) {
    there->touch();
    // Whoever gave it its name may have ended before the name was on the disk.
    directory_->sync();
  } else {
    place(writer);
    index_.remove(name);
  }
  const auto status = directory_->status_of(name);
  // Which tokens were generated is what the file says of it.
  add_to_index(name, there ? there->head() : writer.head(), status ? status->modified_ns : 0);
  remove_covered({name});
  return name;
}

/// Under the lock. What has this name goes when the writer's bytes are in its place, and makes room
/// for them.
void PackDirectory::place(PackWriter& writer) {
  const std::string name = writer.file_name();
  const auto before = directory_->status_of(name);
  const uint64_t freed = before ? std::min(before->bytes, writer.bytes()) : 0;
  const uint64_t floor = limits_.free_floor_bytes;
  make_room(writer.bytes() - freed, floor - std::min(freed, floor), {name});
  if (before) return writer.replace();
  if (!writer.publish())
    throw Error(ErrorCode::kIo, "another program makes files in the directory of saved contexts",
                directory_->path_of(name), "End the other program, or name another directory.");
}

/// Under the lock. A chat saves the same beginning of a run after every turn, longer each time.
/// What cannot go now stays until it is evicted: that is no error of what was saved.
void PackDirectory::remove_covered(const std::vector<std::string>& by) {
  std::set<std::string> covered;
  for (const std::string& name : by)
    if (index_.has(name))
      for (const std::string& shorter : index_.covered_by(index_.heads().at(name)))
        covered.insert(shorter);
  if (covered.empty()) return;
  std::set<std::string> pinned;
  try {
    pinned = pinned_packs("");
  } catch (const Error&) {
    return;
  }
  for (const std::string& name : covered) {
    // Index rows are dearer than the blocks: nobody would make them for the longer one.
    if (pinned.contains(name) || !rows_of(name).empty()) continue;
    try {
      remove_pack(name);
      index_.remove(name);
    } catch (const Error&) {
    }
  }
}

Discarded PackDirectory::discard(const std::string& pack) { return discard(pack, false); }

Discarded PackDirectory::discard_replaced(const std::string& pack) { return discard(pack, true); }

Discarded PackDirectory::discard(const std::string& pack, bool is_replaced) {
  STRATA_CHECK(is_pack_file_name(pack), "%s", pack.c_str());
  const ReadPack read = read_pack(*directory_, pack);
  if (read.is_whole()) return Discarded::kNothing;
  std::optional<DirectoryLock> lock;
  try {
    lock = directory_->lock(limits_.lock_wait);
  } catch (const Error&) {
    return Discarded::kUnread;
  }
  if (!read.is_there(*directory_, pack)) return Discarded::kNothing;
  const bool is_unread = read.bad.n_unread > 0;
  if (is_unread && (!is_replaced || pinned_packs("").contains(pack))) return Discarded::kUnread;
  index_.remove(pack);
  return remove_pack(pack) ? Discarded::kPack : Discarded::kNothing;
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
  std::vector<PackPlace> places;
  for (EvictionCandidate& candidate : candidates) {
    candidate.is_pinned = pinned.contains(candidate.name);
    places.push_back(place_of(candidate.name));
    candidate.is_damaged = std::ranges::any_of(refused_, [&](const RefusedFile& file) {
      return file.is_damaged && file.name == candidate.name;
    });
  }
  link_texts(candidates, places);
  if (const auto at = idx_of.find(pack_of_rows); at != idx_of.end())
    pin_text(candidates, at->second);
  const auto plan = plan_eviction(candidates, evicted_bytes);
  if (!plan)
    throw Error(ErrorCode::kDoesNotFit,
                "what is saved needs " + std::to_string(evicted_bytes) +
                    " bytes more than the budget of " + std::to_string(limits_.budget_bytes) +
                    " bytes and the disk's free space of " + std::to_string(free_now) +
                    " bytes allow, and sessions keep the rest",
                directory_->path(), "Raise the budget, free space, or remove a session.");
  for (const uint32_t i : *plan) {
    remove_pack(candidates[i].name);
    index_.remove(candidates[i].name);
  }
}

}  // namespace strata::tiers
