// gpu_attn/cuda_module.cu - CUDA behind base/device_table.h: the one file that manages devices,
// memory and streams, and the one symbol that the module gives away. It is opened at run time
// (gpu_attn/open_module.h) and carries its own CUDA runtime, so a machine without a driver starts.
// Every function returns the number that its own call gave; what the runtime remembers as its last
// error is not read, here or by launch().

#include <string.h>

#include <memory>
#include <new>

#include "gpu_attn/cuda_errors.h"
#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/kernels.h"

namespace strata {

struct Device {
  int ordinal;
};

struct DeviceEvent {
  cudaEvent_t handle;
};

struct DeviceGraph {
  cudaGraphExec_t handle;
};

}  // namespace strata

namespace strata::gpu_attn {
namespace {

constexpr int kHostOutOfMemory = cudaErrorMemoryAllocation;

int answer(cudaError_t error) { return static_cast<int>(error); }

/// Makes `device` the one that this thread's calls are about.
int use(const Device* device) {
  thread_local int current = -1;
  if (current == device->ordinal) return 0;
  const int error = answer(cudaSetDevice(device->ordinal));
  if (error == 0) current = device->ordinal;
  return error;
}

/// Runs `call` with `device` in use.
template <class Call>
int on(const Device* device, const Call& call) {
  const int error = use(device);
  return error != 0 ? error : answer(call());
}

/// An operation with its stream's device in use.
template <auto kOperation, class Args>
int on_device(DeviceStream* stream, const Args& args) {
  const int error = use(stream->device);
  return error != 0 ? error : kOperation(stream, args);
}

DeviceStatus status(int error) { return cuda_status(error); }

const char* message(int error) {
  const std::string_view own = own_words(error);
  return own.empty() ? cudaGetErrorString(static_cast<cudaError_t>(cuda_number(error)))
                     : own.data();
}

// ---- Devices.

int count(uint32_t* n_devices) {
  *n_devices = 0;
  int n = 0;  // the runtime leaves it unwritten where it fails
  const int error = answer(cudaGetDeviceCount(&n));
  if (error == cudaErrorInsufficientDriver) {  // also what it says where there is no driver at all
    int version = 0;
    if (cudaDriverGetVersion(&version) == cudaSuccess && version == 0) return kNoDriverError;
  }
  if (error != 0) return count_error(error);
  if (n <= 0) return cudaErrorNoDevice;
  *n_devices = static_cast<uint32_t>(n);
  return 0;
}

/// What open() looks for: a kernel of this module for the card.
__global__ void __launch_bounds__(32) probe() {}

int capability_of(int ordinal, uint32_t* capability) {
  int major = 0, minor = 0;
  int error = answer(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal));
  if (error == 0)
    error = answer(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal));
  *capability = static_cast<uint32_t>(10 * major + minor);
  return error;
}

int open(uint32_t ordinal, Device** device) {
  *device = nullptr;
  uint32_t n_devices = 0, capability = 0;
  int error = count(&n_devices);
  if (error != 0) return error;
  if (ordinal >= n_devices) return cudaErrorInvalidDevice;
  std::unique_ptr<Device> opened(new (std::nothrow) Device{static_cast<int>(ordinal)});
  if (!opened) return kHostOutOfMemory;
  error = capability_of(opened->ordinal, &capability);
  if (error != 0) return error;
  if (capability < kMinCapability) return kOldCardError;
  error = on(opened.get(), [] {
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, probe);
  });
  if (error == 0) *device = opened.release();
  return error;
}

/// The context stays, as the process may open the device again.
void close(Device* device) { delete device; }

int facts(Device* device, DeviceFacts* facts) {
  *facts = {};
  return on(device, [device, facts] {
    cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device->ordinal);
    if (error != cudaSuccess) return error;
    size_t free_bytes = 0, all_bytes = 0;
    int clock_khz = 0;
    error = cudaMemGetInfo(&free_bytes, &all_bytes);
    if (error != cudaSuccess) return error;
    error = cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, device->ordinal);
    if (error != cudaSuccess) return error;
    memcpy(facts->name, properties.name, strnlen(properties.name, sizeof facts->name - 1));
    facts->capability = static_cast<uint32_t>(10 * properties.major + properties.minor);
    facts->n_multiprocessors = static_cast<uint32_t>(properties.multiProcessorCount);
    facts->clock_khz = static_cast<uint32_t>(clock_khz);
    facts->memory_bytes = properties.totalGlobalMem;
    facts->free_bytes = free_bytes;
    facts->l2_bytes = static_cast<uint64_t>(properties.l2CacheSize);
    facts->shared_bytes_per_block = properties.sharedMemPerBlockOptin;
    return cudaSuccess;
  });
}

// ---- Memory.

int allocate(Device* device, uint64_t bytes, void** memory) {
  *memory = nullptr;
  return on(device, [=] { return cudaMalloc(memory, bytes); });
}

int release(Device* device, void* memory) {
  return on(device, [=] { return cudaFree(memory); });
}

int pin(Device* device, void* memory, uint64_t bytes, void** mapped) {
  *mapped = nullptr;
  return pin_error(on(device, [=] {
    const unsigned flags = cudaHostRegisterPortable | cudaHostRegisterMapped;
    cudaError_t error = cudaHostRegister(memory, bytes, flags);
    if (error != cudaSuccess) return error;
    error = cudaHostGetDevicePointer(mapped, memory, 0);
    if (error != cudaSuccess) (void)cudaHostUnregister(memory);
    return error;
  }));
}

