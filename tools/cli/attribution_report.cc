#include "tools/cli/attribution_report.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

namespace strata::cli {
namespace {

using nlohmann::ordered_json;
using std::chrono::nanoseconds;

constexpr double kNanosecondsPerMs = 1e6;
constexpr std::array<Resource, 3> kWaitedFor = {Resource::kWeightDisk, Resource::kKvDisk,
                                                Resource::kDevice};

/// Averages of a token: a prompt's step has many.
struct PerToken {
  explicit PerToken(const Attribution& found) : n(static_cast<double>(found.n_rows())) {}
  explicit PerToken(double n_tokens) : n(n_tokens) {}
  double ms(nanoseconds time) const {
    return static_cast<double>(time.count()) / kNanosecondsPerMs / n;
  }
  double n;
};

double percent(nanoseconds part, nanoseconds whole) {
  return whole.count() > 0
             ? 100 * static_cast<double>(part.count()) / static_cast<double>(whole.count())
             : 0;
}

const char* resource_words(Resource resource) {
  switch (resource) {
    case Resource::kCpu:
      return "CPU";
    case Resource::kWeightDisk:
      return "disk, weights";
    case Resource::kKvDisk:
      return "disk, K and V";
    case Resource::kDevice:
      return "device";
  }
  return "";
}

/// Times that memory would take for the bytes at its full rate: they lie within the CPU's.
nanoseconds dram_time(const TimeShares& time, double gbytes_per_s) {
  return nanoseconds(
      gbytes_per_s > 0 ? static_cast<int64_t>(static_cast<double>(time.bytes) / gbytes_per_s) : 0);
}

bool is_used(const TimeShares& time, Resource resource) {
  return time.waited_for(resource).count() > 0 || time.busy_of(resource).count() > 0;
}

std::string row(const std::string& name, double busy_ms, double waited_ms, double share) {
  return fmt::format("| {:<22} | {:>10.3f} | {:>10.3f} | {:>6.1f} |\n", name, busy_ms, waited_ms,
                     share);
}

std::string head(const char* what) {
  return fmt::format(
      "| {:<22} | {:>10} | {:>10} | {:>6} |\n| {:-<22} | {:->9}: | {:->9}: | {:->5}: |\n", what,
      "busy ms", "waited ms", "% time", "", "", "", "");
}

std::string resource_table(const Attribution& found, const PerToken& per,
                           double dram_gbytes_per_s) {
  const TimeShares& all = found.all;
  const nanoseconds wall = all.wall();
  std::string out = head("resource");
  out += row("CPU", per.ms(all.cpu), 0, percent(all.cpu, wall));
  for (const Resource resource : kWaitedFor)
    if (is_used(all, resource))
      out += row(resource_words(resource), per.ms(all.busy_of(resource)),
                 per.ms(all.waited_for(resource)), percent(all.waited_for(resource), wall));
  out += row("between operations", per.ms(all.rest), 0, percent(all.rest, wall));
  if (dram_gbytes_per_s > 0)
    out += fmt::format(
        "DRAM would take {:.3f} ms of the CPU's for {:.1f} MB by formula, at {:.1f} GB/s: {:.1f} % "
        "of the time\n",
        per.ms(dram_time(all, dram_gbytes_per_s)), static_cast<double>(all.bytes) / per.n / 1e6,
        dram_gbytes_per_s, percent(dram_time(all, dram_gbytes_per_s), wall));
  return out;
}

std::string layer_table(const Attribution& found, const PerToken& per) {
  std::string out = fmt::format(
      "| {:>5} | {:>10} | {:>16} | {:>16} | {:>10} | {:>6} |\n"
      "| {:->4}: | {:->9}: | {:->15}: | {:->15}: | {:->9}: | {:->5}: |\n",
      "layer", "CPU ms", "weights waited", "K and V waited", "between ms", "% time", "", "", "", "",
      "", "");
  for (const LayerShares& layer : found.layers)
    out += fmt::format("| {:>5} | {:>10.3f} | {:>16.3f} | {:>16.3f} | {:>10.3f} | {:>6.1f} |\n",
                       layer.layer == kNoLayer ? "none" : std::to_string(layer.layer),
                       per.ms(layer.time.cpu), per.ms(layer.time.waited_for(Resource::kWeightDisk)),
                       per.ms(layer.time.waited_for(Resource::kKvDisk)), per.ms(layer.time.rest),
                       percent(layer.time.wall(), found.all.wall()));
  return out;
}

ordered_json waited_json(const TimeShares& time, const PerToken& per) {
  ordered_json json = ordered_json::object();
  for (const Resource resource : kWaitedFor)
    json[fmt::format("{}_waited_ms", resource_name(resource))] = per.ms(time.waited_for(resource));
  return json;
}

ordered_json resources_json(const TimeShares& all, const PerToken& per, double dram_gbytes_per_s) {
  auto list = ordered_json::array();
  const auto add = [&](const char* name, nanoseconds busy, nanoseconds waited, nanoseconds share) {
    list.push_back({{"resource", name},
                    {"busy_ms", per.ms(busy)},
                    {"waited_ms", per.ms(waited)},
                    {"share", percent(share, all.wall()) / 100}});
  };
  add(resource_name(Resource::kCpu), all.cpu, {}, all.cpu);
  for (const Resource resource : kWaitedFor)
    add(resource_name(resource), all.busy_of(resource), all.waited_for(resource),
        all.waited_for(resource));
  add("rest", all.rest, {}, all.rest);
  // Within the CPU's share.
  if (dram_gbytes_per_s > 0) add("dram", dram_time(all, dram_gbytes_per_s), {}, {});
  return list;
}

}  // namespace

const char* resource_name(Resource resource) {
  switch (resource) {
    case Resource::kCpu:
      return "cpu";
    case Resource::kWeightDisk:
      return "weight_disk";
    case Resource::kKvDisk:
      return "kv_disk";
    case Resource::kDevice:
      return "device";
  }
  return "";
}

std::string attribution_tables(const std::string& test, const Attribution& found,
                               double dram_gbytes_per_s, bool by_layer) {
  const PerToken per(found);
  std::string out = fmt::format(
      "\n{}: where {:.3f} ms of a token go, in one more run; % of what the CPU computes and what "
      "it "
      "waits for\n",
      test, per.ms(found.all.wall()));
  out += resource_table(found, per, dram_gbytes_per_s) + "\n" + head("stage");
  for (const StageShares& stage : found.stages)
    out += row(std::string(stage.name), per.ms(stage.time.cpu), per.ms(stage.time.waited_in_all()),
               percent(stage.time.wall(), found.all.wall()));
  if (by_layer) out += "\n" + layer_table(found, per);
  return out;
}

ordered_json attribution_json(const Attribution& found, double dram_gbytes_per_s) {
  const PerToken per(found);
  ordered_json json = {{"n_steps", found.steps.size()},
                       {"n_tokens", found.n_rows()},
                       {"wall_ms", per.ms(found.all.wall())},
                       {"resources", resources_json(found.all, per, dram_gbytes_per_s)}};
  auto stages = ordered_json::array(), steps = ordered_json::array();
  for (const StageShares& stage : found.stages) {
    stages.push_back({{"stage", stage.name}, {"busy_ms", per.ms(stage.time.cpu)}});
    stages.back().update(waited_json(stage.time, per));
  }
  const auto add_times = [&](ordered_json entry, const TimeShares& time, const PerToken& of) {
    entry.update({{"wall_ms", of.ms(time.wall())}, {"cpu_ms", of.ms(time.cpu)}});
    entry.update(waited_json(time, of));
    entry.update({{"rest_ms", of.ms(time.rest)},
                  {"weight_disk_busy_ms", of.ms(time.busy_of(Resource::kWeightDisk))},
                  {"kv_disk_busy_ms", of.ms(time.busy_of(Resource::kKvDisk))},
                  {"dram_bytes", time.bytes}});
    return entry;
  };
  const auto layers_json = [&](const std::vector<LayerShares>& layers, const PerToken& of) {
    auto list = ordered_json::array();
    for (const LayerShares& layer : layers)
      list.push_back(add_times(
          {{"layer", layer.layer == kNoLayer ? ordered_json() : ordered_json(layer.layer)}},
          layer.time, of));
    return list;
  };
  const PerToken whole(1);
  for (const StepShares& step : found.steps) {
    steps.push_back(
        add_times({{"first_pos", step.first_pos}, {"n_rows", step.n_rows}}, step.time, whole));
    steps.back()["layers"] = layers_json(step.layers, whole);
  }
  json["stages"] = std::move(stages);
  json["layers"] = layers_json(found.layers, per);
  json["steps"] = std::move(steps);
  return json;
}

}  // namespace strata::cli
