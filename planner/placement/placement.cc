#include "planner/placement/placement.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "planner/placement/lp_solver.h"
#include "planner/placement/pins.h"
#include "planner/placement/placement_moves.h"
#include "planner/placement/plan_change.h"

namespace strata::planner {
namespace {

constexpr double kBlock = kBlockPositions;
constexpr uint32_t kMovesMax = 400;  // each makes the request quicker; a bound, not a budget
constexpr size_t kPairGroupsMax = 4;
constexpr uint32_t kPairRoundsMax = 4;
constexpr double kBetter = 1 - 1e-9;
// Programs for one problem: where rounding makes layers wait for more than kWaitsMax of a step,
// the next program knows of it.
constexpr uint32_t kProgramsMax = 3;
constexpr double kWaitsMax = 0.05;

double whole_blocks(double n_positions, double n_held) {
  if (n_positions >= n_held) return n_held;
  return std::max(0.0, std::floor(n_positions / kBlock) * kBlock);
}

/// Positions in whole blocks that take at least so much. What takes whole blocks takes no block
/// more for a rounding error of its sum.
double blocks_of(double gb, double gb_per_position) {
  constexpr double kRounding = 1e-9;  // blocks
  return std::ceil(gb / gb_per_position / kBlock - kRounding) * kBlock;
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
  const bool must_spill = problem.kv_pin == PlanTier::kNvme;
  for (size_t g = 0; g < placement.groups.size(); ++g) {
    placement.groups[g].kv_hbm = 0;
    placement.groups[g].kv_dram = problem.groups[g].n_held;
  }
  const auto dram_room = [&] {
    const PlacedGb gb = placed_gb(problem, placement);
    return std::min(problem.dram_gb - gb.dram(), problem.kv_cap_gb - gb.dram_kv - gb.kv_beside) -
           problem.index_gb;
  };
  if (dram_room() >= 0 && !must_spill) return true;
  if (!problem.may_spill || problem.full_kv_gb() <= 0 || (problem.kv_pin && !must_spill))
    return false;
  double n_held = 0;
  for (size_t g = 0; g < placement.groups.size(); ++g) {
    if (!problem.groups[g].is_full()) continue;
    n_held = problem.groups[g].n_held;
    placement.groups[g].kv_dram = 0;
  }
  const double gb = full_gb_per_position(problem);
  const double n =
      must_spill ? blocks_of(problem.spill_floor_gb, gb) : whole_blocks(dram_room() / gb, n_held);
  for (size_t g = 0; g < placement.groups.size(); ++g)
    if (problem.groups[g].is_full())
      placement.groups[g].kv_dram = std::min(n, std::max(0.0, n_held - kBlock));
  return true;
}

/// Copies of K and V in what is left of HBM: windowed layers' first, for every token reads all of
/// them.
void copy_to_hbm(const PlacementProblem& problem, LayerPlacement& placement) {
  if (problem.kv_pin.value_or(PlanTier::kHbm) != PlanTier::kHbm) return;
  for (const bool is_full : {false, true}) {
    double gb_per_position = 0;
    for (const LayerGroup& group : problem.groups)
      if (group.is_full() == is_full) gb_per_position += group.n_layers() * group.kv_gb;
    if (gb_per_position <= 0) continue;
    const PlacedGb gb = placed_gb(problem, placement);
    const double n = (problem.hbm_gb - gb.hbm() + gb.hbm_chosen) / gb_per_position;
    for (size_t g = 0; g < placement.groups.size(); ++g) {
      if (problem.groups[g].is_full() != is_full) continue;
      GroupPlace& place = placement.groups[g];
      place.kv_hbm = whole_blocks(n, place.kv_dram);
      place.kv_dram -= place.kv_hbm;
    }
  }
}

struct Found {
  LayerPlacement placement;
  double late = 0;  // lateness()
  double ms = 0;    // of the request

