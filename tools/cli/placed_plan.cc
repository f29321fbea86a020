#include "tools/cli/placed_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "engine/device_walk.h"
#include "engine/dram_budget.h"
#include "engine/weight_budget.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/plan_file.h"
#include "tools/cli/plan_report.h"
#include "tools/cli/request_options.h"

namespace strata::cli {
namespace {

using engine::Engine;
using planner::GroupPlace;
using planner::LayerGroup;
using planner::LayerPlacement;
using planner::PiecePins;
using planner::PlacementProblem;
using planner::PlanTier;

constexpr double kGiga = 1e9;
// Of the rules' time: what a plan must save. Less is within what prices are off, and a run that
// differs from the last for nothing is a riddle.
constexpr double kWorthIt = 0.99;

bool is_all_near(const Engine& engine) {
  if (engine.reads_disk()) return false;
  if (engine.device() == nullptr) return true;
  const engine::DevicePlan& device = engine.device_plan();
  const engine::EngineOptions& options = engine.options();
  const ModelShape& shape = engine.spec().shape;
  const bool could_search =
      device.index_bytes == 0 &&
      engine::DeviceIndex::memory_bytes(
          shape, KvLayout::make(options.k_codec, options.v_codec, shape.head_dim),
          engine.context().n_ctx, options.n_answers, options.method) > 0;
  return !could_search && device.n_streamed() == 0 &&
         device.kv_bytes >= engine.context().kv.slot_bytes;
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

PlanTier piece_tier(const Engine& engine, uint32_t layer, LayerPiece piece) {
  const bool is_there =
      engine.device() != nullptr && engine.device_plan().resident[layer].has(piece);
  if (is_there) return PlanTier::kHbm;
  return engine.weight_plan().streamed[layer].has(piece) ? PlanTier::kNvme : PlanTier::kDram;
}

/// Whether the device holds weights that DRAM does not.
bool is_hbm_alone(const Engine& engine) {
  if (engine.device() == nullptr) return false;
  const std::vector<PieceSet>& resident = engine.device_plan().resident;
  for (size_t layer = 0; layer < resident.size(); ++layer)
    if (common_pieces(resident[layer], engine.weight_plan().streamed[layer]).is_any()) return true;
  return false;
}

bool is_on_cpu(const Engine& engine, uint32_t layer, LayerPiece piece) {
  if (engine.device() == nullptr || engine.device_plan().on_cpu.empty()) return false;
  return engine.device_plan().on_cpu[layer].has(piece);
}

/// Pins with which a problem can say where the engine has everything: those of the run, but of
/// layers that have their pieces apart where these are, and none of others that pins tell apart.
/// Pieces in DRAM of which one alone is the CPU's are apart: the FFN's pin names its place alone.
std::vector<PiecePins> pins_beside(const Engine& engine, std::vector<PiecePins> pins) {
  const uint32_t n_layers = engine.spec().shape.n_layers;
  for (uint32_t layer = 0; layer < n_layers; ++layer) {
    const PlanTier attention = piece_tier(engine, layer, LayerPiece::kAttention);
    const PlanTier ffn = piece_tier(engine, layer, LayerPiece::kFfn);
    const bool is_told_apart = is_on_cpu(engine, layer, LayerPiece::kAttention) !=
                               is_on_cpu(engine, layer, LayerPiece::kFfn);
    if (pins.empty() && attention == ffn && !is_told_apart) continue;
    pins.resize(n_layers);
    PiecePins& of = pins[layer];
    if (attention != ffn) {
      of = {planner::just(attention), planner::just(ffn)};
    } else if (is_told_apart) {
      of = {planner::TierSet{}, planner::just(ffn)};
    } else if (of[0] != of[1]) {
      of = {};
    }
  }
  return pins;
}

LayerPlacement layers_of(const Engine& engine, const PlacementProblem& problem) {
  LayerPlacement layers;
  layers.is_hbm_alone = is_hbm_alone(engine);
  for (const LayerGroup& group : problem.groups) {
    GroupPlace place;
    const LayerPiece moving =
        group.apart ? other_piece(group.apart->piece) : LayerPiece::kAttention;
    for (const uint32_t layer : group.layers) {
      const PlanTier tier = piece_tier(engine, layer, moving);
      place.n_on_cpu += is_on_cpu(engine, layer, moving) ? 1u : 0u;
      place.n_apart_on_cpu += group.apart && is_on_cpu(engine, layer, group.apart->piece) ? 1u : 0u;
      ++(tier == PlanTier::kNvme  ? place.n_nvme
         : tier == PlanTier::kHbm ? place.n_hbm
                                  : place.n_dram);
    }
    layers.groups.push_back(place);
  }
  add_kv(engine, problem, layers);
  const double cpu_share = engine.device() == nullptr ? 0 : engine.device_plan().cpu_share;
  layers.cpu_part = planner::part_of(cpu_share);
  return layers;
}

/// Of a placement that spills.
engine::ContextRequest context_request(const PlanSubject& subject,
                                       const engine::Placement& placement) {
  engine::ContextRequest request;
  request.k_codec = placement.k_codec;
  request.v_codec = placement.v_codec;
  request.chunk_rows = placement.chunk_rows;
  request.has_packs = subject.request.has_packs;
  request.method = subject.request.method;
  request.sparse = subject.request.sparse;
  request.has_device = request.spills_beside = placement.has_device();
  request.may_share = request.has_device && subject.request.may_share();
  request.n_threads = subject.request.n_threads;
  request.n_answers = subject.request.n_answers;
  request.n_draft_max = subject.request.n_draft_max;
  request.n_ctx = placement.n_ctx;
  return request;
}

/// Bytes of DRAM that weights and buffers leave to K and V, within the cap of these. Where K and V
/// are to be on disk, no more than that takes.
uint64_t kv_room(const PlanSubject& subject, const engine::Placement& placement) {
  const engine::ContextRequest request = context_request(subject, placement);
  const uint64_t taken =
      engine::kProcessBytes + engine::buffer_bytes(subject.model.spec.shape, request) +
      engine::weight_plan_of(subject.model.sizes, placement.streamed).total_bytes();
  const uint64_t dram = subject.request.dram_bytes;
  uint64_t room = dram - std::min(dram, taken);
  if (subject.request.kv_dram_bytes > 0) room = std::min(room, subject.request.kv_dram_bytes);
  if (subject.request.kv_pin != PlanTier::kNvme) return room;
  const ModelShape shape =
      engine::shape_of_sequences(subject.model.spec.shape, subject.request.n_sequences);
  return std::min(
      room, engine::smallest_spilling_dram(shape, engine::kv_context(request, placement.n_ctx)));
}

/// Bytes of a device's memory that layers and buffers leave to copies of K and V.
uint64_t copies_in_hbm(const PlanSubject& subject, const DeviceFacts& facts,
                       const PlacementProblem& problem, const engine::Placement& placement) {
  const engine::PlannedModel& model = subject.model;
  const ModelShape& shape = model.spec.shape;
  const auto kv_bytes = static_cast<uint64_t>(std::llround(problem.kv_gb() * kGiga));
  gpu_attn::DeviceModel described = model.device;
  described.kv_layout = KvLayout::make(placement.k_codec, placement.v_codec, shape.head_dim);
  const engine::DeviceNeeds needs = engine::device_needs(
      described, *model.file, shape, facts, placement.n_ctx, kv_bytes, placement.chunk_rows);
  uint64_t taken = engine::device_plan_of(needs, placement.resident).hbm_bytes;
  if (placement.index_in_hbm)
    taken += engine::DeviceIndex::memory_bytes(shape, described.kv_layout, placement.n_ctx,
                                               subject.request.n_answers, subject.request.method);
  const uint64_t hbm = subject.request.hbm_bytes;
  return std::min(kv_bytes, hbm - std::min(hbm, taken));
}

}  // namespace

engine::Placement placement_of(const PlanSubject& subject, const PlacementProblem& problem,
                               const LayerPlacement& layers) {
  engine::Placement placement;
  placement.n_ctx = static_cast<uint32_t>(subject.request.n_ctx);
  placement.chunk_rows = problem.chunk_rows;
  placement.k_codec = problem.k_codec;
  placement.v_codec = problem.v_codec;
  for (const planner::PieceTiers& tiers : planner::weight_tiers(problem, layers)) {
    const auto in = [&](PlanTier tier) {
      return PieceSet{.attention = tiers[0] == tier, .ffn = tiers[1] == tier};
    };
    PieceSet& streamed = placement.streamed.emplace_back(in(PlanTier::kNvme));
    if (!problem.has_device) continue;
    placement.resident.push_back(in(PlanTier::kHbm));
    for (const LayerPiece piece : kEachPiece)
      if (layers.is_hbm_alone && in(PlanTier::kHbm).has(piece)) streamed.add(piece);
  }
  // What rounding to whole layers leaves is K and V's.
  if (layers.is_spilling(problem)) {
    placement.chunk_rows =
        engine::chunk_rows_for(subject.model.spec.shape, context_request(subject, placement));
    placement.kv_dram_bytes = kv_room(subject, placement);
  }
  placement.index_in_hbm = problem.card_searches();
  if (subject.request.device)
    placement.kv_hbm_bytes = copies_in_hbm(subject, *subject.request.device, problem, placement);
  placement.cpu_share = planner::cpu_share(problem, layers);
  const std::vector<PieceSet> on_cpu = planner::cpu_products(problem, layers);
  if (std::ranges::any_of(on_cpu, &PieceSet::is_any)) placement.on_cpu = on_cpu;
  return placement;
}

namespace {

/// The problem of the chunk, the codecs and the CPU's share that run.
PlacementProblem problem_of(const PlanSubject& subject, const Engine& engine) {
  engine::PlacementRequest request = subject.request;
  request.pins = pins_beside(engine, request.pins);
  request.chunks = {engine.context().chunk_rows};
  request.codecs = {{engine.options().k_codec, engine.options().v_codec}};
  request.card_searches = engine.device() != nullptr && engine.device_plan().index_bytes > 0;
  PlacementProblem problem = engine::placement_problems(subject.model, request).front();
  if (engine.device() != nullptr) problem.stated_cpu_share = engine.device_plan().cpu_share;
  return problem;
}

PlacedPlan placed(PlanSubject subject, const Engine& engine) {
  PlacedPlan plan;
  plan.problem = problem_of(subject, engine);
  plan.layers = layers_of(engine, plan.problem);
  plan.subject = std::move(subject);
  return plan;
}

}  // namespace

std::vector<std::string> stated_places(const Settings& settings) {
  std::vector<std::string> stated;
  if (!settings.plan.empty()) stated.emplace_back("plan");
  if (!settings.pin.empty()) stated.emplace_back("pin");
  if (settings.n_gpu_layers >= 0) stated.emplace_back("n-gpu-layers");
  if (settings.kv_tier != "auto") stated.emplace_back("kv-tier");
  return stated;
}

const char* placed_by_name(PlacedBy who) {
  constexpr const char* kNames[] = {"rules", "planner", "file"};
  return kNames[static_cast<size_t>(who)];
}

namespace {

/// A decoded token's problem behind so many positions, and what of the placement it meets.
struct TokenThere {
  PlacementProblem problem;
  LayerPlacement layers;
};
TokenThere token_there(const PlacementProblem& problem, const LayerPlacement& layers,
                       double n_positions, const planner::MachinePace& pace) {
  TokenThere there{at_pace(problem, pace), layers};
  there.problem.n_past = n_positions;
  there.problem.n_prompt = there.problem.n_out = 0;
  // A context that is not full yet is at home as far as there is room.
  for (size_t g = 0; g < there.problem.groups.size(); ++g) {
    LayerGroup& group = there.problem.groups[g];
    group.n_held = std::clamp(n_positions, 1.0, group.n_held);
    GroupPlace& place = there.layers.groups[g];
    place.kv_hbm = std::min(place.kv_hbm, group.n_held);
    place.kv_dram = std::min(place.kv_dram, group.n_held - place.kv_hbm);
  }
  return there;
}

}  // namespace

planner::StepTime token_behind(const PlacementProblem& problem, const LayerPlacement& layers,
                               double n_positions, const planner::MachinePace& pace) {
  const TokenThere there = token_there(problem, layers, n_positions, pace);
  return planner::token_time(there.problem, there.layers);
}

double PlacedPlan::slower_disk_ms(double n_positions, double share,
                                  const planner::MachinePace& pace) const {
  TokenThere there = token_there(problem, layers, n_positions, pace);
  const planner::LpWaits waits = planner::waits_of(there.problem, there.layers);
  there.problem.n_out = 1;  // a token is what the program makes quick
  double ms = 0;
  for (const planner::PlanDual& dual : planner::duals_of(there.problem, waits))
    if (dual.resource == "nvme_read") ms = -dual.tpot_ms;
  // What is read takes 1 / rate: the dual has the part of that which ten percent more save.
  return ms * (1 / share - 1) / (1 - 1 / planner::kDualTimes);
}

planner::StepTime PlacedPlan::prompt_behind(double n_depth, double n_tokens,
                                            const planner::MachinePace& pace) const {
  PlacementProblem there = at_pace(problem, pace);
  there.n_past = n_depth;
  there.n_prompt = n_tokens;
  there.n_out = 0;
  return planner::prompt_time(there, layers);
}

PlacedPlan placed_plan(const Command& command, const Engine& engine) {
  return placed(plan_subject(command, engine), engine);
}

PlacedPlan place_by_plan(const Command& command, Engine& engine,
                         std::optional<AnswerBehind> answer) {
  PlanSubject asked = plan_subject(command, engine);
  if (answer) {
    asked.request.n_past = answer->n_past;
    asked.request.n_out = answer->n_out;
  }
  PlacedPlan by_hand = placed(std::move(asked), engine);
  // Where all is near, no placement is quicker and the rules' chunk is as good as another: the
  // solver's tens of milliseconds would be of every start and change nothing.
  const engine::PlacementRequest& request = by_hand.subject.request;
  const bool is_pinned = !request.pins.empty() || request.kv_pin.has_value();
  if (is_all_near(engine) && !is_pinned) return by_hand;
  const auto begin = std::chrono::steady_clock::now();
  const auto problems = engine::placement_problems(by_hand.subject.model, request);
  const auto plan = planner::plan_placement(problems, /*with_duals=*/false);
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - begin;
  by_hand.solve_ms = taken.count();
  if (!plan && is_pinned) throw plan_refusal(by_hand.subject);
  if (!plan) return by_hand;
  const PlacementProblem& problem = problems[plan->choice];
  const double ms = planner::request_ms(problem, plan->layers);
  const bool is_worth_it = ms < kWorthIt * planner::request_ms(by_hand.problem, by_hand.layers);
  if (!is_worth_it && !is_pinned) return by_hand;
  try {
    engine.place(placement_of(by_hand.subject, problem, plan->layers));
  } catch (const Error& error) {
    // The plan counts in GB, the engine in bytes: one that fits to the byte may fail by a few.
    if (error.code() != ErrorCode::kDoesNotFit) throw;
    if (is_pinned)
      throw Error(error.code(), fmt::format("what is pinned does not fit: {}", error.what()),
                  "--pin, -ngl, --kv-tier", "leave one of them out, or " + error.remedy());
    return by_hand;
  }
  PlacedPlan by_plan = placed(std::move(by_hand.subject), engine);
  by_plan.solve_ms = taken.count();
  by_plan.placed_by = PlacedBy::kPlanner;
  return by_plan;
}

namespace {

[[noreturn]] void refuse(const std::string& where, const std::string& what,
                         const std::string& remedy) {
  throw Error(ErrorCode::kUsage, what, where, remedy);
}

/// What the command says beside the plan must be what the plan says.
void expect_no_contradiction(const Command& command, const engine::Placement& placement) {
  const Settings& settings = command.settings;
  const auto expect = [&](const char* option, const std::string& asked,
                          const std::string& planned) {
    if (!command.is_set(option) || asked == planned) return;
    refuse(command.where(option),
           fmt::format("--{} {} contradicts the plan, which has {}", option, asked, planned),
           "leave one of them out, or change the plan");
  };
  for (const std::string& option : stated_places(settings))
    if (option != "plan")
      refuse(
          command.where(option),
          fmt::format("--{} and --plan contradict each other: the plan says what is where", option),
          "leave one of them out, or change the plan");
  const auto text = [](uint64_t value) { return fmt::format("{}", value); };
  const auto percent = [](double share) { return fmt::format("{:.6g}%", 100 * share); };
  // auto is as the plan says. Of products a plan has whose they are, not the share that made it so.
  if (const auto share = engine_options(settings).cpu_share) {
    const bool has_products = !placement.on_cpu.empty();
    if (!has_products || placement.cpu_share > 0)
      expect("cpu-share", percent(*share), percent(placement.cpu_share));
    else if (*share == 0)
      expect("cpu-share", percent(0), "products of the CPU");
  }
  expect("ctx-size", text(settings.ctx_size), text(placement.n_ctx));
  expect("batch-size", text(settings.batch_size), text(placement.chunk_rows));
  expect("cache-type-k", settings.cache_type_k, kv_codec_name(placement.k_codec));
  expect("cache-type-v", settings.cache_type_v, kv_codec_name(placement.v_codec));
}

/// The options with the plan's placement, and its budgets where the command states none.
engine::EngineOptions with_plan(const Command& command, const PlanFile& plan,
                                engine::EngineOptions options) {
  const std::string& path = command.settings.plan;
  expect_no_contradiction(command, plan.placement);
  if (options.n_ctx > plan.placement.n_ctx)
    refuse(path,
           fmt::format("the plan has a context of {} tokens, {} are to be held",
                       plan.placement.n_ctx, options.n_ctx),
           fmt::format("plan for -c {}", options.n_ctx));
  const engine::DeviceChoice planned = engine::parse_device_choice(plan.device);
  if (planned.kind == engine::DeviceChoice::Kind::kVirtual)
    refuse(path, fmt::format("the plan is of {}, a card that is not here", plan.device),
           "plan for this machine: leave --device out");
  if (options.device.kind == engine::DeviceChoice::Kind::kAuto) options.device = planned;
  options.placement = plan.placement;
  options.cpu_share =
      plan.placement.shares_with_cpu() ? std::nullopt : std::optional<double>(0);  // as it says
  options.n_ctx = plan.placement.n_ctx;
  options.k_codec = plan.placement.k_codec;
  options.v_codec = plan.placement.v_codec;
  if (options.dram_bytes == 0) options.dram_bytes = plan.dram_bytes;
  if (options.hbm_bytes == 0) options.hbm_bytes = plan.hbm_bytes;
  if (options.nvme_budget_bytes == 0) options.nvme_budget_bytes = plan.nvme_bytes;
  return options;
}

}  // namespace

PlacedEngine open_placed(const Command& command, engine::EngineOptions options) {
  const std::string& path = command.settings.plan;
  if (path.empty()) {
    Engine engine = Engine::open(options);
    PlacedPlan plan = place_by_plan(command, engine);
    return {std::move(engine), std::move(plan)};
  }
  const PlanFile file = read_plan_file(path);
  const auto model = engine::GgufFile::open(options.model_path);
  expect_same_model(file, plan_file_of(model, engine::read_model_spec(model)), path);
  Engine engine = Engine::open(with_plan(command, file, std::move(options)));
  PlacedPlan plan = placed_plan(command, engine);
  plan.placed_by = PlacedBy::kFile;
  return {std::move(engine), std::move(plan)};
}

void save_plan(const PlanSubject& subject, const PlacementProblem& problem,
               const planner::PlacementPlan& plan, const std::string& path) {
  PlanFile file = plan_file_of(*subject.model.file, subject.model.spec);
  file.device = subject.device;
  file.dram_bytes = subject.request.dram_bytes;
  file.nvme_bytes = subject.request.nvme_bytes;
  file.hbm_bytes = subject.request.hbm_bytes;
  file.placement = placement_of(subject, problem, plan.layers);
  file.ttft_ms = plan.prompt.ms;
  file.tpot_ms = plan.token.ms;
  file.is_measured = subject.request.profile.is_measured();
  AnswerSink sink = AnswerSink::open(path, "the plan");
  sink.write(plan_file_json(file));
  sink.close();
}

}  // namespace strata::cli
