#include "planner/virtual/virtual_nvme.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/planner/virtual_machine.h"

namespace strata::planner {
namespace {

class Disk {
 public:
  explicit Disk(std::vector<NvmeFault> script = {})
      : flows_(clock_, {25e9, 25e9, 70e9, 7e9}),
        nvme_(clock_, flows_, device_profile("rtx4090"), std::move(script)) {}

  void read(uint64_t bytes) {
    nvme_.read(bytes, [this](NvmeOutcome outcome, uint64_t n) {
      outcomes_ += "oesa"[static_cast<size_t>(outcome)];
      bytes_ += n;
      ends_us_.push_back(static_cast<double>(clock_.now().count()) / 1e3);
    });
  }
  void run() {
    while (clock_.run_next()) continue;
  }

  std::string outcomes_;  // o k, e rror, s hort, a gain
  uint64_t bytes_ = 0;
  std::vector<double> ends_us_;
  VirtualClock clock_;

 private:
  SharedFlows flows_;
  VirtualNvme nvme_;
};

TEST(VirtualNvme, AReadTakesLatencyAndBytesOverRate) {
  Disk disk;
  disk.read(700'000);
  disk.run();
  EXPECT_NEAR(disk.ends_us_[0], 80 + 100, 0.01);
}

TEST(VirtualNvme, ManyReadsRunAtTheRateOfTheDisk) {
  Disk disk;
  for (int i = 0; i < 2000; ++i) disk.read(1'000'000);
  disk.run();
  EXPECT_NEAR(disk.ends_us_.back(), 2e9 / 7e9 * 1e6, 0.01 * 2e9 / 7e9 * 1e6);
}

TEST(VirtualNvme, SmallReadsAreBoundByLatencyAndDepth) {
  Disk disk;
  const int n = 6400;
  for (int i = 0; i < n; ++i) disk.read(4096);
  disk.run();
  // 64 at a time: 80 us of latency, then 64 * 4096 bytes at 7 GB/s.
  const double wanted_us = n / 64.0 * (80 + 64 * 4096 / 7e9 * 1e6);
  EXPECT_NEAR(disk.ends_us_.back(), wanted_us, 0.01 * wanted_us);
}

TEST(VirtualNvme, FaultsComeAsTheScriptSays) {
  Disk disk({{.request = 1, .outcome = NvmeOutcome::kIoError},
             {.request = 2, .outcome = NvmeOutcome::kShort},
             {.request = 3, .outcome = NvmeOutcome::kTryAgain},
             {.request = 4, .late_us = 9000}});
  for (int i = 0; i < 6; ++i) {
    disk.read(1000);
    disk.run();
  }
  EXPECT_EQ(disk.outcomes_, "oesaoo");
  EXPECT_EQ(disk.bytes_, 1000u + 500 + 1000 + 1000);
  EXPECT_NEAR(disk.ends_us_[4] - disk.ends_us_[3], 9080, 1);
  EXPECT_EQ(disk.ends_us_[3], disk.ends_us_[2]);  // refused at once
}

TEST(VirtualNvme, ASeedDrawsTheSameScriptAgainInTheSharesAskedFor) {
  const NvmeFaultShares shares{.io_error = 0.1, .short_read = 0.2, .try_again = 0.05, .late = 0.01};
  const auto script = draw_nvme_faults(7, 20000, shares);
  const auto again = draw_nvme_faults(7, 20000, shares);
  ASSERT_EQ(script.size(), again.size());
  uint64_t n_errors = 0, n_late = 0;
  for (size_t i = 0; i < script.size(); ++i) {
    EXPECT_EQ(script[i].request, again[i].request);
    EXPECT_EQ(script[i].outcome, again[i].outcome);
    n_errors += script[i].outcome == NvmeOutcome::kIoError;
    n_late += script[i].late_us > 0;
  }
  // Binomial with n = 20,000: five standard deviations, of one seed.
  EXPECT_NEAR(static_cast<double>(n_errors), 2000, 5 * 43);
  EXPECT_NEAR(static_cast<double>(n_late), 200, 5 * 15);
  EXPECT_NE(draw_nvme_faults(8, 20000, shares).size(), script.size());
  EXPECT_TRUE(draw_nvme_faults(7, 20000, {}).empty());
}

TEST(VirtualNvme, ReadsBringBytesWhenTheyEndAndNotBefore) {
  testing::VirtualMachine machine;
  std::byte* slot = machine.pinned(4096, 1);
  const std::vector<std::byte> disk(4096, std::byte{7});
  uint64_t read = 0;
  ASSERT_EQ(machine.virtual_device().start_read(slot, disk.data(), 4096, &read), 0);
  EXPECT_EQ(slot[0], std::byte{0xFF});
  NvmeOutcome outcome = NvmeOutcome::kIoError;
  uint64_t bytes = 0;
  ASSERT_EQ(machine.virtual_device().wait_read(read, &outcome, &bytes), 0);
  EXPECT_EQ(outcome, NvmeOutcome::kOk);
  EXPECT_EQ(bytes, 4096u);
  EXPECT_EQ(slot[4095], std::byte{7});
}

}  // namespace
}  // namespace strata::planner
