#include "tests/gpu_emu/emulated_device.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/kernels.h"

namespace strata {

using Operations = std::vector<std::function<int()>>;

/// A stream that an event has drawn into another one's capture: its operations of copying so far,
/// and how many of them the first stream waits for.
struct JoinedStream {
  uint64_t n_operations = 0;
  uint64_t n_awaited = 0;
};

struct Capture {
  Operations operations;  // of all its streams, in the order of the calls
  DeviceStream* first;    // where it began
  std::map<DeviceStream*, JoinedStream> joined;
};

struct Device {
  gpu_emu::EmulatorOptions options;
  std::map<const void*, uint64_t> allocations;  // bytes by address
  uint64_t used_bytes = 0;
  std::unique_ptr<Capture> capture;
  uint64_t n_captures = 0;
};

struct DeviceEvent {
  std::chrono::steady_clock::time_point recorded;
  bool is_recorded = false;
  DeviceStream* captured_on = nullptr;  // stands in a graph: the host may not ask for it
  uint64_t capture = 0;                 // the number of that capture
  uint64_t n_operations = 0;            // of its stream, where that had joined

  bool is_captured() const { return captured_on != nullptr; }
};

struct DeviceGraph {
  Operations operations;
};

}  // namespace strata

namespace strata::gpu_emu {
namespace {

// CUDA's numbers, so that the same ones are explained here and on a card.
enum Error : int {
  kOk = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNoDevice = 100,
  kNotReady = 600,
  kCaptureUnsupported = 900,
  kCaptureInvalid = 901,
  kCaptureUnjoined = 904,
  kCaptureIsolation = 905,
  kCapturedEvent = 907,
};

DeviceStatus status(int error) {
  switch (error) {
    case kOk:
      return DeviceStatus::kOk;
    case kOutOfMemory:
      return DeviceStatus::kOutOfMemory;
    case kNoDevice:
      return DeviceStatus::kNoDevice;
    default:
      return DeviceStatus::kFailed;
  }
}

const char* message(int error) {
  switch (error) {
    case kOk:
      return "no error";
    case kInvalidValue:
      return "invalid argument";
    case kOutOfMemory:
      return "out of memory";
    case kNoDevice:
      return "no device of that number is emulated";
    case kNotReady:
      return "the event has not been recorded";
    case kCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case kCaptureInvalid:
      return "the stream is not capturing";
    case kCaptureUnjoined:
      return "a stream that the capture forked to was not joined again";
    case kCaptureIsolation:
      return "a captured stream may not wait for what is not captured with it";
    case kCapturedEvent:
      return "the event stands in a graph";
    default:
      return "unknown error";
  }
}

int count(uint32_t* n_devices) {
  *n_devices = kEmulatedDevices;
  return kOk;
}

int open(uint32_t ordinal, Device** device) {
  if (ordinal >= kEmulatedDevices) return kNoDevice;
  *device = new Device;
  (*device)->options.order = static_cast<Order>(ordinal);
  return kOk;
}

void close(Device* device) {
  if (device == nullptr) return;
  for (const auto& [memory, bytes] : device->allocations) std::free(const_cast<void*>(memory));
  delete device;
}

int facts(Device* device, DeviceFacts* facts) {
  *facts = {.name = {},
            .capability = 86,
            .n_multiprocessors = 1,
            .clock_khz = 0,
            .memory_bytes = kEmulatedMemoryBytes,
            .free_bytes = kEmulatedMemoryBytes - device->used_bytes,
            .l2_bytes = 4 << 20,
            .shared_bytes_per_block = device->options.shared_max};
  std::snprintf(facts->name, sizeof facts->name, "emulated");
  return kOk;
}

/// Exactly as large as asked for, so that AddressSanitizer sees what runs over the end.
int allocate(Device* device, uint64_t bytes, void** memory) {
  constexpr uint64_t kGarbageMax = 64 << 20;  // more is left as the system gives it: zeros
  if (bytes == 0) return kInvalidValue;
  if (bytes > kEmulatedMemoryBytes - device->used_bytes) return kOutOfMemory;
  if (posix_memalign(memory, 256, bytes) != 0) return kOutOfMemory;
  if (bytes <= kGarbageMax) std::memset(*memory, 0xFF, bytes);
  device->allocations.emplace(*memory, bytes);
  device->used_bytes += bytes;
  return kOk;
}

int release(Device* device, void* memory) {
  if (memory == nullptr) return kOk;
  const auto found = device->allocations.find(memory);
  if (found == device->allocations.end()) return kInvalidValue;
  device->used_bytes -= found->second;
  device->allocations.erase(found);
  std::free(memory);
  return kOk;
}

int pin(Device*, void* memory, uint64_t, void** mapped) {
  *mapped = memory;
  return kOk;
}

int unpin(Device*, void*) { return kOk; }

int create_stream(Device* device, DeviceStream** stream) {
  *stream = new DeviceStream{.handle = new Queue{.options = device->options}, .device = device};
  return kOk;
}

int destroy_stream(DeviceStream* stream) {
  if (stream == nullptr) return kOk;
  delete stream->handle;
  delete stream;
  return kOk;
}

int create_event(Device*, DeviceEvent** event) {
  *event = new DeviceEvent;
  return kOk;
}

int destroy_event(DeviceEvent* event) {
  delete event;
  return kOk;
}

/// Runs the operation, or keeps it for the graph that is captured.
int queue(DeviceStream* stream, std::function<int()> operation) {
  if (stream->handle->capture == nullptr) return operation();
  stream->handle->capture->push_back(std::move(operation));
  const auto joined = stream->device->capture->joined.find(stream);
  if (joined != stream->device->capture->joined.end()) ++joined->second.n_operations;
  return kOk;
}

int copy(DeviceStream* stream, void* to, const void* from, uint64_t bytes) {
  return queue(stream, [=] {
    if (bytes > 0) std::memmove(to, from, bytes);
    return kOk;
  });
}

int fill(DeviceStream* stream, void* to, uint8_t value, uint64_t bytes) {
  return queue(stream, [=] {
    if (bytes > 0) std::memset(to, value, bytes);
    return kOk;
  });
}

int record(DeviceStream* stream, DeviceEvent* event) {
  event->captured_on = nullptr;
  if (stream->handle->capture == nullptr) {
    event->recorded = std::chrono::steady_clock::now();
    event->is_recorded = true;
    return kOk;
  }
  const Device& device = *stream->device;
  const auto joined = device.capture->joined.find(stream);
  event->captured_on = stream;
  event->capture = device.n_captures;
  event->n_operations = joined == device.capture->joined.end() ? 0 : joined->second.n_operations;
  return kOk;
}

/// Whatever was queued has been done; within a capture, order is that of the calls. An event of an
/// open capture draws the stream into it.
int await(DeviceStream* stream, DeviceEvent* event) {
  Device& device = *stream->device;
  const bool is_of_open =
      event->is_captured() && device.capture != nullptr && event->capture == device.n_captures;
  if (stream->handle->capture == nullptr) {
    if (!event->is_captured()) return kOk;
    if (!is_of_open) return kCapturedEvent;
    stream->handle->capture = &device.capture->operations;
    device.capture->joined.emplace(stream, JoinedStream{});
    return kOk;
  }
  if (!event->is_captured() && !event->is_recorded) return kOk;
  if (!is_of_open) return kCaptureIsolation;
  const auto joined = device.capture->joined.find(event->captured_on);
  if (stream == device.capture->first && joined != device.capture->joined.end())
    joined->second.n_awaited = std::max(joined->second.n_awaited, event->n_operations);
  return kOk;
}

int query(DeviceEvent* event, bool* is_done) {
  if (event->is_captured()) return kCapturedEvent;
  *is_done = true;
  return kOk;
}

int wait_event(DeviceEvent* event) { return event->is_captured() ? kCapturedEvent : kOk; }

int wait_stream(DeviceStream* stream) {
  return stream->handle->capture != nullptr ? kCaptureUnsupported : kOk;
}

int elapsed_ms(DeviceEvent* begin, DeviceEvent* end, float* ms) {
  if (!begin->is_recorded || !end->is_recorded) return kNotReady;
  *ms = std::chrono::duration<float, std::milli>(end->recorded - begin->recorded).count();
  return kOk;
}

int begin_capture(DeviceStream* stream) {
  Device& device = *stream->device;
  if (device.capture != nullptr) return kCaptureUnsupported;
  device.capture =
      std::make_unique<Capture>(Capture{.operations = {}, .first = stream, .joined = {}});
  ++device.n_captures;
  stream->handle->capture = &device.capture->operations;
  return kOk;
}

int end_capture(DeviceStream* stream, DeviceGraph** graph) {
  *graph = nullptr;
  if (stream->device->capture == nullptr || stream->device->capture->first != stream)
    return kCaptureInvalid;
  const std::unique_ptr<Capture> captured = std::move(stream->device->capture);
  stream->handle->capture = nullptr;
  for (const auto& [joined, count] : captured->joined) joined->handle->capture = nullptr;
  for (const auto& [joined, count] : captured->joined)
    if (count.n_awaited != count.n_operations) return kCaptureUnjoined;
  *graph = new DeviceGraph{.operations = std::move(captured->operations)};
  return kOk;
}

int launch_graph(DeviceStream* stream, DeviceGraph* graph) {
  if (stream->handle->capture != nullptr) return kCaptureUnsupported;
  for (const auto& operation : graph->operations) {
    if (const int error = operation(); error != kOk) return error;
  }
  return kOk;
}

int destroy_graph(DeviceGraph* graph) {
  delete graph;
  return kOk;
}

}  // namespace

const DeviceTable& emulated_device() {
  static const DeviceTable table = {.abi = kDeviceAbi,
                                    .table_bytes = sizeof(DeviceTable),
                                    .status = status,
                                    .message = message,
                                    .count = count,
                                    .open = open,
                                    .close = close,
                                    .facts = facts,
                                    .allocate = allocate,
                                    .release = release,
                                    .pin = pin,
                                    .unpin = unpin,
                                    .create_stream = create_stream,
                                    .destroy_stream = destroy_stream,
                                    .create_event = create_event,
                                    .destroy_event = destroy_event,
                                    .copy = copy,
                                    .fill = fill,
                                    .record = record,
                                    .await = await,
                                    .query = query,
                                    .wait_event = wait_event,
                                    .wait_stream = wait_stream,
                                    .elapsed_ms = elapsed_ms,
                                    .begin_capture = begin_capture,
                                    .end_capture = end_capture,
                                    .launch_graph = launch_graph,
                                    .destroy_graph = destroy_graph,
                                    .kernels = gpu_attn::device_kernels()};
  return table;
}

bool is_in_memory(const DeviceStream* stream, const void* at) {
  const auto& allocations = stream->device->allocations;
  const auto after = allocations.upper_bound(at);
  if (after == allocations.begin()) return false;
  const auto& [memory, bytes] = *std::prev(after);
  return static_cast<const std::byte*>(at) < static_cast<const std::byte*>(memory) + bytes;
}

}  // namespace strata::gpu_emu
