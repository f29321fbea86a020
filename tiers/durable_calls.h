// tiers/durable_calls.h - the system calls behind saved contexts, one virtual function each.
// Why: what must survive any failed call is tested by failing each call in turn, and by ending the
// process inside each. Only saving and looking up go through here; blocks in flight use tiers/io.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace strata::tiers {

struct FileStatus {
  uint64_t bytes = 0;
  int64_t modified_ns = 0;  // since 1970; of a pack: its last use
  uint64_t n_links = 0;
  uint64_t inode = 0;        // which file of its file system it is
  uint32_t permissions = 0;  // the nine bits of owner, group and others
  bool is_regular = false;
  bool is_own = false;  // belongs to the user that this process runs as
};

enum class OpenFor : uint8_t {
  kReading,       // an existing regular file; links are not followed, a pipe does not block
  kWritingFirst,  // a file that must not exist yet
  kLocking,       // made where it does not exist
};

/// Every function returns a value that is not negative, or -errno. Files are made with mode 0600
/// and directories with 0700 whatever the umask; descriptors are closed on exec; calls interrupted
/// by a signal are repeated, but for sync. Thread-safe.
class DurableCalls {
 public:
  virtual ~DurableCalls() = default;

  virtual int make_directory(const std::string& path);
  virtual int open_directory(const std::string& path);
  virtual int open_at(int directory, const std::string& name, OpenFor purpose);
  /// A file without a name, gone when its descriptor is closed (O_TMPFILE).
  virtual int open_unnamed(int directory);
  /// The open file once more, whose reads go past the page cache: in aligned pieces of memory and
  /// file (tiers/file.h). -EINVAL where the file system has no such reads.
  virtual int open_direct(int descriptor);
  virtual void close(int descriptor);

  virtual int64_t read_at(int descriptor, std::span<std::byte> bytes, uint64_t offset);
  /// Says that these bytes are read soon, so that the disk brings them meanwhile. Advice: it waits
  /// for no byte, and a failure costs time only.
  virtual int will_read(int descriptor, uint64_t offset, uint64_t bytes);
  virtual int64_t write_at(int descriptor, std::span<const std::byte> bytes, uint64_t offset);
  virtual int sync(int descriptor);
  /// Sets the time of the last use to now, in nanoseconds and not in the kernel's ticks.
  virtual int touch(int descriptor);
  /// Takes the exclusive lock of an open file, or -EWOULDBLOCK; closing the file gives it back.
  virtual int try_lock(int descriptor);

  virtual int status(int descriptor, FileStatus& status);
  virtual int status_at(int directory, const std::string& name, FileStatus& status);
  /// Bytes that this user may still write to the file system.
  virtual int free_bytes(int descriptor, uint64_t& bytes);
  virtual int list(int directory, std::vector<std::string>& names);

  /// Gives an unnamed file its name; -EEXIST where the name is taken.
  virtual int link_at(int descriptor, int directory, const std::string& name);
  virtual int rename_at(int directory, const std::string& from, const std::string& to);
  virtual int remove_at(int directory, const std::string& name);
};

/// The calls themselves.
DurableCalls& system_calls();

}  // namespace strata::tiers
