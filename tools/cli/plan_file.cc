#include "tools/cli/plan_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "engine/device_choice.h"
#include "tools/cli/input_files.h"
#include "tools/cli/json_output.h"
#include "tools/cli/json_place.h"

namespace strata::cli {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr uint64_t kTextMax = uint64_t{1} << 20;
constexpr uint64_t kLayersMax = 4096;
constexpr uint64_t kBytesMax = uint64_t{1} << 46;  // as options allow
constexpr uint64_t kTokensMax = (uint64_t{1} << 31) - 1;
constexpr uint64_t kChunkMax = 8192;
constexpr const char* kRemedy = "correct the file, or plan anew (`strata plan --save FILE`)";
constexpr KvCodec kCodecs[] = {KvCodec::kF16, KvCodec::kQ8_0};

/// Where a piece is: "file" = read from the model file in every step, "hbm_alone" = in a card's
/// memory and not in DRAM, "cpu" = in DRAM, and the CPU multiplies few rows by it beside a card.
const char* piece_place(const engine::Placement& placement, size_t layer, LayerPiece piece) {
  const bool is_streamed = placement.streamed[layer].has(piece);
  if (placement.has_device() && placement.resident[layer].has(piece))
    return is_streamed ? "hbm_alone" : "hbm";
  if (is_streamed) return "file";
  return !placement.on_cpu.empty() && placement.on_cpu[layer].has(piece) ? "cpu" : "dram";
}

/// One place, or one for each piece.
ordered_json weights_place(const engine::Placement& placement, size_t layer) {
  const auto place = [&](LayerPiece piece) { return piece_place(placement, layer, piece); };
  const std::string_view attention = place(LayerPiece::kAttention), ffn = place(LayerPiece::kFfn);
  if (attention == ffn) return attention;
  return {{layer_piece_name(LayerPiece::kAttention), attention},
          {layer_piece_name(LayerPiece::kFfn), ffn}};
}

std::string run_text(size_t first, size_t last) {
  return first == last ? fmt::format("{}", first) : fmt::format("{}-{}", first, last);
}

ordered_json layers_json(const engine::Placement& placement) {
  ordered_json runs = ordered_json::object();
  const size_t n = placement.streamed.size();
  for (size_t first = 0; first < n;) {
    ordered_json place = weights_place(placement, first);
    size_t last = first;
    while (last + 1 < n && weights_place(placement, last + 1) == place) ++last;
    runs[run_text(first, last)] = std::move(place);
    first = last + 1;
  }
  return runs;
}

struct LayerRun {
  uint64_t first = 0, last = 0;
  PieceSet streamed, resident, on_cpu;
};

/// "12" or "12-14".
bool read_run(std::string_view text, LayerRun& run) {
  const auto read = [&](std::string_view digits, uint64_t& value) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() && end == digits.data() + digits.size() && value < kLayersMax;
  };
  const size_t dash = text.find('-');
  if (!read(text.substr(0, dash), run.first)) return false;
  run.last = run.first;
  if (dash == std::string_view::npos) return true;
  return read(text.substr(dash + 1), run.last) && run.first <= run.last;
}

void read_piece(const JsonPlace& at, const PlanFile& plan, LayerPiece piece, LayerRun& run) {
  const std::string place = at.text();
  const bool is_there = place == "hbm" || place == "hbm_alone";
  if (!is_there && place != "dram" && place != "cpu" && place != "file")
    at.refuse("hbm, hbm_alone, dram, cpu or file");
  if ((is_there || place == "cpu") && plan.device == "none")
    at.refuse("dram or file: device is none");
  if (place == "file" || place == "hbm_alone") run.streamed.add(piece);
  if (is_there) run.resident.add(piece);
  if (place == "cpu") run.on_cpu.add(piece);
}

