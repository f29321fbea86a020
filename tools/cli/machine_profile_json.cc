// tools/cli/machine_profile_json.cc - the keys of the profile's file, both ways.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "index/method.h"
#include "tools/cli/json_output.h"
#include "tools/cli/json_place.h"
#include "tools/cli/machine_profile_file.h"

namespace strata::cli {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using planner::MachineProfile;
using planner::RateCurve;

constexpr size_t kTextMax = size_t{1} << 20;  // of a file; ours have some KiB
constexpr const char* kRemedy = "remove the file, or run `strata calibrate` again";
constexpr const char* kFigures[] = {"nvme_read", "attend", "gemv", "host_to_device"};
constexpr KvCodec kCodecs[] = {KvCodec::kF16, KvCodec::kQ8_0};

using Place = JsonPlace;

RateCurve read_curve(const Place& at) {
  at.expect_keys({"alpha_us", "bytes_per_s"});
  return {at.at("alpha_us").microseconds(), at.at("bytes_per_s").rate()};
}

void read_machine(const Place& at, MachineProfile& profile) {
  at.expect_keys({"cpu", "cpu_isa", "n_threads", "dram_bytes", "disk", "device", "driver"});
  profile.cpu = at.at("cpu").text();
  profile.cpu_isa = at.at("cpu_isa").text();
  profile.n_threads = static_cast<uint32_t>(at.at("n_threads").count(1 << 16));
  profile.dram_bytes = at.at("dram_bytes").count(UINT64_MAX, /*min=*/0);  // 0: unknown
  profile.disk = at.at("disk").text();
  profile.device = at.at("device").text();
  profile.driver = at.at("driver").text();
}

void read_kernels(const Place& root, MachineProfile& profile) {
  root.at("linear").each([&](const Place& at) {
    at.expect_keys({"type", "gemv_bytes_per_s", "gemm_flops", "pack_bytes_per_s"});
    const std::string name = at.at("type").text();
    const auto types = tensor_types();
    const auto info = std::ranges::find(types, name, &TensorTypeInfo::name);
    if (info == types.end()) at.at("type").refuse("the name of a tensor type");
    if (std::ranges::find(profile.linear, info->type, &planner::LinearRate::type) !=
        profile.linear.end())
      at.at("type").refuse("each type once");
    profile.linear.push_back({info->type, at.at("gemv_bytes_per_s").rate(),
                              at.at("gemm_flops").rate(), at.at("pack_bytes_per_s").rate()});
  });
  root.at("attend").each([&](const Place& at) {
    at.expect_keys({"codec", "head_dim", "decode_bytes_per_s", "prefill_flops", "decode_layer_us"});
    const std::string name = at.at("codec").text();
    const auto* codec =
        std::ranges::find_if(kCodecs, [&](KvCodec of) { return name == kv_codec_name(of); });
    if (codec == std::end(kCodecs)) at.at("codec").refuse("f16 or q8_0");
    const auto head_dim = static_cast<uint32_t>(at.at("head_dim").count(1 << 16));
    if (std::ranges::any_of(profile.attend, [&](const planner::AttendRate& of) {
          return of.codec == *codec && of.head_dim == head_dim;
        }))
      at.refuse("each codec and head_dim once");
    profile.attend.push_back({*codec, head_dim, at.at("decode_bytes_per_s").rate(),
                              at.at("prefill_flops").rate(),
                              at.at("decode_layer_us").microseconds()});
  });
}

std::vector<planner::DiskRate> read_disk_rates(const Place& list) {
  std::vector<planner::DiskRate> rates;
  list.each([&](const Place& at) {
    at.expect_keys({"request_bytes", "depth", "bytes_per_s"});
    planner::DiskRate rate;
    rate.request_bytes = static_cast<uint32_t>(at.at("request_bytes").count(1 << 30));
    rate.depth = static_cast<uint32_t>(at.at("depth").count(1 << 16));
    rate.bytes_per_s = at.at("bytes_per_s").rate();
    if (!rates.empty() && rate.request_bytes < rates.back().request_bytes)
      at.refuse("sizes that rise");
    rates.push_back(rate);
  });
  return rates;
}

void read_disk(const Place& at, MachineProfile& profile) {
  at.expect_keys({"read_bytes_per_s", "write_bytes_per_s", "alone", "reads"},
                 {"writes", "is_direct"});
  profile.disk_read_bytes_per_s = at.at("read_bytes_per_s").rate();
  profile.disk_write_bytes_per_s = at.at("write_bytes_per_s").rate();
  profile.disk_alone = read_curve(at.at("alone"));
  profile.disk_read = read_disk_rates(at.at("reads"));
  if (at.has("writes")) profile.disk_write = read_disk_rates(at.at("writes"));
  if (at.has("is_direct")) profile.disk_is_direct = at.at("is_direct").flag();
}

void read_index(const Place& at, MachineProfile& profile) {
  at.expect_keys({"method", "head_dim", "scan_bytes_per_s"});
  planner::IndexRate rate{at.at("method").text(),
                          static_cast<uint32_t>(at.at("head_dim").count(1 << 16)),
                          at.at("scan_bytes_per_s").rate()};
  if (std::ranges::find(index::method_names(), rate.method, [](const auto& of) {
        return std::string(of.name);
      }) == index::method_names().end())
    at.at("method").refuse("the name of a method");
  if (std::ranges::any_of(profile.index, [&](const planner::IndexRate& of) {
        return of.method == rate.method && of.head_dim == rate.head_dim;
      }))
    at.refuse("each method and head_dim once");
  profile.index.push_back(std::move(rate));
}

void read_pair(const Place& at, MachineProfile& profile) {
  at.expect_keys({"first", "second", "first_share", "second_share"});
  planner::PairShare pair{at.at("first").text(), at.at("second").text(),
                          at.at("first_share").share(), at.at("second_share").share()};
  for (const char* side : {"first", "second"})
    if (std::ranges::find(kFigures, at.at(side).text()) == std::end(kFigures))
      at.at(side).refuse(fmt::format("one of {}", fmt::join(kFigures, ", ")));
  profile.pairs.push_back(std::move(pair));
}

struct GpuRate {
  const char* name;
  double planner::DeviceRates::*value;
};
constexpr GpuRate kGpuRates[] = {{"copy_bytes_per_s", &planner::DeviceRates::copy_bytes_per_s},
                                 {"gemv_bytes_per_s", &planner::DeviceRates::gemv_bytes_per_s},
                                 {"attend_bytes_per_s", &planner::DeviceRates::attend_bytes_per_s},
                                 {"gemm_flops", &planner::DeviceRates::gemm_flops},
                                 {"attend_flops", &planner::DeviceRates::attend_flops},
                                 {"launch_us", &planner::DeviceRates::launch_us}};

void read_gpu(const Place& at, MachineProfile& profile) {
  at.expect_keys({"hbm_bytes", "host_to_device", "device_to_host"},
                 {"copy_bytes_per_s", "gemv_bytes_per_s", "attend_bytes_per_s", "gemm_flops",
                  "attend_flops", "launch_us"});
  profile.gpu.hbm_bytes = at.at("hbm_bytes").count(UINT64_MAX);
  profile.gpu.host_to_device = read_curve(at.at("host_to_device"));
  profile.gpu.device_to_host = read_curve(at.at("device_to_host"));
  for (const GpuRate& of : kGpuRates)
    if (at.has(of.name)) profile.gpu.*of.value = at.at(of.name).rate();
}

ordered_json curve_json(const RateCurve& curve) {
  return {{"alpha_us", curve.alpha_us}, {"bytes_per_s", curve.bytes_per_s}};
}

ordered_json disk_rates_json(const std::vector<planner::DiskRate>& rates) {
  auto list = ordered_json::array();
  for (const auto& of : rates)
    list.push_back({{"request_bytes", of.request_bytes},
                    {"depth", of.depth},
                    {"bytes_per_s", of.bytes_per_s}});
  return list;
}

ordered_json disk_json(const MachineProfile& profile) {
  ordered_json out = {{"read_bytes_per_s", profile.disk_read_bytes_per_s},
                      {"write_bytes_per_s", profile.disk_write_bytes_per_s},
                      {"alone", curve_json(profile.disk_alone)},
                      {"reads", disk_rates_json(profile.disk_read)}};
  if (!profile.disk_write.empty()) out["writes"] = disk_rates_json(profile.disk_write);
  if (!profile.disk_is_direct) out["is_direct"] = false;
  return out;
}

ordered_json gpu_json(const planner::DeviceRates& gpu) {
  ordered_json out = {{"hbm_bytes", gpu.hbm_bytes},
                      {"host_to_device", curve_json(gpu.host_to_device)},
                      {"device_to_host", curve_json(gpu.device_to_host)}};
  for (const GpuRate& of : kGpuRates)
    if (gpu.*of.value > 0) out[of.name] = gpu.*of.value;
  return out;
}

/// What a text may be at all: an object of less than kTextMax.
json parsed_text(std::string_view text) {
  return text.size() > kTextMax ? json(fmt::format("{} bytes", text.size()))
                                : json::parse(text, nullptr, /*allow_exceptions=*/false);
}

}  // namespace

