// tests/planner/small_problem.h - a problem whose times are sums that can be done in the head.
#pragma once

#include "planner/placement/problem.h"
#include "planner/placement/step_time.h"

namespace strata::planner {

inline constexpr double kExact = 1e-6;

/// Four layers of 0.1 GB and 1000 positions of 0.1 MB each.
inline PlacementProblem small_problem(bool has_device) {
  PlacementProblem problem;
  problem.chunk_rows = 100;
  problem.n_prompt = 1000;
  problem.n_out = 0;
  problem.head_ms = 2;
  problem.has_device = has_device;
  problem.hbm_gb = problem.dram_gb = problem.nvme_gb = 100;
  LayerGroup group;
  group.layers = {0, 1, 2, 3};
  group.weight_gb = 0.1;
  group.cpu_linear_ms = 10;
  group.cpu_gemm_ms = 0.2;
  group.gemm_tflop = 1e-3;
  group.kv_gb = 1e-4;
  group.attend_tflop = 1e-6;
  group.n_held = 1000;
  problem.groups = {group};
  problem.rates = {.cpu_attend = 20,
                   .cpu_attend_tflops = 0.1,
                   .dram_read = 1000,
                   .nvme_read = 2,
                   .nvme_blocks = 1,
                   .nvme_write = 1};
  if (has_device) {
    problem.rates.link_in = problem.rates.link_out = 10;
    problem.rates.hbm_gemv = problem.rates.hbm_attend = 100;
    problem.rates.gpu_gemm_tflops = problem.rates.gpu_attend_tflops = 10;
  }
  return problem;
}

inline LayerPlacement small_placement(uint32_t n_hbm, uint32_t n_dram, uint32_t n_nvme,
                                      double kv_hbm, double kv_dram) {
  return {{{n_hbm, n_dram, n_nvme, kv_hbm, kv_dram}}, CpuPart::kNone};
}

}  // namespace strata::planner
