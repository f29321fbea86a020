// engine/staged_copy.h - copies to a device from memory that is not pinned. Why: the weights of a
// model are pinned only where layers pass through the device in every step, for pinning holds
// gigabytes in place; base/device_table.h copies from pinned memory alone.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/host_memory.h"
#include "engine/device.h"

namespace strata::engine {

/// A pinned buffer of two halves: one is filled while the other is on its way.
class StagedCopy {
 public:
  static constexpr uint64_t kHalfBytes = uint64_t{4} << 20;  // a copy of it takes the whole link

  /// Errors: kOutOfMemory, kDeviceLost.
  explicit StagedCopy(const OpenDevice& device);

  /// Queues copies of it all, and waits for those that must end before their half is filled anew.
  /// Every copy goes through one stream, which is waited for before this goes. Errors: kDeviceLost.
  void copy(Stream& stream, std::byte* to, const void* from, uint64_t bytes);

 private:
  HostMemory memory_;
  PinnedMemory pinned_;
  std::array<Event, 2> sent_;
  std::array<uint64_t, 2> used_ = {};  // of a half, since it was last sent
  uint32_t half_ = 0;
};

}  // namespace strata::engine
