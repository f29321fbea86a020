// tiers/transfer_queue.h - reads and writes in flight between files and a fixed set of frames, and
// reads into memory that a caller lends.
// Why: all staging memory is reserved at start, handed to the I/O back end once, and owned by the
// transfer that uses it until its completion; what a caller holds is a ticket or a lease. Memory
// that is lent belongs to its transfer likewise. Neighbours in a file that go to neighbouring
// memory are one request to the back end: a disk answers few large ones sooner than many small.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/host_memory.h"
#include "base/trace.h"
#include "tiers/io.h"
#include "tiers/lease.h"
#include "tiers/slot_states.h"

namespace strata::tiers {

/// A smaller request costs a disk about as much as one of this size.
inline constexpr uint64_t kSmallTransferBytes = uint64_t{128} << 10;

struct TransferOptions {
  uint64_t frame_bytes = 0;  // a multiple of 4,096: the largest single transfer
  uint32_t n_frames = 0;
  uint32_t n_lent = 0;          // reads into lent memory at a time
  bool prepares_frames = true;  // for the back end, which touches them all; else as they are used
  uint64_t join_bytes = 0;      // the largest request that neighbours are joined to; 0: none are
  std::chrono::microseconds deadline = std::chrono::seconds(10);  // of each at a device
};

struct TransferCounts {
  uint64_t reads = 0, writes = 0;  // ended, with success
  uint64_t read_bytes = 0, written_bytes = 0;
  uint64_t requests = 0;               // to the back end: of one transfer or of joined ones
  uint64_t failed = 0;                 // ended with another status, timed out included
  uint64_t failed_write_requests = 0;  // at the back end
  uint64_t stalls = 0;                 // times that a caller waited for a transfer
  uint64_t stall_us = 0;               // and how long, by Io::now()

  TransferCounts& operator+=(const TransferCounts& more);
};

/// One caller at a time. Steps allocate nothing.
class TransferQueue {
 public:
  /// Reserves the frames and, where asked, prepares them for the back end. Errors: kOutOfMemory.
  TransferQueue(std::unique_ptr<Io> io, const TransferOptions& options);
  TransferQueue(const TransferQueue&) = delete;
  TransferQueue& operator=(const TransferQueue&) = delete;
  /// Waits for nothing. Memory that a device still owns is not given back to the system before the
  /// process ends.
  ~TransferQueue();

  Io& io() { return *io_; }
  const Io& io() const { return *io_; }
  /// A file to read from or write to; it must outlive the queue, or be removed before. Errors:
  /// those of Io::add_file.
  IoFile add_file(const File& file) { return io_->add_file(file); }
  /// Whether a transfer of the file has not ended at the device.
  bool is_in_use(IoFile file) const;
  /// Forgets a file that is not in use.
  void remove_file(IoFile file);
  uint64_t frame_bytes() const { return options_.frame_bytes; }
  uint32_t n_frames() const { return options_.n_frames; }
  uint32_t n_free() const { return states_.n_free(); }
  uint32_t n_quarantined() const { return states_.n_quarantined(); }
  /// Of the reads into lent memory, and how many of them did not end in time, so that the device
  /// may still write there.
  uint32_t n_lent() const { return options_.n_lent; }
  uint32_t n_lent_free() const { return lent_states_.n_free(); }
  uint32_t n_lent_quarantined() const { return lent_states_.n_quarantined(); }
  /// Deadlines that have passed one after the other since the device last answered anything.
  uint32_t n_silences() const { return n_silences_; }
  /// Whether such a read is at the device, wanted or not.
  bool has_lent_memory() const;
  /// Whether one that nobody wants is at the device and may still end in time.
  bool has_dropped_lent() const;
  /// Reads and writes at a time.
  uint32_t n_operations() const { return options_.n_frames + options_.n_lent; }
  uint64_t memory_bytes() const { return memory_.size(); }
  const TransferCounts& counts() const { return counts_; }
  /// From now on every transfer, from its submission until its completion is collected, and every
  /// wait for one are recorded, in the time of Io::now(); frame k as first_index + k, reads into
  /// lent memory behind the frames. Null: nothing is. `trace` outlives the queue or is taken away
  /// before.
  void set_trace(Trace* trace, uint32_t first_index = 0) {
    trace_ = trace;
    trace_first_index_ = first_index;
  }
  /// From now on whoever waits looks at the flag, about ten times a second, and leaves with
  /// Error(kCancelled) where it is set: transfers go on and tickets stay held. Null = none looks.
  void set_cancel(const std::atomic<bool>* flag) { cancel_ = flag; }

