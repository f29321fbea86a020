#include "engine/device.h"

#include "base/check.h"
#include "base/error.h"

namespace strata::engine {
namespace {

constexpr uint64_t kPage = 4096;
constexpr char kCpuRemedy[] = "use --device none to run on the CPU alone";

std::string place(uint32_t ordinal) { return "cuda:" + std::to_string(ordinal); }

std::string words_of(const DeviceTable& table, int error) {
  const char* words = table.message(error);
  return words != nullptr ? words : "error " + std::to_string(error);
}

DeviceStatus status_of(const DeviceTable& table, int error) {
  const DeviceStatus status = table.status(error);
  return status == DeviceStatus::kOk ? DeviceStatus::kFailed : status;
}

/// The remedy of a device that cannot be used; empty for other states.
const char* open_remedy(DeviceStatus status) {
  switch (status) {
    case DeviceStatus::kNoDevice:
      return "give the number of a device that is there, or auto or none";
    case DeviceStatus::kInUse:
      return "close the program that holds it (nvidia-smi names it), give the number of another "
             "device, or use --device none to run on the CPU alone";
    case DeviceStatus::kOldDriver:
      return "install a newer NVIDIA driver, or use --device none to run on the CPU alone";
    case DeviceStatus::kUnsupported:
      return "use a card of compute capability 8.0 or above and a build that has code for it "
             "(README: On a card), or --device none to run on the CPU alone";
    default:
      return "";
  }
}

}  // namespace

namespace detail {

DeviceState::DeviceState(const DeviceTable& device_table, uint32_t number)
    : table(device_table), ordinal(number) {}

DeviceState::~DeviceState() {
  if (device != nullptr) table.close(device);
}

void DeviceState::expect_alive() const {
  if (lost.empty()) return;
  throw Error(ErrorCode::kDeviceLost, lost, place(ordinal),
              "start the program again; where it comes back, read the driver's log (dmesg) or " +
                  std::string(kCpuRemedy));
}

void DeviceState::check(int error, std::string_view doing) {
  if (error == 0) return;
  const std::string words = words_of(table, error);
  const std::string name = place(ordinal);
  switch (const DeviceStatus status = status_of(table, error)) {
    case DeviceStatus::kOutOfMemory:
      throw Error(ErrorCode::kOutOfMemory,
                  name + " has no room to " + std::string(doing) + ": " + words, name,
                  "lower the context (-c), close other programs that use the device, or " +
                      std::string(kCpuRemedy));
    case DeviceStatus::kPinRefused:
      throw Error(ErrorCode::kOutOfMemory,
                  "the system refused to " + std::string(doing) + " for " + name + ": " + words,
                  name,
                  "raise the limit of locked memory (ulimit -l), lower the memory budget (--dram), "
                  "or " +
                      std::string(kCpuRemedy));
    case DeviceStatus::kNoDevice:
    case DeviceStatus::kInUse:
    case DeviceStatus::kOldDriver:
    case DeviceStatus::kUnsupported:
      throw Error(ErrorCode::kNoDevice, name + " cannot be used: " + words, name,
                  open_remedy(status));
    default:
      // What fails for a reason that no one foresaw is taken for lost as well: a wrong answer is
      // worse than none.
      lost = name + " failed to " + std::string(doing) + ": " + words + " (error " +
             std::to_string(error) + ")";
      expect_alive();
  }
}

void give_back(DeviceState& state, std::byte* memory) {
  (void)state.table.release(state.device, memory);
}
void unpin(DeviceState& state, std::byte* memory) { (void)state.table.unpin(state.device, memory); }
void destroy_stream(DeviceState& state, DeviceStream* stream) {
  (void)state.table.destroy_stream(stream);
}
void destroy_event(DeviceState& state, DeviceEvent* event) {
  (void)state.table.destroy_event(event);
}
void destroy_graph(DeviceState& state, DeviceGraph* graph) {
  (void)state.table.destroy_graph(graph);
}

}  // namespace detail

OpenDevice OpenDevice::open(const DeviceTable& table, uint32_t ordinal) {
  auto state = std::make_shared<detail::DeviceState>(table, ordinal);
  state->call("open", &DeviceTable::open, ordinal, &state->device);
  state->call("open", &DeviceTable::facts, state->device, &state->facts);
  return OpenDevice(std::move(state));
}

std::string OpenDevice::name() const {
  return place(state_->ordinal) + " (" + state_->facts.name + ")";
}

DeviceBuffer DeviceBuffer::allocate(const OpenDevice& device, uint64_t bytes,
                                    std::string_view what) {
  STRATA_CHECK(bytes > 0, "no bytes asked for");
  const detail::SharedState& state = device.state();
  void* memory = nullptr;
  state->call("hold " + std::string(what) + ", " + std::to_string(bytes) + " bytes",
              &DeviceTable::allocate, state->device, bytes, &memory);
  DeviceBuffer buffer;
  buffer.memory_ = {state, static_cast<std::byte*>(memory)};
  buffer.bytes_ = bytes;
  return buffer;
}

PinnedMemory PinnedMemory::pin(const OpenDevice& device, std::span<std::byte> memory) {
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  STRATA_CHECK(!memory.empty() && address % kPage == 0 && memory.size() % kPage == 0,
               "no whole pages: %zu bytes at %p", memory.size(),
               static_cast<const void*>(memory.data()));
  const detail::SharedState& state = device.state();
  void* mapped = nullptr;
  state->call("pin " + std::to_string(memory.size()) + " bytes of memory", &DeviceTable::pin,
              state->device, memory.data(), memory.size(), &mapped);
  PinnedMemory pinned;
  pinned.memory_ = {state, memory.data()};
  pinned.bytes_ = memory.size();
  pinned.mapped_ = static_cast<std::byte*>(mapped);
  return pinned;
}

Event Event::create(const OpenDevice& device) {
  const detail::SharedState& state = device.state();
  DeviceEvent* made = nullptr;
  state->call("make an event", &DeviceTable::create_event, state->device, &made);
  Event event;
  event.event_ = {state, made};
  return event;
}

bool Event::is_done() const {
  bool is_done = false;
  event_.state()->call("say whether its work has ended", &DeviceTable::query, event_.get(),
                       &is_done);
  return is_done;
}

void Event::wait() const {
  event_.state()->call("end its work", &DeviceTable::wait_event, event_.get());
}

float Event::ms_since(const Event& earlier) const {
  float ms = 0;
  event_.state()->call("tell a time", &DeviceTable::elapsed_ms, earlier.event_.get(), event_.get(),
                       &ms);
  return ms;
}

Stream Stream::create(const OpenDevice& device) {
  const detail::SharedState& state = device.state();
  DeviceStream* made = nullptr;
  state->call("make a stream", &DeviceTable::create_stream, state->device, &made);
  Stream stream;
  stream.stream_ = {state, made};
  return stream;
}

void Stream::copy(void* to, const void* from, uint64_t bytes) {
  stream_.state()->call("copy", &DeviceTable::copy, stream_.get(), to, from, bytes);
}

void Stream::fill(void* to, uint8_t value, uint64_t bytes) {
  stream_.state()->call("fill memory", &DeviceTable::fill, stream_.get(), to, value, bytes);
}

void Stream::record(const Event& event) {
  stream_.state()->call("record an event", &DeviceTable::record, stream_.get(), event.event_.get());
}

void Stream::await(const Event& event) {
  stream_.state()->call("wait for an event", &DeviceTable::await, stream_.get(),
                        event.event_.get());
}

void Stream::wait() const {
  stream_.state()->call("end its work", &DeviceTable::wait_stream, stream_.get());
}

void Stream::begin_capture() {
  stream_.state()->call("begin a capture", &DeviceTable::begin_capture, stream_.get());
}

Graph Stream::end_capture() {
  DeviceGraph* made = nullptr;
  stream_.state()->call("end a capture", &DeviceTable::end_capture, stream_.get(), &made);
  Graph graph;
  graph.graph_ = {stream_.state(), made};
  return graph;
}

void Stream::run(const Graph& graph) {
  stream_.state()->call("run a graph", &DeviceTable::launch_graph, stream_.get(),
                        graph.graph_.get());
}

namespace {

OpenDevice open_named(uint32_t ordinal, const gpu_attn::CudaDevices& devices) {
  if (devices.table == nullptr)
    throw Error(ErrorCode::kNoDevice, place(ordinal) + " cannot be used: " + devices.reason,
                place(ordinal), kCpuRemedy);
  if (ordinal >= devices.n_devices) {
    const std::string last = place(devices.n_devices - 1);
    const std::string those = devices.n_devices == 1 ? last : "cuda:0 to " + last;
    throw Error(ErrorCode::kNoDevice,
                "there is no " + place(ordinal) + ": this machine has " + those, "--device",
                "give " + those + ", or auto or none");
  }
  return OpenDevice::open(*devices.table, ordinal);
}

}  // namespace

ChosenDevice open_chosen_device(const DeviceChoice& choice, const gpu_attn::CudaDevices& devices) {
  STRATA_CHECK(choice.kind != DeviceChoice::Kind::kVirtual, "a virtual device is simulated");
  if (choice.kind == DeviceChoice::Kind::kNone) return {};
  if (choice.kind == DeviceChoice::Kind::kCuda)
    return {.device = open_named(choice.ordinal, devices), .note = ""};
  ChosenDevice chosen{.device = {}, .note = devices.reason};
  for (uint32_t i = 0; devices.table != nullptr && i < devices.n_devices; ++i) {
    try {
      return {.device = OpenDevice::open(*devices.table, i), .note = ""};
    } catch (const Error& error) {  // the next one may do
      if (chosen.note.empty()) chosen.note = "no CUDA device: " + std::string(error.what());
    }
  }
  return chosen;
}

}  // namespace strata::engine