bool is_older_profile(std::string_view text) {
  const json parsed = parsed_text(text);
  if (!parsed.is_object() || !parsed.contains("version")) return false;
  const json& version = parsed["version"];
  return version.is_number_unsigned() && version.get<uint64_t>() >= 1 &&
         version.get<uint64_t>() < kProfileVersion;
}

std::string machine_profile_json(const MachineProfile& profile) {
  auto linear = ordered_json::array(), attend = ordered_json::array(),
       pairs = ordered_json::array();
  for (const auto& of : profile.linear)
    linear.push_back({{"type", tensor_type_info(of.type).name},
                      {"gemv_bytes_per_s", of.gemv_bytes_per_s},
                      {"gemm_flops", of.gemm_flops},
                      {"pack_bytes_per_s", of.pack_bytes_per_s}});
  for (const auto& of : profile.attend)
    attend.push_back({{"codec", kv_codec_name(of.codec)},
                      {"head_dim", of.head_dim},
                      {"decode_bytes_per_s", of.decode_bytes_per_s},
                      {"prefill_flops", of.prefill_flops},
                      {"decode_layer_us", of.decode_layer_us}});
  for (const auto& of : profile.pairs)
    pairs.push_back({{"first", of.first},
                     {"second", of.second},
                     {"first_share", of.first_share},
                     {"second_share", of.second_share}});
  ordered_json root = {{"version", kProfileVersion},
                       {"written_by", profile.written_by},
                       {"measured_at", profile.measured_at},
                       {"machine",
                        {{"cpu", profile.cpu},
                         {"cpu_isa", profile.cpu_isa},
                         {"n_threads", profile.n_threads},
                         {"dram_bytes", profile.dram_bytes},
                         {"disk", profile.disk},
                         {"device", profile.device},
                         {"driver", profile.driver}}},
                       {"dram",
                        {{"read_bytes_per_s", profile.dram_read_bytes_per_s},
                         {"copy_bytes_per_s", profile.dram_copy_bytes_per_s}}},
                       {"linear", linear},
                       {"attend", attend},
                       {"step",
                        {{"step_us", profile.step_cost.step_us},
                         {"layer_us", profile.step_cost.layer_us},
                         {"row_values_per_s", profile.step_cost.row_values_per_s}}},
                       {"pairs", pairs}};
  if (profile.n_disturbed > 0) root["n_disturbed"] = profile.n_disturbed;
  for (const auto& of : profile.index)
    root["index"].push_back({{"method", of.method},
                             {"head_dim", of.head_dim},
                             {"scan_bytes_per_s", of.scan_bytes_per_s}});
  if (profile.disk_read_bytes_per_s > 0) root["disk"] = disk_json(profile);
  if (profile.gpu.hbm_bytes > 0) root["gpu"] = gpu_json(profile.gpu);
  return json_text(root) + "\n";
}

