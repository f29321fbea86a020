#include "tiers/simulated_io.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"
#include "tiers/file.h"
#include "tiers/poison.h"

namespace strata::tiers {
namespace {

using std::chrono::nanoseconds;

constexpr nanoseconds kNever = nanoseconds::max();
constexpr std::chrono::microseconds kLongestWait = std::chrono::hours(24 * 365);

uint32_t number(IoFile file) { return static_cast<uint32_t>(file); }

bool is_unread(std::span<const std::byte> memory) {
  return memory.empty() || (memory[0] == kPoisonByte &&
                            std::memcmp(memory.data(), memory.data() + 1, memory.size() - 1) == 0);
}

bool is_aligned(const IoRequest& request, uint32_t alignment) {
  const auto address = reinterpret_cast<uintptr_t>(request.memory);
  return (request.offset | request.bytes | address) % alignment == 0;
}

bool overlap(const IoRequest& a, const IoRequest& b) {
  return std::less<>{}(a.memory, b.memory + b.bytes) && std::less<>{}(b.memory, a.memory + a.bytes);
}

void end(IoCompletion& completion, IoStatus status, int error_number, uint32_t bytes) {
  completion.status = status;
  completion.error_number = error_number;
  completion.bytes = bytes;
}

}  // namespace

SimulatedIo::SimulatedIo(const SimulatedDisk& disk) : disk_(disk) {
  STRATA_CHECK(disk.depth > 0 && disk.depth <= kMaxIoDepth, "depth=%u", disk.depth);
  STRATA_CHECK(disk.alignment > 0 && (disk.alignment & (disk.alignment - 1)) == 0, "alignment=%u",
               disk.alignment);
  STRATA_CHECK(disk.bytes_per_s > 0, "bytes_per_s=0");
  STRATA_CHECK(disk.faults.bit_flips_max > 0, "bit_flips_max=0");
  STRATA_CHECK(disk.latency.count() >= 0 && disk.latency_spread.count() >= 0 &&
                   disk.stall.count() >= 0 && disk.look_time.count() > 0,
               "time runs backwards or stands still: look_time=%lld",
               static_cast<long long>(disk.look_time.count()));
  for (const IoOp op : {IoOp::kRead, IoOp::kWrite}) {
    const double rate = fault_rate(disk.faults, op);
    STRATA_CHECK(rate >= 0 && rate <= 1 + 1e-9, "the rates sum to %g", rate);
  }
  running_.reserve(disk.depth);
}

uint64_t SimulatedIo::prepare_memory(std::span<std::byte>) { return 0; }

IoFile SimulatedIo::add_file(const File& file) {
  files_.push_back(std::make_shared<SimulatedMedium>(file.alignment()));
  return static_cast<IoFile>(files_.size() - 1);
}

uint32_t SimulatedIo::alignment(IoFile file) const { return medium_of(file).alignment(); }

IoFile SimulatedIo::add_memory_file(uint64_t bytes) {
  files_.push_back(std::make_shared<SimulatedMedium>(disk_.alignment));
  STRATA_CHECK(extend(*files_.back(), 0, bytes), "a file of %llu bytes on a disk of %llu",
               static_cast<unsigned long long>(bytes),
               static_cast<unsigned long long>(disk_.capacity_bytes));
  return static_cast<IoFile>(files_.size() - 1);
}

void SimulatedIo::set_content(IoFile file, std::span<const std::byte> bytes) {
  SimulatedMedium& medium = medium_of(file);
  STRATA_CHECK(medium.size() == 0 && extend(medium, 0, bytes.size()), "%zu bytes in a file of %llu",
               bytes.size(), static_cast<unsigned long long>(medium.size()));
  medium.write(0, bytes);
}

IoFile SimulatedIo::add_file_of(const SimulatedIo& other, IoFile file) {
  STRATA_CHECK(number(file) < other.files_.size(), "file %u of %zu", number(file),
               other.files_.size());
  files_.push_back(other.files_[number(file)]);
  return static_cast<IoFile>(files_.size() - 1);
}

void SimulatedIo::check_request(const IoRequest& request) const {
  STRATA_CHECK(request.bytes > 0 && request.memory != nullptr, "bytes=%u memory=%p", request.bytes,
               static_cast<void*>(request.memory));
  STRATA_CHECK(number(request.file) < files_.size(), "file %u of %zu", number(request.file),
               files_.size());
  for (const Transfer& other : running_) {
    const bool both_write = request.op == IoOp::kWrite && other.request.op == IoOp::kWrite;
    STRATA_CHECK(both_write || !overlap(request, other.request),
                 "the memory of request %llu belongs to request %llu, which is in flight",
                 static_cast<unsigned long long>(request.id),
                 static_cast<unsigned long long>(other.request.id));
  }
}

FaultKind SimulatedIo::draw_fault(Transfer& transfer) {
  // Drawn even where it is not used, so that a scripted fault leaves every other draw as it was.
  const FaultKind drawn = fault_at(disk_.faults, transfer.request.op, transfer.draws.unit());
  if (transfer.sequence >= disk_.faults.device_gone_from) return FaultKind::kDeviceGone;
  const auto scripted = scripted_.find(transfer.sequence);
  if (scripted == scripted_.end()) return drawn;
  const FaultKind kind = scripted->second;
  scripted_.erase(scripted);
  STRATA_CHECK(fault_concerns(kind, transfer.request.op), "\"%s\" cannot happen to request %llu",
               std::string(fault_kind_name(kind)).c_str(),
               static_cast<unsigned long long>(transfer.sequence));
  return kind;
}

nanoseconds SimulatedIo::draw_duration(Transfer& transfer) const {
  const uint64_t spread = static_cast<uint64_t>(disk_.latency_spread.count());
  const uint64_t moving = uint64_t{transfer.request.bytes} * 1'000'000'000 / disk_.bytes_per_s;
  return disk_.latency + nanoseconds(moving + transfer.draws.below(spread + 1));
}

/// Counts at once: the other faults may turn out to be impossible, and count when they happen.
void SimulatedIo::delay(Transfer& transfer) {
  switch (transfer.fault) {
    case FaultKind::kStall:
    case FaultKind::kHangThenMove:
      transfer.due += disk_.stall;
      break;
    case FaultKind::kHang:
      transfer.due = kNever;
      break;
    default:
      return;
  }
  count(transfer.fault);
}

uint32_t SimulatedIo::submit(std::span<const IoRequest> requests) {
  const size_t n = std::min<size_t>(requests.size(), disk_.depth - in_flight());
  for (const IoRequest& request : requests.first(n)) {
    check_request(request);
    Transfer transfer;
    transfer.request = request;
    transfer.sequence = n_submitted_++;
    const uint64_t of_seed = SimulatedDraws(disk_.seed).next();
    transfer.draws = SimulatedDraws(of_seed ^ (transfer.sequence * 0xD1342543DE82EF95));
    transfer.fault = draw_fault(transfer);
    transfer.due = now_ + draw_duration(transfer);
    if (is_aligned(request, file_of(request).alignment())) delay(transfer);
    if (request.op == IoOp::kRead) std::fill_n(request.memory, request.bytes, kPoisonByte);
    running_.push_back(transfer);
  }
  return static_cast<uint32_t>(n);
}

size_t SimulatedIo::first_due() const {
  size_t first = running_.size();
  for (size_t i = 0; i < running_.size(); ++i) {
    if (running_[i].due == kNever) continue;
    if (first == running_.size() || running_[i].due < running_[first].due ||
        (running_[i].due == running_[first].due && running_[i].sequence < running_[first].sequence))
      first = i;
  }
  return first;
}

void SimulatedIo::run_until(nanoseconds until, bool stop_at_completion) {
  for (;;) {
    const size_t i = first_due();
    if (i == running_.size() || running_[i].due > until) break;
    // Everything that ends at this moment or before it has ended; what ends later has not.
    if (stop_at_completion && !ended_.empty() && running_[i].due > now_) return;
    now_ = std::max(now_, running_[i].due);
    finish(i);
  }
  if (stop_at_completion && !ended_.empty()) return;
  STRATA_CHECK(until != kNever, "waits for ever: none of %zu transfers will end", running_.size());
  now_ = until;
}

uint32_t SimulatedIo::wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) {
  if (in_flight() > 0 && !out.empty()) {
    nanoseconds until = kNever;  // the longest timeouts do not fit nanoseconds
    if (timeout <= kLongestWait) until = now_ + std::max<nanoseconds>(timeout, disk_.look_time);
    run_until(until, true);
  }
  uint32_t n = 0;
  for (; n < out.size() && !ended_.empty(); ++n) {
    out[n] = ended_.front();
    ended_.pop_front();
  }
  return n;
}

