// tools/cli/calibrate_device.cc - a card's memory and its link.
#include <cstring>
#include <iterator>
#include <random>
#include <vector>

#include "base/error.h"
#include "base/host_memory.h"
#include "planner/rate_fit.h"
#include "tools/cli/calibrate.h"
#include "tools/cli/sample_statistics.h"

namespace strata::cli {
namespace {

constexpr uint64_t kSizes[] = {64u << 10, 256u << 10, 1u << 20, 4u << 20, 16u << 20};
constexpr uint64_t kLargest = kSizes[std::size(kSizes) - 1];
constexpr uint32_t kLinkPasses = 7;
constexpr double kMsPerS = 1e3;

class Link {
 public:
  explicit Link(const engine::OpenDevice& device)
      : from_(HostMemory::reserve(kLargest)),
        to_(HostMemory::reserve(kLargest)),
        pinned_from_(engine::PinnedMemory::pin(device, {from_.data(), from_.size()})),
        pinned_to_(engine::PinnedMemory::pin(device, {to_.data(), to_.size()})),
        there_(engine::DeviceBuffer::allocate(device, kLargest, "a copy to be timed")),
        stream_(engine::Stream::create(device)),
        begin_(engine::Event::create(device)),
        end_(engine::Event::create(device)) {
    std::mt19937_64 random(1);
    for (uint64_t& word : from_.as<uint64_t>(kLargest / sizeof(uint64_t))) word = random();
  }

  planner::RateCurve to_device() { return measure(there_.bytes(), from_.data()); }
  planner::RateCurve to_host() { return measure(to_.data(), there_.bytes()); }
  /// After both: what came back is what was sent.
  bool is_right() const { return std::memcmp(from_.data(), to_.data(), kLargest) == 0; }

 private:
  planner::RateCurve measure(std::byte* to, const std::byte* from) {
    std::vector<planner::TimeSample> samples;
    for (const uint64_t bytes : kSizes) {
      std::vector<double> seconds;
      for (uint32_t i = 0; i <= kLinkPasses; ++i) {
        stream_.record(begin_);
        stream_.copy(to, from, bytes);
        stream_.record(end_);
        stream_.wait();
        if (i > 0) seconds.push_back(double{end_.ms_since(begin_)} / kMsPerS);
      }
      samples.push_back({static_cast<double>(bytes), median(seconds)});
    }
    return planner::fit_rate(samples);
  }

  HostMemory from_, to_;
  engine::PinnedMemory pinned_from_, pinned_to_;
  engine::DeviceBuffer there_;
  engine::Stream stream_;
  engine::Event begin_, end_;
};

}  // namespace

planner::DeviceRates calibrate_link(const engine::OpenDevice& device) {
  planner::DeviceRates rates;
  rates.hbm_bytes = device.facts().memory_bytes;
  Link link(device);
  rates.host_to_device = link.to_device();
  rates.device_to_host = link.to_host();
  if (!link.is_right())
    throw Error(ErrorCode::kDeviceLost, "the device gave other bytes than were sent to it",
                device.name(), "look at the card and its slot, or use --device none");
  return rates;
}

}  // namespace strata::cli
