#include "tools/cli/placed_plan.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "engine/dram_budget.h"
#include "engine/weight_budget.h"

namespace strata::cli {
namespace {

using engine::Engine;
using planner::GroupPlace;
using planner::LayerGroup;
using planner::LayerPlacement;
using planner::PlacementProblem;
using planner::WeightPlace;

constexpr double kGiga = 1e9;
// Of the rules' time: what a plan must save. Less is within what prices are off, and a run that
// differs from the last for nothing is a riddle.
constexpr double kWorthIt = 0.99;

bool is_all_near(const Engine& engine) {
  if (engine.weight_plan().n_streamed() > 0 || engine.context().kv.is_spilling()) return false;
  if (engine.device() == nullptr) return true;
  const engine::DevicePlan& device = engine.device_plan();
  return device.n_streamed() == 0 && device.kv_bytes >= engine.context().kv.slot_bytes;
}

/// Positions of each layer of one kind (full, windowed) that so many GB hold, in whole blocks.
double positions_of(const PlacementProblem& problem, bool is_full, double gb) {
  double gb_per_position = 0;
  for (const LayerGroup& group : problem.groups)
    if (group.is_full() == is_full) gb_per_position += group.n_layers() * group.kv_gb;
  if (gb_per_position <= 0) return 0;
  return std::floor(std::max(0.0, gb) / gb_per_position / kBlockPositions) * kBlockPositions;
}

/// K and V as the engine has them: full layers share what windowed ones, which stay, leave.
void add_kv(const Engine& engine, const PlacementProblem& problem, LayerPlacement& layers) {
  const engine::KvPlacement& kv = engine.context().kv;
  const double windowed = problem.kv_gb() - problem.full_kv_gb();
  const double slots = static_cast<double>(kv.slot_bytes) / kGiga;
  // A step that is computed again holds windowed layers' blocks once more.
  const double n_full = positions_of(problem, true, slots - 2 * windowed);
  for (size_t g = 0; g < layers.groups.size(); ++g) {
    const LayerGroup& group = problem.groups[g];
    const bool spills = kv.is_spilling() && group.is_full();
    layers.groups[g].kv_dram =
        spills ? std::min(n_full, std::max(0.0, group.n_held - kBlockPositions)) : group.n_held;
  }
  if (engine.device() == nullptr) return;
  double hbm = static_cast<double>(engine.device_plan().kv_bytes) / kGiga;
  for (const bool is_full : {false, true}) {
    const double n_hbm = positions_of(problem, is_full, hbm);
    for (size_t g = 0; g < layers.groups.size(); ++g) {
      const LayerGroup& group = problem.groups[g];
      GroupPlace& place = layers.groups[g];
      if (group.is_full() != is_full) continue;
      place.kv_hbm = std::min(n_hbm, place.kv_dram);
      place.kv_dram -= place.kv_hbm;
      hbm -= place.kv_hbm * group.n_layers() * group.kv_gb;
    }
  }
}

LayerPlacement layers_of(const Engine& engine, const PlacementProblem& problem) {
  LayerPlacement layers;
  for (const LayerGroup& group : problem.groups) {
    GroupPlace place;
    for (const uint32_t layer : group.layers) {
      if (engine.weight_plan().is_streamed[layer] != 0) {
        ++place.n_nvme;
      } else if (engine.device() != nullptr && engine.device_plan().is_resident[layer]) {
        ++place.n_hbm;
      } else {
        ++place.n_dram;
      }
    }
    layers.groups.push_back(place);
  }
  add_kv(engine, problem, layers);
  return layers;
}

/// Bytes of DRAM that weights and buffers leave to K and V, within the cap of these.
uint64_t kv_room(const PlanSubject& subject, const Engine& engine,
                 const engine::Placement& placement) {
  engine::ContextRequest request = engine.limits();
  request.chunk_rows = placement.chunk_rows;
  request.has_device = placement.has_device();
  const uint64_t taken =
      engine::weight_plan_of(subject.model.sizes, placement.is_streamed).total_bytes() +
      engine::buffer_bytes(engine.spec().shape, request);
  const uint64_t left = request.available_bytes - std::min(request.available_bytes, taken);
  const uint64_t cap = subject.request.kv_dram_bytes;
  return cap > 0 ? std::min(cap, left) : left;
}

engine::Placement placement_of(const PlanSubject& subject, const Engine& engine,
                               const PlacementProblem& problem, const LayerPlacement& layers) {
  engine::Placement placement;
  placement.n_ctx = engine.context().n_ctx;
  placement.chunk_rows = problem.chunk_rows;
  placement.k_codec = problem.k_codec;
  placement.v_codec = problem.v_codec;
  for (const WeightPlace place : planner::weight_places(problem, layers)) {
    placement.is_streamed.push_back(place == WeightPlace::kNvme ? 1 : 0);
    if (problem.has_device) placement.is_resident.push_back(place == WeightPlace::kHbm ? 1 : 0);
  }
  // What rounding to whole layers leaves is K and V's.
  if (layers.is_spilling(problem)) placement.kv_dram_bytes = kv_room(subject, engine, placement);
  double hbm_kv = 0;
  for (size_t g = 0; g < layers.groups.size(); ++g)
    hbm_kv += layers.groups[g].kv_hbm * problem.groups[g].n_layers() * problem.groups[g].kv_gb;
  placement.kv_hbm_bytes = static_cast<uint64_t>(std::llround(hbm_kv * kGiga));
  return placement;
}

/// The problem of the chunk and the codecs that run.
PlacementProblem problem_of(const PlanSubject& subject, const Engine& engine) {
  engine::PlacementRequest request = subject.request;
  request.chunks = {engine.context().chunk_rows};
  request.codecs = {{engine.options().k_codec, engine.options().v_codec}};
  return engine::placement_problems(subject.model, request).front();
}

PlacedPlan placed(PlanSubject subject, const Engine& engine) {
  PlacedPlan plan;
  plan.problem = problem_of(subject, engine);
  plan.layers = layers_of(engine, plan.problem);
  plan.subject = std::move(subject);
  return plan;
}

}  // namespace

planner::StepTime PlacedPlan::token_at(uint64_t n_positions) const {
  PlacementProblem there = problem;
  there.n_prompt = static_cast<double>(n_positions);
  there.n_out = 0;
  return planner::token_time(there, layers);
}

double PlacedPlan::prompt_ms(uint64_t n_tokens, uint64_t n_depth) const {
  const auto until = [&](uint64_t n) {
    PlacementProblem there = problem;
    there.n_prompt = static_cast<double>(n);
    there.n_out = 0;
    return n > 0 ? planner::prompt_time(there, layers).ms : 0;
  };
  return until(n_depth + n_tokens) - until(n_depth);
}

PlacedPlan placed_plan(const Command& command, const Engine& engine) {
  return placed(plan_subject(command, engine), engine);
}

PlacedPlan place_by_plan(const Command& command, Engine& engine) {
  PlacedPlan by_hand = placed_plan(command, engine);
  // Where all is near, no placement is quicker and the rules' chunk is as good as another: the
  // solver's tens of milliseconds would be of every start and change nothing.
  if (is_all_near(engine)) return by_hand;
  const auto begin = std::chrono::steady_clock::now();
  const auto problems = engine::placement_problems(by_hand.subject.model, by_hand.subject.request);
  const auto plan = planner::plan_placement(problems);
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - begin;
  by_hand.solve_ms = taken.count();
  if (!plan) return by_hand;
  const PlacementProblem& problem = problems[plan->choice];
  const double ms = planner::request_ms(problem, plan->layers);
  if (ms >= kWorthIt * planner::request_ms(by_hand.problem, by_hand.layers)) return by_hand;
  try {
    engine.place(placement_of(by_hand.subject, engine, problem, plan->layers));
  } catch (const Error& error) {
    // The plan counts in GB, the engine in bytes: one that fits to the byte may fail by a few.
    if (error.code() != ErrorCode::kDoesNotFit) throw;
    return by_hand;
  }
  PlacedPlan by_plan = placed(std::move(by_hand.subject), engine);
  by_plan.solve_ms = taken.count();
  return by_plan;
}

}  // namespace strata::cli
