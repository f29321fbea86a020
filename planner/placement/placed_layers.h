// planner/placement/placed_layers.h - the layers of a placement one by one, in the model's order:
// which of a group's are where.
#pragma once

#include <vector>

#include "planner/placement/step_time.h"

namespace strata::planner {

/// Where a layer's weights are, without a piece apart, and whether the CPU computes a token's
/// products beside a device with them, and with that piece.
struct WeightPlace {
  PlanTier tier;
  bool is_on_cpu = false;
  bool is_apart_on_cpu = false;
};

struct PlacedLayer {
  const LayerGroup* group;
  const GroupPlace* kv;
  WeightPlace weights;

  PieceSet on_cpu() const;
};

/// All layers. Those of a group that are in the file are spread evenly, those in DRAM over the
/// others, and over each of them those that the CPU computes with.
std::vector<PlacedLayer> placed_layers(const PlacementProblem& problem,
                                       const LayerPlacement& placement);

/// Of every layer's weights.
std::vector<PieceTiers> weight_tiers(const PlacementProblem& problem,
                                     const LayerPlacement& placement);

/// Of every layer, the pieces that the CPU computes a token's products with beside a device.
std::vector<PieceSet> cpu_products(const PlacementProblem& problem,
                                   const LayerPlacement& placement);

}  // namespace strata::planner
