#include "planner/placement/plan_rates.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace strata::planner {
namespace {

constexpr double kGiga = 1e9, kTera = 1e12;
constexpr uint32_t kBlockRequest = 16 << 10;  // bytes of a block of K and V, head_dim 128 in f16

[[noreturn]] void refuse(const std::string& figure) {
  throw Error(ErrorCode::kBadFile, "the machine's profile has no rate for " + figure, figure,
              "measure this machine again");
}

double positive(double value, const char* figure) {
  if (!(value > 0)) refuse(figure);
  return value;
}

double linear_rate(const MachineProfile& profile, TensorType type, double LinearRate::*rate) {
  const auto found = std::ranges::find(profile.linear, type, &LinearRate::type);
  if (found != profile.linear.end()) return (*found).*rate;
  if (profile.linear.empty()) refuse("linear");
  return (*std::ranges::min_element(profile.linear, {}, rate)).*rate;
}

const AttendRate& attend_rate(const MachineProfile& profile, KvCodec codec, uint32_t head_dim) {
  if (profile.attend.empty()) refuse("attend");
  const auto distance = [&](const AttendRate& rate) {
    const uint32_t of_dim =
        rate.head_dim > head_dim ? rate.head_dim - head_dim : head_dim - rate.head_dim;
    return (rate.codec == codec ? 0U : 1U << 20) + of_dim;
  };
  return *std::ranges::min_element(profile.attend, {}, distance);
}

/// The best rate, of any number in flight, for requests of the least measured size that holds so
/// many bytes.
double disk_rate(const MachineProfile& profile, uint32_t request_bytes) {
  uint32_t size = 0;
  double best = 0;
  for (const DiskRate& measured : profile.disk_read) {
    if (measured.request_bytes < request_bytes) continue;
    if (size != 0 && measured.request_bytes != size) break;
    size = measured.request_bytes;
    best = std::max(best, measured.bytes_per_s);
  }
  const double in_order = profile.disk_read_bytes_per_s;
  return size == 0 ? in_order : std::min(in_order, best);
}

/// What is lost of the second's pace while the first is at work.
double lost_share(const MachineProfile& profile, const std::string& by, const std::string& of) {
  double lost = 0;
  for (const PairShare& pair : profile.pairs) {
    if (pair.first == by && pair.second == of) lost = std::max(lost, 1 - pair.second_share);
    if (pair.first == of && pair.second == by) lost = std::max(lost, 1 - pair.first_share);
  }
  return std::clamp(lost, 0.0, 1.0);
}

MachineProfile made_unmeasured() {
  MachineProfile profile;
  // Rounded from docs/measurements.md: two cores of a Zen 5, one disk.
  profile.cpu = "two cores of a desktop";
  profile.disk = "an NVMe disk";
  profile.n_threads = 2;
  profile.dram_read_bytes_per_s = 38 * kGiga;
  profile.dram_copy_bytes_per_s = 18 * kGiga;
  profile.linear = {{TensorType::kF16, 30 * kGiga, 0.3 * kTera},
                    {TensorType::kQ8_0, 27 * kGiga, 0.5 * kTera},
                    {TensorType::kQ4_K, 22 * kGiga, 0.5 * kTera},
                    {TensorType::kQ4_0, 28 * kGiga, 0.5 * kTera},
                    {TensorType::kQ4_1, 28 * kGiga, 0.5 * kTera}};
  profile.attend = {{KvCodec::kF16, 64, 26 * kGiga, 0.4 * kTera},
                    {KvCodec::kQ8_0, 64, 18 * kGiga, 0.35 * kTera}};
  profile.disk_read = {{4096, 64, 0.6 * kGiga},
                       {16 << 10, 64, 1.1 * kGiga},
                       {64 << 10, 32, 2.2 * kGiga},
                       {1 << 20, 8, 3.3 * kGiga}};
  profile.disk_read_bytes_per_s = 3.3 * kGiga;
  profile.disk_write_bytes_per_s = 1.5 * kGiga;
  return profile;
}

}  // namespace

const MachineProfile& unmeasured_profile() {
  static const MachineProfile profile = made_unmeasured();
  return profile;
}

