#include "tests/tiers/small_disk.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/tiers/child_process.h"

namespace strata::tiers {
namespace {

/// Runs a command line of the shell, whose output goes to folder/log; false where it fails.
bool runs(const std::string& command, const std::string& folder) {
  const std::string line =
      "PATH=$PATH:/sbin:/usr/sbin; { " + command + "; } >'" + folder + "/log' 2>&1";
  return std::system(line.c_str()) == 0;
}

std::string mount_command(const std::string& folder) {
  return "mount -o loop '" + folder + "/image' '" + folder + "/disk'";
}

}  // namespace

std::string mount_small_disk(const std::string& folder, uint64_t bytes) {
  const std::string image = folder + "/image", disk = folder + "/disk";
  if (::unshare(CLONE_NEWNS) != 0 ||
      ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    throw NotPossibleHere("mounting is forbidden here");
  std::filesystem::create_directory(disk);
  std::ofstream(image) << "";
  std::filesystem::resize_file(image, bytes);
  if (!runs("mkfs.ext4 -q -m 0 -F '" + image + "' && " + mount_command(folder), folder))
    throw NotPossibleHere("no ext4 on a loop device can be made here");
  return disk;
}

void remount_small_disk(const std::string& folder) {
  demand(runs("umount '" + folder + "/disk' && " + mount_command(folder), folder),
         "the disk cannot be mounted again");
}

uint64_t free_bytes(const std::string& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_CLOEXEC);
  demand(descriptor >= 0, "cannot open " + folder);
  const bool is_synced = ::syncfs(descriptor) == 0;
  ::close(descriptor);
  demand(is_synced, "no syncfs");
  struct statvfs status = {};
  demand(::statvfs(folder.c_str(), &status) == 0, "no statvfs");
  return status.f_bavail * status.f_frsize;
}

}  // namespace strata::tiers
