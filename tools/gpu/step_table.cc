#include "tools/gpu/step_table.h"

#include <algorithm>
#include <type_traits>

#include "base/check.h"
#include "planner/virtual/kernel_cost.h"

namespace strata::gpu_bench {
namespace {

std::string name_of(const DeviceLinearArgs& args) {
  std::string name = "linear";
  for (uint32_t i = 0; i < args.n_matrices; ++i) name += ' ' + std::to_string(args.w[i].n_out);
  return name + " x " + std::to_string(args.w[0].n_in);
}
std::string name_of(const DeviceEmbedArgs&) { return "embed"; }
std::string name_of(const DeviceNormArgs&) { return "norm"; }
std::string name_of(const DeviceQuantizeArgs&) { return "quantize"; }
std::string name_of(const DeviceRotateArgs&) { return "rotate"; }
std::string name_of(const DeviceAttendArgs&) { return "attend"; }
std::string name_of(const DeviceMergeArgs&) { return "merge"; }
std::string name_of(const DevicePrefillArgs&) { return "prefill"; }
std::string name_of(const DeviceActivateArgs&) { return "activate"; }
std::string name_of(const DeviceArgmaxArgs&) { return "argmax"; }

/// Whether what an operation costs depends on positions.
template <class Args>
constexpr bool kReadsPositions =
    std::is_same_v<Args, DeviceRotateArgs> || std::is_same_v<Args, DeviceAttendArgs> ||
    std::is_same_v<Args, DevicePrefillArgs>;

}  // namespace

StepTable* StepTable::current_ = nullptr;

StepTable::StepTable(const DeviceTable& of, Device* device, bool is_virtual)
    : before_(current_), device_table_(of), device_(device), is_virtual_(is_virtual), table_(of) {
  current_ = this;
  table_.copy = copy;
  DeviceKernels& k = table_.kernels;
  k.embed = kernel<DeviceEmbedArgs, &DeviceKernels::embed>;
  k.norm = kernel<DeviceNormArgs, &DeviceKernels::norm>;
  k.quantize = kernel<DeviceQuantizeArgs, &DeviceKernels::quantize>;
  k.linear = kernel<DeviceLinearArgs, &DeviceKernels::linear>;
  k.rotate = kernel<DeviceRotateArgs, &DeviceKernels::rotate>;
  k.attend = kernel<DeviceAttendArgs, &DeviceKernels::attend>;
  k.merge = kernel<DeviceMergeArgs, &DeviceKernels::merge>;
  k.prefill = kernel<DevicePrefillArgs, &DeviceKernels::prefill>;
  k.activate = kernel<DeviceActivateArgs, &DeviceKernels::activate>;
  k.argmax = kernel<DeviceArgmaxArgs, &DeviceKernels::argmax>;
}

StepTable::~StepTable() {
  forget_calls();
  current_ = before_;
}

void StepTable::forget_calls() {
  for (const Call& call : calls_) {
    device_table_.destroy_event(call.begin);
    device_table_.destroy_event(call.end);
  }
  calls_.clear();
}

template <class Args, int (*DeviceKernels::*kOperation)(DeviceStream*, const Args&)>
int StepTable::kernel(DeviceStream* stream, const Args& args) {
  StepTable& self = *current_;
  Args own = args;
  if constexpr (kReadsPositions<Args>)
    if (self.is_virtual_) own.positions = self.source_of(args.positions);
  const std::string name = self.is_timing_ ? name_of(args) : std::string();
  if (self.is_timing_ && self.is_virtual_) {
    const planner::KernelCost cost = planner::kernel_cost(own);
    OperationTime& operation = self.operations_[self.find(name)];
    operation.bytes += cost.bytes();
    operation.flop += cost.flop;
  }
  return self.run(stream, name,
                  [&] { return (self.device_table_.kernels.*kOperation)(stream, own); });
}

int StepTable::copy(DeviceStream* stream, void* to, const void* from, uint64_t bytes) {
  StepTable& self = *current_;
  if (self.is_virtual_)
    self.copies_[static_cast<const std::byte*>(to)] = {static_cast<const std::byte*>(from), bytes};
  return self.run(stream, "copy", [&] { return self.device_table_.copy(stream, to, from, bytes); });
}

template <class Run>
int StepTable::run(DeviceStream* stream, const std::string& name, const Run& run) {
  if (!is_timing_) return run();
  Call call{find(name), nullptr, nullptr};
  int error = record(stream, &call.begin);
  if (error == 0) error = run();
  if (error == 0) error = record(stream, &call.end);
  ++operations_[call.operation].n_calls;
  calls_.push_back(call);
  return error;
}

int StepTable::record(DeviceStream* stream, DeviceEvent** event) {
  if (const int error = device_table_.create_event(device_, event); error != 0) return error;
  return device_table_.record(stream, *event);
}

/// The operation's place, a new one where it was not called yet.
uint64_t StepTable::find(const std::string& name) {
  const auto found = std::ranges::find(operations_, name, &OperationTime::name);
  if (found != operations_.end()) return static_cast<uint64_t>(found - operations_.begin());
  operations_.push_back({.name = name});
  return operations_.size() - 1;
}

const uint32_t* StepTable::source_of(const uint32_t* positions) const {
  const auto* at = reinterpret_cast<const std::byte*>(positions);
  auto copied = copies_.upper_bound(at);
  STRATA_CHECK(copied != copies_.begin(), "%zu copies", copies_.size());
  --copied;
  const auto offset = static_cast<uint64_t>(at - copied->first);
  STRATA_CHECK(offset < copied->second.bytes, "offset %llu",
               static_cast<unsigned long long>(offset));
  return reinterpret_cast<const uint32_t*>(copied->second.from + offset);
}

void StepTable::begin() {
  is_timing_ = true;
  operations_.clear();
  forget_calls();
}

int StepTable::end(DeviceStream* stream, std::vector<OperationTime>* operations) {
  is_timing_ = false;
  if (const int error = device_table_.wait_stream(stream); error != 0) return error;
  for (const Call& call : calls_) {
    float ms = 0;
    if (const int error = device_table_.elapsed_ms(call.begin, call.end, &ms); error != 0)
      return error;
    operations_[call.operation].us += double{ms} * 1e3;
  }
  *operations = operations_;
  return 0;
}

}  // namespace strata::gpu_bench
