#include "tiers/simulated_medium.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace strata::tiers {
namespace {

/// Calls for each sector that [offset, offset + bytes) touches, with its number among them and its
/// part of the range, relative to the range's start.
template <class F>
void for_each_sector(uint64_t offset, uint64_t bytes, const F& f) {
  constexpr uint64_t kSector = SimulatedMedium::kSectorBytes;
  uint64_t i = 0;
  for (uint64_t begin = 0; begin < bytes; ++i) {
    const uint64_t end = std::min(bytes, begin + kSector - (offset + begin) % kSector);
    f(i, begin, end - begin);
    begin = end;
  }
}

}  // namespace

uint64_t SimulatedDraws::next() {
  uint64_t z = (state_ += 0x9E3779B97F4A7C15);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

double SimulatedDraws::unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }

void ZeroedBytes::grow(uint64_t bytes) {
  if (bytes > capacity_) {
    const uint64_t capacity = std::max(bytes, 2 * capacity_);
    auto* const grown = static_cast<std::byte*>(std::calloc(capacity, 1));
    if (grown == nullptr) throw std::bad_alloc();
    if (size_ > 0) std::memcpy(grown, bytes_.get(), size_);
    bytes_.reset(grown);
    capacity_ = capacity;
  }
  size_ = bytes;
}

void SimulatedMedium::extend_to(uint64_t bytes) {
  if (bytes <= medium_.size()) return;
  honest_.grow(bytes);
  medium_.grow(bytes);  // last: whose size is the file's
}

void SimulatedMedium::read(uint64_t offset, std::span<std::byte> memory) const {
  std::memcpy(memory.data(), medium_.data() + offset, memory.size());
}

bool SimulatedMedium::is_honest(uint64_t offset, std::span<const std::byte> memory) const {
  return std::memcmp(memory.data(), honest_.data() + offset, memory.size()) == 0;
}

void SimulatedMedium::write(uint64_t offset, std::span<const std::byte> memory) {
  write_elsewhere(offset, offset, memory);
}

void SimulatedMedium::write_nowhere(uint64_t offset, std::span<const std::byte> memory) {
  std::memcpy(honest_.data() + offset, memory.data(), memory.size());
}

void SimulatedMedium::write_elsewhere(uint64_t offset, uint64_t place,
                                      std::span<const std::byte> memory) {
  std::memcpy(medium_.data() + place, memory.data(), memory.size());
  std::memcpy(honest_.data() + offset, memory.data(), memory.size());
}

bool SimulatedMedium::write_torn(uint64_t offset, std::span<const std::byte> memory,
                                 SimulatedDraws& draws) {
  const uint64_t last = (offset + memory.size() - 1) / kSectorBytes;
  const uint64_t n_sectors = last - offset / kSectorBytes + 1;
  if (n_sectors < 2) {
    write(offset, memory);
    return false;
  }
  const uint64_t kept = draws.below(n_sectors);
  const uint64_t dropped = (kept + 1 + draws.below(n_sectors - 1)) % n_sectors;
  for_each_sector(offset, memory.size(), [&](uint64_t i, uint64_t begin, uint64_t bytes) {
    const bool lands = draws.below(2) == 0;
    if (i == kept || (lands && i != dropped))
      std::memcpy(medium_.data() + offset + begin, memory.data() + begin, bytes);
  });
  write_nowhere(offset, memory);
  return true;
}

void SimulatedMedium::write_in_part(uint64_t offset, std::span<const std::byte> memory,
                                    SimulatedDraws& draws) {
  for_each_sector(offset, memory.size(), [&](uint64_t, uint64_t begin, uint64_t bytes) {
    if (draws.below(2) == 0) write(offset + begin, memory.subspan(begin, bytes));
  });
  std::memcpy(honest_.data() + offset, medium_.data() + offset, memory.size());
}

std::optional<uint64_t> SimulatedMedium::other_place(uint64_t offset, uint64_t bytes,
                                                     SimulatedDraws& draws) const {
  const uint64_t first = offset % bytes;
  const uint64_t n_places = size() < first ? 0 : (size() - first) / bytes;
  const uint64_t own = offset / bytes;
  if (own >= n_places || n_places < 2) return std::nullopt;
  const uint64_t other = (own + 1 + draws.below(n_places - 1)) % n_places;
  return first + other * bytes;
}

}  // namespace strata::tiers
