// tests/planner/random_problem.h - small placement problems drawn from a seed, in which tiers and
// rates matter.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>

#include "planner/placement/problem.h"

namespace strata::planner::testing {

inline PlacementProblem random_problem(uint64_t seed, bool has_device, uint32_t n_groups = 1,
                                       uint32_t n_layers = 4) {
  std::mt19937_64 random(seed);
  const auto draw = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  PlacementProblem problem;
  problem.chunk_rows = 256;
  problem.n_prompt = 32 * std::floor(draw(30, 300));
  problem.n_out = 64;
  problem.touched_share = draw(0, 1) < 0.3 ? draw(0.05, 0.5) : 1;
  problem.head_ms = draw(0.1, 1);
  problem.has_device = has_device;
  uint32_t next = 0;
  for (uint32_t g = 0; g < n_groups; ++g) {
    LayerGroup group;
    for (uint32_t i = 0; i < n_layers; ++i) group.layers.push_back(next++);
    group.weight_gb = draw(0.05, 0.4);
    group.cpu_linear_ms = group.weight_gb / draw(8, 20) * 1e3;
    group.cpu_gemm_ms = draw(0.5, 4);
    group.pack_ms = group.weight_gb / draw(2, 9) * 1e3;
    group.gemm_tflop = group.weight_gb * 4e-3;
    group.kv_gb = draw(0.5e-5, 5e-5);
    group.attend_tflop = group.kv_gb * 2e-3;
    group.n_held = problem.n_context();
    problem.groups.push_back(group);
  }
  problem.rates = {.cpu_attend = draw(5, 30),
                   .cpu_attend_tflops = draw(0.05, 0.2),
                   .dram_read = draw(8, 60),
                   .nvme_read = draw(1, 7),
                   .nvme_blocks = draw(0.5, 1),
                   .nvme_write = draw(0.5, 3),
                   .nvme_slows_cpu = draw(0, 0.3),
                   .cpu_slows_nvme = draw(0, 0.3)};
  if (has_device) {
    problem.rates.link_in = problem.rates.link_out = draw(8, 25);
    problem.rates.hbm_gemv = problem.rates.hbm_attend = draw(200, 800);
    problem.rates.gpu_gemm_tflops = problem.rates.gpu_attend_tflops = draw(10, 60);
    problem.rates.launch_ms = 0.01;
    problem.rates.round_trip_ms = 0.02;
    problem.rates.sharing_ms = 0.01;
    problem.hbm_fixed_gb = 0.07;
    problem.hbm_always_gb = 0.03;
    problem.hbm_slots_gb = 0.05;
  }
  problem.dram_fixed_gb = 0.1;
  problem.always_weights_gb = 0.05;
  problem.stream_slots_gb = 0.05;
  problem.kv_beside_gb = 0.01;
  problem.spill_beside_gb = 0.02;
  problem.spill_floor_gb = 0.1 * problem.kv_gb();
  problem.spill_file_gb = 1.05 * problem.kv_gb();
  const double all = problem.weights_gb() + problem.kv_gb();
  problem.dram_gb = 0.3 + draw(0.3, 1.2) * all;
  problem.hbm_gb = has_device ? 0.2 + draw(0.05, 0.9) * all : 0;
  problem.nvme_gb = 2 * all;
  problem.rates.cpu_layer_ms = draw(0, 3);
  problem.rates.cpu_chunk_layer_ms = draw(0, 3);
  problem.rates.cpu_step_ms = draw(0, 2);
  problem.may_compute_on_cpu = draw(0, 1) < 0.7;
  return problem;
}

/// The same with what else a problem may have: windows (of the only group, or of the second), an
/// index that is scanned, reads that move slower than in order, staging of K and V.
inline PlacementProblem varied_problem(uint64_t seed, bool has_device, uint32_t n_groups = 1,
                                       uint32_t n_layers = 4) {
  PlacementProblem problem = random_problem(seed, has_device, n_groups, n_layers);
  std::mt19937_64 random(seed + 7919);  // another stream than the draws above
  const auto draw = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  if (LayerGroup& last = problem.groups.back(); draw(0, 1) < 0.4) {
    last.window = 32 * static_cast<uint32_t>(draw(4, 40));
    last.n_held =
        std::min(problem.n_context(), static_cast<double>(last.window + problem.chunk_rows));
  }
  for (LayerGroup& group : problem.groups) {
    group.weights_read_share = draw(0.8, 2.5);
    group.kv_read_share = draw(1, 3);
    group.ahead_share = draw(0, 1);
  }
  if (draw(0, 1) < 0.5) {
    problem.index_gb = draw(0.01, 0.1) * problem.kv_gb();
    problem.index_position_ms = draw(0, 5) / problem.n_context();
    // Some are read more slowly than they are computed with.
    problem.index_position_gb = draw(0, 6) * 1e-3 * problem.rates.dram_read / problem.n_context();
    problem.dram_gb += problem.index_gb;
  }
  problem.staged_positions = kExtentPositions * std::floor(draw(0, 20));
  problem.spill_floor_gb = 0.1 * problem.full_kv_gb();
  problem.spill_file_gb = 1.05 * problem.full_kv_gb();
  if (has_device && problem.index_gb > 0 && draw(0, 1) < 0.6) {  // the card searches
    problem.hbm_index_gb = problem.index_gb;
    problem.index_position_link_gb = 0.02 * problem.index_position_gb;
    problem.hbm_gb += problem.hbm_index_gb;
  }
  return problem;
}

/// The same with layers of which a pin keeps a piece in a tier: those of the first group, and most
/// others.
inline PlacementProblem split_problem(uint64_t seed, bool has_device, uint32_t n_groups = 1,
                                      uint32_t n_layers = 4) {
  PlacementProblem problem = varied_problem(seed, has_device, n_groups, n_layers);
  std::mt19937_64 random(seed + 104'729);
  const auto draw = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  for (LayerGroup& group : problem.groups) {
    if (&group != &problem.groups.front() && draw(0, 1) < 0.3) continue;
    const double share = draw(0.2, 0.8);
    const LayerPiece piece = draw(0, 1) < 0.5 ? LayerPiece::kAttention : LayerPiece::kFfn;
    const auto tier = static_cast<PlanTier>(has_device ? random() % 3 : 1 + random() % 2);
    const double read_share = draw(0.8, 2.5);
    group.apart = PieceApart{{.weight_gb = share * group.weight_gb,
                              .pack_ms = share * group.pack_ms,
                              .weights_read_share = read_share,
                              .ahead_share = draw(0, 3)},
                             piece,
                             tier};
    group.weight_gb -= group.apart->weight_gb;
    group.pack_ms -= group.apart->pack_ms;
    group.ahead_share = draw(0, 3);
  }
  return problem;
}

}  // namespace strata::planner::testing
