// Stand in for benches that are not written yet; what is written replaces them.
#include "tools/gpu/gpu_bench.h"

namespace strata::gpu_bench {

[[gnu::weak]] void bench_attend(GpuBench&) {}
[[gnu::weak]] void bench_linear(GpuBench&) {}
[[gnu::weak]] void bench_wide_linear(GpuBench&) {}
[[gnu::weak]] void bench_prefill(GpuBench&) {}
[[gnu::weak]] void bench_rows(GpuBench&) {}

}  // namespace strata::gpu_bench
