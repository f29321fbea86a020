#include "tiers/simulated_faults.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <random>

#include "tests/tiers/simulated_disk.h"

namespace strata::tiers {
namespace {

using std::chrono::nanoseconds;

// 40,000 requests of each direction; a binomial count leaves five standard deviations once in two
// million runs, and the seed is fixed.
TEST(SimulatedFaults, EachFaultComesAtItsRate) {
  SimulatedDisk settings{.seed = 3};
  settings.faults = {.short_read = 0.01,
                     .ended_early = 0.02,
                     .read_error = 0.03,
                     .bit_flip = 0.04,
                     .misdirected_read = 0.05,
                     .short_write = 0.06,
                     .write_error = 0.01,
                     .no_space = 0.02,
                     .torn_write = 0.03,
                     .misdirected_write = 0.04,
                     .lost_write = 0.05,
                     .stall = 0.06};
  DiskOfOneFile disk(settings);
  constexpr int kEach = 40'000;
  std::map<IoStatus, int> statuses;
  for (int i = 0; i < kEach; ++i) {
    ++statuses[disk.write(static_cast<uint32_t>(i % 64), static_cast<uint8_t>(i)).status];
    ++statuses[disk.read(static_cast<uint32_t>(i % 64)).status];
  }
  const auto expect_rate = [](uint64_t found, double rate, double n) {
    EXPECT_NEAR(static_cast<double>(found), n * rate, 5 * std::sqrt(n * rate * (1 - rate)));
  };
  const std::map<FaultKind, double> rates = {
      {FaultKind::kShortRead, 0.01},        {FaultKind::kEndedEarly, 0.02},
      {FaultKind::kReadError, 0.03},        {FaultKind::kBitFlip, 0.04},
      {FaultKind::kMisdirectedRead, 0.05},  {FaultKind::kWriteError, 0.01},
      {FaultKind::kNoSpace, 0.02},          {FaultKind::kTornWrite, 0.03},
      {FaultKind::kMisdirectedWrite, 0.04}, {FaultKind::kLostWrite, 0.05},
      {FaultKind::kShortWrite, 0.06}};
  uint64_t sum = disk.io.injected(FaultKind::kStall);
  for (const auto& [kind, rate] : rates) {
    SCOPED_TRACE(fault_kind_name(kind));
    expect_rate(disk.io.injected(kind), rate, kEach);
    sum += disk.io.injected(kind);
  }
  expect_rate(disk.io.injected(FaultKind::kStall), 0.06, 2 * kEach);
  EXPECT_EQ(disk.io.injected_total(), sum);
  EXPECT_EQ(static_cast<uint64_t>(statuses[IoStatus::kDeviceError]),
            disk.io.injected(FaultKind::kReadError) + disk.io.injected(FaultKind::kWriteError));
  EXPECT_EQ(static_cast<uint64_t>(statuses[IoStatus::kNoSpace]),
            disk.io.injected(FaultKind::kNoSpace));
  EXPECT_EQ(static_cast<uint64_t>(statuses[IoStatus::kEndedEarly]),
            disk.io.injected(FaultKind::kEndedEarly));
}

// The test keeps what an honest disk would hold and compares every read itself.
TEST(SimulatedFaults, EveryWrongReadIsKnownAndNoOther) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  SimulatedDisk settings{.seed = seed};
  settings.faults = {.bit_flip = 0.05,
                     .misdirected_read = 0.05,
                     .torn_write = 0.05,
                     .misdirected_write = 0.05,
                     .lost_write = 0.05};
  DiskOfOneFile disk(settings);
  std::array<uint8_t, 64> wanted{};
  std::vector<uint64_t> wrong;
  for (int i = 0; i < 20'000; ++i) {
    const auto place = static_cast<uint32_t>(random() % 64);
    if (random() % 2 == 0) {
      wanted[place] = static_cast<uint8_t>(random() % 4);  // so that another place may be equal
      ASSERT_EQ(disk.write(place, wanted[place]).status, IoStatus::kOk);
    } else {
      const IoCompletion ended = disk.read(place);
      ASSERT_EQ(ended.status, IoStatus::kOk);
      if (disk.n_of(wanted[place]) != kPlaceBytes) wrong.push_back(ended.id);
    }
  }
  std::vector<uint64_t> known;
  for (const WrongRead& read : disk.io.take_wrong_reads()) known.push_back(read.id);
  EXPECT_EQ(known, wrong);
  EXPECT_EQ(disk.io.n_wrong_reads(), wrong.size());
  EXPECT_GT(wrong.size(), 500u);
  EXPECT_TRUE(disk.io.take_wrong_reads().empty());
}

TEST(SimulatedFaults, ScriptedFaultMeetsThatRequestAlone) {
  DiskOfOneFile disk;
  ASSERT_EQ(disk.write(5, 1).status, IoStatus::kOk);  // request 0
  disk.io.fail_nth(2, FaultKind::kReadError);
  EXPECT_EQ(disk.read(5).status, IoStatus::kOk);
  const IoCompletion failed = disk.read(5);
  EXPECT_EQ(failed.id, 2u);
  EXPECT_EQ(failed.status, IoStatus::kDeviceError);
  EXPECT_NE(failed.error_number, 0);
  EXPECT_EQ(disk.n_of(1) + disk.n_of(kPoison), kPlaceBytes);
  EXPECT_GE(disk.n_of(kPoison), 512u);
  EXPECT_EQ(disk.read(5).status, IoStatus::kOk);
  EXPECT_EQ(disk.io.injected_total(), 1u);
}

TEST(SimulatedFaults, EndedEarlyLeavesTheRestUnread) {
  DiskOfOneFile disk;
  disk.write(5, 1);
  disk.io.fail_nth(1, FaultKind::kEndedEarly);
  const IoCompletion ended = disk.read(5);
  EXPECT_EQ(ended.status, IoStatus::kEndedEarly);
  EXPECT_LT(ended.bytes, kPlaceBytes);
  EXPECT_EQ(disk.n_of(1), ended.bytes);
  EXPECT_EQ(disk.n_of(kPoison), kPlaceBytes - ended.bytes);
}

TEST(SimulatedFaults, ShortReadIsResumedAndTakesTwiceTheTime) {
  DiskOfOneFile disk;
  disk.read(0);
  const nanoseconds once = disk.io.now();
  disk.io.fail_nth(1, FaultKind::kShortRead);
  EXPECT_EQ(disk.read(0).bytes, kPlaceBytes);
  EXPECT_EQ(disk.io.now(), 3 * once);
}

TEST(SimulatedFaults, ShortWriteIsResumedAndReachesTheMediumInTwoParts) {
  DiskOfOneFile disk;
  disk.write(0, 1);
  const nanoseconds once = disk.io.now();
  disk.io.fail_nth(1, FaultKind::kShortWrite);
  std::ranges::fill(disk.slot(63), std::byte{2});
  disk.start(disk.request(IoOp::kWrite, 0, 63));
  disk.io.advance(once);
  const auto n_new = std::ranges::count(disk.io.medium(disk.file).first(kPlaceBytes), std::byte{2});
  EXPECT_GT(n_new, 0);
  EXPECT_LT(n_new, kPlaceBytes);
  IoCompletion ended;
  ASSERT_EQ(disk.io.wait({&ended, 1}, kOneHour), 1u);
  EXPECT_EQ(ended.status, IoStatus::kOk);
  EXPECT_EQ(ended.bytes, kPlaceBytes);
  EXPECT_EQ(disk.io.now(), 3 * once);
  disk.read(0);
  EXPECT_EQ(disk.n_of(2), kPlaceBytes);
  EXPECT_EQ(disk.io.n_wrong_reads(), 0u);
}

TEST(SimulatedFaults, BitFlipIsGoneAtTheNextRead) {
  SimulatedDisk settings;
  settings.faults.bit_flips_max = 1;
  DiskOfOneFile disk(settings);
  disk.io.fail_nth(0, FaultKind::kBitFlip);
  EXPECT_EQ(disk.read(3).status, IoStatus::kOk);
  EXPECT_EQ(disk.n_of(0), kPlaceBytes - 1);
  const std::vector<WrongRead> wrong = disk.io.take_wrong_reads();
  ASSERT_EQ(wrong.size(), 1u);
  EXPECT_EQ(wrong[0].fault, FaultKind::kBitFlip);
  EXPECT_EQ(wrong[0].offset, 3 * kPlaceBytes);
  disk.read(3);
  EXPECT_EQ(disk.n_of(0), kPlaceBytes);
}

TEST(SimulatedFaults, EveryBitOfAByteMayFlip) {
  std::byte flipped{0};
  for (uint64_t seed = 0; seed < 100; ++seed) {
    DiskOfOneFile disk(SimulatedDisk{.seed = seed});
    disk.io.fail_nth(0, FaultKind::kBitFlip);
    disk.read(0);
    for (const std::byte byte : disk.slot(0)) flipped |= byte;
  }
  EXPECT_EQ(flipped, std::byte{0xFF});
}

TEST(SimulatedFaults, TornWriteKeepsWholeSectorsOfBoth) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    DiskOfOneFile disk(SimulatedDisk{.seed = seed});
    disk.write(2, 1);
    disk.io.fail_nth(1, FaultKind::kTornWrite);
    EXPECT_EQ(disk.write(2, 9).status, IoStatus::kOk);
    disk.read(2);
    int n_new = 0;
    for (uint32_t sector = 0; sector < kPlaceBytes / 512; ++sector) {
      const auto bytes = disk.slot(0).subspan(sector * 512, 512);
      EXPECT_EQ(std::ranges::count(bytes, bytes[0]), 512);
      n_new += bytes[0] == std::byte{9} ? 1 : 0;
    }
    EXPECT_GE(n_new, 1);
    EXPECT_LE(n_new, 7);
    EXPECT_EQ(disk.io.n_wrong_reads(), 1u);
  }
}

