// Transfers over a simulated disk and over threads on a real file: what arrives, who owns a frame
// when, and what is counted.
#include "tiers/transfer_queue.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "base/error.h"
#include "tests/tiers/fresh_folder.h"
#include "tests/tiers/stops_at.h"
#include "tiers/file.h"
#include "tiers/simulated_io.h"
#include "tiers/thread_io.h"

namespace strata::tiers {
namespace {

using std::chrono_literals::operator""h;
using std::chrono_literals::operator""s;

constexpr uint32_t kFrameBytes = 8192;
constexpr uint32_t kPlaces = 64;

/// A queue over one file of kPlaces frames, all zeros.
struct QueueOfOneFile {
  QueueOfOneFile(std::unique_ptr<Io> io, IoFile file_, uint32_t n_frames,
                 std::chrono::microseconds deadline)
      : queue(std::move(io),
              {.frame_bytes = kFrameBytes, .n_frames = n_frames, .deadline = deadline}),
        file(file_) {}

  /// Waits until nothing ends any more.
  void settle() {
    while (queue.wait_any()) continue;
  }
  static uint64_t offset(uint32_t place) { return uint64_t{place} * kFrameBytes; }
  Ticket start_read(uint32_t place) {
    auto ticket = queue.read(file, offset(place), kFrameBytes);
    EXPECT_TRUE(ticket.has_value());
    return std::move(*ticket);
  }
  Ticket start_write(uint32_t place, uint8_t value) {
    auto lease = queue.take_frame();
    EXPECT_TRUE(lease.has_value());
    EXPECT_EQ(lease->bytes().size(), kFrameBytes);
    std::ranges::fill(lease->bytes(), std::byte{value});
    return queue.write(std::move(*lease), file, offset(place), kFrameBytes);
  }
  void expect_read(Ticket&& ticket, uint8_t value) {
    ReadLease lease;
    ASSERT_EQ(queue.take_read(std::move(ticket), lease), IoStatus::kOk);
    ASSERT_EQ(lease.bytes().size(), kFrameBytes);
    EXPECT_EQ(std::ranges::count(lease.bytes(), std::byte{value}), kFrameBytes);
  }

  TransferQueue queue;
  IoFile file;
};

struct SimulatedQueue : QueueOfOneFile {
  explicit SimulatedQueue(uint32_t n_frames, const SimulatedDisk& disk = {},
                          std::chrono::microseconds deadline = 10s)
      : SimulatedQueue(std::make_unique<SimulatedIo>(disk), n_frames, deadline) {}
  SimulatedIo& disk() { return static_cast<SimulatedIo&>(queue.io()); }

 private:
  SimulatedQueue(std::unique_ptr<SimulatedIo> io, uint32_t n_frames,
                 std::chrono::microseconds deadline)
      : QueueOfOneFile(std::move(io), IoFile{}, n_frames, deadline) {
    file = disk().add_memory_file(uint64_t{kPlaces} * kFrameBytes);
  }
};

enum class BackEnd { kSimulated, kThreads };

class TransferQueueTest : public ::testing::TestWithParam<BackEnd> {
 protected:
  std::unique_ptr<QueueOfOneFile> make(uint32_t n_frames, uint32_t depth) {
    if (GetParam() == BackEnd::kSimulated)
      return std::make_unique<SimulatedQueue>(
          n_frames,
          SimulatedDisk{.seed = 5, .depth = depth, .latency_spread = std::chrono::milliseconds(1)});
    const std::string path = folder_.path("file");
    const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    file_ = std::make_unique<File>(File::adopt(descriptor, false, path));
    std::filesystem::resize_file(path, uint64_t{kPlaces} * kFrameBytes);
    auto io = std::make_unique<ThreadIo>(depth, 4);
    const IoFile file = io->add_file(*file_);
    return std::make_unique<QueueOfOneFile>(std::move(io), file, n_frames, 1h);
  }

