// planner/virtual/virtual_nvme.h - a disk in virtual time: slots of its queue, a latency, a rate
// that all requests share, and faults by a script. Why: an engine that reads ahead is judged by how
// it behaves behind a slow or failing read, and that must come again at will.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "planner/virtual/device_profile.h"
#include "planner/virtual/shared_flows.h"

namespace strata::planner {

enum class NvmeOutcome : uint8_t {
  kOk,
  kIoError,   // no byte came
  kShort,     // half of the bytes came
  kTryAgain,  // refused at once: the queue was full
};

/// What happens to one request; the first is number 0.
struct NvmeFault {
  uint64_t request = 0;
  NvmeOutcome outcome = NvmeOutcome::kOk;
  double late_us = 0;  // beyond the latency
};

/// Shares of requests.
struct NvmeFaultShares {
  double io_error = 0, short_read = 0, try_again = 0, late = 0;
  double late_us = 5000;
};
/// The script of the first n requests that a seed draws.
std::vector<NvmeFault> draw_nvme_faults(uint64_t seed, uint64_t n_requests,
                                        const NvmeFaultShares& shares);

class VirtualNvme {
 public:
  using Done = std::function<void(NvmeOutcome, uint64_t bytes)>;

  /// `script` in the order of requests.
  VirtualNvme(VirtualClock& clock, SharedFlows& flows, const DeviceProfile& profile,
              std::vector<NvmeFault> script);

  /// Reads into DRAM; `done` with what came of it. Requests beyond the queue's depth wait.
  void read(uint64_t bytes, Done done);

  uint64_t n_requests() const { return n_requests_; }

 private:
  struct Request {
    uint64_t bytes;
    NvmeFault fault;
    Done done;
  };
  void serve();
  void end(const Request& request);

  VirtualClock& clock_;
  SharedFlows& flows_;
  VirtualTime latency_;
  uint64_t depth_;
  std::vector<NvmeFault> script_;
  size_t next_fault_ = 0;
  uint64_t n_requests_ = 0;
  uint64_t n_running_ = 0;
  std::deque<Request> waiting_;
};

}  // namespace strata::planner
