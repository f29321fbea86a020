// The index rows that lie beside the packs of a PackDirectory.
#include <algorithm>
#include <optional>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "tiers/pack_directory.h"

namespace strata::tiers {
namespace {

/// The head of the rows' pack; nothing where there is none or a damaged one.
std::optional<PackHead> head_of(const DurableDirectory& directory, const std::string& pack) {
  try {
    if (const auto file = directory.open_file(pack)) return read_pack_head(*file, pack);
  } catch (const Error& error) {
    if (!is_of_file(error)) throw;
  }
  return std::nullopt;
}

/// The rows in a file of this name, which it reads whole; null where they are not what was saved,
/// or the disk does not give their own bytes. Whatever else fails says nothing about the rows.
/// Errors: kIo, kOutOfMemory.
std::shared_ptr<const RowsReader> open_whole_rows(const DurableDirectory& directory,
                                                  const std::string& name) {
  const std::string pack = pack_of_rows_file(name);
  const auto head = head_of(directory, pack);
  if (!head) return nullptr;
  auto file = directory.open_file(name);
  if (!file) return nullptr;
  try {
    auto rows = RowsReader::read(std::move(*file), pack, *head, kind_of_rows_file(name));
    rows->check();
    return rows;
  } catch (const Error& error) {
    if (!is_of_file(error) && error.code() != ErrorCode::kIo) throw;
    return nullptr;
  }
}

}  // namespace

std::vector<std::string> PackDirectory::rows_of(const std::string& pack) const {
  std::vector<std::string> rows = directory_->names();
  std::erase_if(rows, [&](const std::string& name) { return pack_of_rows_file(name) != pack; });
  return rows;
}

std::map<std::string, uint64_t> PackDirectory::rows_bytes() const {
  std::map<std::string, uint64_t> bytes;
  for (const std::string& name : directory_->names()) {
    const std::string pack = pack_of_rows_file(name);
    if (pack.empty()) continue;
    if (const auto status = directory_->status_of(name)) bytes[pack] += status->bytes;
  }
  return bytes;
}

/// Rows first: interrupted, there is still a pack that counts them.
bool PackDirectory::remove_pack(const std::string& pack) {
  for (const std::string& name : rows_of(pack)) directory_->remove(name);
  return directory_->remove(pack);
}

/// What a process left that ended between two removals, or an earlier version of this program.
void PackDirectory::remove_orphaned_rows() {
  const auto orphans = [&] {
    const std::vector<std::string> names = directory_->names();
    std::vector<std::string> found;
    for (const std::string& name : names) {
      const std::string pack = pack_of_rows_file(name);
      if (!pack.empty() && !std::ranges::binary_search(names, pack)) found.push_back(name);
    }
    return found;
  };
  if (orphans().empty()) return;
  try {
    // Another process may just be giving a pack its name: under the lock none does.
    const DirectoryLock lock = directory_->lock(std::chrono::milliseconds(0));
    for (const std::string& name : orphans()) directory_->remove(name);
  } catch (const Error&) {
    return;  // they stay until the next open: nothing reads them
  }
}

std::shared_ptr<const RowsReader> open_rows(const DurableDirectory& directory,
                                            const PackReader& pack, const RowsShape& shape) {
  auto rows = RowsReader::open(directory, pack.name(), pack.head(), shape.kind);
  if (rows && rows->head().shape != shape)
    throw Error(ErrorCode::kUnsupported, "index rows of another shape",
                directory.path_of(rows->name()), "Remove the file; the rows will be made anew.");
  return rows;
}

std::shared_ptr<const RowsReader> PackDirectory::open_rows(const PackReader& pack,
                                                           const RowsShape& shape) const {
  return tiers::open_rows(*directory_, pack, shape);
}

RowsWriter PackDirectory::start_rows(const std::string& pack, const RowsShape& shape,
                                     uint32_t first_segment, uint32_t n_segments) {
  const uint64_t bytes = rows_file_bytes(shape, n_segments);
  {
    const DirectoryLock lock = directory_->lock(limits_.lock_wait);
    make_room(bytes, checked_add(bytes, limits_.free_floor_bytes).value_or(UINT64_MAX), {}, pack);
  }
  return RowsWriter(directory_, pack, shape, first_segment);
}

bool PackDirectory::publish_rows(RowsWriter writer) {
  const std::string name = writer.file_name();
  const DirectoryLock lock = directory_->lock(limits_.lock_wait);
  if (!directory_->status_of(writer.pack())) return false;
  // Another process may have saved as many of them meanwhile, or more.
  const auto there = open_whole_rows(*directory_, name);
  if (there && there->head().shape == writer.head().shape &&
      there->head().n_segments() >= writer.head().n_segments())
    return false;
  directory_->remove(name);
  make_room(writer.bytes(), limits_.free_floor_bytes, {}, writer.pack());
  if (!writer.publish())
    throw Error(ErrorCode::kIo, "another program makes files in the directory of saved contexts",
                directory_->path_of(name), "End the other program, or name another directory.");
  return true;
}

bool PackDirectory::discard_rows(const std::string& rows) {
  STRATA_CHECK(!pack_of_rows_file(rows).empty(), "%s", rows.c_str());
  const DirectoryLock lock = directory_->lock(limits_.lock_wait);
  return open_whole_rows(*directory_, rows) == nullptr && directory_->remove(rows);
}

}  // namespace strata::tiers
