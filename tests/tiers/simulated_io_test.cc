#include "tiers/simulated_io.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <map>
#include <numeric>
#include <random>
#include <tuple>

#include "tests/tiers/fresh_folder.h"
#include "tests/tiers/simulated_disk.h"
#include "tiers/file.h"

namespace strata::tiers {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;

TEST(SimulatedIo, HonestDiskEqualsPlainMemory) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  SimulatedDisk settings{.seed = seed, .depth = 16, .latency_spread = microseconds(200)};
  settings.faults.short_read = 0.2;
  settings.faults.short_write = 0.2;
  settings.faults.stall = 0.01;
  settings.stall = std::chrono::milliseconds(2);
  DiskOfOneFile disk(settings);
  std::vector<std::byte> plain(64 * kPlaceBytes);
  std::map<uint64_t, IoRequest> running;  // by id; no two at one place
  for (int i = 0; i < 30'000 || disk.io.in_flight() > 0; ++i) {
    const auto slot = static_cast<uint32_t>(random() % 64);
    IoRequest request = disk.request(random() % 2 == 0 ? IoOp::kRead : IoOp::kWrite, slot, slot);
    request.offset += random() % 4 * 512;
    request.bytes = static_cast<uint32_t>(512 * (1 + random() % 4));
    const bool is_free = std::ranges::none_of(
        running, [&](const auto& r) { return r.second.memory == request.memory; });
    if (i < 30'000 && is_free) {
      if (request.op == IoOp::kWrite)
        for (std::byte& byte : disk.slot(slot)) byte = static_cast<std::byte>(random());
      if (disk.io.submit({&request, 1}) == 1) running.emplace(request.id, request);
    }
    std::array<IoCompletion, 3> ended;
    const uint32_t n = disk.io.wait(ended, microseconds(random() % 50));
    for (const IoCompletion& completion : std::span(ended).first(n)) {
      const IoRequest done = running.extract(completion.id).mapped();
      ASSERT_EQ(completion.status, IoStatus::kOk);
      ASSERT_EQ(completion.bytes, done.bytes);
      std::byte* at = plain.data() + done.offset;
      if (done.op == IoOp::kWrite) std::memcpy(at, done.memory, done.bytes);
      ASSERT_EQ(std::memcmp(at, done.memory, done.bytes), 0) << "offset " << done.offset;
    }
  }
  EXPECT_GT(disk.io.injected(FaultKind::kShortRead), 1000u);
  EXPECT_GT(disk.io.injected(FaultKind::kShortWrite), 1000u);
  EXPECT_EQ(disk.io.n_wrong_reads(), 0u);
  EXPECT_TRUE(std::ranges::equal(disk.io.medium(disk.file), plain));
}

TEST(SimulatedIo, SameSeedGivesTheSameRun) {
  const auto run = [](uint64_t seed) {
    SimulatedDisk settings{.seed = seed, .latency_spread = microseconds(500)};
    settings.faults = {.read_error = 0.1, .bit_flip = 0.1, .torn_write = 0.2, .stall = 0.1};
    DiskOfOneFile disk(settings);
    std::vector<std::tuple<uint64_t, IoStatus, int64_t, uint64_t>> events;
    for (uint32_t i = 0; i < 20; ++i) {
      for (uint32_t slot = 0; slot < 32; ++slot) {
        if (slot % 2 == 0) std::ranges::fill(disk.slot(slot), static_cast<std::byte>(i + slot));
        disk.start(disk.request(slot % 2 == 0 ? IoOp::kWrite : IoOp::kRead, slot / 2, slot));
      }
      IoCompletion ended;
      while (disk.io.wait({&ended, 1}, kOneHour) == 1) {
        const uint64_t sum = std::accumulate(
            disk.slot(ended.id % 32).begin(), disk.slot(ended.id % 32).end(), uint64_t{0},
            [](uint64_t h, std::byte b) { return h * 31 + static_cast<uint64_t>(b); });
        events.emplace_back(ended.id, ended.status, disk.io.now().count(), sum);
      }
    }
    return events;
  };
  EXPECT_EQ(run(7).size(), 640u);
  EXPECT_EQ(run(7), run(7));
  EXPECT_NE(run(7), run(8));
}

TEST(SimulatedIo, ReadPastTheEndReturnsTheTail) {
  DiskOfOneFile disk({}, kPlaceBytes + 512);
  EXPECT_EQ(disk.read(0).status, IoStatus::kOk);
  const IoCompletion tail = disk.read(1);
  EXPECT_EQ(tail.status, IoStatus::kEndedEarly);
  EXPECT_EQ(tail.bytes, 512u);
  EXPECT_EQ(disk.n_of(0), 512u);
  EXPECT_EQ(disk.read(7).bytes, 0u);
  EXPECT_EQ(disk.io.injected_total(), 0u);
}

