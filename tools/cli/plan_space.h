// tools/cli/plan_space.h - what may be placed in one context within one budget: presets that users
// and other systems have, and plans drawn at random.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "engine/engine.h"
#include "engine/weight_budget.h"

namespace strata::cli {

/// What an open engine has decided.
engine::Placement placement_of(const engine::Engine& engine);

/// So many layers streamed, and what K and V may have then.
class PlanSpace {
 public:
  /// Of an engine that is open and not loaded; its chunk, context and codecs are those of all.
  explicit PlanSpace(const engine::Engine& engine);

  uint32_t n_layers() const { return static_cast<uint32_t>(base_.streamed.size()); }
  uint64_t smallest() const { return smallest_; }  // that K and V can have
  uint64_t whole() const { return whole_; }
  /// Bytes for K and V where so many layers are streamed.
  uint64_t room(uint32_t n_streamed) const;
  bool is_possible(uint32_t n_streamed) const { return room(n_streamed) >= smallest_; }
  /// kv_bytes at least whole() = all of them.
  engine::Placement with(uint32_t n_streamed, uint64_t kv_bytes) const;

 private:
  engine::Placement base_;
  engine::WeightSizes sizes_;
  uint64_t available_, buffers_ = 0, whole_ = 0, smallest_ = 0;
};

/// Takes a plan; false = no further one is wanted.
using TakePlan = std::function<bool(std::string name, engine::Placement placement)>;

/// What users and other systems do by hand.
void list_presets(const PlanSpace& space, const TakePlan& take);
/// A tenth of the layers more or fewer from the file, a tenth of what K and V have more or less.
void list_moves(const PlanSpace& space, const engine::Placement& of, const TakePlan& take);
/// At most so many draws; the same seed draws the same plans.
void draw_plans(const PlanSpace& space, uint64_t seed, uint32_t n_draws, const TakePlan& take);

}  // namespace strata::cli
