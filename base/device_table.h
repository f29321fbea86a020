// base/device_table.h - a device: memory, queues, copies and kernels, as one table of functions.
// Why: CUDA lies in a library of its own that is opened at run time (gpu_attn/cuda_module.cu); the
// emulator of the tests and the virtual device fill the same table. No CUDA type crosses it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/device_kernels.h"

namespace strata {

inline constexpr uint32_t kDeviceAbi = 4;  // raised with every change of this page's structs

/// What an error number of the device means.
enum class DeviceStatus : uint8_t {
  kOk,
  kNoDevice,     // no driver, no card, or none of that number
  kInUse,        // another process holds the card alone
  kOldDriver,    // the driver is older than the library needs
  kUnsupported,  // the card's compute capability has no code in the library
  kOutOfMemory,  // of the device
  kPinRefused,   // host memory could not be pinned
  kLost,         // the device failed and answers no more: end the process with an error
  kFailed,       // anything else
};

struct Device;       // one open device, opaque
struct DeviceEvent;  // a point in a stream, opaque
struct DeviceGraph;  // work that was captured, opaque

struct DeviceFacts {
  char name[96];
  uint32_t capability;  // compute capability: 86, 90
  uint32_t n_multiprocessors;
  uint32_t clock_khz;  // of the multiprocessors, at most; 0 = not known
  uint64_t memory_bytes;
  uint64_t free_bytes;
  uint64_t l2_bytes;
  uint64_t shared_bytes_per_block;  // at most, when asked for
};

/// Functions return 0 or an error number of the device; status() and message() explain it. Calls of
/// one device come from one thread. A destroy of null does nothing.
struct DeviceTable {
  uint32_t abi;          // kDeviceAbi
  uint32_t table_bytes;  // sizeof(DeviceTable)

  DeviceStatus (*status)(int error);
  const char* (*message)(int error);  // the driver's words, a static string

  /// Devices of this machine; 0 devices is an error number whose status is kNoDevice or kOldDriver.
  int (*count)(uint32_t* n_devices);
  int (*open)(uint32_t ordinal, Device** device);
  void (*close)(Device* device);
  int (*facts)(Device* device, DeviceFacts* facts);

  // Memory of the device, 256-byte aligned; garbage at first.
  int (*allocate)(Device* device, uint64_t bytes, void** memory);
  int (*release)(Device* device, void* memory);
  /// Pins host memory (page-aligned, anonymous) so that copies run beside the host; `mapped` is its
  /// address on the device.
  int (*pin)(Device* device, void* memory, uint64_t bytes, void** mapped);
  int (*unpin)(Device* device, void* memory);

  int (*create_stream)(Device* device, DeviceStream** stream);
  int (*destroy_stream)(DeviceStream* stream);
  int (*create_event)(Device* device, DeviceEvent** event);
  int (*destroy_event)(DeviceEvent* event);

  // Queued on a stream, in order. Host memory of a copy is pinned.
  int (*copy)(DeviceStream* stream, void* to, const void* from, uint64_t bytes);
  int (*fill)(DeviceStream* stream, void* to, uint8_t value, uint64_t bytes);
  int (*record)(DeviceStream* stream, DeviceEvent* event);
  int (*await)(DeviceStream* stream, DeviceEvent* event);  // the stream waits, not the host

  // The host asks or waits. `is_done` says whether all before the event has ended.
  int (*query)(DeviceEvent* event, bool* is_done);
  int (*wait_event)(DeviceEvent* event);
  int (*wait_stream)(DeviceStream* stream);
  /// Milliseconds on the device between two recorded events that have ended.
  int (*elapsed_ms)(DeviceEvent* begin, DeviceEvent* end, float* ms);

  // What is queued between these is kept, not run; launch_graph() runs all of it, any number of
  // times. Pointers are those of the capture.
  int (*begin_capture)(DeviceStream* stream);
  int (*end_capture)(DeviceStream* stream, DeviceGraph** graph);
  int (*launch_graph)(DeviceStream* stream, DeviceGraph* graph);
  int (*destroy_graph)(DeviceGraph* graph);

  DeviceKernels kernels;
};

/// The one symbol of the module: the table, or null where `abi` is not its own.
using DeviceTableFunction = const DeviceTable* (*)(uint32_t abi);
inline constexpr char kDeviceTableSymbol[] = "strata_device_table";

}  // namespace strata
