#include "tools/cli/roofline.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace strata::cli {
namespace {

using nlohmann::ordered_json;

constexpr double kMega = 1e6, kGiga = 1e9;

double rate(uint64_t amount, double seconds) {
  return seconds > 0 ? static_cast<double>(amount) / seconds / kGiga : 0;
}

double share_of(double rate, double ceiling) { return ceiling > 0 ? rate / ceiling : 0; }

const char* bound_name(StageBound bound) {
  switch (bound) {
    case StageBound::kUncounted:
      return "uncounted";
    case StageBound::kMemory:
      return "memory";
    case StageBound::kCompute:
      return "compute";
    case StageBound::kNeither:
      return "neither";
  }
  return "";
}

std::string fewer_bytes(const BenchSubject& subject, const BenchResult& result,
                        const BenchStage& stage) {
  if (stage.kind != OpKind::kAttend)
    return result.test.n_gen > 0 ? "weights of fewer bits, or several rows for one reading of them"
                                 : "weights of fewer bits, or longer chunks (-b)";
  std::string text = subject.k_codec == KvCodec::kF16 ? "K and V in q8_0 (-ctk, -ctv), or " : "";
  return text +
         (subject.attn_method.empty() ? "a part of the context (--attn)" : "a smaller --kv-budget");
}

/// Bytes of a run that came from the disk, against what it gives.
std::string disk_line(const std::string& what, uint64_t bytes, const BenchResult& result) {
  const double gbytes_per_s = rate(bytes, result.samples_s.front());
  std::string text =
      fmt::format("{}: {:.1f} MB a token from the disk at {:.2f} GB/s", what,
                  static_cast<double>(bytes) / result.n_tokens() / kMega, gbytes_per_s);
  if (!(result.disk_read_gbytes_per_s > 0)) return text + "\n";
  const double share = gbytes_per_s / result.disk_read_gbytes_per_s;
  return text + fmt::format(", {:.0f} % of the {:.2f} GB/s that it gives: {}\n", 100 * share,
                            result.disk_read_gbytes_per_s,
                            share >= kBoundShare
                                ? "disk-bound: more of it in memory (--dram), or a faster disk"
                                : "the disk is not the limit: see --attribution for what waits");
}

}  // namespace

StageRoof roof_of(const BenchStage& stage, const BenchResult& result) {
  StageRoof roof;
  roof.gbytes_per_s = rate(stage.bytes, stage.seconds);
  roof.gflop_per_s = rate(stage.flop, stage.seconds);
  roof.peak_gflop_per_s = result.peak.of(stage.arithmetic);
  roof.share_of_dram = share_of(roof.gbytes_per_s, result.memory_gbytes_per_s);
  roof.share_of_peak = share_of(roof.gflop_per_s, roof.peak_gflop_per_s);
  if (roof.share() == 0)
    roof.bound = StageBound::kUncounted;
  else if (roof.share() < kBoundShare)
    roof.bound = StageBound::kNeither;
  else
    roof.bound =
        roof.share_of_dram >= roof.share_of_peak ? StageBound::kMemory : StageBound::kCompute;
  return roof;
}

std::string would_help(const BenchSubject& subject, const BenchResult& result,
                       const BenchStage& stage) {
  const StageRoof roof = roof_of(stage, result);
  const char* arithmetic = arithmetic_name(stage.arithmetic);
  switch (roof.bound) {
    case StageBound::kUncounted:
      return "moves and computes too little to be counted: fewer steps, with more rows each";
    case StageBound::kMemory:
      return fmt::format("memory-bound at {:.0f} % of DRAM: fewer bytes ({}), or faster memory",
                         100 * roof.share_of_dram, fewer_bytes(subject, result, stage));
    case StageBound::kCompute:
      return fmt::format("compute-bound at {:.0f} % of the {} peak: more or faster cores{}",
                         100 * roof.share_of_peak, arithmetic,
                         roof.share_of_peak < 0.8 ? ", or a kernel nearer the peak" : "");
    case StageBound::kNeither:
      break;
  }
  const std::string of_peak =
      roof.peak_gflop_per_s > 0
          ? fmt::format("{:.0f} % of the {} peak", 100 * roof.share_of_peak, arithmetic)
          : "a peak that is not known";
  return fmt::format(
      "near no ceiling, {:.0f} % of DRAM and {}: its work is short, its threads wait for each "
      "other or its kernel is far from the peak: more rows in a step, or cores that nothing else "
      "uses",
      100 * roof.share_of_dram, of_peak);
}

