// `strata bench --device virtual:NAME`: what a token and a prompt would take on a card that is not
// here, for each place where K and V may be.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/byte_text.h"
#include "engine/inspect.h"
#include "planner/virtual/predict.h"
#include "tools/cli/bench_records.h"
#include "tools/cli/bench_setup.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/notices.h"
#include "tools/cli/predicted_model.h"
#include "tools/cli/request_options.h"

namespace strata::cli {
namespace {

using engine::bytes_text;
using nlohmann::ordered_json;
using planner::DeviceProfile;
using planner::KvPlace;
using planner::Prediction;

constexpr std::string_view kVirtual = "virtual:";
constexpr uint32_t kContextMax = 1U << 20;  // its prompt takes some ten seconds to predict

/// Refuses what the command itself says and a prediction has no use for.
void check_options(const Command& command) {
  for (const std::string_view option :
       {"tiers", "n-prompt", "n-gen", "n-depth", "repetitions", "roofline", "attribution",
        "scaling", "threads", "dram", "kv-dram", "weights-dram", "cpu-isa"})
    if (command.is_set(option) && command.where(option).starts_with('-'))
      throw Error(ErrorCode::kUsage,
                  fmt::format("--device and --{} contradict each other: nothing runs on this "
                              "machine",
                              option),
                  command.where(option), "leave one of them out; -c says how long the context is");
}

struct Row {
  KvPlace place;
  uint32_t n_streamed;
  Prediction decode, prefill;
  bool fits() const { return decode.fits && prefill.fits; }
  std::string why_not() const { return decode.fits ? prefill.why_not : decode.why_not; }
};

void stop_if_asked() {
  if (interrupt_flag().load()) throw Error(ErrorCode::kCancelled, "stopped", "strata bench");
}

/// `before`: the rows before this one. A prompt's way is the same wherever in DRAM K and V are.
Row predict_row(const DeviceProfile& profile, const planner::PredictedModel& model, KvPlace place,
                uint64_t hbm_bytes_max, uint32_t n_ctx, const std::vector<Row>& before) {
  planner::Placement placement{.kv = place, .hbm_bytes_max = hbm_bytes_max};
  // A chunk of whole blocks, no longer than the prompt.
  placement.prefill_rows = std::min(
      placement.prefill_rows, (n_ctx + kBlockPositions - 1) / kBlockPositions * kBlockPositions);
  const uint32_t n_layers = model.shape.n_layers;
  placement.n_streamed_layers =
      std::min(planner::fewest_streamed_layers(profile, model, placement, n_ctx), n_layers);
  Row row{.place = place,
          .n_streamed = placement.n_streamed_layers,
          .decode = planner::predict_decode(profile, model, placement, n_ctx),
          .prefill = {}};
  stop_if_asked();
  const auto same = std::ranges::find_if(before, [&](const Row& other) {
    return other.place != KvPlace::kHbm && place != KvPlace::kHbm &&
           other.n_streamed == row.n_streamed;
  });
  row.prefill = same != before.end() ? same->prefill
                                     : planner::predict_prefill(profile, model, placement, n_ctx);
  stop_if_asked();
  return row;
}

struct Subject {
  const DeviceProfile& profile;
  const planner::PredictedModel& model;
  const Settings& settings;
  engine::ModelFacts facts;
  uint32_t n_ctx;
  uint64_t file_bytes;
};

uint64_t n_of(const DeviceProfile& profile, planner::Evidence evidence) {
  const auto figures = planner::profile_figures(profile);
  return static_cast<uint64_t>(std::ranges::count(
      figures, evidence, [](const auto& named) { return named.figure.evidence; }));
}

std::string statement(const DeviceProfile& profile) {
  const uint64_t n = planner::profile_figures(profile).size();
  const uint64_t n_sheet = n_of(profile, planner::Evidence::kDatasheet);
  const uint64_t n_measured = n_of(profile, planner::Evidence::kMeasured);
  const std::string measured =
      n_measured == 0 ? fmt::format("none of its {} figures was measured", n)
                      : fmt::format("{} of its {} figures were measured on one", n_measured, n);
  return fmt::format(
      "Prediction for {}, not a measurement: {}, {} are from datasheets, {} are assumed (-v lists "
      "them).",
      profile.title, measured, n_sheet, n - n_sheet - n_measured);
}

std::string table_text(const Subject& subject, const std::vector<Row>& rows) {
  constexpr const char* kRow =
      "| {:<21} | {:>8} | {:>9} | {:>8} | {:>9} | {:>14} | {:>9} | {:>9} |\n";
  std::string out = statement(subject.profile);
  if (subject.settings.hbm > 0)
    out += fmt::format(" At most {} of its memory are used.", bytes_text(subject.settings.hbm));
  out += fmt::format(
      "\n{} {}, {} of weights, KV {}/{}, {} tokens of context. Selected: {} positions of each KV "
      "head, {:.0f} % of them cached in HBM; searching for them takes no time here.\n\n",
      subject.facts.architecture, one_line(subject.facts.name), bytes_text(subject.file_bytes),
      subject.settings.cache_type_k, subject.settings.cache_type_v,
      engine::grouped_number(subject.n_ctx),
      engine::grouped_number(planner::Placement{}.selected_positions),
      100 * planner::Placement{}.hit_share);
  out += fmt::format(kRow, "K and V in", "streamed", "TPOT ms", "t/s", "TTFT s", "busiest", "HBM",
                     "DRAM");
  out += fmt::format(
      "| {:-<21} | {:->7}: | {:->8}: | {:->7}: | {:->8}: | {:->13}: | {:->8}: | {:->8}: |\n", "",
      "", "", "", "", "", "", "");
  std::string refused;
  for (const Row& row : rows) {
    if (!row.fits()) {
      refused +=
          fmt::format("K and V in {}: {}\n", planner::kv_place_name(row.place), row.why_not());
      continue;
    }
    out += fmt::format(kRow, planner::kv_place_name(row.place),
                       fmt::format("{}/{}", row.n_streamed, subject.model.shape.n_layers),
                       fmt::format("{:.2f}", row.decode.ms),
                       fmt::format("{:.2f}", 1e3 / row.decode.ms),
                       fmt::format("{:.3f}", row.prefill.ms / 1e3),
                       fmt::format("{} {:.0f} %", planner::part_name(row.decode.busiest.part),
                                   100 * row.decode.busiest.share),
                       bytes_text(std::max(row.decode.hbm_bytes, row.prefill.hbm_bytes)),
                       bytes_text(std::max(row.decode.pinned_bytes, row.prefill.pinned_bytes)));
  }
  return out + (refused.empty() ? "" : "\ndoes not fit:\n" + refused);
}

ordered_json row_json(const Subject& subject, const Row& row) {
  ordered_json json = {
      {"device", fmt::format("{}{}", kVirtual, subject.profile.name)},
      {"is_prediction", true},
      {"n_figures_measured", n_of(subject.profile, planner::Evidence::kMeasured)},
      {"n_figures_datasheet", n_of(subject.profile, planner::Evidence::kDatasheet)},
      {"n_figures_assumed", n_of(subject.profile, planner::Evidence::kAssumed)},
      {"model_filename", subject.settings.model},
      {"model_size", subject.file_bytes},
      {"model_n_params", subject.facts.parameters},
      {"type_k", subject.settings.cache_type_k},
      {"type_v", subject.settings.cache_type_v},
      {"n_ctx", subject.n_ctx},
      {"kv_place", planner::kv_place_name(row.place)},
      {"n_layers", subject.model.shape.n_layers},
      {"n_streamed_layers", row.n_streamed},
      {"fits", row.fits()}};
  if (!row.fits()) {
    json["why_not"] = row.why_not();
    return json;
  }
  json.update(
      ordered_json{{"predicted_tpot_ms", row.decode.ms},
                   {"predicted_ts", 1e3 / row.decode.ms},
                   {"predicted_ttft_ms", row.prefill.ms},
                   {"busiest", planner::part_name(row.decode.busiest.part)},
                   {"busiest_share", row.decode.busiest.share},
                   {"hbm_bytes", std::max(row.decode.hbm_bytes, row.prefill.hbm_bytes)},
                   {"pinned_bytes", std::max(row.decode.pinned_bytes, row.prefill.pinned_bytes)}});
  return json;
}

/// What was asked for, or the context that the model was trained for.
uint32_t context_of(const Command& command, const ModelShape& shape) {
  const uint64_t n_ctx =
      command.settings.device_ctx > 0 ? command.settings.device_ctx : shape.n_ctx_train;
  if (n_ctx > kContextMax)
    throw Error(ErrorCode::kUsage,
                fmt::format("a context of {} tokens, wanted at most {}", n_ctx, kContextMax),
                command.where("device-ctx"), "use a smaller -c");
  if (n_ctx > shape.n_ctx_train)
    notice(fmt::format("note: beyond {} tokens this model was never trained", shape.n_ctx_train));
  return static_cast<uint32_t>(n_ctx);
}

}  // namespace

int run_device_bench(const Command& command, AnswerSink& sink) {
  const Settings& settings = command.settings;
  const DeviceProfile& profile = virtual_profile(command);
  check_options(command);
  const auto file = engine::GgufFile::open(settings.model);
  const engine::EngineOptions options = engine_options(settings);
  const planner::PredictedModel model = predicted_model(file, options.k_codec, options.v_codec);
  const uint32_t n_ctx = context_of(command, model.shape);
  Subject subject{profile, model, settings, engine::inspect_model(file), n_ctx, 0};
  for (const engine::GgufTensor& tensor : file.tensors()) subject.file_bytes += tensor.bytes;
  if (settings.verbose)
    for (const auto& [name, figure] : planner::profile_figures(profile))
      notice(fmt::format("{:<24} {:>14g}  {}", name, figure.value,
                         planner::evidence_name(figure.evidence)));
  std::vector<Row> rows;
  for (const KvPlace place : {KvPlace::kHbm, KvPlace::kDramOnCpu, KvPlace::kDramInPlace,
                              KvPlace::kDramStreamed, KvPlace::kSelectedDram})
    rows.push_back(predict_row(profile, model, place, settings.hbm, n_ctx, rows));
  const std::string format = bench_format(settings);
  if (format == "md") {
    sink.write(table_text(subject, rows));
  } else {
    notice(statement(profile));
    BenchRecords records(sink, format);
    for (const Row& row : rows) records.add(row_json(subject, row));
    records.finish();
  }
  sink.close();
  return 0;
}

}  // namespace strata::cli
