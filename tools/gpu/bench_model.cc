// Whole steps of Llama 8B's shape with random weights through gpu_attn's steps and streamed
// weights, without the engine: decoding at two depths under caps of the device's memory, and
// prompts. Beside each time stands what the virtual device nearest to the card predicts for the
// same operations. Then single steps operation by operation.
//
// Before a time is printed the logits of its step are finite and the same bits as those of another
// placement: of the cap beside it, or of layers that are streamed.
// Bytes are weights and blocks of K and V, read once; where some come across the link the row's
// bytes, and its share, are those alone.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "tools/gpu/gpu_bench.h"
#include "tools/gpu/predicted_model.h"

namespace strata::gpu_bench {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr RandomModelSizes kLlama8B = {.n_layers = 32,
                                       .d_model = 4096,
                                       .n_heads = 32,
                                       .n_kv_heads = 8,
                                       .head_dim = 128,
                                       .d_ff = 14336,
                                       .vocab_size = 128256};
constexpr RandomModelSizes kSmall = {.n_layers = 4,
                                     .d_model = 256,
                                     .n_heads = 4,
                                     .n_kv_heads = 2,
                                     .head_dim = 64,
                                     .d_ff = 512,
                                     .vocab_size = 320};
constexpr double kRowSeconds = 0.6;
constexpr double kHostAheadUs = 2e4;  // the host takes to queue a step with its events, at most

std::string text_of(const char* format, double value) {
  char line[48];
  (void)std::snprintf(line, sizeof line, format, value);
  return line;
}

std::string name_of(const TextSteps& text) {
  if (text.is_decoding()) return "tg at " + std::to_string(text.first_position);
  std::string name = "pp" + std::to_string(text.n_rows * text.n_steps);
  if (text.n_steps > 1) name += " by " + std::to_string(text.n_rows);
  return name;
}

std::string cap_text(uint64_t bytes) {
  return bytes >= kGiB ? text_of("%.0f GiB", static_cast<double>(bytes) / kGiB)
                       : text_of("%.2f MiB", static_cast<double>(bytes) * 1024 / kGiB);
}

void expect_finite(const std::vector<float>& logits, const std::string& name) {
  double squares = 0;
  for (const float value : logits) squares += double{value} * double{value};
  if (!std::isfinite(squares) || squares == 0)
    throw std::runtime_error(name + ": the logits are not finite, or nothing");
}

void expect_same(const std::vector<float>& logits, const std::vector<float>& wanted,
                 const std::string& name) {
  if (logits != wanted) throw std::runtime_error(name + ": other logits than everything there");
}

class ModelBench {
 public:
  explicit ModelBench(GpuBench& bench)
      : bench_(bench),
        source_(bench.is_small() ? kSmall : kLlama8B, bench.is_small() ? kGiB / 512 : kGiB),
        profile_(planner::nearest_profile(bench.facts())),
        on_{bench.table(), bench.device(), bench.stream(), bench.facts().n_multiprocessors} {}

  void decode(uint32_t depth);
  void prompt(const TextSteps& text);
  void break_down(const TextSteps& text);

 private:
  BenchRow measure(const TextSteps& text, uint64_t cap, std::vector<float>* logits);
  std::vector<uint64_t> caps_of(const engine::DevicePlan& whole) const;
  uint64_t streaming_cap(const engine::DevicePlan& whole) const;
  PredictedSteps predict(const TextSteps& text, uint64_t cap, bool wants_operations) const {
    return predict_steps(profile_, source_, text, cap, on_.n_multiprocessors, wants_operations);
  }
  std::string predicted_text(double us, const std::string& why_not) const;