RecomputeRates recompute_rates(const BenchResult& result) {
  RecomputeRates rates;
  const bool reads_disk = result.nvme_read_bytes > 0;
  rates.gbytes_per_s = reads_disk ? result.disk_read_gbytes_per_s : result.memory_gbytes_per_s;
  rates.from = reads_disk ? "the disk" : "memory";
  const auto qkv = std::ranges::find(result.stages, OpKind::kQkv, &BenchStage::kind);
  if (qkv == result.stages.end()) return rates;
  const StageRoof roof = roof_of(*qkv, result);
  // Of a decoded token, and of few rows, memory is what bounds qkv: it says nothing of many.
  const bool is_of_many = result.test.n_prompt > 0 && roof.bound != StageBound::kMemory;
  rates.gflop_per_s = is_of_many ? roof.gflop_per_s : roof.peak_gflop_per_s;
  rates.made_by = is_of_many ? "qkv" : fmt::format("the {} peak", arithmetic_name(qkv->arithmetic));
  return rates;
}

std::string roofline_table(const std::string& test, const BenchSubject& subject,
                           const BenchResult& result) {
  std::string out = fmt::format("\n{}: one more run of {} tokens; DRAM read {:.1f} GB/s", test,
                                result.n_tokens(), result.memory_gbytes_per_s);
  if (result.peak.f32_gflop_per_s > 0) {
    out += fmt::format(", peaks of {} threads: f32 {:.0f} GFLOP/s, int8 {:.0f} Gop/s",
                       subject.n_threads, result.peak.f32_gflop_per_s, result.peak.int8_gop_per_s);
    if (std::ranges::count(result.stages, Arithmetic::kInt8Pair, &BenchStage::arithmetic) > 0)
      out += ", int8-pair (two products of bytes for one) half of that";
  }
  out += fmt::format(
      "; bytes and FLOP by formula\n"
      "| {:<11} | {:>10} | {:>6} | {:>10} | {:>7} | {:>6} | {:>8} | {:>6} |\n"
      "| {:-<11} | {:->9}: | {:->5}: | {:->9}: | {:->6}: | {:->5}: | {:->7}: | {:->5}: |\n",
      "stage", "ms", "% time", "MB", "GB/s", "% DRAM", "GFLOP/s", "% peak", "", "", "", "", "", "",
      "", "");
  double total_s = 0;
  for (const BenchStage& stage : result.stages) total_s += stage.seconds;
  std::string sentences;
  for (const BenchStage& stage : result.stages) {
    const StageRoof roof = roof_of(stage, result);
    out += fmt::format(
        "| {:<11} | {:>10.2f} | {:>6.1f} | {:>10.1f} | {:>7.2f} | {:>6.0f} | {:>8.1f} | {:>6} |\n",
        op_kind_name(stage.kind), stage.seconds * 1e3, 100 * stage.seconds / total_s,
        static_cast<double>(stage.bytes) / kMega, roof.gbytes_per_s, 100 * roof.share_of_dram,
        roof.gflop_per_s,
        roof.peak_gflop_per_s > 0 ? fmt::format("{:.0f}", 100 * roof.share_of_peak) : "-");
    sentences +=
        fmt::format("{}: {}\n", op_kind_name(stage.kind), would_help(subject, result, stage));
  }
  if (result.weight_read_bytes > 0)
    sentences += disk_line("weights", result.weight_read_bytes, result);
  if (result.nvme_read_bytes > 0) sentences += disk_line("K and V", result.nvme_read_bytes, result);
  if (subject.recompute.kv_bytes > 0)
    sentences += recompute_line(subject.recompute, recompute_rates(result));
  return out + sentences;
}

ordered_json roofline_json(const BenchSubject& subject, const BenchResult& result) {
  auto list = ordered_json::array();
  for (const BenchStage& stage : result.stages) {
    const StageRoof roof = roof_of(stage, result);
    list.push_back({{"stage", op_kind_name(stage.kind)},
                    {"ms", stage.seconds * 1e3},
                    {"bytes", stage.bytes},
                    {"flop", stage.flop},
                    {"gbytes_per_s", roof.gbytes_per_s},
                    {"share_of_dram", roof.share_of_dram},
                    {"gflop_per_s", roof.gflop_per_s},
                    {"arithmetic", arithmetic_name(stage.arithmetic)},
                    {"share_of_peak", roof.share_of_peak},
                    {"bound", bound_name(roof.bound)},
                    {"would_help", would_help(subject, result, stage)}});
  }
  return list;
}

ordered_json ceilings_json(const BenchResult& result) {
  ordered_json json = {{"dram_gbytes_per_s", result.memory_gbytes_per_s}};
  if (result.peak.f32_gflop_per_s > 0) {
    json["f32_gflop_per_s"] = result.peak.f32_gflop_per_s;
    json["int8_gop_per_s"] = result.peak.int8_gop_per_s;
  }
  if (result.disk_read_gbytes_per_s > 0) json["disk_gbytes_per_s"] = result.disk_read_gbytes_per_s;
  return json;
}

}  // namespace strata::cli
