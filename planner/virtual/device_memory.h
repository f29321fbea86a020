// planner/virtual/device_memory.h - which bytes a virtual device may touch: places of its arena and
// host memory that it has pinned. Why: memory that was released, never taken or not pinned is named
// where it is used, and a place taken again is not mistaken for the one that was there before.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>

#include "base/host_memory.h"
#include "planner/virtual/access_log.h"
#include "planner/virtual/first_fit_arena.h"

namespace strata::planner {

enum class MemoryKind : uint8_t {
  kDevice,
  kPinned,
  kReleased,  // of the device, but not taken or not any more
  kOverrun,   // begins in a place and ends behind it
  kUnpinned,  // of the host and not pinned
};

struct MemoryFound {
  MemoryKind kind = MemoryKind::kUnpinned;
  uint64_t since = 0;  // number of the call that took or pinned it
};

class DeviceMemory {
 public:
  static constexpr uint64_t kPage = 4096;  // the grain of pinning

  /// With bytes, the arena is memory of the host, committed as it is touched; without, addresses
  /// that no one may follow.
  DeviceMemory(uint64_t capacity_bytes, uint64_t pinned_bytes_max, bool has_bytes);

  /// Nothing where no free run is long enough. Fresh memory holds 0xFF.
  std::optional<uint64_t> take(uint64_t bytes, uint64_t number);
  /// The range given back, now full of 0xFF; nothing where no place begins there.
  std::optional<ByteRange> give(uint64_t begin);

  /// False where the range is not of whole pages' beginnings, overlaps a pinned one, or goes beyond
  /// what may be pinned.
  bool pin(const ByteRange& range, uint64_t number);
  std::optional<ByteRange> unpin(uint64_t begin);

  MemoryFound find(const ByteRange& range) const;
  bool is_device(uint64_t address) const { return arena_.has(address); }
  /// May the bytes of such a range be read and written here?
  bool has_bytes() const { return has_bytes_; }

  const FirstFitArena& arena() const { return arena_; }
  uint64_t pinned_bytes() const { return pinned_bytes_; }

  /// Writes 0xFF where there are bytes: NaN as f16 and as f32.
  void poison(const ByteRange& range) const;

 private:
  struct Pin {
    uint64_t end = 0;
    uint64_t number = 0;
  };

  bool has_bytes_;
  HostMemory memory_;
  FirstFitArena arena_;
  uint64_t pinned_bytes_max_;
  uint64_t pinned_bytes_ = 0;
  std::map<uint64_t, Pin> pins_;  // by begin
};

/// The byte at an address.
inline std::byte* pointer_to(uint64_t address) { return std::bit_cast<std::byte*>(address); }

/// A hash of a range of memory that is there.
uint64_t bytes_hash(const ByteRange& range);

}  // namespace strata::planner
