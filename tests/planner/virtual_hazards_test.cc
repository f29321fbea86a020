// Each way to use a device wrongly is found by its name, and its correct twin is not.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/planner/virtual_machine.h"

namespace strata::planner {
namespace {

using testing::kMiB;
using testing::touched;
using testing::VirtualMachine;

/// The machine found `error`, said who and what, and answers with it from now on.
void expect_hazard(VirtualMachine& machine, VirtualError error,
                   const std::vector<std::string>& words) {
  const auto& hazards = machine.virtual_device().hazards();
  ASSERT_FALSE(hazards.empty());
  EXPECT_EQ(hazards[0].error, error) << machine.hazards();
  for (const std::string& word : words)
    EXPECT_NE(hazards[0].text.find(word), std::string::npos) << hazards[0].text;
  void* memory = nullptr;
  const int number = machine.table().allocate(machine.device(), 1, &memory);
  EXPECT_EQ(number, number_of(error));
  EXPECT_EQ(machine.table().status(number), DeviceStatus::kLost);
}

TEST(VirtualHazards, AKernelThatDoesNotAwaitItsCopyIsARace) {
  for (const bool awaits : {true, false}) {
    VirtualMachine machine;
    DeviceStream* copies = machine.stream();
    DeviceStream* kernels = machine.stream();
    DeviceEvent* arrived = machine.event();
    std::byte* memory = machine.memory(kMiB);
    machine.copy(copies, memory, machine.pinned(kMiB), kMiB);
    machine.record(copies, arrived);
    if (awaits) machine.await(kernels, arrived);
    machine.kernel(kernels, "attend", 1, {touched(memory + 1000, 1)}, {});
    machine.table().wait_stream(kernels);
    if (awaits) {
      EXPECT_EQ(machine.hazards(), "");
    } else {
      expect_hazard(machine, VirtualError::kRace,
                    {"attend #3", "reads 1 bytes at device + 0x3e8", "copy in #1", "no event"});
    }
  }
}

TEST(VirtualHazards, ARaceIsFoundAlsoWhereTheTimingHidesIt) {
  // The copy has long ended when the kernel is queued; only luck has ordered them.
  for (const bool waits : {true, false}) {
    VirtualMachine machine;
    DeviceStream* copies = machine.stream();
    DeviceStream* others = machine.stream();
    DeviceStream* kernels = machine.stream();
    std::byte* memory = machine.memory(kMiB);
    std::byte* other = machine.memory(64 * kMiB);
    machine.copy(copies, memory, machine.pinned(4096), 4096);
    machine.copy(others, other, machine.pinned(64 * kMiB), 64 * kMiB);
    machine.wait(others);
    if (waits) machine.wait(copies);
    EXPECT_EQ(memory[0], std::byte{0});  // it has arrived
    machine.kernel(kernels, "attend", 1, {touched(memory, 4096)}, {});
    machine.table().wait_stream(kernels);
    if (waits) {
      EXPECT_EQ(machine.hazards(), "");
    } else {
      expect_hazard(machine, VirtualError::kRace, {"attend", "copy in"});
    }
  }
}

TEST(VirtualHazards, AnAwaitOfAnEarlierRecordingDoesNotOrderALaterCopy) {
  for (const bool awaits_second : {true, false}) {
    VirtualMachine machine;
    DeviceStream* copies = machine.stream();
    DeviceStream* kernels = machine.stream();
    DeviceEvent* arrived = machine.event();
    std::byte* memory = machine.memory(2 * kMiB);
    std::byte* host = machine.pinned(2 * kMiB);
    machine.copy(copies, memory, host, kMiB);
    machine.record(copies, arrived);
    if (!awaits_second) machine.await(kernels, arrived);
    machine.copy(copies, memory + kMiB, host + kMiB, kMiB);
    machine.record(copies, arrived);
    if (awaits_second) machine.await(kernels, arrived);
    machine.kernel(kernels, "reads", 1, {touched(memory, 2 * kMiB)}, {});
    machine.table().wait_stream(kernels);
    if (awaits_second) {
      EXPECT_EQ(machine.hazards(), "");
    } else {
      expect_hazard(machine, VirtualError::kRace, {"reads", "copy in #4"});
    }
  }
}

TEST(VirtualHazards, ASlotFilledAgainBeforeItsReaderHasEndedIsARace) {
  for (const bool awaits : {true, false}) {
    VirtualMachine machine;
    DeviceStream* copies = machine.stream();
    DeviceStream* kernels = machine.stream();
    DeviceEvent* arrived = machine.event();
    DeviceEvent* used = machine.event();
    std::byte* slot = machine.memory(kMiB);
    std::byte* host = machine.pinned(2 * kMiB);
    machine.copy(copies, slot, host, kMiB);
    machine.record(copies, arrived);
    machine.await(kernels, arrived);
    machine.kernel(kernels, "layer", 1, {touched(slot, kMiB)}, {});
    machine.record(kernels, used);
    if (awaits) machine.await(copies, used);
    machine.copy(copies, slot, host + kMiB, kMiB);
    machine.table().wait_stream(copies);
    if (awaits) {
      EXPECT_EQ(machine.hazards(), "");
    } else {
      expect_hazard(machine, VirtualError::kRace, {"copy in", "writes", "layer", "reads"});
    }
  }
}

TEST(VirtualHazards, ASourceUsedAgainWhileItsCopyRunsIsNamed) {
  for (const bool waits : {true, false}) {
    VirtualMachine machine;
    DeviceStream* stream = machine.stream();
    std::byte* memory = machine.memory(kMiB);
    std::byte* staging = machine.pinned(kMiB, 1);
    machine.copy(stream, memory, staging, kMiB);
    if (waits) machine.wait(stream);
    staging[kMiB - 1] = std::byte{2};
    machine.table().wait_stream(stream);
    if (waits) {
      EXPECT_EQ(machine.hazards(), "");
    } else {
      expect_hazard(machine, VirtualError::kSourceChanged, {"copy in #1", "while the copy ran"});
    }
  }
}

TEST(VirtualHazards, ASourceUsedAgainWhileItsCopyIsQueuedIsNamed) {
  for (const bool waits : {true, false}) {
    VirtualMachine machine;
    DeviceStream* stream = machine.stream();
    std::byte* memory = machine.memory(2 * kMiB);
    std::byte* first = machine.pinned(kMiB, 1);
    std::byte* second = machine.pinned(kMiB, 1);
    machine.copy(stream, memory, first, kMiB);
    machine.copy(stream, memory + kMiB, second, kMiB);
    if (waits) machine.wait(stream);
    second[5] = std::byte{2};
    machine.table().wait_stream(stream);
    if (waits) {
      EXPECT_EQ(machine.hazards(), "");
    } else {
      expect_hazard(machine, VirtualError::kSourceChanged, {"copy in #2", "stood in its queue"});
    }
  }
}

TEST(VirtualHazards, ASourceThatAnotherCopyFillsIsNoChangeOfTheHost) {
  VirtualMachine machine;
  DeviceStream* stream = machine.stream();
  std::byte* a = machine.memory(kMiB);
  std::byte* b = machine.memory(kMiB);
  std::byte* bounce = machine.pinned(kMiB, 1);
  EXPECT_EQ(machine.table().fill(stream, a, 7, kMiB), 0);
  machine.copy(stream, bounce, a, kMiB);
  machine.copy(stream, b, bounce, kMiB);  // asked for while the bounce buffer holds ones
  machine.wait(stream);
  EXPECT_EQ(b[0], std::byte{7});
  machine.copy(stream, bounce, a, kMiB);  // and while it is being written
  machine.copy(stream, b, bounce, kMiB);
  machine.wait(stream);
  EXPECT_EQ(machine.hazards(), "");
}

TEST(VirtualHazards, MemoryReleasedUnderAQueuedOperationIsNamed) {
  for (const bool waits : {true, false}) {
    VirtualMachine machine;
    DeviceStream* stream = machine.stream();
    std::byte* other = machine.memory(kMiB);
    std::byte* memory = machine.memory(kMiB);
    std::byte* host = machine.pinned(kMiB);
    machine.copy(stream, other, host, kMiB);
    machine.copy(stream, memory, host, kMiB);
    if (waits) machine.wait(stream);
    EXPECT_EQ(machine.table().release(machine.device(), memory), 0);
    machine.table().wait_stream(stream);
    if (waits) {
      EXPECT_EQ(machine.hazards(), "");
    } else {
      expect_hazard(machine, VirtualError::kReleased, {"copy in #2", "device + 0x200000"});
    }
  }
}

TEST(VirtualHazards, MemoryReleasedUnderARunningOperationIsARace) {
  VirtualMachine machine;
  DeviceStream* stream = machine.stream();
  std::byte* memory = machine.memory(kMiB);
  machine.copy(stream, memory, machine.pinned(kMiB), kMiB);
  EXPECT_EQ(machine.table().release(machine.device(), memory), number_of(VirtualError::kRace));
  expect_hazard(machine, VirtualError::kRace, {"release", "(host)", "copy in #1"});
}

TEST(VirtualHazards, MemoryTakenAgainIsNotWhatAQueuedOperationMeant) {
  VirtualMachine machine;
  DeviceStream* stream = machine.stream();
  std::byte* other = machine.memory(kMiB);
  std::byte* memory = machine.memory(kMiB);
  std::byte* host = machine.pinned(kMiB);
  machine.copy(stream, other, host, kMiB);
  machine.copy(stream, memory, host, kMiB);
  EXPECT_EQ(machine.table().release(machine.device(), memory), 0);
  EXPECT_EQ(machine.memory(kMiB), memory);
  machine.table().wait_stream(stream);
  expect_hazard(machine, VirtualError::kReleased, {"copy in #2", "taken again"});
}

TEST(VirtualHazards, MemoryUnpinnedUnderAQueuedCopyIsNamed) {
  VirtualMachine machine;
  DeviceStream* stream = machine.stream();
  std::byte* memory = machine.memory(2 * kMiB);
  std::byte* host = machine.pinned(kMiB);
  std::byte* gone = machine.pinned(kMiB);
  machine.copy(stream, memory, host, kMiB);
  machine.copy(stream, memory + kMiB, gone, kMiB);
  EXPECT_EQ(machine.table().unpin(machine.device(), gone), 0);
  machine.table().wait_stream(stream);
  expect_hazard(machine, VirtualError::kUnpinned, {"copy in #2"});
}

TEST(VirtualHazards, AnAccessBeyondItsPlaceIsNamed) {
  for (const uint64_t bytes : {uint64_t{1000}, uint64_t{1001}}) {
    VirtualMachine machine;
    DeviceStream* stream = machine.stream();
    std::byte* memory = machine.memory(1000);
    machine.table().fill(stream, memory, 0, bytes);
    machine.table().wait_stream(stream);
    if (bytes == 1000) {
      EXPECT_EQ(machine.hazards(), "");
    } else {
      expect_hazard(machine, VirtualError::kOverrun, {"fill #1", "1001 bytes"});
    }
  }
}

TEST(VirtualHazards, AKernelsPointerIntoUnpinnedMemoryIsNamed) {
  VirtualMachine machine;
  DeviceStream* stream = machine.stream();
  const std::vector<float> host(16);
  machine.kernel(stream, "norm", 1, {touched(host.data(), 64)}, {});
  machine.table().wait_stream(stream);
  expect_hazard(machine, VirtualError::kUnpinned, {"norm #1"});
}

TEST(VirtualHazards, HostAndDeviceOnTheSameBytesAreARaceUnlessTheHostWaited) {
  for (const bool waits : {true, false}) {
    VirtualMachine machine;
    DeviceStream* stream = machine.stream();
    std::byte* host = machine.pinned(kMiB);
    std::byte* memory = machine.memory(kMiB);
    EXPECT_EQ(machine.table().fill(stream, memory, 0, kMiB), 0);
    machine.copy(stream, host, memory, kMiB);
    if (waits) machine.wait(stream);
    const HostWork work{.name = "cpu attend",
                        .dram_bytes = kMiB,
                        .bytes_per_s = 60e9,
                        .reads = {{reinterpret_cast<uint64_t>(host), kMiB}}};
    EXPECT_EQ(machine.virtual_device().host_work(work) == 0, waits);
    machine.table().wait_stream(stream);
    EXPECT_EQ(machine.hazards().empty(), waits) << machine.hazards();
    if (!waits) expect_hazard(machine, VirtualError::kRace, {"cpu attend", "copy out"});
  }
}

TEST(VirtualHazards, TwoReadsOfTheDiskIntoOneSlotAreARace) {
  for (const bool waits : {true, false}) {
    VirtualMachine machine;
    std::byte* slot = machine.pinned(4096);
    const auto read = [&] {
      uint64_t number = 0;
      machine.virtual_device().start_read(slot, nullptr, 4096, &number);
      return number;
    };
    const auto wait = [&](uint64_t number) {
      NvmeOutcome outcome = NvmeOutcome::kOk;
      uint64_t bytes = 0;
      machine.virtual_device().wait_read(number, &outcome, &bytes);
    };
    const uint64_t first = read();
    if (waits) wait(first);
    read();
    if (waits) {
      EXPECT_EQ(machine.hazards(), "");
    } else {
      expect_hazard(machine, VirtualError::kRace, {"disk read #2", "disk read #1"});
    }
  }
}

TEST(VirtualHazards, ACopyOutOfASlotThatTheDiskFillsWaitsForTheRead) {
  for (const bool waits : {true, false}) {
    VirtualMachine machine;
    DeviceStream* stream = machine.stream();
    std::byte* slot = machine.pinned(4096);
    std::byte* memory = machine.memory(4096);
    const std::vector<std::byte> disk(4096, std::byte{5});
    uint64_t number = 0;
    ASSERT_EQ(machine.virtual_device().start_read(slot, disk.data(), 4096, &number), 0);
    NvmeOutcome outcome = NvmeOutcome::kOk;
    uint64_t bytes = 0;
    if (waits) machine.virtual_device().wait_read(number, &outcome, &bytes);
    machine.table().copy(stream, memory, slot, 4096);
    machine.table().wait_stream(stream);
    if (waits) {
      EXPECT_EQ(memory[0], std::byte{5});
    } else {
      expect_hazard(machine, VirtualError::kRace, {"copy in #2", "disk read #1"});
    }
  }
}

// ---- Refused at once, with nothing queued.

TEST(VirtualRefusals, TheDefaultStreamIsForbidden) {
  VirtualMachine machine;
  const DeviceTable& table = machine.table();
  std::byte* memory = machine.memory(4096);
  std::byte* host = machine.pinned(4096);
  DeviceEvent* event = machine.event();
  const int wanted = number_of(VirtualError::kDefaultStream);
  DeviceGraph* graph = nullptr;
  EXPECT_EQ(table.copy(nullptr, memory, host, 4096), wanted);
  EXPECT_EQ(table.fill(nullptr, memory, 0, 4096), wanted);
  EXPECT_EQ(table.record(nullptr, event), wanted);
  EXPECT_EQ(table.await(nullptr, event), wanted);
  EXPECT_EQ(table.wait_stream(nullptr), wanted);
  EXPECT_EQ(table.begin_capture(nullptr), wanted);
  EXPECT_EQ(table.end_capture(nullptr, &graph), wanted);
  EXPECT_EQ(table.launch_graph(nullptr, graph), wanted);
  EXPECT_EQ(table.kernels.quantize(nullptr, {}), wanted);
  EXPECT_EQ(table.status(wanted), DeviceStatus::kFailed);
  EXPECT_EQ(table.copy(machine.stream(), memory, host, 4096), 0);
}

TEST(VirtualRefusals, ACopyOfPageableMemoryIsRefused) {
  VirtualMachine machine;
  const DeviceTable& table = machine.table();
  DeviceStream* stream = machine.stream();
  std::byte* memory = machine.memory(4096);
  std::vector<std::byte> host(4096);
  const int wanted = number_of(VirtualError::kPageableCopy);
  EXPECT_EQ(table.copy(stream, memory, host.data(), 4096), wanted);
  EXPECT_EQ(table.copy(stream, host.data(), memory, 4096), wanted);
  std::byte* pinned = machine.pinned(4096);
  EXPECT_EQ(table.copy(stream, memory, pinned, 4097), wanted);  // its end is not pinned
  EXPECT_EQ(table.copy(stream, memory, pinned, 4096), 0);
  machine.wait(stream);
}

TEST(VirtualRefusals, ACopyFromHostToHostIsNotTheDevices) {
  VirtualMachine machine;
  std::byte* host = machine.pinned(8192);
  EXPECT_EQ(machine.table().copy(machine.stream(), host, host + 4096, 4096),
            number_of(VirtualError::kHostCopy));
}

TEST(VirtualRefusals, WhatWasDestroyedIsGone) {
  VirtualMachine machine;
  const DeviceTable& table = machine.table();
  DeviceStream* stream = machine.stream();
  DeviceStream* other = machine.stream();
  DeviceEvent* event = machine.event();
  std::byte* memory = machine.memory(16);
  EXPECT_EQ(table.destroy_event(event), 0);
  EXPECT_EQ(table.destroy_stream(stream), 0);
  const int wanted = number_of(VirtualError::kGone);
  EXPECT_EQ(table.fill(stream, memory, 0, 16), wanted);
  EXPECT_EQ(table.wait_stream(stream), wanted);
  EXPECT_EQ(table.record(other, event), wanted);
  bool is_done = false;
  EXPECT_EQ(table.query(event, &is_done), wanted);
}

TEST(VirtualRefusals, MemoryIsGivenBackOnceAndByItsBeginning) {
  VirtualMachine machine;
  const DeviceTable& table = machine.table();
  std::byte* memory = machine.memory(4096);
  const int wanted = number_of(VirtualError::kUnknownPlace);
  EXPECT_EQ(table.release(machine.device(), memory + 256), wanted);
  EXPECT_EQ(table.release(machine.device(), memory), 0);
  EXPECT_EQ(table.release(machine.device(), memory), wanted);
}

TEST(VirtualRefusals, EveryErrorHasWordsOfItsOwn) {
  std::vector<std::string> all;
  for (int number = 0; number < 200; ++number) {
    const std::string text = virtual_message(number);
    if (text == "unknown error") continue;
    EXPECT_TRUE(std::ranges::find(all, text) == all.end()) << text;
    EXPECT_EQ(virtual_status(number) == DeviceStatus::kOk, number == 0);
    all.push_back(text);
  }
  EXPECT_EQ(all.size(), 19u);
}

}  // namespace
}  // namespace strata::planner
