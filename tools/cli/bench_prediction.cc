#include "tools/cli/bench_prediction.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "engine/byte_text.h"
#include "tools/cli/plan_words.h"
#include "tools/cli/raw_disk.h"
#include "tools/cli/sample_statistics.h"

namespace strata::cli {
namespace {

using nlohmann::ordered_json;
using planner::MachinePace;

constexpr uint64_t kProbeBytes = uint64_t{64} << 20;  // of the disk: some tens of milliseconds
constexpr uint32_t kProbePasses = 5;

std::string head_text(const BenchPrediction& prediction, const std::string& rates_text) {
  if (!prediction.is_measured)
    return "\npredicted: " + rates_text + " In ms of a token or of the prompt\n";
  return fmt::format(
      "\npredicted from the profile of this machine, at what memory and disk give now "
      "({:.0f} % and {:.0f} % of it); ms of a token or of the prompt\n",
      100 * prediction.pace.dram, 100 * prediction.pace.disk);
}

std::string moved_text(const char* part, double bytes, double ms) {
  return fmt::format(", {} {:.1f} MB", part, bytes / 1e6) +
         (ms > 0 ? fmt::format(" = {}", time_text(ms)) : "");
}

/// The parts' predicted work, and what they were counted to have done.
std::string work_text(const BenchPrediction& prediction) {
  std::string counted;
  if (prediction.cpu_ms > 0) counted += ", CPU " + time_text(prediction.cpu_ms);
  if (prediction.dram_bytes > 0)
    counted += moved_text("DRAM", prediction.dram_bytes, prediction.dram_ms);
  if (prediction.nvme_bytes > 0)
    counted += moved_text("NVMe", prediction.nvme_bytes, prediction.nvme_ms);
  const std::string text = busy_text(prediction.step);
  return counted.empty() ? text : text + "; counted:" + counted.substr(1);
}

}  // namespace

double measure_disk_read(const std::string& folder, tiers::IoChoice io,
                         const std::atomic<bool>* cancel) {
  RawDisk disk = RawDisk::make(folder, kProbeBytes, io, cancel);
  disk.write_all();
  disk.look_at_bytes(true);  // as `calibrate` does, whose rate this is compared with
  std::vector<double> seconds(kProbePasses);
  for (double& pass : seconds) pass = disk.read_all(RawDisk::kLookedAtDepth);
  return static_cast<double>(disk.bytes()) / median(seconds) / 1e9;
}

double measure_disk_pace(const planner::MachineProfile& profile, const std::string& folder,
                         tiers::IoChoice io, const std::atomic<bool>* cancel) {
  if (folder.empty() || !(profile.disk_read_bytes_per_s > 0)) return 1;
  return measure_disk_read(folder, io, cancel) * 1e9 / profile.disk_read_bytes_per_s;
}

double limited_disk_pace(const planner::MachineProfile& profile, double pace,
                         uint64_t bytes_per_s) {
  if (bytes_per_s == 0 || !(profile.disk_read_bytes_per_s > 0)) return pace;
  return std::min(pace, static_cast<double>(bytes_per_s) / profile.disk_read_bytes_per_s);
}

double dram_pace(const PlacedPlan& plan, double dram_gbytes_per_s) {
  const double measured = plan.subject.request.profile.dram_read_bytes_per_s;
  return dram_gbytes_per_s > 0 && measured > 0 ? dram_gbytes_per_s * 1e9 / measured : 1;
}

bool reads_disk(const PlacedPlan& plan) {
  return plan.layers.is_streaming(plan.problem) || plan.layers.is_spilling(plan.problem);
}

uint64_t predicted_peak_bytes(const PlacedPlan& plan) {
  const double gb = placed_gb(plan.problem, plan.layers).dram() + plan.problem.index_gb;
  return static_cast<uint64_t>(std::llround(gb * 1e9));
}

BenchPrediction predict_test(const PlacedPlan& plan, const BenchResult& result,
                             const MachinePace& pace) {
  BenchPrediction prediction;
  prediction.is_measured = plan.is_measured();
  prediction.pace = pace;
  prediction.peak_bytes = predicted_peak_bytes(plan);
  prediction.measured_bytes = result.peak_bytes;
  prediction.measured_ms = median(result.samples_s) * 1e3;
  const BenchTest& test = result.test;
  if (test.n_gen > 0) {
    prediction.measured_ms /= test.n_gen;
    prediction.step = plan.token_at(test.n_depth + test.n_gen / 2.0, pace);
  } else {
    prediction.step = plan.prompt_behind(test.n_depth, test.n_prompt, pace);
    prediction.was_read_sparsely =
        uint64_t{test.n_depth} + test.n_prompt > plan.subject.sparse_from;
    prediction.n_tokens = test.n_prompt;
  }
  const double n_steps = std::max(1u, test.n_gen);
  prediction.nvme_bytes =
      static_cast<double>(result.nvme_read_bytes + result.weight_read_bytes) / n_steps;
  const planner::MachineProfile& profile = plan.subject.request.profile;
  const double disk_rate = profile.disk_read_bytes_per_s * pace.disk;
  if (disk_rate > 0) prediction.nvme_ms = prediction.nvme_bytes / disk_rate * 1e3;
  prediction.cpu_ms = result.cpu_s / n_steps / plan.subject.request.n_threads * 1e3;
  if (plan.problem.has_device) return prediction;
  prediction.dram_bytes = static_cast<double>(result.bytes) / n_steps;
  const double dram_rate = profile.dram_read_bytes_per_s * pace.dram;
  if (dram_rate > 0) prediction.dram_ms = prediction.dram_bytes / dram_rate * 1e3;
  return prediction;
}

std::string prediction_row(const std::string& test, const BenchPrediction& prediction,
                           bool is_first, const std::string& rates_text) {
  constexpr const char* kRow = "| {:<26} | {:>12} | {:>11} | {:>9} | {:>10} | {:>10} | {}\n";
  std::string out;
  if (is_first)
    out = head_text(prediction, rates_text) +
          fmt::format(kRow, "test", "predicted ms", "measured ms", "predicted", "peak", "measured",
                      "at work |") +
          fmt::format("| {:-<26} | {:->11}: | {:->10}: | {:->8}: | {:->9}: | {:->9}: | {:-<11} |\n",
                      "", "", "", "", "", "", "");
  return out + fmt::format(kRow, test, fmt::format("{:.2f}", prediction.step.ms),
                           fmt::format("{:.2f}", prediction.measured_ms),
                           fmt::format("{:.0f} %", 100 * prediction.share()),
                           engine::bytes_text(prediction.peak_bytes),
                           engine::bytes_text(prediction.measured_bytes),
                           work_text(prediction) +
                               (prediction.was_read_sparsely ? ", read exactly |" : " |"));
}

ordered_json prediction_json(const BenchPrediction& prediction) {
  // No object in the object: records of csv have a column for each value.
  constexpr const char* kBusy[planner::kPlanParts] = {"cpu_busy_ms",      "dram_busy_ms",
                                                      "nvme_busy_ms",     "link_in_busy_ms",
                                                      "link_out_busy_ms", "gpu_busy_ms"};
  ordered_json json = {{"is_measured", prediction.is_measured},
                       {"predicted_ms", prediction.step.ms},
                       {"measured_ms", prediction.measured_ms},
                       {"predicted_share", prediction.share()}};
  for (size_t i = 0; i < planner::kPlanParts; ++i) json[kBusy[i]] = prediction.step.busy_ms[i];
  json["was_read_sparsely"] = prediction.was_read_sparsely;
  json["binding"] = plan_part_name(prediction.step.binding());
  json["measured_cpu_ms"] = prediction.cpu_ms;
  json["measured_dram_bytes"] = prediction.dram_bytes;
  json["measured_dram_ms"] = prediction.dram_ms;
  json["measured_nvme_bytes"] = prediction.nvme_bytes;
  json["measured_nvme_ms"] = prediction.nvme_ms;
  json["predicted_peak_bytes"] = prediction.peak_bytes;
  json["measured_peak_bytes"] = prediction.measured_bytes;
  json["dram_pace"] = prediction.pace.dram;
  json["disk_pace"] = prediction.pace.disk;
  return json;
}

}  // namespace strata::cli
