// tiers/transfer_requests.cc - what the transfer queue hands to its back end: small neighbours in a
// file, whose frames are neighbours too, as one request.
#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/checked_math.h"
#include "tiers/transfer_queue.h"

namespace strata::tiers {
namespace {

/// Whether `next` goes on where `request` ends, in the file and in memory.
bool goes_on(const IoRequest& request, const IoRequest& next) {
  return next.op == request.op && next.file == request.file &&
         next.offset == request.offset + request.bytes &&
         next.memory == request.memory + request.bytes;
}

}  // namespace

/// The frame in which a transfer goes on where the one that was queued last ends, if there is one.
uint32_t TransferQueue::frame_behind_last(IoOp op, IoFile file, uint64_t offset) const {
  if (options_.join_bytes == 0 || queue_.empty()) return kNone;
  const IoRequest& last = operations_[queue_.back()].request;
  const bool is_behind = last.op == op && last.file == file && last.offset + last.bytes == offset &&
                         last.bytes == options_.frame_bytes;
  return is_behind ? queue_.back() + 1 : kNone;
}

/// Writes of whole frames that are one request at most.
uint32_t TransferQueue::n_joined_max() const {
  if (options_.frame_bytes >= kSmallTransferBytes) return 1;
  return static_cast<uint32_t>(std::max<uint64_t>(1, options_.join_bytes / options_.frame_bytes));
}

/// Of n_run > 0 that follow each other, those of the first request: as many as of every other, so
/// that no small one is left behind large ones.
uint32_t TransferQueue::n_joined(uint32_t n_run) const {
  return static_cast<uint32_t>(div_up(n_run, div_up(n_run, n_joined_max())));
}

std::optional<FillLease> TransferQueue::take_frame_of_run(IoFile file, uint64_t offset,
                                                          uint32_t n_run) {
  STRATA_CHECK(n_run > 0, "%u writes", n_run);
  const uint32_t behind = frame_behind_last(IoOp::kWrite, file, offset);
  if (joins_writes() && behind < options_.n_frames && states_.state(behind) == SlotState::kFree)
    return lease_of(states_.begin_fill_near(behind));
  const uint32_t n_wanted = std::min(n_joined(n_run), options_.n_frames);
  if (n_wanted == 1) return take_frame();
  const SlotRun free = states_.longest_run(n_wanted);
  const bool is_coming = states_.longest_run(n_wanted, SlotState::kEvicting).n == n_wanted;
  if (free.n == 0 || (free.n < n_wanted && is_coming)) return std::nullopt;
  return lease_of(states_.begin_fill_near(free.first));
}

/// Where the request ends that begins at this place of the queue.
size_t TransferQueue::request_end(size_t begin) const {
  const bool is_write = operations_[queue_[begin]].request.op == IoOp::kWrite;
  uint64_t bytes = operations_[queue_[begin]].request.bytes;
  size_t end = begin + 1;
  for (; end < queue_.size(); ++end) {
    const IoRequest& next = operations_[queue_[end]].request;
    bytes += next.bytes;
    if (!goes_on(operations_[queue_[end - 1]].request, next)) break;
    if (!is_write && bytes > options_.join_bytes) break;
  }
  return is_write ? begin + n_joined(static_cast<uint32_t>(end - begin)) : end;
}

void TransferQueue::submit_queued() {
  std::array<IoRequest, kBatch> requests;
  std::array<size_t, kBatch> ends;  // of their transfers in the queue
  while (!queue_.empty()) {
    uint32_t n = 0;
    for (size_t i = 0; n < kBatch && i < queue_.size(); ++n) {
      requests[n] = operations_[queue_[i]].request;
      ends[n] = request_end(i);
      while (++i < ends[n]) requests[n].bytes += operations_[queue_[i]].request.bytes;
    }
    const auto submitting = io_->now();
    const uint32_t n_taken = io_->submit(std::span(requests).first(n));
    counts_.requests += n_taken;
    const size_t end_taken = n_taken == 0 ? 0 : ends[n_taken - 1];
    bool is_behind = false;
    for (uint32_t i = 0, request = 0; i < end_taken; ++i) {
      Operation& operation = operations_[queue_[i]];
      const bool is_last = i + 1 == ends[request];
      operation.stage = Stage::kInFlight;
      operation.is_behind = is_behind;
      operation.joined = is_last ? kNone : queue_[i + 1];
      operation.started = submitting;  // the deadline is the device's
      is_behind = !is_last;
      if (is_last) ++request;
    }
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<int64_t>(end_taken));
    if (n_taken < n) return;
  }
}

}  // namespace strata::tiers
