#include "planner/placement/plan_change.h"

#include <algorithm>
#include <string_view>

#include "base/check.h"

namespace strata::planner {
namespace {

constexpr double kGiB = 1.073741824;  // in GB
constexpr PlanResource kResources[] = {{"hbm", true, true},         {"dram", true, false},
                                       {"nvme", true, false},       {"nvme_read", false, false},
                                       {"link", false, true},       {"cpu", false, false},
                                       {"dram_read", false, false}, {"gpu", false, true}};

double* room_of(std::string_view name, PlacementProblem& problem) {
  if (name == "hbm") return &problem.hbm_gb;
  return name == "dram" ? &problem.dram_gb : &problem.nvme_gb;
}

void quicken_cpu(double times, PlacementProblem& problem) {
  problem.rates.cpu_attend *= times;
  problem.rates.cpu_attend_tflops *= times;
  problem.index_position_ms /= times;
  if (!problem.has_device) problem.head_ms /= times;
  for (LayerGroup& group : problem.groups) {
    group.cpu_linear_ms /= times;
    group.cpu_gemm_ms /= times;
    group.pack_ms /= times;
    if (group.apart) group.apart->pack_ms /= times;
  }
}

void quicken_gpu(double times, PlacementProblem& problem) {
  problem.rates.hbm_gemv *= times;
  problem.rates.hbm_attend *= times;
  problem.rates.gpu_gemm_tflops *= times;
  problem.rates.gpu_attend_tflops *= times;
  problem.head_ms /= times;
}

}  // namespace

std::span<const PlanResource> plan_resources() { return kResources; }

void change_resource(const PlanResource& resource, double amount, PlacementProblem& problem) {
  const std::string_view name = resource.name;
  STRATA_CHECK(resource.is_room || amount > 0, "%s times %f", resource.name, amount);
  if (resource.is_room) {
    *room_of(name, problem) += amount;
  } else if (name == "nvme_read") {
    problem.rates.nvme_read *= amount;
    problem.rates.nvme_blocks *= amount;
  } else if (name == "link") {
    problem.rates.link_in *= amount;
    problem.rates.link_out *= amount;
  } else if (name == "cpu") {
    quicken_cpu(amount, problem);
  } else if (name == "dram_read") {
    problem.rates.dram_read *= amount;
  } else {
    quicken_gpu(amount, problem);
  }
}

std::vector<PlanDual> duals_of(const PlacementProblem& problem, const LpWaits& waits) {
  // Without limits: where these hold with equality, more of anything would change the other time.
  PlacementProblem free = problem;
  free.ttft_max_ms = free.tpot_max_ms = 0;
  const LpPlacement program = solve_placement(free, waits);
  std::vector<PlanDual> duals;
  for (const PlanResource& resource : kResources) {
    if (resource.is_of_device && !problem.has_device) continue;
    PlacementProblem changed = free;
    change_resource(resource, resource.is_room ? kGiB : kDualTimes, changed);
    const LpPlacement more = solve_placement(changed, waits);
    if (!more.is_feasible || !program.is_feasible) continue;
    duals.push_back({resource.name, resource.is_room ? "GiB" : "10 %",
                     more.tpot_ms - program.tpot_ms, more.ttft_ms - program.ttft_ms});
  }
  return duals;
}

}  // namespace strata::planner
