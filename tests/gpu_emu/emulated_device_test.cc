// The emulated device as a device: memory, events and graphs. Captures of several streams
// (capture_test.cc) and kernels are judged elsewhere.
#include "tests/gpu_emu/emulated_device.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace strata::gpu_emu {
namespace {

class EmulatedDevice : public ::testing::Test {
 protected:
  EmulatedDevice() {
    EXPECT_EQ(0, table_.open(0, &device_));
    for (DeviceStream*& stream : streams_) EXPECT_EQ(0, table_.create_stream(device_, &stream));
    for (DeviceEvent*& event : events_) EXPECT_EQ(0, table_.create_event(device_, &event));
  }
  ~EmulatedDevice() override {
    for (DeviceEvent* event : events_) table_.destroy_event(event);
    for (DeviceStream* stream : streams_) table_.destroy_stream(stream);
    table_.close(device_);
  }

  DeviceStatus status_of(int error) const { return table_.status(error); }

  const DeviceTable& table_ = emulated_device();
  Device* device_ = nullptr;
  DeviceStream* streams_[2] = {};
  DeviceEvent* events_[2] = {};
  uint8_t bytes_[4] = {};
};

TEST_F(EmulatedDevice, CountsItsMemory) {
  DeviceFacts facts;
  ASSERT_EQ(0, table_.facts(device_, &facts));
  EXPECT_EQ(kEmulatedMemoryBytes, facts.free_bytes);
  void* memory = nullptr;
  ASSERT_EQ(0, table_.allocate(device_, 1000, &memory));
  EXPECT_EQ(0u, reinterpret_cast<uintptr_t>(memory) % 256);
  EXPECT_EQ(0xFF, static_cast<uint8_t*>(memory)[999]);
  ASSERT_EQ(0, table_.facts(device_, &facts));
  EXPECT_EQ(kEmulatedMemoryBytes - 1000, facts.free_bytes);
  EXPECT_TRUE(is_in_memory(streams_[0], static_cast<uint8_t*>(memory) + 999));
  EXPECT_FALSE(is_in_memory(streams_[0], static_cast<uint8_t*>(memory) + 1000));
  void* more = nullptr;
  EXPECT_EQ(DeviceStatus::kOutOfMemory,
            status_of(table_.allocate(device_, kEmulatedMemoryBytes, &more)));
  EXPECT_EQ(0, table_.release(device_, memory));
  EXPECT_NE(0, table_.release(device_, memory));
  EXPECT_EQ(DeviceStatus::kNoDevice, status_of(table_.open(kEmulatedDevices, &device_)));
}

TEST_F(EmulatedDevice, TimesEventsThatWereRecorded) {
  float ms = -1;
  EXPECT_NE(0, table_.elapsed_ms(events_[0], events_[1], &ms));
  ASSERT_EQ(0, table_.record(streams_[0], events_[0]));
  ASSERT_EQ(0, table_.record(streams_[1], events_[1]));
  ASSERT_EQ(0, table_.elapsed_ms(events_[0], events_[1], &ms));
  EXPECT_GE(ms, 0);
  bool is_done = false;
  ASSERT_EQ(0, table_.query(events_[0], &is_done));
  EXPECT_TRUE(is_done);
}

TEST_F(EmulatedDevice, RunsWhatItCapturedEveryTimeItIsAsked) {
  DeviceGraph* graph = nullptr;
  const uint8_t from[2] = {7, 8};
  EXPECT_NE(0, table_.end_capture(streams_[0], &graph));
  ASSERT_EQ(0, table_.begin_capture(streams_[0]));
  EXPECT_NE(0, table_.begin_capture(streams_[0]));
  EXPECT_NE(0, table_.wait_stream(streams_[0]));
  ASSERT_EQ(0, table_.fill(streams_[0], bytes_, 3, 4));
  ASSERT_EQ(0, table_.copy(streams_[0], bytes_, from, 2));
  EXPECT_EQ(0, bytes_[0]);
  ASSERT_EQ(0, table_.end_capture(streams_[0], &graph));
  for (int time = 0; time < 2; ++time) {
    std::memset(bytes_, 0, sizeof bytes_);
    ASSERT_EQ(0, table_.launch_graph(streams_[1], graph));
    EXPECT_EQ(0, std::memcmp(bytes_, "\7\10\3\3", 4));
  }
  table_.destroy_graph(graph);
}

}  // namespace
}  // namespace strata::gpu_emu
