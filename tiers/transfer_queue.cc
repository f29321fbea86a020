#include "tiers/transfer_queue.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/check.h"
#include "base/error.h"
#include "tiers/poison.h"

namespace strata::tiers {
namespace {

constexpr uint64_t kFrameAlignment = 4096;
constexpr std::chrono::milliseconds kLook{100};  // at the flag that ends a wait

/// A completion names its frame and which of the frame's fills it belongs to.
uint64_t operation_id(FrameRef ref) { return uint64_t{ref.generation} << 32 | ref.frame; }
FrameRef ref_of(uint64_t id) {
  return {static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32)};
}

}  // namespace

TransferCounts& TransferCounts::operator+=(const TransferCounts& more) {
  reads += more.reads;
  writes += more.writes;
  read_bytes += more.read_bytes;
  written_bytes += more.written_bytes;
  requests += more.requests;
  failed += more.failed;
  failed_write_requests += more.failed_write_requests;
  stalls += more.stalls;
  stall_us += more.stall_us;
  return *this;
}

TransferQueue::TransferQueue(std::unique_ptr<Io> io, const TransferOptions& options)
    : options_(options),
      io_(std::move(io)),
      states_(options.n_frames),
      lent_states_(options.n_lent, options.n_frames) {
  STRATA_CHECK(options.n_frames > 0 && options.frame_bytes > 0 &&
                   options.frame_bytes % kFrameAlignment == 0 && options.frame_bytes <= UINT32_MAX,
               "%u frames of %lu bytes", options.n_frames,
               static_cast<unsigned long>(options.frame_bytes));
  STRATA_CHECK(options.deadline.count() > 0, "a deadline of %lld us",
               static_cast<long long>(options.deadline.count()));
  memory_ = HostMemory::reserve(options.frame_bytes * options.n_frames);
  if (options.prepares_frames) io_->prepare_memory({memory_.data(), memory_.size()});
  operations_.resize(n_operations());
  queue_.reserve(n_operations());
  given_up_.reserve(options.n_lent);
}

TransferQueue::~TransferQueue() {
  if (io_->in_flight() > 0) memory_.abandon();
}

std::byte* TransferQueue::address(uint32_t frame) const {
  return memory_.data() + frame * options_.frame_bytes;
}

TransferQueue::Operation& TransferQueue::operation_of(FrameRef ref) {
  const uint32_t generation = states(ref.frame).generation(ref.frame);
  STRATA_CHECK(generation == ref.generation, "frame %u is at fill %u, the right is of fill %u",
               ref.frame, generation, ref.generation);
  return operations_[ref.frame];
}

const TransferQueue::Operation& TransferQueue::operation_of(FrameRef ref) const {
  return const_cast<TransferQueue*>(this)->operation_of(ref);
}

/// Whether it waits for a device or is at one.
bool TransferQueue::is_running(uint32_t frame) const {
  const Operation& operation = operations_[frame];
  const bool is_hung = states(frame).state(frame) == SlotState::kQuarantined && !operation.is_late;
  return operation.stage == Stage::kQueued || operation.stage == Stage::kInFlight || is_hung;
}

bool TransferQueue::is_in_use(IoFile file) const {
  for (uint32_t frame = 0; frame < n_operations(); ++frame)
    if (is_running(frame) && operations_[frame].request.file == file) return true;
  return false;
}

bool TransferQueue::has_lent_memory() const {
  for (uint32_t frame = options_.n_frames; frame < n_operations(); ++frame)
    if (is_running(frame)) return true;
  return false;
}

bool TransferQueue::has_dropped_lent() const {
  for (uint32_t frame = options_.n_frames; frame < n_operations(); ++frame) {
    const Operation& operation = operations_[frame];
    if (operation.stage == Stage::kInFlight && !operation.has_ticket) return true;
  }
  return false;
}

void TransferQueue::remove_file(IoFile file) {
  STRATA_CHECK(!is_in_use(file), "file %u is in use", static_cast<uint32_t>(file));
  io_->remove_file(file);
}

std::optional<Ticket> TransferQueue::read(IoFile file, uint64_t offset, uint32_t bytes, Start when,
                                          uint32_t layer) {
  STRATA_CHECK(bytes > 0 && bytes <= options_.frame_bytes, "%u bytes into a frame of %lu", bytes,
               static_cast<unsigned long>(options_.frame_bytes));
  if (states_.n_free() == 0) return std::nullopt;
  const uint32_t frame = states_.begin_fill_near(frame_behind_last(IoOp::kRead, file, offset));
  const FrameRef ref{frame, states_.generation(frame)};
  poison({address(frame), bytes});
  return start(ref, {IoOp::kRead, file, offset, address(frame), bytes, operation_id(ref)}, when,
               layer);
}

