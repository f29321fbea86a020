#include "tools/serve/queue_places.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/error.h"

namespace strata::serve {

void QueuePlaces::check_free(const std::string& asker) const {
  const uint64_t n_places = uint64_t{n_parallel_} + n_queued_max_;
  if (n_open_ >= n_places)
    throw Error(ErrorCode::kBusy,
                fmt::format("{} requests are at work and {} wait", n_parallel_, n_queued_max_), "",
                "try again later");
  const uint64_t n_free = n_places - n_open_;
  const uint64_t n_waiting = asker.empty() ? 0 : n_waiting_of(asker);
  if (n_waiting >= n_free)
    throw Error(ErrorCode::kBusy,
                fmt::format("{} requests of this key wait, and the {} places that are free are "
                            "for others",
                            n_waiting, n_free),
                "", "try again later");
}

/// Of those that have not begun, what finds no place at work once the engine looks.
uint64_t QueuePlaces::n_waiting_of(const std::string& asker) const {
  const auto of = n_not_begun_.find(asker);
  const uint64_t n_not_begun = of == n_not_begun_.end() ? 0 : of->second;
  const uint64_t n_idle = n_parallel_ - std::min<uint64_t>(n_parallel_, n_begun_);
  return n_not_begun - std::min(n_not_begun, n_idle);
}

void QueuePlaces::take(const std::string& asker) {
  ++n_not_begun_[asker];
  ++n_open_;
}

void QueuePlaces::leave_queue(const std::string& asker) {
  const auto of = n_not_begun_.find(asker);
  STRATA_CHECK(of != n_not_begun_.end(), "none of %zu askers' orders", n_not_begun_.size());
  if (--of->second == 0) n_not_begun_.erase(of);
}

void QueuePlaces::begin(const std::string& asker) {
  leave_queue(asker);
  ++n_begun_;
}

void QueuePlaces::end(const std::string& asker, bool has_begun) {
  STRATA_CHECK(n_open_ > 0 && (n_begun_ > 0 || !has_begun), "%llu open, %llu begun",
               static_cast<unsigned long long>(n_open_), static_cast<unsigned long long>(n_begun_));
  if (has_begun)
    --n_begun_;
  else
    leave_queue(asker);
  --n_open_;
}

}  // namespace strata::serve
