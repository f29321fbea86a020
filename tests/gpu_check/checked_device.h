// tests/gpu_check/checked_device.h - the device that gpu_check is about: a card through the module,
// or the emulator, by what is linked.
#pragma once

#include <string>

#include "base/device_table.h"

namespace strata::gpu_check {

struct CheckedDevice {
  const DeviceTable* table = nullptr;
  std::string reason;  // why there is none
};

/// `module` is the path of the CUDA module; the emulator needs none.
CheckedDevice checked_device(const std::string& module);

}  // namespace strata::gpu_check
