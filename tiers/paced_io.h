// tiers/paced_io.h - an Io whose reads come no faster than so many bytes per second.
// Why: what a slower disk would cost can be tried on this one, and a plan's price of reading can be
// held against it. Why here: K, V and weights all pass the one interface.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "tiers/wrapped_io.h"

namespace strata::tiers {

/// A token bucket: bytes pass one after the other at a rate. Threads: concurrent calls are fine, so
/// that several back ends share one disk.
class RateLimit {
 public:
  using Time = std::chrono::nanoseconds;
  /// What an idle bucket saves up: whoever waits wakes later than told, by about so much.
  static constexpr Time kSaved{100'000};

  /// bytes_per_s > 0.
  explicit RateLimit(uint64_t bytes_per_s);
  /// When the last of so many bytes, which begin at `now`, has passed.
  Time pass(uint64_t bytes, Time now);

 private:
  const double ns_per_byte_;
  std::mutex mutex_;
  double free_at_ns_ = 0;
};

/// Reads end when the device has ended them and their bytes have passed the limit, in the order of
/// both; until then they are in flight. Writes pass as they are. Allocates at construction only.
/// Threads: as any Io.
class PacedIo final : public WrappedIo {
 public:
  /// Lets so much time of io's clock pass while nothing is at the device.
  using Sleep = std::function<void(std::chrono::nanoseconds)>;

  PacedIo(std::unique_ptr<Io> io, std::shared_ptr<RateLimit> limit, Sleep sleep = {});

  uint32_t submit(std::span<const IoRequest> requests) override;
  uint32_t wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) override;
  uint32_t in_flight() const override {
    return io().in_flight() + static_cast<uint32_t>(held_.size());
  }

 private:
  struct Held {
    IoCompletion completion;
    std::chrono::nanoseconds due;
  };
  void collect(std::chrono::microseconds timeout);
  uint32_t give(std::span<IoCompletion> out);

  std::shared_ptr<RateLimit> limit_;
  Sleep sleep_;
  // Of what is at the device, by the number that it goes there under.
  std::vector<Held> running_;
  std::vector<uint32_t> unused_;     // numbers
  std::vector<Held> held_;           // ended, not due yet or not returned yet
  std::vector<IoRequest> renamed_;   // of one submit()
  std::vector<IoCompletion> ended_;  // of one collect()
};

/// `io` itself where there is no limit.
std::unique_ptr<Io> paced(std::unique_ptr<Io> io, const std::shared_ptr<RateLimit>& limit);

}  // namespace strata::tiers
