// The virtual device as a device: memory, streams, events, bytes; and schedules whose time is known
// in closed form.
#include "planner/virtual/virtual_device.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/planner/virtual_machine.h"

namespace strata::planner {
namespace {

using testing::kMiB;
using testing::touched;
using testing::VirtualMachine;

constexpr uint64_t kGiB = uint64_t{1} << 30;

VirtualDeviceOptions without_bytes() { return {.has_bytes = false}; }

TEST(VirtualDevice, MemoryEndsAtTheByteWhereTheCardWouldRefuse) {
  VirtualMachine machine(without_bytes());
  const DeviceTable& table = machine.table();
  DeviceFacts facts;
  ASSERT_EQ(table.facts(machine.device(), &facts), 0);
  // 24 GiB less 5 % less 512 MiB of context, in whole granules of 2 MiB.
  const auto left = static_cast<uint64_t>(24.0 * static_cast<double>(kGiB) * 0.95) - 512 * kMiB;
  EXPECT_EQ(facts.free_bytes, left / (2 * kMiB) * (2 * kMiB));
  void* memory = nullptr;
  const int refused = table.allocate(machine.device(), facts.free_bytes + 1, &memory);
  EXPECT_EQ(table.status(refused), DeviceStatus::kOutOfMemory);
  EXPECT_EQ(memory, nullptr);
  ASSERT_EQ(table.allocate(machine.device(), facts.free_bytes, &memory), 0);
  void* more = nullptr;
  EXPECT_EQ(table.status(table.allocate(machine.device(), 1, &more)), DeviceStatus::kOutOfMemory);
  ASSERT_EQ(table.release(machine.device(), memory), 0);
  EXPECT_EQ(table.allocate(machine.device(), 1, &more), 0);
}

TEST(VirtualDevice, PinnedMemoryHasACapAndBeginsAtAPage) {
  VirtualMachine machine({.pinned_bytes_max = 10 * kMiB});
  const DeviceTable& table = machine.table();
  std::byte* memory = machine.pinned(6 * kMiB);
  const HostMemory other = HostMemory::reserve(8 * kMiB);
  void* mapped = nullptr;
  const auto status = [&](void* at, uint64_t bytes) {
    return table.status(table.pin(machine.device(), at, bytes, &mapped));
  };
  EXPECT_EQ(status(other.data(), 4 * kMiB + 1), DeviceStatus::kPinRefused);
  EXPECT_EQ(status(other.data() + 1, kMiB), DeviceStatus::kPinRefused);
  EXPECT_EQ(status(memory, kMiB), DeviceStatus::kPinRefused);  // pinned already
  EXPECT_EQ(status(other.data(), 4 * kMiB), DeviceStatus::kOk);
  EXPECT_EQ(table.unpin(machine.device(), other.data()), 0);
  EXPECT_NE(table.unpin(machine.device(), other.data()), 0);
}

TEST(VirtualDevice, BytesArriveWhenACopyEnds) {
  VirtualMachine machine;
  std::byte* source = machine.pinned(kMiB, 3);
  std::byte* back = machine.pinned(kMiB, 4);
  std::byte* memory = machine.memory(kMiB);
  DeviceStream* stream = machine.stream();
  machine.copy(stream, memory, source, kMiB);
  EXPECT_EQ(memory[0], std::byte{0xFF});  // begun, not ended
  machine.copy(stream, back, memory, kMiB);
  EXPECT_EQ(back[0], std::byte{4});  // not begun
  machine.wait(stream);
  EXPECT_EQ(memory[kMiB - 1], std::byte{3});
  EXPECT_EQ(back[kMiB - 1], std::byte{3});
  EXPECT_EQ(machine.table().fill(stream, memory, 9, 10), 0);
  machine.wait(stream);
  EXPECT_EQ(memory[9], std::byte{9});
  EXPECT_EQ(memory[10], std::byte{3});
}

TEST(VirtualDevice, FreshAndReleasedMemoryHoldNaN) {
  VirtualMachine machine;
  DeviceStream* stream = machine.stream();
  std::byte* memory = machine.memory(100);
  EXPECT_EQ(memory[99], std::byte{0xFF});
  EXPECT_EQ(machine.table().fill(stream, memory, 0, 100), 0);
  machine.wait(stream);
  EXPECT_EQ(machine.table().release(machine.device(), memory), 0);
  EXPECT_EQ(memory[99], std::byte{0xFF});
}

TEST(VirtualDevice, AQueryLetsTimePassUntilItIsDone) {
  VirtualMachine machine(without_bytes());
  DeviceStream* stream = machine.stream();
  DeviceEvent* event = machine.event();
  bool is_done = false;
  EXPECT_EQ(machine.table().query(event, &is_done), 0);
  EXPECT_TRUE(is_done);  // never recorded
  machine.copy(stream, machine.memory(25'000'000), machine.pinned_nowhere(25'000'000), 25'000'000);
  machine.record(stream, event);
  int n_queries = 0;
  for (is_done = false; !is_done; ++n_queries) ASSERT_EQ(machine.table().query(event, &is_done), 0);
  EXPECT_NEAR(n_queries, 1008, 2);  // of a microsecond each
}

TEST(VirtualDevice, ElapsedIsTheTimeBetweenTwoEvents) {
  VirtualMachine machine(without_bytes());
  DeviceStream* stream = machine.stream();
  DeviceEvent* begin = machine.event();
  DeviceEvent* end = machine.event();
  float ms = 0;
  EXPECT_NE(machine.table().elapsed_ms(begin, end, &ms), 0);
  machine.record(stream, begin);
  machine.copy(stream, machine.memory(25'000'000), machine.pinned_nowhere(25'000'000), 25'000'000);
  machine.record(stream, end);
  EXPECT_NE(machine.table().elapsed_ms(begin, end, &ms), 0);
  EXPECT_EQ(machine.table().wait_event(end), 0);
  EXPECT_EQ(machine.table().elapsed_ms(begin, end, &ms), 0);
  EXPECT_NEAR(ms, 1.008, 0.001);
}

TEST(VirtualDevice, CopiesOfOneDirectionQueueAndOfTwoOverlap) {
  const uint64_t bytes = 250'000'000;  // 10 ms each way
  VirtualMachine machine(without_bytes());
  DeviceStream* a = machine.stream();
  DeviceStream* b = machine.stream();
  std::byte* memory = machine.memory(2 * bytes);
  std::byte* host = machine.pinned_nowhere(2 * bytes);
  machine.copy(a, memory, host, bytes);
  machine.copy(b, memory + bytes, host + bytes, bytes);
  machine.wait(a);
  EXPECT_NEAR(machine.now_ms(), 10, 0.1);
  machine.wait(b);
  EXPECT_NEAR(machine.now_ms(), 20, 0.1);
  machine.copy(a, memory, host, bytes);
  machine.copy(b, host + bytes, memory + bytes, bytes);
  machine.wait(a);
  machine.wait(b);
  EXPECT_NEAR(machine.now_ms(), 30, 0.1);
}

TEST(VirtualDevice, AnEventOrdersTwoStreams) {
  VirtualMachine machine(without_bytes());
  DeviceStream* copies = machine.stream();
  DeviceStream* kernels = machine.stream();
  DeviceEvent* arrived = machine.event();
  std::byte* memory = machine.memory(25'000'000);
  machine.copy(copies, memory, machine.pinned_nowhere(25'000'000), 25'000'000);
  machine.record(copies, arrived);
  machine.await(kernels, arrived);
  machine.kernel(kernels, "reads", 0, {touched(memory, 25'000'000)}, {});
  machine.wait(kernels);
  EXPECT_GT(machine.now_ms(), 1.0);
  EXPECT_EQ(machine.hazards(), "");
}

TEST(VirtualDevice, HostWorkAndCopiesShareDram) {
  // Attention of the CPU at 60 GB/s and a copy at 25 of DRAM's 70: 45 are left for the CPU.
  VirtualMachine machine(without_bytes());
  DeviceStream* stream = machine.stream();
  const uint64_t bytes = 900'000'000;
  machine.copy(stream, machine.memory(bytes), machine.pinned_nowhere(bytes), bytes);
  EXPECT_EQ(machine.virtual_device().host_work(
                {.name = "attend", .dram_bytes = 450'000'000, .bytes_per_s = 60e9}),
            0);
  EXPECT_NEAR(machine.now_ms(), 10, 0.1);
}

TEST(VirtualDevice, EffectsAreThereWhenTheKernelEnds) {
  static int n_calls = 0;
  DeviceKernels effects{};
  effects.argmax = [](DeviceStream*, const DeviceArgmaxArgs& args) {
    ++n_calls;
    args.value[0] = args.x[0];
    args.index[0] = 0;
    return 0;
  };
  n_calls = 0;
  VirtualMachine machine({.effects = &effects});
  auto* x = reinterpret_cast<float*>(machine.memory(4));
  auto* value = reinterpret_cast<float*>(machine.memory(4));
  auto* index = reinterpret_cast<int32_t*>(machine.memory(4));
  *index = 5;
  DeviceStream* stream = machine.stream();
  EXPECT_EQ(machine.table().fill(stream, x, 0, 4), 0);
  machine.wait(stream);
  const DeviceArgmaxArgs args{.x = x, .n_rows = 1, .n = 1, .value = value, .index = index};
  EXPECT_EQ(machine.table().kernels.argmax(stream, args), 0);
  EXPECT_EQ(n_calls, 0);
  EXPECT_EQ(*index, -1);  // what will be written is 0xFF until then
  machine.wait(stream);
  EXPECT_EQ(n_calls, 1);
  EXPECT_EQ(*index, 0);
}

TEST(VirtualDevice, WhatIsWrittenInPartKeepsItsOtherBytes) {
  VirtualMachine machine;
  DeviceStream* stream = machine.stream();
  std::byte* memory = machine.memory(3000);
  EXPECT_EQ(machine.table().fill(stream, memory, 1, 3000), 0);
  machine.wait(stream);
  // Read in two parts that touch, written across them; and a part that is only written.
  machine.kernel(stream, "updates", 1, {touched(memory + 500, 500), touched(memory, 500)},
                 {touched(memory + 400, 300), touched(memory + 2000, 1000)});
  EXPECT_EQ(memory[450], std::byte{1});
  EXPECT_EQ(memory[650], std::byte{1});
  EXPECT_EQ(memory[1999], std::byte{1});
  EXPECT_EQ(memory[2000], std::byte{0xFF});
  machine.wait(stream);
}

TEST(VirtualDevice, OpensByTheOrdinalOfItsProfile) {
  const DeviceTable& table = virtual_table();
  EXPECT_EQ(table.abi, kDeviceAbi);
  EXPECT_EQ(table.table_bytes, sizeof(DeviceTable));
  uint32_t n = 0;
  ASSERT_EQ(table.count(&n), 0);
  ASSERT_EQ(n, device_profiles().size());
  for (uint32_t i = 0; i < n; ++i) {
    Device* device = nullptr;
    ASSERT_EQ(table.open(i, &device), 0);
    DeviceFacts facts;
    EXPECT_EQ(table.facts(device, &facts), 0);
    EXPECT_NE(std::string(facts.name).find(device_profiles()[i].title), std::string::npos);
    EXPECT_EQ(facts.capability, device_profiles()[i].capability);
    table.close(device);
  }
  Device* none = nullptr;
  EXPECT_EQ(table.status(table.open(n, &none)), DeviceStatus::kNoDevice);
}

TEST(VirtualDevice, ANullIsDestroyedWithoutAWord) {
  const DeviceTable& table = virtual_table();
  EXPECT_EQ(table.destroy_stream(nullptr), 0);
  EXPECT_EQ(table.destroy_event(nullptr), 0);
  EXPECT_EQ(table.destroy_graph(nullptr), 0);
  VirtualMachine machine;
  EXPECT_EQ(table.release(machine.device(), nullptr), 0);
  EXPECT_EQ(table.unpin(machine.device(), nullptr), 0);
}

TEST(VirtualDevice, TraceHoldsKernelsAndTransfersAtTheirTimes) {
  Trace trace(100);
  VirtualMachine machine({.has_bytes = false, .trace = &trace});
  DeviceStream* stream = machine.stream();
  std::byte* memory = machine.memory(25'000'000);
  machine.copy(stream, memory, machine.pinned_nowhere(25'000'000), 25'000'000);
  machine.kernel(stream, "reads", 123, {touched(memory, 1000)}, {});
  machine.wait(stream);
  const auto events = trace.events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].kind, TraceKind::kRead);
  EXPECT_STREQ(events[0].name, "copy in");
  EXPECT_EQ(events[0].bytes, 25'000'000u);
  EXPECT_EQ(events[1].kind, TraceKind::kOperation);
  EXPECT_EQ(events[1].begin, events[0].end);
  EXPECT_EQ(events[1].detail, 123u);
}

