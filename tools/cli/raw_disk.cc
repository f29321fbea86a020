#include "tools/cli/raw_disk.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "base/seconds_since.h"
#include "tools/cli/bench_fill.h"

namespace strata::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kMemoryBytes = uint64_t{RawDisk::kRequestsInFlight} * RawDisk::kRequestBytes;
constexpr std::chrono::milliseconds kLook{100};  // at the cancel flag, while the disk works
constexpr int kSilentLooksMax = 100;             // then the disk does not answer

uint64_t sum_of_words(std::span<const std::byte> bytes) {
  uint64_t sum = 0, word = 0;
  for (size_t at = 0; at + sizeof word <= bytes.size(); at += sizeof word) {
    std::memcpy(&word, bytes.data() + at, sizeof word);
    sum += word;
  }
  return sum;
}

}  // namespace

RawDisk::RawDisk(tiers::SpillFile file, std::unique_ptr<tiers::Io> io,
                 const std::atomic<bool>* cancel)
    : file_(std::move(file)),
      io_(std::move(io)),
      cancel_(cancel),
      io_file_(io_->add_file(file_.file())),
      memory_(HostMemory::reserve(kMemoryBytes)) {
  for (uint64_t& word : memory_.as<uint64_t>(kMemoryBytes / sizeof(uint64_t))) word = random_();
  io_->prepare_memory({memory_.data(), kMemoryBytes});
}

RawDisk::~RawDisk() {
  if (io_ != nullptr && io_->in_flight() > 0) memory_.abandon();
}

RawDisk RawDisk::make(const std::string& directory, uint64_t bytes, tiers::IoChoice io,
                      const std::atomic<bool>* cancel) {
  const uint64_t wanted = round_up(bytes, uint64_t{kRequestBytes});
  tiers::SpillFile file = tiers::SpillFile::create(directory, wanted, kRequestBytes);
  uint64_t taken = 0;
  for (auto place = file.take(); place; place = file.take()) {
    STRATA_CHECK(*place == taken, "the place at %lu follows %lu",
                 static_cast<unsigned long>(*place), static_cast<unsigned long>(taken));
    taken += kRequestBytes;
    check_bench_cancelled(cancel);
  }
  std::string notice;  // the engines' spill files say the same
  auto back_end = tiers::open_io(io, kDepth, notice);
  RawDisk disk(std::move(file), std::move(back_end), cancel);
  disk.bytes_ = wanted;
  return disk;
}

void RawDisk::stamp(std::span<std::byte> memory, uint64_t offset) const {
  for (uint64_t at = 0; at < memory.size(); at += kPageBytes) {
    const uint64_t place = offset + at;
    std::memcpy(memory.data() + at, &place, sizeof place);
  }
}

void RawDisk::check(const tiers::IoCompletion& done, std::span<const uint64_t> offsets,
                    const std::byte* memory) const {
  if (done.status != tiers::IoStatus::kOk)
    throw Error(ErrorCode::kIo,
                "the test file could not be read or written: " +
                    std::string(tiers::io_status_cause(done.status)),
                file_.file().name(), "look at the disk (dmesg), or name another one with --nvme");
  uint64_t found = 0;
  std::memcpy(&found, memory, sizeof found);
  // Of a request that begins inside a page, the page's stamp lies before it.
  if (offsets[done.id] % kPageBytes != 0 || found == offsets[done.id]) return;
  throw Error(ErrorCode::kIo,
              "the disk gave other bytes than were written, at offset " +
                  std::to_string(offsets[done.id]) + " of the test file",
              file_.file().name(), "trust nothing on this disk before it is checked");
}

double RawDisk::transfer(tiers::IoOp op, std::span<const uint64_t> offsets, uint32_t request_bytes,
                         uint32_t depth) {
  const uint64_t n_slots =
      std::min<uint64_t>({depth, io_->depth(), kMemoryBytes / round_up(request_bytes, kPageBytes)});
  const uint64_t slot_bytes = kMemoryBytes / n_slots / kPageBytes * kPageBytes;
  std::vector<uint32_t> free_slots(n_slots);
  std::iota(free_slots.begin(), free_slots.end(), 0u);
  std::vector<uint32_t> slot_of(offsets.size());
  std::vector<tiers::IoRequest> ready;
  std::vector<tiers::IoCompletion> done(n_slots);
  const bool looks = looks_ && op == tiers::IoOp::kRead && n_slots > 1;
  int n_silent = 0;
  const auto start = Clock::now();
  for (size_t next = 0, ended = 0; ended < offsets.size();) {
    for (ready.clear(); next < offsets.size() && !free_slots.empty(); ++next) {
      slot_of[next] = free_slots.back();
      free_slots.pop_back();
      std::byte* memory = memory_.data() + slot_of[next] * slot_bytes;
      if (op == tiers::IoOp::kWrite) stamp({memory, request_bytes}, offsets[next]);
      ready.push_back({op, io_file_, offsets[next], memory, request_bytes, next});
    }
    const uint32_t n_started = io_->submit(ready);
    STRATA_CHECK(n_started == ready.size(), "%u of %zu started", n_started, ready.size());
    const uint32_t n = io_->wait(done, kLook);
    check_bench_cancelled(cancel_);
    n_silent = n > 0 ? 0 : n_silent + 1;
    if (n_silent == kSilentLooksMax)
      throw Error(ErrorCode::kIo, "the disk does not answer", file_.file().name(),
                  "look at the disk (dmesg), or name another one with --nvme");
    for (const tiers::IoCompletion& of : std::span(done).first(n)) {
      const std::byte* memory = memory_.data() + slot_of[of.id] * slot_bytes;
      check(of, offsets, memory);
      if (looks) looked_at_ += sum_of_words({memory, request_bytes});
      free_slots.push_back(slot_of[of.id]);
    }
    ended += n;
  }
  return seconds_since(start);
}

std::vector<uint64_t> RawDisk::in_order() const {
  std::vector<uint64_t> offsets(bytes_ / kRequestBytes);
  for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = i * kRequestBytes;
  return offsets;
}

double RawDisk::write_all() {
  return transfer(tiers::IoOp::kWrite, in_order(), kRequestBytes, kRequestsInFlight);
}

double RawDisk::read_all(uint32_t depth) { return read(in_order(), kRequestBytes, depth); }

double RawDisk::read(std::span<const uint64_t> offsets, uint32_t request_bytes, uint32_t depth) {
  return transfer(tiers::IoOp::kRead, offsets, request_bytes, depth);
}

double RawDisk::write(std::span<const uint64_t> offsets, uint32_t request_bytes, uint32_t depth) {
  STRATA_CHECK(request_bytes % kPageBytes == 0, "requests of %u bytes", request_bytes);
  return transfer(tiers::IoOp::kWrite, offsets, request_bytes, depth);
}

std::vector<uint64_t> RawDisk::draw(uint64_t n, uint32_t request_bytes, bool is_sorted) {
  std::vector<uint64_t> offsets(bytes_ / request_bytes);
  for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = i * request_bytes;
  std::ranges::shuffle(offsets, random_);
  offsets.resize(std::min<uint64_t>(n, offsets.size()));
  if (is_sorted) std::ranges::sort(offsets);
  return offsets;
}

}  // namespace strata::cli
