#include "tests/gpu_emu/emulated_device.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/kernels.h"
#include "tests/gpu_emu/stream_capture.h"

namespace strata {

struct Device {
  gpu_emu::EmulatorOptions options;
  std::map<const void*, uint64_t> allocations;  // bytes by address
  uint64_t used_bytes = 0;
  std::vector<std::unique_ptr<gpu_emu::Capture>> captures;  // ended ones too: events name them
};

/// Recorded last on a stream as such, or in a capture: then the host may not ask for it.
struct DeviceEvent {
  std::chrono::steady_clock::time_point recorded;
  bool is_recorded = false;
  bool is_captured = false;
  gpu_emu::Capture* capture = nullptr;
  gpu_emu::Known known;  // within the capture
};

struct DeviceGraph {
  std::vector<gpu_emu::Operation> operations;
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
  kIllegalState = 401,
  kNotReady = 600,
  kCaptureUnsupported = 900,
  kCaptureUnmatched = 903,
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
    case kIllegalState:
      return "the stream is not capturing";
    case kCaptureUnmatched:
      return "the capture was begun on another stream";
    case kCaptureUnjoined:
      return "the capture has work of a stream that the first one does not await";
    case kCaptureIsolation:
      return "the event was not recorded in the stream's capture";
    case kCapturedEvent:
      return "operation not permitted on an event last recorded in a capturing stream";
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
  *device = new Device{
      .options = {.order = static_cast<Order>(ordinal)}, .allocations = {}, .captures = {}};
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
int queue(DeviceStream* stream, const Operation& operation) {
  Queue& own = *stream->handle;
  if (own.capture == nullptr) return operation();
  own.capture->add(own, operation);
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
  const Queue& own = *stream->handle;
  *event = {.recorded = std::chrono::steady_clock::now(),
            .is_recorded = own.capture == nullptr,
            .is_captured = own.capture != nullptr,
            .capture = own.capture,
            .known = {}};
  if (own.capture != nullptr) event->known = own.capture->known_to(own);
  return kOk;
}

/// Outside of captures all that was queued has been done.
int await(DeviceStream* stream, DeviceEvent* event) {
  Queue& own = *stream->handle;
  if (!event->is_captured)
    return own.capture != nullptr && event->is_recorded ? kCaptureIsolation : kOk;
  if (!event->capture->is_open()) return kCapturedEvent;
  if (own.capture != nullptr && own.capture != event->capture) return kCaptureIsolation;
  event->capture->join(own, event->known);
  return kOk;
}

int query(DeviceEvent* event, bool* is_done) {
  *is_done = !event->is_captured;
  return event->is_captured ? kCapturedEvent : kOk;
}

int wait_event(DeviceEvent* event) { return event->is_captured ? kCapturedEvent : kOk; }

int wait_stream(DeviceStream* stream) {
  return stream->handle->capture != nullptr ? kCaptureUnsupported : kOk;
}

int elapsed_ms(DeviceEvent* begin, DeviceEvent* end, float* ms) {
  if (!begin->is_recorded || !end->is_recorded) return kNotReady;
  *ms = std::chrono::duration<float, std::milli>(end->recorded - begin->recorded).count();
  return kOk;
}

int begin_capture(DeviceStream* stream) {
  if (stream->handle->capture != nullptr) return kIllegalState;
  stream->device->captures.push_back(std::make_unique<Capture>(*stream->handle));
  return kOk;
}

int end_capture(DeviceStream* stream, DeviceGraph** graph) {
  Capture* capture = stream->handle->capture;
  if (capture == nullptr) return kIllegalState;
  if (!capture->is_first(*stream->handle)) return kCaptureUnmatched;
  const bool is_whole = capture->is_whole();
  std::vector<Operation> operations = capture->end();
  if (!is_whole) return kCaptureUnjoined;
  *graph = new DeviceGraph{.operations = std::move(operations)};
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
