#include "tiers/paced_io.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "base/check.h"
#include "tiers/transfer.h"

namespace strata::tiers {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;

/// The shortest wait that is no shorter than so long.
microseconds whole_microseconds(nanoseconds time) { return std::chrono::ceil<microseconds>(time); }

}  // namespace

RateLimit::RateLimit(uint64_t bytes_per_s) : ns_per_byte_(1e9 / static_cast<double>(bytes_per_s)) {
  STRATA_CHECK(bytes_per_s > 0, "a limit of nothing");
}

RateLimit::Time RateLimit::pass(uint64_t bytes, Time now) {
  const std::lock_guard lock(mutex_);
  free_at_ns_ = std::max(free_at_ns_, static_cast<double>((now - kSaved).count())) +
                ns_per_byte_ * static_cast<double>(bytes);
  return Time(static_cast<int64_t>(free_at_ns_));
}

PacedIo::PacedIo(std::unique_ptr<Io> io, std::shared_ptr<RateLimit> limit, Sleep sleep)
    : WrappedIo(std::move(io)), limit_(std::move(limit)), sleep_(std::move(sleep)) {
  STRATA_CHECK(limit_ != nullptr, "no limit");
  if (!sleep_) sleep_ = [](nanoseconds time) { std::this_thread::sleep_for(time); };
  const uint32_t n = depth();
  running_.resize(n);
  ended_.resize(n);
  for (uint32_t number = n; number > 0; --number) unused_.push_back(number - 1);
  held_.reserve(n);
  renamed_.reserve(n);
}

uint32_t PacedIo::submit(std::span<const IoRequest> requests) {
  const size_t n_room = depth() - in_flight();
  renamed_.clear();
  for (const IoRequest& request : requests.first(std::min(requests.size(), n_room))) {
    renamed_.push_back(request);
    renamed_.back().id = unused_[unused_.size() - renamed_.size()];
  }
  const uint32_t n_taken = io().submit(renamed_);
  const nanoseconds begin = now();
  for (uint32_t i = 0; i < n_taken; ++i) {
    unused_.pop_back();
    Held& of = running_[renamed_[i].id];
    of.completion.id = requests[i].id;
    of.due = renamed_[i].op == IoOp::kRead ? limit_->pass(renamed_[i].bytes, begin) : begin;
  }
  return n_taken;
}

/// Takes what the device has ended.
void PacedIo::collect(microseconds timeout) {
  const uint32_t n = io().wait(ended_, timeout);
  for (uint32_t i = 0; i < n; ++i) {
    const auto number = static_cast<uint32_t>(ended_[i].id);
    const Held& of = running_[number];
    held_.push_back({ended_[i], of.due});
    held_.back().completion.id = of.completion.id;
    unused_.push_back(number);
  }
}

uint32_t PacedIo::give(std::span<IoCompletion> out) {
  const nanoseconds at = now();
  uint32_t n = 0;
  std::erase_if(held_, [&](const Held& held) {
    if (n == out.size() || held.due > at) return false;
    out[n++] = held.completion;
    return true;
  });
  return n;
}

uint32_t PacedIo::wait(std::span<IoCompletion> out, microseconds timeout) {
  if (in_flight() == 0 || out.empty()) return 0;
  const nanoseconds until = now() + std::min(timeout, kMaxIoWait);
  for (;;) {
    collect(microseconds(0));
    if (const uint32_t n = give(out); n > 0) return n;
    const nanoseconds at = now();
    if (at >= until) return 0;
    nanoseconds next = until;
    for (const Held& held : held_) next = std::min(next, held.due);
    if (io().in_flight() > 0) {
      collect(whole_microseconds(std::max(next - at, nanoseconds(0))));
    } else if (next > at) {
      sleep_(next - at);
    }
  }
}

std::unique_ptr<Io> paced(std::unique_ptr<Io> io, const std::shared_ptr<RateLimit>& limit) {
  if (limit == nullptr) return io;
  return std::make_unique<PacedIo>(std::move(io), limit);
}

}  // namespace strata::tiers