MachineProfile profile_of(const DeviceProfile& device) {
  MachineProfile profile;
  profile.device = device.name;
  profile.dram_bytes = static_cast<uint64_t>(device.dram_bytes.value);
  profile.dram_read_bytes_per_s = device.dram_bytes_per_s.value;
  profile.dram_copy_bytes_per_s = device.dram_bytes_per_s.value / 2;
  // Of the CPU's arithmetic a device's profile says nothing: the card computes.
  const double gemv = device.cpu_gemv_bytes_per_s.value;
  const double attend = device.cpu_attend_bytes_per_s.value;
  const MachineProfile& assumed = unmeasured_profile();
  profile.linear = {{TensorType::kF16, gemv, assumed.linear[0].gemm_flops}};
  profile.attend = {{KvCodec::kF16, 128, attend, assumed.attend[0].prefill_flops}};
  profile.disk_read_bytes_per_s = device.nvme_bytes_per_s.value;
  profile.disk_write_bytes_per_s = device.nvme_bytes_per_s.value / 2;  // no figure: assumed
  const double request = static_cast<double>(kBlockRequest);
  const double in_flight = device.nvme_queue_depth.value * request;
  profile.disk_read = {
      {kBlockRequest, static_cast<uint32_t>(device.nvme_queue_depth.value),
       std::min(device.nvme_bytes_per_s.value, in_flight / (device.nvme_alpha_us.value * 1e-6))}};
  profile.gpu = {.hbm_bytes = static_cast<uint64_t>(device.hbm_bytes.value),
                 .host_to_device = {device.in_alpha_us.value, device.in_bytes_per_s.value},
                 .device_to_host = {device.out_alpha_us.value, device.out_bytes_per_s.value},
                 .copy_bytes_per_s = device.hbm_rate(),
                 .gemv_bytes_per_s = device.gemv_rate(),
                 .attend_bytes_per_s = device.hbm_rate(),
                 .gemm_flops = device.f16_tensor_rate(),
                 .attend_flops = device.attend_rate(),
                 .launch_us = device.graph_launch_us.value};
  return profile;
}

double gemv_ms(const MachineProfile& profile, TensorType type, double bytes) {
  const double rate = linear_rate(profile, type, &LinearRate::gemv_bytes_per_s);
  return bytes / positive(rate, "gemv_bytes_per_s") * 1e3;
}

double gemm_ms(const MachineProfile& profile, TensorType type, double flop) {
  const double rate = linear_rate(profile, type, &LinearRate::gemm_flops);
  return flop / positive(rate, "gemm_flops") * 1e3;
}

double pack_ms(const MachineProfile& profile, TensorType type, double bytes) {
  if (!profile.linear.empty())
    if (const double rate = linear_rate(profile, type, &LinearRate::pack_bytes_per_s); rate > 0)
      return bytes / rate * 1e3;
  constexpr TensorType kByVectors[] = {TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kIQ4_NL,
                                       TensorType::kQ8_0};
  const bool is_quick = std::ranges::count(kByVectors, type) > 0;
  return bytes / (is_quick ? 8.8 * kGiga : 2.6 * kGiga) * 1e3;
}

PlanRates rates_of(const MachineProfile& profile, KvCodec k_codec, KvCodec v_codec,
                   uint32_t head_dim, bool has_device) {
  constexpr double kLaunchesPerLayer = 10;  // kernels of a layer of a decoded token
  const AttendRate& k = attend_rate(profile, k_codec, head_dim);
  const AttendRate& v = attend_rate(profile, v_codec, head_dim);
  PlanRates rates;
  rates.cpu_attend =
      positive(std::min(k.decode_bytes_per_s, v.decode_bytes_per_s), "decode_bytes_per_s") / kGiga;
  rates.cpu_attend_tflops =
      positive(std::min(k.prefill_flops, v.prefill_flops), "prefill_flops") / kTera;
  const double layer_us = profile.step_cost.layer_us;
  rates.cpu_layer_ms = (layer_us + std::max(k.decode_layer_us, v.decode_layer_us)) / 1e3;
  rates.cpu_chunk_layer_ms = layer_us / 1e3;
  rates.cpu_step_ms = profile.step_cost.step_us / 1e3;
  rates.dram_read = positive(profile.dram_read_bytes_per_s, "dram_read_bytes_per_s") / kGiga;
  rates.nvme_read = profile.disk_read_bytes_per_s / kGiga;
  rates.nvme_blocks = disk_rate(profile, kBlockRequest) / kGiga;
  rates.nvme_write = profile.disk_write_bytes_per_s / kGiga;
  rates.nvme_slows_cpu = std::max(lost_share(profile, "nvme_read", "gemv"),
                                  lost_share(profile, "nvme_read", "attend"));
  rates.cpu_slows_nvme = std::max(lost_share(profile, "gemv", "nvme_read"),
                                  lost_share(profile, "attend", "nvme_read"));
  const DeviceRates& gpu = profile.gpu;
  if (!has_device || gpu.hbm_bytes == 0) return rates;
  rates.link_in = positive(gpu.host_to_device.bytes_per_s, "host_to_device") / kGiga;
  rates.link_out = positive(gpu.device_to_host.bytes_per_s, "device_to_host") / kGiga;
  rates.hbm_gemv = positive(gpu.gemv_bytes_per_s, "gpu.gemv_bytes_per_s") / kGiga;
  rates.hbm_attend = positive(gpu.attend_bytes_per_s, "gpu.attend_bytes_per_s") / kGiga;
  rates.gpu_gemm_tflops = positive(gpu.gemm_flops, "gpu.gemm_flops") / kTera;
  rates.gpu_attend_tflops = positive(gpu.attend_flops, "gpu.attend_flops") / kTera;
  rates.launch_ms = kLaunchesPerLayer * gpu.launch_us / 1e3;
  rates.round_trip_ms = (gpu.host_to_device.alpha_us + gpu.device_to_host.alpha_us) / 1e3;
  return rates;
}

}  // namespace strata::planner
