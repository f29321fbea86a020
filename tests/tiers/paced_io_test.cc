// Reads that come no faster than told, on a simulated disk with a clock of its own.
#include "tiers/paced_io.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/host_memory.h"
#include "tests/tiers/simulated_disk.h"

namespace strata::tiers {
namespace {

using std::chrono_literals::operator""ns;
using std::chrono_literals::operator""us;
using std::chrono::nanoseconds;

constexpr uint32_t kReadBytes = 64 << 10;
constexpr uint64_t kRate = 1'000'000'000;  // one byte a nanosecond; the disk gives three

/// A paced disk of one file, whose sleeps are its own clock's.
class PacedDisk {
 public:
  explicit PacedDisk(uint32_t depth = 16)
      : memory_(HostMemory::reserve(uint64_t{depth} * kReadBytes)) {
    auto simulated = std::make_unique<SimulatedIo>(SimulatedDisk{.depth = depth});
    disk_ = simulated.get();
    file_ = disk_->add_memory_file(uint64_t{64} * kReadBytes);
    io_ = std::make_unique<PacedIo>(std::move(simulated), std::make_shared<RateLimit>(kRate),
                                    [this](nanoseconds time) { disk_->advance(time); });
  }
  IoRequest request(IoOp op, uint32_t slot, uint64_t id) {
    return {.op = op,
            .file = file_,
            .offset = uint64_t{slot} * kReadBytes,
            .memory = memory_.data() + uint64_t{slot} * kReadBytes,
            .bytes = kReadBytes,
            .id = id};
  }
  uint32_t submit(IoOp op, uint32_t slot, uint64_t id) {
    const IoRequest one = request(op, slot, id);
    return io_->submit({&one, 1});
  }
  PacedIo& io() { return *io_; }
  SimulatedIo& disk() { return *disk_; }

 private:
  HostMemory memory_;
  SimulatedIo* disk_ = nullptr;
  IoFile file_{};
  std::unique_ptr<PacedIo> io_;
};

TEST(RateLimit, LetsBytesPassOneAfterTheOtherAndSavesLittleWhileIdle) {
  RateLimit limit(kRate);
  const nanoseconds late = RateLimit::kSaved + 5000ns;
  EXPECT_EQ(limit.pass(200'000, late), late - RateLimit::kSaved + 200'000ns);
  EXPECT_EQ(limit.pass(1000, late), late + 101'000ns);  // behind the first
  const nanoseconds idle = late + 900'000ns;
  EXPECT_EQ(limit.pass(200'000, idle), idle + 100'000ns);
}

TEST(PacedIo, ReadsComeAtTheRateHoweverQuickTheDisk) {
  PacedDisk paced;
  std::vector<IoCompletion> out(4);
  constexpr uint64_t kReads = 200;
  std::vector<uint32_t> slots(16);
  for (uint32_t i = 0; i < slots.size(); ++i) slots[i] = i;
  std::vector<uint32_t> slot_of(kReads);
  uint64_t n_started = 0, n_ended = 0;
  while (n_ended < kReads) {
    while (n_started < kReads && !slots.empty()) {
      slot_of[n_started] = slots.back();
      if (paced.submit(IoOp::kRead, slots.back(), n_started) == 0) break;
      slots.pop_back();
      ++n_started;
    }
    const uint32_t n = paced.io().wait(out, kOneHour);
    ASSERT_GT(n, 0u);
    for (uint32_t i = 0; i < n; ++i) {
      EXPECT_EQ(out[i].status, IoStatus::kOk);
      ASSERT_LT(out[i].id, n_started);
      slots.push_back(slot_of[out[i].id]);
    }
    n_ended += n;
  }
  EXPECT_EQ(paced.io().in_flight(), 0u);
  const nanoseconds whole{kReads * kReadBytes * 1'000'000'000 / kRate};
  EXPECT_GE(paced.io().now(), whole - RateLimit::kSaved);
  EXPECT_LE(paced.io().now(), whole + whole / 100);
}

TEST(PacedIo, AReadThatIsNotDueIsInFlight) {
  PacedDisk paced(1);
  ASSERT_EQ(paced.submit(IoOp::kRead, 0, 7), 1u);
  paced.disk().advance(1us);
  std::vector<IoCompletion> out(1);
  ASSERT_EQ(paced.submit(IoOp::kRead, 0, 8), 0u);  // the depth is used up
  EXPECT_EQ(paced.io().wait(out, kOneHour), 1u);
  EXPECT_EQ(out[0].id, 7u);
  // The bucket is empty now: the device needs 102 us of 64 KiB, their bytes as long as they are.
  ASSERT_EQ(paced.submit(IoOp::kRead, 0, 9), 1u);
  ASSERT_EQ(paced.io().wait(out, kOneHour), 1u);
  ASSERT_EQ(paced.submit(IoOp::kRead, 0, 10), 1u);
  const nanoseconds begin = paced.io().now();
  EXPECT_EQ(paced.io().wait(out, 20us), 0u);
  EXPECT_EQ(paced.io().in_flight(), 1u);
  EXPECT_GE(paced.io().now() - begin, 20us);
}

TEST(PacedIo, WritesPassAsTheyAre) {
  PacedDisk paced;
  for (uint32_t slot = 0; slot < 16; ++slot) ASSERT_EQ(paced.submit(IoOp::kWrite, slot, slot), 1u);
  std::vector<IoCompletion> out(16);
  uint32_t n = 0;
  while (paced.io().in_flight() > 0) n += paced.io().wait(out, kOneHour);
  EXPECT_EQ(n, 16u);
  EXPECT_LT(paced.io().now(), nanoseconds(kReadBytes) * 16 / 2);
}

TEST(PacedIo, BackEndsOfOneLimitShareItsRate) {
  const auto limit = std::make_shared<RateLimit>(kRate);
  const nanoseconds first = limit->pass(1'000'000, 0ns);
  EXPECT_EQ(limit->pass(1'000'000, 0ns) - first, 1'000'000ns);
}

TEST(PacedIo, WithoutALimitABackEndIsItself) {
  auto simulated = std::make_unique<SimulatedIo>(SimulatedDisk{});
  const Io* const before = simulated.get();
  EXPECT_EQ(paced(std::move(simulated), nullptr).get(), before);
}

}  // namespace
}  // namespace strata::tiers
