// tools/cli/bench_runner.h - measures prefill and decode of a loaded model, as llama-bench names
// them, with bytes by formula. Why: a time alone says nothing: each test carries the bytes that the
// step plan says were read, and the DRAM bandwidth measured in the same minute.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/step_plan.h"
#include "engine/engine.h"
#include "tools/cli/attribution.h"
#include "tools/cli/bench_fill.h"
#include "tools/cli/bench_index.h"
#include "tools/cli/compute_peak.h"

namespace strata::cli {

/// How the depth of a test comes about: random tokens read by the model, or random K and V (quick;
/// a stated deviation).
enum class DepthFill : uint8_t { kPrefill, kRandom };

struct BenchTest {
  uint32_t n_prompt = 0;  // tokens prefilled in chunks, or
  uint32_t n_gen = 0;     // tokens decoded one by one; one of the two is 0
  uint32_t n_depth = 0;   // positions already in the context

  std::string name() const;  // "pp512", "tg32 @ d8192"
  uint64_t n_positions() const { return uint64_t{n_depth} + n_prompt + n_gen; }
};

/// Positions of the deepest test.
uint64_t deepest(const std::vector<BenchTest>& tests);

/// Time and formula bytes of one kind of operation, summed over one more run of the test.
struct BenchStage {
  OpKind kind;
  double seconds = 0;
  uint64_t bytes = 0;  // weights and KV read and KV written
  uint64_t flop = 0;
  Arithmetic arithmetic = Arithmetic::kF32;
};

struct BenchResult {
  BenchTest test;
  std::chrono::system_clock::time_point start;
  std::vector<double> samples_s;  // one per repetition
  // Measured just before: what the same threads read of DRAM; of a device, what a copy inside its
  // memory moves, read and written.
  double memory_gbytes_per_s = 0;
  uint64_t bytes = 0;  // of one repetition, by formula
  uint64_t flop = 0;
  uint64_t nvme_read_bytes = 0;  // of the first repetition, counted: K and V only
  uint64_t nvme_written_bytes = 0;
  uint64_t peak_bytes = 0;  // that the process held so far, without what the benches' probes took
  uint64_t weight_read_bytes = 0;     // of the first repetition, from the model file
  double cpu_s = 0;                   // of the first repetition: of every processor, in its steps
  std::vector<BenchStage> stages;     // where Options::roofline asks for them
  ComputePeak peak;                   // likewise, of the same threads, measured just before
  double disk_read_gbytes_per_s = 0;  // of the disk of the spill file now; 0 = not measured
  Attribution attribution;            // of one more run where Options::trace is; else of no step
  // Of the first repetition, where an index chooses what decoded tokens attend.
  engine::SelectionCounts selected;
  IndexCost index;

  uint32_t n_tokens() const { return test.n_prompt + test.n_gen; }
  double bytes_per_token() const;
  /// At the median of the repetitions.
  double gbytes_per_s() const;
  std::vector<double> samples_tokens_per_s() const;
};

/// Positions that the context of a run needs, the answer check's included.
uint64_t positions_to_hold(const std::vector<BenchTest>& tests);

/// Finite logits with the same bits, or Error(kIo) naming the first difference and how each came
/// about ("from disk").
void check_same_logits(std::span<const float> found, const std::string& found_how,
                       std::span<const float> wanted, const std::string& wanted_how);

/// Logits that a device had a part in: near enough that they are of the same computation, or
/// Error(kIo) with how far they are apart.
void check_near_logits(std::span<const float> found, const std::string& found_how,
                       std::span<const float> wanted, const std::string& wanted_how);

class BenchRunner {
 public:
  struct Options {
    uint32_t n_repetitions = 5;
    DepthFill fill = DepthFill::kPrefill;
    bool roofline = false;
    bool keeps_blocks = true;  // false: before a step, what a file holds leaves memory
    Trace* trace = nullptr;    // the engine's, which is off; null = no attribution
    const std::atomic<bool>* cancel = nullptr;  // read once per step
  };
  /// What the caller hears while a test is measured.
  struct Events {
    std::function<void(uint64_t done, uint64_t total)> on_depth;  // positions of the depth
    std::function<void(uint64_t run, uint64_t total)> on_run;     // before each repetition
  };

  /// The engine holds two sequences of positions_to_hold() (EngineOptions::n_sequences), is loaded
  /// and outlives the runner.
  BenchRunner(engine::Engine& engine, const Options& options);

  /// Walks 33 tokens in one step and one by one; where K and V spill, also a text that is longer
  /// than an extent, once as it stands in memory and once read back from disk. Finite logits with
  /// the same bits, or Error(kIo): a bench whose answer is wrong prints no time.
  void check_answer();
  /// Errors: kCancelled.
  BenchResult measure(const BenchTest& test, const Events& events = {});

 private:
  engine::Sequence& depth_sequence(uint32_t n_depth, const Events& events);
  void check_spilled_answer();
  void check_device_answer();
  /// What is walked next of a test, as `run` would.
  engine::PromptChunk step_of(const BenchTest& test, uint32_t n_pos) const {
    if (test.n_gen > 0) return {1, engine_.attention()};
    return engine::next_chunk(n_pos, engine_.context().chunk_rows, engine_.options().sparse_from);
  }
  double run_once(const BenchTest& test, const engine::Sequence& start, BenchResult* result,
                  bool stages);
  void count_step(BenchResult& result, engine::Attention attention, bool stages);
  uint64_t count_selected(BenchResult& result);
  void drop_kept_blocks();
  tiers::TransferCounts transfer_counts();
  void count_peak();
  std::vector<int32_t> random_tokens(uint32_t n);

  engine::Engine& engine_;
  Options options_;
  RandomDraw draw_;
  engine::Sequence filled_;
  engine::SelectionCounts counted_;  // of steps that are in some result, or in none
  uint64_t peak_bytes_ = 0;
};

}  // namespace strata::cli
