#include "tools/cli/bench_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "base/error.h"
#include "base/host_memory.h"
#include "tools/cli/dram_read.h"

namespace strata::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kCheckTokens = 33;  // a block and one position of the next
constexpr uint32_t kPatterns = 16;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

uint64_t budget(const engine::Model& model, const BenchRunner::Options& options,
                const std::vector<BenchTest>& tests) {
  // The depth is held once and shared with each repetition's fork, which copies one open block per
  // stream. In a windowed layer the fork moves on while the depth keeps its window, so both hold
  // one.
  ModelShape shape = model.shape();
  const uint64_t n_positions =
      std::max<uint64_t>(kCheckTokens, deepest(tests)) + 2 * uint64_t{kBlockPositions};
  const auto bytes = [&] {
    return engine::kv_bytes_for_context(shape, options.k_codec, options.v_codec, n_positions,
                                        options.chunk_rows);
  };
  const uint64_t of_one = bytes();
  std::erase_if(shape.layers, [](const LayerShape& layer) { return layer.window == 0; });
  return of_one + bytes();
}

}  // namespace

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

double median(std::vector<double> values) {
  STRATA_CHECK(!values.empty(), "no values");
  std::ranges::sort(values);
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double mean(const std::vector<double>& values) {
  STRATA_CHECK(!values.empty(), "no values");
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double standard_deviation(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const double centre = mean(values);
  double squares = 0;
  for (const double value : values) squares += (value - centre) * (value - centre);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
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

BenchRunner::BenchRunner(const engine::Model& model, const KernelTable& kernels, ThreadPool& pool,
                         const Options& options, const std::vector<BenchTest>& tests)
    : model_(model),
      kernels_(kernels),
      pool_(pool),
      options_(options),
      cache_(model.shape(), {.k_codec = options.k_codec,
                             .v_codec = options.v_codec,
                             .budget_bytes = budget(model, options, tests),
                             .chunk_rows = options.chunk_rows}),
      walk_(model, cache_, kernels, pool, options.chunk_rows),
      filled_(cache_.make_sequence()) {}

std::vector<int32_t> BenchRunner::random_tokens(uint32_t n) {
  std::vector<int32_t> tokens(n);
  for (auto& token : tokens) {  // an LCG's high bits are enough to spread embedding rows
    random_state_ = random_state_ * 6364136223846793005u + 1442695040888963407u;
    token = static_cast<int32_t>((random_state_ >> 33) % model_.shape().vocab_size);
  }
  return tokens;
}

void BenchRunner::check_answer() {
  const auto tokens = random_tokens(kCheckTokens);
  std::vector<float> wanted;
  {
    engine::Sequence sequence = cache_.make_sequence();
    engine::prefill(walk_, sequence, tokens, kCheckTokens);
    wanted.assign(walk_.logits(0).begin(), walk_.logits(0).end());
  }
  engine::Sequence sequence = cache_.make_sequence();
  for (const int32_t token : tokens) {
    const engine::StepRow row{&sequence, token, true};
    walk_.step({&row, 1});
  }
  const auto found = walk_.logits(0);
  for (uint32_t i = 0; i < found.size(); ++i)
    if (!std::isfinite(found[i]) || std::memcmp(&found[i], &wanted[i], sizeof(float)) != 0)
      throw Error(
          ErrorCode::kIo,
          fmt::format("the answer check failed: logit {} is {} one by one and {} in one step", i,
                      found[i], wanted[i]),
          "bench", "report this with the model's name and the output of strata --version");
}

float BenchRunner::draw_value() {  // sum of four uniform values, standard deviation 0.05
  float sum = 0;
  for (int i = 0; i < 4; ++i) {
    random_state_ = random_state_ * 6364136223846793005u + 1442695040888963407u;
    sum += static_cast<float>(random_state_ >> 40) * 0x1p-24f - 0.5f;
  }
  return sum * 0.0866f;
}

/// Blocks of small normal-like values, stored as the walk stores them: a diffuse softmax, as after
/// a real prefill.
HostMemory BenchRunner::draw_patterns() {
  const KvLayout& layout = cache_.layout();
  HostMemory patterns = HostMemory::reserve(uint64_t{kPatterns} * layout.block_bytes);
  std::vector<float> k(layout.head_dim), v(layout.head_dim);
  for (uint32_t pattern = 0; pattern < kPatterns; ++pattern)
    for (uint32_t row = 0; row < kBlockPositions; ++row) {
      std::ranges::generate(k, [this] { return draw_value(); });
      std::ranges::generate(v, [this] { return draw_value(); });
      kernels_.store_kv(layout, patterns.data() + uint64_t{pattern} * layout.block_bytes, row,
                        k.data(), v.data());
    }
  return patterns;
}

void BenchRunner::fill_random(engine::Sequence& sequence, uint32_t n_positions) {
  const HostMemory patterns = draw_patterns();
  const uint32_t block_bytes = cache_.layout().block_bytes;
  while (sequence.n_pos() < n_positions) {
    check_cancelled();
    const uint32_t first = sequence.n_pos();
    const uint32_t n = std::min(options_.chunk_rows, n_positions - first);
    cache_.open_rows(sequence, n);
    // Layers go to different threads: what takes time is the first touch of the arena's pages.
    pool_.for_each(model_.shape().n_layers, 1, [&](uint64_t begin, uint64_t end, uint32_t) {
      for (auto layer = static_cast<uint32_t>(begin); layer < end; ++layer)
        for (uint32_t head = 0; head < model_.shape().layers[layer].n_kv_heads; ++head)
          for (uint32_t pos = first / kBlockPositions * kBlockPositions; pos < first + n;
               pos += kBlockPositions) {
            if (cache_.block_id(sequence, layer, head, pos) == tiers::kNoBlock) continue;
            const uint32_t pattern = (pos / kBlockPositions * 7 + layer * 3 + head) % kPatterns;
            std::memcpy(cache_.open_block(sequence, layer, head, pos),
                        patterns.data() + uint64_t{pattern} * block_bytes, block_bytes);
          }
    });
    cache_.close_rows(sequence, random_tokens(n));
  }
}

void BenchRunner::check_cancelled() const {
  if (options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed))
    throw Error(ErrorCode::kCancelled, "the bench was stopped", "strata bench");
}

engine::Sequence& BenchRunner::depth_sequence(uint32_t n_depth, const Events& events) {
  if (filled_.n_pos() > n_depth) filled_.truncate(n_depth);
  if (filled_.n_pos() < n_depth && options_.fill == DepthFill::kRandom)
    fill_random(filled_, n_depth);
  if (filled_.n_pos() < n_depth) {
    const uint64_t n_held = filled_.n_pos();
    const auto tokens = random_tokens(n_depth - filled_.n_pos());
    engine::prefill(walk_, filled_, tokens, options_.chunk_rows, [&](uint64_t done, uint64_t) {
      check_cancelled();
      if (events.on_depth) events.on_depth(n_held + done, n_depth);
      return true;
    });
  }
  return filled_;
}

/// Adds the bytes and FLOP of the step that was just walked, and the times of its stages.
void BenchRunner::count_step(BenchResult& result, bool stages) const {
  for (size_t i = 0; i < walk_.plan().ops.size(); ++i) {
    const StepOp& op = walk_.plan().ops[i];
    const uint64_t bytes = op.weight_bytes + op.kv_read_bytes + op.kv_write_bytes;
    if (!stages) {
      result.bytes += bytes;
      result.flop += op.flop;
      continue;
    }
    auto stage = std::ranges::find(result.stages, op.kind, &BenchStage::kind);
    if (stage == result.stages.end()) stage = result.stages.insert(stage, {.kind = op.kind});
    stage->seconds += walk_.op_seconds()[i];
    stage->bytes += bytes;
    stage->flop += op.flop;
  }
}

/// Seconds of one run from a fork of `start`. Counts into `result` where there is one.
double BenchRunner::run_once(const BenchTest& test, const engine::Sequence& start,
                             BenchResult* result, bool stages) {
  engine::Sequence sequence = start.fork();
  const auto tokens = random_tokens(test.n_prompt + test.n_gen);
  const uint32_t chunk = test.n_prompt > 0 ? options_.chunk_rows : 1;
  std::vector<engine::StepRow> rows;
  walk_.set_timing(stages);
  double total_s = 0;
  for (uint32_t done = 0; done < tokens.size();) {
    check_cancelled();
    const uint32_t n = std::min(chunk, static_cast<uint32_t>(tokens.size()) - done);
    rows.clear();
    for (uint32_t i = done; i < done + n; ++i)
      rows.push_back({&sequence, tokens[i], test.n_gen > 0 || i + 1 == tokens.size()});
    const auto begin = Clock::now();
    walk_.step(rows);
    total_s += seconds_since(begin);
    done += n;
    if (result != nullptr) count_step(*result, stages);
  }
  walk_.set_timing(false);
  return total_s;
}

BenchResult BenchRunner::measure(const BenchTest& test, const Events& events) {
  STRATA_CHECK((test.n_prompt == 0) != (test.n_gen == 0), "%u prompt and %u decoded tokens",
               test.n_prompt, test.n_gen);
  BenchResult result{
      .test = test, .start = std::chrono::system_clock::now(), .samples_s = {}, .stages = {}};
  const engine::Sequence& start = depth_sequence(test.n_depth, events);
  result.dram_gbytes_per_s = measure_dram_read(pool_, model_.weight_memory());
  BenchTest warm_up = test;
  warm_up.n_gen = std::min(warm_up.n_gen, 2u);
  warm_up.n_prompt = std::min(warm_up.n_prompt, options_.chunk_rows);
  run_once(warm_up, start, nullptr, false);
  for (uint32_t i = 0; i < options_.n_repetitions; ++i) {
    if (events.on_run) events.on_run(i + 1, options_.n_repetitions);
    result.samples_s.push_back(run_once(test, start, i == 0 ? &result : nullptr, false));
  }
  // Stages are timed apart: the clock is read between operations.
  if (options_.stages) run_once(test, start, &result, true);
  return result;
}

}  // namespace strata::cli