TEST(SimulatedFaults, OneSectorIsNotTorn) {
  DiskOfOneFile disk;
  disk.io.fail_nth(0, FaultKind::kTornWrite);
  std::ranges::fill(disk.slot(63), std::byte{7});
  IoRequest request = disk.request(IoOp::kWrite, 0, 63);
  request.bytes = 512;
  EXPECT_EQ(disk.end_of(request).status, IoStatus::kOk);
  EXPECT_EQ(disk.io.medium(disk.file)[511], std::byte{7});
  EXPECT_EQ(disk.io.injected_total(), 0u);
}

TEST(SimulatedFaults, LostWriteLeavesTheOlderGeneration) {
  DiskOfOneFile disk;
  disk.write(2, 1);
  disk.io.fail_nth(1, FaultKind::kLostWrite);
  EXPECT_EQ(disk.write(2, 9).status, IoStatus::kOk);
  disk.read(2);
  EXPECT_EQ(disk.n_of(1), kPlaceBytes);
  EXPECT_EQ(disk.io.n_wrong_reads(), 1u);
}

TEST(SimulatedFaults, MisdirectedTransfersTakeAWholeOtherPlace) {
  DiskOfOneFile disk({}, 2 * kPlaceBytes);
  disk.write(0, 1);
  disk.write(1, 2);
  disk.io.fail_nth(2, FaultKind::kMisdirectedRead);
  EXPECT_EQ(disk.read(0).status, IoStatus::kOk);
  EXPECT_EQ(disk.n_of(2), kPlaceBytes);
  disk.io.fail_nth(3, FaultKind::kMisdirectedWrite);
  EXPECT_EQ(disk.write(0, 3).status, IoStatus::kOk);
  disk.read(0);
  EXPECT_EQ(disk.n_of(1), kPlaceBytes);
  disk.read(1);
  EXPECT_EQ(disk.n_of(3), kPlaceBytes);
  EXPECT_EQ(disk.io.n_wrong_reads(), 3u);
}