void SimulatedIo::advance(nanoseconds duration) {
  STRATA_CHECK(duration.count() >= 0 && duration <= kLongestWait, "advance by %lld ns",
               static_cast<long long>(duration.count()));
  run_until(now_ + duration, false);
}

uint32_t SimulatedIo::in_flight() const {
  return static_cast<uint32_t>(running_.size() + ended_.size());
}

void SimulatedIo::finish(size_t i) {
  Transfer& transfer = running_[i];
  IoCompletion completion;
  completion.id = transfer.request.id;
  if (move(transfer, completion) == Next::kGoesOn) return;
  if (transfer.is_wrong && completion.status == IoStatus::kOk) {
    const IoRequest& request = transfer.request;
    ++n_wrong_reads_;
    wrong_reads_.push_back(
        {request.id, request.file, request.offset, request.bytes, transfer.fault});
  }
  ended_.push_back(completion);
  std::swap(running_[i], running_.back());
  running_.pop_back();
}

SimulatedIo::Next SimulatedIo::move(Transfer& transfer, IoCompletion& completion) {
  const IoRequest& request = transfer.request;
  if (!is_aligned(request, file_of(request).alignment())) {
    end(completion, IoStatus::kMisaligned, EINVAL, 0);
    return Next::kEnds;
  }
  if (transfer.fault == FaultKind::kDeviceGone) {
    count(FaultKind::kDeviceGone);
    end(completion, IoStatus::kDeviceGone, ENODEV, 0);
    return Next::kEnds;
  }
  end(completion, IoStatus::kOk, 0, request.bytes);
  const Next next = request.op == IoOp::kWrite ? move_write(transfer, completion)
                                               : move_read(transfer, completion);
  if (next == Next::kGoesOn) return next;
  if (transfer.fault != FaultKind::kHangThenMove) return Next::kEnds;
  transfer.due = kNever;
  return Next::kGoesOn;
}

