// NVIDIA's own arithmetic of occupancy: reads lines "major minor threads_per_sm shared_per_sm
// registers threads shared" and writes the blocks of each.
#include <cuda_occupancy.h>

#include <cstdio>

int main() {
  int major, minor, threads_per_sm, shared_per_sm, registers, threads, shared;
  while (std::scanf("%d %d %d %d %d %d %d", &major, &minor, &threads_per_sm, &shared_per_sm,
                    &registers, &threads, &shared) == 7) {
    cudaOccDeviceProp properties;
    properties.computeMajor = major;
    properties.computeMinor = minor;
    properties.maxThreadsPerBlock = 1024;
    properties.maxThreadsPerMultiprocessor = threads_per_sm;
    properties.regsPerBlock = 65536;
    properties.regsPerMultiprocessor = 65536;
    properties.warpSize = 32;
    properties.sharedMemPerBlock = 48 * 1024;
    properties.sharedMemPerMultiprocessor = static_cast<size_t>(shared_per_sm);
    properties.sharedMemPerBlockOptin = static_cast<size_t>(shared_per_sm - 1024);
    properties.reservedSharedMemPerBlock = 1024;
    properties.numSms = 100;
    cudaOccFuncAttributes attributes;
    attributes.maxThreadsPerBlock = 1024;
    attributes.numRegs = registers;
    attributes.sharedSizeBytes = 0;
    attributes.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    attributes.maxDynamicSharedSizeBytes = static_cast<size_t>(shared);
    attributes.numBlockBarriers = 1;
    const cudaOccDeviceState state;
    cudaOccResult result;
    const cudaOccError error = cudaOccMaxActiveBlocksPerMultiprocessor(
        &result, &properties, &attributes, &state, threads, static_cast<size_t>(shared));
    std::printf("%d\n", error == CUDA_OCC_SUCCESS ? result.activeBlocksPerMultiprocessor : -1);
  }
}