  GpuBench& bench_;
  ModelSource source_;
  const planner::DeviceProfile& profile_;
  OnDevice on_;
};

/// In which K and V have next to nothing and a quarter of the layers does not stay.
uint64_t ModelBench::streaming_cap(const engine::DevicePlan& whole) const {
  const gpu_attn::DeviceModel& model = source_.model();
  const uint64_t n_layers = std::max<uint64_t>(1, model.layers.size() / 4);
  return whole.hbm_bytes - whole.kv_bytes - n_layers * gpu_attn::layer_bytes(model.layers[0]);
}

/// Those that do not hold all of it.
std::vector<uint64_t> ModelBench::caps_of(const engine::DevicePlan& whole) const {
  if (bench_.is_small()) {
    return {whole.hbm_bytes - whole.kv_bytes / 2, streaming_cap(whole)};
  }
  std::vector<uint64_t> caps;
  for (const uint64_t gib : {24u, 12u, 8u, 4u})
    if (gib * kGiB < whole.hbm_bytes) caps.push_back(gib * kGiB);
  return caps;
}

std::string ModelBench::predicted_text(double us, const std::string& why_not) const {
  if (us == 0) return "no prediction: " + why_not;
  return std::string(profile_.name) + " predicted " + text_of("%.3f ms", us * 1e-3);
}

/// `logits` are the step's; where some are there they have to be the same.
BenchRow ModelBench::measure(const TextSteps& text, uint64_t cap, std::vector<float>* logits) {
  const std::string name = name_of(text) + (cap == 0 ? "" : ", " + cap_text(cap));
  PlacedModel placed(on_, source_, text, cap);
  placed.queue();
  const std::vector<float> found = placed.logits();
  expect_finite(found, name);
  if (logits->empty()) *logits = found;
  expect_same(found, *logits, name);
  const bool is_graph = placed.can_be_graph();
  if (is_graph) {
    placed.queue_graph();
    expect_same(placed.logits(), *logits, name + ", as a graph");
  }
  BenchRow row = bench_.time(
      name, [&](uint32_t) { is_graph ? placed.queue_graph() : placed.queue(); }, kRowSeconds);
  const auto n_tokens = static_cast<double>(text.n_rows * text.n_steps);
  row.note =
      text_of("%.3f ms, ", row.us * 1e-3) + text_of("%.1f tokens/s; ", n_tokens / (row.us * 1e-6));
  const PredictedSteps predicted = predict(text, cap, false);
  row.note += predicted_text(predicted.us, predicted.why_not);
  if (!text.is_decoding()) {
    row.flop = placed.flop();
    row.ceiling = "tensor";
    return row;
  }
  const bool is_whole = placed.link_read_bytes() == 0;
  row.bytes = is_whole ? placed.hbm_read_bytes() : placed.link_read_bytes();
  row.ceiling = is_whole ? "copy" : "link";
  if (!is_whole)
    row.note += "; " + std::to_string(placed.plan().n_streamed()) + " layers streamed, " +
                text_of("%.3f GB across the link", static_cast<double>(row.bytes) * 1e-9);
  return row;
}

void ModelBench::decode(uint32_t depth) {
  const TextSteps text{.first_position = depth};
  std::vector<float> logits;
  std::vector<BenchRow> rows = {measure(text, 0, &logits)};
  const engine::DevicePlan whole = PlacedModel(on_, source_, text, 0).plan();
  for (const uint64_t cap : caps_of(whole)) rows.push_back(measure(text, cap, &logits));
  rows[0].note += "; " + cap_text(whole.hbm_bytes) + " hold all of it";
  for (BenchRow& row : rows) bench_.add(std::move(row));
}

void ModelBench::prompt(const TextSteps& text) {
  const engine::DevicePlan whole = PlacedModel(on_, source_, text, 0).plan();
  std::vector<float> logits;
  {
    PlacedModel streamed(on_, source_, text, streaming_cap(whole));
    streamed.queue();
    logits = streamed.logits();
  }
  bench_.add(measure(text, 0, &logits));
}

/// The operations of a step, timed one by one; shares are of the step's time without that.
void ModelBench::break_down(const TextSteps& text) {
  const std::string name = name_of(text) + ": ";
  StepTable table(bench_.table(), bench_.device());
  const OnDevice on{table.table(), on_.device, on_.stream, on_.n_multiprocessors};
  PlacedModel placed(on, source_, text, 0);
  const auto queue = [&](uint32_t) { placed.queue(); };
  BenchRow step = bench_.time(name + "the step, a call for each operation", queue, kRowSeconds);
  bench_.keep_busy(kHostAheadUs);
  table.begin();
  placed.queue();
  std::vector<OperationTime> operations;
  on_.check(table.end(on_.stream, &operations));
  const PredictedSteps predicted = predict(text, 0, true);
  double sum_us = 0;
  for (const OperationTime& of : operations) {
    BenchRow row;
    row.name = name + of.name;
    row.us = of.us;
    row.ceiling = "step";
    row.share = of.us / step.us;
    row.note = std::to_string(of.n_calls) + " calls";
    for (const OperationTime& other : predicted.operations) {
      if (other.name != of.name) continue;
      row.bytes = other.bytes;
      row.flop = other.flop;
      row.note += text_of(", predicted %.1f us", other.us);
    }
    sum_us += of.us;
    bench_.add(std::move(row));
  }
  BenchRow all;
  all.name = name + "all operations";
  all.us = sum_us;
  all.ceiling = "step";
  all.share = sum_us / step.us;
  all.note = "with an event before and after each";
  bench_.add(std::move(all));
  step.note = predicted_text(predicted.us, predicted.why_not);
  if (text.is_decoding()) step.note += " as a graph";
  bench_.add(std::move(step));
}

/// All parts, whatever becomes of one: a card's time is rare. Throws what went wrong.
void run_all(std::initializer_list<std::function<void()>> parts) {
  std::string wrong;
  for (const auto& part : parts) {
    try {
      part();
    } catch (const std::runtime_error& error) {
      wrong += (wrong.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  if (!wrong.empty()) throw std::runtime_error(wrong);
}

}  // namespace

/// The most telling parts come first: the time may be over before the last.
void bench_model(GpuBench& bench) {
  ModelBench model(bench);
  if (bench.is_small())
    return run_all({[&] { model.decode(1024); },  // more blocks than the pool has
                    [&] { model.break_down({.first_position = 32}); },
                    [&] { model.prompt({.n_rows = 32, .n_steps = 2}); },
                    [&] { model.break_down({.n_rows = 32}); }});
  run_all({[&] { model.decode(8192); }, [&] { model.prompt({.n_rows = 512}); },
           [&] { model.break_down({.n_rows = 512}); },
           [&] { model.break_down({.first_position = 8192}); }, [&] { model.decode(131072); },
           [&] { model.prompt({.n_rows = 512, .n_steps = 8}); },
           [&] { model.prompt({.n_rows = 2048, .n_steps = 2}); },
           [&] { model.break_down({.n_rows = 2048}); }});
}

}  // namespace strata::gpu_bench
