#include "tests/engine/fake_device.h"

#include <cstdlib>
#include <cstring>

#include "gpu_attn/cuda_errors.h"

namespace strata {

struct Device {
  uint32_t capability;
};
struct DeviceStream {
  Device* device;
};
struct DeviceEvent {
  Device* device;
};
struct DeviceGraph {
  Device* device;
};

namespace engine::testing {
namespace {

/// Counts the call; what it returns.
int called(const std::string& name) {
  FakeMachine& machine = fake_machine();
  ++machine.calls[name];
  const auto error = machine.errors.find(name);
  return error == machine.errors.end() ? 0 : error->second;
}

template <class T>
int make(const std::string& name, Device* device, T** made) {
  const int error = called(name);
  if (error != 0) return error;
  ++fake_machine().n_live;
  *made = new T{device};
  return 0;
}

template <class T>
int destroy(const std::string& name, T* made) {
  --fake_machine().n_live;
  delete made;
  return called(name);
}

const char* message(int error) {
  const std::string_view own = gpu_attn::own_words(error);
  return own.empty() ? "the driver's words" : own.data();
}

int count(uint32_t* n_devices) {
  *n_devices = static_cast<uint32_t>(fake_machine().capabilities.size());
  return called("count");
}

int open(uint32_t ordinal, Device** device) {
  const uint32_t capability = fake_machine().capabilities.at(ordinal);
  if (const int error = called("open"); error != 0) return error;
  if (capability < gpu_attn::kMinCapability) return gpu_attn::kOldCardError;
  ++fake_machine().n_live;
  *device = new Device{capability};
  return 0;
}

void close(Device* device) {
  --fake_machine().n_live;
  delete device;
}

int facts(Device* device, DeviceFacts* facts) {
  *facts = {};
  std::strcpy(facts->name, "Fake card");
  facts->capability = device->capability;
  return called("facts");
}

int allocate(Device*, uint64_t bytes, void** memory) {
  if (const int error = called("allocate"); error != 0) return error;
  ++fake_machine().n_live;
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return 0;
}

int release(Device*, void* memory) {
  --fake_machine().n_live;
  std::free(memory);
  return called("release");
}

int pin(Device*, void* memory, uint64_t, void** mapped) {
  if (const int error = called("pin"); error != 0) return error;
  ++fake_machine().n_live;
  *mapped = static_cast<std::byte*>(memory) + (uint64_t{1} << 40);
  return 0;
}

int unpin(Device*, void*) {
  --fake_machine().n_live;
  return called("unpin");
}

int copy(DeviceStream*, void* to, const void* from, uint64_t bytes) {
  std::memcpy(to, from, bytes);
  return called("copy");
}

int fill(DeviceStream*, void* to, uint8_t value, uint64_t bytes) {
  std::memset(to, value, bytes);
  return called("fill");
}

int query(DeviceEvent*, bool* is_done) {
  *is_done = true;
  return called("query");
}

int elapsed_ms(DeviceEvent*, DeviceEvent*, float* ms) {
  *ms = 1.5f;
  return called("elapsed_ms");
}

int end_capture(DeviceStream* stream, DeviceGraph** graph) {
  return make("end_capture", stream->device, graph);
}

int norm(DeviceStream*, const DeviceNormArgs&) { return called("norm"); }

DeviceTable make_table() {
  DeviceTable table{};
  table.abi = kDeviceAbi;
  table.table_bytes = sizeof(DeviceTable);
  table.status = gpu_attn::cuda_status;
  table.message = message;
  table.count = count;
  table.open = open;
  table.close = close;
  table.facts = facts;
  table.allocate = allocate;
  table.release = release;
  table.pin = pin;
  table.unpin = unpin;
  table.create_stream = [](Device* d, DeviceStream** s) { return make("create_stream", d, s); };
  table.destroy_stream = [](DeviceStream* s) { return destroy("destroy_stream", s); };
  table.create_event = [](Device* d, DeviceEvent** e) { return make("create_event", d, e); };
  table.destroy_event = [](DeviceEvent* e) { return destroy("destroy_event", e); };
  table.copy = copy;
  table.fill = fill;
  table.record = [](DeviceStream*, DeviceEvent*) { return called("record"); };
  table.await = [](DeviceStream*, DeviceEvent*) { return called("await"); };
  table.query = query;
  table.wait_event = [](DeviceEvent*) { return called("wait_event"); };
  table.wait_stream = [](DeviceStream*) { return called("wait_stream"); };
  table.elapsed_ms = elapsed_ms;
  table.begin_capture = [](DeviceStream*) { return called("begin_capture"); };
  table.end_capture = end_capture;
  table.launch_graph = [](DeviceStream*, DeviceGraph*) { return called("launch_graph"); };
  table.destroy_graph = [](DeviceGraph* g) { return destroy("destroy_graph", g); };
  table.kernels.norm = norm;
  return table;
}

}  // namespace

FakeMachine& fake_machine() {
  static FakeMachine machine;
  return machine;
}

const DeviceTable& fake_table() {
  static const DeviceTable table = make_table();
  return table;
}

}  // namespace engine::testing
}  // namespace strata
