// tiers/pack_directory.h - the directory of saved contexts: packs, found by their text, and named
// sessions, which keep packs from being evicted (docs/adr/0002-saved-contexts.md). Beside a pack
// may lie index rows made of it, which come and go with it (docs/adr/0010-saved-index-rows.md).
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "tiers/durable_directory.h"
#include "tiers/pack_eviction.h"
#include "tiers/pack_index.h"
#include "tiers/pack_reader.h"
#include "tiers/pack_writer.h"
#include "tiers/rows_file.h"
#include "tiers/session_manifest.h"

namespace strata::tiers {

struct PackLimits {
  uint64_t budget_bytes = UINT64_MAX;  // of all packs, their rows and sessions that have a name
  uint64_t free_floor_bytes = 0;       // what the file system keeps free
  // Of the heads in memory by which packs are found: those that were used last are. Of each other
  // pack less than 300 bytes are kept (docs/measurements.md, "Many packs").
  uint64_t index_bytes = UINT64_MAX;
  std::chrono::milliseconds lock_wait{10000};
};

/// A file that was not taken, and why.
struct RefusedFile {
  std::string name;
  std::string problem;
  bool is_damaged = false;  // and not only unreadable now, or of another version
};

struct FoundPiece {
  std::shared_ptr<const PackReader> pack;
  uint32_t first_block = 0;  // in the pack
  uint32_t n_blocks = 0;
  uint32_t n_positions = 0;
};

/// Pieces that follow each other from position 0 on. Their files stay readable while this lives,
/// one open descriptor each.
struct FoundContext {
  std::vector<FoundPiece> pieces;
  uint32_t n_positions = 0;
};

struct SessionEntry {
  std::string name;
  std::string model_name;
  Hash128 model;
  uint64_t n_tokens = 0;
  uint64_t bytes = 0;  // of the manifest and of its packs that are there, rows included
  int64_t saved_ns = 0;
  uint32_t n_packs = 0;
  uint32_t n_packs_missing = 0;
  std::string problem;  // "" where the manifest is whole; else the rest is empty
};

/// A pack as a list of them shows it.
struct PackEntry {
  std::string name;
  uint64_t bytes = 0;       // with its index rows
  uint64_t rows_bytes = 0;  // of these
  int64_t used_ns = 0;      // last use, since 1970
  uint32_t first_pos = 0;
  uint32_t n_positions = 0;
  std::vector<std::string> sessions;  // that pin it
  std::string problem;                // "" where the head is whole; else there are no positions
};

enum class Discarded : uint8_t {
  kNothing,  // it is whole, or not there
  kPack,
  // Nothing: the disk does not give its bytes, which may be right, or another process has held the
  // lock for lock_wait.
  kUnread,
};

struct PackVerdict {
  std::string name;
  uint64_t n_bad_blocks = 0;
  std::string problem;            // "" where everything is what was saved
  std::vector<RefusedFile> rows;  // of its index rows: those that are not what was saved
};

/// PackDirectory::open_rows. Threads: any.
std::shared_ptr<const RowsReader> open_rows(const DurableDirectory& directory,
                                            const PackReader& pack, const RowsShape& shape);

/// Any number of processes may use one directory: names appear whole, and whoever evicts, publishes
/// or writes a session holds the directory's lock meanwhile. Functions that take the lock fail with
/// kIo and a remedy where they do not get it within lock_wait. An object is not thread-safe.
class PackDirectory {
 public:
  /// Makes the directory where it does not exist, removes what ended processes left and rows whose
  /// pack is gone, and reads the heads of all packs. Files that are no packs are left alone.
  /// Errors: kIo; kUsage where others than this user can reach the directory.
  static PackDirectory open(const std::string& path, const PackLimits& limits,
                            DurableCalls& calls = system_calls());
  /// The same in two steps, of which the second can be watched (n_answers()).
  static PackDirectory open(std::shared_ptr<DurableDirectory> directory, const PackLimits& limits);
  /// The same directory once more, for a thread of its own that publishes and looks nothing up: it
  /// keeps no head in memory.
  PackDirectory for_publishing() const;