// ---- Closed forms, within 1 %.

/// Layers whose weights come over the link through two slots while another is computed; how long.
double streamed_ms(VirtualMachine& machine, uint64_t n_layers, uint64_t layer_bytes,
                   uint64_t layer_flop) {
  DeviceStream* copies = machine.stream();
  DeviceStream* kernels = machine.stream();
  const std::byte* home = machine.pinned_nowhere(n_layers * layer_bytes);
  std::byte* slots[2] = {machine.memory(layer_bytes), machine.memory(layer_bytes)};
  DeviceEvent* arrived[2] = {machine.event(), machine.event()};
  DeviceEvent* used[2] = {machine.event(), machine.event()};
  for (uint64_t layer = 0; layer < n_layers; ++layer) {
    const uint64_t slot = layer % 2;
    machine.await(copies, used[slot]);
    machine.copy(copies, slots[slot], home + layer * layer_bytes, layer_bytes);
    machine.record(copies, arrived[slot]);
    machine.await(kernels, arrived[slot]);
    machine.kernel(kernels, "layer", layer_flop, {touched(slots[slot], layer_bytes)}, {});
    machine.record(kernels, used[slot]);
  }
  machine.wait(kernels);
  EXPECT_EQ(machine.hazards(), "");
  return machine.now_ms();
}

