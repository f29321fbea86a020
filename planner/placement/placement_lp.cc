#include "planner/placement/placement_lp.h"

#include "planner/placement/lp_solver.h"

namespace strata::planner {
namespace {

// Per GB that a step moves from DRAM, or from the disk, or multiplies on the CPU beside a device:
// without it, equal plans are drawn at random. In ms of the objective.
constexpr double kFarGb = 1e-4, kFartherGb = 2e-4;

using Terms = std::vector<LpTerm>;

/// Of weights that are placed by themselves, of one layer: all of it, or a piece that is apart.
struct WeightColumns {
  double gb = 0, read_gb = 0, pack_ms = 0;
  PieceSet pieces;
  uint32_t hbm = 0, dram = 0, nvme = 0;
  uint32_t hbm_alone = 0;  // in HBM, too, with no room in DRAM
  uint32_t products = 0;   // where the CPU may compute beside a device
};

struct GroupColumns {
  std::vector<WeightColumns> weights;  // what moves, then a piece apart
  uint32_t k_hbm = 0, k_dram = 0, k_nvme = 0, on_cpu = 0, attention = 0;
};

/// Columns and rows of one problem.
class PlacementProgram {
 public:
  PlacementProgram(const PlacementProblem& problem, const LpWaits& waits)
      : problem_(problem), rates_(problem.rates), waits_(waits) {
    add_switches();
    for (const LayerGroup& group : problem_.groups) add_group(group);
    add_room();
    add_token();
    for (const ChunkSample& sample : chunk_samples(problem_)) add_chunk(sample);
    add_limits();
  }

  LpPlacement solve() const;

 private:
  double upper(bool is_allowed) const { return is_allowed ? 1 : 0; }
  void at_least(uint32_t column, Terms terms, double constant);
  void add_roof(uint32_t column, Terms terms, double constant, const Terms& ahead, double waits);
  void at_most(double bound, const Terms& terms) { model_.add_row(-kLpInfinity, bound, terms); }
  template <class Each>
  void each_group(const Each& each) const {
    for (size_t i = 0; i < columns_.size(); ++i) each(problem_.groups[i], columns_[i]);
  }
  void add_switches();
  void add_group(const LayerGroup& group);
  template <class MayHold>
  WeightColumns add_weights(const LayerGroup& group, const MovedWeights& of, PieceSet pieces,
                            const MayHold& may_hold);
  void add_room();
  void add_caps();
  void add_token();
  void add_products(const LayerGroup& group, const GroupColumns& c, Terms& chain, Terms& link,
                    Terms& cpu) const;
  void add_chunk(const ChunkSample& sample);
  void add_limits();
  uint32_t missing(const LayerGroup& group, const ChunkSample& sample, const Terms& held);

