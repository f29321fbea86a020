// A device that fails in every way that the table can say: each time a named error with a remedy,
// and after a loss no answer any more.
#include "engine/device.h"

#include <gtest/gtest.h>

#include <array>
#include <functional>

#include "base/error.h"
#include "base/host_memory.h"
#include "gpu_attn/cuda_errors.h"
#include "tests/engine/fake_device.h"
#include "tests/engine/thrown_error.h"

namespace strata::engine {
namespace {

using testing::expect_error;
using testing::fake_machine;
using testing::fake_table;

/// A machine of each test's own, which has got everything back at its end.
class DeviceTest : public ::testing::Test {
 protected:
  DeviceTest() { fake_machine() = {}; }
  ~DeviceTest() override { EXPECT_EQ(fake_machine().n_live, 0); }
};

std::string remedy_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.remedy();
  }
  return "no error";
}

DeviceChoice cuda(uint32_t ordinal) {
  return {.kind = DeviceChoice::Kind::kCuda, .ordinal = ordinal, .profile = {}};
}

TEST_F(DeviceTest, GivesBackAllThatWasTakenInAnyOrder) {
  std::optional<OpenDevice> device = OpenDevice::open(fake_table(), 0);
  EXPECT_EQ(device->name(), "cuda:0 (Fake card)");
  const DeviceBuffer buffer = DeviceBuffer::allocate(*device, 100, "a test");
  const HostMemory host = HostMemory::reserve(4096);
  PinnedMemory pinned = PinnedMemory::pin(*device, {host.data(), host.size()});
  EXPECT_EQ(pinned.on_device(host.data() + 64), host.data() + 64 + (uint64_t{1} << 40));
  Stream stream = Stream::create(*device);
  const Event begin = Event::create(*device), end = Event::create(*device);
  stream.begin_capture();
  const Graph graph = stream.end_capture();
  EXPECT_EQ(fake_machine().n_live, 7);
  const PinnedMemory moved = std::move(pinned);
  EXPECT_EQ(moved.host(), host.data());
  device.reset();  // the others still use it
  stream.fill(buffer.bytes(), 7, 100);
  std::array<std::byte, 100> back{};
  stream.copy(back.data(), buffer.bytes(), back.size());
  EXPECT_EQ(back[99], std::byte{7});
  stream.record(begin);
  stream.await(begin);
  stream.run(graph);
  stream.run(&DeviceKernels::norm, DeviceNormArgs{});
  stream.wait();
  end.wait();
  EXPECT_TRUE(end.is_done());
  EXPECT_EQ(end.ms_since(begin), 1.5f);
}

TEST_F(DeviceTest, FullMemoryNamesWhatWantedHowMuch) {
  const OpenDevice device = OpenDevice::open(fake_table(), 0);
  fake_machine().errors["allocate"] = 2;
  const auto act = [&] { (void)DeviceBuffer::allocate(device, 12345, "the weights of layer 3"); };
  expect_error(act, ErrorCode::kOutOfMemory,
               "cuda:0 has no room to hold the weights of layer 3, 12345 bytes: the driver's words",
               "cuda:0");
  EXPECT_NE(remedy_of(act).find("--device none"), std::string::npos);
  EXPECT_FALSE(device.is_lost());
  fake_machine().errors.clear();
  EXPECT_EQ(DeviceBuffer::allocate(device, 100, "less").size(), 100u);
}

TEST_F(DeviceTest, RefusedPinIsNoRoomOfTheMachine) {
  const OpenDevice device = OpenDevice::open(fake_table(), 0);
  const HostMemory host = HostMemory::reserve(1 << 21);
  fake_machine().errors["pin"] = gpu_attn::pin_error(2);
  const auto act = [&] { (void)PinnedMemory::pin(device, {host.data(), host.size()}); };
  expect_error(act, ErrorCode::kOutOfMemory,
               "the system refused to pin 2097152 bytes of memory for cuda:0", "cuda:0");
  EXPECT_NE(remedy_of(act).find("ulimit -l"), std::string::npos);
  EXPECT_FALSE(device.is_lost());
}

/// One way to use a device, by the name of the table's function.
struct Use {
  std::string name;
  std::function<void()> act;
};

TEST_F(DeviceTest, LostOnceItGivesNoAnswerAgain) {
  for (const int number : {700, 702, 709, 710, 714, 719, 999}) {
    for (const std::string lost_by :
         {"copy", "fill", "norm", "launch_graph", "record", "query", "wait_stream", "wait_event",
          "allocate", "create_event", "elapsed_ms", "end_capture"}) {
      SCOPED_TRACE(lost_by + " gives " + std::to_string(number));
      fake_machine() = {};
      const OpenDevice device = OpenDevice::open(fake_table(), 0);
      Stream stream = Stream::create(device);
      const Event event = Event::create(device);
      const Graph graph = stream.end_capture();
      std::array<std::byte, 8> bytes{};
      const std::vector<Use> uses = {
          {"copy", [&] { stream.copy(bytes.data(), bytes.data() + 4, 4); }},
          {"fill", [&] { stream.fill(bytes.data(), 1, 8); }},
          {"norm", [&] { stream.run(&DeviceKernels::norm, DeviceNormArgs{}); }},
          {"launch_graph", [&] { stream.run(graph); }},
          {"record", [&] { stream.record(event); }},
          {"query", [&] { (void)event.is_done(); }},
          {"wait_stream", [&] { stream.wait(); }},
          {"wait_event", [&] { event.wait(); }},
          {"allocate", [&] { (void)DeviceBuffer::allocate(device, 8, "a test"); }},
          {"create_event", [&] { (void)Event::create(device); }},
          {"elapsed_ms", [&] { (void)event.ms_since(event); }},
          {"end_capture", [&] { (void)stream.end_capture(); }},
      };
      fake_machine().errors[lost_by] = number;
      for (const Use& use : uses) {
        if (use.name == lost_by)
          expect_error(use.act, ErrorCode::kDeviceLost, "error " + std::to_string(number),
                       "cuda:0");
      }
      EXPECT_TRUE(device.is_lost());
      fake_machine().errors.clear();
      fake_machine().calls.clear();
      for (const Use& use : uses) {
        expect_error(use.act, ErrorCode::kDeviceLost, "error " + std::to_string(number), "cuda:0");
        EXPECT_NE(remedy_of(use.act), "");
      }
      EXPECT_TRUE(fake_machine().calls.empty()) << fake_machine().calls.begin()->first;
    }
  }
}

