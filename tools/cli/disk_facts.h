// tools/cli/disk_facts.h - which disk a folder lies on, as the system's table of mounts says.
#pragma once

#include <string>

namespace strata::cli {

struct DiskFacts {
  std::string folder;       // what was asked for, or the nearest folder above it that exists
  std::string file_system;  // "ext4"; empty: not known
  std::string device;       // "/dev/nvme0n1p2", or what a network's file system names
  std::string model;        // what the device calls itself; empty: it does not say
  bool is_rotating = false;

  bool is_memory() const;   // tmpfs, ramfs
  bool is_network() const;  // another machine's, or passed through by a host
  /// "ext4 on /dev/nvme0n1p2 (Samsung SSD 990 PRO)": what a measured rate is a rate of.
  std::string name() const;
};

/// `path` need not exist. Changes nothing. `root` stands for "/" in the tests, but not before
/// `path`.
DiskFacts disk_facts(const std::string& path, const std::string& root = "/");

}  // namespace strata::cli