  /// Where the files are.
  const std::shared_ptr<DurableDirectory>& files() const { return directory_; }
  /// DurableDirectory::n_answers. Threads: any.
  uint64_t n_answers() const { return directory_->n_answers(); }

  /// Brings the index up to what the directory holds now. Asks for the time of every pack outside
  /// it, and reads the heads of those that come in and of one more. Errors: kIo.
  void look();
  /// Packs and sessions that cannot be used, as of the last look. They are never an error.
  const std::vector<RefusedFile>& refused() const { return refused_; }
  size_t n_packs() const { return index_.size(); }
  /// Packs that are not found, since their heads exceed PackLimits::index_bytes. They are again
  /// once any process uses or saves them, or there is room.
  size_t n_passed_over() const { return passed_over_.size(); }
  /// Of all packs, rows and sessions, now.
  uint64_t used_bytes() const;
  /// What this user may still write to the file system.
  uint64_t free_bytes() const { return directory_->free_bytes(); }

  /// The longest saved beginning of `tokens` (PackIndex::find), also of what other processes have
  /// saved since, and notes its use. `root` is the chain hash before position 0. Blocks have been
  /// neither read nor checked.   Errors: kIo.
  FoundContext find(const PackShape& shape, const Hash128& root, std::span<const int32_t> tokens);
  /// How many positions find() would have, by the heads in memory: no pack is opened, and no use
  /// noted. Errors: kIo.
  uint32_t n_found(const PackShape& shape, const Hash128& root, std::span<const int32_t> tokens);

  /// PackIndex::find_text, also of what other processes have saved since. Errors: kIo.
  KnownText find_text(const PackShape& shape, const Hash128& root, std::string_view text,
                      const TokenBytes& bytes_of);
  /// The same as of the last look, without a call of the disk.
  KnownText find_text_in_index(const PackShape& shape, const Hash128& root, std::string_view text,
                               const TokenBytes& bytes_of) const {
    return index_.find_text(shape, root, text, bytes_of);
  }

  /// A writer for the run where nothing need be evicted for it, without the lock; else nothing, and
  /// the run stays. Errors: kIo.
  std::optional<PackWriter> try_start(PackRun& run);
  /// A writer for the run, after making room for its bytes. Where there is room it takes no lock.
  /// Errors: kDoesNotFit (nothing was evicted), kIo.
  PackWriter start(PackRun run);
  /// Seals the pack where that was not done and gives it its name, which is returned. Where the
  /// same pack is there already and whole, by reading all of it without the lock, it counts as used
  /// and the writer's bytes go; one that is not, or that the disk does not give, is replaced. Packs
  /// of this object's index that it holds all of go, unless a session pins them.
  /// Errors: kDoesNotFit, kIo; then the directory is as before, but for what was evicted and where
  /// a pack that was replaced is the new one already.
  std::string publish(PackWriter writer);
  /// Removes the pack that has this name now, where its file holds other bytes than were saved; a
  /// whole one stays, whatever an earlier read of it said. Reads it, without the lock, to its end
  /// or to what is wrong. Errors: kIo.
  Discarded discard(const std::string& pack);
  /// The same of one that is saved anew: it goes as well where the disk does not give its bytes,
  /// unless a session pins it. Errors: kIo.
  Discarded discard_replaced(const std::string& pack);

  /// The rows of a pack; null where there are none of this kind. Reads no rows. Errors: kIo;
  /// kBadFile, kUnsupported (another shape or version): they are refused whole.
  std::shared_ptr<const RowsReader> open_rows(const PackReader& pack, const RowsShape& shape) const;
  /// A writer for n_segments segments of the pack's rows, after making room for them. What is made
  /// anew at any time evicts no pack of the same text.   Errors: kDoesNotFit, kIo.
  RowsWriter start_rows(const std::string& pack, const RowsShape& shape, uint32_t first_segment,
                        uint32_t n_segments);
  /// Gives the sealed rows their name, in place of earlier ones that are fewer or not what was
  /// saved. False, and they are gone, where their pack is gone by now, or as many are there: those
  /// are read.   Errors: kDoesNotFit, kIo, kOutOfMemory; then there are the earlier ones or none.
  bool publish_rows(RowsWriter writer);
  /// Removes rows that are not what was saved, or whose bytes the disk does not give; whole ones
  /// stay, whatever an earlier read said. Reads all of them. False where nothing was removed.
  /// Errors: kIo, kOutOfMemory, and the rows stay.
  bool discard_rows(const std::string& rows);

