// tiers/simulated_io.h - an Io whose files are in memory, whose clock is virtual and whose disk
// lies, fails and hangs as told.
// Why: real disks do this rarely and never twice alike. Here the same seed and the same calls give
// the same completions, bytes and times, and it is known which reads returned wrong bytes.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "tiers/io.h"
#include "tiers/simulated_faults.h"
#include "tiers/simulated_medium.h"

namespace strata::tiers {

struct SimulatedDisk {
  uint64_t seed = 0;
  uint32_t depth = 64;
  uint32_t alignment = 512;                     // of offsets, lengths and addresses; a power of two
  uint64_t capacity_bytes = uint64_t{1} << 30;  // of all files together; then writes end kNoSpace

  // A transfer takes latency + bytes / bytes_per_s + a uniform draw from [0, latency_spread]. With
  // no spread, transfers of one size end in the order of their start; with some, they overtake
  // each other. A look (a wait that finds nothing and has no timeout) takes look_time, so that a
  // loop of looks ends.
  std::chrono::nanoseconds latency{80'000};
  std::chrono::nanoseconds latency_spread{0};
  uint64_t bytes_per_s = 3'000'000'000;
  std::chrono::nanoseconds stall{2'000'000'000};
  std::chrono::nanoseconds look_time{1'000};

  SimulatedFaults faults{};
};

/// A read that ended kOk with other bytes than an honest disk would have returned.
struct WrongRead {
  uint64_t id = 0;
  IoFile file{};
  uint64_t offset = 0;
  uint32_t bytes = 0;
  FaultKind fault = FaultKind::kNone;  // of this read; not a silent one: the medium was wrong
};

/// A transfer moves its bytes at the moment at which it ends: a write takes them from its memory
/// then, and a read sees the medium of then. Alignment is enforced (kMisaligned). Checked as bugs:
/// memory that a transfer in flight also has (unless both write), a read's memory touched before
/// its bytes arrived, and a wait for ever on what never ends. Threads: one caller at a time.
class SimulatedIo final : public Io {
 public:
  explicit SimulatedIo(const SimulatedDisk& disk);

  std::string_view name() const override { return "simulated"; }
  uint32_t depth() const override { return disk_.depth; }
  /// Of transfers that end from now on.
  void set_faults(const SimulatedFaults& faults) { disk_.faults = faults; }
  /// Nothing to prepare: 0.
  uint64_t prepare_memory(std::span<std::byte> memory) override;
  /// An empty file in memory, which writes extend, with the alignment of `file`; the content of
  /// `file` is neither read nor written.
  IoFile add_file(const File& file) override;
  uint32_t alignment(IoFile file) const override;
  /// A file of zeros with the disk's alignment, which writes extend.
  IoFile add_memory_file(uint64_t bytes);
  /// What the file holds from now on, rightly, in whole sectors; it has been empty.
  void set_content(IoFile file, std::span<const std::byte> bytes);
  /// A file that `other` has: two back ends, each with faults of its own, over one medium.
  IoFile add_file_of(const SimulatedIo& other, IoFile file);
  uint32_t submit(std::span<const IoRequest> requests) override;
  uint32_t wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) override;
  uint32_t in_flight() const override;

  /// Virtual time since the start.
  std::chrono::nanoseconds now() const override { return now_; }
  /// Lets time pass, as computing does; what ends meanwhile is returned by the next wait().
  void advance(std::chrono::nanoseconds duration);

  /// Requests accepted so far; the next one has this number.
  uint64_t n_submitted() const { return n_submitted_; }
  /// Request number `k` (the first is 0, not yet submitted) meets this fault whatever the rates.
  /// It must be one that concerns the request's direction; kDeviceGone lasts from there on.
  void fail_nth(uint64_t k, FaultKind kind);

  /// Faults that befell a transfer. One that could not (tearing a single sector, another place in
  /// a file that has none) does not count.
  uint64_t injected(FaultKind kind) const;
  uint64_t injected_total() const;

  /// Reads that ended kOk with wrong bytes, counted when they ended. A fault that changed nothing
  /// by chance is not among them; a write's fault appears once for each read that meets it.
  uint64_t n_wrong_reads() const { return n_wrong_reads_; }
  /// Those since the last call, oldest first.
  std::vector<WrongRead> take_wrong_reads();

  /// What the medium holds now, for tests that look at it or damage it. Valid until the next call.
  std::span<std::byte> medium(IoFile file);

 private:
  struct Transfer {
    IoRequest request;
    uint64_t sequence = 0;
    std::chrono::nanoseconds due{};
    FaultKind fault = FaultKind::kNone;
    SimulatedDraws draws{0};  // of this request alone: the order of completions changes none
    uint32_t moved = 0;       // bytes of a resumed transfer that are there already
    bool is_wrong = false;
  };
  enum class Next : uint8_t { kEnds, kGoesOn };  // whether a transfer stays in flight

  void check_request(const IoRequest& request) const;
  FaultKind draw_fault(Transfer& transfer);
  std::chrono::nanoseconds draw_duration(Transfer& transfer) const;
  void delay(Transfer& transfer);
  size_t first_due() const;
  void run_until(std::chrono::nanoseconds until, bool stop_at_completion);
  void finish(size_t i);
  Next move(Transfer& transfer, IoCompletion& completion);
  Next move_read(Transfer& transfer, IoCompletion& completion);
  Next move_write(Transfer& transfer, IoCompletion& completion);
  uint32_t first_part(Transfer& transfer, uint32_t bytes);
  void read_part(Transfer& transfer, uint64_t from, uint32_t end);
  bool extend(SimulatedMedium& file, uint64_t offset, uint64_t bytes);
  SimulatedMedium& file_of(const IoRequest& request) { return medium_of(request.file); }
  SimulatedMedium& medium_of(IoFile file) const;
  void count(FaultKind kind) { ++injected_[static_cast<size_t>(kind)]; }

  SimulatedDisk disk_;
  std::vector<std::shared_ptr<SimulatedMedium>> files_;
  std::vector<Transfer> running_;
  std::deque<IoCompletion> ended_;  // not returned yet
  std::map<uint64_t, FaultKind> scripted_;
  std::array<uint64_t, kFaultKinds> injected_{};
  std::vector<WrongRead> wrong_reads_;
  uint64_t n_wrong_reads_ = 0;
  uint64_t n_submitted_ = 0;
  uint64_t used_bytes_ = 0;
  std::chrono::nanoseconds now_{0};
};

}  // namespace strata::tiers