std::optional<Ticket> TransferQueue::read_to(std::span<std::byte> memory, IoFile file,
                                             uint64_t offset, Start when, uint32_t layer) {
  STRATA_CHECK(!memory.empty() && memory.size() <= UINT32_MAX, "%zu bytes", memory.size());
  if (lent_states_.n_free() == 0) return std::nullopt;
  const uint32_t frame = lent_states_.begin_fill();
  const FrameRef ref{frame, lent_states_.generation(frame)};
  const auto bytes = static_cast<uint32_t>(memory.size());
  return start(ref, {IoOp::kRead, file, offset, memory.data(), bytes, operation_id(ref)}, when,
               layer);
}

std::span<std::byte> TransferQueue::take_back() {
  if (given_up_.empty()) return {};
  const uint32_t frame = given_up_.back();
  given_up_.pop_back();
  if (lent_states_.state(frame) == SlotState::kQuarantined) {
    lent_states_.given_back(frame);
  } else {
    lent_states_.abandon_fill(frame);
  }
  const IoRequest& request = operations_[frame].request;
  return {request.memory, request.bytes};
}

std::optional<FillLease> TransferQueue::take_frame() {
  if (states_.n_free() == 0) return std::nullopt;
  return lease_of(states_.begin_fill());
}

FillLease TransferQueue::lease_of(uint32_t frame) {
  operations_[frame] = {};
  return FillLease(*this, {frame, states_.generation(frame)},
                   {address(frame), options_.frame_bytes});
}

Ticket TransferQueue::write(FillLease&& lease, IoFile file, uint64_t offset, uint32_t bytes,
                            Start when, uint32_t layer) {
  STRATA_CHECK(lease.owner_ == this && bytes > 0 && bytes <= options_.frame_bytes,
               "%u bytes of a frame of %lu", bytes,
               static_cast<unsigned long>(options_.frame_bytes));
  const FrameRef ref = lease.release();
  states_.begin_evict(ref.frame);
  return start(ref, {IoOp::kWrite, file, offset, address(ref.frame), bytes, operation_id(ref)},
               when, layer);
}

Ticket TransferQueue::start(FrameRef ref, const IoRequest& request, Start when, uint32_t layer) {
  operations_[ref.frame] = {.request = request,
                            .stage = Stage::kQueued,
                            .has_ticket = true,
                            .layer = layer,
                            .status = IoStatus::kOk,
                            .started = io_->now()};
  queue_.push_back(ref.frame);
  if (when == Start::kNow) submit_queued();
  return Ticket(*this, ref);
}

/// Of a transfer that was submitted.
void TransferQueue::record(uint32_t frame) const {
  const Operation& operation = operations_[frame];
  const bool is_read = operation.request.op == IoOp::kRead;
  trace_->add({.kind = is_read ? TraceKind::kRead : TraceKind::kWrite,
               .is_ok = operation.status == IoStatus::kOk,
               .resource = Resource::kKvDisk,
               .index = trace_first_index_ + frame,
               .name = is_read ? "read" : "write",
               .begin = operation.started,
               .end = io_->now(),
               .bytes = operation.request.bytes,
               .detail = operation.request.offset,
               .layer = operation.layer});
}

void TransferQueue::end(uint32_t frame, IoStatus status) {
  Operation& operation = operations_[frame];
  const bool was_queued = operation.stage == Stage::kQueued;
  ++n_ended_;
  operation.stage = Stage::kDone;
  operation.status = status;
  if (trace_ != nullptr && !was_queued) record(frame);
  if (status != IoStatus::kOk) {
    ++counts_.failed;
    const bool is_request =
        operation.request.op == IoOp::kWrite && !operation.is_behind && !was_queued;
    if (is_request) ++counts_.failed_write_requests;
  } else if (operation.request.op == IoOp::kRead) {
    ++counts_.reads;
    counts_.read_bytes += operation.request.bytes;
  } else {
    ++counts_.writes;
    counts_.written_bytes += operation.request.bytes;
  }
  if (!operation.has_ticket) free_done(frame);
}

/// Frees the frame of an ended transfer that nobody wants any more. Lent memory is given up: who
/// has lent it takes it back.
void TransferQueue::free_done(uint32_t frame) {
  operations_[frame].stage = Stage::kNone;
  const SlotState state = states(frame).state(frame);
  if (state == SlotState::kQuarantined && !operations_[frame].is_late) return;
  if (is_lent(frame)) return given_up_.push_back(frame);
  switch (state) {
    case SlotState::kFilling:
      return states_.abandon_fill(frame);
    case SlotState::kEvicting:
      return states_.evicted(frame);
    case SlotState::kQuarantined:
      return states_.given_back(frame);
    case SlotState::kFree:
    case SlotState::kResident:
      STRATA_CHECK(false, "a transfer ended in frame %u, which is %s", frame,
                   std::string(slot_state_name(state)).c_str());
  }
}

