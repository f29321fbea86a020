// A directory of many packs: what it costs a process that uses one of them. STRATA_PACKS sets how
// many there are (200).
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <utility>

#include "tests/tiers/failing_calls.h"
#include "tests/tiers/long_run.h"
#include "tests/tiers/pack_fixture.h"

namespace strata::tiers {
namespace {

constexpr uint64_t kIndexBytes = uint64_t{64} << 10;
constexpr uint64_t kOutsideBytes = 512;  // of a pack that is passed over, at most

/// Of 30 layers, one of which has blocks, as small as can be.
PackShape tall_shape() {
  PackShape shape;
  shape.model = {1, 2};
  shape.head_dim = 8;
  shape.layers.assign(30, {0, 0});
  shape.layers[0] = {1, 0};
  return shape;
}

/// Without a look at those that are there already, which saving takes.
void make_packs(const std::string& path, DurableCalls& calls, uint64_t n) {
  const auto directory = DurableDirectory::open(path, calls);
  for (uint64_t i = 0; i < n; ++i) {
    PackWriter writer(directory, run_of(tall_shape(), random_text(i, 256), 0, 256));
    write_blocks(writer);
    writer.seal();
    ASSERT_TRUE(writer.publish());
  }
}

uint64_t allocated_bytes() { return mallinfo2().uordblks; }

/// Counts how often something is read that nobody had asked for.
class AskedCalls final : public WatchedCalls {
 public:
  uint64_t n_asked = 0, n_waited = 0;
  uint64_t n_ahead_peak = 0;

  int will_read(int descriptor, uint64_t offset, uint64_t bytes) override {
    ++n_asked;
    n_ahead_peak = std::max(n_ahead_peak, ++n_ahead_);
    return WatchedCalls::will_read(descriptor, offset, bytes);
  }
  int64_t read_at(int descriptor, std::span<std::byte> bytes, uint64_t offset) override {
    n_ahead_ == 0 ? ++n_waited : --n_ahead_;
    return WatchedCalls::read_at(descriptor, bytes, offset);
  }

 private:
  uint64_t n_ahead_ = 0;
};

/// One after the other they would wait for the disk as often as there are packs.
TEST(PackCrowd, HeadsAndTagsAreAskedForBeforeTheFirstIsRead) {
  constexpr uint32_t kPacks = 40;
  const FreshPath fresh;
  AskedCalls calls;
  const auto text = random_text(1, kPacks * 256);
  {
    const auto directory = DurableDirectory::open(fresh.path(), calls);
    for (uint32_t i = 0; i < kPacks; ++i) {
      PackWriter writer(directory, run_of(tall_shape(), text, i * 256, (i + 1) * 256));
      write_blocks(writer);
      writer.seal();
      ASSERT_TRUE(writer.publish());
    }
  }
  PackDirectory packs = PackDirectory::open(fresh.path(), {}, calls);
  EXPECT_EQ(calls.n_asked, kPacks);
  EXPECT_EQ(calls.n_waited, 0u);
  EXPECT_GE(std::exchange(calls.n_ahead_peak, 0u), kPacks / 2);
  EXPECT_EQ(packs.find(tall_shape(), {}, text).n_positions, text.size());
  EXPECT_EQ(calls.n_asked, 3 * kPacks);
  EXPECT_EQ(calls.n_waited, 0u);
  EXPECT_GE(calls.n_ahead_peak, kPacks);
  EXPECT_LT(calls.n_open, 2 + 2 * static_cast<int>(kPacks));
}

TEST(PackCrowd, CostsFewDescriptorsAndLittleMemory) {
  const uint64_t n = repeats("STRATA_PACKS", 200);
  const FreshPath fresh;
  WatchedCalls calls;
  make_packs(fresh.path(), calls, n);
  const auto timed = [](const char* what, const auto& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    std::printf(
        "%9.1f ms to %s\n",
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count(),
        what);
  };
  const int n_open_before = calls.n_open;
  const uint64_t bytes_before = allocated_bytes();
  std::optional<PackDirectory> packs;
  const PackLimits limits = {
      .budget_bytes = n * pack_bytes_max(run_of(tall_shape(), random_text(0, 256), 0, 256)),
      .index_bytes = kIndexBytes};
  timed("open the directory",
        [&] { packs.emplace(PackDirectory::open(fresh.path(), limits, calls)); });
  const int n_open_idle = calls.n_open;
  EXPECT_LE(n_open_idle - n_open_before, 1) << "the directory alone";
  FoundContext found;
  timed("find a text", [&] { found = packs->find(tall_shape(), {}, random_text(n - 1, 256)); });
  EXPECT_EQ(found.n_positions, 256u);
  EXPECT_EQ(calls.n_open - n_open_idle, 1) << "its only pack";
  // Saving looks at all of them, since one must go.
  timed("save a text, for which another goes",
        [&] { save_run(*packs, run_of(tall_shape(), random_text(n, 256), 0, 256)); });
  EXPECT_EQ(names_in(fresh.path()).size(), n);
  EXPECT_EQ(packs->n_packs() + packs->n_passed_over(), n);
  EXPECT_GT(packs->n_passed_over(), n / 2);
  EXPECT_EQ(calls.n_open - n_open_idle, 1);
  const uint64_t bytes = allocated_bytes() - bytes_before;
  std::printf("%9" PRIu64 " packs, %zu in the index, %" PRIu64 " bytes kept\n", n, packs->n_packs(),
              bytes);
  EXPECT_LE(bytes, 2 * kIndexBytes + n * kOutsideBytes);
  timed("list them", [&] { EXPECT_EQ(packs->packs().size(), packs->n_packs()); });
}

}  // namespace
}  // namespace strata::tiers
