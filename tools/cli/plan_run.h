// tools/cli/plan_run.h - an engine that runs a given plan behind a context of random K and V, its
// decoded tokens to be timed.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "engine/engine.h"
#include "tools/cli/bench_fill.h"
#include "tools/cli/command_line.h"
#include "tools/cli/placed_plan.h"

namespace strata::cli {

/// Bytes per second that reads are held at, at least. Whoever waits for a read gives up after ten
/// seconds (engine/panel_reader.h kReadDeadline, tiers/transfer_queue.h), and what is asked for at
/// once passes one limit: up to 64 MiB of frames of K and V (engine/kv_placement.cc), 16 reads of
/// weights of 1 MiB and 256 single blocks, of 32 KiB at head_dim 256 in f16. Those 88 MiB pass in
/// six seconds.
inline constexpr uint64_t kLeastDiskRate = 16'000'000;

/// One depth and one budget of DRAM.
struct PlanCell {
  uint32_t n_depth = 0;
  uint64_t dram_bytes = 0;
};

/// How long tokens are timed at a time: half a second at least, but for short contexts' sake no
/// more than so many; the median of few says little of a step that takes milliseconds.
struct TokenTiming {
  uint32_t n_least = 5, n_most = 64;
  double seconds = 0.5;
};

/// The context of every plan of a cell: the depth, and the tokens that are timed behind it.
engine::EngineOptions plan_run_options(const Command& command, const PlanCell& cell,
                                       const TokenTiming& timing);
/// The command with the cell's budget.
Command with_budget(const Command& command, const PlanCell& cell);

class PlanRun {
 public:
  /// disk_rate: bytes per second of reads at most, kLeastDiskRate or more; 0 = what the command
  /// says. Errors: those of Engine::open, place and load; kCancelled.
  PlanRun(const Command& command, const PlanCell& cell, const engine::Placement& placement,
          const TokenTiming& timing, const std::atomic<bool>* cancel, uint64_t disk_rate = 0);

  /// The median time of tokens, all right behind the depth. Errors: those of steps; kCancelled.
  double token_ms();
  double dram_gbytes_per_s();
  /// Positions before the mean one of the tokens that were timed last.
  double n_positions() const { return n_mean_; }
  /// Bytes that such a token read from the disk, in the mean: weights, K and V.
  double disk_bytes() const { return disk_bytes_; }
  const PlacedPlan& plan() const { return *plan_; }

 private:
  double step_ms(int32_t token);
  uint64_t bytes_so_far();
  TokenTiming timing_;
  const std::atomic<bool>* cancel_;
  engine::Engine engine_;
  std::unique_ptr<PlacedPlan> plan_;
  std::unique_ptr<engine::Sequence> filled_, running_;
  RandomDraw draw_;
  double n_mean_ = 0, disk_bytes_ = 0;
};

}  // namespace strata::cli
