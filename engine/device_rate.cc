#include "engine/device_rate.h"

#include <algorithm>

#include "base/error.h"

namespace strata::engine {
namespace {

constexpr uint64_t kCopyBytes = uint64_t{256} << 20;  // several times the largest second cache
constexpr uint32_t kCopies = 8;

}  // namespace

double measure_device_copy(const OpenDevice& device) {
  DeviceBuffer memory;
  try {
    memory = DeviceBuffer::allocate(device, 2 * kCopyBytes, "a copy to be timed");
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) throw;
    return 0;
  }
  Stream stream = Stream::create(device);
  const Event begin = Event::create(device);
  const Event end = Event::create(device);
  double best_ms = 0;
  for (uint32_t i = 0; i <= kCopies; ++i) {
    stream.record(begin);
    stream.copy(memory.bytes() + kCopyBytes, memory.bytes(), kCopyBytes);
    stream.record(end);
    stream.wait();
    const double ms = end.ms_since(begin);
    if (i > 0) best_ms = best_ms == 0 ? ms : std::min(best_ms, ms);  // the first one warms up
  }
  return best_ms > 0 ? 2e-6 * static_cast<double>(kCopyBytes) / best_ms : 0;
}

}  // namespace strata::engine