/// Of a transfer that is resumed: the bytes of a first part, whole units of the file's alignment,
/// or 0 where there are too few, or it was resumed already. The rest takes as long again.
uint32_t SimulatedIo::first_part(Transfer& transfer, uint32_t bytes) {
  const uint32_t unit = file_of(transfer.request).alignment();
  const uint32_t n_units = bytes / unit;
  if (transfer.moved > 0 || bytes < transfer.request.bytes || n_units < 2) return 0;
  count(transfer.fault);
  const auto n_first = static_cast<uint32_t>(1 + transfer.draws.below(n_units - 1));
  transfer.due = now_ + draw_duration(transfer);
  return n_first * unit;
}

void SimulatedIo::read_part(Transfer& transfer, uint64_t from, uint32_t end) {
  const IoRequest& request = transfer.request;
  const uint32_t begin = transfer.moved;
  if (end <= begin) return;
  const SimulatedMedium& file = file_of(request);
  const std::span<std::byte> memory(request.memory + begin, end - begin);
  file.read(from + begin, memory);
  if (transfer.fault == FaultKind::kBitFlip) {
    count(FaultKind::kBitFlip);
    const uint64_t n_flips = 1 + transfer.draws.below(disk_.faults.bit_flips_max);
    for (uint64_t i = 0; i < n_flips; ++i) {
      const uint64_t bit = transfer.draws.below(memory.size() * 8);
      memory[bit / 8] ^= std::byte{1} << (bit % 8);
    }
  }
  // Compared now: an honest disk too would have read this part at this moment.
  transfer.is_wrong |= !file.is_honest(request.offset + begin, memory);
  transfer.moved = end;
}

SimulatedIo::Next SimulatedIo::move_read(Transfer& transfer, IoCompletion& completion) {
  const IoRequest& request = transfer.request;
  const SimulatedMedium& file = file_of(request);
  STRATA_CHECK(is_unread({request.memory + transfer.moved, request.bytes - transfer.moved}),
               "the memory of request %llu was touched while a read owned it",
               static_cast<unsigned long long>(request.id));
  const uint64_t size = file.size();
  const uint64_t there = size <= request.offset ? 0 : size - request.offset;
  uint32_t arrives = static_cast<uint32_t>(std::min<uint64_t>(request.bytes, there));
  uint64_t from = request.offset;
  switch (transfer.fault) {
    case FaultKind::kShortRead: {
      const uint32_t first = first_part(transfer, arrives);
      if (first == 0) break;
      read_part(transfer, from, first);
      return Next::kGoesOn;
    }
    case FaultKind::kEndedEarly:
      count(FaultKind::kEndedEarly);
      arrives = std::min(arrives, static_cast<uint32_t>(transfer.draws.below(request.bytes)));
      break;
    case FaultKind::kReadError:
      count(FaultKind::kReadError);
      arrives =
          static_cast<uint32_t>(transfer.draws.below(arrives / SimulatedMedium::kSectorBytes + 1) *
                                SimulatedMedium::kSectorBytes);
      read_part(transfer, from, arrives);
      end(completion, IoStatus::kDeviceError, EIO, 0);
      return Next::kEnds;
    case FaultKind::kMisdirectedRead: {
      const auto other = file.other_place(from, request.bytes, transfer.draws);
      if (!other) break;
      count(FaultKind::kMisdirectedRead);
      from = *other;
      break;
    }
    default:
      break;
  }
  read_part(transfer, from, arrives);
  if (arrives < request.bytes) end(completion, IoStatus::kEndedEarly, 0, arrives);
  return Next::kEnds;
}

