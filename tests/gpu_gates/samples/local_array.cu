// Must fail the gates: an array whose index is known only when it runs.
#include "gpu_attn/gpu.cuh"

namespace strata::gpu_attn {
namespace {

struct LocalArgs {
  const uint32_t* from;
  uint32_t* to;
};

__global__ void __launch_bounds__(128) local_array(const LocalArgs args) {
  uint32_t counts[16] = {};
  for (uint32_t i = 0; i < 64; ++i) ++counts[args.from[i * 128 + threadIdx.x] % 16];
  args.to[threadIdx.x] = counts[args.from[threadIdx.x] % 16];
}

}  // namespace

int local_kernel(Stream stream, const LocalArgs& args) {
  return launch(local_array, dim3(1), dim3(128), 0, stream, args);
}

}  // namespace strata::gpu_attn
