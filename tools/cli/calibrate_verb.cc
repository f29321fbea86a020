// `strata calibrate`: measures this machine and keeps its profile, or shows the one that is kept.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <vector>

#include "base/error.h"
#include "cpu_attn/kernels.h"
#include "engine/byte_text.h"
#include "engine/device_rate.h"
#include "engine/gguf/gguf_file.h"
#include "engine/machine.h"
#include "engine/model_spec.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/calibrate.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/machine_profile_file.h"
#include "tools/cli/machine_words.h"
#include "tools/cli/notices.h"
#include "tools/cli/request_options.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

using engine::bytes_text;
using planner::MachineProfile;

constexpr uint32_t kHeadDimGrain = 8, kHeadDimMost = 1024;  // of the kernels

/// A line for each size.
std::string disk_rates_text(const char* what, const std::vector<planner::DiskRate>& rates) {
  std::string out;
  uint32_t size = 0;
  for (const auto& of : rates) {
    if (of.request_bytes != size)
      out += fmt::format("{}  {:>9} {}, MB/s (in flight):", size == 0 ? "" : "\n",
                         bytes_text(of.request_bytes), what);
    size = of.request_bytes;
    out += fmt::format(" {:.0f} ({})", of.bytes_per_s / 1e6, of.depth);
  }
  return out.empty() ? "" : out + "\n";
}

std::string disk_text(const MachineProfile& profile) {
  if (profile.disk.empty()) return "disk       none\n";
  return fmt::format(
             "disk       {}: reads {:.2f} GB/s, writes {:.2f} GB/s; one at a time {:.0f} us + "
             "bytes / {:.2f} GB/s{}\n",
             profile.disk, profile.disk_read_bytes_per_s / 1e9,
             profile.disk_write_bytes_per_s / 1e9, profile.disk_alone.alpha_us,
             profile.disk_alone.bytes_per_s / 1e9,
             profile.disk_is_direct ? "" : "; THROUGH the page cache: too high") +
         disk_rates_text("reads", profile.disk_read) +
         disk_rates_text("writes", profile.disk_write);
}

std::string device_text(const MachineProfile& profile) {
  if (profile.device.empty()) return "device     none: its rates are 0\n";
  const planner::DeviceRates& gpu = profile.gpu;
  const std::string kernels =
      gpu.gemv_bytes_per_s > 0
          ? fmt::format(
                "           its kernels: one row {:.0f} GB/s, a prompt's {:.1f} TFLOP/s; "
                "attention {:.0f} GB/s, {:.1f} TFLOP/s; a launch {:.1f} us\n",
                gpu.gemv_bytes_per_s / 1e9, gpu.gemm_flops / 1e12, gpu.attend_bytes_per_s / 1e9,
                gpu.attend_flops / 1e12, gpu.launch_us)
          : "           its kernels were not measured\n";
  return fmt::format(
             "device     {} (driver {}), {}: to it {:.0f} us + bytes / {:.1f} GB/s, from it {:.0f} "
             "us + bytes / {:.1f} GB/s, within it {:.0f} GB/s\n",
             profile.device, profile.driver, bytes_text(gpu.hbm_bytes), gpu.host_to_device.alpha_us,
             gpu.host_to_device.bytes_per_s / 1e9, gpu.device_to_host.alpha_us,
             gpu.device_to_host.bytes_per_s / 1e9, gpu.copy_bytes_per_s / 1e9) +
         kernels;
}