void read_layers(const JsonPlace& at, PlanFile& plan) {
  std::vector<LayerRun> runs;
  at.each_key([&](const std::string& key, const JsonPlace& value) {
    LayerRun run;
    if (!read_run(key, run)) value.refuse("a layer (\"12\") or a run of them (\"12-14\")");
    if (value.is_object()) value.expect_keys({"attention", "ffn"});
    for (const LayerPiece piece : kEachPiece)
      read_piece(value.is_object() ? value.at(layer_piece_name(piece)) : value, plan, piece, run);
    runs.push_back(run);
  });
  std::ranges::sort(runs, {}, &LayerRun::first);
  engine::Placement& placement = plan.placement;
  const bool has_on_cpu =
      std::ranges::any_of(runs, [](const LayerRun& run) { return run.on_cpu.is_any(); });
  for (const LayerRun& run : runs) {
    if (run.first != placement.streamed.size())
      at.refuse(fmt::format("every layer from 0 to {} once, {} is missing or there twice",
                            plan.n_layers - 1,
                            std::min<uint64_t>(run.first, placement.streamed.size())));
    const size_t n = run.last - run.first + 1;
    placement.streamed.insert(placement.streamed.end(), n, run.streamed);
    if (plan.device != "none") placement.resident.insert(placement.resident.end(), n, run.resident);
    if (has_on_cpu) placement.on_cpu.insert(placement.on_cpu.end(), n, run.on_cpu);
  }
  if (placement.streamed.size() != plan.n_layers)
    at.refuse(fmt::format("every layer from 0 to {} once", plan.n_layers - 1));
}

KvCodec read_codec(const JsonPlace& at) {
  const std::string name = at.text();
  const auto* codec =
      std::ranges::find_if(kCodecs, [&](KvCodec of) { return name == kv_codec_name(of); });
  if (codec == std::end(kCodecs)) at.refuse("f16 or q8_0");
  return *codec;
}

void read_model(const JsonPlace& at, PlanFile& plan) {
  at.expect_keys({"name", "architecture", "n_layers", "weight_bytes"});
  plan.model = at.at("name").text();
  plan.architecture = at.at("architecture").text();
  plan.n_layers = static_cast<uint32_t>(at.at("n_layers").count(kLayersMax));
  plan.weight_bytes = at.at("weight_bytes").count(kBytesMax);
}

/// A virtual one too: `strata plan` writes it, and who runs the plan refuses it by its name.
std::string read_device(const JsonPlace& at) {
  const std::string text = at.text();
  try {
    if (engine::parse_device_choice(text).kind != engine::DeviceChoice::Kind::kAuto) return text;
  } catch (const Error&) {
    // Its message is of an option.
  }
  at.refuse("none or cuda:N");
}

void read_budgets(const JsonPlace& at, PlanFile& plan) {
  at.expect_keys({"dram_bytes", "nvme_bytes", "hbm_bytes"});
  plan.dram_bytes = at.at("dram_bytes").count(kBytesMax);
  plan.nvme_bytes = at.at("nvme_bytes").count(kBytesMax, 0);
  plan.hbm_bytes = at.at("hbm_bytes").count(kBytesMax, 0);
}

/// After the budgets, which bound it.
void read_kv(const JsonPlace& at, PlanFile& plan) {
  at.expect_keys({"type_k", "type_v", "dram_bytes", "hbm_bytes"}, {"cpu_share", "index_in_hbm"});
  engine::Placement& placement = plan.placement;
  if (at.has("cpu_share")) placement.cpu_share = at.at("cpu_share").share();
  if (at.has("index_in_hbm")) placement.index_in_hbm = at.at("index_in_hbm").flag();
  if (placement.index_in_hbm && plan.device == "none")
    at.at("index_in_hbm").refuse("false: device is none");
  placement.k_codec = read_codec(at.at("type_k"));
  placement.v_codec = read_codec(at.at("type_v"));
  placement.kv_dram_bytes = at.at("dram_bytes").count(plan.dram_bytes, 0);
  placement.kv_hbm_bytes = at.at("hbm_bytes").count(plan.hbm_bytes, 0);
  if (placement.is_spilling() && plan.nvme_bytes == 0)
    at.at("dram_bytes").refuse("0 (all of K and V in DRAM): budgets.nvme_bytes is 0");
}

}  // namespace

PlanFile plan_file_of(const engine::GgufFile& file, const engine::ModelSpec& spec) {
  PlanFile plan;
  plan.model = spec.name;
  plan.architecture = spec.shape.architecture;
  plan.n_layers = spec.shape.n_layers;
  for (const engine::GgufTensor& tensor : file.tensors()) plan.weight_bytes += tensor.bytes;
  return plan;
}

