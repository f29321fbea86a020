// tools/cli/doctor_disks.cc - the folders that Strata writes to.
#include <fmt/format.h>

#include <filesystem>

#include "engine/byte_text.h"
#include "tiers/durable_directory.h"
#include "tools/cli/disk_facts.h"
#include "tools/cli/doctor.h"
#include "tools/cli/raw_disk.h"

namespace strata::cli {
namespace {

using engine::bytes_text;

constexpr uint64_t kFewDiskBytes = uint64_t{4} << 30;  // of disk: K and V of few long contexts

/// A folder that Strata writes to.
struct Folder {
  std::string check, path;
  bool must_do = false;
  std::string in_memory;  // what a file system in memory means there
  std::string remedy;     // names another one
};

Finding missing(const Folder& folder, std::string found, std::string wanted) {
  return {folder.check, folder.must_do ? Finding::Level::kFail : Finding::Level::kNote,
          std::move(found), std::move(wanted), folder.remedy};
}

Finding look_at_folder(const Folder& folder, const std::string& root) {
  const DiskFacts disk = disk_facts(folder.path, root);
  const std::string place = fmt::format("{}: {}", folder.path, disk.name());
  if (disk.is_memory()) return missing(folder, place + ", in memory", folder.in_memory);
  std::string lacks, kind;
  try {
    RawDisk trial = RawDisk::make(disk.folder, RawDisk::kRequestBytes, tiers::IoChoice::kAuto,
                                  /*cancel=*/nullptr);
    trial.write_all();
    trial.read_all();
    kind = fmt::format("{}, {}", trial.is_direct() ? "past the page cache" : "page cache",
                       trial.io_name());
    lacks = trial.notice();
  } catch (const Error& error) {
    return missing(folder, fmt::format("{}: {}", place, error.what()),
                   "a folder that files can be made in, written and read back");
  }
  std::error_code unknown;
  const uint64_t free = std::filesystem::space(disk.folder, unknown).available;
  const std::string found =
      fmt::format("{}, {}, {} free", place, kind, unknown ? "?" : bytes_text(free));
  const auto note = [&](std::string wanted) {
    return Finding::note(folder.check, found, std::move(wanted), folder.remedy);
  };
  if (!lacks.empty()) return note("a disk of its own: " + lacks);
  if (disk.is_network()) return note("a disk of this machine: another's is slow and may go away");
  if (disk.is_rotating) return note("a solid-state disk: this one rotates, reading back is slow");
  if (!unknown && free < kFewDiskBytes)
    return note(fmt::format("{} free", bytes_text(kFewDiskBytes)));
  return Finding::ok(folder.check, found);
}

}  // namespace

Finding look_at_spill_folder(const std::string& folder, bool is_named, const std::string& root) {
  if (folder.empty())
    return Finding::note("spill folder", "off", "a folder: contexts that memory does not hold",
                         "name a folder on a disk with --nvme");
  return look_at_folder({.check = "spill folder",
                         .path = folder,
                         .must_do = is_named,
                         .in_memory = "a disk: what is spilled there takes memory again",
                         .remedy = "name a folder on a disk with --nvme"},
                        root);
}

Finding look_at_session_folder(const std::string& folder, const std::string& root) {
  if (folder.empty())
    return Finding::note("saved contexts", "no folder is known", "a folder",
                         "set HOME or XDG_DATA_HOME, or name one with --session-dir");
  std::error_code unknown;  // then the trial says
  if (std::filesystem::is_directory(folder, unknown)) {
    try {
      (void)tiers::DurableDirectory::open(folder, tiers::system_calls());
    } catch (const Error& error) {
      return Finding::note("saved contexts", fmt::format("{}: {}", folder, error.what()),
                           "a folder of your own", error.remedy());
    }
  }
  return look_at_folder({.check = "saved contexts",
                         .path = folder,
                         .must_do = false,
                         .in_memory = "a disk: what is saved there is gone with the next start",
                         .remedy = "name a folder on a disk with --session-dir"},
                        root);
}

}  // namespace strata::cli
