#include "planner/placement/step_time.h"

#include <algorithm>

#include "base/check.h"
#include "planner/placement/placed_layers.h"

namespace strata::planner {
namespace {

constexpr uint32_t kSlots = 2;  // of layers that pass, in DRAM and in HBM
constexpr uint32_t kLeasesKept = kSlots + 1;
constexpr uint32_t kTokens = 3;  // the last of them is in the steady state

/// What one layer of one step asks of each part, in ms.
struct LayerWork {
  double weights_disk = 0, weights_link = 0;  // ahead, through slots
  double early_disk = 0;                      // of weights_disk, before a slot is free
  double pack = 0;                            // of what comes from the disk
  double kv_disk = 0, kv_link = 0;            // ahead by a layer, or by kv_layers
  uint32_t kv_layers = 0;
  double linear = 0, attend = 0;
  double cpu_linear = 0;     // products of the CPU beside a device, which waits for them
  double exposed_disk = 0;   // known when the layer attends
  double in_place_link = 0;  // of attend, across the link
  double on_cpu = 0;         // of attend, by the CPU beside a device
  double out_link = 0, written_disk = 0;

  double chain() const { return linear + cpu_linear + attend + exposed_disk; }
  double disk() const { return weights_disk + kv_disk + exposed_disk + written_disk; }
  double link() const { return weights_link + kv_link + in_place_link; }
};

/// The parts' clocks, one layer after the other.
class Pipeline {
 public:
  Pipeline(PlanPart computing, double answer_ms) : computing_(computing), answer_ms_(answer_ms) {}
  /// What K and V are read from the disk is known where a step begins.
  void begin_step() {
    step_began_ = now();
    kv_ends_.clear();
  }
  void run(const LayerWork& work);
  /// Records what follows.
  void record(std::vector<StepEvent>* events) { events_ = events; }
  void add(double ms) { computed_ += ms; }
  double now() const { return std::max(computed_, stored_); }

 private:
  struct Slots {
    double free_at[kSlots] = {};
    uint32_t next = 0;
    double& take() { return free_at[next++ % kSlots]; }
  };
  /// The end of what a part begins then.
  double used(PlanPart part, double begin, double ms) {
    if (events_ != nullptr && ms > 0) events_->push_back({part, layer_, begin, begin + ms});
    return begin + ms;
  }
  /// When so much of reading ends that may begin then. A disk that was idle answers late.
  double read(double begin, double ms) {
    const double late = begin > disk_ ? answer_ms_ : 0;
    disk_ = used(PlanPart::kNvme, std::max(disk_, begin) + late, ms);
    return disk_;
  }
  PlanPart computing_;
  double answer_ms_;
  std::vector<StepEvent>* events_ = nullptr;
  uint32_t layer_ = 0;  // of those that were recorded
  double computed_ = 0, disk_ = 0, link_ = 0, stored_ = 0;
  double step_began_ = 0, layer_began_ = 0;
  double leases_[kLeasesKept] = {};  // ends of the last, of layers that came from the disk
  uint32_t n_leases_ = 0;
  std::vector<double> kv_ends_;  // of this step's layers that read K and V
  Slots hbm_;
};

void Pipeline::run(const LayerWork& work) {
  double arrived = 0, kv_arrived = 0;
  double* hbm_slot = nullptr;
  double* lease = nullptr;
  if (work.weights_disk > 0) {
    lease = &leases_[n_leases_ % kLeasesKept];  // now the end of the one kLeasesKept before
    const double slot_free = leases_[(n_leases_ + 1) % kLeasesKept];
    ++n_leases_;
    if (work.early_disk > 0) read(*lease, work.early_disk);
    arrived = work.weights_disk > work.early_disk
                  ? read(slot_free, work.weights_disk - work.early_disk)
                  : disk_;
  }
  if (work.weights_link > 0) {
    hbm_slot = &hbm_.take();
    link_ = used(PlanPart::kLinkIn, std::max({link_, arrived, *hbm_slot}), work.weights_link);
    arrived = link_;
    if (lease != nullptr) *lease = link_;
  }
  if (work.kv_disk > 0) {
    double may_begin = std::max(layer_began_, step_began_);
    if (work.kv_layers > 0)
      may_begin = kv_ends_.size() < work.kv_layers
                      ? step_began_
                      : std::min(may_begin, kv_ends_[kv_ends_.size() - work.kv_layers]);
    kv_arrived = read(may_begin, work.kv_disk);
  }
  if (work.kv_link > 0) {
    link_ = used(PlanPart::kLinkIn, std::max({link_, layer_began_, kv_arrived}), work.kv_link);
    kv_arrived = link_;
  }
  const double begins = std::max(computed_, arrived);
  layer_began_ = begins;
  const double multiplied =
      used(PlanPart::kCpu, used(computing_, begins, work.linear), work.cpu_linear);
  double attends = std::max(multiplied, kv_arrived);
  if (work.exposed_disk > 0) attends = read(attends, work.exposed_disk);
  used(PlanPart::kLinkIn, attends, work.in_place_link);
  used(PlanPart::kCpu, attends, work.on_cpu);
  link_ += work.in_place_link;  // shared with copies that are under way: only the sum is known
  computed_ = used(computing_, attends, work.attend);
  if (lease != nullptr && hbm_slot == nullptr) *lease = computed_;
  if (work.kv_disk > 0) kv_ends_.push_back(computed_);
  if (hbm_slot != nullptr) *hbm_slot = computed_;
  if (work.out_link > 0)
    stored_ = used(PlanPart::kLinkOut, std::max(stored_, computed_), work.out_link);
  disk_ += work.written_disk;
  if (events_ != nullptr) ++layer_;
}

/// Of so much that is not in HBM, beside attention of near_ms over what is: what is stated, what
/// makes both sides end together, or all.
double share_of_cpu(const PlacementProblem& problem, CpuPart part, double far_gb, double near_ms) {
  if (part == CpuPart::kNone || far_gb <= 0) return 0;
  if (problem.stated_cpu_share) return *problem.stated_cpu_share;
  if (part == CpuPart::kAll) return 1;
  const PlanRates& rates = problem.rates;
  const double link = transfer_ms(far_gb, rates.link_in);
  const double on_cpu = transfer_ms(far_gb, rates.cpu_attend);
  return std::clamp((near_ms + link - rates.shared_layer_ms()) / (on_cpu + link), 0.0, 1.0);
}

class StepClock {
 public:
  StepClock(const PlacementProblem& problem, const LayerPlacement& placement)
      : problem_(problem),
        rates_(problem.rates),
        placement_(placement),
        layers_(placed_layers(problem, placement)),
        is_spilling_(placement.is_spilling(problem)) {}

