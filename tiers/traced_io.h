// tiers/traced_io.h - an Io whose transfers and waits are recorded. Why: what reads weights asks a
// back end itself, without the queue that records transfers of K and V (tiers/transfer_queue.h).
#pragma once

#include <memory>
#include <vector>

#include "base/trace.h"
#include "tiers/wrapped_io.h"

namespace strata::tiers {

/// Hands everything on to another Io. Records each transfer from its submission until its
/// completion is taken, and each wait() that may wait for as long as it took, by Io::now(). Steps
/// allocate nothing.
class TracedIo final : public WrappedIo {
 public:
  /// Transfer k of those in flight at a time is recorded with index first_index + k. `trace`
  /// outlives this.
  TracedIo(std::unique_ptr<Io> io, Trace& trace, Resource resource, uint32_t first_index);

  uint32_t submit(std::span<const IoRequest> requests) override;
  uint32_t wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) override;

 private:
  struct Flight {
    IoRequest request;
    std::chrono::nanoseconds submitted{};
    bool is_free = true;
  };
  void record(const IoCompletion& completion, std::chrono::nanoseconds now);

  Trace& trace_;
  Resource resource_;
  uint32_t first_index_;
  std::vector<Flight> flights_;
};

}  // namespace strata::tiers
