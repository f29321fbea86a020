// tools/cli/bench_prediction.h - what the planner says of a measured test: its time beside the
// measured one, what each part of the machine is at work, the peak of memory.
// Why at today's pace: what memory gives a machine drifts by more than half within an hour, and a
// prediction of an hour ago would be judged by that.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "tools/cli/bench_runner.h"
#include "tools/cli/placed_plan.h"

namespace strata::cli {

/// Of one token, or of a whole prompt.
struct BenchPrediction {
  bool is_measured = false;        // of rates that were; else it says nothing of this machine
  bool was_read_sparsely = false;  // the measured prompt; a prediction is of exact reading
  planner::StepTime step;
  planner::MachinePace pace;
  double measured_ms = 0;       // the median
  uint64_t peak_bytes = 0;      // of DRAM, everything of ours
  uint64_t measured_bytes = 0;  // BenchResult::peak_bytes
  uint32_t n_tokens = 1;        // of step
  // Counted, of the step: processor time of a thread, in the mean; bytes of DRAM by formula and
  // those read from the disk, and what they take at their pace. 0 = nothing, or not known: a
  // device's memory is not DRAM.
  double cpu_ms = 0;
  double dram_bytes = 0, dram_ms = 0;
  double nvme_bytes = 0, nvme_ms = 0;
  double tokens_per_s() const { return n_tokens / step.ms * 1e3; }
  double share() const { return step.ms / measured_ms; }
};

/// GB/s (1e9) that the disk of a folder gives now: passes over a file of 64 MiB. Errors: those of
/// RawDisk.
double measure_disk_read(const std::string& folder, tiers::IoChoice io,
                         const std::atomic<bool>* cancel);
/// What the disk of a folder gives now, of what the profile says; 1
/// without a folder or a rate. Errors: those of RawDisk.
double measure_disk_pace(const planner::MachineProfile& profile, const std::string& folder,
                         tiers::IoChoice io, const std::atomic<bool>* cancel);
/// That pace where reads are held at a rate; 0 = they are not.
double limited_disk_pace(const planner::MachineProfile& profile, double pace, uint64_t bytes_per_s);
/// Memory as `dram_gbytes_per_s` (measure_dram_read) has it, of what the plan's profile says.
double dram_pace(const PlacedPlan& plan, double dram_gbytes_per_s);
/// Whether a step reads weights, or K and V of a full context, from a disk.
bool reads_disk(const PlacedPlan& plan);

/// Of DRAM, by the plan.
uint64_t predicted_peak_bytes(const PlacedPlan& plan);

BenchPrediction predict_test(const PlacedPlan& plan, const BenchResult& result,
                             const planner::MachinePace& pace);

/// A line for the table under the tests, with its head where it is the first. `rates_text` is what
/// stands in the head of rates that were not measured.
std::string prediction_row(const std::string& test, const BenchPrediction& prediction,
                           bool is_first, const std::string& rates_text);
nlohmann::ordered_json prediction_json(const BenchPrediction& prediction);

}  // namespace strata::cli
