// tools/cli/roofline.h - each stage beside the ceilings that were measured in the same run: which
// of them it is near, and what would have to change for it to be faster. Source: the roofline model
// (Williams, Waterman, Patterson 2009): a stage takes at least its bytes over the bandwidth and at
// least its operations over the peak.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "tools/cli/bench_report.h"
#include "tools/cli/bench_runner.h"
#include "tools/cli/recompute_split.h"

namespace strata::cli {

enum class StageBound : uint8_t { kUncounted, kMemory, kCompute, kNeither };

/// Nearer than so much to its nearest ceiling, a stage is bound by it.
inline constexpr double kBoundShare = 0.5;

struct StageRoof {
  double gbytes_per_s = 0, gflop_per_s = 0;  // achieved, by formula
  double peak_gflop_per_s = 0;               // of the arithmetic it uses; 0 = not known
  double share_of_dram = 0, share_of_peak = 0;
  StageBound bound = StageBound::kUncounted;
  double share() const { return share_of_dram > share_of_peak ? share_of_dram : share_of_peak; }
};

StageRoof roof_of(const BenchStage& stage, const BenchResult& result);
/// "memory-bound at 82 % of DRAM: fewer bytes (...), or faster memory".
std::string would_help(const BenchSubject& subject, const BenchResult& result,
                       const BenchStage& stage);

/// What recompute_line() is about, by the rates of this run: K and V come from the disk where some
/// did, else from memory; matrices are multiplied as fast as in a prompt's chunk, else at the peak.
RecomputeRates recompute_rates(const BenchResult& result);

/// A table of stages and a sentence for each, for what came from a disk, and what making K and V
/// anew would gain.
std::string roofline_table(const std::string& test, const BenchSubject& subject,
                           const BenchResult& result);
nlohmann::ordered_json roofline_json(const BenchSubject& subject, const BenchResult& result);
/// {dram_gbytes_per_s, f32_gflop_per_s, int8_gop_per_s, disk_gbytes_per_s}; what was not measured
/// is missing.
nlohmann::ordered_json ceilings_json(const BenchResult& result);

}  // namespace strata::cli
