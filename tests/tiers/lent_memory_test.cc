// Transfers that are one request, and reads into memory of the caller.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "tiers/simulated_io.h"
#include "tiers/transfer_queue.h"

namespace strata::tiers {
namespace {

using std::chrono_literals::operator""s;

constexpr uint32_t kLentPart = 8192;  // of a frame, and of each read
constexpr uint32_t kLentParts = 16;   // of the file; part k is full of bytes k + 1

struct LentQueue {
  explicit LentQueue(uint64_t join_bytes, const SimulatedDisk& disk_ = {}, uint32_t n_lent = 8)
      : queue(std::make_unique<SimulatedIo>(disk_), {.frame_bytes = kLentPart,
                                                     .n_frames = 8,
                                                     .n_lent = n_lent,
                                                     .join_bytes = join_bytes,
                                                     .deadline = 1s}),
        memory(HostMemory::reserve(uint64_t{kLentParts} * kLentPart)) {
    file = disk().add_memory_file(0);
    std::vector<std::byte> content(uint64_t{kLentParts} * kLentPart);
    for (uint64_t i = 0; i < content.size(); ++i) content[i] = std::byte(i / kLentPart + 1);
    disk().set_content(file, content);
  }
  SimulatedIo& disk() { return static_cast<SimulatedIo&>(queue.io()); }
  std::span<std::byte> part(uint32_t place) {
    return {memory.data() + place * kLentPart, kLentPart};
  }
  /// Begins to read part `from` of the file to part `to` of the memory, at the next poll.
  Ticket read_to(uint32_t to, uint32_t from) {
    auto ticket = queue.read_to(part(to), file, uint64_t{from} * kLentPart, kAtNextPoll);
    EXPECT_TRUE(ticket.has_value());
    return std::move(*ticket);
  }
  Ticket read(uint32_t from) {
    auto ticket = queue.read(file, uint64_t{from} * kLentPart, kLentPart, kAtNextPoll);
    EXPECT_TRUE(ticket.has_value());
    return std::move(*ticket);
  }
  static bool is_part(std::span<const std::byte> bytes, uint32_t from) {
    return bytes.size() == kLentPart && std::ranges::count(bytes, std::byte(from + 1)) == kLentPart;
  }

