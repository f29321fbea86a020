// engine/device.h - a device and what is taken from it, each given back by its destructor. Why:
// base/device_table.h is functions and numbers; here a number that is an error is thrown as one,
// with its remedy, and a device that failed once gives no answer again.
//
// Errors of every function: kDeviceLost where the device failed, now or before; kOutOfMemory.
// Threads: a device and all that belongs to it are used by one thread. Destructors may run in any
// order, also after OpenDevice's; none throws, and none waits (the driver itself ends running
// kernels before it takes memory back).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "base/device_table.h"
#include "engine/device_choice.h"
#include "gpu_attn/open_module.h"

namespace strata::engine {

class OpenDevice;

namespace detail {

/// An open device, shared by all that belongs to it.
class DeviceState {
 public:
  DeviceState(const DeviceTable& table, uint32_t ordinal);
  ~DeviceState();
  DeviceState(const DeviceState&) = delete;
  DeviceState& operator=(const DeviceState&) = delete;

  /// Calls a function of the table, unless the device is lost; `doing` is what fails then ("copy").
  template <class... Params>
  void call(std::string_view doing, int (*DeviceTable::*function)(Params...),
            std::type_identity_t<Params>... arguments) {
    expect_alive();
    check((table.*function)(arguments...), doing);
  }
  template <class Args>
  void call(int (*DeviceKernels::*operation)(DeviceStream*, const Args&), DeviceStream* stream,
            const Args& args) {
    expect_alive();
    check((table.kernels.*operation)(stream, args), "run an operation");
  }

  const DeviceTable& table;
  const uint32_t ordinal;
  Device* device = nullptr;
  DeviceFacts facts{};
  std::string lost;  // what was said when it was lost; empty: it is not

  /// Throws what `error` means, unless it is 0.
  void check(int error, std::string_view doing);

 private:
  void expect_alive() const;
};

using SharedState = std::shared_ptr<DeviceState>;

/// Owns one thing of a device that Destroy takes back.
template <class T, auto Destroy>
class Owned {
 public:
  Owned() = default;
  Owned(SharedState state, T* thing) : state_(std::move(state)), thing_(thing) {}
  ~Owned() {
    if (thing_ != nullptr) Destroy(*state_, thing_);
  }
  Owned(Owned&& other) noexcept
      : state_(std::move(other.state_)), thing_(std::exchange(other.thing_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(state_, other.state_);
    std::swap(thing_, other.thing_);
    return *this;
  }

  T* get() const { return thing_; }
  const SharedState& state() const { return state_; }

 private:
  SharedState state_;
  T* thing_ = nullptr;
};

void give_back(DeviceState& state, std::byte* memory);
void unpin(DeviceState& state, std::byte* memory);
void destroy_stream(DeviceState& state, DeviceStream* stream);
void destroy_event(DeviceState& state, DeviceEvent* event);
void destroy_graph(DeviceState& state, DeviceGraph* graph);

}  // namespace detail

class OpenDevice {
 public:
  /// Errors: kNoDevice where it is not there or cannot be used.
  static OpenDevice open(const DeviceTable& table, uint32_t ordinal);

  const DeviceFacts& facts() const { return state_->facts; }  // as they were when it was opened
  uint32_t ordinal() const { return state_->ordinal; }
  std::string name() const;  // "cuda:0 (NVIDIA GeForce RTX 3060)"
  bool is_lost() const { return !state_->lost.empty(); }
  const DeviceTable& table() const { return state_->table; }
  Device* get() const { return state_->device; }
  const detail::SharedState& state() const { return state_; }

 private:
  explicit OpenDevice(detail::SharedState state) : state_(std::move(state)) {}
  detail::SharedState state_;
};

/// Memory of a device, 256-byte aligned; garbage at first.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  /// `what` names it where there is no room: "the weights of layer 3".
  static DeviceBuffer allocate(const OpenDevice& device, uint64_t bytes, std::string_view what);

  std::byte* bytes() const { return memory_.get(); }
  uint64_t size() const { return bytes_; }
  template <class T>
  T* as(uint64_t byte_offset = 0) const {
    return reinterpret_cast<T*>(memory_.get() + byte_offset);
  }

 private:
  detail::Owned<std::byte, detail::give_back> memory_;
  uint64_t bytes_ = 0;
};

/// Host memory that a device's copies read and write beside the host, and that its kernels reach.
/// The memory is borrowed: it is unmapped only after this is gone.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  /// `memory` is anonymous and begins and ends at a page. Errors: kOutOfMemory where it cannot be
  /// pinned.
  static PinnedMemory pin(const OpenDevice& device, std::span<std::byte> memory);

  /// The address on the device of a byte of the memory.
  template <class T>
  T* on_device(T* host) const {
    return reinterpret_cast<T*>(mapped_ +
                                (reinterpret_cast<const std::byte*>(host) - memory_.get()));
  }
  std::byte* host() const { return memory_.get(); }
  uint64_t size() const { return bytes_; }

 private:
  detail::Owned<std::byte, detail::unpin> memory_;
  uint64_t bytes_ = 0;
  std::byte* mapped_ = nullptr;
};

/// A point in a stream, recorded again and again.
class Event {
 public:
  Event() = default;
  static Event create(const OpenDevice& device);

  /// Has all before the last record() ended? True where nothing was recorded.
  bool is_done() const;
  void wait() const;  // until it is
  /// Milliseconds on the device since `earlier`; both have ended.
  float ms_since(const Event& earlier) const;

 private:
  friend class Stream;
  detail::Owned<DeviceEvent, detail::destroy_event> event_;
};

/// Work that was captured, to be run again and again over the same pointers.
class Graph {
 public:
  Graph() = default;

 private:
  friend class Stream;
  detail::Owned<DeviceGraph, detail::destroy_graph> graph_;
};

/// A queue of a device. Pointers of what is queued stay good until it has ended.
class Stream {
 public:
  Stream() = default;
  static Stream create(const OpenDevice& device);

  /// Host memory is pinned, or the call may wait for the copy.
  void copy(void* to, const void* from, uint64_t bytes);
  void fill(void* to, uint8_t value, uint64_t bytes);
  void record(const Event& event);
  void await(const Event& event);  // what is queued from now on; the host goes on
  void wait() const;               // until all that is queued has ended

  /// An operation: stream.run(&DeviceKernels::norm, args).
  template <class Args>
  void run(int (*DeviceKernels::*operation)(DeviceStream*, const Args&), const Args& args) {
    stream_.state()->call(operation, stream_.get(), args);
  }

  /// For what queues operations by itself; check() is for what it returns.
  DeviceStream* get() const { return stream_.get(); }
  void check(int error, std::string_view doing) const { stream_.state()->check(error, doing); }

  /// What is queued until end_capture() goes into a graph and does not run.
  void begin_capture();
  Graph end_capture();
  void run(const Graph& graph);

 private:
  detail::Owned<DeviceStream, detail::destroy_stream> stream_;
};

struct ChosenDevice {
  std::optional<OpenDevice> device;  // none: the CPU alone
  std::string note;                  // why "auto" found none, for the user; else empty
};

/// Opens what was chosen of the machine's CUDA devices; a virtual one is not for this function.
/// Errors: kNoDevice where a device was named.
ChosenDevice open_chosen_device(const DeviceChoice& choice, const gpu_attn::CudaDevices& devices);

}  // namespace strata::engine