std::string profile_text(const MachineProfile& profile) {
  std::string out = fmt::format(
      "machine    {}, {} threads, {}, {}\n"
      "memory     reads {:.1f} GB/s, copies {:.1f} GB/s\n"
      "a step     {:.0f} us and {:.1f} us a layer, beside its bytes; a prompt's rows write {:.2f} "
      "G values/s\n"
      "weights    type     one row GB/s   a prompt's GFLOP/s   packing GB/s\n",
      profile.cpu, profile.n_threads, profile.cpu_isa, bytes_text(profile.dram_bytes),
      profile.dram_read_bytes_per_s / 1e9, profile.dram_copy_bytes_per_s / 1e9,
      profile.step_cost.step_us, profile.step_cost.layer_us,
      profile.step_cost.row_values_per_s / 1e9);
  for (const auto& of : profile.linear)
    out +=
        fmt::format("           {:<8} {:12.1f} {:20.0f} {:14.1f}\n", tensor_type_info(of.type).name,
                    of.gemv_bytes_per_s / 1e9, of.gemm_flops / 1e9, of.pack_bytes_per_s / 1e9);
  out += "attention  K and V    one token GB/s   a prompt's GFLOP/s   us a layer\n";
  for (const auto& of : profile.attend)
    out += fmt::format("           {:<10} {:14.1f} {:20.0f} {:12.1f}\n",
                       fmt::format("{} x {}", kv_codec_name(of.codec), of.head_dim),
                       of.decode_bytes_per_s / 1e9, of.prefill_flops / 1e9, of.decode_layer_us);
  for (const auto& of : profile.index)
    out += fmt::format("choosing   {:<10} {:14.1f} GB/s of rows\n",
                       fmt::format("{} x {}", of.method, of.head_dim), of.scan_bytes_per_s / 1e9);
  out += disk_text(profile);
  for (const auto& of : profile.pairs)
    out += fmt::format("together   {} keeps {:.0f} % beside {}, which keeps {:.0f} %\n", of.first,
                       100 * of.first_share, of.second, 100 * of.second_share);
  return out + device_text(profile);
}

void print(const Settings& settings, const MachineProfile& profile) {
  AnswerSink::open("").write(settings.json ? machine_profile_json(profile) : profile_text(profile));
}

/// Weights and K and V as most models have them, or as this model does.
void choose_subjects(const std::string& model, CalibrateOptions& options) {
  options.types = {TensorType::kQ4_0, TensorType::kQ4_K, TensorType::kQ6_K, TensorType::kQ8_0,
                   TensorType::kF16};
  options.head_dims = {64, 128};
  if (model.empty()) return;
  const auto file = engine::GgufFile::open(model);
  std::set<TensorType> types;
  for (const engine::GgufTensor& tensor : file.tensors())
    if (tensor.shape.size() >= 2) types.insert(tensor.type);
  options.types.assign(types.begin(), types.end());
  options.head_dims = {engine::read_model_spec(file).shape.head_dim};
}

/// What is kept in this place; nothing where that cannot be used, for it is about to be replaced.
std::optional<MachineProfile> kept_profile(const MachineProfile& here, const std::string& path) {
  try {
    auto kept = read_machine_profile(path);
    if (kept) expect_same_machine(*kept, here, path);
    return kept;
  } catch (const Error&) {
    return std::nullopt;
  }
}

/// Why a profile that is kept has to be measured anew; empty: it has not.
std::string lacking(const MachineProfile& kept, const MachineProfile& here,
                    const CalibrateOptions& wanted) {
  if (const std::string stale = stale_reason(kept, here, unix_seconds()); !stale.empty())
    return stale;
  for (const TensorType type : wanted.types)
    if (std::ranges::find(kept.linear, type, &planner::LinearRate::type) == kept.linear.end())
      return fmt::format("it has no rates of {} weights", tensor_type_info(type).name);
  for (const uint32_t head_dim : wanted.head_dims)
    if (std::ranges::find(kept.attend, head_dim, &planner::AttendRate::head_dim) ==
        kept.attend.end())
      return fmt::format("it has no rates of a head_dim of {}", head_dim);
  if (kept.gpu.hbm_bytes > 0 && !(kept.gpu.gemv_bytes_per_s > 0))
    return "it has no rates of the card's kernels";
  return "";
}

/// Where a card is there. One that has no room for it keeps what it has of its link.
void measure_card(const CalibrateOptions& options, uint32_t head_dim, MachineProfile& profile) {
  const auto chosen = engine::open_chosen_device({}, gpu_attn::find_cuda_devices());
  if (!chosen.device) return;
  profile.gpu = calibrate_link(*chosen.device);
  profile.gpu.copy_bytes_per_s = engine::measure_device_copy(*chosen.device) * 1e9;
  notice(fmt::format("measured  memory and link of {}", profile.device));
  try {
    calibrate_kernels(*chosen.device, options.types, head_dim, profile.gpu);
    notice(fmt::format("measured  kernels of {}", profile.device));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) throw;
    notice(fmt::format("the kernels of {} were not measured: {}", profile.device, error.what()));
  }
}

