#include "planner/placement/placement_moves.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace strata::planner {
namespace {

constexpr uint32_t kTiers = 3;

uint32_t& count_of(GroupPlace& place, uint32_t tier) {
  return tier == 0 ? place.n_hbm : tier == 1 ? place.n_dram : place.n_nvme;
}

/// Adds those whose CPU computes the products of more or of fewer layers of a group, or of all or
/// none of them.
void add_products_moves(const PlacementProblem& problem, const LayerPlacement& placement,
                        std::vector<LayerPlacement>& list) {
  for (const bool has_more : {true, false}) {
    LayerPlacement all = placement;
    for (size_t g = 0; g < placement.groups.size(); ++g)
      for (const bool is_apart : {false, true}) {
        uint32_t& of_all = on_cpu_of(all.groups[g], is_apart);
        const uint32_t now = of_all;
        const uint32_t end = has_more ? most_on_cpu(problem.groups[g], all.groups[g], is_apart) : 0;
        for (uint32_t n = has_more ? end - now : now; n > 0; n = n > 4 ? n / 4 : n - 1) {
          list.push_back(placement);
          on_cpu_of(list.back().groups[g], is_apart) = has_more ? now + n : now - n;
        }
        of_all = end;
      }
    list.push_back(std::move(all));
  }
}

}  // namespace

uint32_t most_on_cpu(const LayerGroup& group, const GroupPlace& place, bool is_apart) {
  if (!is_apart) return place.n_dram;
  const bool is_near = group.apart && group.apart->tier == PlanTier::kDram;
  return is_near ? static_cast<uint32_t>(group.layers.size()) : 0;
}
uint32_t& on_cpu_of(GroupPlace& place, bool is_apart) {
  return is_apart ? place.n_apart_on_cpu : place.n_on_cpu;
}

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
    for (const bool is_apart : {false, true}) {
      const double share = is_apart ? shares.apart_on_cpu : shares.products_on_cpu;
      on_cpu_of(place, is_apart) = std::min(static_cast<uint32_t>(std::floor(n * share + kNearly)),
                                            most_on_cpu(problem.groups[g], place, is_apart));
    }
    placement.groups.push_back(place);
    if (shares.on_cpu > 0) placement.cpu_part = CpuPart::kBalanced;
  }
  return placement;
}

std::vector<LayerPlacement> neighbours(const PlacementProblem& problem,
                                       const LayerPlacement& placement) {
  std::vector<LayerPlacement> list;
  for (const CpuPart part : {CpuPart::kNone, CpuPart::kBalanced, CpuPart::kAll})
    if (problem.has_device && problem.may_attend_on_cpu && part != placement.cpu_part) {
      list.push_back(placement);
      list.back().cpu_part = part;
    }
  for (uint32_t from = 0; from < kTiers; ++from)
    for (uint32_t to = 0; to < kTiers; ++to) {
      if (from == to) continue;
      LayerPlacement all = placement;
      for (size_t g = 0; g < placement.groups.size(); ++g) {
        const uint32_t there = count_of(all.groups[g], from);
        if (there == 0 || !problem.may_hold(problem.groups[g], static_cast<PlanTier>(to))) continue;
        for (uint32_t n = there; n > 0; n = n > 4 ? n / 4 : n - 1) {
          list.push_back(placement);
          count_of(list.back().groups[g], from) -= n;
          count_of(list.back().groups[g], to) += n;
        }
        count_of(all.groups[g], from) -= there;
        count_of(all.groups[g], to) += there;
      }
      list.push_back(std::move(all));
    }
  for (LayerPlacement& moved : list)
    for (GroupPlace& place : moved.groups) place.n_on_cpu = std::min(place.n_on_cpu, place.n_dram);
  if (problem.may_compute_products() && !problem.stated_products_share)
    add_products_moves(problem, placement, list);
  return list;
}

std::vector<LayerPlacement> extremes(const PlacementProblem& problem) {
  std::vector<LayerPlacement> list;
  for (uint32_t wanted = 0; wanted < kTiers; ++wanted) {
    LayerPlacement placement;
    for (const LayerGroup& group : problem.groups) {
      const auto may_hold = [&](uint32_t tier) {
        return problem.may_hold(group, static_cast<PlanTier>(tier));
      };
      uint32_t tier = wanted;
      for (uint32_t next = 0; next < kTiers && !may_hold(tier); ++next) tier = next;
      count_of(placement.groups.emplace_back(), tier) = static_cast<uint32_t>(group.layers.size());
    }
    list.push_back(std::move(placement));
  }
  return list;
}

}  // namespace strata::planner
