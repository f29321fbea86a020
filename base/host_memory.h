// base/host_memory.h - large host memory, page aligned, in huge pages where the system gives them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace strata {

/// Owns an anonymous mapping. Pages are zero and are committed when first touched.
class HostMemory {
 public:
  static constexpr uint64_t kGrain = uint64_t{2} << 20;  // a huge page

  HostMemory() = default;
  /// Reserves `bytes` (rounded up to kGrain). Errors: kOutOfMemory.
  static HostMemory reserve(uint64_t bytes);
  ~HostMemory();
  HostMemory(HostMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  HostMemory& operator=(HostMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  /// Gives the mapping up without unmapping it: it lasts as long as the process. For memory that a
  /// device may still write into.
  void abandon() {
    data_ = nullptr;
    bytes_ = 0;
  }

  std::byte* data() const { return data_; }
  uint64_t size() const { return bytes_; }
  template <class T>
  std::span<T> as(uint64_t count, uint64_t byte_offset = 0) const {
    return {reinterpret_cast<T*>(data_ + byte_offset), count};
  }

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace strata
