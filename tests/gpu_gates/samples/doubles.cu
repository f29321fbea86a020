// Must fail the gates: arithmetic in double precision, and no launch bounds.
#include "gpu_attn/gpu.cuh"

namespace strata::gpu_attn {
namespace {

struct DoubleArgs {
  const double* from;
  double* to;
};

__global__ void doubles(const DoubleArgs args) {
  const double x = args.from[threadIdx.x];
  args.to[threadIdx.x] = x * 1.1 + 0.3;  // DFMA
  args.to[threadIdx.x + 32] = x * args.from[threadIdx.x + 32];
  args.to[threadIdx.x + 64] = x + args.from[threadIdx.x + 64];
}

}  // namespace

int double_kernel(Stream stream, const DoubleArgs& args) {
  return launch(doubles, dim3(1), dim3(32), 0, stream, args);
}

}  // namespace strata::gpu_attn
