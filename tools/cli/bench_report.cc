#include "tools/cli/bench_report.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>

#include "engine/byte_text.h"
#include "tools/cli/attention_report.h"
#include "tools/cli/attribution_report.h"
#include "tools/cli/roofline.h"
#include "tools/cli/sample_statistics.h"

namespace strata::cli {
namespace {

using nlohmann::ordered_json;

constexpr double kMega = 1e6;
constexpr double kGiga = 1e9;

std::string kv_name(const BenchSubject& subject) {
  return fmt::format("{}/{}", kv_codec_name(subject.k_codec), kv_codec_name(subject.v_codec));
}

std::string utc_text(std::chrono::system_clock::time_point time) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(time)));
}

/// Of what memory gives; 0 where that could not be measured.
double share_of_memory(const BenchResult& result, double gbytes_per_s) {
  return result.memory_gbytes_per_s > 0 ? gbytes_per_s / result.memory_gbytes_per_s : 0;
}

/// What the CPU's operations get; 0 where a device's memory was measured.
double dram_gbytes_per_s(const BenchSubject& subject, const BenchResult& result) {
  return subject.is_on_device ? 0 : result.memory_gbytes_per_s;
}

double rate(uint64_t amount, double seconds) {
  return seconds > 0 ? static_cast<double>(amount) / seconds / kGiga : 0;
}

double observe_ms_per_1000(const BenchResult& result) {
  const auto n = static_cast<double>(std::max<uint64_t>(1, result.index.n_positions));
  return result.index.observe_s * 1e6 / n;
}

/// Of the index that chooses; what it costs to make of a prompt.
ordered_json index_json(const BenchSubject& subject, const BenchResult& result) {
  ordered_json json = {{"method", subject.attn_method},
                       {"bytes_per_position", result.index.bytes_per_position},
                       {"budget_bytes", subject.index_budget_bytes}};
  if (result.test.n_prompt == 0) return json;
  json["observed_positions"] = result.index.n_positions;
  json["observe_cpu_ms_per_1000"] = observe_ms_per_1000(result);
  json["observe_share_of_prefill"] = result.index.share_of_walk();
  return json;
}

/// Of a prompt's steps none selects, unless it is read sparsely.
ordered_json attention_of(const BenchSubject& subject, const BenchResult& result) {
  if (result.selected.steps == 0) return {{"method", "exact"}};
  if (result.test.n_gen > 0)
    return selected_json(subject.attn_method, subject.attn_budget, subject.kv_position_bytes,
                         result.selected);
  return {{"method", subject.attn_method},
          {"budget", subject.attn_budget},
          {"selected_steps", result.selected.steps}};
}

}  // namespace

const char* fill_name(DepthFill fill) { return fill == DepthFill::kRandom ? "random" : "prefill"; }

ordered_json subject_json(const BenchSubject& subject) {
  return {
      {"cpu_info", subject.device},
      {"backends", subject.is_on_device ? "CUDA" : "CPU"},
      {"model_filename", subject.model_filename},
      {"model_type", subject.model_type},
      {"model_size", subject.model_size},
      {"model_n_params", subject.model_n_params},
      {"n_batch", subject.n_batch},
      {"n_ubatch", subject.n_batch},
      {"n_threads", subject.n_threads},
      {"type_k", kv_codec_name(subject.k_codec)},
      {"type_v", kv_codec_name(subject.v_codec)},
  };
}

