// Every instruction that tests/gpu_gates/cubin.py counts and a kernel may have: where a compiler
// encodes one otherwise, the gates would not see it.
#include "gpu_attn/gpu.cuh"

namespace strata::gpu_attn {
namespace {

struct KnownArgs {
  const uint4* from;
  float* to;
  uint4* const* lists;
};

__global__ void __launch_bounds__(128) known(const KnownArgs args) {
  GPU_SHARED(uint32_t, tile, [2][1024]);
  const uint4 wide = load16_once(args.from + threadIdx.x);
  cp_async16(&tile[0][4 * threadIdx.x], args.from + 128 + threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  tile[1][threadIdx.x] = wide.x;
  __syncthreads();
  uint32_t a[4];
  ldmatrix_x4(a, &tile[0][4 * (threadIdx.x % 32)]);
  const uint32_t b[2] = {tile[1][threadIdx.x ^ 1], tile[1][threadIdx.x ^ 2]};
  float d[4] = {0, 0, 0, 0};
  mma_f16(d, a, b);
  const int32_t sum = dot4(static_cast<int32_t>(wide.y), static_cast<int32_t>(wide.z), 0);
  reinterpret_cast<float4*>(args.to)[threadIdx.x] = make_float4(d[0], d[1], d[2], d[3]);
  args.to[4096 + threadIdx.x] = static_cast<float>(sum);
  uint4* list = args.lists[threadIdx.x];
  uint4 other = list[0];
  other.x += wide.w;
  list[1] = other;
}

}  // namespace

int known_kernel(Stream stream, const KnownArgs& args) {
  return launch(known, dim3(1), dim3(128), 0, stream, args);
}

}  // namespace strata::gpu_attn
