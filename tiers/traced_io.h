// tiers/traced_io.h - an Io whose transfers and waits are recorded. Why: what reads weights asks a
// back end itself, without the queue that records transfers of K and V (tiers/transfer_queue.h).
#pragma once

#include <memory>
#include <vector>

#include "base/trace.h"
#include "tiers/io.h"

namespace strata::tiers {

/// Hands everything on to another Io. Records each transfer from its submission until its
/// completion is taken, and each wait() that may wait for as long as it took, by Io::now(). Steps
/// allocate nothing.
class TracedIo final : public Io {
 public:
  /// Transfer k of those in flight at a time is recorded with index first_index + k. `trace`
  /// outlives this.
  TracedIo(std::unique_ptr<Io> io, Trace& trace, Resource resource, uint32_t first_index);

  std::string_view name() const override { return io_->name(); }
  uint32_t depth() const override { return io_->depth(); }
  uint64_t prepare_memory(std::span<std::byte> memory) override {
    return io_->prepare_memory(memory);
  }
  IoFile add_file(const File& file) override { return io_->add_file(file); }
  void remove_file(IoFile file) override { io_->remove_file(file); }
  uint32_t alignment(IoFile file) const override { return io_->alignment(file); }
  uint32_t submit(std::span<const IoRequest> requests) override;
  uint32_t wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) override;
  uint32_t in_flight() const override { return io_->in_flight(); }
  std::chrono::nanoseconds now() const override { return io_->now(); }

 private:
  struct Flight {
    IoRequest request;
    std::chrono::nanoseconds submitted{};
    bool is_free = true;
  };
  void record(const IoCompletion& completion, std::chrono::nanoseconds now);

  std::unique_ptr<Io> io_;
  Trace& trace_;
  Resource resource_;
  uint32_t first_index_;
  std::vector<Flight> flights_;
};

}  // namespace strata::tiers