ordered_json bench_json(const BenchSubject& subject, const BenchResult& result) {
  const auto rates = result.samples_tokens_per_s();
  std::vector<double> samples_ns;
  for (const double seconds : result.samples_s) samples_ns.push_back(std::round(seconds * 1e9));
  ordered_json json = subject_json(subject);
  json.update(ordered_json{
      {"n_prompt", result.test.n_prompt},
      {"n_gen", result.test.n_gen},
      {"n_depth", result.test.n_depth},
      {"test_time", utc_text(result.start)},
      {"avg_ns", static_cast<uint64_t>(mean(samples_ns))},
      {"stddev_ns", static_cast<uint64_t>(standard_deviation(samples_ns))},
      {"avg_ts", mean(rates)},
      {"stddev_ts", standard_deviation(rates)},
      {"samples_ns", samples_ns},
      {"samples_ts", rates},
      {"median_ts", median(rates)},
      {"bytes_per_token", result.bytes_per_token()},
      {"gbytes_per_s", result.gbytes_per_s()},
      {subject.is_on_device ? "hbm_gbytes_per_s" : "dram_gbytes_per_s", result.memory_gbytes_per_s},
      {subject.is_on_device ? "share_of_hbm" : "share_of_dram",
       share_of_memory(result, result.gbytes_per_s())},
      {"gflop_per_s", rate(result.flop, median(result.samples_s))},
      {"peak_memory_bytes", result.peak_bytes},
      {"memory_limit_bytes", subject.memory_limit_bytes},
  });
  if (subject.is_spilling) {
    json["kv_dram_bytes"] = subject.kv_dram_bytes;
    json["nvme_read_bytes_per_token"] =
        static_cast<double>(result.nvme_read_bytes) / result.n_tokens();
    json["nvme_read_gbytes_per_s"] = rate(result.nvme_read_bytes, result.samples_s.front());
    json["nvme_written_bytes"] = result.nvme_written_bytes;
  }
  if (result.test.n_depth > 0) json["depth_fill"] = fill_name(subject.fill);
  if (!subject.attn_method.empty()) {
    json["attention"] = attention_of(subject, result);
    json["index"] = index_json(subject, result);
  }
  if (!result.stages.empty())
    json.update({{"ceilings", ceilings_json(result)},
                 {"stages", roofline_json(subject, result)},
                 {"recompute", recompute_json(subject.recompute, recompute_rates(result))}});
  if (!subject.reads_ahead) json["read_ahead"] = false;
  if (!subject.keeps_blocks) json["kept_blocks"] = false;
  if (!result.attribution.steps.empty())
    json["attribution"] = attribution_json(result.attribution, dram_gbytes_per_s(subject, result));
  return json;
}

BenchReport::BenchReport(AnswerSink& sink, std::string format, bool scales)
    : sink_(sink), format_(std::move(format)), scales_(scales), records_(sink, format_) {}

std::string BenchReport::test_text(const BenchTest& test) const {
  std::string text = test.name();
  if (test.n_depth > 0 && subject_.fill == DepthFill::kRandom) text += " (random KV)";
  if (!subject_.reads_ahead) text += ", no read-ahead";
  if (!subject_.keeps_blocks) text += ", no kept blocks";
  if (subject_.attn_method.empty()) return text;
  return text + (test.n_gen > 0 ? fmt::format(", {} {}", subject_.attn_method, subject_.attn_budget)
                                : fmt::format(", {} index", subject_.attn_method));
}