  LayerWork token_work(const PlacedLayer& layer);
  LayerWork chunk_work(const PlacedLayer& layer, const ChunkSample& chunk);
  void add_weights(const PlacedLayer& layer, bool is_token, LayerWork& work);
  void add_moved(const MovedWeights& weights, PlanTier tier, LayerWork& work);
  void add_products(const PlacedLayer& layer, LayerWork& work);
  double beside_device(bool is_full, double far_gb, double near_ms, LayerWork& work);
  PlanPart computing() const { return problem_.has_device ? PlanPart::kGpu : PlanPart::kCpu; }
  void head() { busy(computing(), problem_.head_ms); }
  double step() { return busy(PlanPart::kCpu, problem_.step_ms()); }
  double search();
  void count_waits(const std::vector<LayerWork>& works, double beside_ms);
  double contention(const StepTime& step) const;

  double busy(PlanPart part, double ms) {
    time_.busy_ms[static_cast<size_t>(part)] += ms;
    return ms;
  }
  double extents_ms(const LayerGroup& group, double gb) const {
    return transfer_ms(gb * group.kv_read_share, rates_.nvme_read);
  }
  void moved(double gb) { busy(PlanPart::kDram, transfer_ms(gb, rates_.dram_read)); }

  const PlacementProblem& problem_;
  const PlanRates& rates_;
  const LayerPlacement& placement_;
  std::vector<PlacedLayer> layers_;
  bool is_spilling_;
  StepTime time_;
  double exposed_ms_ = 0;  // of the disk, with nothing beside it
};

/// The index, by who has its rows near.
double StepClock::search() {
  if (!problem_.card_searches()) {
    moved(problem_.index_scan_gb());
    return busy(PlanPart::kCpu, problem_.index_scan_ms());
  }
  return busy(PlanPart::kGpu, problem_.index_scan_ms()) +
         busy(PlanPart::kLinkOut, problem_.index_link_ms());
}

/// Of a layer whose pieces both come from the disk the ring holds as much as of the one that it
/// holds more of.
void StepClock::add_moved(const MovedWeights& weights, PlanTier tier, LayerWork& work) {
  if (tier == PlanTier::kNvme) {
    const double read_gb = weights.weight_gb * weights.weights_read_share;
    const double ms = busy(PlanPart::kNvme, transfer_ms(read_gb, rates_.nvme_read));
    work.weights_disk += ms;
    work.early_disk =
        std::min(work.weights_disk, std::max(work.early_disk, ms * weights.ahead_share));
    work.pack += busy(PlanPart::kCpu, weights.pack_ms);
    moved(weights.weight_gb);
  }
  if (problem_.has_device && tier != PlanTier::kHbm) {
    work.weights_link += busy(PlanPart::kLinkIn, transfer_ms(weights.weight_gb, rates_.link_in));
    moved(weights.weight_gb);
  }
}

void StepClock::add_weights(const PlacedLayer& layer, bool is_token, LayerWork& work) {
  const auto add = [&](const MovedWeights& weights, PlanTier tier, bool is_on_cpu) {
    if (is_token && is_on_cpu)
      moved(weights.weight_gb);  // by who computes with it
    else
      add_moved(weights, tier, work);
  };
  add(*layer.group, layer.weights.tier, layer.weights.is_on_cpu);
  if (const auto& apart = layer.group->apart)
    add(*apart, apart->tier, layer.weights.is_apart_on_cpu);
  if (problem_.has_device) {
    work.weights_disk = std::max(work.weights_disk, work.pack);  // of one run beside the next
  } else {
    work.linear += work.pack;
  }
}

/// Of a token beside a device: by the card, but for what the CPU computes in DRAM.
void StepClock::add_products(const PlacedLayer& layer, LayerWork& work) {
  const LayerGroup& group = *layer.group;
  double on_cpu_gb = layer.weights.is_on_cpu ? group.weight_gb : 0;
  if (const auto& apart = group.apart; apart && layer.weights.is_apart_on_cpu)
    on_cpu_gb += apart->weight_gb;
  if (on_cpu_gb > 0)
    work.cpu_linear = busy(PlanPart::kCpu, problem_.cpu_products_ms(group, on_cpu_gb)) +
                      problem_.cpu_products_link_ms(layer.on_cpu());
  work.linear = busy(PlanPart::kGpu, transfer_ms(group.layer_gb() - on_cpu_gb, rates_.hbm_gemv));
}

/// The attention of a device, near_ms of it over what is in HBM, with what lies in DRAM read across
/// the link or attended by the CPU meanwhile.
double StepClock::beside_device(bool is_full, double far_gb, double near_ms, LayerWork& work) {
  const double link = transfer_ms(far_gb, rates_.link_in);
  const double on_cpu = transfer_ms(far_gb, rates_.cpu_attend);
  const double share = is_full ? share_of_cpu(problem_, placement_.cpu_part, far_gb, near_ms) : 0;
  work.in_place_link = busy(PlanPart::kLinkIn, (1 - share) * link);
  const double cpu_ms =
      share > 0 ? busy(PlanPart::kCpu, share * on_cpu) + rates_.shared_layer_ms() : 0;
  work.on_cpu = cpu_ms;
  busy(PlanPart::kGpu, near_ms);  // its waits for the link are the link's
  moved(far_gb);
  return std::max(near_ms + work.in_place_link, cpu_ms);
}

LayerWork StepClock::token_work(const PlacedLayer& layer) {
  const LayerGroup& group = *layer.group;
  LayerWork work;
  add_weights(layer, /*is_token=*/true, work);
  const double share = group.is_full() ? problem_.share_touched() : 1;
  const bool is_chosen = share < 1;
  const double touched = share * group.attended(problem_.n_decode_positions()) * group.kv_gb;
  const double hbm_share = layer.kv->kv_hbm / group.n_held;
  const double home_share = (layer.kv->kv_hbm + layer.kv->kv_dram) / group.n_held;
  if (const double gb = touched * std::max(0.0, 1 - home_share); gb > 0) {
    const double ms = busy(PlanPart::kNvme,
                           is_chosen ? transfer_ms(gb, rates_.nvme_blocks) : extents_ms(group, gb));
    (is_chosen ? work.exposed_disk : work.kv_disk) = ms;
    work.kv_layers = static_cast<uint32_t>(std::min(problem_.staged_positions * group.kv_gb / gb,
                                                    static_cast<double>(layers_.size())));
    if (is_chosen) exposed_ms_ += ms;
    moved(gb);
  }
  if (!problem_.has_device) {
    work.linear += busy(PlanPart::kCpu, group.cpu_linear_ms + rates_.cpu_layer_ms);
    work.attend = busy(PlanPart::kCpu, transfer_ms(touched, rates_.cpu_attend));
    moved(group.layer_gb() + touched);
    return work;
  }
  add_products(layer, work);
  const double near_ms = transfer_ms(touched * hbm_share, rates_.hbm_attend);
  work.attend = beside_device(group.is_full(), touched * (1 - hbm_share), near_ms, work) +
                rates_.launch_ms + problem_.choosing_link_ms(group);
  return work;
}

LayerWork StepClock::chunk_work(const PlacedLayer& layer, const ChunkSample& chunk) {
  const LayerGroup& group = *layer.group;
  LayerWork work;
  add_weights(layer, /*is_token=*/false, work);
  const double before = group.attended(chunk.first_pos), rows = chunk.n_rows;
  const double flop = rows * group.attended(chunk.first_pos + rows / 2) * group.attend_tflop;
  const double lost = std::max(0.0, before - layer.kv->kv_hbm - layer.kv->kv_dram) * group.kv_gb;
  if (group.is_full() && is_spilling_) {
    work.kv_disk = busy(PlanPart::kNvme, extents_ms(group, lost));
    work.written_disk = busy(PlanPart::kNvme, transfer_ms(rows * group.kv_gb, rates_.nvme_write));
  }
  if (!problem_.has_device) {
    work.linear += busy(PlanPart::kCpu, rows * group.cpu_gemm_ms + rates_.cpu_chunk_layer_ms);
    work.attend = busy(PlanPart::kCpu, transfer_ms(flop, rates_.cpu_attend_tflops));
    return work;
  }
  const double far = std::max(0.0, before - layer.kv->kv_hbm) * group.kv_gb;
  work.kv_link = busy(PlanPart::kLinkIn, transfer_ms(far, rates_.link_in));
  work.out_link = busy(PlanPart::kLinkOut, transfer_ms(rows * group.kv_gb, rates_.link_out));
  work.linear = busy(PlanPart::kGpu, transfer_ms(rows * group.gemm_tflop, rates_.gpu_gemm_tflops));
  work.attend =
      busy(PlanPart::kGpu, transfer_ms(flop, rates_.gpu_attend_tflops)) + rates_.launch_ms;
  return work;
}

/// What the disk and the CPU cost each other, as the linear program has it. Beside a device the CPU
/// packs weights and multiplies some: one after the other.
double StepClock::contention(const StepTime& step) const {
  if (problem_.has_device)
    return std::max(step.ms, step.busy_ms[static_cast<size_t>(PlanPart::kCpu)]);
  const double cpu = step.busy_ms[static_cast<size_t>(PlanPart::kCpu)];
  const double disk = step.busy_ms[static_cast<size_t>(PlanPart::kNvme)];
  return std::max({step.ms, cpu + exposed_ms_ + rates_.nvme_slows_cpu * (disk - exposed_ms_),
                   disk + rates_.cpu_slows_nvme * cpu});
}

/// What of the step's ms neither the chain nor a part accounts for.
void StepClock::count_waits(const std::vector<LayerWork>& works, double beside_ms) {
  double chain = beside_ms, disk = 0, link = 0, exposed = 0;
  for (const LayerWork& work : works) {
    chain += work.chain();
    disk += work.disk();
    link += work.link();
    exposed += work.exposed_disk;
  }
  StepTime summed = time_;
  summed.ms = std::max({chain, disk, link, time_.busy_ms[static_cast<size_t>(PlanPart::kDram)]});
  const double roof = contention(summed);
  time_.waits_ms = std::max(0.0, time_.ms - roof);
  time_.ahead_ms = disk - exposed + link;
}

/// The events of a step that ends at `end_ms`, the one before it having ended at `begin_ms`: from 0
/// on, and stretched where parts that slow each other make it `ms`.
void shift_events(double begin_ms, double end_ms, double ms, std::vector<StepEvent>& events) {
  const double stretch = end_ms > begin_ms ? ms / (end_ms - begin_ms) : 1;
  for (StepEvent& event : events) {
    event.begin_ms = (event.begin_ms - begin_ms) * stretch;
    event.end_ms = (event.end_ms - begin_ms) * stretch;
  }
}

}  // namespace

const char* plan_part_name(PlanPart part) {
  constexpr const char* kNames[kPlanParts] = {"CPU", "DRAM", "NVMe", "link in", "link out", "GPU"};
  return kNames[static_cast<size_t>(part)];
}

PlanPart StepTime::binding() const {
  const auto most = std::ranges::max_element(busy_ms);
  const auto part = static_cast<PlanPart>(most - busy_ms.begin());
  const double dram = busy_ms[static_cast<size_t>(PlanPart::kDram)];
  return part == PlanPart::kCpu && dram >= kDramBound * *most ? PlanPart::kDram : part;
}

StepTime token_time(const PlacementProblem& problem, const LayerPlacement& placement,
                    std::vector<StepEvent>* events) {
  StepClock clock(problem, placement);
  std::vector<LayerWork> works;
  works.reserve(clock.layers_.size());
  for (const PlacedLayer& layer : clock.layers_) works.push_back(clock.token_work(layer));
  clock.head();
  const double once = clock.step() + problem.head_ms + clock.search();
  Pipeline pipeline(clock.computing(), problem.rates.nvme_answer_ms);
  double before = 0;
  for (uint32_t token = 0; token < kTokens; ++token) {
    before = pipeline.now();
    pipeline.begin_step();
    if (token + 1 == kTokens) pipeline.record(events);
    for (const LayerWork& work : works) pipeline.run(work);
    pipeline.add(once);
  }
  StepTime& time = clock.time_;
  time.ms = pipeline.now() - before;
  clock.count_waits(works, once);
  time.ms = std::max({clock.contention(time), time.busy_ms[static_cast<size_t>(PlanPart::kDram)]});
  if (events != nullptr) shift_events(before, pipeline.now(), time.ms, *events);
  return time;
}

StepTime prompt_time(const PlacementProblem& problem, const LayerPlacement& placement) {
  StepClock clock(problem, placement);
  StepTime sum;
  for (const ChunkSample& chunk : chunk_samples(problem)) {
    clock.time_ = {};
    std::vector<LayerWork> works;
    works.reserve(clock.layers_.size());
    for (const PlacedLayer& layer : clock.layers_) works.push_back(clock.chunk_work(layer, chunk));
    const double once = clock.step();
    // Like tokens: the chunk before has left the slots full.
    Pipeline pipeline(clock.computing(), problem.rates.nvme_answer_ms);
    double before = 0;
    for (uint32_t pass = 0; pass < kTokens; ++pass) {
      before = pipeline.now();
      pipeline.begin_step();
      for (const LayerWork& work : works) pipeline.run(work);
      pipeline.add(once);
    }
    StepTime& time = clock.time_;
    time.ms = pipeline.now() - before;
    clock.count_waits(works, once);
    // A file that is written behind the walk holds it up where it is the slowest.
    time.ms = std::max(clock.contention(time), time.busy_ms[static_cast<size_t>(PlanPart::kNvme)]);
    sum.ms += chunk.weight * time.ms;
    sum.waits_ms += chunk.weight * time.waits_ms;
    sum.ahead_ms += chunk.weight * time.ahead_ms;
    for (size_t i = 0; i < kPlanParts; ++i) sum.busy_ms[i] += chunk.weight * time.busy_ms[i];
  }
  sum.ms += problem.head_ms;
  return sum;
}

double cpu_share(const PlacementProblem& problem, const LayerPlacement& placement) {
  double far = 0, on_cpu = 0;  // GB
  for (size_t g = 0; g < problem.groups.size(); ++g) {
    const LayerGroup& group = problem.groups[g];
    if (!problem.has_device || !group.is_full()) continue;
    const double touched = problem.share_touched() * problem.n_decode_positions() * group.kv_gb;
    const double in_hbm = touched * placement.groups[g].kv_hbm / group.n_held;
    const double near_ms = transfer_ms(in_hbm, problem.rates.hbm_attend);
    const double share = share_of_cpu(problem, placement.cpu_part, touched - in_hbm, near_ms);
    far += group.n_layers() * (touched - in_hbm);
    on_cpu += group.n_layers() * share * (touched - in_hbm);
  }
  return far > 0 ? on_cpu / far : 0;
}

double prompt_floor_ms(const PlacementProblem& problem) {
  LayerPlacement near;
  for (const LayerGroup& group : problem.groups) {
    const auto n = static_cast<uint32_t>(group.layers.size());
    GroupPlace& place = near.groups.emplace_back();
    (problem.has_device ? place.n_hbm : place.n_dram) = n;
    (problem.has_device ? place.kv_hbm : place.kv_dram) = group.n_held;
  }
  return prompt_time(problem, near).ms;
}

double request_ms(const PlacementProblem& problem, const LayerPlacement& placement) {
  return prompt_time(problem, placement).ms + problem.n_out * token_time(problem, placement).ms;
}

}  // namespace strata::planner