  /// Begins to read bytes [offset, offset + bytes) of a file, in the file's alignment and at most
  /// frame_bytes; `layer` is for the trace. Nothing where no frame is free. Many small reads are
  /// cheaper handed to the back end together, by the next poll.
  enum class Start : uint8_t { kNow, kAtNextPoll };
  [[nodiscard]] std::optional<Ticket> read(IoFile file, uint64_t offset, uint32_t bytes,
                                           Start when = Start::kNow, uint32_t layer = kNoLayer);
  /// Likewise into `memory`, which is lent: it must stay where it is until take_lent() says kOk or
  /// take_back() gives it, and where neither has come when the queue ends and has_lent_memory(),
  /// until the process does. Nothing where n_lent() are on their way.
  [[nodiscard]] std::optional<Ticket> read_to(std::span<std::byte> memory, IoFile file,
                                              uint64_t offset, Start when = Start::kNow,
                                              uint32_t layer = kNoLayer);
  /// Waits as take_read() does. kOk: the bytes are there and the memory is the caller's. Else, and
  /// where the ticket is dropped, take_back() gives the memory when no device owns it any more.
  [[nodiscard]] IoStatus take_lent(Ticket&& ticket);
  /// Lent memory of a read that failed or was dropped, whole as it was lent; empty: none for now.
  std::span<std::byte> take_back();
  /// A frame to fill by hand. Nothing where none is free.
  [[nodiscard]] std::optional<FillLease> take_frame();
  /// Likewise for the first of n_run writes of whole frames, which follow each other in the file
  /// from `offset` on: where the write that was queued last goes on, or else beside frames for the
  /// others. Nothing where fewer neighbours are free than make one request, and writes on their
  /// way will free as many.
  [[nodiscard]] std::optional<FillLease> take_frame_of_run(IoFile file, uint64_t offset,
                                                           uint32_t n_run);
  /// Begins to write the first `bytes` of the frame. Small neighbours that begin at the next poll
  /// are one request.
  Ticket write(FillLease&& lease, IoFile file, uint64_t offset, uint32_t bytes,
               Start when = Start::kNow, uint32_t layer = kNoLayer);
  bool joins_writes() const { return n_joined_max() > 1; }
  /// Hands over what waits for the next poll, as far as the back end takes it.
  void begin_queued() { submit_queued(); }

  /// Collects completions, starts what was queued, gives up what is past its deadline or has waited
  /// for room as long without any answer of the device; never waits.
  void poll();
  /// True when take_read or take_write would not wait (as of the last poll).
  bool is_done(const Ticket& ticket) const;
  /// Waits until any transfer has ended, timed out or been completed late, at most for the
  /// deadline. False where none is in flight or none ended. Errors: kCancelled.
  bool wait_any();
  /// Waits for the read, at most until its deadline. kOk: `lease` holds the bytes; else it holds
  /// nothing, and where the device still owns the frame it is quarantined. Errors: kCancelled.
  [[nodiscard]] IoStatus take_read(Ticket&& ticket, ReadLease& lease);
  /// Likewise.
  [[nodiscard]] IoStatus take_write(Ticket&& ticket);

 private:
  friend void detail::give_right_back(TransferQueue&, FrameRef, detail::RightKind) noexcept;
  enum class Stage : uint8_t { kNone, kQueued, kInFlight, kDone };
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr uint32_t kBatch = 64;  // completions and requests handled at a time
  /// The transfer of a frame, or one into lent memory, which is numbered behind the frames: what is
  /// called a frame below is either. A frame has at most one.
  struct Operation {
    IoRequest request;
    Stage stage = Stage::kNone;
    bool has_ticket = false;
    bool is_late = false;       // its completion came after the deadline
    bool is_behind = false;     // another one, in the same request
    uint32_t layer = kNoLayer;  // for the trace
    uint32_t joined = kNone;    // the frame whose transfer goes on behind it, in the same request
    IoStatus status = IoStatus::kOk;
    std::chrono::nanoseconds started{};  // of its deadline: submitted, or the last answer before
  };
  Ticket start(FrameRef ref, const IoRequest& request, Start when, uint32_t layer);
  bool is_lent(uint32_t frame) const { return frame >= options_.n_frames; }
  SlotStates& states(uint32_t frame) { return is_lent(frame) ? lent_states_ : states_; }
  const SlotStates& states(uint32_t frame) const { return is_lent(frame) ? lent_states_ : states_; }
  bool is_running(uint32_t frame) const;
  FillLease lease_of(uint32_t frame);
  uint32_t frame_behind_last(IoOp op, IoFile file, uint64_t offset) const;
  std::byte* address(uint32_t frame) const;
  Operation& operation_of(FrameRef ref);
  const Operation& operation_of(FrameRef ref) const;
  uint32_t n_joined_max() const;
  uint32_t n_joined(uint32_t n_run) const;
  size_t request_end(size_t begin) const;
  void submit_queued();
  void restart_queued();
  void collect(std::chrono::microseconds timeout);
  void complete(const IoCompletion& completion);
  void complete_one(uint32_t frame, IoStatus status);
  IoStatus finish_ticket(Ticket&& ticket);
  void end(uint32_t frame, IoStatus status);
  void count_silence(std::chrono::nanoseconds begin);
  void time_out(uint32_t frame);
  void expire();
  void wait_for(FrameRef ref);
  void wait_until(std::chrono::nanoseconds now, std::chrono::nanoseconds until);
  void count_stall(const char* what, std::chrono::nanoseconds since);
  void record(uint32_t frame) const;
  void drop_ticket(FrameRef ref) noexcept;
  void free_done(uint32_t frame);

  TransferOptions options_;
  std::unique_ptr<Io> io_;
  HostMemory memory_;
  SlotStates states_;
  SlotStates lent_states_;
  std::vector<Operation> operations_;       // per frame, then those into lent memory
  std::vector<uint32_t> given_up_;          // of the latter: for take_back()
  std::chrono::nanoseconds next_expiry_{};  // no transfer's deadline is before it
  uint32_t n_silences_ = 0;
  std::chrono::nanoseconds silent_until_{};  // what began before it has been counted
  std::vector<uint32_t> queue_;  // frames whose transfer waits for the back end, oldest first
  uint64_t n_ended_ = 0;         // transfers, however; a late completion counts once more
  TransferCounts counts_;
  Trace* trace_ = nullptr;
  uint32_t trace_first_index_ = 0;
  const std::atomic<bool>* cancel_ = nullptr;
};

}  // namespace strata::tiers
