// tools/cli/raw_disk.h - what the disk of the spill file gives to a plain reader: the ceilings that
// `bench --tiers` shows the tiers as a share of. Why: a share says something only of a rate that
// was measured on the same file system, past the page cache, in the same minute.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/host_memory.h"
#include "tiers/io.h"
#include "tiers/open_io.h"
#include "tiers/spill_file.h"

namespace strata::cli {

/// A file without a name, gone with the process. Every 4,096 bytes of it hold random bytes behind
/// their own offset, so that a read of the wrong place shows. One caller at a time.
class RawDisk {
 public:
  static constexpr uint32_t kRequestBytes = 1 << 20;  // of passes in order
  static constexpr uint32_t kRequestsInFlight = 32;   // of these, where nothing else is said
  // Where bytes are looked at. Thirty-two took an eighth longer (3.39 and 2.99 GB/s; 3.45 both
  // where nothing was looked at): what they fill no longer stays in the caches until it is read.
  static constexpr uint32_t kLookedAtDepth = 8;
  static constexpr uint32_t kDepth = 256;  // of small requests at most

  /// Reserves `bytes` (rounded up to 1 MiB) in `directory` and writes nothing. `cancel` is looked
  /// at between transfers. Errors: those of SpillFile::create and open_io; kIo where the disk has
  /// less.
  static RawDisk make(const std::string& directory, uint64_t bytes, tiers::IoChoice io,
                      const std::atomic<bool>* cancel);
  RawDisk(RawDisk&&) = default;
  RawDisk& operator=(RawDisk&&) = delete;
  ~RawDisk();

  uint64_t bytes() const { return bytes_; }
  /// Whether every byte of a read is looked at before its memory is used again, as steps do (not of
  /// requests one at a time). With 32 MiB in flight a disk gives an eighth less then.
  void look_at_bytes(bool looks) { looks_ = looks; }
  uint64_t looked_at() const { return looked_at_; }  // the sum of its words

  bool is_direct() const { return file_.file().is_direct(); }
  std::string_view io_name() const { return io_->name(); }
  const std::string& notice() const { return file_.notice(); }  // what the file system lacks

  /// Seconds of one pass in order. Errors: kIo, kCancelled.
  double write_all();
  double read_all(uint32_t depth = kRequestsInFlight);
  /// Seconds in which every request is read, `depth` in flight. After write_all(). Errors: kIo,
  /// also where the bytes of another place came; kCancelled.
  double read(std::span<const uint64_t> offsets, uint32_t request_bytes, uint32_t depth);
  /// The same of writing, whole pages of 4,096 bytes. Errors: kIo, kCancelled.
  double write(std::span<const uint64_t> offsets, uint32_t request_bytes, uint32_t depth);

  /// Different places that begin at multiples of request_bytes, at most as many as there are, in
  /// random or in rising order. Each call draws others.
  std::vector<uint64_t> draw(uint64_t n, uint32_t request_bytes, bool is_sorted);

 private:
  RawDisk(tiers::SpillFile file, std::unique_ptr<tiers::Io> io, const std::atomic<bool>* cancel);
  double transfer(tiers::IoOp op, std::span<const uint64_t> offsets, uint32_t request_bytes,
                  uint32_t depth);
  void stamp(std::span<std::byte> memory, uint64_t offset) const;
  void check(const tiers::IoCompletion& done, std::span<const uint64_t> offsets,
             const std::byte* memory) const;
  std::vector<uint64_t> in_order() const;

  tiers::SpillFile file_;  // outlives io_
  std::unique_ptr<tiers::Io> io_;
  const std::atomic<bool>* cancel_;
  tiers::IoFile io_file_{};
  HostMemory memory_;  // of the requests in flight
  uint64_t bytes_ = 0;
  bool looks_ = false;
  uint64_t looked_at_ = 0;
  std::mt19937_64 random_{1};
};

}  // namespace strata::cli
