// tiers/spill_directory.h - the folder that a spill file is made in, and the making.
#pragma once

#include <string>
#include <vector>

#include "tiers/file.h"

namespace strata::tiers {

/// An open folder. Folders that it had to make are removed again unless keep() was called. Not a
/// DurableDirectory: that one must be its user's alone and gives its files names, while this one
/// may be anybody's, since a file that nobody can open holds the conversation.
class SpillDirectory {
 public:
  /// Opens `path`; makes what is missing of it with mode 0700. Errors: kIo, kUsage (in RAM).
  explicit SpillDirectory(const std::string& path);
  ~SpillDirectory();
  SpillDirectory(const SpillDirectory&) = delete;
  SpillDirectory& operator=(const SpillDirectory&) = delete;

  /// A file of mode 0600 that no folder lists, empty, open for reading and writing, direct where
  /// possible. Appends to `notice` what was not possible. Errors: kIo.
  /// Where another process has taken the folder away meanwhile, it is made again.
  File make_file(std::string& notice);
  uint64_t free_bytes() const;  // for this user; 0 where unknown
  void keep() { made_.clear(); }

 private:
  SpillDirectory() = default;
  void open_folder();
  void make_missing();
  bool is_gone() const;
  void refuse_memory() const;

  std::string path_;
  std::vector<std::string> made_;  // outermost first
  int descriptor_ = -1;
};

}  // namespace strata::tiers
