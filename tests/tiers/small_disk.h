// tests/tiers/small_disk.h - a real file system of a few MiB, for what only a full or an otherwise
// idle disk shows.
#pragma once

#include <cstdint>
#include <string>

namespace strata::tiers {

/// Mounts an ext4 disk below `folder`, seen by this process and its children alone and gone with
/// them; returns its path. A large one takes only what is written to it. Throws NotPossibleHere
/// (tests/tiers/child_process.h). Only in a child: the process leaves the others' view of the file
/// systems.
std::string mount_small_disk(const std::string& folder, uint64_t bytes = uint64_t{64} << 20);

/// Unmounts the disk of mount_small_disk(folder) and mounts it again, as after a restart: what did
/// not reach its journal is gone. Throws std::runtime_error where that fails.
void remount_small_disk(const std::string& folder);

/// What the file system of `folder` has free, after all that was deleted is given back.
uint64_t free_bytes(const std::string& folder);

}  // namespace strata::tiers
