#include "tools/cli/bench_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/error.h"
#include "base/host_memory.h"

namespace strata::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

uint64_t deepest(const std::vector<BenchTest>& tests) {
  uint64_t n = 64;
  for (const BenchTest& test : tests)
    n = std::max<uint64_t>(n, uint64_t{test.n_depth} + test.n_prompt + test.n_gen);
  return n;
}

uint64_t budget(const engine::Model& model, const BenchRunner::Options& options,
                const std::vector<BenchTest>& tests) {
  // The depth is held once and shared with each repetition's fork, which copies one open block per
  // stream.
  return engine::kv_bytes_for_context(model.shape(), options.k_codec, options.v_codec,
                                      deepest(tests) + 3 * kBlockPositions, options.chunk_rows);
}

}  // namespace

std::string BenchTest::name() const {
  std::string text = n_prompt > 0 ? fmt::format("pp{}", n_prompt) : fmt::format("tg{}", n_gen);
  if (n_depth > 0) text += fmt::format(" @ d{}", n_depth);
  return text;
}

double median(std::vector<double> values) {
  STRATA_CHECK(!values.empty(), "no values");
  std::ranges::sort(values);
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double BenchResult::median_s() const { return median(samples_s); }

double measure_dram_read(ThreadPool& pool) {
  constexpr uint64_t kBytes = uint64_t{256} << 20;
  constexpr uint64_t kPiece = uint64_t{1} << 20;
  const HostMemory memory = HostMemory::reserve(kBytes);
  const auto words = memory.as<uint64_t>(kBytes / sizeof(uint64_t));
  pool.for_each(kBytes / kPiece, 1, [&](uint64_t begin, uint64_t end, uint32_t) {
    std::memset(memory.data() + begin * kPiece, 1, (end - begin) * kPiece);
  });
  double best_s = 1e30;
  uint64_t wanted = 0;
  for (int pass = 0; pass < 5; ++pass) {
    std::atomic<uint64_t> total = 0;
    const auto start = Clock::now();
    pool.for_each(kBytes / kPiece, 16, [&](uint64_t begin, uint64_t end, uint32_t) {
      uint64_t sums[8] = {};
      for (uint64_t i = begin * (kPiece / 8); i < end * (kPiece / 8); i += 8)
        for (uint64_t lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
      uint64_t sum = 0;
      for (const uint64_t lane : sums) sum += lane;
      total.fetch_add(sum, std::memory_order_relaxed);
    });
    best_s = std::min(best_s, seconds_since(start));
    if (pass == 0) wanted = total.load();
    STRATA_CHECK(total.load() == wanted && wanted != 0, "pass %d read another sum", pass);
  }
  return static_cast<double>(kBytes) / best_s / 1e9;
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
  constexpr uint32_t kTokens = 33;
  const auto tokens = random_tokens(kTokens);
  std::vector<float> wanted;
  {
    engine::Sequence sequence = cache_.make_sequence();
    engine::prefill(walk_, sequence, tokens, kTokens);
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

void BenchRunner::fill_random(engine::Sequence& sequence, uint32_t n_positions) {
  // Blocks are drawn from a few made of small normal-like values: a diffuse softmax, as after a
  // real prefill.
  constexpr uint32_t kPatterns = 16;
  const KvLayout& layout = cache_.layout();
  HostMemory patterns = HostMemory::reserve(uint64_t{kPatterns} * layout.block_bytes);
  std::vector<float> k(layout.head_dim), v(layout.head_dim);
  const auto draw = [this] {  // sum of four uniform values, standard deviation 0.05
    float sum = 0;
    for (int i = 0; i < 4; ++i) {
      random_state_ = random_state_ * 6364136223846793005u + 1442695040888963407u;
      sum += static_cast<float>(random_state_ >> 40) * 0x1p-24f - 0.5f;
    }
    return sum * 0.0866f;
  };
  for (uint32_t pattern = 0; pattern < kPatterns; ++pattern)
    for (uint32_t row = 0; row < kBlockPositions; ++row) {
      std::ranges::generate(k, draw);
      std::ranges::generate(v, draw);
      kernels_.store_kv(layout, patterns.data() + uint64_t{pattern} * layout.block_bytes, row,
                        k.data(), v.data());
    }
  while (sequence.n_pos() < n_positions) {
    const uint32_t first = sequence.n_pos();
    const uint32_t n = std::min(options_.chunk_rows, n_positions - first);
    cache_.open_rows(sequence, n);
    for (uint32_t layer = 0; layer < model_.shape().n_layers; ++layer)
      for (uint32_t head = 0; head < model_.shape().layers[layer].n_kv_heads; ++head)
        for (uint32_t pos = first / kBlockPositions * kBlockPositions; pos < first + n;
             pos += kBlockPositions) {
          std::byte* block = cache_.block(sequence, layer, head, pos);
          if (block != nullptr)
            std::memcpy(block,
                        patterns.data() +
                            uint64_t{(pos / kBlockPositions * 7 + layer * 3 + head) % kPatterns} *
                                layout.block_bytes,
                        layout.block_bytes);
        }
    cache_.close_rows(sequence, random_tokens(n));
  }
}

engine::Sequence& BenchRunner::depth_sequence(uint32_t n_depth, const Notice& notice) {
  if (filled_.n_pos() > n_depth) filled_.truncate(n_depth);
  if (filled_.n_pos() < n_depth && options_.fill == DepthFill::kRandom)
    fill_random(filled_, n_depth);
  if (filled_.n_pos() < n_depth) {
    const auto tokens = random_tokens(n_depth - filled_.n_pos());
    engine::prefill(
        walk_, filled_, tokens, options_.chunk_rows, [&](uint64_t done, uint64_t total) {
          if (notice) notice(fmt::format("filling depth {}: {} / {} tokens", n_depth, done, total));
          return true;
        });
  }
  return filled_;
}

double BenchRunner::run_once(const BenchTest& test, const engine::Sequence& start,
                             BenchResult* stages) {
  engine::Sequence sequence = start.fork();
  const auto tokens = random_tokens(test.n_prompt + test.n_gen);
  const uint32_t chunk = test.n_prompt > 0 ? options_.chunk_rows : 1;
  std::vector<engine::StepRow> rows;
  walk_.set_timing(stages != nullptr);
  double total_s = 0;
  for (uint32_t done = 0; done < tokens.size();) {
    const uint32_t n = std::min(chunk, static_cast<uint32_t>(tokens.size()) - done);
    rows.clear();
    for (uint32_t i = done; i < done + n; ++i)
      rows.push_back({&sequence, tokens[i], test.n_gen > 0 || i + 1 == tokens.size()});
    const auto begin = Clock::now();
    walk_.step(rows);
    total_s += seconds_since(begin);
    done += n;
    if (stages == nullptr) continue;
    for (size_t i = 0; i < walk_.plan().ops.size(); ++i) {
      const StepOp& op = walk_.plan().ops[i];
      auto stage = std::ranges::find(stages->stages, op.kind, &BenchStage::kind);
      if (stage == stages->stages.end()) stage = stages->stages.insert(stage, {.kind = op.kind});
      const uint64_t bytes = op.weight_bytes + op.kv_read_bytes + op.kv_write_bytes;
      stage->seconds += walk_.op_seconds()[i];
      stage->bytes += bytes;
      stage->flop += op.flop;
      stages->bytes += bytes;
      stages->flop += op.flop;
    }
  }
  return total_s;
}

BenchResult BenchRunner::measure(const BenchTest& test, const Notice& notice) {
  BenchResult result{.test = test, .samples_s = {}, .stages = {}};
  const engine::Sequence& start = depth_sequence(test.n_depth, notice);
  result.dram_gbytes_per_s = measure_dram_read(pool_);
  BenchTest warm_up = test;
  warm_up.n_gen = std::min(warm_up.n_gen, 2u);
  run_once(warm_up, start, nullptr);
  for (uint32_t i = 0; i < options_.n_repetitions; ++i) {
    if (notice) notice(fmt::format("{}: run {} of {}", test.name(), i + 1, options_.n_repetitions));
    result.samples_s.push_back(run_once(test, start, nullptr));
  }
  run_once(test, start, &result);  // stages are timed apart: the clock is read between operations
  return result;
}

}  // namespace strata::cli
