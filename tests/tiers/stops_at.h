// tests/tiers/stops_at.h - a flag that is set in the middle of a wait, at a stated time of a
// simulated disk.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "tiers/simulated_io.h"

namespace strata::tiers::testing {

class StopsAt final : public Io {
 public:
  explicit StopsAt(std::unique_ptr<SimulatedIo> disk) : disk_(std::move(disk)) {}
  void stop_at(std::chrono::nanoseconds when) { when_ = when; }
  std::atomic<bool>& flag() { return is_set_; }

  std::string_view name() const override { return disk_->name(); }
  uint32_t depth() const override { return disk_->depth(); }
  uint64_t prepare_memory(std::span<std::byte> memory) override {
    return disk_->prepare_memory(memory);
  }
  IoFile add_file(const File& of) override { return disk_->add_file(of); }
  uint32_t alignment(IoFile file) const override { return disk_->alignment(file); }
  uint32_t submit(std::span<const IoRequest> requests) override { return disk_->submit(requests); }
  uint32_t wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) override {
    const uint32_t n = disk_->wait(out, timeout);
    if (disk_->now() >= when_) is_set_ = true;
    return n;
  }
  uint32_t in_flight() const override { return disk_->in_flight(); }
  std::chrono::nanoseconds now() const override { return disk_->now(); }

 private:
  std::unique_ptr<SimulatedIo> disk_;
  std::chrono::nanoseconds when_ = std::chrono::nanoseconds::max();
  std::atomic<bool> is_set_ = false;
};

}  // namespace strata::tiers::testing
