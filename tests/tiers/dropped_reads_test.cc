// Reads that nobody wants any more before a device has them.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "tests/tiers/block_fixture.h"
#include "tiers/simulated_io.h"
#include "tiers/transfer_queue.h"

namespace strata::tiers {
namespace {

constexpr uint32_t kDroppedPart = 8192;  // of the file and of a frame

/// A disk that takes one transfer at a time. Its file is all zeros.
struct QueueOfDepthOne {
  QueueOfDepthOne()
      : queue(std::make_unique<SimulatedIo>(SimulatedDisk{.depth = 1}),
              {.frame_bytes = kDroppedPart, .n_frames = 4}),
        file(disk().add_memory_file(uint64_t{8} * kDroppedPart)) {}
  SimulatedIo& disk() { return static_cast<SimulatedIo&>(queue.io()); }
  Ticket read(uint32_t part, TransferQueue::Start when = TransferQueue::Start::kNow) {
    auto ticket = queue.read(file, uint64_t{part} * kDroppedPart, kDroppedPart, when);
    EXPECT_TRUE(ticket.has_value());
    return std::move(*ticket);
  }
  Ticket write(uint32_t part, uint8_t value) {
    auto lease = queue.take_frame();
    EXPECT_TRUE(lease.has_value());
    std::ranges::fill(lease->bytes(), std::byte{value});
    return queue.write(std::move(*lease), file, uint64_t{part} * kDroppedPart, kDroppedPart);
  }
  void expect_read(Ticket&& ticket, uint8_t value) {
    ReadLease lease;
    ASSERT_EQ(queue.take_read(std::move(ticket), lease), IoStatus::kOk);
    EXPECT_EQ(std::ranges::count(lease.bytes(), std::byte{value}), kDroppedPart);
  }
  void settle() {
    while (queue.wait_any()) continue;
  }

  TransferQueue queue;
  IoFile file;
};

TEST(DroppedReads, AQueuedOneNeverBegins) {
  QueueOfDepthOne at;
  ASSERT_EQ(at.queue.take_write(at.write(2, 6)), IoStatus::kOk);
  ASSERT_EQ(at.disk().n_submitted(), 1u);
  Ticket first = at.read(0);
  {
    const Ticket dropped = at.read(1);
    EXPECT_EQ(at.queue.n_free(), 2u);
  }
  EXPECT_EQ(at.queue.n_free(), 3u) << "its frame is free at once";
  Ticket last = at.read(2);
  at.expect_read(std::move(last), 6);
  at.expect_read(std::move(first), 0);
  at.settle();
  EXPECT_EQ(at.queue.n_free(), 4u);
  EXPECT_EQ(at.disk().n_submitted(), 3u);
  EXPECT_EQ(at.queue.counts().reads, 2u);
  EXPECT_EQ(at.queue.counts().failed, 0u);
}

TEST(DroppedReads, OneOfTheNextPollNeverBegins) {
  QueueOfDepthOne at;
  { const Ticket dropped = at.read(1, TransferQueue::Start::kAtNextPoll); }
  EXPECT_FALSE(at.queue.is_in_use(at.file));
  at.settle();
  EXPECT_EQ(at.disk().n_submitted(), 0u);
}

TEST(DroppedReads, OneAtTheDeviceEndsBeforeItsFrameIsFree) {
  QueueOfDepthOne at;
  { const Ticket dropped = at.read(0); }
  EXPECT_EQ(at.queue.n_free(), 3u);
  EXPECT_TRUE(at.queue.is_in_use(at.file));
  at.settle();
  EXPECT_EQ(at.queue.n_free(), 4u);
  EXPECT_EQ(at.disk().n_submitted(), 1u);
}

/// Whoever reads its place later wants it.
TEST(DroppedReads, AQueuedWriteGoesOnWithoutItsTicket) {
  QueueOfDepthOne at;
  const Ticket first = at.read(0);
  { const Ticket written = at.write(3, 7); }
  EXPECT_EQ(at.queue.n_free(), 2u);
  at.settle();
  EXPECT_EQ(at.disk().n_submitted(), 2u);
  at.expect_read(at.read(3), 7);
}

TEST(DroppedReads, AnExtentThatIsReleasedBeforeItsReadBeganIsNotRead) {
  testing::BlockFixture at({.n_slots = 64, .n_frames = 1});
  const auto first = at.store_run(100);
  const auto second = at.store_run(200);
  at.evict_all();
  const uint64_t n_before = at.spill.disk->n_submitted();
  ASSERT_TRUE(at.store.fetch(at.store.extent_of(first[0])));
  at.store.release(at.store.extent_of(first[0]));
  ASSERT_TRUE(at.store.fetch(at.store.extent_of(second[0]))) << "its frame is free at once";
  ASSERT_TRUE(at.take(at.store.extent_of(second[0])));
  EXPECT_TRUE(at.holds(second[0], 200));
  EXPECT_EQ(at.spill.disk->n_submitted() - n_before, 1u);
}

}  // namespace
}  // namespace strata::tiers