SimulatedIo::Next SimulatedIo::move_write(Transfer& transfer, IoCompletion& completion) {
  const IoRequest& request = transfer.request;
  const uint64_t offset = request.offset;
  const std::span<const std::byte> memory(request.memory, request.bytes);
  SimulatedMedium& file = file_of(request);
  if (transfer.fault == FaultKind::kNoSpace) count(FaultKind::kNoSpace);
  if (transfer.fault == FaultKind::kNoSpace || !extend(file, offset, request.bytes)) {
    end(completion, IoStatus::kNoSpace, ENOSPC, 0);
    return Next::kEnds;
  }
  switch (transfer.fault) {
    case FaultKind::kWriteError:
      count(FaultKind::kWriteError);
      file.write_in_part(offset, memory, transfer.draws);
      end(completion, IoStatus::kDeviceError, EIO, 0);
      return Next::kEnds;
    case FaultKind::kTornWrite:
      if (file.write_torn(offset, memory, transfer.draws)) count(FaultKind::kTornWrite);
      return Next::kEnds;
    case FaultKind::kLostWrite:
      count(FaultKind::kLostWrite);
      file.write_nowhere(offset, memory);
      return Next::kEnds;
    case FaultKind::kShortWrite: {
      const uint32_t first = first_part(transfer, request.bytes);
      if (first == 0) break;
      file.write(offset, memory.first(first));
      transfer.moved = first;
      return Next::kGoesOn;
    }
    case FaultKind::kMisdirectedWrite: {
      const auto place = file.other_place(offset, request.bytes, transfer.draws);
      if (place) count(FaultKind::kMisdirectedWrite);
      file.write_elsewhere(offset, place.value_or(offset), memory);
      return Next::kEnds;
    }
    default:
      break;
  }
  file.write(offset + transfer.moved, memory.subspan(transfer.moved));
  return Next::kEnds;
}

/// Makes room up to offset + bytes; false where the disk is full.
bool SimulatedIo::extend(SimulatedMedium& file, uint64_t offset, uint64_t bytes) {
  const auto end = checked_add(offset, bytes);
  if (!end) return false;
  if (*end <= file.size()) return true;
  const uint64_t growth = *end - file.size();
  if (growth > disk_.capacity_bytes - used_bytes_) return false;
  file.extend_to(*end);
  used_bytes_ += growth;
  return true;
}

SimulatedMedium& SimulatedIo::medium_of(IoFile file) const {
  STRATA_CHECK(number(file) < files_.size(), "file %u of %zu", number(file), files_.size());
  return *files_[number(file)];
}

void SimulatedIo::fail_nth(uint64_t k, FaultKind kind) {
  STRATA_CHECK(k >= n_submitted_, "request %llu was submitted already, as %llu were",
               static_cast<unsigned long long>(k), static_cast<unsigned long long>(n_submitted_));
  if (kind == FaultKind::kDeviceGone) {
    disk_.faults.device_gone_from = std::min(disk_.faults.device_gone_from, k);
  } else {
    scripted_[k] = kind;
  }
}

uint64_t SimulatedIo::injected(FaultKind kind) const {
  return injected_[static_cast<size_t>(kind)];
}

uint64_t SimulatedIo::injected_total() const {
  return std::accumulate(injected_.begin(), injected_.end(), uint64_t{0});
}

std::vector<WrongRead> SimulatedIo::take_wrong_reads() { return std::exchange(wrong_reads_, {}); }

std::span<std::byte> SimulatedIo::medium(IoFile file) { return medium_of(file).bytes(); }

}  // namespace strata::tiers