  const PlacementProblem& problem_;
  const PlanRates& rates_;
  const LpWaits& waits_;
  LpModel model_;
  std::vector<GroupColumns> columns_;
  // 1 where weights are streamed from the file, layers pass through HBM, K and V spill, the CPU
  // attends beside a device.
  uint32_t streams_ = 0, passes_ = 0, spills_ = 0, attends_ = 0;
  uint32_t token_ms_ = 0;
  std::vector<std::pair<uint32_t, double>> chunks_;  // their times and weights
  uint32_t hbm_row_ = 0, dram_row_ = 0, nvme_row_ = 0;
};

/// column >= terms + constant.
void PlacementProgram::at_least(uint32_t column, Terms terms, double constant) {
  for (LpTerm& term : terms) term.factor = -term.factor;
  terms.push_back({column, 1});
  model_.add_row(constant, kLpInfinity, terms);
}

void PlacementProgram::add_switches() {
  streams_ = model_.add_column(0, upper(problem_.may_stream), 0, true);
  passes_ = model_.add_column(0, upper(problem_.has_device), 0, true);
  const bool must_spill = problem_.kv_pin == PlanTier::kNvme;
  const bool may_spill = problem_.may_spill && (must_spill || !problem_.kv_pin);
  spills_ = model_.add_column(must_spill ? 1 : 0, upper(may_spill), 0, true);
  attends_ =
      model_.add_column(0, upper(problem_.has_device && problem_.may_attend_on_cpu), 0, true);
}

template <class MayHold>
WeightColumns PlacementProgram::add_weights(const LayerGroup& group, const MovedWeights& of,
                                            PieceSet pieces, const MayHold& may_hold) {
  const double weights = group.n_layers() * of.weight_gb, far = problem_.has_device ? kFarGb : 0;
  WeightColumns w{.gb = of.weight_gb,
                  .read_gb = of.weight_gb * of.weights_read_share,
                  .pack_ms = of.pack_ms,
                  .pieces = pieces};
  w.hbm = model_.add_column(0, upper(may_hold(PlanTier::kHbm)), 0);
  w.dram = model_.add_column(0, upper(may_hold(PlanTier::kDram)), far * weights);
  w.nvme = model_.add_column(0, upper(may_hold(PlanTier::kNvme)), kFartherGb * weights);
  const bool may_leave = problem_.may_leave_dram() && may_hold(PlanTier::kHbm);
  w.hbm_alone = model_.add_column(0, upper(may_leave), 0);
  model_.add_row(1, 1, Terms{{w.hbm, 1}, {w.hbm_alone, 1}, {w.dram, 1}, {w.nvme, 1}});
  at_most(0, {{w.nvme, 1}, {w.hbm_alone, 1}, {streams_, -1}});
  if (problem_.has_device) at_most(0, {{w.dram, 1}, {w.nvme, 1}, {passes_, -1}});
  if (problem_.may_compute_products()) {
    w.products = model_.add_column(0, 1, far * weights);
    const auto& stated = problem_.stated_products_share;
    model_.add_row(stated ? 0 : -kLpInfinity, 0,
                   Terms{{w.products, 1}, {w.dram, -stated.value_or(1)}});
  }
  return w;
}

void PlacementProgram::add_group(const LayerGroup& group) {
  const auto may_hold_kv = [&](PlanTier tier) { return upper(problem_.may_hold_kv(group, tier)); };
  const double kv = group.n_layers() * group.n_held * group.kv_gb;
  GroupColumns c;
  const double far = problem_.has_device ? kFarGb : 0;
  c.weights.push_back(add_weights(group, group, group.moving(),
                                  [&](PlanTier tier) { return problem_.may_hold(group, tier); }));
  c.k_hbm = model_.add_column(0, may_hold_kv(PlanTier::kHbm), 0);
  c.k_dram = model_.add_column(0, may_hold_kv(PlanTier::kDram), far * kv);
  c.k_nvme = model_.add_column(0, may_hold_kv(PlanTier::kNvme), kFartherGb * kv);
  // Windowed layers' K and V are the card's.
  const bool may_attend = problem_.has_device && problem_.may_attend_on_cpu && group.is_full();
  c.on_cpu = model_.add_column(0, upper(may_attend), 0);
  c.attention = model_.add_column(0, kLpInfinity, 0);
  model_.add_row(1, 1, Terms{{c.k_hbm, 1}, {c.k_dram, 1}, {c.k_nvme, 1}});
  at_most(0, {{c.k_nvme, 1}, {spills_, -1}});
  at_most(0, {{c.on_cpu, 1}, {attends_, -1}});
  // The columns of a piece that a pin keeps somewhere leave no choice: it counts as others do.
  if (const auto& apart = group.apart)
    c.weights.push_back(add_weights(
        group, *apart, other_pieces(group.moving()),
        [&](PlanTier tier) { return tier == apart->tier && problem_.may_hold_weights(tier); }));
  columns_.push_back(c);

  const double chosen = group.is_full() ? problem_.share_touched() : 1;
  const double touched = chosen * group.attended(problem_.n_decode_positions()) * group.kv_gb;
  if (!problem_.has_device) {
    at_least(c.attention, {}, transfer_ms(touched, rates_.cpu_attend));
    return;
  }
  const double share = may_attend ? problem_.stated_cpu_share.value_or(1) : 1;
  const bool is_stated = may_attend && problem_.stated_cpu_share;
  model_.add_row(is_stated ? 0 : -kLpInfinity, 0,
                 Terms{{c.on_cpu, 1}, {c.k_dram, -share}, {c.k_nvme, -share}});
  const double link = transfer_ms(touched, rates_.link_in);
  at_least(c.attention,
           {{c.k_hbm, transfer_ms(touched, rates_.hbm_attend)},
            {c.k_dram, link},
            {c.k_nvme, link},
            {c.on_cpu, -link}},
           0);
  at_least(
      c.attention,
      {{c.on_cpu, transfer_ms(touched, rates_.cpu_attend)}, {attends_, rates_.shared_layer_ms()}},
      0);
}

void PlacementProgram::add_room() {
  Terms hbm{{passes_, problem_.hbm_slots_gb}}, hbm_of_weights = hbm;
  Terms dram{{streams_, problem_.stream_slots_gb},
             {spills_, problem_.spill_beside_gb - problem_.kv_beside_gb}};
  Terms floor{{spills_, -problem_.spill_floor_gb}};
  each_group([&](const LayerGroup& group, const GroupColumns& c) {
    const double kv = group.n_layers() * group.n_held * group.kv_gb;
    for (const WeightColumns& w : c.weights) {
      const double weights = group.n_layers() * w.gb;
      for (Terms* terms : {&hbm, &hbm_of_weights})
        terms->insert(terms->end(), {{w.hbm, weights}, {w.hbm_alone, weights}});
      dram.insert(dram.end(), {{w.hbm, weights}, {w.dram, weights}});
    }
    hbm.push_back({c.k_hbm, kv});
    dram.insert(dram.end(), {{c.k_hbm, kv}, {c.k_dram, kv}});
    if (group.is_full()) floor.insert(floor.end(), {{c.k_hbm, kv}, {c.k_dram, kv}});
  });
  if (problem_.has_device) {
    const double most =
        problem_.hbm_gb - problem_.hbm_fixed_gb - problem_.hbm_always_gb - problem_.hbm_index_gb;
    hbm_row_ = model_.add_row(-kLpInfinity, most, hbm);
    hbm_of_weights.push_back({spills_, problem_.hbm_chosen_gb});
    if (problem_.hbm_chosen_gb > 0) model_.add_row(-kLpInfinity, most, hbm_of_weights);
  }
  dram_row_ =
      model_.add_row(-kLpInfinity,
                     problem_.dram_gb - problem_.dram_fixed_gb - problem_.always_weights_gb -
                         problem_.index_gb - problem_.kv_beside_gb,
                     dram);
  nvme_row_ =
      model_.add_row(-kLpInfinity, problem_.nvme_gb, Terms{{spills_, problem_.spill_file_gb}});
  model_.add_row(0, problem_.kv_pin == PlanTier::kNvme ? 0 : kLpInfinity, floor);
  add_caps();
}

void PlacementProgram::add_caps() {
  Terms of_weights{{streams_, problem_.stream_slots_gb}};
  Terms of_kv{{spills_, problem_.spill_beside_gb - problem_.kv_beside_gb}};
  each_group([&](const LayerGroup& group, const GroupColumns& c) {
    const double kv = group.n_layers() * group.n_held * group.kv_gb;
    for (const WeightColumns& w : c.weights) {
      const double weights = group.n_layers() * w.gb;
      of_weights.insert(of_weights.end(), {{w.hbm, weights}, {w.dram, weights}});
    }
    of_kv.insert(of_kv.end(), {{c.k_hbm, kv}, {c.k_dram, kv}});
  });
  if (problem_.weights_cap_gb < kNoCap)
    at_most(problem_.weights_cap_gb - problem_.always_weights_gb, of_weights);
  if (problem_.kv_cap_gb < kNoCap)
    at_most(problem_.kv_cap_gb - problem_.kv_beside_gb - problem_.index_gb, of_kv);
}

/// column >= terms + constant, and what is waited for beside that: so much of each ms of `ahead`.
void PlacementProgram::add_roof(uint32_t column, Terms terms, double constant, const Terms& ahead,
                                double waits) {
  if (waits > 0)
    for (const LpTerm& term : ahead) terms.push_back({term.column, term.factor * waits});
  at_least(column, std::move(terms), constant);
}

/// What the CPU computes beside a device it reads where it is, and the device waits for it.
void PlacementProgram::add_products(const LayerGroup& group, const GroupColumns& c, Terms& chain,
                                    Terms& link, Terms& cpu) const {
  if (!problem_.may_compute_products()) return;
  const double n = group.n_layers();
  for (const WeightColumns& w : c.weights) {
    const double cpu_ms = problem_.cpu_products_ms(group, w.gb);
    const double on_cpu_ms = cpu_ms + problem_.cpu_products_link_ms(w.pieces);
    chain.push_back({w.products, n * (on_cpu_ms - transfer_ms(w.gb, rates_.hbm_gemv))});
    link.push_back({w.products, -n * transfer_ms(w.gb, rates_.link_in)});
    cpu.push_back({w.products, n * cpu_ms});
  }
}

void PlacementProgram::add_token() {
  token_ms_ = model_.add_column(0, kLpInfinity, problem_.n_out);
  Terms chain, disk, ahead, exposed, link, dram, packing;
  double fixed =
      problem_.step_ms() + problem_.head_ms + problem_.index_scan_ms() + problem_.index_link_ms();
  double dram_gb = problem_.card_searches() ? 0 : problem_.index_scan_gb();
  const auto ms = [](double gb, double rate) { return transfer_ms(gb, rate); };
  each_group([&](const LayerGroup& group, const GroupColumns& c) {
    const double n = group.n_layers();
    const bool is_chosen = group.is_full() && problem_.share_touched() < 1;
    const double touched = (group.is_full() ? problem_.share_touched() : 1) *
                           group.attended(problem_.n_decode_positions()) * group.kv_gb * n;
    chain.push_back({c.attention, n});
    for (const WeightColumns& w : c.weights) {
      disk.push_back({w.nvme, n * ms(w.read_gb, rates_.nvme_read)});
      ahead.push_back(disk.back());
    }
    const double kv_disk = is_chosen ? ms(touched, rates_.nvme_blocks)
                                     : ms(touched * group.kv_read_share, rates_.nvme_read);
    disk.push_back({c.k_nvme, kv_disk});
    (is_chosen ? exposed : ahead).push_back(disk.back());
    // What comes from the disk passes through DRAM.
    for (const WeightColumns& w : c.weights) {
      packing.push_back({w.nvme, n * w.pack_ms});
      dram.push_back({w.nvme, ms(n * w.gb, rates_.dram_read)});
    }
    dram.push_back({c.k_nvme, ms(touched, rates_.dram_read)});
    if (!problem_.has_device) {
      fixed += n * (group.cpu_linear_ms + rates_.cpu_layer_ms);
      dram_gb += n * group.layer_gb() + touched;
      return;
    }
    fixed += ms(n * group.layer_gb(), rates_.hbm_gemv) +
             n * (rates_.launch_ms + problem_.choosing_link_ms(group));
    for (const WeightColumns& w : c.weights)
      for (const uint32_t column : {w.dram, w.nvme}) {
        link.push_back({column, ms(n * w.gb, rates_.link_in)});
        dram.push_back({column, ms(n * w.gb, rates_.dram_read)});
      }
    for (const uint32_t column : {c.k_dram, c.k_nvme}) {
      link.push_back({column, ms(touched, rates_.link_in)});
      dram.push_back({column, ms(touched, rates_.dram_read)});
    }
    link.push_back({c.on_cpu, -ms(touched, rates_.link_in)});
    add_products(group, c, chain, link, packing);
  });
  Terms comes_ahead = ahead;
  comes_ahead.insert(comes_ahead.end(), link.begin(), link.end());
  const auto roof = [&](const Terms& terms, double constant) {
    add_roof(token_ms_, terms, constant, comes_ahead, waits_.token);
  };
  roof(disk, 0);
  at_least(token_ms_, dram, ms(dram_gb, rates_.dram_read));
  if (problem_.has_device) {
    roof(link, 0);
    at_least(token_ms_, packing, 0);
  } else {
    chain.insert(chain.end(), packing.begin(), packing.end());
    // The disk and the CPU slow each other down where they work beside each other.
    Terms slowed_disk = disk;
    for (const LpTerm& term : chain)
      slowed_disk.push_back({term.column, term.factor * rates_.cpu_slows_nvme});
    at_least(token_ms_, slowed_disk, fixed * rates_.cpu_slows_nvme);
    for (const LpTerm& term : ahead)
      chain.push_back({term.column, term.factor * rates_.nvme_slows_cpu});
  }
  chain.insert(chain.end(), exposed.begin(), exposed.end());
  roof(chain, fixed);
}

/// Positions before a chunk that are not where `held`, of all positions, are: at least what is
/// beyond them, at least none.
uint32_t PlacementProgram::missing(const LayerGroup& group, const ChunkSample& sample,
                                   const Terms& held) {
  const uint32_t column = model_.add_column(0, kLpInfinity, 0);
  Terms terms;
  for (const LpTerm& term : held) terms.push_back({term.column, -group.n_held});
  at_least(column, terms, group.attended(sample.first_pos));
  return column;
}

void PlacementProgram::add_chunk(const ChunkSample& sample) {
  const uint32_t chunk_ms = model_.add_column(0, kLpInfinity, sample.weight);
  chunks_.push_back({chunk_ms, sample.weight});
  const double rows = sample.n_rows;
  double arithmetic = problem_.step_ms(), out = 0, written = 0;
  Terms disk, link, packing;
  for (size_t i = 0; i < columns_.size(); ++i) {
    const LayerGroup& group = problem_.groups[i];
    const GroupColumns& c = columns_[i];
    const double n = group.n_layers(), kv = n * group.kv_gb;
    const double flop = n * rows * group.attended(sample.first_pos + rows / 2) * group.attend_tflop;
    for (const WeightColumns& w : c.weights) {
      disk.push_back({w.nvme, n * transfer_ms(w.read_gb, rates_.nvme_read)});
      packing.push_back({w.nvme, n * w.pack_ms});
    }
    if (group.is_full()) {
      const uint32_t far = missing(group, sample, {{c.k_hbm, 1}, {c.k_dram, 1}});
      disk.push_back({far, transfer_ms(kv * group.kv_read_share, rates_.nvme_read)});
      written += transfer_ms(rows * kv, rates_.nvme_write);
    }
    if (!problem_.has_device) {
      arithmetic += n * (rows * group.cpu_gemm_ms + rates_.cpu_chunk_layer_ms) +
                    transfer_ms(flop, rates_.cpu_attend_tflops);
      continue;
    }
    arithmetic += transfer_ms(n * rows * group.gemm_tflop, rates_.gpu_gemm_tflops) +
                  transfer_ms(flop, rates_.gpu_attend_tflops) + n * rates_.launch_ms;
    out += transfer_ms(rows * kv, rates_.link_out);
    for (const WeightColumns& w : c.weights)
      for (const uint32_t column : {w.dram, w.nvme})
        link.push_back({column, transfer_ms(n * w.gb, rates_.link_in)});
    const uint32_t off = missing(group, sample, {{c.k_hbm, 1}});
    link.push_back({off, transfer_ms(kv, rates_.link_in)});
  }
  disk.push_back({spills_, written});
  Terms ahead = disk;
  ahead.insert(ahead.end(), link.begin(), link.end());
  const auto roof = [&](const Terms& terms, double constant) {
    add_roof(chunk_ms, terms, constant, ahead, waits_.prompt);
  };
  if (problem_.has_device) {
    roof({}, arithmetic);
    at_least(chunk_ms, {}, out);
    roof(link, 0);
    roof(disk, 0);
    at_least(chunk_ms, packing, 0);
    return;
  }
  Terms slowed = disk;
  for (LpTerm& term : slowed) term.factor *= rates_.nvme_slows_cpu;
  for (const LpTerm& term : packing) {
    slowed.push_back(term);
    disk.push_back({term.column, term.factor * rates_.cpu_slows_nvme});
  }
  roof(slowed, arithmetic);
  roof(disk, arithmetic * rates_.cpu_slows_nvme);
}

void PlacementProgram::add_limits() {
  if (problem_.tpot_max_ms > 0) at_most(problem_.tpot_max_ms, {{token_ms_, 1}});
  if (problem_.ttft_max_ms <= 0) return;
  Terms prompt;
  for (const auto& [column, weight] : chunks_) prompt.push_back({column, weight});
  at_most(problem_.ttft_max_ms - problem_.head_ms, prompt);
}

LpPlacement PlacementProgram::solve() const {
  const LpSolution solution = planner::solve(model_);
  LpPlacement placement;
  placement.n_iterations = solution.n_iterations;
  placement.is_feasible = solution.status == LpStatus::kOptimal;
  if (!placement.is_feasible) return placement;
  const auto value = [&](uint32_t column) { return solution.values[column]; };
  const auto products = [&](const WeightColumns& w) {
    return problem_.may_compute_products() ? value(w.products) : 0;
  };
  for (const GroupColumns& c : columns_)
    placement.groups.push_back(
        {.weights_hbm = value(c.weights[0].hbm) + value(c.weights[0].hbm_alone),
         .weights_dram = value(c.weights[0].dram),
         .weights_nvme = value(c.weights[0].nvme),
         .kv_hbm = value(c.k_hbm),
         .kv_dram = value(c.k_dram),
         .kv_nvme = value(c.k_nvme),
         .on_cpu = value(c.on_cpu),
         .products_on_cpu = products(c.weights[0]),
         .apart_on_cpu = c.weights.size() > 1 ? products(c.weights[1]) : 0,
         .hbm_alone = value(c.weights[0].hbm_alone),
         .apart_hbm_alone = c.weights.size() > 1 ? value(c.weights[1].hbm_alone) : 0});
  placement.tpot_ms = value(token_ms_);
  for (const auto& [column, weight] : chunks_) placement.ttft_ms += weight * value(column);
  placement.ttft_ms += problem_.head_ms;
  placement.objective_ms = placement.ttft_ms + problem_.n_out * placement.tpot_ms;
  if (problem_.has_device) placement.hbm_dual = solution.row_duals[hbm_row_];
  placement.dram_dual = solution.row_duals[dram_row_];
  placement.nvme_dual = solution.row_duals[nvme_row_];
  return placement;
}

}  // namespace

LpPlacement solve_placement(const PlacementProblem& problem, const LpWaits& waits) {
  if (problem.kv_pin == PlanTier::kNvme && !problem.may_spill) return {};
  return PlacementProgram(problem, waits).solve();
}

}  // namespace strata::planner
