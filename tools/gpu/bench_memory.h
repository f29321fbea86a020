// tools/gpu/bench_memory.h - a bench's memory filled from the host and read back.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/gpu/gpu_bench.h"

namespace strata::gpu_bench {

/// Until the bench ends.
template <class T>
T* upload(GpuBench& bench, const std::vector<T>& values) {
  auto* memory = static_cast<T*>(bench.make(values.size() * sizeof(T)));
  bench.check(bench.table().copy(bench.stream(), memory, values.data(), values.size() * sizeof(T)));
  bench.check(bench.table().wait_stream(bench.stream()));
  return memory;
}

template <class T>
std::vector<T> download(GpuBench& bench, const T* from, uint64_t n) {
  std::vector<T> values(n);
  bench.check(bench.table().copy(bench.stream(), values.data(), from, n * sizeof(T)));
  bench.check(bench.table().wait_stream(bench.stream()));
  return values;
}

}  // namespace strata::gpu_bench
