// tools/cli/bench_reopen.h - `bench --reopen`: how soon a new process answers a question about a
// saved context, beside what its bytes take of the disk and beside restoring all of it.
// Why: what a user waits for is everything between a command and its first token, so the process is
// measured from outside, its memory is untouched, and what it reads is in no page cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "tools/cli/bench_folder.h"
#include "tools/cli/bench_runner.h"
#include "tools/cli/raw_disk.h"
#include "tools/cli/reopened.h"
#include "tools/cli/tier_figure.h"

namespace strata::cli {

class ReopenBench {
 public:
  struct Options {
    engine::EngineOptions in_memory;     // of a context that holds everything, with the method
    std::vector<std::string> arguments;  // of processes, without the folder, DRAM and attention
    index::Method method = index::Method::kRecent;
    std::string directory;  // on the disk to be measured
    uint32_t n_depth = 0;
    uint64_t slot_bytes = 0;  // of DRAM for K and V of the reopened context; 0 = a tenth of it
    uint32_t n_samples = 5;
    DepthFill fill = DepthFill::kPrefill;
    const std::atomic<bool>* cancel = nullptr;
  };
  struct Events {
    std::function<void(const TierFigure&)> on_figure;
    std::function<void(uint64_t done, uint64_t total)> on_depth;  // positions read
    std::function<void(const std::string&)> on_note;
  };

  ReopenBench(Options options, Events events);

  /// `engine` is opened with Options::in_memory and loaded, and is gone when processes are
  /// measured. Every answer is compared before its time is told. Errors: kIo, where one differs
  /// too; kCancelled; kDoesNotFit.
  void run(engine::Engine engine);

 private:
  static constexpr uint32_t kLargerBlockBytes = 16 << 10;  // of head_dim 128 in f16
  /// Of answers with K and V in memory.
  struct InMemory {
    std::vector<float> selected, exact;       // logits of the question's last row
    std::vector<double> selected_s, exact_s;  // seconds that the question took
  };
  /// What the bytes of a reopening take a plain reader, one of each per sample.
  struct ReadSamples {
    std::vector<double> model_s, rows_s, blocks_s;  // seconds
    std::vector<double> in_order_per_byte, larger_block_s;
    double sum(size_t i) const { return model_s[i] + rows_s[i] + blocks_s[i]; }
  };
  void prepare(engine::Engine engine);
  void fill(engine::Engine& engine, engine::Sequence& sequence) const;
  void answer(engine::Engine& engine, const engine::Sequence& sequence);
  void save(engine::Engine& engine, engine::Sequence& sequence) const;
  uint64_t reopened_dram(const engine::Engine& engine) const;
  bool drop_pages() const;
  Reopened reopen(bool is_selected) const;
  static uint32_t request_bytes(const Reopened& of);
  void sample_reads(RawDisk& disk, const Reopened& of, ReadSamples& reads) const;
  // bench_reopen_figures.cc
  void tell_reopening(const std::vector<Reopened>& reopened, const ReadSamples& reads) const;
  void tell_whole(const std::vector<Reopened>& reopened, const std::vector<Reopened>& whole) const;
  void tell_larger(const Reopened& of, const ReadSamples& reads) const;

  Options options_;
  Events events_;
  BenchFolder folder_;  // of what is saved
  BenchFolder output_;  // of processes
  std::vector<int32_t> tokens_;
  InMemory in_memory_;
  uint64_t kv_bytes_ = 0;           // of the context
  uint64_t model_bytes_ = 0;        // of all weights in the file
  uint32_t segment_positions_ = 0;  // of an index
  uint64_t dram_bytes_ = 0;         // --kv-dram of the reopened context
};

}  // namespace strata::cli
