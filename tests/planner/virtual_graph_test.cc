// Graphs of the virtual device: what is captured runs when it is launched, as often as it is.
#include <gtest/gtest.h>

#include "tests/planner/virtual_machine.h"

namespace strata::planner {
namespace {

using testing::kMiB;
using testing::touched;
using testing::VirtualMachine;

TEST(VirtualGraph, RunsNothingUntilItIsLaunchedAndThenEveryTime) {
  VirtualMachine machine;
  const DeviceTable& table = machine.table();
  DeviceStream* stream = machine.stream();
  std::byte* memory = machine.memory(kMiB);
  int n_runs = 0;
  ASSERT_EQ(table.begin_capture(stream), 0);
  EXPECT_EQ(table.fill(stream, memory, 1, kMiB), 0);
  machine.kernel(stream, "adds", 1, {touched(memory, 4)}, {touched(memory, 4)},
                 [&n_runs] { return ++n_runs, 0; });
  DeviceGraph* graph = nullptr;
  ASSERT_EQ(table.end_capture(stream, &graph), 0);
  machine.wait(stream);
  EXPECT_EQ(n_runs, 0);
  EXPECT_EQ(memory[0], std::byte{0xFF});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(table.launch_graph(stream, graph), 0);
  machine.wait(stream);
  EXPECT_EQ(n_runs, 3);
  EXPECT_EQ(memory[0], std::byte{1});
  EXPECT_EQ(table.destroy_graph(graph), 0);
  EXPECT_EQ(table.launch_graph(stream, graph), number_of(VirtualError::kGone));
}

TEST(VirtualGraph, ItsKernelsStartSooner) {
  const auto ms = [](bool in_graph) {
    VirtualMachine machine({.has_bytes = false});
    DeviceStream* stream = machine.stream();
    std::byte* memory = machine.memory(4096);
    DeviceGraph* graph = nullptr;
    if (in_graph) {
      EXPECT_EQ(machine.table().begin_capture(stream), 0);
    }
    for (int i = 0; i < 100; ++i) machine.kernel(stream, "small", 1, {touched(memory, 4)}, {});
    if (in_graph) {
      EXPECT_EQ(machine.table().end_capture(stream, &graph), 0);
      EXPECT_EQ(machine.table().launch_graph(stream, graph), 0);
    }
    machine.wait(stream);
    return machine.now_ms();
  };
  EXPECT_NEAR(ms(false), 0.4, 0.004);
  EXPECT_NEAR(ms(true), 0.15, 0.0015);
}

/// A copy beside a kernel inside a capture, joined or not.
int captured_fork(VirtualMachine& machine, bool joins, DeviceStream* stream, DeviceGraph** graph) {
  const DeviceTable& table = machine.table();
  DeviceStream* copies = machine.stream();
  DeviceEvent* forked = machine.event();
  DeviceEvent* joined = machine.event();
  std::byte* memory = machine.memory(2 * kMiB);
  std::byte* host = machine.pinned(kMiB, 1);
  EXPECT_EQ(table.begin_capture(stream), 0);
  machine.record(stream, forked);
  machine.await(copies, forked);
  machine.copy(copies, memory, host, kMiB);
  machine.kernel(stream, "beside", 1, {}, {touched(memory + kMiB, kMiB)});
  machine.record(copies, joined);
  if (joins) {
    machine.await(stream, joined);
    machine.kernel(stream, "after", 1, {touched(memory, kMiB)}, {});
  }
  return table.end_capture(stream, graph);
}

TEST(VirtualGraph, AForkedStreamIsPartOfItAndJoins) {
  VirtualMachine machine;
  DeviceStream* stream = machine.stream();
  DeviceGraph* graph = nullptr;
  ASSERT_EQ(captured_fork(machine, true, stream, &graph), 0);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(machine.table().launch_graph(stream, graph), 0);
  machine.wait(stream);
  EXPECT_EQ(machine.hazards(), "");
}

TEST(VirtualGraph, AForkThatDoesNotJoinIsRefused) {
  VirtualMachine machine;
  DeviceGraph* graph = nullptr;
  EXPECT_EQ(captured_fork(machine, false, machine.stream(), &graph),
            number_of(VirtualError::kUnjoinedCapture));
  EXPECT_EQ(graph, nullptr);
}

TEST(VirtualGraph, RacesInsideAreFoundAtTheLaunch) {
  VirtualMachine machine;
  const DeviceTable& table = machine.table();
  DeviceStream* stream = machine.stream();
  DeviceStream* other = machine.stream();
  std::byte* memory = machine.memory(kMiB);
  ASSERT_EQ(table.begin_capture(stream), 0);
  EXPECT_EQ(table.fill(stream, memory, 1, kMiB), 0);
  DeviceGraph* graph = nullptr;
  ASSERT_EQ(table.end_capture(stream, &graph), 0);
  EXPECT_EQ(table.launch_graph(stream, graph), 0);
  EXPECT_EQ(table.launch_graph(other, graph), 0);  // the same bytes on another stream
  table.wait_stream(other);
  ASSERT_FALSE(machine.virtual_device().hazards().empty());
  EXPECT_EQ(machine.virtual_device().hazards()[0].error, VirtualError::kRace);
}

TEST(VirtualGraph, MemoryReleasedSinceTheCaptureIsNamedAtTheLaunch) {
  VirtualMachine machine;
  const DeviceTable& table = machine.table();
  DeviceStream* stream = machine.stream();
  std::byte* memory = machine.memory(kMiB);
  ASSERT_EQ(table.begin_capture(stream), 0);
  EXPECT_EQ(table.fill(stream, memory, 1, kMiB), 0);
  DeviceGraph* graph = nullptr;
  ASSERT_EQ(table.end_capture(stream, &graph), 0);
  EXPECT_EQ(table.release(machine.device(), memory), 0);
  EXPECT_EQ(machine.memory(kMiB), memory);  // the same place for someone else
  table.launch_graph(stream, graph);
  table.wait_stream(stream);
  ASSERT_FALSE(machine.virtual_device().hazards().empty());
  EXPECT_EQ(machine.virtual_device().hazards()[0].error, VirtualError::kReleased);
}

TEST(VirtualGraph, WhatWouldWaitIsRefusedDuringACapture) {
  VirtualMachine machine;
  const DeviceTable& table = machine.table();
  DeviceStream* stream = machine.stream();
  DeviceStream* outside = machine.stream();
  DeviceEvent* event = machine.event();
  DeviceEvent* pending = machine.event();
  std::byte* memory = machine.memory(kMiB);
  machine.copy(outside, memory, machine.pinned(kMiB), kMiB);
  machine.record(outside, pending);
  const int wanted = number_of(VirtualError::kInCapture);
  ASSERT_EQ(table.begin_capture(stream), 0);
  EXPECT_EQ(table.begin_capture(stream), wanted);
  machine.record(stream, event);
  bool is_done = false;
  EXPECT_EQ(table.query(event, &is_done), wanted);
  EXPECT_EQ(table.wait_event(event), wanted);
  EXPECT_EQ(table.wait_stream(stream), wanted);
  EXPECT_EQ(table.await(stream, pending), wanted);  // nothing of outside may be under way
  void* more = nullptr;
  EXPECT_EQ(table.allocate(machine.device(), 1, &more), wanted);
  EXPECT_EQ(table.release(machine.device(), memory), wanted);
  DeviceGraph* graph = nullptr;
  EXPECT_EQ(table.end_capture(outside, &graph), wanted);
  EXPECT_EQ(table.end_capture(stream, &graph), 0);
  EXPECT_EQ(table.wait_event(event), wanted);  // it belongs to the graph
  machine.wait(outside);
}

}  // namespace
}  // namespace strata::planner
