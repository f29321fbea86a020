// tests/planner/virtual_machine.h - a virtual device with its table and its streams, as tests drive
// it.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/checked_math.h"
#include "base/host_memory.h"
#include "planner/virtual/virtual_table.h"

namespace strata::planner::testing {

inline constexpr uint64_t kMiB = uint64_t{1} << 20;

/// Calls the table's functions and expects them to succeed.
class VirtualMachine {
 public:
  explicit VirtualMachine(VirtualDeviceOptions options = {}, const std::string& name = "rtx4090")
      : VirtualMachine(device_profile(name), std::move(options)) {}
  VirtualMachine(const DeviceProfile& profile, VirtualDeviceOptions options)
      : device_(profile, std::move(options)) {}

  const DeviceTable& table() const { return virtual_table(); }
  VirtualDevice& virtual_device() { return device_; }
  Device* device() { return as_device(device_); }

  std::byte* memory(uint64_t bytes) {
    void* memory = nullptr;
    EXPECT_EQ(table().allocate(device(), bytes, &memory), 0);
    return static_cast<std::byte*>(memory);
  }
  /// Host memory, pinned, every byte `value`.
  std::byte* pinned(uint64_t bytes, uint8_t value = 0) {
    host_.push_back(HostMemory::reserve(bytes));
    std::byte* memory = host_.back().data();
    if (value != 0) std::memset(memory, value, bytes);
    void* mapped = nullptr;
    EXPECT_EQ(table().pin(device(), memory, bytes, &mapped), 0);
    EXPECT_EQ(mapped, memory);
    return memory;
  }
  /// Pinned addresses of no memory, for a device without bytes.
  std::byte* pinned_nowhere(uint64_t bytes) {
    auto* memory = reinterpret_cast<std::byte*>(nowhere_);
    nowhere_ += round_up(bytes, uint64_t{1} << 30);
    void* mapped = nullptr;
    EXPECT_EQ(table().pin(device(), memory, bytes, &mapped), 0);
    return memory;
  }
  DeviceStream* stream() {
    DeviceStream* stream = nullptr;
    EXPECT_EQ(table().create_stream(device(), &stream), 0);
    return stream;
  }
  DeviceEvent* event() {
    DeviceEvent* event = nullptr;
    EXPECT_EQ(table().create_event(device(), &event), 0);
    return event;
  }
  void copy(DeviceStream* stream, void* to, const void* from, uint64_t bytes) {
    EXPECT_EQ(table().copy(stream, to, from, bytes), 0);
  }
  /// A kernel that computes so much and touches these bytes.
  /// The first hazard may be found as soon as it is queued.
  int kernel(DeviceStream* stream, const char* name, uint64_t flop, std::vector<TouchedRange> reads,
             std::vector<TouchedRange> writes, std::function<int()> effect = {}) {
    KernelCall call{.name = name, .effect = std::move(effect)};
    call.tables = [](uint32_t) { return std::vector<ByteRange>(); };
    call.cost = [=] {
      return KernelCost{.name = name, .flop = flop, .reads = reads, .writes = writes};
    };
    return device_.queue_kernel(reinterpret_cast<VirtualStream*>(stream), std::move(call));
  }
  void record(DeviceStream* stream, DeviceEvent* event) {
    EXPECT_EQ(table().record(stream, event), 0);
  }
  void await(DeviceStream* stream, DeviceEvent* event) {
    EXPECT_EQ(table().await(stream, event), 0);
  }
  void wait(DeviceStream* stream) { EXPECT_EQ(table().wait_stream(stream), 0) << hazards(); }

  double now_ms() const {
    return std::chrono::duration<double, std::milli>(device_.clock().now()).count();
  }
  std::string hazards() const {
    std::string text;
    for (const Hazard& hazard : device_.hazards()) text += hazard.text + "\n";
    return text;
  }

 private:
  std::vector<HostMemory> host_;  // outlives the device
  uint64_t nowhere_ = uint64_t{1} << 57;
  VirtualDevice device_;
};

inline TouchedRange touched(const void* begin, uint64_t bytes) {
  return {{reinterpret_cast<uint64_t>(begin), bytes}, bytes};
}

}  // namespace strata::planner::testing