TEST(VirtualDeviceClosedForm, AllWeightsStreamedTakeTheirBytesOverTheLink) {
  VirtualMachine machine(without_bytes());
  const double ms = streamed_ms(machine, 80, 487'500'000, 1000);  // 39 GB at 25 GB/s
  EXPECT_NEAR(ms, 1560, 15.6);
  const Usage usage = machine.virtual_device().usage();
  EXPECT_EQ(busiest_part({}, usage).part, Part::kLinkIn);
}

TEST(VirtualDeviceClosedForm, WhatIsComputedLongerThanItStreamsTakesTheTimeOfComputing) {
  // 0.1 s of f32 a layer, at the profile's share of the peak, beside 19.5 ms of copying.
  VirtualMachine machine(without_bytes());
  const double rate = machine.virtual_device().profile().f32_rate();
  const double ms = streamed_ms(machine, 40, 487'500'000, static_cast<uint64_t>(0.1 * rate));
  EXPECT_NEAR(ms, 40 * 100 + 19.5, 40);
  EXPECT_EQ(busiest_part({}, machine.virtual_device().usage()).part, Part::kGpu);
}

TEST(VirtualDeviceClosedForm, ABandwidthBoundKernelTakesItsBytesOverTheCardsRate) {
  VirtualMachine machine(without_bytes());
  DeviceStream* stream = machine.stream();
  std::byte* memory = machine.memory(16 * kGiB);
  machine.kernel(stream, "reads", 1, {touched(memory, 16 * kGiB)}, {});
  machine.wait(stream);
  const double wanted_ms = 16.0 * static_cast<double>(kGiB) / (1008e9 * 0.88) * 1e3;
  EXPECT_NEAR(machine.now_ms(), wanted_ms, 0.01 * wanted_ms);
}

