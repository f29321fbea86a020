#include "engine/staged_copy.h"

#include <algorithm>
#include <cstring>

namespace strata::engine {

StagedCopy::StagedCopy(const OpenDevice& device)
    : memory_(HostMemory::reserve(2 * kHalfBytes)),
      pinned_(PinnedMemory::pin(device, {memory_.data(), memory_.size()})),
      sent_{Event::create(device), Event::create(device)} {}

void StagedCopy::copy(Stream& stream, std::byte* to, const void* from, uint64_t bytes) {
  const auto* source = static_cast<const std::byte*>(from);
  while (bytes > 0) {
    if (used_[half_] == kHalfBytes) {
      stream.record(sent_[half_]);
      half_ = 1 - half_;
      sent_[half_].wait();  // at once where it was never recorded
      used_[half_] = 0;
    }
    const uint64_t n = std::min(bytes, kHalfBytes - used_[half_]);
    std::byte* const staged = memory_.data() + half_ * kHalfBytes + used_[half_];
    std::memcpy(staged, source, n);
    stream.copy(to, staged, n);
    used_[half_] += n;
    to += n;
    source += n;
    bytes -= n;
  }
}

}  // namespace strata::engine
