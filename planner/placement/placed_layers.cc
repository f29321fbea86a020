#include "planner/placement/placed_layers.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/even_spread.h"

namespace strata::planner {
namespace {

/// Layer i of a group with so many in each place.
std::vector<WeightPlace> spread(const GroupPlace& place) {
  const uint64_t n = uint64_t{place.n_hbm} + place.n_dram + place.n_nvme;
  const uint64_t n_near = uint64_t{place.n_hbm} + place.n_dram;
  std::vector<WeightPlace> places;
  uint64_t near = 0, dram = 0;
  for (uint64_t i = 0; i < n; ++i) {
    if (is_spread_to(i, place.n_nvme, n)) {
      places.push_back({PlanTier::kNvme});
    } else if (is_spread_to(near++, place.n_dram, n_near)) {
      places.push_back({PlanTier::kDram, is_spread_to(dram++, place.n_on_cpu, place.n_dram)});
    } else {
      places.push_back({PlanTier::kHbm});
    }
    places.back().is_apart_on_cpu = is_spread_to(i, place.n_apart_on_cpu, n);
  }
  return places;
}

}  // namespace

PieceSet PlacedLayer::on_cpu() const {
  PieceSet pieces = weights.is_on_cpu ? group->moving() : kNoPiece;
  if (const auto& apart = group->apart; apart && weights.is_apart_on_cpu) pieces.add(apart->piece);
  return pieces;
}

std::vector<PlacedLayer> placed_layers(const PlacementProblem& problem,
                                       const LayerPlacement& placement) {
  std::vector<std::pair<uint32_t, PlacedLayer>> numbered;
  for (size_t g = 0; g < problem.groups.size(); ++g) {
    const LayerGroup& group = problem.groups[g];
    const std::vector<WeightPlace> places = spread(placement.groups[g]);
    STRATA_CHECK(places.size() == group.layers.size(), "%zu places for %zu layers", places.size(),
                 group.layers.size());
    for (size_t i = 0; i < places.size(); ++i)
      numbered.push_back({group.layers[i], {&group, &placement.groups[g], places[i]}});
  }
  std::ranges::sort(numbered, {}, [](const auto& layer) { return layer.first; });
  std::vector<PlacedLayer> layers;
  layers.reserve(numbered.size());
  for (const auto& layer : numbered) layers.push_back(layer.second);
  return layers;
}

std::vector<PieceTiers> weight_tiers(const PlacementProblem& problem,
                                     const LayerPlacement& placement) {
  std::vector<PieceTiers> places;
  for (const PlacedLayer& layer : placed_layers(problem, placement)) {
    PieceTiers& tiers = places.emplace_back(PieceTiers{layer.weights.tier, layer.weights.tier});
    if (const auto& apart = layer.group->apart)
      tiers[static_cast<size_t>(apart->piece)] = apart->tier;
  }
  return places;
}

std::vector<PieceSet> cpu_products(const PlacementProblem& problem,
                                   const LayerPlacement& placement) {
  std::vector<PieceSet> on_cpu;
  for (const PlacedLayer& layer : placed_layers(problem, placement))
    on_cpu.push_back(layer.on_cpu());
  return on_cpu;
}

}  // namespace strata::planner
