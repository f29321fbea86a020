#include "planner/virtual/device_memory.h"

#include <algorithm>
#include <cstring>

#include "base/checked_math.h"

namespace strata::planner {
namespace {

// Where a device without bytes has its memory: above every address that Linux gives a process.
constexpr uint64_t kNowhere = uint64_t{1} << 56;
constexpr int kPoison = 0xFF;

HostMemory reserved(uint64_t bytes, bool has_bytes) {
  return has_bytes ? HostMemory::reserve(bytes + FirstFitArena::kGranule) : HostMemory();
}

uint64_t base_of(const HostMemory& memory) {
  if (memory.data() == nullptr) return kNowhere;
  return round_up(reinterpret_cast<uint64_t>(memory.data()), FirstFitArena::kGranule);
}

}  // namespace

DeviceMemory::DeviceMemory(uint64_t capacity_bytes, uint64_t pinned_bytes_max, bool has_bytes)
    : has_bytes_(has_bytes),
      memory_(reserved(capacity_bytes, has_bytes)),
      arena_(base_of(memory_), capacity_bytes),
      pinned_bytes_max_(pinned_bytes_max) {}

std::optional<uint64_t> DeviceMemory::take(uint64_t bytes, uint64_t number) {
  const auto begin = arena_.take(bytes, number);
  if (begin) poison({*begin, bytes});
  return begin;
}

std::optional<ByteRange> DeviceMemory::give(uint64_t begin) {
  const auto place = arena_.give(begin);
  if (!place) return std::nullopt;
  const ByteRange range{place->begin, place->bytes};
  poison(range);
  return range;
}

bool DeviceMemory::pin(const ByteRange& range, uint64_t number) {
  if (range.bytes == 0 || range.begin % kPage != 0 || is_device(range.begin)) return false;
  if (range.bytes > pinned_bytes_max_ - std::min(pinned_bytes_max_, pinned_bytes_)) return false;
  const auto after = pins_.lower_bound(range.begin);
  if (after != pins_.end() && after->first < range.end()) return false;
  if (after != pins_.begin() && std::prev(after)->second.end > range.begin) return false;
  pins_.emplace(range.begin, Pin{range.end(), number});
  pinned_bytes_ += range.bytes;
  return true;
}

std::optional<ByteRange> DeviceMemory::unpin(uint64_t begin) {
  const auto found = pins_.find(begin);
  if (found == pins_.end()) return std::nullopt;
  const ByteRange range{begin, found->second.end - begin};
  pins_.erase(found);
  pinned_bytes_ -= range.bytes;
  return range;
}

MemoryFound DeviceMemory::find(const ByteRange& range) const {
  if (is_device(range.begin)) {
    const FirstFitArena::Place* place = arena_.find(range.begin);
    if (place == nullptr) return {MemoryKind::kReleased};
    const bool is_inside = range.end() <= place->begin + place->bytes;
    return {is_inside ? MemoryKind::kDevice : MemoryKind::kOverrun, place->number};
  }
  auto pin = pins_.upper_bound(range.begin);
  if (pin == pins_.begin()) return {MemoryKind::kUnpinned};
  --pin;
  if (pin->second.end <= range.begin) return {MemoryKind::kUnpinned};
  MemoryFound found{MemoryKind::kPinned, pin->second.number};
  uint64_t end = pin->second.end;
  while (end < range.end()) {  // blocks of two mappings that touch may come as one range
    ++pin;
    if (pin == pins_.end() || pin->first != end) return {MemoryKind::kOverrun, found.since};
    end = pin->second.end;
    found.since = std::max(found.since, pin->second.number);
  }
  return found;
}

void DeviceMemory::poison(const ByteRange& range) const {
  if (has_bytes_) std::memset(pointer_to(range.begin), kPoison, range.bytes);
}

uint64_t bytes_hash(const ByteRange& range) {
  constexpr uint64_t kFactor = 0x9e3779b97f4a7c15u;
  const auto* bytes = reinterpret_cast<const unsigned char*>(pointer_to(range.begin));
  uint64_t hash = range.bytes;
  uint64_t i = 0;
  for (; i + 8 <= range.bytes; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + i, 8);
    hash = (hash ^ word) * kFactor;
    hash ^= hash >> 29;
  }
  for (; i < range.bytes; ++i) hash = (hash ^ bytes[i]) * kFactor;
  return hash ^ (hash >> 32);
}

}  // namespace strata::planner