  /// Saves a session and with it pins its packs, in place of an earlier one of that name; what
  /// that one pinned and these hold goes, as in publish().
  /// Errors: kUsage (the name), kDoesNotFit, kIo (also where a pack has been evicted meanwhile).
  void pin(const std::string& name, const SessionManifest& session);
  /// Removes the session and leaves its packs; false where there is none.
  bool unpin(const std::string& name);
  /// Removes the session and the packs that no other session pins; returns the bytes of all these
  /// files, and nothing where there is no such session.
  std::optional<uint64_t> remove(const std::string& name);
  /// Nothing where there is none. Errors: kIo; kBadFile, kUnsupported: it is refused whole.
  std::optional<SessionManifest> session(const std::string& name) const;
  /// Whose text a session is: the chain hash before position 0, by its first pack's own head, which
  /// PackLimits::index_bytes does not bound. Nothing where that pack is not there, is damaged or is
  /// of another shape. Errors: kIo.
  std::optional<Hash128> root_of(const SessionManifest& session, const PackShape& shape) const;
  /// Notes the use of its packs, so that whoever looks for its text finds them. Errors: kIo.
  void note_use_of(const SessionManifest& session) const;
  /// Of the manifest of that name and of its packs that are there, rows included. Errors: kIo.
  uint64_t bytes_of(const std::string& name, const SessionManifest& session) const;
  /// What all sessions but `name` keep from being evicted, and those packs. Errors: kIo.
  uint64_t pinned_bytes(const std::string& name, std::span<const std::string> packs) const;
  std::vector<SessionEntry> list() const;

  /// Every pack, by name, after another look. What a session that cannot be read pins is not known
  /// here; list() names such a session.   Errors: kIo where the directory cannot be listed.
  std::vector<PackEntry> packs();
  /// Removes those of `packs` that no session pins; returns the names of what it removed. Nothing
  /// goes where a session cannot be read now.   Errors: kIo.
  std::vector<std::string> remove_unpinned(std::span<const std::string> packs);
  /// Reads every byte of a pack and notes no use; nothing where there is none.
  std::optional<PackVerdict> verify_pack(const std::string& pack) const;

 private:
  PackDirectory(std::shared_ptr<DurableDirectory> directory, const PackLimits& limits)
      : directory_(std::move(directory)), limits_(limits) {}

  /// Of a pack that is not in the index, where its head was read.
  struct PassedOver {
    uint64_t index_bytes = 0;  // that it would take there
    PackPlace place;
  };

  bool has_room_for(const PackRun& run) const;
  void ask_for_heads(std::span<const PackIndex::Use> packs) const;
  void ask_for_packs(std::span<const PackStretch> stretches) const;
  bool has_place_for(const PackIndex::Use& use) const;
  PackPlace place_of(const std::string& pack);
  void add_to_index(const std::string& name, PackHead head, int64_t used_ns);
  void note_use(const PackReader& pack);
  void make_room(uint64_t bytes, uint64_t free_bytes, std::set<std::string> pinned,
                 const std::string& pack_of_rows = "");
  void place(PackWriter& writer);
  Discarded discard(const std::string& pack, bool is_replaced);
  void remove_covered(const std::vector<std::string>& by);
  void remove_orphaned_rows();
  std::vector<std::string> rows_of(const std::string& pack) const;
  std::map<std::string, uint64_t> rows_bytes() const;  // of each pack that has some
  bool remove_pack(const std::string& pack);
  std::set<std::string> pinned_packs(const std::string& except_session) const;
  SessionManifest read_session(const DirectoryFile& file) const;
  std::optional<uint64_t> remove_session(const std::string& name, bool with_packs);

  std::shared_ptr<DurableDirectory> directory_;
  PackLimits limits_;
  PackIndex index_;
  std::map<std::string, std::optional<PassedOver>> passed_over_;
  std::vector<RefusedFile> refused_;
};

}  // namespace strata::tiers