TEST(SimulatedFaults, AnotherPlaceWithEqualBytesIsNotWrong) {
  DiskOfOneFile disk({}, 2 * kPlaceBytes);
  disk.io.fail_nth(0, FaultKind::kMisdirectedRead);
  disk.read(0);
  EXPECT_EQ(disk.io.injected(FaultKind::kMisdirectedRead), 1u);
  EXPECT_EQ(disk.io.n_wrong_reads(), 0u);
}

// Who was told of the failure trusts nothing there, not even what an earlier silent fault left.
TEST(SimulatedFaults, FailedWriteIsNoWrongRead) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    DiskOfOneFile disk(SimulatedDisk{.seed = seed});
    disk.io.fail_nth(0, FaultKind::kLostWrite);
    disk.io.fail_nth(1, FaultKind::kWriteError);
    EXPECT_EQ(disk.write(0, 1).status, IoStatus::kOk);
    EXPECT_EQ(disk.write(0, 2).status, IoStatus::kDeviceError);
    disk.read(0);
    EXPECT_EQ(disk.n_of(0) + disk.n_of(2), kPlaceBytes);
    EXPECT_EQ(disk.io.n_wrong_reads(), 0u);
  }
}

TEST(SimulatedFaults, GoneDeviceStaysGone) {
  DiskOfOneFile disk;
  disk.io.fail_nth(1, FaultKind::kDeviceGone);
  EXPECT_EQ(disk.write(0, 1).status, IoStatus::kOk);
  EXPECT_EQ(disk.write(0, 2).status, IoStatus::kDeviceGone);
  EXPECT_EQ(disk.read(0).status, IoStatus::kDeviceGone);
  EXPECT_EQ(disk.n_of(kPoison), kPlaceBytes);
  EXPECT_EQ(disk.io.injected(FaultKind::kDeviceGone), 2u);
  EXPECT_EQ(disk.io.medium(disk.file)[0], std::byte{1});
}

