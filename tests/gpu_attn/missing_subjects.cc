// Stands in for operations and cases that are not written yet; what is written replaces it.
#include "gpu_attn/kernels.h"
#include "tests/gpu_attn/under_test.h"

#define MISSING_OPERATION(name, Args) \
  [[gnu::weak]] int name(DeviceStream*, const Args&) { return 1; }

namespace strata::gpu_attn {
MISSING_OPERATION(embed, DeviceEmbedArgs)
MISSING_OPERATION(norm, DeviceNormArgs)
MISSING_OPERATION(quantize, DeviceQuantizeArgs)
MISSING_OPERATION(linear, DeviceLinearArgs)
MISSING_OPERATION(linear_many_rows, DeviceLinearArgs)
MISSING_OPERATION(rotate, DeviceRotateArgs)
MISSING_OPERATION(attend, DeviceAttendArgs)
MISSING_OPERATION(merge, DeviceMergeArgs)
MISSING_OPERATION(prefill, DevicePrefillArgs)
MISSING_OPERATION(activate, DeviceActivateArgs)
MISSING_OPERATION(argmax, DeviceArgmaxArgs)
MISSING_OPERATION(copy_blocks, DeviceCopyBlocksArgs)
}  // namespace strata::gpu_attn

namespace strata::gpu_test {
[[gnu::weak]] std::vector<GpuCase> attend_cases() { return {}; }
[[gnu::weak]] std::vector<GpuCase> linear_cases() { return {}; }
[[gnu::weak]] std::vector<GpuCase> wide_linear_cases() { return {}; }
[[gnu::weak]] std::vector<GpuCase> prefill_cases() { return {}; }
[[gnu::weak]] std::vector<GpuCase> row_cases() { return {}; }
[[gnu::weak]] std::vector<GpuCase> copy_cases() { return {}; }
}  // namespace strata::gpu_test