TEST_F(DeviceTest, OneThatCannotBeOpenedSaysWhy) {
  const auto act = [] { (void)OpenDevice::open(fake_table(), 0); };
  fake_machine().capabilities = {75};
  expect_error(act, ErrorCode::kNoDevice,
               "cuda:0 cannot be used: its compute capability is below 8.0", "cuda:0");
  EXPECT_NE(remedy_of(act).find("8.0"), std::string::npos);
  fake_machine().capabilities = {90};
  fake_machine().errors["open"] = 35;
  expect_error(act, ErrorCode::kNoDevice, "cannot be used: the driver's words", "cuda:0");
  EXPECT_NE(remedy_of(act).find("newer NVIDIA driver"), std::string::npos);
  fake_machine().errors["open"] = 46;
  expect_error(act, ErrorCode::kNoDevice, "cuda:0 cannot be used: the driver's words", "cuda:0");
  EXPECT_EQ(remedy_of(act),
            "close the program that holds it (nvidia-smi names it), give the number of another "
            "device, or use --device none to run on the CPU alone");
  fake_machine().errors["open"] = 209;  // the module has no code for it
  expect_error(act, ErrorCode::kNoDevice, "cannot be used", "cuda:0");
  fake_machine().errors = {{"facts", 700}};
  expect_error(act, ErrorCode::kDeviceLost, "failed to open", "cuda:0");
}

TEST_F(DeviceTest, OneThatIsNotThereIsRefusedWithThoseThatAre) {
  const auto open = [](uint32_t ordinal) {
    (void)open_chosen_device(cuda(ordinal), gpu_attn::count_devices(fake_table()));
  };
  open(0);
  expect_error([&] { open(7); }, ErrorCode::kNoDevice,
               "there is no cuda:7: this machine has cuda:0", "--device");
  EXPECT_EQ(remedy_of([&] { open(7); }), "give cuda:0, or auto or none");
  fake_machine().capabilities = {90, 86, 86};
  open(2);
  expect_error([&] { open(3); }, ErrorCode::kNoDevice, "this machine has cuda:0 to cuda:2",
               "--device");
  for (const int error : {35, 100, gpu_attn::kNoDriverError}) {
    fake_machine().errors["count"] = error;
    expect_error([&] { open(0); }, ErrorCode::kNoDevice,
                 "cuda:0 cannot be used: no CUDA device: ", "cuda:0");
    EXPECT_NE(remedy_of([&] { open(0); }).find("--device none"), std::string::npos);
  }
}

TEST_F(DeviceTest, AutoTakesTheFirstThatCanBeUsedAndElseSaysWhyOnce) {
  const auto choose = [] { return open_chosen_device({}, gpu_attn::count_devices(fake_table())); };
  fake_machine().capabilities = {61, 86};
  ChosenDevice chosen = choose();
  ASSERT_TRUE(chosen.device.has_value());
  EXPECT_EQ(chosen.device->ordinal(), 1u);
  EXPECT_EQ(chosen.note, "");
  fake_machine().capabilities = {61, 75};
  chosen = choose();
  EXPECT_FALSE(chosen.device);
  EXPECT_EQ(chosen.note,
            "no CUDA device: cuda:0 cannot be used: its compute capability is below 8.0");
  fake_machine().capabilities = {};
  EXPECT_EQ(choose().note, "no CUDA device: the machine has none");
  fake_machine().errors["count"] = gpu_attn::kNoDriverError;
  EXPECT_EQ(choose().note, "no CUDA device: no NVIDIA driver is installed");
  fake_machine().errors["count"] = 35;
  EXPECT_EQ(choose().note, "no CUDA device: the NVIDIA driver is too old: the driver's words");
  EXPECT_FALSE(choose().device);
}

TEST_F(DeviceTest, NoneAsksForNothing) {
  const DeviceChoice none{.kind = DeviceChoice::Kind::kNone, .ordinal = 0, .profile = {}};
  gpu_attn::CudaDevices devices;
  devices.reason = "no CUDA device: none at all";
  const ChosenDevice chosen = open_chosen_device(none, devices);
  EXPECT_FALSE(chosen.device);
  EXPECT_EQ(chosen.note, "");
}

using DeviceDeathTest = DeviceTest;

TEST_F(DeviceDeathTest, PartOfAPageIsNotPinned) {
  const OpenDevice device = OpenDevice::open(fake_table(), 0);
  const HostMemory host = HostMemory::reserve(8192);
  EXPECT_DEATH((void)PinnedMemory::pin(device, {host.data() + 64, 4096}), "no whole pages");
}

}  // namespace
}  // namespace strata::engine