/// Of a request: all of its transfers end alike. What of one is wrong where the others are right
/// is found by who reads it again alone.
void TransferQueue::complete(const IoCompletion& completion) {
  operation_of(ref_of(completion.id));  // no frame is filled anew while a device owns it
  n_silences_ = 0;
  for (uint32_t frame = ref_of(completion.id).frame; frame != kNone;) {
    const uint32_t next = std::exchange(operations_[frame].joined, kNone);
    complete_one(frame, completion.status);
    frame = next;
  }
}

void TransferQueue::complete_one(uint32_t frame, IoStatus status) {
  Operation& operation = operations_[frame];
  if (states(frame).state(frame) == SlotState::kQuarantined) {
    STRATA_CHECK(!operation.is_late, "frame %u: a second completion of one transfer", frame);
    operation.is_late = true;
    ++n_ended_;
    if (!operation.has_ticket) free_done(frame);
    return;
  }
  STRATA_CHECK(operation.stage == Stage::kInFlight, "frame %u: a completion of nothing in flight",
               frame);
  end(frame, status);
}

/// A whole deadline from `begin` on has passed. What began beside another is of the same silence.
void TransferQueue::count_silence(std::chrono::nanoseconds begin) {
  if (begin < silent_until_) return;
  ++n_silences_;
  silent_until_ = io_->now();
}

/// Gives a transfer up: the status goes to whoever holds the ticket, the frame to quarantine where
/// a device owns it.
void TransferQueue::time_out(uint32_t frame) {
  count_silence(operations_[frame].started);
  const bool is_queued = operations_[frame].stage == Stage::kQueued;
  if (is_queued) std::erase(queue_, frame);
  if (!is_queued) states(frame).quarantine(frame);
  end(frame, IoStatus::kTimedOut);
}

/// The device answers: what waits for room at it is not what it is slow at.
void TransferQueue::restart_queued() {
  const auto now = io_->now();
  for (const uint32_t frame : queue_) operations_[frame].started = now;
}

void TransferQueue::collect(std::chrono::microseconds timeout) {
  std::array<IoCompletion, kBatch> completions;
  for (;;) {
    const uint32_t n = io_->wait(completions, timeout);
    for (uint32_t i = 0; i < n; ++i) complete(completions[i]);
    if (n > 0) restart_queued();
    if (n < kBatch) break;
    timeout = {};
  }
  submit_queued();  // first: what only waited for room has not been given a chance yet
  expire();
}

/// Gives up the transfers that are past their deadline. Looks at all of them, but only when the
/// earliest deadline has passed.
void TransferQueue::expire() {
  const auto now = io_->now();
  if (now < next_expiry_) return;
  next_expiry_ = now + options_.deadline;
  for (uint32_t frame = 0; frame < n_operations(); ++frame) {
    const Operation& operation = operations_[frame];
    if (operation.stage != Stage::kQueued && operation.stage != Stage::kInFlight) continue;
    const auto deadline = operation.started + options_.deadline;
    if (deadline <= now) {
      time_out(frame);
    } else {
      next_expiry_ = std::min<std::chrono::nanoseconds>(next_expiry_, deadline);
    }
  }
}

void TransferQueue::poll() { collect({}); }

bool TransferQueue::is_done(const Ticket& ticket) const {
  STRATA_CHECK(ticket.owner_ == this, "a ticket that was taken, or of another queue");
  return operation_of(ticket.ref_).stage == Stage::kDone;
}

void TransferQueue::count_stall(const char* what, std::chrono::nanoseconds since) {
  const auto now = io_->now();
  ++counts_.stalls;
  counts_.stall_us += static_cast<uint64_t>((now - since) / std::chrono::microseconds(1));
  if (trace_ != nullptr)
    trace_->add({.kind = TraceKind::kWait,
                 .resource = Resource::kKvDisk,
                 .name = what,
                 .begin = since,
                 .end = now});
}

/// One look at what has ended, at most until then. Errors: kCancelled.
void TransferQueue::wait_until(std::chrono::nanoseconds now, std::chrono::nanoseconds until) {
  if (cancel_ != nullptr) {
    if (cancel_->load(std::memory_order_relaxed))
      throw Error(ErrorCode::kCancelled, "waiting for the disk was stopped");
    until = std::min<std::chrono::nanoseconds>(until, now + kLook);
  }
  collect(std::chrono::ceil<std::chrono::microseconds>(until - now));
}

