#include "planner/placement/placement.h"

#include <algorithm>
#include <cmath>

namespace strata::planner {
namespace {

constexpr double kGiB = 1.073741824;  // in GB
constexpr double kBlock = kBlockPositions;
constexpr uint32_t kMovesMax = 400;  // each makes the request quicker; a bound, not a budget
constexpr size_t kPairGroupsMax = 4;
constexpr uint32_t kPairRoundsMax = 4;
constexpr double kBetter = 1 - 1e-9;

double whole_blocks(double n_positions, double n_held) {
  if (n_positions >= n_held) return n_held;
  return std::max(0.0, std::floor(n_positions / kBlock) * kBlock);
}

/// Of one position of all full layers.
double full_gb_per_position(const PlacementProblem& problem) {
  double gb = 0;
  for (const LayerGroup& group : problem.groups)
    if (group.is_full()) gb += group.n_layers() * group.kv_gb;
  return gb;
}

/// K and V as near to home as there is room for: all in DRAM, else full layers' share of it.
bool place_at_home(const PlacementProblem& problem, LayerPlacement& placement) {
  for (size_t g = 0; g < placement.groups.size(); ++g) {
    placement.groups[g].kv_hbm = 0;
    placement.groups[g].kv_dram = problem.groups[g].n_held;
  }
  const auto dram_room = [&] {
    const PlacedGb gb = placed_gb(problem, placement);
    return std::min(problem.dram_gb - gb.dram(), problem.kv_cap_gb - gb.dram_kv - gb.kv_beside) -
           problem.index_gb;
  };
  if (dram_room() >= 0) return true;
  if (!problem.may_spill || problem.full_kv_gb() <= 0) return false;
  double n_held = 0;
  for (size_t g = 0; g < placement.groups.size(); ++g) {
    if (!problem.groups[g].is_full()) continue;
    n_held = problem.groups[g].n_held;
    placement.groups[g].kv_dram = 0;
  }
  const double n = whole_blocks(dram_room() / full_gb_per_position(problem), n_held);
  for (size_t g = 0; g < placement.groups.size(); ++g)
    if (problem.groups[g].is_full())
      placement.groups[g].kv_dram = std::min(n, std::max(0.0, n_held - kBlock));
  return true;
}

/// Copies of K and V in what is left of HBM: windowed layers' first, for every token reads all of
/// them.
void copy_to_hbm(const PlacementProblem& problem, LayerPlacement& placement) {
  for (const bool is_full : {false, true}) {
    double gb_per_position = 0;
    for (const LayerGroup& group : problem.groups)
      if (group.is_full() == is_full) gb_per_position += group.n_layers() * group.kv_gb;
    if (gb_per_position <= 0) continue;
    const double n = (problem.hbm_gb - placed_gb(problem, placement).hbm()) / gb_per_position;
    for (size_t g = 0; g < placement.groups.size(); ++g) {
      if (problem.groups[g].is_full() != is_full) continue;
      GroupPlace& place = placement.groups[g];
      place.kv_hbm = whole_blocks(n, place.kv_dram);
      place.kv_dram -= place.kv_hbm;
    }
  }
}

/// Shares as whole layers: what does not fill a layer of a nearer tier goes to the next one.
LayerPlacement rounded(const PlacementProblem& problem, const LpPlacement& program) {
  constexpr double kNearly = 1e-6;
  LayerPlacement placement;
  for (size_t g = 0; g < problem.groups.size(); ++g) {
    const GroupShares& shares = program.groups[g];
    const double n = problem.groups[g].n_layers();
    GroupPlace place;
    place.n_hbm = static_cast<uint32_t>(std::floor(n * shares.weights_hbm + kNearly));
    const double near = n * (shares.weights_hbm + shares.weights_dram);
    const auto n_near = std::max(static_cast<uint32_t>(std::floor(near + kNearly)), place.n_hbm);
    place.n_dram = n_near - place.n_hbm;
    place.n_nvme = static_cast<uint32_t>(n) - n_near;
    placement.groups.push_back(place);
    if (shares.on_cpu > 0) placement.cpu_part = CpuPart::kBalanced;
  }
  return placement;
}

struct Found {
  LayerPlacement placement;
  double ms = 0;
};

void consider(const PlacementProblem& problem, const LayerPlacement& counted,
              std::optional<Found>& best) {
  std::optional<LayerPlacement> placement = with_kv(problem, counted);
  if (!placement) return;
  const double ms = request_ms(problem, *placement);
  if (!best || ms < best->ms * kBetter) best = {*std::move(placement), ms};
}

uint32_t& count_of(GroupPlace& place, uint32_t tier) {
  return tier == 0 ? place.n_hbm : tier == 1 ? place.n_dram : place.n_nvme;
}

/// Every placement that differs by some layers of one group in another tier, by all groups' layers
/// at once, or by who attends.
std::vector<LayerPlacement> neighbours(const PlacementProblem& problem,
                                       const LayerPlacement& placement) {
  std::vector<LayerPlacement> list;
  for (const CpuPart part : {CpuPart::kNone, CpuPart::kBalanced, CpuPart::kAll})
    if (problem.has_device && problem.may_attend_on_cpu && part != placement.cpu_part) {
      list.push_back(placement);
      list.back().cpu_part = part;
    }
  const uint32_t first_tier = problem.has_device ? 0 : 1;
  const uint32_t end_tier = problem.may_stream ? 3 : 2;
  for (uint32_t from = first_tier; from < end_tier; ++from)
    for (uint32_t to = first_tier; to < end_tier; ++to) {
      if (from == to) continue;
      LayerPlacement all = placement;
      for (size_t g = 0; g < placement.groups.size(); ++g) {
        const uint32_t there = count_of(all.groups[g], from);
        for (uint32_t n = there; n > 0; n = n == 1 ? 0 : std::max(1U, n / 4)) {
          list.push_back(placement);
          count_of(list.back().groups[g], from) -= n;
          count_of(list.back().groups[g], to) += n;
        }
        count_of(all.groups[g], from) -= there;
        count_of(all.groups[g], to) += there;
      }
      list.push_back(std::move(all));
    }
  return list;
}

/// Everything as near as may be, and everything as far: where rounding leaves what does not fit,
/// moving begins at one that does.
std::vector<LayerPlacement> extremes(const PlacementProblem& problem) {
  std::vector<LayerPlacement> list;
  for (uint32_t tier = problem.has_device ? 0 : 1; tier < (problem.may_stream ? 3U : 2U); ++tier) {
    LayerPlacement placement;
    for (const LayerGroup& group : problem.groups)
      count_of(placement.groups.emplace_back(), tier) = static_cast<uint32_t>(group.layers.size());
    list.push_back(placement);
  }
  return list;
}

std::optional<Found> place_layers(const PlacementProblem& problem, const LpPlacement& program) {
  std::optional<Found> best;
  if (program.is_feasible) consider(problem, rounded(problem, program), best);
  for (const LayerPlacement& placement : extremes(problem)) consider(problem, placement, best);
  return best;
}

/// Moves as long as one makes the request quicker.
void improve(const PlacementProblem& problem, Found& found) {
  for (uint32_t move = 0; move < kMovesMax; ++move) {
    std::optional<Found> best = found;
    for (const LayerPlacement& next : neighbours(problem, found.placement))
      consider(problem, next, best);
    if (best->ms >= found.ms * kBetter) return;
    found = *std::move(best);
  }
}

/// The same with two moves at a time: where a tier is full, nothing moves alone. Only where groups
/// are few: their pairs are tried all.
void improve_by_pairs(const PlacementProblem& problem, Found& found) {
  if (problem.groups.size() > kPairGroupsMax) return;
  for (uint32_t round = 0; round < kPairRoundsMax; ++round) {
    std::optional<Found> best = found;
    for (const LayerPlacement& next : neighbours(problem, found.placement))
      for (const LayerPlacement& last : neighbours(problem, next)) consider(problem, last, best);
    if (best->ms >= found.ms * kBetter) return;
    found = *std::move(best);
    improve(problem, found);
  }
}

void use_tiers(const PlacementProblem& problem, PlacementPlan& plan) {
  const PlacedGb gb = placed_gb(problem, plan.layers);
  if (problem.has_device) plan.hbm = {problem.hbm_gb, gb.hbm_weights, gb.hbm_kv, 0, gb.hbm_buffers};
  plan.dram = {problem.dram_gb, gb.dram_weights, gb.dram_kv, problem.index_gb, gb.dram_buffers};
  plan.nvme = {problem.nvme_gb, 0, gb.nvme_file, 0, 0};
}

using Change = void (*)(PlacementProblem&);
struct Unit {
  const char* resource;
  const char* unit;
  bool is_of_device;
  Change change;
};
constexpr double kQuicker = 1.1;
constexpr Unit kUnits[] = {
    {"hbm", "GiB", true, [](PlacementProblem& p) { p.hbm_gb += kGiB; }},
    {"dram", "GiB", false, [](PlacementProblem& p) { p.dram_gb += kGiB; }},
    {"nvme", "GiB", false, [](PlacementProblem& p) { p.nvme_gb += kGiB; }},
    {"nvme_read", "10 %", false,
     [](PlacementProblem& p) {
       p.rates.nvme_read *= kQuicker;
       p.rates.nvme_blocks *= kQuicker;
     }},
    {"link", "10 %", true,
     [](PlacementProblem& p) {
       p.rates.link_in *= kQuicker;
       p.rates.link_out *= kQuicker;
     }},
    {"cpu", "10 %", false,
     [](PlacementProblem& p) {
       p.rates.cpu_attend *= kQuicker;
       p.rates.cpu_attend_tflops *= kQuicker;
       if (!p.has_device) p.head_ms /= kQuicker;
       for (LayerGroup& group : p.groups) {
         group.cpu_linear_ms /= kQuicker;
         group.cpu_gemm_ms /= kQuicker;
         group.pack_ms /= kQuicker;
       }
     }},
    {"dram_read", "10 %", false,
     [](PlacementProblem& p) {
       p.rates.dram_read *= kQuicker;
       p.index_scan_ms /= kQuicker;
     }},
    {"gpu", "10 %", true,
     [](PlacementProblem& p) {
       p.rates.hbm_gemv *= kQuicker;
       p.rates.hbm_attend *= kQuicker;
       p.rates.gpu_gemm_tflops *= kQuicker;
       p.rates.gpu_attend_tflops *= kQuicker;
       p.head_ms /= kQuicker;
     }},
};

std::vector<PlanDual> duals_of(const PlacementProblem& problem, const LpPlacement& program) {
  std::vector<PlanDual> duals;
  for (const Unit& unit : kUnits) {
    if (unit.is_of_device && !problem.has_device) continue;
    PlacementProblem changed = problem;
    unit.change(changed);
    const LpPlacement more = solve_placement(changed);
    if (!more.is_feasible) continue;
    duals.push_back(
        {unit.resource, unit.unit, more.tpot_ms - program.tpot_ms, more.ttft_ms - program.ttft_ms});
  }
  return duals;
}

}  // namespace

std::optional<LayerPlacement> with_kv(const PlacementProblem& problem, LayerPlacement counted) {
  if (!place_at_home(problem, counted)) return std::nullopt;
  if (problem.has_device) copy_to_hbm(problem, counted);
  const auto is_copied = [](const GroupPlace& place) { return place.kv_dram == 0; };
  if (std::ranges::all_of(counted.groups, is_copied) && !counted.is_spilling(problem))
    counted.cpu_part = CpuPart::kNone;
  if (!fits(problem, counted)) return std::nullopt;
  return counted;
}

std::optional<Shortage> shortage(const PlacementProblem& problem) {
  Shortage lacks;
  const double weights = problem.weights_gb();
  const double kept = problem.may_stream ? std::min(weights, problem.stream_slots_gb) : weights;
  const double base = problem.dram_fixed_gb + problem.always_weights_gb + problem.index_gb + kept;
  const double whole = base + problem.kv_beside_gb + problem.kv_gb();
  const bool may_spill = problem.may_spill && problem.full_kv_gb() > 0;
  const double gb = full_gb_per_position(problem);
  const double floor_gb =
      may_spill ? std::ceil(problem.spill_floor_gb / gb / kBlock) * kBlock * gb : 0;
  const double spilling =
      base + problem.spill_beside_gb + floor_gb + problem.kv_gb() - problem.full_kv_gb();
  const bool can_spill = may_spill && problem.spill_file_gb <= problem.nvme_gb;
  if (problem.has_device) {
    const double hbm =
        problem.hbm_fixed_gb + problem.hbm_always_gb + std::min(weights, problem.hbm_slots_gb);
    if (hbm > problem.hbm_gb) lacks.hbm_gb = hbm;
  }
  if (problem.dram_gb < (can_spill ? std::min(whole, spilling) : whole)) {
    lacks.dram_gb = can_spill ? std::min(whole, spilling) : whole;
    if (may_spill && !can_spill && spilling <= problem.dram_gb)
      lacks.nvme_gb = problem.spill_file_gb;
  }
  if (!lacks.hbm_gb && !lacks.dram_gb) return std::nullopt;
  return lacks;
}

std::optional<PlacementPlan> plan_placement(std::span<const PlacementProblem> problems,
                                            bool with_duals) {
  std::optional<Found> best;
  LpPlacement program;
  PlacementPlan plan;
  for (size_t i = 0; i < problems.size(); ++i) {
    const LpPlacement tried = solve_placement(problems[i]);
    std::optional<Found> found = place_layers(problems[i], tried);
    if (!found) continue;
    improve(problems[i], *found);
    if (best && found->ms >= best->ms * kBetter) continue;
    best = std::move(found);
    program = tried;
    plan.choice = i;
  }
  if (!best) return std::nullopt;
  const PlacementProblem& problem = problems[plan.choice];
  improve_by_pairs(problem, *best);
  plan.layers = best->placement;
  use_tiers(problem, plan);
  plan.prompt = prompt_time(problem, plan.layers);
  plan.token = token_time(problem, plan.layers);
  if (program.is_feasible) {
    plan.lp_ttft_ms = program.ttft_ms;
    plan.lp_tpot_ms = program.tpot_ms;
    if (with_duals) plan.duals = duals_of(problem, program);
  }
  return plan;
}

}  // namespace strata::planner
