#include "planner/virtual/virtual_table.h"

namespace strata::planner {
namespace {

// The opaque types of base/device_table.h are only names here: other devices define them.
VirtualStream* stream_of(DeviceStream* stream) { return reinterpret_cast<VirtualStream*>(stream); }
VirtualEvent* event_of(DeviceEvent* event) { return reinterpret_cast<VirtualEvent*>(event); }
VirtualGraph* graph_of(DeviceGraph* graph) { return reinterpret_cast<VirtualGraph*>(graph); }

constexpr int kNoStream = number_of(VirtualError::kDefaultStream);

int count(uint32_t* n_devices) {
  *n_devices = static_cast<uint32_t>(device_profiles().size());
  return 0;
}

int open(uint32_t ordinal, Device** device) {
  *device = nullptr;
  if (ordinal >= device_profiles().size()) return number_of(VirtualError::kNoDevice);
  *device = as_device(*std::make_unique<VirtualDevice>(device_profiles()[ordinal]).release());
  return 0;
}

void close(Device* device) {
  const std::unique_ptr<VirtualDevice> owner(reinterpret_cast<VirtualDevice*>(device));
}

int facts(Device* device, DeviceFacts* facts) { return virtual_device(device).facts(facts); }

int allocate(Device* device, uint64_t bytes, void** memory) {
  return virtual_device(device).allocate(bytes, memory);
}
int release(Device* device, void* memory) { return virtual_device(device).release(memory); }
int pin(Device* device, void* memory, uint64_t bytes, void** mapped) {
  return virtual_device(device).pin(memory, bytes, mapped);
}
int unpin(Device* device, void* memory) { return virtual_device(device).unpin(memory); }

int create_stream(Device* device, DeviceStream** stream) {
  VirtualStream* made = nullptr;
  const int number = virtual_device(device).create_stream(&made);
  *stream = reinterpret_cast<DeviceStream*>(made);
  return number;
}
int destroy_stream(DeviceStream* stream) {
  if (stream != nullptr) stream_of(stream)->is_alive = false;
  return 0;
}
int create_event(Device* device, DeviceEvent** event) {
  VirtualEvent* made = nullptr;
  const int number = virtual_device(device).create_event(&made);
  *event = reinterpret_cast<DeviceEvent*>(made);
  return number;
}
int destroy_event(DeviceEvent* event) {
  if (event != nullptr) event_of(event)->is_alive = false;
  return 0;
}

int copy(DeviceStream* stream, void* to, const void* from, uint64_t bytes) {
  if (stream == nullptr) return kNoStream;
  return stream_of(stream)->device->copy(stream_of(stream), to, from, bytes);
}
int fill(DeviceStream* stream, void* to, uint8_t value, uint64_t bytes) {
  if (stream == nullptr) return kNoStream;
  return stream_of(stream)->device->fill(stream_of(stream), to, value, bytes);
}
int record(DeviceStream* stream, DeviceEvent* event) {
  if (stream == nullptr) return kNoStream;
  return stream_of(stream)->device->record(stream_of(stream), event_of(event));
}
int await(DeviceStream* stream, DeviceEvent* event) {
  if (stream == nullptr) return kNoStream;
  return stream_of(stream)->device->await(stream_of(stream), event_of(event));
}

int query(DeviceEvent* event, bool* is_done) {
  return event_of(event)->device->query(event_of(event), is_done);
}
int wait_event(DeviceEvent* event) { return event_of(event)->device->wait_event(event_of(event)); }
int wait_stream(DeviceStream* stream) {
  if (stream == nullptr) return kNoStream;
  return stream_of(stream)->device->wait_stream(stream_of(stream));
}
int elapsed_ms(DeviceEvent* begin, DeviceEvent* end, float* ms) {
  return event_of(begin)->device->elapsed_ms(event_of(begin), event_of(end), ms);
}

int begin_capture(DeviceStream* stream) {
  if (stream == nullptr) return kNoStream;
  return stream_of(stream)->device->begin_capture(stream_of(stream));
}
int end_capture(DeviceStream* stream, DeviceGraph** graph) {
  *graph = nullptr;
  if (stream == nullptr) return kNoStream;
  VirtualGraph* made = nullptr;
  const int number = stream_of(stream)->device->end_capture(stream_of(stream), &made);
  *graph = reinterpret_cast<DeviceGraph*>(made);
  return number;
}
int launch_graph(DeviceStream* stream, DeviceGraph* graph) {
  if (stream == nullptr) return kNoStream;
  return stream_of(stream)->device->launch_graph(stream_of(stream), graph_of(graph));
}
int destroy_graph(DeviceGraph* graph) {
  if (graph != nullptr) graph_of(graph)->is_alive = false;
  return 0;
}

/// Queues the operation that `kMember` of DeviceKernels stands for.
template <class Args, int (*DeviceKernels::*kMember)(DeviceStream*, const Args&)>
int kernel(DeviceStream* stream, const Args& args) {
  if (stream == nullptr) return kNoStream;
  VirtualDevice& device = *stream_of(stream)->device;
  KernelCall call;
  call.tables = [args](uint32_t stage) { return tables_of(args, stage); };
  call.cost = [args] { return kernel_cost(args); };
  const VirtualDeviceOptions& options = device.options();
  if (options.effects != nullptr)
    call.effect = [args, effects = options.effects, effects_stream = options.effects_stream] {
      return (effects->*kMember)(effects_stream, args);
    };
  return device.queue_kernel(stream_of(stream), std::move(call));
}

template <class Args, int (*DeviceKernels::*kMember)(DeviceStream*, const Args&)>
constexpr auto kKernel = kernel<Args, kMember>;

constexpr DeviceKernels kKernels = {
    .embed = kKernel<DeviceEmbedArgs, &DeviceKernels::embed>,
    .norm = kKernel<DeviceNormArgs, &DeviceKernels::norm>,
    .quantize = kKernel<DeviceQuantizeArgs, &DeviceKernels::quantize>,
    .linear = kKernel<DeviceLinearArgs, &DeviceKernels::linear>,
    .rotate = kKernel<DeviceRotateArgs, &DeviceKernels::rotate>,
    .attend = kKernel<DeviceAttendArgs, &DeviceKernels::attend>,
    .merge = kKernel<DeviceMergeArgs, &DeviceKernels::merge>,
    .prefill = kKernel<DevicePrefillArgs, &DeviceKernels::prefill>,
    .activate = kKernel<DeviceActivateArgs, &DeviceKernels::activate>,
    .argmax = kKernel<DeviceArgmaxArgs, &DeviceKernels::argmax>,
    .copy_blocks = kKernel<DeviceCopyBlocksArgs, &DeviceKernels::copy_blocks>,
    .set_words = kKernel<DeviceSetWordsArgs, &DeviceKernels::set_words>,
    .scan_codes = kKernel<DeviceScanArgs, &DeviceKernels::scan_codes>,
};

constexpr DeviceTable kTable = {
    .abi = kDeviceAbi,
    .table_bytes = sizeof(DeviceTable),
    .status = virtual_status,
    .message = virtual_message,
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
    .kernels = kKernels,
};

}  // namespace

const DeviceTable& virtual_table() { return kTable; }

Device* as_device(VirtualDevice& device) { return reinterpret_cast<Device*>(&device); }
VirtualDevice& virtual_device(Device* device) { return *reinterpret_cast<VirtualDevice*>(device); }

}  // namespace strata::planner