bool TransferQueue::wait_any() {
  const uint64_t n_before = n_ended_;
  poll();
  if (n_ended_ > n_before) return true;
  if (io_->in_flight() == 0) return false;
  const auto start = io_->now();
  const auto until = start + options_.deadline;
  for (auto now = start; n_ended_ == n_before && now < until; now = io_->now())
    wait_until(now, std::min<std::chrono::nanoseconds>(until, next_expiry_));
  count_stall("wait for any transfer", start);
  if (n_ended_ == n_before) count_silence(start);
  return n_ended_ > n_before;
}

void TransferQueue::wait_for(FrameRef ref) {
  const Operation& operation = operation_of(ref);
  const auto is_running = [&] {
    return operation.stage == Stage::kQueued || operation.stage == Stage::kInFlight;
  };
  if (is_running()) poll();
  if (!is_running()) return;
  const auto start = io_->now();
  while (is_running()) {
    const auto now = io_->now();
    const auto deadline = operation.started + options_.deadline;  // which is later once it begins
    if (now >= deadline) {
      time_out(ref.frame);
      break;
    }
    wait_until(now, deadline);
  }
  count_stall(operation.request.op == IoOp::kRead ? "wait for a read" : "wait for a write", start);
}

/// Waits for the transfer, whose status it returns and whose ticket is given up.
IoStatus TransferQueue::finish_ticket(Ticket&& ticket) {
  wait_for(ticket.ref_);
  const FrameRef ref = ticket.release();
  Operation& operation = operation_of(ref);
  operation.has_ticket = false;
  const IoStatus status = operation.status;
  const bool is_read = operation.request.op == IoOp::kRead;
  if (status != IoStatus::kOk || !is_read) {
    free_done(ref.frame);
    return status;
  }
  operation.stage = Stage::kNone;
  states(ref.frame).filled(ref.frame);
  return status;
}

IoStatus TransferQueue::take_read(Ticket&& ticket, ReadLease& lease) {
  STRATA_CHECK(ticket.owner_ == this && !lease.is_held(),
               "a ticket taken twice or of another queue, or a held lease");
  const FrameRef ref = ticket.ref_;
  const IoRequest& request = operation_of(ref).request;
  STRATA_CHECK(request.op == IoOp::kRead, "the ticket of a write");
  STRATA_CHECK(!is_lent(ref.frame), "the ticket of lent memory");
  const IoStatus status = finish_ticket(std::move(ticket));
  if (status == IoStatus::kOk) lease = ReadLease(*this, ref, {address(ref.frame), request.bytes});
  return status;
}

IoStatus TransferQueue::take_lent(Ticket&& ticket) {
  STRATA_CHECK(ticket.owner_ == this, "a ticket taken twice, or of another queue");
  const uint32_t frame = ticket.ref_.frame;
  STRATA_CHECK(is_lent(frame), "the ticket of a frame");
  const IoStatus status = finish_ticket(std::move(ticket));
  if (status == IoStatus::kOk) lent_states_.remove_reader(frame);
  return status;
}

IoStatus TransferQueue::take_write(Ticket&& ticket) {
  STRATA_CHECK(ticket.owner_ == this, "a ticket taken twice, or of another queue");
  STRATA_CHECK(operation_of(ticket.ref_).request.op == IoOp::kWrite, "the ticket of a read");
  return finish_ticket(std::move(ticket));
}

/// A read that no device has yet is no read: it would take the disk from those that are wanted. A
/// write is wanted by whoever reads its place later.
void TransferQueue::drop_ticket(FrameRef ref) noexcept {
  Operation& operation = operation_of(ref);
  operation.has_ticket = false;
  const bool is_unread = operation.stage == Stage::kQueued && operation.request.op == IoOp::kRead;
  if (is_unread) std::erase(queue_, ref.frame);
  if (is_unread || operation.stage == Stage::kDone) free_done(ref.frame);
}

namespace detail {

void give_right_back(TransferQueue& owner, FrameRef ref, RightKind kind) noexcept {
  owner.operation_of(ref);
  switch (kind) {
    case RightKind::kTicket:
      return owner.drop_ticket(ref);
    case RightKind::kRead:
      owner.states_.remove_reader(ref.frame);
      if (owner.states_.state(ref.frame) == SlotState::kFree)
        poison({owner.address(ref.frame), owner.options_.frame_bytes});
      return;
    case RightKind::kFill:
      return owner.states_.abandon_fill(ref.frame);
  }
}

}  // namespace detail

}  // namespace strata::tiers
