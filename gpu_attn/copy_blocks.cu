// gpu_attn/copy_blocks.cu - copies KV blocks between device memory and pinned host memory, or
// within either, and changes scattered entries of a table.
//
// Shapes   from, to [n_blocks] pointers to block_bytes bytes
// Threads  one thread block copies one KV block: 256 threads, 16 bytes each at a time, four loads
//          under way before the first store, so that a read across the link has 16 KiB in flight
//          per thread block
// Bytes    copy_blocks_bytes(args), set_words_bytes(args)
#include "base/check.h"
#include "gpu_attn/copy_bytes.h"
#include "gpu_attn/device_stream.cuh"
#include "gpu_attn/gpu.cuh"
#include "gpu_attn/kernels.h"

namespace strata::gpu_attn {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kInFlight = 4;  // loads of a thread

__global__ void __launch_bounds__(kThreads) copy_blocks_kernel(const DeviceCopyBlocksArgs args) {
  const auto* from = reinterpret_cast<const uint4*>(args.from[blockIdx.x]);
  auto* to = reinterpret_cast<uint4*>(args.to[blockIdx.x]);
  const uint32_t n_pieces = args.block_bytes / 16;
  for (uint32_t first = threadIdx.x; first < n_pieces; first += kThreads * kInFlight) {
    uint4 pieces[kInFlight];
#pragma unroll
    for (uint32_t i = 0; i < kInFlight; ++i) {
      const uint32_t at = first + i * kThreads;
      if (at < n_pieces) pieces[i] = load16_once(from + at);
    }
#pragma unroll
    for (uint32_t i = 0; i < kInFlight; ++i) {
      const uint32_t at = first + i * kThreads;
      if (at < n_pieces) to[at] = pieces[i];
    }
  }
}

/// One thread sets one word.
__global__ void __launch_bounds__(kThreads) set_words_kernel(const DeviceSetWordsArgs args) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i < args.n) args.words[args.index[i]] = args.value[i];
}

}  // namespace

int copy_blocks(DeviceStream* stream, const DeviceCopyBlocksArgs& args) {
  STRATA_CHECK(args.block_bytes > 0 && args.block_bytes % 16 == 0, "block_bytes=%u",
               args.block_bytes);
  if (args.n_blocks == 0) return 0;
  return launch(copy_blocks_kernel, dim3(args.n_blocks), dim3(kThreads), 0, stream->handle, args);
}

int set_words(DeviceStream* stream, const DeviceSetWordsArgs& args) {
  if (args.n == 0) return 0;
  return launch(set_words_kernel, dim3((args.n + kThreads - 1) / kThreads), dim3(kThreads), 0,
                stream->handle, args);
}

}  // namespace strata::gpu_attn
