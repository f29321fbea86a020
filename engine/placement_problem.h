// engine/placement_problem.h - a model and a context as the planner wants them: what the engine
// reserves for each, asked of the functions that reserve it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/device_table.h"
#include "engine/gguf/gguf_file.h"
#include "engine/model_spec.h"
#include "engine/weight_budget.h"
#include "gpu_attn/device_model.h"
#include "index/choose.h"
#include "index/method.h"
#include "planner/machine_profile.h"
#include "planner/placement/problem.h"

namespace strata::engine {

/// Of a model, what does not depend on the context.
struct PlannedModel {
  const GgufFile* file = nullptr;  // outlives this
  ModelSpec spec;
  WeightSizes sizes;
  gpu_attn::DeviceModel device;  // shapes and types of every matrix
};
PlannedModel describe_for_plan(const GgufFile& file, const ModelSpec& spec);

struct KvCodecs {
  KvCodec k = KvCodec::kF16, v = KvCodec::kF16;
};

struct PlacementRequest {
  planner::MachineProfile profile;
  uint64_t n_ctx = 0;
  uint64_t n_out = 0;  // of n_ctx, the tokens that are answered
  // Positions that are there already: then no prompt is read, and n_out tokens follow them.
  std::optional<uint64_t> n_past = {};
  uint64_t dram_bytes = 0;                             // for everything of ours
  uint64_t nvme_bytes = 0;                             // of the spill file; 0 = none
  uint64_t weights_dram_bytes = 0, kv_dram_bytes = 0;  // of dram_bytes, at most; 0 = no cap
  uint32_t n_sequences = 1;  // that share their beginning: windowed layers hold each one's window
  uint32_t n_answers = 1;    // at work at a time, each with a text of its own
  uint32_t n_draft_max = 0;  // as ContextRequest has it
  std::optional<DeviceFacts> device;
  uint64_t hbm_bytes = 0;  // of it
  // Beside a card: what a plan may use. This engine streams and spills there where the card is
  // named, and does the others where it is asked to.
  bool may_stream = true, may_spill = true, may_attend_on_cpu = true, may_compute_on_cpu = true;
  std::optional<double> cpu_share = {};  // of what a card lacks there; nothing = as is best
  std::vector<KvCodecs> codecs;          // each is tried
  std::vector<uint32_t> chunks;          // rows of a prompt's step: each is tried
  bool has_packs = false;                // saved contexts are read and written
  std::optional<index::Method> method = {};
  index::Rule selection = {};  // by which it chooses
  // Whether a card searches the index, as far as it can; nothing = as is best.
  std::optional<bool> card_searches = {};
  std::optional<index::Rule> sparse = {};  // by which prompts are read; their time is priced exact
  // Of a context, what a token attends by it: a share, and at most so many positions.
  double touched_share = 1, touched_positions = planner::kNoCap;
  uint32_t n_threads = 1;
  // What the user wants: where weights may be, [n_layers] or empty = anywhere, and where a layer's
  // pieces differ, one of them in one tier; where K and V live; how long the first token and each
  // further one may take, 0 = as it comes.
  std::vector<planner::PiecePins> pins;
  std::optional<planner::PlanTier> kv_pin;
  double ttft_max_ms = 0, tpot_max_ms = 0;

  /// Whether memory for the CPU's work beside a card is counted, as the engine does.
  bool may_share() const { return device && cpu_share.value_or(1) > 0; }
  /// What these options let the CPU do there: what is best only where its rates and the card's are
  /// known.
  void let_cpu_share(bool are_known) {
    may_compute_on_cpu = may_share() && (are_known || cpu_share);
    may_attend_on_cpu = may_compute_on_cpu && !method;
  }
};

/// Of a layer and one row of a prompt: values of f32 that norms, RoPE, activations, sums and
/// conversions write beside products and attention; and operations of attention over one position.
uint64_t row_values(const ModelShape& shape, const LayerShape& layer);
double attend_flop(const ModelShape& shape, const LayerShape& layer);

/// One for each codec and chunk, and for each who may search an index: the CPU, then the card.
/// Errors: kUnsupported (check_codecs), those of planner::rates_of.
std::vector<planner::PlacementProblem> placement_problems(const PlannedModel& model,
                                                          const PlacementRequest& request);

}  // namespace strata::engine
