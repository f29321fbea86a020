// tests/tiers/simulated_disk.h - a simulated disk with one file, and memory to move.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <span>

#include "base/host_memory.h"
#include "tiers/poison.h"
#include "tiers/simulated_io.h"

namespace strata::tiers {

inline constexpr uint32_t kPlaceBytes = 4096;
inline constexpr auto kPoison = static_cast<uint8_t>(kPoisonByte);
inline constexpr std::chrono::microseconds kOneHour = std::chrono::hours(1);

/// 64 slots of page-aligned memory, and as many places of the file unless told otherwise.
struct DiskOfOneFile {
  explicit DiskOfOneFile(const SimulatedDisk& settings = {}, uint64_t file_bytes = 64 * kPlaceBytes)
      : io(settings), file(io.add_memory_file(file_bytes)) {}

  std::span<std::byte> slot(uint32_t i) {
    return memory.as<std::byte>(kPlaceBytes, i * kPlaceBytes);
  }
  IoRequest request(IoOp op, uint32_t place, uint32_t slot_idx) {
    return {.op = op,
            .file = file,
            .offset = uint64_t{place} * kPlaceBytes,
            .memory = slot(slot_idx).data(),
            .bytes = kPlaceBytes,
            .id = io.n_submitted()};
  }
  void start(const IoRequest& request) { ASSERT_EQ(io.submit({&request, 1}), 1u); }
  IoCompletion end_of(const IoRequest& request) {
    start(request);
    IoCompletion completion;
    EXPECT_EQ(io.wait({&completion, 1}, kOneHour), 1u);
    return completion;
  }
  /// Fills the place with one byte value, through slot 63.
  IoCompletion write(uint32_t place, uint8_t value) {
    std::ranges::fill(slot(63), std::byte{value});
    return end_of(request(IoOp::kWrite, place, 63));
  }
  IoCompletion read(uint32_t place) { return end_of(request(IoOp::kRead, place, 0)); }
  uint64_t n_of(uint8_t value) {
    return static_cast<uint64_t>(std::ranges::count(slot(0), std::byte{value}));
  }

  HostMemory memory = HostMemory::reserve(64 * kPlaceBytes);
  SimulatedIo io;
  IoFile file;
};

}  // namespace strata::tiers
