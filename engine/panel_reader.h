// engine/panel_reader.h - reads panels past the page cache and packs them.
// Why: a read's file bytes stand at no aligned place, so the enclosing aligned range is read into a
// buffer of a small ring; packing empties the buffer, and the disk goes on with the others. Half of
// the ring is in flight at most: a virtual disk may answer all it has been asked at once, and then
// stand idle until that is packed where nothing was kept back.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <thread>
#include <vector>

#include "base/host_memory.h"
#include "base/thread_pool.h"
#include "engine/panel_run.h"
#include "tiers/file.h"
#include "tiers/io.h"

namespace strata::engine {

/// Offsets, lengths and addresses of reads are multiples of this. A device that demands more is
/// read through the page cache.
inline constexpr uint64_t kReadAlignment = 4096;
inline constexpr uint32_t kReadBuffersMax = 32;  // reads in flight or waiting to be packed
inline constexpr std::chrono::milliseconds kReadDeadline{10'000};

/// A buffer that holds the aligned range around any read of at most `read_bytes`.
uint64_t read_buffer_bytes(uint64_t read_bytes);

/// Reads in flight at most, of so many buffers.
constexpr uint32_t reads_in_flight(uint32_t n_buffers) { return (n_buffers + 1) / 2; }

/// Makes the back end that reads weights; `depth` transfers in flight at most.
using MakeIo = std::function<std::unique_ptr<tiers::Io>(uint32_t depth)>;
std::unique_ptr<tiers::Io> make_weight_io(uint32_t depth);

/// What reading has cost so far.
struct WeightReadCounts {
  std::string_view back_end;  // Io::name
  uint64_t read_bytes = 0;    // asked of the disk, the over-read for alignment included
  uint64_t n_reads = 0;       // that have ended
  uint64_t n_stalls = 0;      // layers that were not there when the walk came to them
  double wait_seconds = 0;    // in which the walk did nothing but wait for the disk
  double pack_seconds = 0;    // in which the walk's threads packed
  uint64_t n_abandoned = 0;   // reads whose bytes nobody wanted any more
};

/// A group of matrices that is being packed: where, and what is still missing.
struct PackTarget {
  std::byte* memory = nullptr;        // null: what arrives waits in its buffers
  uint64_t n_missing = 0;             // reads that are not packed yet
  const PanelRead* failed = nullptr;  // the first
  tiers::IoCompletion failure{};
};

/// One caller at a time. Nothing is allocated after the constructor.
class PanelReader {
 public:
  /// Opens the shards of `file`, which must outlive the reader, for direct reads. Errors: kIo,
  /// kOutOfMemory.
  PanelReader(const GgufFile& file, const MakeIo& make_io, uint32_t n_buffers,
              uint64_t buffer_bytes);
  /// Waits for nothing: where reads are in flight, their buffers stay with them until the process
  /// ends.
  ~PanelReader();
  PanelReader(const PanelReader&) = delete;
  PanelReader& operator=(const PanelReader&) = delete;

  /// Whether a buffer is free for start().
  bool can_start() const { return !free_.empty(); }
  /// Begins a read, which is packed into `target` by a later collect(). Both must stay where
  /// they are until then, or until the target is abandoned.
  void start(const PanelRead& read, PackTarget& target);
  /// Hands what start() has queued to the disk; collect() does so too.
  void submit();
  /// Forgets the target: what is in flight for it is thrown away when it arrives.
  void abandon(const PackTarget& target);

  /// Packs with the threads of `pool` what has arrived for targets that have memory; where there is
  /// none yet, waits at most `timeout` for a first read to end: is_needed where the caller waits
  /// for that alone, which WeightReadCounts::wait_seconds counts. Returns how many reads have
  /// ended, failed ones included, and how many that had waited were packed: a failure is noted in
  /// its target.
  uint32_t collect(ThreadPool& pool, std::chrono::microseconds timeout, bool is_needed = true);

  /// Throws Error(kIo) for the target's failed read, or where none failed for one that has not come
  /// back within `deadline`.
  [[noreturn]] void fail(const PackTarget& target, std::chrono::milliseconds deadline) const;

  bool is_reading() const { return io_->in_flight() > 0; }

  const WeightReadCounts& counts() const { return counts_; }
  void count_stall() { ++counts_.n_stalls; }

 private:
  struct Buffer {
    std::byte* memory = nullptr;
    const PanelRead* read = nullptr;
    PackTarget* target = nullptr;  // null: abandoned
    uint64_t skip_bytes = 0;       // from the aligned offset to the read
    bool is_busy = false;
  };
  void receive(const tiers::IoCompletion& completion);
  uint32_t pack_arrived(ThreadPool& pool);
  void set_free(uint32_t buffer_idx);

  const GgufFile& file_;
  HostMemory memory_;
  std::vector<tiers::File> files_;  // by shard
  std::vector<tiers::IoFile> io_files_;
  std::unique_ptr<tiers::Io> io_;
  std::vector<Buffer> buffers_;
  std::vector<uint32_t> free_;
  std::vector<uint32_t> arrived_;  // and is not packed yet
  std::vector<tiers::IoRequest> queued_;
  std::vector<tiers::IoCompletion> completions_;
  uint32_t n_lost_ = 0;     // buffers that a hung device keeps
  std::thread::id issuer_;  // of what is in flight; a ring answers no other thread
  WeightReadCounts counts_;
};

}  // namespace strata::engine