std::string plan_file_json(const PlanFile& plan) {
  const engine::Placement& placement = plan.placement;
  ordered_json kv = {{"type_k", kv_codec_name(placement.k_codec)},
                     {"type_v", kv_codec_name(placement.v_codec)},
                     {"dram_bytes", placement.kv_dram_bytes},
                     {"hbm_bytes", placement.kv_hbm_bytes}};
  if (placement.cpu_share > 0) kv["cpu_share"] = placement.cpu_share;
  if (placement.index_in_hbm) kv["index_in_hbm"] = true;
  const ordered_json root = {
      {"version", kPlanFileVersion},
      {"model",
       {{"name", plan.model},
        {"architecture", plan.architecture},
        {"n_layers", plan.n_layers},
        {"weight_bytes", plan.weight_bytes}}},
      {"device", plan.device},
      {"budgets",
       {{"dram_bytes", plan.dram_bytes},
        {"nvme_bytes", plan.nvme_bytes},
        {"hbm_bytes", plan.hbm_bytes}}},
      {"n_ctx", placement.n_ctx},
      {"chunk_rows", placement.chunk_rows},
      {"layers", layers_json(placement)},
      {"kv", std::move(kv)},
      {"predicted",
       {{"ttft_ms", plan.ttft_ms}, {"tpot_ms", plan.tpot_ms}, {"is_measured", plan.is_measured}}}};
  return json_text(root) + "\n";
}

PlanFile parse_plan_file(std::string_view text, const std::string& path) {
  const json parsed = text.size() > kTextMax
                          ? json(fmt::format("{} bytes", text.size()))
                          : json::parse(text, nullptr, /*allow_exceptions=*/false);
  const JsonSource source{path, kRemedy};
  const JsonPlace root(parsed, "the plan", source);
  if (!parsed.is_object()) root.refuse("a JSON object of less than 1 MiB");
  const JsonPlace top(parsed, "", source);
  // Before all other keys: another version has others.
  if (!top.has("version")) root.refuse("an object with version");
  if (top.at("version").count(UINT64_MAX, 0) != kPlanFileVersion)
    top.at("version").refuse(fmt::format("{}", kPlanFileVersion));
  root.expect_keys({"version", "model", "device", "budgets", "n_ctx", "chunk_rows", "layers", "kv",
                    "predicted"});
  PlanFile plan;
  read_model(top.at("model"), plan);
  plan.device = read_device(top.at("device"));
  read_budgets(top.at("budgets"), plan);
  plan.placement.n_ctx = static_cast<uint32_t>(top.at("n_ctx").count(kTokensMax));
  plan.placement.chunk_rows = static_cast<uint32_t>(top.at("chunk_rows").count(kChunkMax));
  read_layers(top.at("layers"), plan);
  read_kv(top.at("kv"), plan);
  const JsonPlace predicted = top.at("predicted");
  predicted.expect_keys({"ttft_ms", "tpot_ms", "is_measured"});
  plan.ttft_ms = predicted.at("ttft_ms").milliseconds();
  plan.tpot_ms = predicted.at("tpot_ms").milliseconds();
  plan.is_measured = predicted.at("is_measured").flag();
  return plan;
}

PlanFile read_plan_file(const std::string& path) {
  // Before it is read: no plan is a gigabyte. What is no regular file has no size to ask.
  std::error_code unknown;
  const uint64_t bytes = std::filesystem::file_size(path, unknown);
  if (!unknown && bytes > kTextMax)
    throw Error(ErrorCode::kBadFile,
                fmt::format("wanted a plan of less than 1 MiB, found {} bytes", bytes), path,
                kRemedy);
  return parse_plan_file(read_text_file(path, "--plan"), path);
}

void expect_same_model(const PlanFile& plan, const PlanFile& here, const std::string& path) {
  const auto expect = [&](const char* word, const std::string& of, const std::string& found) {
    if (of == found) return;
    throw Error(ErrorCode::kUsage,
                fmt::format("the plan is of another model: its {} is '{}', that of -m is '{}'",
                            word, of, found),
                path,
                "give the model it was made for with -m, or plan anew (`strata plan --save "
                "FILE`)");
  };
  expect("name", plan.model, here.model);
  expect("architecture", plan.architecture, here.architecture);
  expect("number of layers", fmt::format("{}", plan.n_layers), fmt::format("{}", here.n_layers));
  expect("size", fmt::format("{} bytes", plan.weight_bytes),
         fmt::format("{} bytes", here.weight_bytes));
}

}  // namespace strata::cli
