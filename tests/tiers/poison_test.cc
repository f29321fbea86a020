// What memory holds before and after its bytes are somebody's: no number.
#include "tiers/poison.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <memory>

#include "base/half.h"
#include "tiers/block_pool.h"
#include "tiers/simulated_io.h"
#include "tiers/transfer_queue.h"

namespace strata::tiers {
namespace {

TEST(Poison, IsNoNumberInAnyCodec) {
  std::array<std::byte, 4> bytes{};
  bytes.fill(kPoisonByte);
  EXPECT_TRUE(std::isnan(std::bit_cast<float>(bytes)));
  // An f16, a bf16 and the scale of a q8_0 row are two bytes each.
  const auto two = std::bit_cast<std::array<uint16_t, 2>>(bytes)[0];
  EXPECT_TRUE(std::isnan(f16_to_f32(two)));
  EXPECT_TRUE(std::isnan(bf16_to_f32(two)));
}

#ifdef STRATA_DEBUG_CHECKS

bool is_poison(std::span<const std::byte> memory) {
  return std::ranges::all_of(memory, [](std::byte byte) { return byte == kPoisonByte; });
}

TEST(Poison, IsInBlocksThatNobodyHasFilled) {
  BlockPool pool(4 * 1024, 1024);
  const SlotId slot = *pool.take(kNoSlot);
  const std::span block(pool.address(slot), pool.block_bytes());
  EXPECT_TRUE(is_poison(block));
  std::ranges::fill(block, std::byte{1});
  pool.release(slot);
  EXPECT_TRUE(is_poison(block));
}

/// Looks at the memory of reads when they come, and hands them on.
class LooksAtReads final : public Io {
 public:
  std::string_view name() const override { return disk_.name(); }
  uint32_t depth() const override { return disk_.depth(); }
  uint64_t prepare_memory(std::span<std::byte> memory) override {
    return disk_.prepare_memory(memory);
  }
  IoFile add_file(const File& file) override { return disk_.add_file(file); }
  IoFile add_memory_file(uint64_t bytes) { return disk_.add_memory_file(bytes); }
  uint32_t alignment(IoFile file) const override { return disk_.alignment(file); }
  uint32_t submit(std::span<const IoRequest> requests) override {
    for (const IoRequest& request : requests) {
      EXPECT_EQ(request.op, IoOp::kRead);
      EXPECT_TRUE(is_poison({request.memory, request.bytes}));
      last_read = {request.memory, request.bytes};
    }
    return disk_.submit(requests);
  }
  uint32_t wait(std::span<IoCompletion> out, std::chrono::microseconds timeout) override {
    return disk_.wait(out, timeout);
  }
  uint32_t in_flight() const override { return disk_.in_flight(); }
  std::chrono::nanoseconds now() const override { return disk_.now(); }

  std::span<const std::byte> last_read;

 private:
  SimulatedIo disk_{SimulatedDisk{}};
};

TEST(Poison, IsInFramesOfReadsUntilTheirBytesComeAndAfterTheirLastReader) {
  constexpr uint32_t kBytes = 4096;
  auto made = std::make_unique<LooksAtReads>();
  LooksAtReads& io = *made;
  const IoFile file = io.add_memory_file(kBytes);  // of zeros
  TransferQueue queue(std::move(made), {.frame_bytes = kBytes, .n_frames = 1});
  for (int i = 0; i < 2; ++i) {
    auto ticket = queue.read(file, 0, kBytes);
    ASSERT_TRUE(ticket.has_value());
    EXPECT_TRUE(is_poison(io.last_read));
    ReadLease lease;
    ASSERT_EQ(queue.take_read(std::move(*ticket), lease), IoStatus::kOk);
    EXPECT_FALSE(is_poison(io.last_read));
    lease = ReadLease();
    EXPECT_TRUE(is_poison(io.last_read));
  }
}

#endif

}  // namespace
}  // namespace strata::tiers