MachineProfile parse_machine_profile(std::string_view text, const std::string& path) {
  const json parsed = parsed_text(text);
  const JsonSource source{path, kRemedy};
  const Place root(parsed, "the profile", source);
  if (!parsed.is_object()) root.refuse("a JSON object of less than 1 MiB");
  const Place top(parsed, "", source);
  // Before all other keys: another version has others.
  if (!top.has("version")) root.refuse("an object with version");
  if (top.at("version").count(UINT64_MAX) != kProfileVersion)
    top.at("version").refuse(fmt::format("{}", kProfileVersion));
  root.expect_keys({"version", "written_by", "measured_at", "machine", "dram", "linear", "attend",
                    "step", "pairs"},
                   {"n_disturbed", "index", "disk", "gpu"});
  MachineProfile profile;
  if (top.has("n_disturbed"))
    profile.n_disturbed = static_cast<uint32_t>(top.at("n_disturbed").count(1 << 16));
  profile.written_by = top.at("written_by").text();
  profile.measured_at = top.at("measured_at").text();
  if (!profile_age_days(profile, 0))
    top.at("measured_at").refuse("a time such as 2026-11-26T13:20:00Z");
  read_machine(top.at("machine"), profile);
  top.at("dram").expect_keys({"read_bytes_per_s", "copy_bytes_per_s"});
  profile.dram_read_bytes_per_s = top.at("dram").at("read_bytes_per_s").rate();
  profile.dram_copy_bytes_per_s = top.at("dram").at("copy_bytes_per_s").rate();
  read_kernels(top, profile);
  const Place step = top.at("step");
  step.expect_keys({"step_us", "layer_us", "row_values_per_s"});
  profile.step_cost = {step.at("step_us").microseconds(), step.at("layer_us").microseconds(),
                       step.at("row_values_per_s").rate()};
  if (top.has("index")) top.at("index").each([&](const Place& at) { read_index(at, profile); });
  top.at("pairs").each([&](const Place& at) { read_pair(at, profile); });
  if (top.has("disk") == profile.disk.empty())
    root.refuse(profile.disk.empty() ? "no disk where none is named" : "the rates of its disk");
  if (top.has("disk")) read_disk(top.at("disk"), profile);
  if (top.has("gpu") && profile.device.empty()) root.refuse("no gpu where no device is named");
  if (top.has("gpu")) read_gpu(top.at("gpu"), profile);
  return profile;
}

}  // namespace strata::cli
