#include "planner/virtual/virtual_device.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "base/check.h"
#include "base/step_plan.h"

namespace strata::planner {
namespace {

constexpr uint32_t kHostLine = 0;
constexpr size_t kHazardsMax = 100;  // what follows from the first ones is of no use

uint64_t capacity_of(const DeviceProfile& profile, const VirtualDeviceOptions& options) {
  const double left = profile.hbm_bytes.value * (1 - options.reserve_share) -
                      static_cast<double>(options.context_bytes);
  const uint64_t bytes = left > 0 ? static_cast<uint64_t>(left) : 0;
  return options.hbm_bytes_max > 0 ? std::min(bytes, options.hbm_bytes_max) : bytes;
}

uint64_t pinned_max_of(const DeviceProfile& profile, const VirtualDeviceOptions& options) {
  if (options.pinned_bytes_max > 0) return options.pinned_bytes_max;
  return static_cast<uint64_t>(profile.dram_bytes.value * 0.75);
}

LaneRates lane_rates(const DeviceProfile& profile) {
  LaneRates rates{};
  rates[static_cast<size_t>(Lane::kLinkIn)] = profile.in_bytes_per_s.value;
  rates[static_cast<size_t>(Lane::kLinkOut)] = profile.out_bytes_per_s.value;
  rates[static_cast<size_t>(Lane::kDram)] = profile.dram_bytes_per_s.value;
  rates[static_cast<size_t>(Lane::kNvme)] = profile.nvme_bytes_per_s.value;
  return rates;
}

ByteRange range_of(const void* begin, uint64_t bytes) {
  return {reinterpret_cast<uint64_t>(begin), bytes};
}

}  // namespace

const char* part_name(Part part) {
  constexpr const char* kNames[kParts] = {"link in", "link out", "NVMe", "DRAM", "CPU", "GPU"};
  return kNames[static_cast<size_t>(part)];
}

BusyPart busiest_part(const Usage& from, const Usage& to) {
  const double seconds = std::chrono::duration<double>(to.time - from.time).count();
  BusyPart busiest{Part::kLinkIn, 0};
  for (size_t part = 0; part < kParts && seconds > 0; ++part) {
    const double share = (to.busy_s[part] - from.busy_s[part]) / seconds;
    if (share > busiest.share) busiest = {static_cast<Part>(part), share};
  }
  return busiest;
}

VirtualDevice::VirtualDevice(const DeviceProfile& profile, VirtualDeviceOptions options)
    : options_(std::move(options)),
      profile_(profile),
      flows_(clock_, lane_rates(profile)),
      nvme_(clock_, flows_, profile, options_.nvme_faults),
      memory_(capacity_of(profile, options_), pinned_max_of(profile, options_),
              options_.has_bytes) {
  advance(host_clock_, kHostLine);
}

VirtualDevice::~VirtualDevice() = default;

int VirtualDevice::facts(DeviceFacts* facts) const {
  *facts = {};
  std::snprintf(facts->name, sizeof facts->name, "virtual %.*s",
                static_cast<int>(profile_.title.size()), profile_.title.data());
  facts->capability = profile_.capability;
  facts->n_multiprocessors = profile_.n_multiprocessors;
  facts->memory_bytes = static_cast<uint64_t>(profile_.hbm_bytes.value);
  facts->free_bytes = memory_.arena().capacity_bytes() - memory_.arena().used_bytes();
  facts->l2_bytes = profile_.l2_bytes;
  facts->shared_bytes_per_block = profile_.shared_bytes_per_block;
  return error();
}

int VirtualDevice::allocate(uint64_t bytes, void** memory) {
  *memory = nullptr;
  if (error() != 0) return error();
  if (!captures_.empty()) return number_of(VirtualError::kInCapture);
  const auto begin = memory_.take(std::max<uint64_t>(bytes, 1), ++n_calls_);
  if (!begin) return number_of(VirtualError::kOutOfMemory);
  *memory = pointer_to(*begin);
  return 0;
}

int VirtualDevice::release(void* memory) {
  if (memory == nullptr) return 0;
  if (!captures_.empty()) return number_of(VirtualError::kInCapture);
  const auto range = memory_.give(reinterpret_cast<uint64_t>(memory));
  if (!range) return number_of(VirtualError::kUnknownPlace);
  check_order(*range, true, host_access("release"), host_clock_);
  log_.forget(*range);
  return error();
}

int VirtualDevice::pin(void* memory, uint64_t bytes, void** mapped) {
  *mapped = nullptr;
  if (error() != 0) return error();
  if (!captures_.empty()) return number_of(VirtualError::kInCapture);
  const ByteRange range = range_of(memory, bytes);
  if (!memory_.pin(range, ++n_calls_)) return number_of(VirtualError::kPinRefused);
  log_.forget(range);
  *mapped = memory;
  return 0;
}

int VirtualDevice::unpin(void* memory) {
  if (memory == nullptr) return 0;
  if (!captures_.empty()) return number_of(VirtualError::kInCapture);
  const auto range = memory_.unpin(reinterpret_cast<uint64_t>(memory));
  if (!range) return number_of(VirtualError::kUnknownPlace);
  check_order(*range, true, host_access("unpin"), host_clock_);
  log_.forget(*range);
  return error();
}

int VirtualDevice::host_work(const HostWork& work) {
  const Access by = host_access(work.name);
  for (const ByteRange& range : work.reads) check_order(range, false, by, host_clock_);
  for (const ByteRange& range : work.writes) check_order(range, true, by, host_clock_);
  const VirtualTime begin = clock_.now();
  Flow flow = flow_over(work.dram_bytes, Lane::kDram);
  flow.bytes_per_s = work.bytes_per_s;
  host_is_working_ = true;
  flows_.start(flow, [this] { host_is_working_ = false; });
  while (host_is_working_) STRATA_CHECK(clock_.run_next(), "work that does not end");
  cpu_busy_s_ += std::chrono::duration<double>(clock_.now() - begin).count();
  add_trace(TraceKind::kOperation, work.name, kNoLayer, begin, work.dram_bytes, 0);
  advance(host_clock_, kHostLine);
  return error();
}

int VirtualDevice::start_read(void* to, const void* from, uint64_t bytes, uint64_t* read) {
  if (error() != 0) return error();
  *read = ++n_reads_;
  Read& entry = reads_[*read];
  entry.to = range_of(to, bytes);
  entry.from = from;
  entry.clock = host_clock_;
  const uint32_t line = take_line();
  advance(entry.clock, line);
  entry.by = {line, known(entry.clock, line), "disk read", ++n_operations_};
  advance(host_clock_, kHostLine);
  check_order(entry.to, true, entry.by, entry.clock);
  if (from != nullptr) memory_.poison(entry.to);
  const VirtualTime begin = clock_.now();
  nvme_.read(bytes, [this, number = *read, begin](NvmeOutcome outcome, uint64_t n) {
    end_read(number, begin, outcome, n);
  });
  return error();
}

void VirtualDevice::end_read(uint64_t read, VirtualTime begin, NvmeOutcome outcome,
                             uint64_t bytes) {
  Read& entry = reads_.at(read);
  // The two engines of copies have the places 0 and 1.
  add_trace(TraceKind::kRead, entry.by.name, 1 + entry.by.line, begin, bytes, read);
  entry.is_over = true;
  entry.outcome = outcome;
  entry.bytes = bytes;
  if (entry.from != nullptr && memory_.has_bytes())
    std::memcpy(pointer_to(entry.to.begin), entry.from, bytes);
}

int VirtualDevice::wait_read(uint64_t read, NvmeOutcome* outcome, uint64_t* bytes) {
  const auto found = reads_.find(read);
  STRATA_CHECK(found != reads_.end(), "read %llu is not under way",
               static_cast<unsigned long long>(read));
  Read& entry = found->second;
  while (!entry.is_over) STRATA_CHECK(clock_.run_next(), "a read that does not end");
  join(host_clock_, entry.clock);
  *outcome = entry.outcome;
  *bytes = entry.bytes;
  free_lines_.push_back(entry.by.line);
  reads_.erase(found);
  return error();
}

Usage VirtualDevice::usage() {
  Usage usage{.time = clock_.now()};
  const auto set = [&](Part part, double seconds) {
    usage.busy_s[static_cast<size_t>(part)] = seconds;
  };
  const auto used = [&](Lane lane) { return flows_.moved_bytes(lane) / flows_.bytes_per_s(lane); };
  set(Part::kLinkIn, used(Lane::kLinkIn));
  set(Part::kLinkOut, used(Lane::kLinkOut));
  set(Part::kNvme, used(Lane::kNvme));
  set(Part::kDram, used(Lane::kDram));
  set(Part::kCpu, cpu_busy_s_);
  set(Part::kGpu, gpu_busy_s_);
  return usage;
}

/// A line of the vector clocks that the host knows all operations of, or one more.
uint32_t VirtualDevice::take_line() {
  if (free_lines_.empty()) return n_lines_++;
  const uint32_t line = free_lines_.back();
  free_lines_.pop_back();
  return line;
}

Access VirtualDevice::host_access(const char* name) {
  return {kHostLine, known(host_clock_, kHostLine), name, ++n_operations_};
}

std::string VirtualDevice::place_text(const ByteRange& range) const {
  const bool is_device = memory_.is_device(range.begin);
  const uint64_t begin = is_device ? range.begin - memory_.arena().base() : range.begin;
  char text[96];
  std::snprintf(text, sizeof text, "%llu bytes at %s0x%llx",
                static_cast<unsigned long long>(range.bytes), is_device ? "device + " : "host ",
                static_cast<unsigned long long>(begin));
  return text;
}

std::string VirtualDevice::access_text(const Access& access) const {
  return std::string(access.name) + " #" + std::to_string(access.number) +
         (access.line == kHostLine ? " (host)" : " (line " + std::to_string(access.line) + ")");
}

void VirtualDevice::report(VirtualError error, std::string text) {
  if (hazards_.size() < kHazardsMax) hazards_.push_back({error, std::move(text)});
}

/// Is the range one place's or pinned, and was it when the operation was asked for?
bool VirtualDevice::check_place(const ByteRange& range, const Access& by, uint64_t called) {
  const MemoryFound found = memory_.find(range);
  const bool is_place = found.kind == MemoryKind::kDevice || found.kind == MemoryKind::kPinned;
  if (is_place && found.since < called) return true;
  const std::string what = access_text(by) + " touches " + place_text(range);
  if (is_place)
    report(VirtualError::kReleased, what + ", which were released and taken again meanwhile");
  else if (found.kind == MemoryKind::kReleased)
    report(VirtualError::kReleased, what + ", which were released or never taken");
  else if (found.kind == MemoryKind::kOverrun)
    report(VirtualError::kOverrun, what + ", beyond the end of what was taken");
  else
    report(VirtualError::kUnpinned, what + ", which are not pinned");
  return false;
}

/// Enters an access; false where another one of the same bytes is neither before nor after it.
bool VirtualDevice::check_order(const ByteRange& range, bool writes, const Access& by,
                                const VectorClock& clock) {
  const auto conflict = writes ? log_.write(range, by, clock) : log_.read(range, by, clock);
  if (!conflict) return true;
  report(VirtualError::kRace,
         access_text(by) + (writes ? " writes " : " reads ") + place_text(conflict->range) +
             ", which " + access_text(conflict->earlier) +
             (conflict->earlier_wrote ? " writes" : " reads") + "; no event orders them");
  return false;
}

void VirtualDevice::add_trace(TraceKind kind, const char* name, uint32_t index, VirtualTime begin,
                              uint64_t bytes, uint64_t detail) {
  if (options_.trace == nullptr) return;
  options_.trace->add({.kind = kind,
                       .index = index,
                       .name = name,
                       .begin = begin,
                       .end = clock_.now(),
                       .bytes = bytes,
                       .detail = detail});
}

}  // namespace strata::planner