TEST(VirtualDeviceClosedForm, AKernelThatReadsPinnedMemoryTakesItsBytesOverTheLink) {
  VirtualMachine machine(without_bytes());
  DeviceStream* stream = machine.stream();
  const std::byte* host = machine.pinned_nowhere(kGiB);
  machine.kernel(stream, "reads", 1, {touched(host, kGiB)}, {});
  machine.wait(stream);
  const double wanted_ms = static_cast<double>(kGiB) / 25e9 * 1e3;
  EXPECT_NEAR(machine.now_ms(), wanted_ms, 0.01 * wanted_ms);
}

TEST(VirtualDeviceClosedForm, TheSlowestOfThreeUsersOfDramWaitsForTheOthers) {
  // Two copies and the CPU want 25 + 25 + 60 of 70: 70 / 3 each until all is moved.
  VirtualMachine machine(without_bytes());
  DeviceStream* in = machine.stream();
  DeviceStream* out = machine.stream();
  const uint64_t bytes = 700'000'000;
  std::byte* memory = machine.memory(2 * bytes);
  machine.copy(in, memory, machine.pinned_nowhere(bytes), bytes);
  machine.copy(out, machine.pinned_nowhere(bytes), memory + bytes, bytes);
  EXPECT_EQ(machine.virtual_device().host_work(
                {.name = "attend", .dram_bytes = bytes, .bytes_per_s = 60e9}),
            0);
  machine.wait(in);
  machine.wait(out);
  EXPECT_NEAR(machine.now_ms(), 30, 0.3);
}

TEST(VirtualDeviceClosedForm, TheSameCallsGiveTheSameEvents) {
  const auto run = [](uint64_t layer_bytes) {
    VirtualMachine machine(without_bytes());
    streamed_ms(machine, 12, layer_bytes, 1000);
    const VirtualClock& clock = machine.virtual_device().clock();
    EXPECT_GT(clock.n_events(), 100u);
    return clock.hash();
  };
  EXPECT_EQ(run(30'000'000), run(30'000'000));
  EXPECT_NE(run(30'000'000), run(30'100'000));
}

}  // namespace
}  // namespace strata::planner
