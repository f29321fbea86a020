// engine/device_rate.h - what a device's memory gives, measured: the ceiling that benches speak of.
#pragma once

#include "engine/device.h"

namespace strata::engine {

/// GB/s of copies inside the device's memory, bytes read and written, the best of a few. 0 where
/// the device has no room for it. Errors: kDeviceLost.
double measure_device_copy(const OpenDevice& device);

}  // namespace strata::engine
