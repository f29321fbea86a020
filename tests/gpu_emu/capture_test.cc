// Captures of the emulated device: other streams join by events and are joined again, as CUDA asks.
#include <gtest/gtest.h>

#include <memory>

#include "tests/gpu_emu/emulated_device.h"

namespace strata::gpu_emu {
namespace {

constexpr int kUnmatched = 903;
constexpr int kUnjoined = 904;
constexpr int kIsolation = 905;
constexpr int kCapturedEvent = 907;

class Capture : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(0, table_.open(0, &device_));
    for (DeviceStream*& stream : streams_) ASSERT_EQ(0, table_.create_stream(device_, &stream));
    for (DeviceEvent*& event : events_) ASSERT_EQ(0, table_.create_event(device_, &event));
  }
  void TearDown() override {
    for (DeviceEvent* event : events_) table_.destroy_event(event);
    for (DeviceStream* stream : streams_) table_.destroy_stream(stream);
    table_.destroy_graph(graph_);
    table_.close(device_);
  }
  /// value_ = from_ in a stream.
  int copy(uint32_t stream) { return table_.copy(streams_[stream], &value_, &from_, sizeof from_); }

  const DeviceTable& table_ = emulated_device();
  Device* device_ = nullptr;
  DeviceStream* streams_[2] = {};
  DeviceEvent* events_[2] = {};
  DeviceGraph* graph_ = nullptr;
  int from_ = 1;
  int value_ = 0;
};

TEST_F(Capture, HoldsTheWorkOfAStreamThatJoined) {
  ASSERT_EQ(0, table_.begin_capture(streams_[0]));
  ASSERT_EQ(0, table_.record(streams_[0], events_[0]));
  ASSERT_EQ(0, table_.await(streams_[1], events_[0]));
  ASSERT_EQ(0, copy(1));
  ASSERT_EQ(0, table_.record(streams_[1], events_[1]));
  ASSERT_EQ(0, table_.await(streams_[0], events_[1]));
  EXPECT_EQ(kUnmatched, table_.end_capture(streams_[1], &graph_));
  ASSERT_EQ(0, table_.end_capture(streams_[0], &graph_));
  EXPECT_EQ(0, value_) << "it ran when it was captured";
  from_ = 7;
  ASSERT_EQ(0, table_.launch_graph(streams_[0], graph_));
  EXPECT_EQ(7, value_);
  from_ = 8;
  ASSERT_EQ(0, copy(1));
  EXPECT_EQ(8, value_) << "the stream still captures";
}

TEST_F(Capture, OfAStreamThatIsNotJoinedAgainFails) {
  ASSERT_EQ(0, table_.begin_capture(streams_[0]));
  ASSERT_EQ(0, table_.record(streams_[0], events_[0]));
  ASSERT_EQ(0, table_.await(streams_[1], events_[0]));
  ASSERT_EQ(0, table_.record(streams_[1], events_[1]));
  ASSERT_EQ(0, table_.await(streams_[0], events_[1]));  // before its copy
  ASSERT_EQ(0, copy(1));
  EXPECT_EQ(kUnjoined, table_.end_capture(streams_[0], &graph_));
  EXPECT_EQ(nullptr, graph_);
}

TEST_F(Capture, DoesNotWaitForWhatIsOutsideNorTheOtherWay) {
  ASSERT_EQ(0, table_.record(streams_[1], events_[1]));
  ASSERT_EQ(0, table_.begin_capture(streams_[0]));
  EXPECT_EQ(kIsolation, table_.await(streams_[0], events_[1]));
  ASSERT_EQ(0, table_.record(streams_[0], events_[0]));
  ASSERT_EQ(0, table_.end_capture(streams_[0], &graph_));
  EXPECT_NE(0, table_.await(streams_[1], events_[0]));
  EXPECT_EQ(kCapturedEvent, table_.wait_event(events_[0]));
}

}  // namespace
}  // namespace strata::gpu_emu
