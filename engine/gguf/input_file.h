// engine/gguf/input_file.h - a file read by position, never mapped.
// Why: a file that is cut short while it is open must end in an Error;
// a mapping would end in SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace strata::engine {

/// An open regular file. Reads may come from several threads.
class InputFile {
 public:
  /// Errors: kIo (cannot open, or not a regular file).
  static InputFile open(const std::string& path);
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;
  ~InputFile();

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }  // when it was opened
  int descriptor() const { return descriptor_; }

  /// Whether the file still has the size and the time of modification that it had when it was
  /// opened. Errors: kIo where it has not.
  void check_unchanged() const;

  /// Fills `out` from `offset`. Errors: kIo; `what` names the thing read, for the message.
  void read(uint64_t offset, std::span<std::byte> out, const std::string& what) const;

 private:
  InputFile(std::string path, int descriptor, uint64_t size);
  std::string path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
  int64_t modified_ns_ = 0;
};

}  // namespace strata::engine
