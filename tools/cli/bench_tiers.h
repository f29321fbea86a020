// tools/cli/bench_tiers.h - `bench --tiers`: what the tier on disk gives, as shares of ceilings
// that are measured between the samples, on the same file system.
// Why: a machine's disk differs by a factor of five from minute to minute where a host caches it; a
// share of what a plain reader got a moment ago says what the tier itself costs.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "tools/cli/bench_fill.h"
#include "tools/cli/bench_folder.h"
#include "tools/cli/bench_runner.h"
#include "tools/cli/raw_disk.h"
#include "tools/cli/tier_figure.h"

namespace strata::cli {

/// Tokens that the figures decode behind the depth at most.
inline constexpr uint32_t kTierTokensMax = 32;

/// Two engines of one model, one that holds K and V in DRAM and can read saved contexts, one that
/// spills; both loaded, both of a context that holds the depth and kTierTokensMax tokens more.
class TierBench {
 public:
  struct Options {
    std::string directory;  // on the disk to be measured
    uint32_t n_depth = 0;   // at least kTierDepthMin
    uint32_t n_samples = 5;
    DepthFill fill = DepthFill::kPrefill;
    tiers::IoChoice io = tiers::IoChoice::kAuto;
    const std::atomic<bool>* cancel = nullptr;
  };
  struct Events {
    std::function<void(const TierFigure&)> on_figure;
    std::function<void(uint64_t done, uint64_t total)> on_depth;  // positions read, twice in all
  };

  TierBench(engine::Engine& in_dram, engine::Engine& spilled, const Options& options);

  /// Every answer is compared before its time is told: logits of the three ways to K and V bit for
  /// bit, bytes of the test file. Errors: kIo, where one differs too; kCancelled.
  void run(const Events& events);

 private:
  struct DecodeSize {
    uint64_t token_bytes = 0;  // read from disk for each token
    uint64_t n_requests = 0;   // of a plain reader
    uint32_t request = 0;
    uint32_t depth = 0;
  };
  /// Seconds, one of each per sample, and the bytes that decoding read.
  struct DecodeSamples {
    std::vector<double> in_order_s, raw_s, beside_s, spilled_s, in_dram_s;
    uint64_t bytes = 0;
  };
  // Of the disk alone (bench_tiers_disk.cc).
  void measure_sequential(const Events& events);
  void measure_selection(const Events& events);
  void measure_tags(const Events& events);
  // Of K and V.
  void measure_write_through(const Events& events);
  void fill(engine::Engine& engine, engine::Sequence& sequence, const Events& events);
  void measure_decode(const engine::Sequence& in_dram, const Events& events);
  double read_beside_work(std::span<const uint64_t> offsets, const DecodeSize& size);
  void sample_decode(const DecodeSize& size, const engine::Sequence& in_dram,
                     const engine::Sequence& spilled, DecodeSamples& samples);
  void tell_decode(const DecodeSize& size, const DecodeSamples& samples,
                   const Events& events) const;
  void save(const std::string& folder, engine::Sequence& sequence);
  double restore(const std::string& folder);  // and a first token: seconds
  void measure_restore(const BenchFolder& folder, const Events& events);

  /// Seconds of n_decoded_ tokens in a fork.
  double decode(engine::Engine& engine, const engine::Sequence& at);
  double prefill(engine::Engine& engine, std::span<const int32_t> tokens);
  void keep_or_compare(std::vector<float>& wanted, engine::Engine& found, const std::string& how);
  uint64_t extent_bytes(uint32_t layer) const;
  /// Of an extent of every full layer.
  uint64_t extent_set_bytes() const;
  uint64_t end_set_bytes() const;
  uint64_t away_bytes(const engine::Sequence& sequence) const;
  static uint64_t read_bytes(engine::Engine& engine);  // from disk so far
  double read_rate(double seconds) const;              // of a pass over the test file, bytes/s

  engine::Engine& in_dram_;
  engine::Engine& spilled_;
  Options options_;
  RawDisk disk_;
  RandomDraw draw_;
  std::vector<int32_t> tokens_;        // of the depth and behind it
  uint32_t n_decoded_ = 1;             // tokens of a decode sample
  double prefill_rate_ = 0;            // positions/s of the engine in DRAM
  uint32_t n_prefilled_ = 0;           // positions that this rate was measured over
  std::vector<float> first_logits_;    // of the first token behind the depth
  std::vector<double> first_token_s_;  // with K and V in DRAM
  double found_s_ = 0;                 // of the last restore, until its extents are to be read
};

/// The least depth: an extent to be read back, and one that is open.
inline constexpr uint32_t kTierDepthMin = 2 * kExtentPositions;

}  // namespace strata::cli