TEST(SimulatedIo, FullDiskTakesNothing) {
  SimulatedDisk settings;
  settings.capacity_bytes = 3 * kPlaceBytes;
  DiskOfOneFile disk(settings, kPlaceBytes);
  EXPECT_EQ(disk.write(2, 1).status, IoStatus::kOk);
  EXPECT_EQ(disk.io.medium(disk.file).size(), 3 * kPlaceBytes);
  EXPECT_EQ(disk.write(3, 1).status, IoStatus::kNoSpace);
  disk.io.fail_nth(2, FaultKind::kNoSpace);
  EXPECT_EQ(disk.write(0, 1).status, IoStatus::kNoSpace);
  EXPECT_EQ(disk.io.medium(disk.file)[0], std::byte{0});
}

TEST(SimulatedIo, BytesMoveWhenTheTransferEndsAndNotBefore) {
  SimulatedDisk settings;
  settings.latency = microseconds(100);
  settings.bytes_per_s = 1'000 * kPlaceBytes;  // a transfer takes 1.1 ms
  DiskOfOneFile disk(settings);
  std::ranges::fill(disk.slot(1), std::byte{1});
  disk.start(disk.request(IoOp::kWrite, 0, 1));
  disk.io.advance(microseconds(500));
  disk.start(disk.request(IoOp::kRead, 0, 0));
  EXPECT_EQ(disk.io.medium(disk.file)[0], std::byte{0});
  EXPECT_EQ(disk.n_of(kPoison), kPlaceBytes);
  std::ranges::fill(disk.slot(1), std::byte{2});  // too early: the device has not taken it yet
  disk.io.advance(microseconds(600));
  EXPECT_EQ(disk.io.medium(disk.file)[0], std::byte{2});
  EXPECT_EQ(disk.n_of(kPoison), kPlaceBytes);
  std::array<IoCompletion, 2> ended;
  EXPECT_EQ(disk.io.wait(ended, microseconds(0)), 1u);
  EXPECT_EQ(disk.io.wait(ended, kOneHour), 1u);
  EXPECT_EQ(disk.n_of(2), kPlaceBytes);
  EXPECT_EQ(disk.io.now(), microseconds(1600));
}

TEST(SimulatedIo, WaitReturnsAtTheFirstCompletion) {
  SimulatedDisk settings;
  settings.latency = microseconds(100);
  DiskOfOneFile disk(settings);
  disk.start(disk.request(IoOp::kRead, 0, 0));
  disk.io.advance(microseconds(40));
  disk.start(disk.request(IoOp::kRead, 1, 1));
  std::array<IoCompletion, 2> ended;
  EXPECT_EQ(disk.io.wait(ended, kOneHour), 1u);
  const nanoseconds first = disk.io.now();
  EXPECT_EQ(disk.io.wait(ended, kOneHour), 1u);
  EXPECT_EQ(disk.io.now() - first, microseconds(40));
}

TEST(SimulatedIo, SpreadReordersAndItsAbsenceDoesNot) {
  for (const bool has_spread : {false, true}) {
    SimulatedDisk settings{.seed = 1};
    if (has_spread) settings.latency_spread = microseconds(300);
    DiskOfOneFile disk(settings);
    for (uint32_t i = 0; i < 32; ++i) disk.start(disk.request(IoOp::kRead, i, i));
    std::vector<uint64_t> order;
    nanoseconds before{0};
    for (IoCompletion ended; disk.io.wait({&ended, 1}, kOneHour) == 1;) {
      order.push_back(ended.id);
      EXPECT_GE(disk.io.now(), before);
      before = disk.io.now();
    }
    EXPECT_EQ(order.size(), 32u);
    EXPECT_EQ(std::ranges::is_sorted(order), !has_spread);
  }
}

TEST(SimulatedIo, DepthBoundsWhatIsInFlight) {
  SimulatedDisk settings;
  settings.depth = 3;
  DiskOfOneFile disk(settings);
  std::vector<IoRequest> requests;
  for (uint32_t i = 0; i < 5; ++i) requests.push_back(disk.request(IoOp::kRead, i, i));
  EXPECT_EQ(disk.io.submit(requests), 3u);
  EXPECT_EQ(disk.io.in_flight(), 3u);
  EXPECT_EQ(disk.io.submit(std::span(requests).subspan(3)), 0u);
  IoCompletion ended;
  EXPECT_EQ(disk.io.wait({&ended, 1}, kOneHour), 1u);
  EXPECT_EQ(disk.io.in_flight(), 2u);
  EXPECT_EQ(disk.io.submit(std::span(requests).subspan(3)), 1u);
}

TEST(SimulatedIo, LoopOfLooksEndsAndAnIdleWaitTakesNoTime) {
  DiskOfOneFile disk;
  IoCompletion ended;
  EXPECT_EQ(disk.io.wait({&ended, 1}, kOneHour), 0u);
  EXPECT_EQ(disk.io.now(), nanoseconds(0));
  disk.start(disk.request(IoOp::kRead, 0, 0));
  int n_looks = 1;
  while (disk.io.wait({&ended, 1}, microseconds(0)) == 0) ASSERT_LT(++n_looks, 1000);
  EXPECT_GT(n_looks, 10);
}

