// What a trace says of transfers, by the clock of a simulated disk.
#include "tiers/traced_io.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "base/host_memory.h"
#include "tests/tiers/simulated_disk.h"

namespace strata::tiers {
namespace {

using std::chrono_literals::operator""us;

constexpr uint32_t kReadBytes = 64 << 10;
constexpr uint32_t kFirstLane = 100;

/// A traced disk of one file of two reads and a half.
class TracedDisk {
 public:
  TracedDisk() : memory_(HostMemory::reserve(4 * kReadBytes)) {
    auto simulated =
        std::make_unique<SimulatedIo>(SimulatedDisk{.depth = 4, .bytes_per_s = 1'000'000'000});
    disk_ = simulated.get();
    file_ = disk_->add_memory_file(2 * kReadBytes + kReadBytes / 2);
    io_ =
        std::make_unique<TracedIo>(std::move(simulated), trace_, Resource::kWeightDisk, kFirstLane);
  }
  void read(uint32_t slot, uint64_t id) {
    const IoRequest request{.op = IoOp::kRead,
                            .file = file_,
                            .offset = uint64_t{slot} * kReadBytes,
                            .memory = memory_.data() + uint64_t{slot} * kReadBytes,
                            .bytes = kReadBytes,
                            .id = id};
    ASSERT_EQ(io_->submit({&request, 1}), 1u);
  }
  IoCompletion take() {
    std::vector<IoCompletion> out(1);
    EXPECT_EQ(io_->wait(out, kOneHour), 1u);
    return out.front();
  }
  /// Those of a kind, oldest first.
  std::vector<TraceEvent> events(TraceKind kind) const {
    std::vector<TraceEvent> found = trace_.events();
    std::erase_if(found, [&](const TraceEvent& event) { return event.kind != kind; });
    return found;
  }
  SimulatedIo& disk() { return *disk_; }
  TracedIo& io() { return *io_; }

 private:
  HostMemory memory_;
  Trace trace_{64};
  SimulatedIo* disk_ = nullptr;
  IoFile file_{};
  std::unique_ptr<TracedIo> io_;
};

TEST(TracedIo, ReadsLastByTheDisksClockFromSubmissionUntilTheyAreTaken) {
  TracedDisk traced;
  traced.disk().advance(7us);
  traced.read(0, 41);
  traced.disk().advance(500us);  // ended long before it is taken
  EXPECT_EQ(traced.take().id, 41u);
  const auto reads = traced.events(TraceKind::kRead);
  ASSERT_EQ(reads.size(), 1u);
  EXPECT_EQ(reads[0].begin, 7us);
  EXPECT_EQ(reads[0].end, 507us);
  EXPECT_EQ(reads[0].bytes, kReadBytes);
  EXPECT_EQ(reads[0].detail, 0u);
  EXPECT_EQ(reads[0].resource, Resource::kWeightDisk);
  EXPECT_TRUE(reads[0].is_ok);
}

TEST(TracedIo, TransfersInFlightTogetherHaveLanesOfTheirOwnAndGiveThemBack) {
  TracedDisk traced;
  traced.read(0, 1);
  traced.read(1, 2);
  traced.take();
  traced.take();
  traced.read(1, 3);
  traced.take();
  const auto reads = traced.events(TraceKind::kRead);
  ASSERT_EQ(reads.size(), 3u);
  EXPECT_EQ(reads[0].index, kFirstLane);
  EXPECT_EQ(reads[1].index, kFirstLane + 1);
  EXPECT_EQ(reads[2].index, kFirstLane);
}

TEST(TracedIo, WhatTheFilesEndCutsShortIsRightAndAsLongAsItCame) {
  TracedDisk traced;
  traced.read(2, 1);
  EXPECT_EQ(traced.take().status, IoStatus::kEndedEarly);
  const auto reads = traced.events(TraceKind::kRead);
  ASSERT_EQ(reads.size(), 1u);
  EXPECT_TRUE(reads[0].is_ok);
  EXPECT_EQ(reads[0].bytes, kReadBytes / 2);
}

TEST(TracedIo, AFailedReadIsNotOk) {
  TracedDisk traced;
  traced.disk().fail_nth(0, FaultKind::kReadError);
  traced.read(0, 1);
  EXPECT_EQ(traced.take().status, IoStatus::kDeviceError);
  const auto reads = traced.events(TraceKind::kRead);
  ASSERT_EQ(reads.size(), 1u);
  EXPECT_FALSE(reads[0].is_ok);
}

TEST(TracedIo, AWaitIsRecordedWhereItMayWaitAndALookIsNot) {
  TracedDisk traced;
  traced.read(0, 1);
  std::vector<IoCompletion> out(1);
  EXPECT_EQ(traced.io().wait(out, 0us), 0u);
  EXPECT_TRUE(traced.events(TraceKind::kWait).empty());
  traced.take();
  EXPECT_EQ(traced.events(TraceKind::kWait).size(), 1u);
}

}  // namespace
}  // namespace strata::tiers
