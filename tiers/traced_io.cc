#include "tiers/traced_io.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace strata::tiers {

TracedIo::TracedIo(std::unique_ptr<Io> io, Trace& trace, Resource resource, uint32_t first_index)
    : WrappedIo(std::move(io)),
      trace_(trace),
      resource_(resource),
      first_index_(first_index),
      flights_(depth()) {}

uint32_t TracedIo::submit(std::span<const IoRequest> requests) {
  const auto submitting = io().now();
  const uint32_t n_taken = io().submit(requests);
  auto flight = flights_.begin();
  for (const IoRequest& request : requests.first(n_taken)) {
    flight = std::find_if(flight, flights_.end(), [](const Flight& of) { return of.is_free; });
    STRATA_CHECK(flight != flights_.end(), "more than %zu transfers in flight", flights_.size());
    *flight = {request, submitting, false};
  }
  return n_taken;
}

void TracedIo::record(const IoCompletion& completion, std::chrono::nanoseconds now) {
  const auto flight = std::ranges::find_if(
      flights_, [&](const Flight& of) { return !of.is_free && of.request.id == completion.id; });
  STRATA_CHECK(flight != flights_.end(), "a completion of nothing in flight");
  flight->is_free = true;
  const bool is_read = flight->request.op == IoOp::kRead;
  // What ends at a file's end is whole for who asked for a page too many.
  const bool is_short = completion.status == IoStatus::kEndedEarly && completion.bytes > 0;
  trace_.add({.kind = is_read ? TraceKind::kRead : TraceKind::kWrite,
              .is_ok = completion.status == IoStatus::kOk || is_short,
              .resource = resource_,
              .index = first_index_ + static_cast<uint32_t>(flight - flights_.begin()),
              .name = is_read ? "read" : "write",
              .begin = flight->submitted,
              .end = now,
              .bytes = is_short ? completion.bytes : flight->request.bytes,
              .detail = flight->request.offset});
}

uint32_t TracedIo::wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) {
  const auto since = io().now();
  const uint32_t n = io().wait(out, timeout);
  const auto now = io().now();
  for (const IoCompletion& completion : out.first(n)) record(completion, now);
  if (timeout.count() > 0)
    trace_.add({.kind = TraceKind::kWait,
                .resource = resource_,
                .name = "wait for a transfer",
                .begin = since,
                .end = now});
  return n;
}

}  // namespace strata::tiers
