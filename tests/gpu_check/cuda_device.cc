#include "gpu_attn/open_module.h"
#include "tests/gpu_check/checked_device.h"

namespace strata::gpu_check {

CheckedDevice checked_device(const std::string& module) {
  const gpu_attn::CudaDevices devices =
      module.empty() ? gpu_attn::find_cuda_devices() : gpu_attn::find_cuda_devices({module});
  return {devices.table, devices.reason};
}

}  // namespace strata::gpu_check
