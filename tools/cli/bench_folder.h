// tools/cli/bench_folder.h - a folder for files that must have names for as long as a bench runs.
#pragma once

#include <string>

namespace strata::cli {

/// Removed with everything in it by the destructor; after kill -9, by the next one that is made in
/// the same place. It holds a lock on itself, by which others see that its owner lives.
class BenchFolder {
 public:
  /// In `directory`, which is made where it does not exist. Errors: kIo.
  explicit BenchFolder(const std::string& directory);
  ~BenchFolder();
  BenchFolder(const BenchFolder&) = delete;
  BenchFolder& operator=(const BenchFolder&) = delete;

  const std::string& path() const { return path_; }
  /// Takes its files out of the page cache, so that reads come from the disk. What could not be
  /// taken out stays: a file that is not on the disk yet.
  void forget_pages() const;
  static void forget_pages_of(const std::string& file);  // likewise, of one file

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace strata::cli
