#include "planner/placement/plan_rates.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/check.h"
#include "base/error.h"

namespace strata::planner {
namespace {

constexpr double kGiga = 1e9, kTera = 1e12;
constexpr uint32_t kBlockRequest = 16 << 10;  // bytes of a block of K and V, head_dim 128 in f16
constexpr uint32_t kBlocksInFlight = 128;     // as many as the disk can use

[[noreturn]] void refuse(const std::string& figure) {
  throw Error(ErrorCode::kBadFile, "the machine's profile has no rate for " + figure, figure,
              "measure this machine again");
}

double positive(double value, const char* figure) {
  if (!(value > 0)) refuse(figure);
  return value;
}

const LinearRate* linear_of(const MachineProfile& profile, TensorType type) {
  const auto found = std::ranges::find(profile.linear, type, &LinearRate::type);
  return found != profile.linear.end() ? &*found : nullptr;
}

/// 0 where the profile has no such rate of any type.
double linear_rate(const MachineProfile& profile, TensorType type, double LinearRate::*rate) {
  if (profile.linear.empty()) refuse("linear");
  if (const LinearRate* measured = linear_of(profile, type)) return measured->*rate;
  const MachineProfile& assumed = unmeasured_profile();
  const LinearRate* of_type = linear_of(assumed, type);
  STRATA_CHECK(of_type != nullptr, "type %u has no assumed rates", static_cast<unsigned>(type));
  double least = 0;
  for (const LinearRate& measured : profile.linear) {
    const double ratio = of_type->*rate / linear_of(assumed, measured.type)->*rate;
    const double found = measured.*rate * ratio;
    if (least == 0 || found < least) least = found;
  }
  return least;
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

/// Seconds of a request of just a measured size: of the depths that were measured, the best with at
/// most so many in flight, or the least of them. Between two depths a request's time falls on a
/// line over the logarithm of the depth: six in flight are not as slow as one.
double request_s(const MachineProfile& profile, uint32_t size, uint32_t n_in_flight) {
  double least_depth_s = 0, best = 0, deeper_s = 0;
  uint32_t depth = 0, deeper = 0;  // the largest of those, the least beyond
  for (const DiskRate& of : profile.disk_read) {
    if (of.request_bytes != size) continue;
    const double seconds = size / of.bytes_per_s;
    if (least_depth_s == 0) least_depth_s = seconds;
    if (of.depth <= n_in_flight) {
      if (best == 0 || seconds < best) best = seconds;
      depth = std::max(depth, of.depth);
    } else if (deeper == 0 || of.depth < deeper) {
      deeper = of.depth;
      deeper_s = seconds;
    }
  }
  if (best == 0) return least_depth_s;
  if (deeper == 0 || deeper_s >= best) return best;
  const double base = depth;
  const double share = std::log2(n_in_flight / base) / std::log2(deeper / base);
  return best + share * (deeper_s - best);
}

/// The rate of requests of one size; between two measured sizes a request's time lies on the line
/// through theirs. At most the rate in order, which larger requests have too.
double disk_rate(const MachineProfile& profile, uint64_t request_bytes, uint32_t n_in_flight) {
  const double in_order = profile.disk_read_bytes_per_s;
  const auto bytes = static_cast<double>(request_bytes);
  double below = 0, below_s = 0;  // the largest measured size below
  for (const DiskRate& of : profile.disk_read) {
    const double size = of.request_bytes,
                 seconds = request_s(profile, of.request_bytes, n_in_flight);
    if (size < bytes) {
      below = size;
      below_s = seconds;
      continue;
    }
    const double share = (bytes - below) / (size - below);
    // Below the least measured size a request takes what one of that size does.
    const double of_request = below > 0 ? below_s + share * (seconds - below_s) : seconds;
    return std::min(in_order, bytes / of_request);
  }
  return in_order;
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

// Packing a file's rows, of all types and threads: half of what copying moves, for it reads and
// writes past the caches (docs/measurements.md, "Weights from the model file").
constexpr double kAssumedPack = 9 * kGiga;

/// Of every type; the one place where such figures stand. One row: the limit is memory, and some
/// decoding. A chunk's rows are of docs/measurements.md, "Types of weights beside each other".
std::vector<LinearRate> assumed_linear() {
  using enum TensorType;
  struct Row {
    TensorType type;
    double gemv_gb, gemm_tflop;  // per second
  };
  constexpr Row kRows[] = {
      {kF16, 30, 0.3},    {kF32, 30, 0.15},  {kBF16, 30, 0.15},  {kQ8_0, 27, 0.5},
      {kQ4_0, 28, 0.5},   {kQ4_1, 28, 0.5},  {kQ5_0, 25, 0.5},   {kQ5_1, 25, 0.5},
      {kIQ4_NL, 28, 0.5}, {kQ2_K, 20, 0.3},  {kQ3_K, 20, 0.45},  {kQ4_K, 22, 0.5},
      {kQ5_K, 22, 0.5},   {kQ6_K, 22, 0.45}, {kIQ4_XS, 26, 0.5},
  };
  std::vector<LinearRate> rates;
  for (const Row& row : kRows)
    rates.push_back({row.type, row.gemv_gb * kGiga, row.gemm_tflop * kTera, kAssumedPack});
  return rates;
}

MachineProfile made_unmeasured() {
  MachineProfile profile;
  // Rounded from docs/measurements.md: two cores of a Zen 5, one disk.
  profile.cpu = "two cores of a desktop";
  profile.disk = "an NVMe disk";
  profile.n_threads = 2;
  profile.dram_read_bytes_per_s = 38 * kGiga;
  profile.dram_copy_bytes_per_s = 18 * kGiga;
  profile.linear = assumed_linear();
  profile.attend = {{KvCodec::kF16, 64, 26 * kGiga, 0.4 * kTera},
                    {KvCodec::kQ8_0, 64, 18 * kGiga, 0.35 * kTera}};
  profile.index = {{"rabitq", 64, 28 * kGiga}, {"pq", 64, 28 * kGiga}};
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
  profile.index = assumed.index;
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

void use_measured_card(const DeviceRates& measured, MachineProfile& profile) {
  DeviceRates& gpu = profile.gpu;
  if (measured.host_to_device.bytes_per_s > 0) gpu.host_to_device = measured.host_to_device;
  if (measured.device_to_host.bytes_per_s > 0) gpu.device_to_host = measured.device_to_host;
  if (measured.copy_bytes_per_s > 0 && gpu.copy_bytes_per_s > 0) {
    const double pace = measured.copy_bytes_per_s / gpu.copy_bytes_per_s;
    gpu.gemv_bytes_per_s *= pace;
    gpu.attend_bytes_per_s *= pace;
    gpu.copy_bytes_per_s = measured.copy_bytes_per_s;
  }
  for (double DeviceRates::*rate :
       {&DeviceRates::gemv_bytes_per_s, &DeviceRates::attend_bytes_per_s, &DeviceRates::gemm_flops,
        &DeviceRates::attend_flops, &DeviceRates::launch_us})
    if (measured.*rate > 0) gpu.*rate = measured.*rate;
}

double gemv_ms(const MachineProfile& profile, TensorType type, double bytes) {
  const double rate = linear_rate(profile, type, &LinearRate::gemv_bytes_per_s);
  return bytes / positive(rate, "gemv_bytes_per_s") * 1e3;
}

double gemm_ms(const MachineProfile& profile, TensorType type, double flop) {
  const double rate = linear_rate(profile, type, &LinearRate::gemm_flops);
  return flop / positive(rate, "gemm_flops") * 1e3;
}

double rows_ms(const MachineProfile& profile, double values) {
  const double rate = profile.step_cost.row_values_per_s;
  return rate > 0 ? values / rate * 1e3 : 0;
}

double pack_ms(const MachineProfile& profile, TensorType type, double bytes) {
  const bool is_measured = !profile.linear.empty() && profile.linear.front().pack_bytes_per_s > 0;
  const double rate = linear_rate(is_measured ? profile : unmeasured_profile(), type,
                                  &LinearRate::pack_bytes_per_s);
  return bytes / positive(rate, "pack_bytes_per_s") * 1e3;
}

double scan_rate(const MachineProfile& profile, std::string_view method, uint32_t head_dim) {
  const std::string_view base = method.substr(0, method.find('+'));
  double rate = 0;
  uint32_t least = UINT32_MAX;
  for (const IndexRate& of : profile.index) {
    const uint32_t apart = std::max(of.head_dim, head_dim) - std::min(of.head_dim, head_dim);
    if (of.method != base || apart >= least) continue;
    least = apart;
    rate = of.scan_bytes_per_s;
  }
  return rate;
}

double read_share(const MachineProfile& profile, uint64_t request_bytes, uint32_t n_in_flight) {
  const double rate = disk_rate(profile, request_bytes, n_in_flight);
  return rate > 0 ? std::max(1.0, profile.disk_read_bytes_per_s / rate) : 1;
}

PlanRates rates_of(const MachineProfile& profile, KvCodec k_codec, KvCodec v_codec,
                   uint32_t head_dim, bool has_device) {
  constexpr double kLaunchesPerLayer = 10;  // kernels of a layer of a decoded token
  // Assumed, not measured (docs/adr/0023-attention-on-both-sides.md): the host's wait, waking its
  // threads, and one launch after another in place of a graph.
  constexpr double kSharingMs = 0.05;
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
  rates.nvme_blocks = disk_rate(profile, kBlockRequest, kBlocksInFlight) / kGiga;
  rates.nvme_answer_ms = profile.disk_alone.alpha_us / 1e3;
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
  rates.sharing_ms = kSharingMs;
  rates.round_trip_ms = (gpu.host_to_device.alpha_us + gpu.device_to_host.alpha_us) / 1e3;
  return rates;
}

}  // namespace strata::planner
