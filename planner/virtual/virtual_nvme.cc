#include "planner/virtual/virtual_nvme.h"

#include <random>

#include "base/check.h"

namespace strata::planner {
namespace {
constexpr uint64_t kNvmeLabel = 2;
}

std::vector<NvmeFault> draw_nvme_faults(uint64_t seed, uint64_t n_requests,
                                        const NvmeFaultShares& shares) {
  std::mt19937_64 random(seed);
  // The distributions of the standard library differ between libraries; this does not.
  const auto draw = [&random] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  std::vector<NvmeFault> script;
  for (uint64_t i = 0; i < n_requests; ++i) {
    const double kind = draw();
    const bool is_late = draw() < shares.late;
    NvmeFault fault{.request = i, .late_us = is_late ? shares.late_us : 0};
    const double short_from = shares.io_error;
    const double again_from = short_from + shares.short_read;
    if (kind < short_from)
      fault.outcome = NvmeOutcome::kIoError;
    else if (kind < again_from)
      fault.outcome = NvmeOutcome::kShort;
    else if (kind < again_from + shares.try_again)
      fault.outcome = NvmeOutcome::kTryAgain;
    if (is_late || fault.outcome != NvmeOutcome::kOk) script.push_back(fault);
  }
  return script;
}

VirtualNvme::VirtualNvme(VirtualClock& clock, SharedFlows& flows, const DeviceProfile& profile,
                         std::vector<NvmeFault> script)
    : clock_(clock),
      flows_(flows),
      latency_(from_us(profile.nvme_alpha_us.value)),
      depth_(static_cast<uint64_t>(profile.nvme_queue_depth.value)),
      script_(std::move(script)) {
  STRATA_CHECK(depth_ > 0, "a queue of no depth");
}

void VirtualNvme::read(uint64_t bytes, Done done) {
  const uint64_t number = n_requests_++;
  Request request{bytes, {.request = number}, std::move(done)};
  while (next_fault_ < script_.size() && script_[next_fault_].request < number) ++next_fault_;
  if (next_fault_ < script_.size() && script_[next_fault_].request == number)
    request.fault = script_[next_fault_];
  if (request.fault.outcome == NvmeOutcome::kTryAgain) {
    clock_.at(clock_.now(), kNvmeLabel,
              [call = std::move(request.done)] { call(NvmeOutcome::kTryAgain, 0); });
    return;
  }
  waiting_.push_back(std::move(request));
  serve();
}

void VirtualNvme::serve() {
  while (n_running_ < depth_ && !waiting_.empty()) {
    Request request = std::move(waiting_.front());
    waiting_.pop_front();
    ++n_running_;
    if (request.fault.outcome == NvmeOutcome::kIoError) request.bytes = 0;
    if (request.fault.outcome == NvmeOutcome::kShort) request.bytes /= 2;
    const VirtualTime start = clock_.now() + latency_ + from_us(request.fault.late_us);
    clock_.at(start, kNvmeLabel, [this, request = std::move(request)] {
      flows_.start(flow_over(request.bytes, Lane::kNvme, Lane::kDram),
                   [this, request] { end(request); });
    });
  }
}

void VirtualNvme::end(const Request& request) {
  --n_running_;
  serve();
  request.done(request.fault.outcome, request.bytes);
}

}  // namespace strata::planner
