// Every small case of the kernels, run by the emulator in each order of threads. The orders must
// agree bit for bit: a difference is a race.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <memory>
#include <string>

#include "tests/gpu_attn/under_test.h"
#include "tests/gpu_emu/emulated_device.h"

namespace strata::gpu_test {
namespace {

uint64_t copied_hash;  // of all bytes that left the device

/// FNV-1a over words of 8 bytes, the last filled up with zeros.
void add_to_hash(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto piece = bytes.first(std::min<size_t>(bytes.size(), 8));
    uint64_t word = 0;
    std::memcpy(&word, piece.data(), piece.size());
    copied_hash = (copied_hash ^ word) * 0x100000001b3u;
    bytes = bytes.subspan(piece.size());
  }
}

/// As the device's own, and takes note of results: what is copied to the device holds addresses,
/// which differ from run to run.
int copy_and_hash(DeviceStream* stream, void* to, const void* from, uint64_t bytes) {
  if (gpu_emu::is_in_memory(stream, from))
    add_to_hash({static_cast<const std::byte*>(from), bytes});
  return gpu_emu::emulated_device().copy(stream, to, from, bytes);
}

class EmulatedCase : public ::testing::Test {
 public:
  explicit EmulatedCase(GpuCase one) : case_(std::move(one)) {}

  void TestBody() override {
    DeviceTable table = gpu_emu::emulated_device();
    table.copy = copy_and_hash;
    uint64_t first_hash = 0;
    for (uint32_t ordinal = 0; ordinal < gpu_emu::kEmulatedDevices; ++ordinal) {
      SCOPED_TRACE(case_.name + ", order " + std::to_string(ordinal));
      Device* device = nullptr;
      ASSERT_EQ(0, table.open(ordinal, &device));
      const std::unique_ptr<Device, void (*)(Device*)> closes(device, table.close);
      copied_hash = 0xcbf29ce484222325u;
      CaseReport report;
      try {
        UnderTest under_test(table, device);
        case_.run(under_test, report);
      } catch (const std::exception& error) {
        FAIL() << error.what();
      }
      EXPECT_EQ("", report.failure());
      EXPECT_GT(report.n_compared(), 0u);
      if (ordinal == 0) first_hash = copied_hash;
      EXPECT_EQ(first_hash, copied_hash) << "the order of threads changes the results";
    }
  }

 private:
  GpuCase case_;
};

/// "attend/f16/1000 positions": suite "attend", test "f16_1000_positions".
void register_case(const GpuCase& one) {
  const size_t slash = one.name.find('/');
  const std::string suite = "Gpu_" + one.name.substr(0, slash);
  std::string name = slash == std::string::npos ? "case" : one.name.substr(slash + 1);
  std::ranges::replace_if(
      name, [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  testing::RegisterTest(suite.c_str(), name.c_str(), nullptr, nullptr, __FILE__, __LINE__,
                        [one]() -> ::testing::Test* { return new EmulatedCase(one); });
}

}  // namespace
}  // namespace strata::gpu_test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (const auto& one : strata::gpu_test::all_cases()) {
    if (one.is_small) strata::gpu_test::register_case(one);
  }
  return RUN_ALL_TESTS();
}
