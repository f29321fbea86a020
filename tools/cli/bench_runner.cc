#include "tools/cli/bench_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/seconds_since.h"
#include "engine/device_rate.h"
#include "engine/machine.h"
#include "tools/cli/attention_report.h"
#include "tools/cli/dram_read.h"
#include "tools/cli/sample_statistics.h"

namespace strata::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kCheckTokens = 33;  // a block and one position of the next
constexpr uint32_t kSpilledCheckTokens = kExtentPositions + 33;

bool is_quantised(const PackedMatrix& matrix) {
  return matrix.type != TensorType::kF32 && matrix.type != TensorType::kF16 &&
         matrix.type != TensorType::kBF16;
}

/// Of matrices of which some layer's are quantised: bytes.
Arithmetic arithmetic_of(const engine::Engine& engine, OpKind kind) {
  const engine::Model& model = engine.model();
  const auto of_matrix = [&](auto member) {
    for (uint32_t layer = 0; layer < model.shape().n_layers; ++layer)
      if (is_quantised(model.layer(layer).*member)) return Arithmetic::kInt8;
    return Arithmetic::kF32;
  };
  using engine::LayerWeights;
  switch (kind) {
    case OpKind::kQkv:
      return of_matrix(&LayerWeights::q);
    case OpKind::kAttnOutput:
      return of_matrix(&LayerWeights::attn_output);
    case OpKind::kFfnGateUp:
      return of_matrix(&LayerWeights::ffn_gate);
    case OpKind::kFfnDown:
      return of_matrix(&LayerWeights::ffn_down);
    case OpKind::kLogits:
      return is_quantised(model.output()) ? Arithmetic::kInt8 : Arithmetic::kF32;
    case OpKind::kAttend:
      return attend_arithmetic(engine.options().k_codec, engine.options().v_codec);
    case OpKind::kEmbed:
    case OpKind::kAttnNorm:
    case OpKind::kFfnNorm:
      return Arithmetic::kF32;
  }
  return Arithmetic::kF32;
}

/// Logits of a device beside the CPU's, as a share of their size. Activations in int8 make of a
/// last bit a step of 1/127 here and there, which a deep model of random weights makes a tenth; a
/// wrong row, block or matrix makes vectors that have nothing in common, 1.4 apart.
constexpr double kDeviceDistance = 0.4;

}  // namespace

void check_near_logits(std::span<const float> found, const std::string& found_how,
                       std::span<const float> wanted, const std::string& wanted_how) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    difference += std::pow(double{found[i]} - wanted[i], 2);
    size += std::pow(double{wanted[i]}, 2);
  }
  const double distance = std::sqrt(difference / size);
  if (distance <= kDeviceDistance) return;  // NaN is not
  throw Error(ErrorCode::kIo,
              fmt::format("the answer check failed: logits {} are {:.3f} of their size from those "
                          "{}",
                          found_how, distance, wanted_how),
              "bench", "report this with the model's name and the output of strata --version");
}

void check_same_logits(std::span<const float> found, const std::string& found_how,
                       std::span<const float> wanted, const std::string& wanted_how) {
  for (uint32_t i = 0; i < wanted.size(); ++i)
    if (!std::isfinite(found[i]) || std::memcmp(&found[i], &wanted[i], sizeof(float)) != 0)
      throw Error(ErrorCode::kIo,
                  fmt::format("the answer check failed: logit {} is {} {} and {} {}", i, found[i],
                              found_how, wanted[i], wanted_how),
                  "bench", "report this with the model's name and the output of strata --version");
}

std::string BenchTest::name() const {
  std::string text = n_prompt > 0 ? fmt::format("pp{}", n_prompt) : fmt::format("tg{}", n_gen);
  if (n_depth > 0) text += fmt::format(" @ d{}", n_depth);
  return text;
}

uint64_t deepest(const std::vector<BenchTest>& tests) {
  uint64_t n = 0;
  for (const BenchTest& test : tests) n = std::max(n, test.n_positions());
  return n;
}