void BenchReport::add_row(const BenchResult& result, const BenchPrediction& prediction) {
  constexpr const char* kRow =
      "| {:<24} | {:>9} | {:>9} | {:>9} | {:>7} | {:>26} | {:>17} | {:>8} | {:>8} | {:>6} | {:>6} "
      "|\n";
  if (!has_header_) {
    sink_.write(fmt::format(kRow, "model", "size", "params", "KV", "threads", "test", "t/s",
                            "median", "MB/token", "GB/s",
                            subject_.is_on_device ? "% HBM" : "% DRAM"));
    sink_.write(fmt::format(
        "| {:-<24} | {:->8}: | {:->8}: | {:->8}: | {:->6}: | {:->25}: | {:->16}: | {:->7}: | "
        "{:->7}: | {:->5}: | {:->5}: |\n",
        "", "", "", "", "", "", "", "", "", "", ""));
    has_header_ = true;
  }
  const auto rates = result.samples_tokens_per_s();
  sink_.write(fmt::format(
      kRow, subject_.model_type, engine::bytes_text(subject_.model_size),
      fmt::format("{:.2f} M", static_cast<double>(subject_.model_n_params) / kMega),
      kv_name(subject_), subject_.n_threads, test_text(result.test),
      fmt::format("{:.2f} ± {:.2f}", mean(rates), standard_deviation(rates)),
      fmt::format("{:.2f}", median(rates)), fmt::format("{:.1f}", result.bytes_per_token() / kMega),
      fmt::format("{:.2f}", result.gbytes_per_s()),
      fmt::format("{:.0f}", 100 * share_of_memory(result, result.gbytes_per_s()))));
  if (scales_) {
    auto of_test = std::ranges::find(rates_, test_text(result.test), &TestRates::test);
    if (of_test == rates_.end()) of_test = rates_.insert(of_test, {test_text(result.test), {}});
    // Of a test that was asked for twice the first.
    if (of_test->of_threads.empty() || of_test->of_threads.back().first != subject_.n_threads)
      of_test->of_threads.emplace_back(subject_.n_threads, median(rates));
  }
  // Without a profile of its own the CPU's prediction says nothing; a card's figures are those of
  // its kind.
  if (prediction.is_measured || subject_.is_on_device)
    predictions_ += prediction_row(test_text(result.test), prediction, predictions_.empty(),
                                   subject_.rates_text);
  if (!result.stages.empty()) notes_ += roofline_table(test_text(result.test), subject_, result);
  if (!result.attribution.steps.empty())
    notes_ += attribution_tables(test_text(result.test), result.attribution,
                                 dram_gbytes_per_s(subject_, result), subject_.by_layer);
  if (!subject_.attn_method.empty()) notes_ += index_line(result);
}

/// "pp512: 1403.20 t/s with 1 thread; 2694.14 with 2, 1.92 x".
std::string BenchReport::scaling_lines() const {
  std::string lines;
  for (const auto& [test, of_threads] : rates_) {
    if (of_threads.size() < 2) continue;
    const auto [n_fewest, of_one] = of_threads.front();
    lines += fmt::format("\n{}: {:.2f} t/s with {} thread{}", test, of_one, n_fewest,
                         n_fewest == 1 ? "" : "s");
    for (const auto& [n_threads, rate] : std::span(of_threads).subspan(1))
      lines += fmt::format("; {:.2f} with {}, {:.2f} x", rate, n_threads, rate / of_one);
  }
  return lines.empty() ? lines : lines + "\n";
}

std::string BenchReport::index_line(const BenchResult& result) const {
  const std::string held =
      fmt::format("its index holds {:.1f} bytes a position", result.index.bytes_per_position);
  if (result.test.n_gen == 0)
    return fmt::format(
        "\n{}: {}; observing takes {:.2f} ms of processor time per 1,000 positions, {:.1f} % of "
        "the rest of reading; {}\n",
        test_text(result.test), result.selected.steps > 0 ? "read sparsely" : "attended exactly",
        observe_ms_per_1000(result), 100 * result.index.share_of_walk(), held);
  const auto n = static_cast<double>(result.selected.steps);
  return fmt::format(
      "\n{}: approximate, {:.2f} % of K and V; a token reads {:.2f} MB of them and {:.2f} MB of "
      "the index{}; {}\n",
      test_text(result.test), 100 * result.selected.attended_share(),
      static_cast<double>(result.selected.attended_positions() * subject_.kv_position_bytes) / n /
          kMega,
      static_cast<double>(result.selected.index_bytes) / n / kMega,
      searched_place_text(result.selected), held);
}

void BenchReport::add(const BenchResult& result, const BenchPrediction& prediction) {
  if (format_ == "md") return add_row(result, prediction);
  ordered_json json = bench_json(subject_, result);
  json["predicted_ts"] = prediction.tokens_per_s();
  json["prediction"] = prediction_json(prediction);
  records_.add(json);
}

void BenchReport::finish() {
  if (format_ == "md") sink_.write(predictions_ + notes_ + scaling_lines());
  records_.finish();
}

}  // namespace strata::cli
