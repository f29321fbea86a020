// Writes of neighbours that are one request: which are, what a failure of one costs, and that the
// bytes are right whatever order the disk answers in.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tiers/simulated_io.h"
#include "tiers/transfer_queue.h"
#include "tiers/wrapped_io.h"

namespace strata::tiers {
namespace {

using std::chrono_literals::operator""s;

constexpr uint32_t kWritePart = 8192;  // of a frame, and of each write
constexpr uint32_t kWriteParts = 64;   // of the file

/// Notes how large the requests are.
class NotedIo final : public WrappedIo {
 public:
  explicit NotedIo(std::unique_ptr<Io> io) : WrappedIo(std::move(io)) {}
  uint32_t submit(std::span<const IoRequest> requests) override {
    const uint32_t n = io().submit(requests);
    for (const IoRequest& request : requests.first(n)) parts.push_back(request.bytes / kWritePart);
    return n;
  }
  uint32_t wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) override {
    return io().wait(out, timeout);
  }
  SimulatedIo& disk() { return static_cast<SimulatedIo&>(io()); }
  std::vector<uint32_t> parts;  // of each request so far
};

struct WriteQueue {
  static constexpr auto kAtNextPoll = TransferQueue::Start::kAtNextPoll;

  /// `n_joined` parts are one request at most.
  explicit WriteQueue(uint32_t n_frames, uint32_t n_joined = 4, const SimulatedDisk& of = {})
      : queue(std::make_unique<NotedIo>(std::make_unique<SimulatedIo>(of)),
              {.frame_bytes = kWritePart,
               .n_frames = n_frames,
               .join_bytes = uint64_t{n_joined} * kWritePart,
               .deadline = 1s}),
        file(disk().add_memory_file(uint64_t{kWriteParts} * kWritePart)) {}

  NotedIo& noted() { return static_cast<NotedIo&>(queue.io()); }
  SimulatedIo& disk() { return noted().disk(); }
  std::vector<uint32_t> take_sizes() { return std::exchange(noted().parts, {}); }

  Ticket write_in(FillLease&& lease, uint32_t place, uint8_t value) {
    std::ranges::fill(lease.bytes(), std::byte{value});
    return queue.write(std::move(lease), file, uint64_t{place} * kWritePart, kWritePart,
                       kAtNextPoll);
  }
  /// Place `first` and the n - 1 behind it hold value, value + 1, ...
  std::vector<Ticket> write_run(uint32_t first, uint32_t n, uint8_t value) {
    std::vector<Ticket> tickets;
    for (uint32_t i = 0; i < n; ++i) {
      auto lease = queue.take_frame_of_run(file, uint64_t{first + i} * kWritePart, n - i);
      EXPECT_TRUE(lease.has_value()) << i;
      if (!lease) break;
      tickets.push_back(write_in(std::move(*lease), first + i, static_cast<uint8_t>(value + i)));
    }
    return tickets;
  }
  void expect_ends(std::vector<Ticket>&& tickets, IoStatus status) {
    for (Ticket& ticket : tickets) EXPECT_EQ(queue.take_write(std::move(ticket)), status);
  }
  bool holds(uint32_t place, uint8_t value) {
    const auto bytes = disk().medium(file).subspan(uint64_t{place} * kWritePart, kWritePart);
    return std::ranges::count(bytes, std::byte{value}) == kWritePart;
  }

