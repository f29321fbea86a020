#include "engine/placement_problem.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/checked_math.h"
#include "engine/context_size.h"
#include "engine/device_index.h"
#include "engine/device_model.h"
#include "engine/device_walk.h"
#include "engine/dram_budget.h"
#include "engine/kv_cache.h"
#include "engine/layer_weights.h"
#include "engine/panel_reader.h"
#include "planner/placement/plan_rates.h"
#include "planner/step_plan_builder.h"

namespace strata::engine {
namespace {

using planner::LayerGroup;
using planner::MovedWeights;
using planner::PieceApart;
using planner::PiecePins;
using planner::PlacementProblem;

static_assert(std::size(kLayerMatrices) == gpu_attn::kLayerMatrices);

constexpr double kGiga = 1e9, kTera = 1e12;
constexpr uint64_t kStagingRoom = uint64_t{128} << 20;  // with it a spill file's staging is full

double gb(uint64_t bytes) { return static_cast<double>(bytes) / kGiga; }

bool is_told_apart(const PiecePins& pins) { return pins[0] != pins[1]; }

/// Of layers whose pieces are told apart only what may be read from the file: in every step, or
/// because DRAM does not hold what a card does.
WeightPlan all_streamed(const PlannedModel& model, const PlacementRequest& request) {
  const auto may_be_read = [&](const planner::TierSet& pin) {
    return pin.nvme || (pin.hbm && request.device && request.may_stream);
  };
  std::vector<PieceSet> streamed(model.sizes.layers.size(), kWholeLayer);
  for (size_t layer = 0; layer < request.pins.size(); ++layer)
    if (const PiecePins& pins = request.pins[layer]; is_told_apart(pins))
      streamed[layer] = {.attention = may_be_read(pins[0]), .ffn = may_be_read(pins[1])};
  return weight_plan_of(model.sizes, std::move(streamed));
}

/// What reading a layer, or a piece of it, from the model file takes, by reads of their size.
void add_reads(const LayerSize& size, const WeightPlan& plan,
               const planner::MachineProfile& profile, MovedWeights& weights) {
  const uint32_t n_buffers = std::max(plan.n_buffers, 1U);  // none where nothing may be read
  weights.weights_read_share =
      static_cast<double>(size.file_bytes) / static_cast<double>(size.packed_bytes) *
      planner::read_share(profile, size.file_bytes / size.n_reads, reads_in_flight(n_buffers));
  weights.ahead_share = static_cast<double>(n_buffers) / size.n_reads;
}

void add_layer_reads(const PlannedModel& model, uint32_t layer, const WeightPlan& plan,
                     const planner::MachineProfile& profile, LayerGroup& group) {
  if (!group.apart) {
    add_reads(model.sizes.layers[layer], plan, profile, group);
    group.ahead_share = std::min(1.0, group.ahead_share);
    return;
  }
  const auto& pieces = model.sizes.pieces[layer];
  const LayerPiece apart = group.apart->piece;
  add_reads(pieces[static_cast<size_t>(apart)], plan, profile, *group.apart);
  add_reads(pieces[static_cast<size_t>(other_piece(apart))], plan, profile, group);
}

/// Where the layer's weights may be, and which piece is apart from the other.
void add_pins(const PiecePins& pins, const std::array<LayerSize, kLayerPieces>& pieces,
              LayerGroup& group) {
  group.pin = pins[0];
  if (!is_told_apart(pins)) return;
  PieceApart apart;
  if (!only_tier(pins[static_cast<size_t>(apart.piece)])) apart.piece = LayerPiece::kAttention;
  const auto at = static_cast<size_t>(apart.piece), moving = 1 - at;
  const auto tier = only_tier(pins[at]);
  STRATA_CHECK(tier.has_value(), "pins of layer %u", group.layers.front());
  apart.tier = *tier;
  apart.weight_gb = gb(pieces[at].packed_bytes);
  group.pin = pins[moving];
  group.weight_gb = gb(pieces[moving].packed_bytes);
  group.apart = apart;
}

/// Operations of one row of each layer that attends one position, as the step plan that the engine
/// executes lists them: those of more rows and positions are so many times these.
struct LayerFlop {
  double products = 0, attention = 0;
};
std::vector<LayerFlop> flop_of_layers(const ModelShape& shape) {
  planner::PieceBytes no_bytes;
  no_bytes.layers.resize(shape.n_layers);
  StepPlan step;
  planner::build_step_plan(shape, no_bytes, 0, {.sequences = {{0, 1}}, .n_logit_rows = 0}, step);
  std::vector<LayerFlop> layers(shape.n_layers);
  for (const StepOp& op : step.ops) {
    if (op.layer == kNoLayer) continue;
    LayerFlop& of = layers[op.layer];
    (op.kind == OpKind::kAttend ? of.attention : of.products) += static_cast<double>(op.flop);
  }
  return layers;
}

/// One layer as a group of its own.
LayerGroup group_of(const PlannedModel& model, const PlacementRequest& request,
                    const KvContext& context, const LayerFlop& layer_flop, uint32_t layer) {
  const LayerShape& shape = model.spec.shape.layers[layer];
  const uint64_t block_bytes =
      KvLayout::make(context.k_codec, context.v_codec, model.spec.shape.head_dim).block_bytes;
  LayerGroup group;
  group.layers = {layer};
  group.window = shape.window;
  group.weight_gb = gb(model.sizes.layers[layer].packed_bytes);
  if (!request.pins.empty()) add_pins(request.pins[layer], model.sizes.pieces[layer], group);
  for (size_t i = 0; i < std::size(kLayerMatrices); ++i) {
    const PackedMatrix& matrix = model.device.layers[layer].*gpu_attn::kLayerMatrixMembers[i];
    const bool is_apart = group.apart && kLayerMatrices[i].piece == group.apart->piece;
    const double flop = 2.0 * matrix.n_out * matrix.n_in;
    group.cpu_linear_ms +=
        planner::gemv_ms(request.profile, matrix.type, static_cast<double>(matrix.total_bytes()));
    group.cpu_gemm_ms += planner::gemm_ms(request.profile, matrix.type, flop);
    (is_apart ? group.apart->pack_ms : group.pack_ms) +=
        planner::pack_ms(request.profile, matrix.type, static_cast<double>(matrix.total_bytes()));
  }
  const uint64_t blocks_bytes = shape.n_kv_heads * block_bytes;  // one of each KV head
  group.cpu_gemm_ms +=
      planner::rows_ms(request.profile, static_cast<double>(row_values(model.spec.shape, shape)));
  group.kv_gb = gb(blocks_bytes) / kBlockPositions;
  group.gemm_tflop = layer_flop.products / kTera;
  group.attend_tflop = layer_flop.attention / kTera;
  ModelShape alone = model.spec.shape;
  alone.layers = {shape};
  const uint64_t n_blocks = kv_bytes_for_context(alone, context.k_codec, context.v_codec,
                                                 context.n_ctx, context.chunk_rows) /
                            blocks_bytes;
  const uint64_t n_windows = shape.window > 0 ? request.n_sequences : 1;
  group.n_held = static_cast<double>(n_windows * n_blocks * kBlockPositions);
  return group;
}

/// Layers of one shape lie in a file nearly alike: exactly alike wanted, each would be a group.
bool are_near(double a, double b) {
  constexpr double kNear = 0.1;
  return std::abs(a - b) <= kNear * std::max(a, b);
}

bool move_alike(const MovedWeights& a, const MovedWeights& b) {
  return a.weight_gb == b.weight_gb && a.pack_ms == b.pack_ms &&
         are_near(a.weights_read_share, b.weights_read_share) &&
         are_near(a.ahead_share, b.ahead_share);
}

bool are_alike(const std::optional<PieceApart>& a, const std::optional<PieceApart>& b) {
  if (!a || !b) return !a && !b;
  return a->piece == b->piece && a->tier == b->tier && move_alike(*a, *b);
}

bool are_alike(const LayerGroup& a, const LayerGroup& b) {
  return a.window == b.window && a.cpu_linear_ms == b.cpu_linear_ms &&
         a.cpu_gemm_ms == b.cpu_gemm_ms && a.kv_gb == b.kv_gb && a.attend_tflop == b.attend_tflop &&
         a.n_held == b.n_held && a.pin == b.pin && move_alike(a, b) && are_alike(a.apart, b.apart);
}

/// One more layer, whose reads count as much as each other's.
void add_layer(const LayerGroup& layer, LayerGroup& group) {
  group.layers.push_back(layer.layers.front());
  const auto add_reads_of = [&](const MovedWeights& one, MovedWeights& mean) {
    mean.weights_read_share +=
        (one.weights_read_share - mean.weights_read_share) / group.n_layers();
    mean.ahead_share += (one.ahead_share - mean.ahead_share) / group.n_layers();
  };
  add_reads_of(layer, group);
  if (group.apart) add_reads_of(*layer.apart, *group.apart);
}

void add_groups(const PlannedModel& model, const PlacementRequest& request,
                const KvContext& context, PlacementProblem& problem) {
  const WeightPlan streamed = all_streamed(model, request);
  const std::vector<LayerFlop> layer_flop = flop_of_layers(model.spec.shape);
  for (uint32_t layer = 0; layer < model.spec.shape.n_layers; ++layer) {
    LayerGroup group = group_of(model, request, context, layer_flop[layer], layer);
    add_layer_reads(model, layer, streamed, request.profile, group);
    const auto found = std::ranges::find_if(
        problem.groups, [&](const LayerGroup& other) { return are_alike(other, group); });
    if (found == problem.groups.end()) {
      problem.groups.push_back(std::move(group));
    } else {
      add_layer(group, *found);
    }
  }
}

/// DRAM that weights take where all that can be is streamed, beside those that always stay.
uint64_t stream_bytes(const PlannedModel& model, const PlacementRequest& request) {
  const WeightPlan plan = all_streamed(model, request);
  return plan.total_bytes() - plan.resident_bytes;
}

/// What choosing for one token takes for each position of its context: rows of the index are
/// scanned. What is reserved for choosing, for several answers and beside rows is not.
void add_choosing(const ModelShape& shape, const KvContext& context,
                  const planner::MachineProfile& profile, PlacementProblem& problem) {
  if (!context.method) return;
  const index::IndexShape index =
      index_shape(shape, context.k_codec, context.v_codec, context.n_ctx);
  double bytes = 0;
  for (const LayerShape& layer : shape.layers)
    if (layer.window == 0 && layer.n_kv_heads > 0)
      bytes += layer.n_kv_heads * index::scanned_bytes(*context.method, index.layout,
                                                       layer.n_heads / layer.n_kv_heads);
  const auto name =
      std::ranges::find(index::method_names(), *context.method, &index::MethodName::method);
  const double rate = planner::scan_rate(profile, name->name, shape.head_dim);
  problem.index_position_gb = bytes / kGiga;
  if (rate > 0) problem.index_position_ms = bytes / rate * 1e3;
}

void add_kv(const PlannedModel& model, const PlacementRequest& request, const KvContext& context,
            PlacementProblem& problem) {
  const ModelShape shape = shape_of_sequences(model.spec.shape, request.n_sequences);
  const KvPlacement whole = place_whole(shape, context);
  problem.index_gb = gb(whole.index_bytes);
  add_choosing(model.spec.shape, context, request.profile, problem);
  problem.kv_beside_gb = gb(whole.dram_bytes() - whole.index_bytes) - problem.kv_gb();
  problem.may_spill = can_spill(shape) && request.may_spill && request.nvme_bytes > 0 &&
                      problem.rates.nvme_read > 0;
  if (!can_spill(shape)) return;
  const uint64_t smallest = smallest_spilling_dram(shape, context);
  const uint64_t others = model.sizes.always_bytes + stream_bytes(model, request) + kProcessBytes +
                          walk_buffer_bytes(shape, context.chunk_rows, request.n_threads);
  const uint64_t staged = smallest + kStagingRoom, cap = request.kv_dram_bytes;
  const bool has_room = request.dram_bytes > others + staged;
  const KvPlacement least = place_spilling(shape, context, smallest);
  const KvPlacement spilling =
      !has_room
          ? least
          : place_spilling(shape, context, cap == 0 ? staged : std::clamp(cap, smallest, staged));
  // A step that is computed again holds windowed layers' blocks once more.
  const double windowed = problem.kv_gb() - problem.full_kv_gb();
  problem.spill_beside_gb =
      gb(spilling.dram_bytes() - spilling.slot_bytes - spilling.index_bytes) + windowed;
  problem.spill_floor_gb = std::max(0.0, gb(least.slot_bytes) - 2 * windowed);
  problem.spill_file_gb = gb(least.nvme_bytes);
  problem.staged_positions = static_cast<double>(spilling.n_frames) * kExtentPositions;
  for (LayerGroup& group : problem.groups)
    group.kv_read_share = planner::read_share(
        request.profile, static_cast<uint64_t>(group.kv_gb * kGiga * kExtentPositions),
        spilling.n_frames);
}

/// What of a layer may pass through a device: all of it, or the pieces that a pin lets.
PieceSet passing(const PlacementRequest& request, size_t layer) {
  if (request.pins.empty() || !is_told_apart(request.pins[layer])) return kWholeLayer;
  const PiecePins& pins = request.pins[layer];
  return {.attention = pins[0].dram || pins[0].nvme, .ffn = pins[1].dram || pins[1].nvme};
}

/// Of a card's memory where it searches; 0 where it cannot.
uint64_t index_bytes_there(const PlannedModel& model, const PlacementRequest& request,
                           const KvCodecs& codecs) {
  const ModelShape& shape = model.spec.shape;
  if (!request.device) return 0;
  return DeviceIndex::memory_bytes(shape, KvLayout::make(codecs.k, codecs.v, shape.head_dim),
                                   request.n_ctx, request.n_answers, request.method);
}

/// The card searches in place of the CPU: weights of blocks go to the host, of each query head.
void let_card_search(const ModelShape& shape, uint64_t index_bytes, PlacementProblem& problem) {
  problem.hbm_index_gb = gb(index_bytes);
  problem.index_position_ms = 0;
  for (const LayerShape& layer : shape.layers)
    if (layer.window == 0)
      problem.index_position_link_gb += gb(layer.n_heads * sizeof(float)) / kBlockPositions;
}

void add_device(const PlannedModel& model, const PlacementRequest& request,
                const KvContext& context, PlacementProblem& problem) {
  if (!request.device) return;
  gpu_attn::DeviceModel described = model.device;
  described.kv_layout = KvLayout::make(context.k_codec, context.v_codec, model.spec.shape.head_dim);
  const index::Rule* rule = problem.may_spill && request.method ? &request.selection : nullptr;
  const DeviceNeeds needs = device_needs(described, *model.file, model.spec.shape, *request.device,
                                         context.n_ctx, 0, context.chunk_rows, rule);
  problem.has_device = true;
  problem.may_attend_on_cpu = request.may_attend_on_cpu;
  if (request.may_attend_on_cpu) problem.stated_cpu_share = request.cpu_share;
  problem.may_compute_on_cpu = request.may_compute_on_cpu;
  if (request.may_compute_on_cpu) problem.stated_products_share = request.cpu_share;
  problem.may_stream = problem.may_stream && request.may_stream;
  problem.hbm_gb = gb(request.hbm_bytes);
  problem.hbm_fixed_gb = gb(needs.buffer_bytes);
  problem.hbm_chosen_gb = gb(needs.kv_bytes_min);
  problem.hbm_always_gb = gb(needs.head_bytes);
  uint64_t largest = 0;
  for (size_t layer = 0; layer < needs.layer_bytes.size(); ++layer)
    largest = std::max(largest, device_aligned(needs.bytes_of(layer, passing(request, layer))));
  problem.hbm_slots_gb = gb(2 * largest);
}

PlacementProblem problem_of(const PlannedModel& model, const PlacementRequest& request,
                            const KvCodecs& codecs, uint32_t chunk) {
  const ModelShape& shape = model.spec.shape;
  STRATA_CHECK(request.pins.empty() || request.pins.size() == shape.n_layers, "%zu pins",
               request.pins.size());
  ContextRequest asked;
  asked.k_codec = codecs.k;
  asked.v_codec = codecs.v;
  asked.chunk_rows = chunk;
  asked.n_threads = request.n_threads;
  asked.n_answers = request.n_answers;
  asked.n_draft_max = request.n_draft_max;
  asked.n_ctx = request.n_ctx;
  asked.has_packs = request.has_packs;
  asked.may_share = request.may_share();
  asked.method = request.method;
  asked.sparse = request.sparse;
  asked.has_device = request.device.has_value();
  check_codecs(shape, asked);
  asked.chunk_rows = chunk_rows_for(shape, asked);
  const KvContext context = kv_context(asked, request.n_ctx);

  PlacementProblem problem;
  problem.k_codec = codecs.k;
  problem.v_codec = codecs.v;
  problem.chunk_rows = context.chunk_rows;
  problem.n_out = static_cast<double>(request.n_out);
  const uint64_t before = request.n_past.value_or(request.n_ctx - request.n_out);
  STRATA_CHECK(before + request.n_out <= request.n_ctx, "%lu and %lu positions of %lu",
               static_cast<unsigned long>(before), static_cast<unsigned long>(request.n_out),
               static_cast<unsigned long>(request.n_ctx));
  (request.n_past ? problem.n_past : problem.n_prompt) = static_cast<double>(before);
  if (request.method) {
    problem.touched_share = request.touched_share;
    problem.touched_positions = request.touched_positions;
  }
  problem.rates = planner::rates_of(request.profile, codecs.k, codecs.v, shape.head_dim,
                                    request.device.has_value());
  problem.may_stream = problem.rates.nvme_read > 0;
  problem.kv_pin = request.kv_pin;
  problem.ttft_max_ms = request.ttft_max_ms;
  problem.tpot_max_ms = request.tpot_max_ms;
  problem.dram_gb = gb(request.dram_bytes);
  problem.nvme_gb = gb(request.nvme_bytes);
  if (request.weights_dram_bytes > 0) problem.weights_cap_gb = gb(request.weights_dram_bytes);
  if (request.kv_dram_bytes > 0) problem.kv_cap_gb = gb(request.kv_dram_bytes);
  problem.dram_fixed_gb = gb(kProcessBytes + buffer_bytes(shape, asked));
  problem.always_weights_gb = gb(model.sizes.always_bytes);
  problem.stream_slots_gb = gb(stream_bytes(model, request));
  add_groups(model, request, context, problem);
  add_kv(model, request, context, problem);
  add_device(model, request, context, problem);
  const PackedMatrix& head = model.device.output;
  problem.head_ms =
      request.device
          ? planner::transfer_ms(gb(head.total_bytes()), problem.rates.hbm_gemv)
          : planner::gemv_ms(request.profile, head.type, static_cast<double>(head.total_bytes()));
  return problem;
}

}  // namespace

PlannedModel describe_for_plan(const GgufFile& file, const ModelSpec& spec) {
  PlannedModel model;
  model.file = &file;
  model.spec = spec;
  model.sizes = weight_sizes(file, spec);
  model.device = describe_for_device(
      file, spec, KvLayout::make(KvCodec::kF16, KvCodec::kF16, spec.shape.head_dim));
  return model;
}

uint64_t row_values(const ModelShape& shape, const LayerShape& layer) {
  const uint64_t q_width = uint64_t{layer.n_heads} * shape.head_dim;
  const uint64_t kv_width = uint64_t{layer.n_kv_heads} * shape.head_dim;
  // Two norms and two sums of the residual; q turned, and its attention; K and V stored.
  return 4 * uint64_t{shape.d_model} + 2 * q_width + 2 * kv_width + layer.d_ff;
}

double attend_flop(const ModelShape& shape, const LayerShape& layer) {
  ModelShape alone = shape;
  alone.n_layers = 1;
  alone.layers = {layer};
  return flop_of_layers(alone).front().attention;
}

std::vector<PlacementProblem> placement_problems(const PlannedModel& model,
                                                 const PlacementRequest& request) {
  std::vector<PlacementProblem> problems;
  for (const KvCodecs& codecs : request.codecs) {
    const uint64_t index_bytes = index_bytes_there(model, request, codecs);
    std::vector<uint32_t> tried;
    for (const uint32_t chunk : request.chunks) {
      PlacementProblem problem = problem_of(model, request, codecs, chunk);
      if (std::ranges::count(tried, problem.chunk_rows) > 0) continue;
      tried.push_back(problem.chunk_rows);
      if (index_bytes == 0 || !request.card_searches.value_or(false)) problems.push_back(problem);
      if (index_bytes == 0 || !request.card_searches.value_or(true)) continue;
      let_card_search(model.spec.shape, index_bytes, problem);
      problems.push_back(std::move(problem));
    }
  }
  return problems;
}

}  // namespace strata::engine
