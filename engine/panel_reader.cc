#include "engine/panel_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "base/seconds_since.h"
#include "tiers/open_io.h"
#include "tiers/poison.h"

namespace strata::engine {
namespace {

constexpr uint32_t kPiecesPerThread = 4;  // of what has arrived: evens out a slower core

using Clock = std::chrono::steady_clock;

/// Opens a shard anew by its descriptor: the path may name another file by now.
tiers::File open_shard(int descriptor) {
  const std::string path = fmt::format("/proc/self/fd/{}", descriptor);
  tiers::File file = tiers::File::open_for_reading(path, true);
  if (file.alignment() <= kReadAlignment) return file;
  return tiers::File::open_for_reading(path, false);
}

}  // namespace

uint64_t read_buffer_bytes(uint64_t read_bytes) {
  return round_up(read_bytes, kReadAlignment) + kReadAlignment;
}

std::unique_ptr<tiers::Io> make_weight_io(uint32_t depth) {
  std::string notice;  // WeightReadCounts::back_end says which one it became
  return tiers::open_io(tiers::IoChoice::kAuto, depth, notice);
}

PanelReader::PanelReader(const GgufFile& file, const MakeIo& make_io, uint32_t n_buffers,
                         uint64_t buffer_bytes)
    : file_(file),
      memory_(HostMemory::reserve(n_buffers * buffer_bytes)),
      io_((make_io ? make_io : MakeIo(make_weight_io))(reads_in_flight(n_buffers))) {
  STRATA_CHECK(n_buffers > 0 && buffer_bytes % kReadAlignment == 0, "%u buffers of %lu", n_buffers,
               static_cast<unsigned long>(buffer_bytes));
  files_.reserve(file.n_shards());
  for (uint32_t shard = 0; shard < file.n_shards(); ++shard) {
    files_.push_back(open_shard(file.shard(shard).descriptor));
    io_files_.push_back(io_->add_file(files_.back()));
  }
  io_->prepare_memory({memory_.data(), n_buffers * buffer_bytes});
  buffers_.resize(n_buffers);
  for (uint32_t idx = 0; idx < n_buffers; ++idx)
    buffers_[idx].memory = memory_.data() + idx * buffer_bytes;
  for (auto* list : {&free_, &arrived_}) list->reserve(n_buffers);
  for (uint32_t idx = n_buffers; idx > 0; --idx) free_.push_back(idx - 1);
  counts_.back_end = io_->name();
  queued_.reserve(n_buffers);
  completions_.resize(n_buffers);
}

PanelReader::~PanelReader() {
  if (io_->in_flight() > 0 && issuer_ == std::this_thread::get_id())
    io_->wait(completions_, std::chrono::microseconds(0));
  if (io_->in_flight() > 0 || n_lost_ > 0) memory_.abandon();
}

void PanelReader::start(const PanelRead& read, PackTarget& target) {
  STRATA_CHECK(can_start(), "%zu buffers are all in use", buffers_.size());
  const uint32_t idx = free_.back();
  free_.pop_back();
  Buffer& buffer = buffers_[idx];
  const uint64_t alignment = files_[read.shard].alignment();
  const uint64_t begin = read.file_offset / alignment * alignment;
  const uint64_t bytes = round_up(read.file_offset + read.file_bytes, alignment) - begin;
  buffer.read = &read;
  buffer.target = &target;
  buffer.skip_bytes = read.file_offset - begin;
  buffer.is_busy = true;
  tiers::poison({buffer.memory, bytes});
  queued_.push_back({.op = tiers::IoOp::kRead,
                     .file = io_files_[read.shard],
                     .offset = begin,
                     .memory = buffer.memory,
                     .bytes = static_cast<uint32_t>(bytes),
                     .id = idx});
  counts_.read_bytes += bytes;
}

void PanelReader::abandon(const PackTarget& target) {
  const auto is_of = [&](uint64_t idx) { return buffers_[idx].target == &target; };
  std::erase_if(queued_, [&](const tiers::IoRequest& request) {
    if (!is_of(request.id)) return false;
    counts_.read_bytes -= request.bytes;
    set_free(static_cast<uint32_t>(request.id));
    return true;
  });
  std::erase_if(arrived_, [&](uint32_t idx) {
    if (!is_of(idx)) return false;
    ++counts_.n_abandoned;
    set_free(idx);
    return true;
  });
  for (Buffer& buffer : buffers_)
    if (buffer.target == &target) buffer.target = nullptr;
}

void PanelReader::submit() {
  if (queued_.empty()) return;
  issuer_ = std::this_thread::get_id();
  const uint32_t n_taken = io_->submit(queued_);
  queued_.erase(queued_.begin(), queued_.begin() + n_taken);
}

void PanelReader::set_free(uint32_t buffer_idx) {
  buffers_[buffer_idx].is_busy = false;
  buffers_[buffer_idx].target = nullptr;
  free_.push_back(buffer_idx);
}

/// The range around a file's last read may end behind the file: the device then moves less than was
/// asked for, and all that is wanted.
void PanelReader::receive(const tiers::IoCompletion& completion) {
  using tiers::IoStatus;
  const auto idx = static_cast<uint32_t>(completion.id);
  Buffer& buffer = buffers_[idx];
  STRATA_CHECK(buffer.is_busy, "buffer %u has no read", idx);
  ++counts_.n_reads;
  const bool is_whole = completion.status == IoStatus::kOk ||
                        (completion.status == IoStatus::kEndedEarly &&
                         completion.bytes >= buffer.skip_bytes + buffer.read->file_bytes);
  if (buffer.target != nullptr && is_whole) return arrived_.push_back(idx);
  if (buffer.target == nullptr) {
    ++counts_.n_abandoned;
  } else if (buffer.target->failed == nullptr) {
    buffer.target->failed = buffer.read;
    buffer.target->failure = completion;
  }
  buffer.target = nullptr;
  if (completion.status == IoStatus::kTimedOut)
    ++n_lost_;  // the device may still write into it
  else
    set_free(idx);
}

/// Returns how many reads that is: of those that arrived, the ones whose target has memory.
uint32_t PanelReader::pack_arrived(ThreadPool& pool) {
  const auto waiting = std::ranges::partition(
      arrived_, [&](uint32_t idx) { return buffers_[idx].target->memory != nullptr; });
  const std::span ready(arrived_.begin(), waiting.begin());
  if (ready.empty()) return 0;
  const auto start = Clock::now();
  uint32_t n_panels = 0;
  for (const uint32_t idx : ready) n_panels += buffers_[idx].read->n_panels();
  const uint32_t grain = std::max<uint32_t>(1, n_panels / (pool.size() * kPiecesPerThread));
  pool.for_each(n_panels, grain, [&](uint64_t begin, uint64_t end, uint32_t) {
    uint64_t first = 0;  // of a run in the joined panels
    for (const uint32_t idx : ready) {
      const Buffer& buffer = buffers_[idx];
      const PanelRead& read = *buffer.read;
      const std::span<const std::byte> bytes(buffer.memory + buffer.skip_bytes, read.file_bytes);
      for (const PanelRun& run : read.runs) {
        const uint64_t last = first + run.n_panels();
        const uint64_t from = std::max(begin, first);
        const uint64_t to = std::min(end, last);
        if (from < to)
          pack_run(run, run.panel_begin + static_cast<uint32_t>(from - first),
                   run.panel_begin + static_cast<uint32_t>(to - first), read.rows_of(run, bytes),
                   buffer.target->memory);
        first = last;
      }
    }
  });
  for (const uint32_t idx : ready) {
    --buffers_[idx].target->n_missing;
    set_free(idx);
  }
  const auto n_packed = static_cast<uint32_t>(ready.size());
  arrived_.erase(arrived_.begin(), waiting.begin());
  counts_.pack_seconds += seconds_since(start);
  return n_packed;
}

uint32_t PanelReader::collect(ThreadPool& pool, std::chrono::microseconds timeout, bool is_needed) {
  submit();
  const uint32_t n_waited = pack_arrived(pool);
  if (n_waited > 0) timeout = std::chrono::microseconds(0);
  const auto start = Clock::now();
  const uint32_t n = io_->wait(completions_, timeout);
  if (is_needed && timeout.count() > 0) counts_.wait_seconds += seconds_since(start);
  for (uint32_t i = 0; i < n; ++i) receive(completions_[i]);
  submit();  // the disk works while what has come is packed
  pack_arrived(pool);
  return n_waited + n;
}

void PanelReader::fail(const PackTarget& target, std::chrono::milliseconds deadline) const {
  using tiers::IoStatus;
  if (target.failed != nullptr && target.failure.status == IoStatus::kEndedEarly)
    throw Error(ErrorCode::kIo,
                fmt::format("wanted {} bytes of weights, found the end of the file: it was cut "
                            "short after it was opened",
                            target.failed->file_bytes),
                read_place(file_, *target.failed),
                "do not change a model file while it is in use; start again");
  if (target.failed != nullptr)
    throw Error(ErrorCode::kIo,
                fmt::format("cannot read {} bytes of weights: {}", target.failed->file_bytes,
                            tiers::io_status_name(target.failure.status)),
                read_place(file_, *target.failed),
                std::string(tiers::io_status_cause(target.failure.status)));
  // The read that is missing, or one that keeps the buffer it would need.
  auto waiting = std::ranges::find_if(
      buffers_, [&](const Buffer& buffer) { return buffer.is_busy && buffer.target == &target; });
  if (waiting == buffers_.end()) waiting = std::ranges::find(buffers_, true, &Buffer::is_busy);
  throw Error(
      ErrorCode::kIo,
      fmt::format("the disk has not answered a read of weights for {:.1f} s",
                  std::chrono::duration<double>(deadline).count()),
      waiting != buffers_.end() ? read_place(file_, *waiting->read) : std::string(file_.path()),
      "check the disk that holds the model file");
}

}  // namespace strata::engine