TEST(SimulatedFaults, ErrorNumbersAreThoseOfARealSystem) {
  const std::vector<std::pair<FaultKind, IoStatus>> loud = {
      {FaultKind::kReadError, IoStatus::kDeviceError},
      {FaultKind::kWriteError, IoStatus::kDeviceError},
      {FaultKind::kNoSpace, IoStatus::kNoSpace},
      {FaultKind::kDeviceGone, IoStatus::kDeviceGone}};
  DiskOfOneFile disk;
  for (const auto& [kind, status] : loud) {
    SCOPED_TRACE(fault_kind_name(kind));
    disk.io.fail_nth(disk.io.n_submitted(), kind);
    const IoCompletion ended = fault_concerns(kind, IoOp::kWrite) ? disk.write(0, 1) : disk.read(0);
    EXPECT_EQ(ended.status, status);
    EXPECT_EQ(io_status_of(ended.error_number), status);
    EXPECT_EQ(ended.bytes, 0u);
  }
}

TEST(SimulatedFaults, HungReadKeepsItsPlaceAndNeverTouchesItsMemory) {
  SimulatedDisk settings;
  settings.depth = 1;
  DiskOfOneFile disk(settings);
  disk.io.fail_nth(0, FaultKind::kHang);
  disk.start(disk.request(IoOp::kRead, 0, 0));
  IoCompletion ended;
  EXPECT_EQ(disk.io.wait({&ended, 1}, kOneHour), 0u);
  EXPECT_EQ(disk.io.now(), kOneHour);
  EXPECT_EQ(disk.io.in_flight(), 1u);
  const IoRequest second = disk.request(IoOp::kRead, 1, 1);
  EXPECT_EQ(disk.io.submit({&second, 1}), 0u);
  EXPECT_EQ(disk.n_of(kPoison), kPlaceBytes);
}

TEST(SimulatedFaults, HungReadMayStillWriteItsMemoryLate) {
  SimulatedDisk settings;
  settings.stall = std::chrono::seconds(30);
  DiskOfOneFile disk(settings);
  disk.io.fail_nth(0, FaultKind::kHangThenMove);
  disk.start(disk.request(IoOp::kRead, 0, 0));
  disk.io.advance(std::chrono::seconds(29));
  EXPECT_EQ(disk.n_of(kPoison), kPlaceBytes);
  disk.io.advance(std::chrono::seconds(2));
  EXPECT_EQ(disk.n_of(0), kPlaceBytes);
  IoCompletion ended;
  EXPECT_EQ(disk.io.wait({&ended, 1}, kOneHour), 0u);
  EXPECT_EQ(disk.io.in_flight(), 1u);
}

TEST(SimulatedFaults, StalledTransferComesLateAndWhole) {
  DiskOfOneFile disk;
  disk.io.fail_nth(0, FaultKind::kStall);
  disk.start(disk.request(IoOp::kRead, 0, 0));
  IoCompletion ended;
  EXPECT_EQ(disk.io.wait({&ended, 1}, std::chrono::seconds(1)), 0u);
  EXPECT_EQ(disk.io.now(), std::chrono::seconds(1));
  EXPECT_EQ(disk.io.wait({&ended, 1}, kOneHour), 1u);
  EXPECT_EQ(ended.status, IoStatus::kOk);
  EXPECT_GT(disk.io.now(), std::chrono::seconds(2));
  EXPECT_LT(disk.io.now(), std::chrono::seconds(3));
}

}  // namespace
}  // namespace strata::tiers
