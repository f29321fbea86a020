// gpu_attn/device_stream.cuh - what stands behind the opaque DeviceStream.
#pragma once

#include "base/device_table.h"
#include "gpu_attn/gpu.cuh"

namespace strata {

struct DeviceStream {
  gpu_attn::Stream handle;
  Device* device;
};

}  // namespace strata
