// tests/gpu_emu/emulated_device.h - the emulator as a device of base/device_table.h, so that what
// drives a card in earnest drives our kernels in CI. Work is done when it is queued: a stream is
// never behind.
#pragma once

#include "base/device_table.h"

namespace strata::gpu_emu {

/// Devices 0, 1 and 2 run the threads of a block forward, backward and in an order by chance.
inline constexpr uint32_t kEmulatedDevices = 3;

/// Memory of each: what is asked for beyond fails as on a full card.
inline constexpr uint64_t kEmulatedMemoryBytes = uint64_t{2} << 30;

/// A broken rule of a kernel is thrown as EmulatorError by the call that queues it.
const DeviceTable& emulated_device();

/// Whether `at` lies in memory that the stream's device has allocated.
bool is_in_memory(const DeviceStream* stream, const void* at);

}  // namespace strata::gpu_emu
