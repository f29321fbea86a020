// The small parts of base: errors, checked sizes, tensor types, KV layouts, host memory.
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/error.h"
#include "base/even_spread.h"
#include "base/host_memory.h"
#include "base/kv_layout.h"
#include "base/tensor_type.h"

namespace strata {
namespace {

TEST(Error, EveryCodeHasItsOwnNameAndADocumentedExitCode) {
  std::set<std::string_view> names;
  for (uint8_t code = 0; code <= static_cast<uint8_t>(ErrorCode::kCancelled); ++code) {
    const auto name = error_code_name(static_cast<ErrorCode>(code));
    EXPECT_NE(name, "unknown");
    EXPECT_TRUE(names.insert(name).second) << name;
    EXPECT_TRUE((std::set{1, 2, 3, 4, 130}).contains(exit_code(static_cast<ErrorCode>(code))))
        << name;
  }
  EXPECT_EQ(exit_code(ErrorCode::kContextLengthExceeded), 3);
  EXPECT_EQ(exit_code(ErrorCode::kBadFile), 4);
  EXPECT_EQ(exit_code(ErrorCode::kNoDevice), 1);
  EXPECT_EQ(exit_code(ErrorCode::kDeviceLost), 1);
  EXPECT_EQ(exit_code(ErrorCode::kBusy), 1);
  EXPECT_EQ(error_code_name(ErrorCode::kNoDevice), "no_device");
  EXPECT_EQ(error_code_name(ErrorCode::kDeviceLost), "device_lost");
  EXPECT_EQ(error_code_name(ErrorCode::kBusy), "busy");
}

TEST(CheckedMath, RefusesWhatWraps) {
  EXPECT_EQ(checked_mul(uint64_t{1} << 32, uint64_t{1} << 31), uint64_t{1} << 63);
  EXPECT_FALSE(checked_mul(uint64_t{1} << 32, uint64_t{1} << 32));
  EXPECT_FALSE(checked_add(UINT64_MAX, 1));
  EXPECT_EQ(checked_round_up(33, 32), 64u);
  EXPECT_FALSE(checked_round_up(UINT64_MAX - 3, 32));
}

TEST(TensorType, RowBytesFollowTheBlock) {
  EXPECT_EQ(tensor_row_bytes(TensorType::kQ4_1, 576), 576 / 32 * 20u);
  EXPECT_EQ(tensor_row_bytes(TensorType::kQ6_K, 512), 420u);
  EXPECT_EQ(tensor_type_from_number(12), TensorType::kQ4_K);
  EXPECT_FALSE(tensor_type_from_number(16));
  EXPECT_EQ(tensor_type_number_name(16), "IQ2_XXS");
  EXPECT_EQ(tensor_type_number_name(999), "unknown");
}

TEST(KvLayout, PartsFollowEachOtherAligned) {
  const auto f16 = KvLayout::make(KvCodec::kF16, KvCodec::kF16, 64);
  EXPECT_EQ(f16.v_offset, 64 * 32 * 2u);
  EXPECT_EQ(f16.block_bytes, 2 * 64 * 32 * 2u);
  EXPECT_EQ(kv_position_bytes(f16), 256u);
  const auto mixed = KvLayout::make(KvCodec::kQ8_0, KvCodec::kF16, 128);
  EXPECT_EQ(mixed.k_scales_offset, 128 * 32u);
  EXPECT_EQ(mixed.v_offset, 128 * 32u + 4 * 32 * 2u);
  EXPECT_EQ(kv_position_bytes(mixed), 128u + 8u + 256u);
  for (const uint32_t head_dim : {8u, 64u, 80u, 256u})
    EXPECT_EQ(KvLayout::make(KvCodec::kF16, KvCodec::kF16, head_dim).block_bytes % 64, 0u);
}

TEST(HostMemory, IsZeroAndCanBeMoved) {
  HostMemory memory = HostMemory::reserve(1000);
  EXPECT_GE(memory.size(), 1000u);
  EXPECT_EQ(memory.data()[999], std::byte{0});
  const std::byte* at = memory.data();
  const HostMemory moved = std::move(memory);
  EXPECT_EQ(moved.data(), at);
}

TEST(HostMemory, RefusalIsAnErrorWithARemedy) {
  try {
    HostMemory::reserve(uint64_t{1} << 62);
    FAIL() << "4 EiB were reserved";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
    EXPECT_NE(error.remedy(), "");
  }
}

TEST(CheckDeathTest, PrintsConditionAndOperands) {
  EXPECT_DEATH(STRATA_CHECK(1 == 2, "left=%d", 1), "check failed: 1 == 2: left=1");
}

TEST(EvenSpread, IsOfSoManyInRunsOfNearlyOneLength) {
  for (uint64_t n = 1; n <= 40; ++n)
    for (uint64_t k = 0; k <= n; ++k) {
      uint64_t n_found = 0, run = 0;
      for (uint64_t i = 0; i < n; ++i) {
        ++run;
        if (!is_spread_to(i, k, n)) continue;
        ++n_found;
        EXPECT_TRUE(run == n / k || run == div_up(n, k)) << k << " of " << n << ": " << run;
        run = 0;
      }
      EXPECT_EQ(n_found, k) << n;
    }
}

}  // namespace
}  // namespace strata