/// What else the profile that is kept has figures of, if it holds: they stay in its place, measured
/// again, when those of another model come to it. Not of a head_dim that a file can name and no
/// kernel has.
void add_subjects_of(const MachineProfile& kept, CalibrateOptions& options) {
  for (const planner::LinearRate& of : kept.linear)
    if (std::ranges::find(options.types, of.type) == options.types.end())
      options.types.push_back(of.type);
  for (const planner::AttendRate& of : kept.attend) {
    const bool is_possible = of.head_dim % kHeadDimGrain == 0 && of.head_dim <= kHeadDimMost;
    if (is_possible && std::ranges::find(options.head_dims, of.head_dim) == options.head_dims.end())
      options.head_dims.push_back(of.head_dim);
  }
}

void keep(const Settings& settings, const std::optional<MachineProfile>& kept,
          const MachineProfile& profile, const std::string& path) {
  const std::string why_not = why_not_replaced(kept, profile, unix_seconds());
  if (!why_not.empty() && !settings.force) {
    notice(fmt::format("NOT kept: {}; measure again when the machine is idle, or with --force",
                       why_not));
    return;
  }
  write_machine_profile(path, profile);
  notice(fmt::format("kept in {}", path));
  if (profile.n_disturbed > 0)
    notice(
        fmt::format("{} figures were disturbed by other programs and may be too low: measure "
                    "again when the machine is idle",
                    profile.n_disturbed));
}

int show(const Settings& settings, const MachineProfile& here, const std::string& path) {
  const auto profile = read_machine_profile(path);
  if (!profile)
    throw Error(ErrorCode::kIo, "there is no profile of this machine", path,
                "run `strata calibrate`");
  expect_same_machine(*profile, here, path);
  print(settings, *profile);
  notice(fmt::format("measured {} ({} days ago) by {}: {}", profile->measured_at,
                     profile_age_days(*profile, unix_seconds()).value_or(0), profile->written_by,
                     path));
  const std::string stale = stale_reason(*profile, here, unix_seconds());
  if (!stale.empty()) notice(fmt::format("stale: {}; run `strata calibrate` again", stale));
  return 0;
}

}  // namespace

int run_calibrate(const Command& command) {
  const Settings& settings = command.settings;
  if (settings.profile_dir.empty())
    throw Error(ErrorCode::kUsage, "no folder for profiles is known", "strata calibrate",
                "set HOME or XDG_CACHE_HOME");
  const engine::EngineOptions asked = engine_options(settings);
  const uint32_t n_threads = asked.n_threads > 0 ? asked.n_threads : engine::usable_cpus();
  CalibrateOptions options;
  options.kernels = &cpu_attn::choose_kernels(asked.cpu_isa);
  options.io = asked.io;
  options.disk_folder = settings.nvme;
  options.cancel = &interrupt_flag();
  MachineProfile profile = machine_words(*options.kernels, n_threads, settings.nvme);
  const std::string path = machine_profile_path(settings.profile_dir, profile);
  if (settings.show) return show(settings, profile, path);
  choose_subjects(settings.model, options);
  const auto kept = kept_profile(profile, path);
  const std::string why = kept ? lacking(*kept, profile, options) : "";
  if (settings.if_stale && kept) {
    if (why.empty()) {
      print(settings, *kept);
      notice(fmt::format("nothing was measured: the profile of {} still holds ({})",
                         kept->measured_at, path));
      return 0;
    }
    notice(fmt::format("the profile that is kept is measured anew: {}", why));
  }
  const uint32_t head_dim = options.head_dims.back();  // of what is asked for
  if (kept && stale_reason(*kept, profile, unix_seconds()).empty()) add_subjects_of(*kept, options);
  options.on_figure = [](const std::string& line) { notice("measured  " + line); };
  if (profile.device.empty()) notice("no device: its rates stay 0");
  ThreadPool pool(n_threads);
  profile.n_disturbed = calibrate(options, pool, profile);
  measure_card(options, head_dim, profile);
  profile.measured_at = profile_time_text(unix_seconds());
  print(settings, profile);
  // One that lacks what was asked for has to give way, also to figures that were disturbed.
  keep(settings, why.empty() ? kept : std::nullopt, profile, path);
  return 0;
}

}  // namespace strata::cli