double BenchResult::bytes_per_token() const {
  return static_cast<double>(bytes) / static_cast<double>(n_tokens());
}

double BenchResult::gbytes_per_s() const {
  return static_cast<double>(bytes) / median(samples_s) / 1e9;
}

std::vector<double> BenchResult::samples_tokens_per_s() const {
  std::vector<double> rates;
  for (const double seconds : samples_s) rates.push_back(n_tokens() / seconds);
  return rates;
}

uint64_t positions_to_hold(const std::vector<BenchTest>& tests) {
  // Each repetition is a fork of the depth, which copies one open block per stream.
  return std::max<uint64_t>(kCheckTokens, deepest(tests)) + 2 * uint64_t{kBlockPositions};
}

BenchRunner::BenchRunner(engine::Engine& engine, const Options& options)
    : engine_(engine), options_(options), filled_(engine.cache().make_sequence()) {
  engine_.walk().set_cancel(options.cancel);
  count_peak();
}

/// Call it before memory is taken that no plan counts, and forget that peak behind it.
void BenchRunner::count_peak() { peak_bytes_ = std::max(peak_bytes_, engine::peak_memory_bytes()); }

std::vector<int32_t> BenchRunner::random_tokens(uint32_t n) {
  return draw_.tokens(n, engine_.spec().shape.vocab_size);
}

/// By the device row by row and in one step, beside the CPU.
void BenchRunner::check_device_answer() {
  const auto tokens = random_tokens(kCheckTokens);
  const auto last_logits = [&](engine::Walk& walk, uint32_t chunk_rows) {
    engine::Sequence sequence = engine_.cache().make_sequence();
    engine::prefill(walk, sequence, tokens, chunk_rows);
    return std::vector<float>(walk.logits(0).begin(), walk.logits(0).end());
  };
  engine::Walk cpu(engine_.model(), engine_.cache(), engine_.kernels(), engine_.pool(),
                   kCheckTokens);
  const std::vector<float> wanted = last_logits(cpu, kCheckTokens);
  const std::vector<float> single = last_logits(engine_.walk(), 1);
  check_near_logits(single, "row by row", wanted, "of the CPU");
  check_near_logits(last_logits(engine_.walk(), kCheckTokens), "in one step", wanted, "of the CPU");
  check_same_logits(last_logits(engine_.walk(), 1), "again", single, "the first time");
}

void BenchRunner::check_answer() {
  if (engine_.device() != nullptr) return check_device_answer();
  const auto tokens = random_tokens(kCheckTokens);
  engine::Walk& walk = engine_.walk();
  std::vector<float> wanted;
  {
    engine::Sequence sequence = engine_.cache().make_sequence();
    engine::prefill(walk, sequence, tokens, kCheckTokens);
    wanted.assign(walk.logits(0).begin(), walk.logits(0).end());
  }
  engine::Sequence sequence = engine_.cache().make_sequence();
  for (const int32_t token : tokens) {
    const engine::StepRow row{&sequence, token, true};
    walk.step({&row, 1});
  }
  check_same_logits(walk.logits(0), "one by one", wanted, "in one step");
  if (engine_.cache().store().has_spill()) check_spilled_answer();
}

void BenchRunner::check_spilled_answer() {
  const auto tokens = random_tokens(kSpilledCheckTokens);
  engine::Walk& walk = engine_.walk();
  tiers::BlockStore& store = engine_.cache().store();
  engine::Sequence sequence = engine_.cache().make_sequence();
  engine::prefill(walk, sequence, std::span(tokens).first(tokens.size() - 1),
                  engine_.context().chunk_rows);
  const auto last_logits = [&] {
    engine::Sequence fork = sequence.fork();
    const engine::StepRow row{&fork, tokens.back(), true};
    walk.step({&row, 1});
    return std::vector<float>(walk.logits(0).begin(), walk.logits(0).end());
  };
  const std::vector<float> wanted = last_logits();
  // False: what is open stays. The extent that is closed goes.
  (void)store.make_room(store.pool().n_slots());
  const uint64_t n_read = store.counts().extents_read;
  const std::vector<float> found = last_logits();
  if (store.counts().extents_read == n_read)
    throw Error(ErrorCode::kIo, "the answer check found nothing on disk", "spill file",
                "see why the disk took nothing (dmesg), or name another one with --nvme");
  check_same_logits(found, "from disk", wanted, "in memory");
}