 private:
  const FreshFolder folder_;
  std::unique_ptr<File> file_;
};

TEST_P(TransferQueueTest, WhatWasWrittenIsReadBack) {
  const auto at = make(6, 3);
  std::deque<Ticket> writes;
  for (uint32_t place = 0; place < kPlaces; ++place) {
    if (at->queue.n_free() == 0) {
      EXPECT_EQ(at->queue.take_write(std::move(writes.front())), IoStatus::kOk);
      writes.pop_front();
    }
    writes.push_back(at->start_write(place, static_cast<uint8_t>(place + 1)));
  }
  for (Ticket& ticket : writes) EXPECT_EQ(at->queue.take_write(std::move(ticket)), IoStatus::kOk);
  for (uint32_t place = 0; place < kPlaces; ++place)
    at->expect_read(at->start_read(place), static_cast<uint8_t>(place + 1));
  EXPECT_EQ(at->queue.n_free(), 6u);
  EXPECT_EQ(at->queue.counts().writes, kPlaces);
  EXPECT_EQ(at->queue.counts().reads, kPlaces);
  EXPECT_EQ(at->queue.counts().written_bytes, uint64_t{kPlaces} * kFrameBytes);
  EXPECT_EQ(at->queue.counts().read_bytes, uint64_t{kPlaces} * kFrameBytes);
  EXPECT_EQ(at->queue.counts().failed, 0u);
}

TEST_P(TransferQueueTest, WhatExceedsTheDepthWaitsItsTurn) {
  const auto at = make(16, 2);
  for (uint32_t i = 0; i < 16; ++i)
    EXPECT_EQ(at->queue.take_write(at->start_write(i, static_cast<uint8_t>(i))), IoStatus::kOk);
  std::vector<Ticket> reads;
  for (uint32_t i = 0; i < 16; ++i) reads.push_back(at->start_read(i));
  EXPECT_LE(at->queue.io().in_flight(), 2u);
  EXPECT_EQ(at->queue.n_free(), 0u);
  EXPECT_FALSE(at->queue.read(at->file, 0, kFrameBytes).has_value());
  EXPECT_FALSE(at->queue.take_frame().has_value());
  // The last first: it is behind all of the others.
  for (uint32_t i = 16; i-- > 0;) at->expect_read(std::move(reads[i]), static_cast<uint8_t>(i));
  EXPECT_EQ(at->queue.n_free(), 16u);
}

TEST_P(TransferQueueTest, DroppedTicketsFreeTheirFramesWhenNoDeviceHasThem) {
  const auto at = make(8, 2);
  {
    std::vector<Ticket> tickets;
    for (uint32_t i = 0; i < 4; ++i) tickets.push_back(at->start_read(i));
    for (uint32_t i = 4; i < 8; ++i) tickets.push_back(at->start_write(i, 7));
  }
  EXPECT_EQ(at->queue.n_free(), 2u);  // of reads that no device has; none is taken from under one
  at->settle();
  EXPECT_EQ(at->queue.n_free(), 8u);
  EXPECT_EQ(at->queue.counts().reads, 2u);
  EXPECT_EQ(at->queue.counts().writes, 4u);
  for (uint32_t i = 4; i < 8; ++i) at->expect_read(at->start_read(i), 7);
}

TEST_P(TransferQueueTest, ATicketDroppedAfterTheEndFreesItsFrameAtOnce) {
  const auto at = make(2, 2);
  {
    const Ticket read = at->start_read(0);
    const Ticket write = at->start_write(1, 1);
    at->settle();
    EXPECT_TRUE(at->queue.is_done(read));
    EXPECT_TRUE(at->queue.is_done(write));
    EXPECT_EQ(at->queue.n_free(), 0u);
  }
  EXPECT_EQ(at->queue.n_free(), 2u);
}

TEST_P(TransferQueueTest, DroppedLeasesFreeTheirFramesAtOnce) {
  const auto at = make(2, 2);
  {
    ReadLease lease;
    ASSERT_EQ(at->queue.take_read(at->start_read(0), lease), IoStatus::kOk);
    const auto fill = at->queue.take_frame();
    EXPECT_EQ(at->queue.n_free(), 0u);
  }
  EXPECT_EQ(at->queue.n_free(), 2u);
}

TEST_P(TransferQueueTest, AnAssignedLeaseGivesItsOwnFrameBackAndTakesTheBytesAlong) {
  const auto at = make(2, 2);
  ReadLease first, second;
  ASSERT_EQ(at->queue.take_read(at->start_read(0), first), IoStatus::kOk);
  ASSERT_EQ(at->queue.take_read(at->start_read(1), second), IoStatus::kOk);
  const std::byte* of_second = second.bytes().data();
  first = std::move(second);
  EXPECT_EQ(at->queue.n_free(), 1u);
  EXPECT_EQ(first.bytes().data(), of_second);
  EXPECT_FALSE(second.is_held());
  EXPECT_TRUE(second.bytes().empty());
  auto fill = at->queue.take_frame();
  ASSERT_TRUE(fill.has_value());
  const FillLease moved = std::move(*fill);
  EXPECT_TRUE(fill->bytes().empty());
  EXPECT_EQ(moved.bytes().size(), kFrameBytes);
  EXPECT_EQ(at->queue.n_free(), 0u);
}

TEST_P(TransferQueueTest, PastTheEndOfTheFileIsAStatus) {
  const auto at = make(1, 1);
  ReadLease lease;
  EXPECT_EQ(at->queue.take_read(at->start_read(kPlaces), lease), IoStatus::kEndedEarly);
  EXPECT_FALSE(lease.is_held());
  EXPECT_EQ(at->queue.n_free(), 1u);
  EXPECT_EQ(at->queue.counts().failed, 1u);
  EXPECT_EQ(at->queue.counts().read_bytes, 0u);
}

TEST_P(TransferQueueTest, TheDestructorWaitsForNothingAndLeavesTheMemoryToTheDevice) {
  const auto at = make(16, 4);
  for (uint32_t i = 0; i < 8; ++i) (void)at->start_read(i);
  for (uint32_t i = 8; i < 16; ++i) (void)at->start_write(i, 1);
  EXPECT_GT(at->queue.io().in_flight(), 0u);
}

INSTANTIATE_TEST_SUITE_P(BackEnds, TransferQueueTest,
                         ::testing::Values(BackEnd::kSimulated, BackEnd::kThreads),
                         [](const auto& of) {
                           return of.param == BackEnd::kSimulated ? "Simulated" : "Threads";
                         });

TEST(TransferQueue, AHungReadTimesOutAndItsFrameIsQuarantined) {
  for (const FaultKind kind : {FaultKind::kHang, FaultKind::kHangThenMove}) {
    SCOPED_TRACE(fault_kind_name(kind));
    SimulatedQueue at(2);
    ASSERT_EQ(at.queue.take_write(at.start_write(0, 9)), IoStatus::kOk);
    at.disk().fail_nth(1, kind);
    Ticket hung = at.start_read(0);
    const auto start = at.disk().now();
    ReadLease lease;
    EXPECT_EQ(at.queue.take_read(std::move(hung), lease), IoStatus::kTimedOut);
    EXPECT_LE(at.disk().now() - start, 10s + std::chrono::microseconds(2));
    EXPECT_FALSE(lease.is_held());
    EXPECT_EQ(at.queue.n_quarantined(), 1u);
    EXPECT_EQ(at.queue.n_free(), 1u);
    EXPECT_EQ(at.queue.counts().failed, 1u);
    EXPECT_EQ(at.queue.counts().stalls, 2u);
    EXPECT_GE(at.queue.counts().stall_us, 10'000'000u);
    // The other frame goes on serving; the simulator dies where it were the hung one.
    for (uint32_t i = 0; i < 10; ++i) at.expect_read(at.start_read(0), 9);
    EXPECT_EQ(at.queue.n_quarantined(), 1u);
  }
}

TEST(TransferQueue, AFileIsInUseUntilTheDeviceHasLetGoOfIt) {
  SimulatedQueue at(2);
  EXPECT_FALSE(at.queue.is_in_use(at.file));
  Ticket read = at.start_read(0);
  EXPECT_TRUE(at.queue.is_in_use(at.file));
  EXPECT_FALSE(at.queue.is_in_use(static_cast<IoFile>(7)));
  { const Ticket dropped = std::move(read); }
  EXPECT_TRUE(at.queue.is_in_use(at.file)) << "nobody waits for it, but it is on its way";
  at.settle();
  EXPECT_FALSE(at.queue.is_in_use(at.file));
  at.disk().fail_nth(1, FaultKind::kHang);
  ReadLease lease;
  EXPECT_EQ(at.queue.take_read(at.start_read(0), lease), IoStatus::kTimedOut);
  EXPECT_TRUE(at.queue.is_in_use(at.file)) << "it may still come";
}

TEST(TransferQueue, AHungWriteTimesOutAndItsFrameIsQuarantined) {
  SimulatedQueue at(2);
  at.disk().fail_nth(0, FaultKind::kHangThenMove);
  EXPECT_EQ(at.queue.take_write(at.start_write(0, 9)), IoStatus::kTimedOut);
  EXPECT_EQ(at.queue.n_quarantined(), 1u);
  // Its bytes reach the medium all the same, from a frame that nobody else has filled meanwhile.
  ASSERT_EQ(at.queue.take_write(at.start_write(1, 4)), IoStatus::kOk);
  at.disk().advance(5s);
  at.expect_read(at.start_read(0), 9);
}

/// Stalls take 2 s of virtual time: more than this, and less than twice this.
constexpr std::chrono::microseconds kBelowStall = std::chrono::milliseconds(1500);

TEST(TransferQueue, ALateCompletionGivesAQuarantinedFrameBack) {
  SimulatedQueue at(1, {}, kBelowStall);
  at.disk().fail_nth(0, FaultKind::kStall);
  ReadLease lease;
  EXPECT_EQ(at.queue.take_read(at.start_read(0), lease), IoStatus::kTimedOut);
  EXPECT_EQ(at.queue.n_quarantined(), 1u);
  EXPECT_FALSE(at.queue.take_frame().has_value());
  at.disk().advance(2s);
  at.queue.poll();
  EXPECT_EQ(at.queue.n_quarantined(), 0u);
  EXPECT_EQ(at.queue.n_free(), 1u);
  EXPECT_EQ(at.queue.counts().failed, 1u);  // it ended once
  EXPECT_EQ(at.queue.counts().reads, 0u);
  at.expect_read(at.start_read(0), 0);
}

TEST(TransferQueue, ALateCompletionBeforeTheTicketIsTakenIsATimeOutStill) {
  SimulatedQueue at(1, {}, kBelowStall);
  at.disk().fail_nth(0, FaultKind::kStall);
  Ticket ticket = at.start_write(0, 1);
  EXPECT_TRUE(at.queue.wait_any());  // it timed out
  EXPECT_TRUE(at.queue.is_done(ticket));
  EXPECT_TRUE(at.queue.wait_any());  // its completion came
  EXPECT_EQ(at.queue.n_quarantined(), 1u);
  EXPECT_EQ(at.queue.take_write(std::move(ticket)), IoStatus::kTimedOut);
  EXPECT_EQ(at.queue.n_quarantined(), 0u);
  EXPECT_EQ(at.queue.n_free(), 1u);
}

TEST(TransferQueue, ADroppedTicketOfALateTransferLosesNoFrame) {
  for (const bool is_dropped_first : {true, false}) {
    SimulatedQueue at(1, {}, kBelowStall);
    at.disk().fail_nth(0, FaultKind::kStall);
    {
      Ticket ticket = at.start_read(0);
      if (is_dropped_first) ticket = Ticket();
      EXPECT_TRUE(at.queue.wait_any());
    }
    EXPECT_EQ(at.queue.n_quarantined(), 1u);
    EXPECT_TRUE(at.queue.wait_any());
    EXPECT_EQ(at.queue.n_quarantined(), 0u);
    EXPECT_EQ(at.queue.n_free(), 1u);
    EXPECT_FALSE(at.queue.wait_any());
  }
}

TEST(TransferQueue, ATransferThatNeverBeganTimesOutWithoutQuarantine) {
  SimulatedQueue at(3, {.depth = 1});
  at.disk().fail_nth(0, FaultKind::kHang);
  Ticket hung = at.start_read(0);
  Ticket read = at.start_read(1);
  Ticket write = at.start_write(2, 1);
  ReadLease lease;
  EXPECT_EQ(at.queue.take_read(std::move(read), lease), IoStatus::kTimedOut);
  EXPECT_EQ(at.queue.take_write(std::move(write)), IoStatus::kTimedOut);
  EXPECT_EQ(at.queue.n_free(), 2u);
  EXPECT_EQ(at.queue.take_read(std::move(hung), lease), IoStatus::kTimedOut);
  EXPECT_EQ(at.queue.n_quarantined(), 1u);
  EXPECT_EQ(at.queue.n_free(), 2u);
  EXPECT_EQ(at.disk().n_submitted(), 1u);
}

/// Many small reads are handed over together; until then they cost the device nothing.
TEST(TransferQueue, AReadOfTheNextPollBeginsThere) {
  SimulatedQueue at(2);
  auto ticket =
      at.queue.read(at.file, at.offset(3), kFrameBytes, TransferQueue::Start::kAtNextPoll);
  ASSERT_TRUE(ticket.has_value());
  EXPECT_EQ(at.disk().n_submitted(), 0u);
  EXPECT_FALSE(at.queue.is_done(*ticket));
  at.queue.poll();
  EXPECT_EQ(at.disk().n_submitted(), 1u);
  at.expect_read(std::move(*ticket), 0);
  // A wait begins it as well.
  ticket = at.queue.read(at.file, at.offset(3), kFrameBytes, TransferQueue::Start::kAtNextPoll);
  at.expect_read(std::move(*ticket), 0);
}

TEST(TransferQueue, WaitingForAnyEndsAtTheFirstDeadline) {
  SimulatedQueue at(2);
  at.disk().fail_nth(0, FaultKind::kHang);
  at.disk().fail_nth(1, FaultKind::kHang);
  const Ticket first = at.start_read(0);
  at.disk().advance(9s);
  const Ticket second = at.start_read(1);
  EXPECT_TRUE(at.queue.wait_any());
  EXPECT_TRUE(at.queue.is_done(first));
  EXPECT_FALSE(at.queue.is_done(second));
  EXPECT_LT(at.disk().now(), 11s);
}

TEST(TransferQueue, AWaitIsLeftSoonAfterItIsStoppedAndTheTicketStays) {
  auto disk = std::make_unique<SimulatedIo>(SimulatedDisk{.faults = {.hang = 1}});
  const IoFile file = disk->add_memory_file(kPlaces * kFrameBytes);
  auto stops = std::make_unique<testing::StopsAt>(std::move(disk));
  testing::StopsAt& script = *stops;
  script.stop_at(3s);
  QueueOfOneFile at(std::move(stops), file, 2, 1h);
  at.queue.set_cancel(&script.flag());
  Ticket ticket = at.start_read(0);
  const auto expect_stopped = [&](const auto& wait) {
    try {
      wait();
      ADD_FAILURE() << "was not stopped";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCancelled);
    }
    EXPECT_GE(script.now(), 3s);
    EXPECT_LT(script.now(), 4s);
  };
  ReadLease lease;
  expect_stopped([&] { (void)at.queue.take_read(std::move(ticket), lease); });
  EXPECT_TRUE(ticket.is_held());
  EXPECT_FALSE(lease.is_held());
  expect_stopped([&] { (void)at.queue.wait_any(); });
  EXPECT_EQ(at.queue.n_free(), 1u);
  EXPECT_EQ(at.queue.n_quarantined(), 0u);
}

TEST(TransferQueue, AnErrorFreesTheFrame) {
  SimulatedQueue at(1);
  at.disk().fail_nth(0, FaultKind::kReadError);
  at.disk().fail_nth(1, FaultKind::kWriteError);
  at.disk().fail_nth(2, FaultKind::kNoSpace);
  ReadLease lease;
  EXPECT_EQ(at.queue.take_read(at.start_read(0), lease), IoStatus::kDeviceError);
  EXPECT_EQ(at.queue.take_write(at.start_write(0, 1)), IoStatus::kDeviceError);
  EXPECT_EQ(at.queue.take_write(at.start_write(0, 1)), IoStatus::kNoSpace);
  EXPECT_EQ(at.queue.n_free(), 1u);
  EXPECT_EQ(at.queue.counts().failed, 3u);
  EXPECT_EQ(at.queue.counts().reads + at.queue.counts().writes, 0u);
}

/// Everything at random, dropped, taken and late; the simulator dies where two transfers meet in
/// one frame.
TEST(TransferQueue, NoFrameIsLostOrSharedOnABadDisk) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  constexpr uint32_t kFrames = 24;
  SimulatedDisk disk{.seed = seed, .depth = 16, .latency_spread = std::chrono::milliseconds(1)};
  disk.faults = {.short_read = 0.1,
                 .ended_early = 0.05,
                 .read_error = 0.05,
                 .short_write = 0.1,
                 .write_error = 0.1,
                 .stall = 0.01,
                 .hang = 0.0005,
                 .hang_then_move = 0.0005};
  SimulatedQueue at(kFrames, disk, 1s);
  std::vector<std::pair<Ticket, bool>> tickets;  // and whether it is a read
  std::vector<ReadLease> leases;
  const auto n_hung = [&] {
    return at.disk().injected(FaultKind::kHang) + at.disk().injected(FaultKind::kHangThenMove);
  };
  for (uint32_t step = 0; step < 20'000 && n_hung() < 12; ++step) {
    const auto place = static_cast<uint32_t>(random() % kPlaces);
    switch (random() % 8) {
      case 0:
      case 1:
        if (auto ticket = at.queue.read(at.file, at.offset(place), kFrameBytes))
          tickets.emplace_back(std::move(*ticket), true);
        break;
      case 2:
        if (auto lease = at.queue.take_frame(); lease && random() % 4 > 0)
          tickets.emplace_back(at.queue.write(std::move(*lease), at.file, at.offset(place), 4096),
                               false);
        break;
      case 3:
        (void)at.queue.wait_any();
        break;
      case 4:
        if (!leases.empty()) leases.pop_back();
        break;
      default: {
        if (tickets.empty()) break;
        std::swap(tickets[random() % tickets.size()], tickets.back());
        auto [ticket, is_read] = std::move(tickets.back());
        tickets.pop_back();
        ReadLease lease;
        if (random() % 3 == 0) break;  // dropped
        if (!is_read) {
          (void)at.queue.take_write(std::move(ticket));
        } else if (at.queue.take_read(std::move(ticket), lease) == IoStatus::kOk) {
          leases.push_back(std::move(lease));
        }
      }
    }
    ASSERT_LE(at.queue.n_free() + at.queue.n_quarantined() + leases.size(), kFrames);
  }
  tickets.clear();
  leases.clear();
  at.settle();
  at.disk().advance(3s);  // the last stall has ended
  at.queue.poll();
  EXPECT_EQ(at.queue.n_quarantined(), n_hung());
  EXPECT_EQ(at.queue.n_free(), kFrames - n_hung());
  const TransferCounts& counts = at.queue.counts();
  EXPECT_LE(counts.reads + counts.writes + counts.failed, at.disk().n_submitted() + kFrames);
  EXPECT_GT(at.disk().injected(FaultKind::kStall), 0u);
}