  static constexpr auto kAtNextPoll = TransferQueue::Start::kAtNextPoll;
  TransferQueue queue;
  IoFile file{};
  HostMemory memory;
};

TEST(LentMemory, NeighboursInFileAndMemoryAreOneRequest) {
  LentQueue at(4 * kLentPart);
  std::vector<Ticket> tickets;
  // File: 0 1 2 | 3 goes elsewhere | 5 is no neighbour | 6 7 8 9 of which four are the most.
  const std::vector<std::pair<uint32_t, uint32_t>> reads = {{0, 0}, {1, 1}, {2, 2}, {9, 3},
                                                            {3, 5}, {4, 6}, {5, 7}, {6, 8}};
  for (const auto& [to, from] : reads) tickets.push_back(at.read_to(to, from));
  EXPECT_EQ(at.disk().n_submitted(), 0u);
  EXPECT_FALSE(at.queue.read_to(at.part(10), at.file, 0).has_value()) << "eight at a time";
  at.queue.poll();
  EXPECT_EQ(at.disk().n_submitted(), 3u);
  for (uint32_t i = 0; i < reads.size(); ++i) {
    EXPECT_EQ(at.queue.take_lent(std::move(tickets[i])), IoStatus::kOk);
    EXPECT_TRUE(LentQueue::is_part(at.part(reads[i].first), reads[i].second)) << i;
  }
  EXPECT_EQ(at.queue.n_lent_free(), 8u);
  EXPECT_TRUE(at.queue.take_back().empty());
  EXPECT_EQ(at.queue.counts().reads, 8u);
  EXPECT_EQ(at.queue.counts().requests, 3u);
}

TEST(LentMemory, ReadsIntoFramesAreJoinedWhereFramesAreNeighbours) {
  LentQueue at(8 * kLentPart);
  std::vector<Ticket> tickets;
  for (uint32_t from : {0u, 1u, 2u, 3u, 8u, 9u}) tickets.push_back(at.read(from));
  at.queue.poll();
  EXPECT_EQ(at.disk().n_submitted(), 2u);
  std::vector<ReadLease> leases(6);
  for (uint32_t i = 0; i < 6; ++i)
    ASSERT_EQ(at.queue.take_read(std::move(tickets[i]), leases[i]), IoStatus::kOk);
  EXPECT_TRUE(LentQueue::is_part(leases[3].bytes(), 3));
  EXPECT_TRUE(LentQueue::is_part(leases[5].bytes(), 9));
  // Freed in the order of taking, frames are neighbours again for whoever comes next.
  tickets.clear();
  leases.clear();
  for (uint32_t from : {4u, 5u, 6u, 7u}) tickets.push_back(at.read(from));
  at.queue.poll();
  EXPECT_LE(at.disk().n_submitted(), 4u);
}

TEST(LentMemory, WithoutABoundEveryTransferIsARequest) {
  LentQueue at(0);
  const Ticket a = at.read_to(0, 0), b = at.read_to(1, 1), c = at.read(2), d = at.read(3);
  at.queue.poll();
  EXPECT_EQ(at.disk().n_submitted(), 4u);
}

TEST(LentMemory, AFailedRequestFailsAllItsTransfersAndTheirMemoryComesBack) {
  LentQueue at(8 * kLentPart);
  at.disk().fail_nth(0, FaultKind::kReadError);
  Ticket a = at.read_to(0, 0), b = at.read_to(1, 1);
  EXPECT_EQ(at.queue.take_lent(std::move(a)), IoStatus::kDeviceError);
  EXPECT_EQ(at.queue.take_back().data(), at.part(0).data());
  EXPECT_TRUE(at.queue.take_back().empty()) << "somebody still holds the other ticket";
  EXPECT_EQ(at.queue.take_lent(std::move(b)), IoStatus::kDeviceError);
  EXPECT_EQ(at.queue.take_back().data(), at.part(1).data());
  EXPECT_EQ(at.queue.n_lent_free(), 8u);
  EXPECT_EQ(at.queue.counts().failed, 2u);
}

TEST(LentMemory, WhatTimedOutComesBackWithItsLateCompletion) {
  LentQueue at(8 * kLentPart);
  at.disk().fail_nth(0, FaultKind::kStall);
  Ticket a = at.read_to(0, 0);
  Ticket b = at.read(1);  // another request: another memory
  Ticket c = at.read_to(2, 2);
  Ticket d = at.read_to(3, 3);
  at.disk().fail_nth(2, FaultKind::kStall);
  at.queue.poll();
  { const Ticket dropped = std::move(d); }
  EXPECT_EQ(at.queue.take_lent(std::move(a)), IoStatus::kTimedOut);
  EXPECT_EQ(at.queue.take_lent(std::move(c)), IoStatus::kTimedOut);
  ReadLease lease;
  EXPECT_EQ(at.queue.take_read(std::move(b), lease), IoStatus::kOk);
  EXPECT_TRUE(at.queue.take_back().empty());
  EXPECT_EQ(at.queue.n_lent_quarantined(), 3u);
  EXPECT_EQ(at.queue.n_lent_free(), 5u);
  EXPECT_TRUE(at.queue.has_lent_memory());
  EXPECT_TRUE(at.queue.is_in_use(at.file));
  EXPECT_FALSE(at.queue.has_dropped_lent()) << "it did not end in time";
  at.disk().advance(2s);
  at.queue.poll();
  EXPECT_FALSE(at.queue.has_lent_memory());
  std::vector<const std::byte*> back;
  for (auto memory = at.queue.take_back(); !memory.empty(); memory = at.queue.take_back())
    back.push_back(memory.data());
  std::ranges::sort(back);
  EXPECT_EQ(back, (std::vector<const std::byte*>{at.part(0).data(), at.part(2).data(),
                                                 at.part(3).data()}));
  EXPECT_EQ(at.queue.n_lent_quarantined(), 0u);
  EXPECT_EQ(at.queue.n_lent_free(), 8u);
}

TEST(LentMemory, WhatNeverBeganTimesOutWithoutQuarantine) {
  LentQueue at(0, {.depth = 1});
  at.disk().fail_nth(0, FaultKind::kHang);
  Ticket a = at.read_to(0, 0), b = at.read_to(1, 1);
  EXPECT_EQ(at.queue.take_lent(std::move(a)), IoStatus::kTimedOut);
  EXPECT_EQ(at.queue.take_lent(std::move(b)), IoStatus::kTimedOut);
  EXPECT_EQ(at.queue.n_lent_quarantined(), 1u);
  EXPECT_EQ(at.queue.take_back().data(), at.part(1).data());
  EXPECT_TRUE(at.queue.take_back().empty());
}

TEST(LentMemory, DroppedTicketsGiveTheMemoryBackWhenTheReadHasEnded) {
  LentQueue at(8 * kLentPart);
  {
    const Ticket a = at.read_to(0, 0), b = at.read_to(1, 1);
    at.queue.poll();
  }
  EXPECT_TRUE(at.queue.take_back().empty());
  EXPECT_TRUE(at.queue.has_dropped_lent());
  while (at.queue.wait_any()) continue;
  EXPECT_FALSE(at.queue.has_dropped_lent());
  EXPECT_EQ(at.queue.take_back().size(), kLentPart);
  EXPECT_EQ(at.queue.take_back().size(), kLentPart);
  EXPECT_EQ(at.queue.n_lent_free(), 8u);
  EXPECT_EQ(at.disk().n_submitted(), 1u);
}

TEST(LentMemory, AQueuedReadThatIsDroppedGivesTheMemoryBackAtOnceAndLeavesItsNeighbours) {
  LentQueue at(8 * kLentPart);
  Ticket a = at.read_to(0, 0), b = at.read_to(1, 1), c = at.read_to(2, 2);
  { const Ticket dropped = std::move(b); }
  EXPECT_FALSE(at.queue.has_dropped_lent());
  EXPECT_EQ(at.queue.take_back().data(), at.part(1).data());
  EXPECT_EQ(at.queue.n_lent_free(), 6u);
  EXPECT_EQ(at.queue.take_lent(std::move(a)), IoStatus::kOk);
  EXPECT_EQ(at.queue.take_lent(std::move(c)), IoStatus::kOk);
  EXPECT_EQ(at.disk().n_submitted(), 2u) << "what was between them is not there to join them";
  EXPECT_TRUE(LentQueue::is_part(at.part(2), 2));
  EXPECT_FALSE(LentQueue::is_part(at.part(1), 1));
}

}  // namespace
}  // namespace strata::tiers