engine::Sequence& BenchRunner::depth_sequence(uint32_t n_depth, const Events& events) {
  if (filled_.n_pos() > n_depth) filled_.truncate(n_depth);
  if (filled_.n_pos() == n_depth) return filled_;
  const uint64_t n_held = filled_.n_pos();
  const auto tokens = random_tokens(n_depth - filled_.n_pos());
  if (options_.fill == DepthFill::kRandom) {
    fill_random(engine_, filled_, tokens, options_.cancel);
    if (filled_.index() != nullptr) index_blocks(engine_, filled_);
    return filled_;
  }
  engine::prefill(engine_.walk(), filled_, tokens, engine_.context().chunk_rows,
                  [&](uint64_t done, uint64_t) {
                    check_bench_cancelled(options_.cancel);
                    if (events.on_depth) events.on_depth(n_held + done, n_depth);
                    return true;
                  });
  return filled_;
}

/// Bytes of K, V and index rows that the selected step just walked read.
uint64_t BenchRunner::count_selected(BenchResult& result) {
  const engine::SelectionCounts now = engine_.walk().selection_counts();
  const engine::SelectionCounts step = now.since(counted_);
  counted_ = now;
  result.selected.add(step);
  return step.attended_positions() * kv_position_bytes(engine_.cache().layout()) + step.index_bytes;
}

/// Before a step, out of its time. False: what is open stays.
void BenchRunner::drop_kept_blocks() {
  tiers::BlockStore& store = engine_.cache().store();
  if (!options_.keeps_blocks && store.has_spill()) (void)store.make_room(store.pool().n_slots());
}

/// Adds the bytes and FLOP of the step that was just walked, and the times of its stages. Of full
/// layers of a selected step the plan says what exact attention would read: what was read instead
/// was counted, and the FLOP are taken to be in proportion.
void BenchRunner::count_step(BenchResult& result, engine::Attention attention, bool stages) {
  const engine::Walk& walk = engine_.walk();
  const bool is_selected = attention == engine::Attention::kSelected;
  uint64_t selected_bytes = 0;
  double share = 1;
  if (is_selected) {
    share = walk.selection_counts().since(counted_).attended_share();
    selected_bytes = count_selected(result);
  }
  for (size_t i = 0; i < walk.plan().ops.size(); ++i) {
    const StepOp& op = walk.plan().ops[i];
    uint64_t bytes = op.weight_bytes + op.kv_read_bytes + op.kv_write_bytes;
    uint64_t flop = op.flop;
    if (is_selected && op.kind == OpKind::kAttend &&
        engine_.cache().shape().layers[op.layer].window == 0) {
      bytes += std::exchange(selected_bytes, 0) - op.kv_read_bytes;
      flop = static_cast<uint64_t>(static_cast<double>(flop) * share);
    }
    if (!stages) {
      result.bytes += bytes;
      result.flop += flop;
      continue;
    }
    auto stage = std::ranges::find(result.stages, op.kind, &BenchStage::kind);
    if (stage == result.stages.end())
      stage = result.stages.insert(
          stage, {.kind = op.kind, .arithmetic = arithmetic_of(engine_, op.kind)});
    stage->seconds += walk.op_seconds()[i];
    stage->bytes += bytes;
    stage->flop += flop;
  }
}