TEST(TransferQueueDeathTest, AWrongUseOfARightIsABug) {
  SimulatedQueue at(4);
  SimulatedQueue other(1);
  ReadLease lease;
  EXPECT_DEATH((void)at.queue.take_read(at.start_write(0, 1), lease), "the ticket of a write");
  EXPECT_DEATH((void)at.queue.take_write(at.start_read(0)), "the ticket of a read");
  EXPECT_DEATH((void)at.queue.take_write(Ticket()), "a ticket taken twice");
  EXPECT_DEATH((void)at.queue.take_read(other.start_read(0), lease), "of another queue");
  EXPECT_DEATH((void)at.queue.is_done(Ticket()), "a ticket that was taken");
  EXPECT_DEATH((void)at.queue.write(FillLease(), at.file, 0, 4096), "4096 bytes of a frame");
  EXPECT_DEATH((void)at.queue.read(at.file, 0, kFrameBytes + 1), "8193 bytes into a frame of 8192");
  EXPECT_DEATH((void)at.queue.read(at.file, 0, 0), "0 bytes into a frame");
  EXPECT_DEATH((SimulatedQueue(1, {}, std::chrono::microseconds(0))), "a deadline of 0 us");
  ASSERT_EQ(at.queue.take_read(at.start_read(0), lease), IoStatus::kOk);
  EXPECT_DEATH((void)at.queue.take_read(at.start_read(1), lease), "or a held lease");
}

}  // namespace
}  // namespace strata::tiers
