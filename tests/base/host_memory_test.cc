#include "base/host_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <utility>

#include "base/error.h"

namespace strata {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

/// Bytes of this process in memory now; 0 where the system does not say.
uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t total_pages = 0, resident_pages = 0;
  file >> total_pages >> resident_pages;
  return resident_pages * 4096;
}

TEST(HostMemory, IsZeroAlignedAndAtLeastAsLargeAsAsked) {
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{1}, 2 * kMiB, 2 * kMiB + 1, 5 * kMiB}) {
    const HostMemory memory = HostMemory::reserve(bytes);
    ASSERT_NE(memory.data(), nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % 4096, 0u);
    EXPECT_GE(memory.size(), std::max<uint64_t>(bytes, 1));
    EXPECT_LT(memory.size(), bytes + 2 * kMiB + 1);
    const auto all = memory.as<std::byte>(memory.size());
    EXPECT_TRUE(std::ranges::all_of(all, [](std::byte b) { return b == std::byte{0}; })) << bytes;
  }
}

TEST(HostMemory, IsCommittedOnlyWhereItIsTouched) {
  const uint64_t before = resident_bytes();
  if (before == 0) GTEST_SKIP() << "the system does not tell what is resident";
  const HostMemory memory = HostMemory::reserve(4096 * kMiB);
  memory.data()[0] = std::byte{1};
  memory.data()[memory.size() - 1] = std::byte{1};
  // Two touched places, a huge page each at most, and what the test itself takes.
  EXPECT_LT(resident_bytes(), before + 16 * kMiB);
}

TEST(HostMemory, MovesWithItsBytes) {
  HostMemory first = HostMemory::reserve(64);
  first.data()[5] = std::byte{42};
  std::byte* const at = first.data();
  HostMemory second = std::move(first);
  EXPECT_EQ(second.data(), at);
  HostMemory third = HostMemory::reserve(64);
  third = std::move(second);
  EXPECT_EQ(third.data(), at);
  EXPECT_EQ(third.data()[5], std::byte{42});
}

TEST(HostMemory, WhatTheSystemRefusesIsAnErrorWithItsSize) {
  for (const uint64_t bytes : {UINT64_MAX, UINT64_MAX - 4096, uint64_t{1} << 60}) {
    try {
      (void)HostMemory::reserve(bytes);
      FAIL() << bytes;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
      EXPECT_NE(std::string(error.what()).find(std::to_string(bytes)), std::string::npos);
      EXPECT_EQ(std::string(error.what()).find("Success"), std::string::npos) << error.what();
      EXPECT_FALSE(error.remedy().empty());
    }
  }
}

}  // namespace
}  // namespace strata
