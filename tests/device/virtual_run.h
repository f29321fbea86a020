// tests/device/virtual_run.h - steps on the virtual device, whose kernels have the emulator's
// effects: what orders them, and what they take in virtual time.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include "planner/virtual/virtual_table.h"
#include "tests/device/device_run.h"

namespace strata::engine::testing {

using planner::VirtualDevice;

/// The virtual device's table, but for open(): kernels of what it opens have the emulator's
/// effects, on a stream of the emulator that all of them share. One at a time.
class VirtualTable {
 public:
  /// Of the link into the device a share.
  explicit VirtualTable(double link_share = 1)
      : table_(planner::virtual_table()), profile_(planner::device_profile("rtx3060")) {
    profile_.in_bytes_per_s.value *= link_share;
    const DeviceTable& emulated = gpu_emu::emulated_device();
    EXPECT_EQ(emulated.open(0, &emulated_), 0);
    EXPECT_EQ(emulated.create_stream(emulated_, &stream_), 0);
    current_ = this;
    effects_.prefill = prefill;
    table_.open = open;
    table_.copy = copy;
  }
  ~VirtualTable() {
    gpu_emu::emulated_device().destroy_stream(stream_);
    gpu_emu::emulated_device().close(emulated_);
  }
  VirtualTable(const VirtualTable&) = delete;
  VirtualTable& operator=(const VirtualTable&) = delete;

  DeviceTable& table() { return table_; }
  uint32_t n_prefills() const { return n_prefills_; }  // launches of many rows' attention

 private:
  static int prefill(DeviceStream* stream, const DevicePrefillArgs& args) {
    ++current_->n_prefills_;
    return gpu_emu::emulated_device().kernels.prefill(stream, args);
  }
  static int open(uint32_t, Device** device) {
    planner::VirtualDeviceOptions options;
    options.effects = &current_->effects_;
    options.effects_stream = current_->stream_;
    auto made = std::make_unique<VirtualDevice>(current_->profile_, options);
    *device = planner::as_device(*made.release());  // close() deletes it
    current_->device_ = *device;
    return 0;
  }

  /// A driver takes host memory that is not pinned through a buffer of its own, and the host waits:
  /// so the weights that stay come, once.
  static int copy(DeviceStream* stream, void* to, const void* from, uint64_t bytes) {
    const DeviceTable& own = planner::virtual_table();
    const int number = own.copy(stream, to, from, bytes);
    if (number != planner::number_of(planner::VirtualError::kPageableCopy)) return number;
    const HostMemory buffer = HostMemory::reserve(bytes);
    void* mapped = nullptr;
    EXPECT_EQ(own.pin(current_->device_, buffer.data(), buffer.size(), &mapped), 0);
    std::memcpy(buffer.data(), from, bytes);
    EXPECT_EQ(own.copy(stream, to, buffer.data(), bytes), 0);
    EXPECT_EQ(own.wait_stream(stream), 0);
    return own.unpin(current_->device_, buffer.data());
  }

  inline static VirtualTable* current_ = nullptr;
  DeviceTable table_;
  DeviceKernels effects_ = gpu_emu::emulated_device().kernels;
  uint32_t n_prefills_ = 0;
  planner::DeviceProfile profile_;
  Device* device_ = nullptr;  // opened last
  Device* emulated_ = nullptr;
  DeviceStream* stream_ = nullptr;
};

/// What the host does behind each wait for an event of a virtual device.
class HostWork {
 public:
  HostWork(VirtualTable& table, double bytes_per_s) : bytes_per_s_(bytes_per_s) {
    current_ = this;
    table.table().wait_event = wait_event;
  }
  void is_on(Device* device) { device_ = device; }
  void set_us(double us) { us_ = us; }
  /// In virtual time.
  double timed_us(const std::function<void()>& work) {
    n_waits_ = 0;
    const planner::VirtualClock& clock = planner::virtual_device(device_).clock();
    const auto begin = clock.now();
    work();
    return std::chrono::duration<double, std::micro>(clock.now() - begin).count();
  }
  uint32_t n_waits() const { return n_waits_; }  // of what was timed last

 private:
  static int wait_event(DeviceEvent* event) {
    const int error = planner::virtual_table().wait_event(event);
    ++current_->n_waits_;
    if (error != 0 || current_->us_ == 0) return error;
    return planner::virtual_device(current_->device_)
        .host_work(
            {.name = "work on the CPU",
             .dram_bytes = static_cast<uint64_t>(current_->us_ * 1e-6 * current_->bytes_per_s_),
             .bytes_per_s = current_->bytes_per_s_});
  }

  inline static HostWork* current_ = nullptr;
  double bytes_per_s_;
  double us_ = 0;
  Device* device_ = nullptr;
  uint32_t n_waits_ = 0;
};

inline std::string hazards_of(const DeviceRun& run) {
  std::string text;
  for (const planner::Hazard& hazard : planner::virtual_device(run.opened()).hazards())
    text += hazard.text + "\n";
  return text;
}

}  // namespace strata::engine::testing
