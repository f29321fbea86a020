#include "tests/gpu_emu/emulated_device.h"
#include "tests/gpu_check/checked_device.h"

namespace strata::gpu_check {

CheckedDevice checked_device(const std::string&) { return {&gpu_emu::emulated_device(), ""}; }

}  // namespace strata::gpu_check