  TransferQueue queue;
  IoFile file;
};

using Sizes = std::vector<uint32_t>;

TEST(JoinedWrites, NeighboursAreOneRequestWhenTheyAreHandedOver) {
  WriteQueue at(8);
  auto tickets = at.write_run(3, 4, 10);
  EXPECT_EQ(at.disk().n_submitted(), 0u);
  EXPECT_FALSE(at.queue.is_done(tickets[0]));
  at.queue.begin_queued();
  EXPECT_EQ(at.take_sizes(), Sizes{4});
  at.expect_ends(std::move(tickets), IoStatus::kOk);
  for (uint32_t i = 0; i < 4; ++i) EXPECT_TRUE(at.holds(3 + i, static_cast<uint8_t>(10 + i))) << i;
  EXPECT_EQ(at.queue.counts().writes, 4u);
  EXPECT_EQ(at.queue.counts().written_bytes, 4u * kWritePart);
  EXPECT_EQ(at.queue.counts().requests, 1u);
  EXPECT_EQ(at.queue.n_free(), 8u);
}

TEST(JoinedWrites, LongRunsAreCutSoThatNothingSmallIsLeft) {
  const std::map<uint32_t, Sizes> expected = {
      {1, {1}}, {2, {2}}, {5, {3, 2}}, {6, {3, 3}}, {8, {4, 4}}, {9, {3, 3, 3}}, {10, {4, 3, 3}}};
  for (const auto& [n, sizes] : expected) {
    WriteQueue at(16);
    auto tickets = at.write_run(0, n, 1);
    at.queue.poll();
    EXPECT_EQ(at.take_sizes(), sizes) << n;
    at.expect_ends(std::move(tickets), IoStatus::kOk);
  }
}

TEST(JoinedWrites, OnlyNeighboursAreJoined) {
  WriteQueue at(16);
  std::vector<Ticket> tickets;
  for (const uint32_t first : {0u, 8u, 11u})
    for (Ticket& ticket : at.write_run(first, 2, static_cast<uint8_t>(first)))
      tickets.push_back(std::move(ticket));
  // A neighbour in the file whose frame lies elsewhere.
  const auto between = at.queue.take_frame();
  auto lease = at.queue.take_frame();
  tickets.push_back(at.write_in(std::move(*lease), 13, 13));
  // Neither is a read joined to a write, whatever its place.
  const auto read = at.queue.read(at.file, 14 * kWritePart, kWritePart, WriteQueue::kAtNextPoll);
  ASSERT_TRUE(read.has_value());
  at.queue.begin_queued();
  EXPECT_EQ(at.take_sizes(), (Sizes{2, 2, 2, 1, 1}));
  at.expect_ends(std::move(tickets), IoStatus::kOk);
  for (const uint32_t place : {0u, 8u, 11u, 13u})
    EXPECT_TRUE(at.holds(place, static_cast<uint8_t>(place))) << place;
}

TEST(JoinedWrites, AWriteThatBeginsAtOnceIsARequestOfItsOwn) {
  WriteQueue at(4);
  std::vector<Ticket> tickets;
  for (uint32_t place = 0; place < 3; ++place) {
    auto lease = at.queue.take_frame();
    ASSERT_TRUE(lease.has_value());
    tickets.push_back(
        at.queue.write(std::move(*lease), at.file, uint64_t{place} * kWritePart, kWritePart));
  }
  EXPECT_EQ(at.take_sizes(), (Sizes{1, 1, 1}));
  at.expect_ends(std::move(tickets), IoStatus::kOk);
}

/// What is large alone is written as it always was.
TEST(JoinedWrites, LargeFramesStayApart) {
  for (const uint64_t frame_bytes : {kSmallTransferBytes - 4096, kSmallTransferBytes}) {
    TransferQueue queue(std::make_unique<SimulatedIo>(SimulatedDisk{}),
                        {.frame_bytes = frame_bytes, .n_frames = 4, .join_bytes = 1 << 20});
    const IoFile file =
        static_cast<SimulatedIo&>(queue.io()).add_memory_file(4 * kSmallTransferBytes);
    std::vector<Ticket> tickets;
    for (uint32_t i = 0; i < 4; ++i) {
      auto lease = queue.take_frame_of_run(file, i * frame_bytes, 4 - i);
      ASSERT_TRUE(lease.has_value());
      tickets.push_back(queue.write(std::move(*lease), file, i * frame_bytes,
                                    static_cast<uint32_t>(frame_bytes), WriteQueue::kAtNextPoll));
    }
    queue.begin_queued();
    EXPECT_EQ(queue.joins_writes(), frame_bytes < kSmallTransferBytes);
    EXPECT_EQ(queue.counts().requests, queue.joins_writes() ? 1u : 4u);
    for (Ticket& ticket : tickets) EXPECT_EQ(queue.take_write(std::move(ticket)), IoStatus::kOk);
  }
}

/// Frames come back in any order; a run looks for neighbours among them.
TEST(JoinedWrites, ARunFindsNeighboursAmongScatteredFrames) {
  WriteQueue at(12);
  std::vector<FillLease> held;
  for (uint32_t i = 0; i < 12; ++i) held.push_back(*at.queue.take_frame());
  for (const uint32_t frame : {7u, 0u, 9u, 2u, 8u, 4u, 6u}) held[frame] = FillLease();
  auto tickets = at.write_run(20, 4, 1);
  at.queue.begin_queued();
  EXPECT_EQ(at.take_sizes(), Sizes{4});
  at.expect_ends(std::move(tickets), IoStatus::kOk);
}

TEST(JoinedWrites, ARunWaitsForAsManyFramesAsMakeARequest) {
  WriteQueue at(6);
  std::vector<Ticket> writes;
  for (uint32_t i = 0; i < 6; ++i)
    for (Ticket& ticket : at.write_run(10 * i, 1, 1)) writes.push_back(std::move(ticket));
  at.queue.begin_queued();
  const auto end_last = [&](uint32_t n) {
    for (uint32_t i = 0; i < n; ++i, writes.pop_back())
      EXPECT_EQ(at.queue.take_write(std::move(writes.back())), IoStatus::kOk);
  };
  EXPECT_FALSE(at.queue.take_frame_of_run(at.file, 0, 1).has_value());
  end_last(1);
  EXPECT_FALSE(at.queue.take_frame_of_run(at.file, 0, 2).has_value());
  EXPECT_TRUE(at.queue.take_frame_of_run(at.file, 0, 1).has_value());
  end_last(2);
  EXPECT_FALSE(at.queue.take_frame_of_run(at.file, 0, 4).has_value());
  EXPECT_FALSE(at.queue.take_frame_of_run(at.file, 0, 8).has_value());
  EXPECT_TRUE(at.queue.take_frame_of_run(at.file, 0, 5).has_value()) << "three and two";
  end_last(3);
  WriteQueue few(2);  // there will never be more
  EXPECT_TRUE(few.queue.take_frame_of_run(few.file, 0, 4).has_value());
}

TEST(JoinedWrites, AFailedRequestFailsAllItsWritesAndCountsOnce) {
  for (const auto& [fault, status] : {std::pair{FaultKind::kWriteError, IoStatus::kDeviceError},
                                      std::pair{FaultKind::kNoSpace, IoStatus::kNoSpace}}) {
    SCOPED_TRACE(fault_kind_name(fault));
    WriteQueue at(8);
    at.disk().fail_nth(0, fault);
    auto failing = at.write_run(0, 3, 1);
    auto fine = at.write_run(8, 2, 5);
    at.queue.begin_queued();
    at.expect_ends(std::move(failing), status);
    at.expect_ends(std::move(fine), IoStatus::kOk);
    EXPECT_EQ(at.queue.counts().failed, 3u);
    EXPECT_EQ(at.queue.counts().failed_write_requests, 1u);
    EXPECT_EQ(at.queue.counts().writes, 2u);
    EXPECT_EQ(at.queue.counts().written_bytes, 2u * kWritePart);
    EXPECT_EQ(at.queue.n_free(), 8u);
    // Written again, alone.
    at.expect_ends(at.write_run(1, 1, 9), IoStatus::kOk);
    EXPECT_TRUE(at.holds(1, 9));
  }
}

/// A read that fails is no write that fails.
TEST(JoinedWrites, FailedReadsAreNotCountedAmongThem) {
  WriteQueue at(2);
  at.disk().fail_nth(0, FaultKind::kReadError);
  ReadLease lease;
  EXPECT_EQ(at.queue.take_read(*at.queue.read(at.file, 0, kWritePart), lease),
            IoStatus::kDeviceError);
  EXPECT_EQ(at.queue.counts().failed, 1u);
  EXPECT_EQ(at.queue.counts().failed_write_requests, 0u);
}

TEST(JoinedWrites, AHungRequestKeepsAllItsFramesAndALateOneGivesThemBack) {
  for (const FaultKind fault : {FaultKind::kHang, FaultKind::kHangThenMove, FaultKind::kStall}) {
    SCOPED_TRACE(fault_kind_name(fault));
    WriteQueue at(6);
    at.disk().fail_nth(0, fault);
    auto hung = at.write_run(0, 3, 1);
    at.queue.begin_queued();
    at.expect_ends(std::move(hung), IoStatus::kTimedOut);
    EXPECT_EQ(at.queue.n_quarantined(), 3u);
    EXPECT_EQ(at.queue.n_free(), 3u);
    EXPECT_EQ(at.queue.n_silences(), 1u) << "of one request";
    EXPECT_EQ(at.queue.counts().failed, 3u);
    EXPECT_EQ(at.queue.counts().failed_write_requests, 1u);
    EXPECT_TRUE(at.queue.is_in_use(at.file));
    // The others go on serving, beside them.
    for (uint8_t i = 0; i < 4; ++i) at.expect_ends(at.write_run(30, 3, i), IoStatus::kOk);
    at.disk().advance(5s);
    at.queue.poll();
    const bool is_late = fault == FaultKind::kStall;
    EXPECT_EQ(at.queue.n_quarantined(), is_late ? 0u : 3u);
    EXPECT_EQ(at.queue.n_free(), is_late ? 6u : 3u);
    EXPECT_EQ(at.holds(2, 3), fault != FaultKind::kHang);
    EXPECT_EQ(at.queue.counts().failed, 3u) << "each ended once";
  }
}

TEST(JoinedWrites, AShortWriteGoesOnWhereItStopped) {
  for (uint64_t seed = 0; seed < 16; ++seed) {
    WriteQueue at(4, 4, {.seed = seed});
    at.disk().fail_nth(0, FaultKind::kShortWrite);
    auto tickets = at.write_run(5, 4, 1);
    at.queue.begin_queued();
    at.expect_ends(std::move(tickets), IoStatus::kOk);
    EXPECT_EQ(at.disk().injected(FaultKind::kShortWrite), 1u);
    for (uint32_t i = 0; i < 4; ++i) EXPECT_TRUE(at.holds(5 + i, static_cast<uint8_t>(1 + i))) << i;
  }
}

TEST(JoinedWrites, AWriteWhoseTicketIsDroppedIsWrittenBesideItsNeighbours) {
  WriteQueue at(4);
  auto tickets = at.write_run(0, 3, 1);
  tickets.erase(tickets.begin() + 1);
  at.queue.begin_queued();
  EXPECT_EQ(at.take_sizes(), Sizes{3});
  at.expect_ends(std::move(tickets), IoStatus::kOk);
  EXPECT_TRUE(at.holds(1, 2));
  EXPECT_EQ(at.queue.n_free(), 4u);
}

/// A step that takes longer than a deadline: what waited for room at the device is written then.
TEST(JoinedWrites, WhatWaitsForRoomDoesNotTimeOutWhileNobodyLooks) {
  WriteQueue at(8, 1, {.depth = 2});
  auto tickets = at.write_run(0, 6, 1);
  at.queue.begin_queued();
  at.disk().advance(20s);
  at.expect_ends(std::move(tickets), IoStatus::kOk);
  EXPECT_EQ(at.queue.counts().failed, 0u);
}

TEST(JoinedWrites, WhatWaitsForRoomIsWaitedForAsLongAsTheDeviceAnswers) {
  WriteQueue at(8, 1, {.depth = 1, .latency = std::chrono::milliseconds(700)});
  auto tickets = at.write_run(0, 4, 1);  // 2.8 s in all, each within its second
  at.queue.begin_queued();
  EXPECT_EQ(at.queue.take_write(std::move(tickets.back())), IoStatus::kOk);
  tickets.pop_back();
  at.expect_ends(std::move(tickets), IoStatus::kOk);
}

/// A device that hangs with all the room it has.
TEST(JoinedWrites, WhatWasNeverHandedOverIsNoFailedRequest) {
  WriteQueue at(8, 1, {.depth = 1});
  at.disk().fail_nth(0, FaultKind::kHang);
  auto tickets = at.write_run(0, 3, 1);
  at.queue.begin_queued();
  at.expect_ends(std::move(tickets), IoStatus::kTimedOut);
  EXPECT_EQ(at.queue.counts().failed, 3u);
  EXPECT_EQ(at.queue.counts().failed_write_requests, 1u);
}

/// Frames that somebody holds cut the others apart.
TEST(JoinedWrites, TheLongestRunIsUsedWhereNoWriteWillFreeALongerOne) {
  WriteQueue at(6);
  std::vector<FillLease> held(6);
  std::byte* first = nullptr;
  for (uint32_t i = 0; i < 6; ++i) {
    FillLease lease = *at.queue.take_frame();
    if (first == nullptr || lease.bytes().data() < first) first = lease.bytes().data();
    held[i] = std::move(lease);
  }
  std::erase_if(held, [&](const FillLease& lease) {
    const auto frame = (const_cast<FillLease&>(lease).bytes().data() - first) / kWritePart;
    return frame == 0 || frame == 2 || frame == 3;
  });
  ASSERT_EQ(at.queue.n_free(), 3u);
  auto tickets = at.write_run(0, 3, 1);
  at.queue.begin_queued();
  EXPECT_EQ(at.take_sizes(), (Sizes{2, 1}));
  at.expect_ends(std::move(tickets), IoStatus::kOk);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_TRUE(at.holds(i, static_cast<uint8_t>(1 + i))) << i;
}

/// Runs of any length on a disk whose answers overtake each other, some of them bad: a write that
/// ended well is on the medium, and no frame is lost or shared (the simulator dies of that).
TEST(JoinedWrites, WhatEndedWellIsOnTheMediumOfABadDisk) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  uint64_t n_written = 0, n_requests = 0;
  for (uint32_t round = 0; round < 40; ++round) {
    SimulatedDisk disk{.seed = random(),
                       .depth = 1 + static_cast<uint32_t>(random() % 8),
                       .latency_spread = std::chrono::milliseconds(1)};
    disk.faults = {.short_write = 0.2, .write_error = 0.05, .no_space = 0.02, .stall = 0.01};
    WriteQueue at(12, 4, disk);
    std::map<uint32_t, uint8_t> expected;
    std::vector<std::pair<uint32_t, Ticket>> running;
    bool is_late = false;  // and may land on what is written there next
    const auto take_all = [&] {
      for (auto& [place, ticket] : running)
        if (const IoStatus status = at.queue.take_write(std::move(ticket));
            status != IoStatus::kOk) {
          expected.erase(place);
          is_late = is_late || status == IoStatus::kTimedOut;
        }
      running.clear();
    };
    for (uint32_t step = 0; step < 60 && !is_late; ++step) {
      const auto n = static_cast<uint32_t>(1 + random() % 9);
      const auto first = static_cast<uint32_t>(random() % (kWriteParts - n));
      const bool is_being_written = std::ranges::any_of(running, [&](const auto& write) {
        return write.first >= first && write.first < first + n;
      });
      if (is_being_written) take_all();
      for (uint32_t i = 0; i < n; ++i) {
        auto lease = at.queue.take_frame_of_run(at.file, uint64_t{first + i} * kWritePart, n - i);
        if (!lease) break;
        const auto value = static_cast<uint8_t>(random());
        running.emplace_back(first + i, at.write_in(std::move(*lease), first + i, value));
        expected[first + i] = value;
      }
      if (random() % 3 == 0) at.queue.begin_queued();
      if (random() % 4 == 0) (void)at.queue.wait_any();
      if (at.queue.n_free() == 0 || random() % 8 == 0) take_all();
    }
    take_all();
    if (!is_late) {
      for (const auto& [place, value] : expected) ASSERT_TRUE(at.holds(place, value)) << place;
    }
    at.disk().advance(3s);
    at.queue.poll();
    EXPECT_EQ(at.queue.n_free(), 12u);
    n_written += at.queue.counts().writes;
    n_requests += at.queue.counts().requests;
  }
  EXPECT_LT(n_requests, n_written);
}

}  // namespace
}  // namespace strata::tiers