TEST(SimulatedIo, MisalignedRequestIsRefused) {
  DiskOfOneFile disk;
  IoRequest request = disk.request(IoOp::kWrite, 0, 63);
  request.offset = 256;
  EXPECT_EQ(disk.end_of(request).status, IoStatus::kMisaligned);
  request = disk.request(IoOp::kRead, 0, 0);
  request.bytes = 1000;
  EXPECT_EQ(disk.end_of(request).status, IoStatus::kMisaligned);
  request = disk.request(IoOp::kRead, 0, 0);
  request.memory += 8;
  EXPECT_EQ(disk.end_of(request).status, IoStatus::kMisaligned);

  SimulatedDisk buffered;
  buffered.alignment = 1;
  DiskOfOneFile any(buffered);
  request = any.request(IoOp::kRead, 0, 0);
  request.offset = 3;
  request.bytes = 1001;
  request.memory += 8;
  EXPECT_EQ(any.end_of(request).status, IoStatus::kOk);
}

TEST(SimulatedIo, TwoBackEndsSeeOneMediumEachWithItsOwnFaults) {
  DiskOfOneFile disk;
  DiskOfOneFile other({.faults = {.bit_flip = 1, .bit_flips_max = 1}});
  other.file = other.io.add_file_of(disk.io, disk.file);
  EXPECT_EQ(other.io.alignment(other.file), disk.io.alignment(disk.file));
  disk.write(5, 0x42);
  EXPECT_EQ(disk.read(5).status, IoStatus::kOk);
  EXPECT_EQ(disk.n_of(0x42), kPlaceBytes);
  EXPECT_EQ(other.read(5).status, IoStatus::kOk);
  EXPECT_EQ(other.n_of(0x42), kPlaceBytes - 1);
  EXPECT_EQ(other.io.n_wrong_reads(), 1u);
  EXPECT_EQ(disk.io.n_wrong_reads(), 0u);
}

TEST(SimulatedIo, AFileLendsItsAlignmentAndNeverItsBytes) {
  const FreshFolder folder;
  std::ofstream(folder.path("a")) << std::string(kPlaceBytes, 'x');
  const File real = File::open_for_reading(folder.path("a"), false);
  DiskOfOneFile disk;
  disk.file = disk.io.add_file(real);
  EXPECT_EQ(disk.read(0).status, IoStatus::kEndedEarly);
  IoRequest odd = disk.request(IoOp::kWrite, 0, 63);
  odd.bytes = 1001;  // refused by the disk's own files
  std::ranges::fill(disk.slot(63), std::byte{'y'});
  EXPECT_EQ(disk.end_of(odd).status, IoStatus::kOk);
  EXPECT_EQ(disk.read(0).bytes, 1001u);
  EXPECT_EQ(disk.n_of('y'), 1001u);
  std::ifstream unchanged(folder.path("a"));
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(unchanged), {}),
            std::string(kPlaceBytes, 'x'));
}

TEST(SimulatedIoDeathTest, MisuseIsABug) {
  DiskOfOneFile disk;
  IoRequest request = disk.request(IoOp::kRead, 0, 0);
  request.bytes = 0;
  EXPECT_DEATH(disk.io.submit({&request, 1}), "bytes=0");
  request = disk.request(IoOp::kRead, 0, 0);
  request.file = static_cast<IoFile>(1);
  EXPECT_DEATH(disk.io.submit({&request, 1}), "file 1 of 1");
  disk.io.fail_nth(0, FaultKind::kTornWrite);
  request = disk.request(IoOp::kRead, 0, 0);
  EXPECT_DEATH(disk.io.submit({&request, 1}), "\"torn write\" cannot happen to request 0");
}

TEST(SimulatedIoDeathTest, MemoryInFlightBelongsToItsTransfer) {
  DiskOfOneFile disk;
  disk.start(disk.request(IoOp::kRead, 0, 0));
  const IoRequest again = disk.request(IoOp::kWrite, 1, 0);
  EXPECT_DEATH(disk.io.submit({&again, 1}), "belongs to request 0");
  disk.slot(0)[17] = std::byte{1};
  IoCompletion ended;
  EXPECT_DEATH(disk.io.wait({&ended, 1}, kOneHour), "was touched while a read owned it");
}

TEST(SimulatedIoDeathTest, WaitForEverOnAHungTransferIsABug) {
  DiskOfOneFile disk;
  disk.io.fail_nth(0, FaultKind::kHang);
  disk.start(disk.request(IoOp::kRead, 0, 0));
  IoCompletion ended;
  EXPECT_DEATH(disk.io.wait({&ended, 1}, microseconds::max()), "waits for ever");
  EXPECT_DEATH(disk.io.fail_nth(0, FaultKind::kStall), "was submitted already");
}

TEST(SimulatedIoDeathTest, RatesAboveOneAreABug) {
  SimulatedDisk settings;
  settings.faults = {.torn_write = 0.6, .hang = 0.6};
  EXPECT_DEATH(SimulatedIo{settings}, "sum to 1.2");
}

}  // namespace
}  // namespace strata::tiers