int unpin(Device* device, void* memory) {
  if (memory == nullptr) return 0;
  return pin_error(on(device, [=] { return cudaHostUnregister(memory); }));
}

// ---- Streams, events, copies. Streams never wait for the default stream, which nothing uses.

int create_stream(Device* device, DeviceStream** stream) {
  *stream = nullptr;
  std::unique_ptr<DeviceStream> made(new (std::nothrow) DeviceStream{nullptr, device});
  if (!made) return kHostOutOfMemory;
  const int error = on(
      device, [&made] { return cudaStreamCreateWithFlags(&made->handle, cudaStreamNonBlocking); });
  if (error == 0) *stream = made.release();
  return error;
}

int destroy_stream(DeviceStream* stream) {
  if (stream == nullptr) return 0;
  const std::unique_ptr<DeviceStream> owned(stream);
  return on(owned->device, [&owned] { return cudaStreamDestroy(owned->handle); });
}

int create_event(Device* device, DeviceEvent** event) {
  *event = nullptr;
  std::unique_ptr<DeviceEvent> made(new (std::nothrow) DeviceEvent{nullptr});
  if (!made) return kHostOutOfMemory;
  const int error = on(device, [&made] { return cudaEventCreate(&made->handle); });
  if (error == 0) *event = made.release();
  return error;
}

int destroy_event(DeviceEvent* event) {
  if (event == nullptr) return 0;
  const std::unique_ptr<DeviceEvent> owned(event);
  return answer(cudaEventDestroy(owned->handle));
}

int copy(DeviceStream* stream, void* to, const void* from, uint64_t bytes) {
  return on(stream->device,
            [=] { return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream->handle); });
}

int fill(DeviceStream* stream, void* to, uint8_t value, uint64_t bytes) {
  return on(stream->device, [=] { return cudaMemsetAsync(to, value, bytes, stream->handle); });
}

int record(DeviceStream* stream, DeviceEvent* event) {
  return on(stream->device, [=] { return cudaEventRecord(event->handle, stream->handle); });
}

int await(DeviceStream* stream, DeviceEvent* event) {
  return on(stream->device, [=] { return cudaStreamWaitEvent(stream->handle, event->handle, 0); });
}

int query(DeviceEvent* event, bool* is_done) {
  const int error = answer(cudaEventQuery(event->handle));
  *is_done = error == 0;
  return error == cudaErrorNotReady ? 0 : error;
}

int wait_event(DeviceEvent* event) { return answer(cudaEventSynchronize(event->handle)); }

int wait_stream(DeviceStream* stream) {
  return on(stream->device, [=] { return cudaStreamSynchronize(stream->handle); });
}

int elapsed_ms(DeviceEvent* begin, DeviceEvent* end, float* ms) {
  return answer(cudaEventElapsedTime(ms, begin->handle, end->handle));
}

// ---- Graphs.

int begin_capture(DeviceStream* stream) {
  return on(stream->device, [=] {
    return cudaStreamBeginCapture(stream->handle, cudaStreamCaptureModeThreadLocal);
  });
}

int end_capture(DeviceStream* stream, DeviceGraph** graph) {
  *graph = nullptr;
  return on(stream->device, [=] {
    cudaGraph_t captured = nullptr;
    cudaError_t error = cudaStreamEndCapture(stream->handle, &captured);
    if (error != cudaSuccess) return error;
    std::unique_ptr<DeviceGraph> made(new (std::nothrow) DeviceGraph{nullptr});
    error = made ? cudaGraphInstantiate(&made->handle, captured, 0) : cudaErrorMemoryAllocation;
    (void)cudaGraphDestroy(captured);
    if (error == cudaSuccess) *graph = made.release();
    return error;
  });
}

int launch_graph(DeviceStream* stream, DeviceGraph* graph) {
  return on(stream->device, [=] { return cudaGraphLaunch(graph->handle, stream->handle); });
}

int destroy_graph(DeviceGraph* graph) {
  if (graph == nullptr) return 0;
  const std::unique_ptr<DeviceGraph> owned(graph);
  return answer(cudaGraphExecDestroy(owned->handle));
}

constexpr DeviceTable kTable = {
    .abi = kDeviceAbi,
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
    .kernels = {.embed = on_device<embed, DeviceEmbedArgs>,
                .norm = on_device<norm, DeviceNormArgs>,
                .quantize = on_device<quantize, DeviceQuantizeArgs>,
                .linear = on_device<linear, DeviceLinearArgs>,
                .rotate = on_device<rotate, DeviceRotateArgs>,
                .attend = on_device<attend, DeviceAttendArgs>,
                .merge = on_device<merge, DeviceMergeArgs>,
                .prefill = on_device<prefill, DevicePrefillArgs>,
                .activate = on_device<activate, DeviceActivateArgs>,
                .argmax = on_device<argmax, DeviceArgmaxArgs>,
                .copy_blocks = on_device<copy_blocks, DeviceCopyBlocksArgs>,
                .set_words = on_device<set_words, DeviceSetWordsArgs>,
                .scan_codes = on_device<scan_codes, DeviceScanArgs>},
};

}  // namespace
}  // namespace strata::gpu_attn

extern "C" __attribute__((visibility("default"))) const strata::DeviceTable* strata_device_table(
    uint32_t abi) {
  return abi == strata::kDeviceAbi ? &strata::gpu_attn::kTable : nullptr;
}
