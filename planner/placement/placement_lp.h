// planner/placement/placement_lp.h - a placement as a linear program: shares of weights and of K
// and V per group of layers and tier, the time of a token as a chain beside the roofs of each part
// of the machine, a prompt by sampled chunks.
//
//   minimise   TTFT + n_out * TPOT + a little for every GB that is not near
//   shares     w_hbm + w_dram + w_nvme = 1;  k_hbm + k_dram + k_nvme = 1          per group; of a
//              piece apart the same with bounds that leave its tier alone
//   token      TPOT >= sum of layers (linear + attention + exposed reads) + head  the chain of one
//              TPOT >= what the disk, the link and DRAM move, each by itself      token
//   attention  >= K and V in HBM / its rate + those across the link / the link    per layer, and
//              >= those attended on the CPU / its rate + a round trip             beside it
//   products   p <= w_dram: a token's that the CPU computes, of the chain and not of the link; p of
//              a piece apart likewise
//   chunk      >= arithmetic;  >= weights and K and V across the link;  >= the disk
//   room       of HBM, DRAM and the disk, with slots and staging where they are needed
//   pins       bounds of 0 for shares that the user does not want;  limits: TTFT and TPOT <= theirs
//
// Source: FlexGen's program (arXiv 2303.06865) for the shares; its time is that of many sequences,
// which hide each other's transfers. One sequence hides what it knows ahead: weights and, where
// attention is exact, K and V. What retrieval chooses is known too late, and stands in the chain.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/placement/problem.h"

namespace strata::planner {

struct GroupShares {
  double weights_hbm = 0, weights_dram = 0, weights_nvme = 0;  // of what moves; sum 1
  double kv_hbm = 0, kv_dram = 0, kv_nvme = 0;                 // sum 1
  double on_cpu = 0;           // of all K and V touched, those attended by the CPU beside a device
  double products_on_cpu = 0;  // of what moves, at most weights_dram: a token's, beside a device
  double apart_on_cpu = 0;     // the same of a piece apart that is in DRAM
  double hbm_alone = 0;        // of what moves, in HBM and not in DRAM, at most weights_hbm
  double apart_hbm_alone = 0;  // the same of a piece apart that is in HBM
};

struct LpPlacement {
  bool is_feasible = false;
  std::vector<GroupShares> groups;
  double ttft_ms = 0, tpot_ms = 0;
  double objective_ms = 0;                            // ttft_ms + n_out * tpot_ms
  double hbm_dual = 0, dram_dual = 0, nvme_dual = 0;  // of objective_ms, per GB; <= 0
  uint32_t n_iterations = 0;
};

/// What a sum does not see: layers that wait for what comes ahead of them, in ms for each ms of
/// such reads and copies. Measured on a rounded placement by its clocks (step_time.h).
struct LpWaits {
  double token = 0, prompt = 0;
};

/// Cost: milliseconds. Threads: concurrent calls are independent.
LpPlacement solve_placement(const PlacementProblem& problem, const LpWaits& waits = {});

}  // namespace strata::planner
