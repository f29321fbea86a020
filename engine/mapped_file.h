// engine/mapped_file.h - a file's pages as the page cache holds them, without the danger of it.
// Why: a page of a mapping that can no longer be read (the file was cut short, the disk fails)
// raises SIGBUS where the program touches it. Here only the kernel touches it, which then answers
// EFAULT: pages are brought in by MADV_POPULATE_READ and copied out by process_vm_readv.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace strata::engine {

/// Owns a read-only mapping. Reads may come from several threads.
class MappedFile {
 public:
  /// Nothing where this system does not allow it: mapping, or the guarded copy.
  static std::optional<MappedFile> open(int descriptor, uint64_t bytes);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  /// Fills `out` from `offset`; the range lies inside the size given to open(). Returns 0, or the
  /// system's error: EFAULT where the file no longer reaches so far or the disk failed.
  int read(uint64_t offset, std::span<std::byte> out) const;
  /// Whether the page cache has the page of this offset now; also where the system does not say.
  bool is_cached(uint64_t offset) const;

 private:
  MappedFile() = default;
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace strata::engine