/// Seconds of one run from a fork of `start`. Counts into `result` where there is one.
double BenchRunner::run_once(const BenchTest& test, const engine::Sequence& start,
                             BenchResult* result, bool stages) {
  engine::Sequence sequence = start.fork();
  const auto tokens = random_tokens(test.n_prompt + test.n_gen);
  engine::Walk& walk = engine_.walk();
  std::vector<engine::StepRow> rows;
  walk.set_timing(stages);
  counted_ = selection_counts(engine_);
  double total_s = 0, cpu_s = 0;
  for (uint32_t done = 0; done < tokens.size();) {
    check_bench_cancelled(options_.cancel);
    const auto [n_most, attention] = step_of(test, sequence.n_pos());
    const auto n = static_cast<uint32_t>(std::min<uint64_t>(n_most, tokens.size() - done));
    rows.clear();
    for (uint32_t i = done; i < done + n; ++i)
      rows.push_back({&sequence, tokens[i], test.n_gen > 0 || i + 1 == tokens.size()});
    drop_kept_blocks();
    const auto begin = Clock::now();
    const double cpu_begin_s = process_cpu_s();
    walk.step(rows, attention);
    cpu_s += process_cpu_s() - cpu_begin_s;
    total_s += seconds_since(begin);
    done += n;
    if (result != nullptr) count_step(*result, attention, stages);
  }
  walk.set_timing(false);
  if (result != nullptr && !stages) {
    result->cpu_s = cpu_s;
    if (sequence.index() != nullptr) result->index = measure_index(engine_, start, sequence, cpu_s);
  }
  return total_s;
}

tiers::TransferCounts BenchRunner::transfer_counts() {
  return engine_.cache().store().transfer_counts();
}

BenchResult BenchRunner::measure(const BenchTest& test, const Events& events) {
  STRATA_CHECK((test.n_prompt == 0) != (test.n_gen == 0), "%u prompt and %u decoded tokens",
               test.n_prompt, test.n_gen);
  BenchResult result{.test = test,
                     .start = std::chrono::system_clock::now(),
                     .samples_s = {},
                     .stages = {},
                     .peak = {},
                     .attribution = {},
                     .selected = {},
                     .index = {}};
  engine::forget_peak_memory();  // of the disk's probe, behind the test before
  const engine::Sequence& start = depth_sequence(test.n_depth, events);
  if (step_of(test, start.n_pos()).attention == engine::Attention::kSelected)
    check_selected_answer(engine_, start, random_tokens(1).front());
  count_peak();
  result.memory_gbytes_per_s =
      engine_.device() != nullptr
          ? engine::measure_device_copy(*engine_.device())
          : measure_dram_read(engine_.pool(), engine_.model().weight_memory());
  engine::forget_peak_memory();
  BenchTest warm_up = test;
  warm_up.n_gen = std::min(warm_up.n_gen, 2u);
  warm_up.n_prompt = std::min(warm_up.n_prompt, engine_.context().chunk_rows);
  run_once(warm_up, start, nullptr, false);
  for (uint32_t i = 0; i < options_.n_repetitions; ++i) {
    if (events.on_run) events.on_run(i + 1, options_.n_repetitions);
    const tiers::TransferCounts before = transfer_counts();
    const uint64_t weights_before = engine_.model().read_counts().read_bytes;
    result.samples_s.push_back(run_once(test, start, i == 0 ? &result : nullptr, false));
    if (i > 0) continue;
    result.nvme_read_bytes = transfer_counts().read_bytes - before.read_bytes;
    result.nvme_written_bytes = transfer_counts().written_bytes - before.written_bytes;
    result.weight_read_bytes = engine_.model().read_counts().read_bytes - weights_before;
  }
  // Stages are timed apart: the clock is read between operations.
  count_peak();
  result.peak_bytes = peak_bytes_;
  if (options_.roofline) {
    result.peak = measure_compute_peak(engine_.pool(), engine_.kernels());
    run_once(test, start, &result, true);
  }
  if (options_.trace != nullptr) {
    options_.trace->clear();
    options_.trace->set_on(true);
    run_once(test, start, nullptr, false);
    options_.trace->set_on(false);
    result.attribution = attribute(*options_.trace);
  }
  return result;
}

}  // namespace strata::cli
