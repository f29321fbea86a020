// tools/cli/doctor_machine.cc - processor, memory and the kernel's services.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/host_memory.h"
#include "cpu_attn/kernels.h"
#include "engine/byte_text.h"
#include "engine/machine.h"
#include "tools/cli/doctor.h"

namespace strata::cli {
namespace {

using engine::bytes_text;

constexpr uint64_t kFewBytes = uint64_t{1} << 30;       // of memory: small models only
constexpr uint64_t kStagingBytes = uint64_t{64} << 20;  // what transfers register at least
constexpr uint32_t kRingDepth = 8;

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string lock_limit_text() {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return "unknown";
  return limit.rlim_cur == RLIM_INFINITY ? "unlimited" : bytes_text(limit.rlim_cur);
}

}  // namespace

Finding Finding::ok(std::string check, std::string found) {
  return {std::move(check), Level::kOk, std::move(found), "", ""};
}

Finding Finding::note(std::string check, std::string found, std::string wanted,
                      std::string remedy) {
  return {std::move(check), Level::kNote, std::move(found), std::move(wanted), std::move(remedy)};
}

Finding look_at_cpu(const std::string& root) {
  const auto kernels = cpu_attn::available_kernels();
  const uint32_t n_usable = engine::usable_cpus(root);
  const uint32_t n_online = std::max(1u, std::thread::hardware_concurrency());
  std::string found =
      fmt::format("{}, {} of {} CPUs usable, kernels {} ({})", engine::cpu_name(root), n_usable,
                  std::max(n_usable, n_online), kernels.back()->name, kernels.back()->features);
  if (kernels.back()->isa != CpuIsa::kScalar) return Finding::ok("cpu", std::move(found));
  return Finding::note("cpu", std::move(found), "AVX2 with FMA and F16C",
                       "expect a tenth of the speed; in a virtual machine, let it see the host's "
                       "CPU (such as -cpu host)");
}

Finding look_at_memory(const std::string& root) {
  const uint64_t available = engine::available_dram_bytes(root);
  std::string found = fmt::format("{} of {} available", bytes_text(available),
                                  bytes_text(engine::total_dram_bytes(root)));
  // Version 1 of control groups calls "no limit" a number that no machine has.
  const auto limited = engine::group_dram_bytes(root);
  if (limited && *limited < engine::total_dram_bytes(root))
    found += fmt::format(" (the control group leaves {})", bytes_text(*limited));
  if (available >= kFewBytes) return Finding::ok("memory", std::move(found));
  return Finding::note("memory", std::move(found), fmt::format("{} or more", bytes_text(kFewBytes)),
                       "close other programs, or raise the memory limit of the container");
}

Finding look_at_nodes(const std::string& root) {
  uint64_t n_nodes = 0;
  std::error_code none;  // a system that does not say has one
  for (const auto& entry :
       std::filesystem::directory_iterator(root + "sys/devices/system/node", none)) {
    const std::string name = entry.path().filename().string();
    n_nodes += name.size() > 4 && name.starts_with("node") && name[4] >= '0' && name[4] <= '9';
  }
  if (n_nodes <= 1) return Finding::ok("numa", "1 node");
  return Finding::note("numa", fmt::format("{} nodes", n_nodes),
                       "1 node: memory is not placed by node",
                       "where the model fits one node: numactl --cpunodebind=0 --membind=0 strata "
                       "...; else numactl --interleave=all strata ...");
}

Finding look_at_huge_pages(const std::string& root) {
  const std::string setting = first_line(root + "sys/kernel/mm/transparent_hugepage/enabled");
  const size_t begin = setting.find('['), end = setting.find(']');
  const std::string chosen = begin == std::string::npos || end == std::string::npos || end < begin
                                 ? ""
                                 : setting.substr(begin + 1, end - begin - 1);
  if (chosen == "always" || chosen == "madvise")
    return Finding::ok("huge pages", chosen + ": weights, K and V get them");
  return Finding::note("huge pages", chosen.empty() ? "this system has none" : chosen,
                       "madvise or always: single blocks are read up to half as fast without",
                       "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled");
}

std::vector<Finding> look_at_transfers(const OpenRing& open_ring, const std::string& root) {
  std::unique_ptr<tiers::Io> ring;
  try {
    ring = open_ring(kRingDepth);
  } catch (const Error& error) {
    const std::string setting = first_line(root + "proc/sys/kernel/io_uring_disabled");
    const bool is_disabled = !setting.empty() && setting != "0";
    std::string found = error.what();
    if (is_disabled) found += fmt::format(" (kernel.io_uring_disabled is {})", setting);
    return {Finding::note("io_uring", std::move(found),
                          "a ring; threads move the bytes without it, with more CPU time",
                          is_disabled ? "sudo sysctl kernel.io_uring_disabled=0"
                                      : "in a container, allow it in the seccomp profile (docker: "
                                        "--security-opt seccomp=...); else Linux 5.11 or later")};
  }
  std::vector<Finding> findings = {Finding::ok("io_uring", "works")};
  try {
    const HostMemory memory = HostMemory::reserve(kStagingBytes);
    const uint64_t registered = ring->prepare_memory({memory.data(), memory.size()});
    std::string found = fmt::format("limit {}; {} of {} could be registered", lock_limit_text(),
                                    bytes_text(registered), bytes_text(kStagingBytes));
    ring.reset();  // lets go of the memory
    findings.push_back(
        registered >= kStagingBytes
            ? Finding::ok("locked memory", std::move(found))
            : Finding::note("locked memory", std::move(found), bytes_text(kStagingBytes),
                            "raise it: ulimit -l unlimited, or memlock in "
                            "/etc/security/limits.conf (docker: --ulimit memlock=-1)"));
  } catch (const Error& error) {
    findings.push_back(
        Finding::note("locked memory", error.what(), bytes_text(kStagingBytes), error.remedy()));
  }
  return findings;
}

}  // namespace strata::cli