  /// Layers read from the file, then those that the CPU computes beside a device: of placements
  /// that take as long, the one with fewer.
  std::pair<uint32_t, uint32_t> effort() const {
    std::pair<uint32_t, uint32_t> sum;
    for (const GroupPlace& place : placement.groups) {
      sum.first += place.n_nvme;
      sum.second += place.n_on_cpu + place.n_apart_on_cpu;
    }
    return sum;
  }
  bool is_better_than(const Found& other) const {
    if (late < other.late * kBetter) return true;
    if (late > other.late) return false;
    return ms < other.ms * kBetter || (ms <= other.ms && effort() < other.effort());
  }
};

/// A problem, and what the placements take that were looked at: moves and pairs of them come to
/// most several times.
class Search {
 public:
  explicit Search(const PlacementProblem& of)
      : problem_(of), prompt_floor_ms_(prompt_floor_ms(of)) {}
  void consider(const LayerPlacement& counted, std::optional<Found>& best);
  uint32_t n_tried() const { return static_cast<uint32_t>(tried_.size()); }
  const PlacementProblem& problem() const { return problem_; }

 private:
  struct Priced {
    std::optional<LayerPlacement> placement;  // nothing where it does not fit
    double token_ms = 0;
    std::optional<double> prompt_ms;  // most of the work: not where tokens alone take too long
  };
  const PlacementProblem& problem_;
  double prompt_floor_ms_;
  std::map<LayerPlacement, Priced> tried_;  // by counts of layers, which decide all else
};

void Search::consider(const LayerPlacement& counted, std::optional<Found>& best) {
  LayerPlacement layers = counted;
  layers.is_hbm_alone = false;
  for (GroupPlace& place : layers.groups) place.kv_hbm = place.kv_dram = 0;
  const auto [entry, is_new] = tried_.try_emplace(std::move(layers));
  Priced& of = entry->second;
  if (is_new) {
    of.placement = with_kv(problem_, entry->first);
    if (of.placement) of.token_ms = token_time(problem_, *of.placement).ms;
  }
  if (!of.placement) return;
  const double tokens_ms = problem_.n_out * of.token_ms;
  if (best && best->late <= 0 && prompt_floor_ms_ + tokens_ms > best->ms) return;
  if (!of.prompt_ms) of.prompt_ms = prompt_time(problem_, *of.placement).ms;
  Found found{*of.placement, lateness(problem_, *of.prompt_ms, of.token_ms),
              *of.prompt_ms + tokens_ms};
  if (!best || found.is_better_than(*best)) best = std::move(found);
}

std::optional<Found> place_layers(Search& search, const LpPlacement& program) {
  std::optional<Found> best;
  if (program.is_feasible) search.consider(rounded(search.problem(), program), best);
  for (const LayerPlacement& placement : extremes(search.problem()))
    search.consider(placement, best);
  return best;
}

/// Moves as long as one makes the request quicker.
void improve(Search& search, Found& found) {
  for (uint32_t move = 0; move < kMovesMax; ++move) {
    std::optional<Found> best = found;
    for (const LayerPlacement& next : neighbours(search.problem(), found.placement))
      search.consider(next, best);
    if (!best->is_better_than(found)) return;
    found = *std::move(best);
  }
}

/// The same with two moves at a time: where a tier is full, nothing moves alone. Only where groups
/// are few: their pairs are tried all.
void improve_by_pairs(Search& search, Found& found) {
  const PlacementProblem& problem = search.problem();
  if (problem.groups.size() > kPairGroupsMax) return;
  for (uint32_t round = 0; round < kPairRoundsMax; ++round) {
    std::optional<Found> best = found;
    for (const LayerPlacement& next : neighbours(problem, found.placement))
      for (const LayerPlacement& last : neighbours(problem, next)) search.consider(last, best);
    if (!best->is_better_than(found)) return;
    found = *std::move(best);
    improve(search, found);
  }
}

void use_tiers(const PlacementProblem& problem, PlacementPlan& plan) {
  const PlacedGb gb = placed_gb(problem, plan.layers);
  if (problem.has_device)
    plan.hbm = {problem.hbm_gb, gb.hbm_weights, gb.hbm_kv, gb.hbm_index, gb.hbm_buffers};
  plan.dram = {problem.dram_gb, gb.dram_weights, gb.dram_kv, problem.index_gb, gb.dram_buffers};
  plan.nvme = {problem.nvme_gb, 0, gb.nvme_file, 0, 0};
}

/// Where limits do not hold: the same from placements in which all groups are alike, in quarters
/// of their layers. Moves that end at the quickest request may have passed by a slower one with
/// quicker tokens.
void begin_elsewhere(Search& search, Found& found) {
  const PlacementProblem& problem = search.problem();
  constexpr uint32_t kParts = 4;
  std::optional<Found> best;
  for (uint32_t hbm = 0; hbm <= (problem.has_device ? kParts : 0); ++hbm)
    for (uint32_t near = hbm; near <= kParts; ++near)
      for (const CpuPart part : {CpuPart::kNone, CpuPart::kBalanced, CpuPart::kAll}) {
        // Where the CPU attends all, it computes all that it may.
        LayerPlacement placement;
        placement.cpu_part = part;
        for (const LayerGroup& group : problem.groups) {
          const auto n = static_cast<uint32_t>(group.layers.size());
          GroupPlace& place = placement.groups.emplace_back();
          place.n_hbm = n * hbm / kParts;
          place.n_dram = n * near / kParts - place.n_hbm;
          place.n_nvme = n - place.n_hbm - place.n_dram;
          if (part == CpuPart::kAll && problem.may_compute_products())
            for (const bool is_apart : {false, true})
              on_cpu_of(place, is_apart) = most_on_cpu(group, place, is_apart);
        }
        search.consider(placement, best);
      }
  if (!best) return;
  improve(search, *best);
  improve_by_pairs(search, *best);
  if (best->is_better_than(found)) found = *std::move(best);
}

struct LeastWeights {
  double hbm_gb = 0, dram_gb = 0;
};
/// What weights take where as many as may be are elsewhere.
LeastWeights least_weights(const PlacementProblem& problem) {
  const auto need_dram = [&](bool may_stream, bool may_stay) {
    return !may_stream && !(may_stay && problem.may_leave_dram());
  };
  LeastWeights least;
  double streamed = 0, passing = 0, must_pass = 0;
  bool must_stream = false;
  for (const LayerGroup& group : problem.groups) {
    const double gb = group.n_layers() * group.weight_gb;
    const bool stays_off = problem.may_hold(group, PlanTier::kDram);
    const bool may_stream = problem.may_hold(group, PlanTier::kNvme);
    must_stream |= may_stream && !stays_off && !problem.may_hold(group, PlanTier::kHbm);
    const bool may_stay = problem.may_hold(group, PlanTier::kHbm);
    (need_dram(may_stream, may_stay) ? least.dram_gb : streamed) += gb;
    const bool may_pass = stays_off || may_stream;
    (!may_pass ? least.hbm_gb : may_stay ? passing : must_pass) += gb;
    if (!group.apart) continue;
    const double apart = group.n_layers() * group.apart->weight_gb;
    const bool is_in_file = group.apart->tier == PlanTier::kNvme;
    const bool is_there = group.apart->tier == PlanTier::kHbm;
    must_stream |= is_in_file;
    if (need_dram(is_in_file, is_there))
      least.dram_gb += apart;
    else if (is_there)
      streamed += apart;
    (is_there ? least.hbm_gb : must_pass) += apart;
  }
  const double slots = problem.stream_slots_gb;
  least.dram_gb += must_stream ? slots : std::min(streamed, slots);
  least.hbm_gb += must_pass > 0 ? problem.hbm_slots_gb : std::min(passing, problem.hbm_slots_gb);
  return least;
}

struct Tried {
  Found found;
  LpPlacement bound;  // of the first program, which no placement can beat
  LpWaits waits;      // of the last one
};

/// Programs, each rounded and improved, until what they know of waiting is near what the clocks of
/// their placement say. Where limits cannot hold, the program is that without them.
std::optional<Tried> try_programs(Search& search, PlacementPlan& plan) {
  const PlacementProblem& problem = search.problem();
  PlacementProblem relaxed = problem;
  std::optional<Tried> best;
  LpWaits waits;
  for (uint32_t i = 0; i < kProgramsMax; ++i) {
    LpPlacement program = solve_placement(relaxed, waits);
    if (!program.is_feasible && lateness(problem, kLpInfinity, kLpInfinity) > 0) {
      relaxed.ttft_max_ms = relaxed.tpot_max_ms = 0;
      program = solve_placement(relaxed, waits);
    }
    plan.n_iterations += program.n_iterations;
    ++plan.n_programs;
    std::optional<Found> found = place_layers(search, program);
    if (!found) return best;
    improve(search, *found);
    if (!best) best = Tried{*found, program, waits};
    if (found->is_better_than(best->found)) best->found = *found;
    best->waits = waits;
    const LpWaits next = waits_of(problem, found->placement);
    if (!program.is_feasible || (next.token <= waits.token && next.prompt <= waits.prompt)) break;
    waits = {std::max(waits.token, next.token), std::max(waits.prompt, next.prompt)};
  }
  return best;
}

}  // namespace

LpWaits waits_of(const PlacementProblem& problem, const LayerPlacement& placement) {
  const auto share = [](const StepTime& time) {
    const bool matters = time.waits_ms > kWaitsMax * time.ms && time.ahead_ms > 0;
    return matters ? time.waits_ms / time.ahead_ms : 0;
  };
  return {share(token_time(problem, placement)), share(prompt_time(problem, placement))};
}

namespace {

std::optional<LayerPlacement> with_kv_beside(const PlacementProblem& problem,
                                             LayerPlacement counted, bool is_hbm_alone) {
  counted.is_hbm_alone = is_hbm_alone;
  if (!place_at_home(problem, counted)) return std::nullopt;
  if (problem.has_device) copy_to_hbm(problem, counted);
  const auto is_copied = [](const GroupPlace& place) { return place.kv_dram == 0; };
  if (std::ranges::all_of(counted.groups, is_copied) && !counted.is_spilling(problem))
    counted.cpu_part = CpuPart::kNone;
  if (!fits(problem, counted)) return std::nullopt;
  return counted;
}

}  // namespace

std::optional<LayerPlacement> with_kv(const PlacementProblem& problem, LayerPlacement counted) {
  const auto is_on_cpu = [](const GroupPlace& place) {
    return place.n_on_cpu + place.n_apart_on_cpu > 0;
  };
  if (!problem.may_compute_products() && std::ranges::any_of(counted.groups, is_on_cpu))
    return std::nullopt;
  if (problem.may_compute_products() && problem.stated_products_share)
    for (size_t g = 0; g < counted.groups.size(); ++g)
      for (const bool is_apart : {false, true}) {
        GroupPlace& place = counted.groups[g];
        const uint32_t most = most_on_cpu(problem.groups[g], place, is_apart);
        on_cpu_of(place, is_apart) =
            static_cast<uint32_t>(std::lround(*problem.stated_products_share * most));
      }
  if (!problem.may_attend_on_cpu) counted.cpu_part = CpuPart::kNone;
  if (problem.stated_cpu_share) counted.cpu_part = part_of(*problem.stated_cpu_share);
  std::optional<LayerPlacement> at_home = with_kv_beside(problem, counted, /*is_hbm_alone=*/false);
  if (!problem.may_leave_dram() || (at_home && !at_home->is_spilling(problem))) return at_home;
  // Where K and V spill in any case, the CPU has steps that read all weights.
  std::optional<LayerPlacement> alone = with_kv_beside(problem, counted, /*is_hbm_alone=*/true);
  return at_home && (!alone || alone->is_spilling(problem)) ? at_home : alone;
}

std::optional<Shortage> shortage(const PlacementProblem& problem) {
  Shortage lacks;
  const LeastWeights least = least_weights(problem);
  const double weights = problem.always_weights_gb + least.dram_gb;
  const double base = problem.dram_fixed_gb + weights;
  const bool may_stay = problem.kv_pin != PlanTier::kNvme;
  const bool may_spill = problem.may_spill && problem.full_kv_gb() > 0 &&
                         problem.kv_pin.value_or(PlanTier::kNvme) == PlanTier::kNvme;
  const double whole_kv = problem.index_gb + problem.kv_beside_gb + problem.kv_gb();
  const double whole = may_stay ? base + whole_kv : kLpInfinity;
  const double gb = full_gb_per_position(problem);
  const double floor_gb = may_spill ? blocks_of(problem.spill_floor_gb, gb) * gb : 0;
  const double spilling_kv = problem.index_gb + problem.spill_beside_gb + floor_gb +
                             problem.kv_gb() - problem.full_kv_gb();
  const double spilling = base + spilling_kv;
  const bool can_spill = may_spill && problem.spill_file_gb <= problem.nvme_gb;
  const double needed = can_spill ? std::min(whole, spilling) : whole;
  if (problem.has_device) {
    const double chosen = whole > problem.dram_gb ? problem.hbm_chosen_gb : 0;
    const double kv = problem.kv_pin == PlanTier::kHbm ? problem.kv_gb() : chosen;
    const double hbm =
        problem.hbm_fixed_gb + problem.hbm_always_gb + problem.hbm_index_gb + least.hbm_gb + kv;
    if (hbm > problem.hbm_gb) lacks.hbm_gb = hbm;
  }
  if (problem.dram_gb < needed) {
    if (std::isfinite(needed)) lacks.dram_gb = needed;
    if (may_spill && !can_spill && spilling <= problem.dram_gb)
      lacks.nvme_gb = problem.spill_file_gb;
    if (!lacks.dram_gb && !lacks.nvme_gb) {
      lacks.dram_gb = spilling;
      if (may_spill && !can_spill) lacks.nvme_gb = problem.spill_file_gb;
    }
  }
  if (weights > problem.weights_cap_gb + kFitsSlack) lacks.weights_cap_gb = weights;
  // Of K and V whichever way takes less of DRAM takes less of their part of it.
  const double of_kv = std::isfinite(needed) && needed == whole ? whole_kv : spilling_kv;
  if (of_kv > problem.kv_cap_gb + kFitsSlack) lacks.kv_cap_gb = of_kv;
  if (!lacks.is_any()) return std::nullopt;
  return lacks;
}

std::optional<PlacementPlan> plan_placement(std::span<const PlacementProblem> problems,
                                            bool with_duals) {
  std::optional<Tried> best;
  PlacementPlan plan;
  std::vector<Search> searches(problems.begin(), problems.end());
  for (size_t i = 0; i < problems.size(); ++i) {
    std::optional<Tried> tried = try_programs(searches[i], plan);
    if (!tried || (best && !tried->found.is_better_than(best->found))) continue;
    best = std::move(tried);
    plan.choice = i;
  }
  if (!best) return std::nullopt;
  const PlacementProblem& problem = problems[plan.choice];
  improve_by_pairs(searches[plan.choice], best->found);
  if (best->found.late > 0) begin_elsewhere(searches[plan.choice], best->found);
  for (const Search& search : searches) plan.n_tried += search.n_tried();
  plan.layers = best->found.placement;
  use_tiers(problem, plan);
  plan.prompt = prompt_time(problem, plan.layers);
  plan.token = token_time(problem, plan.layers);
  if (best->bound.is_feasible) {
    plan.lp_ttft_ms = best->bound.ttft_ms;
    plan.lp_tpot_ms = best->bound.tpot_ms;
    if (with_duals) plan.duals = duals_of(problem, best->waits);
  }
  return plan;
}

}  // namespace strata::planner
