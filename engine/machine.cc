#include "engine/machine.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>

namespace strata::engine {
namespace {

constexpr const char* kCgroup = "/sys/fs/cgroup/";

std::optional<std::string> first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

/// The number after `key` in a file of "key value" lines.
std::optional<uint64_t> keyed_number(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  while (file >> word) {
    uint64_t value = 0;
    if (word == key && file >> value) return value;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::nullopt;
}

/// What the control group (v2) leaves; its page cache counts as free because the system gives that
/// back.
std::optional<uint64_t> cgroup_available_bytes() {
  const auto limit_line = first_line(std::string(kCgroup) + "memory.max");
  const auto used_line = first_line(std::string(kCgroup) + "memory.current");
  if (!limit_line || !used_line || *limit_line == "max") return std::nullopt;
  uint64_t limit = 0, used = 0;
  std::istringstream(*limit_line) >> limit;
  std::istringstream(*used_line) >> used;
  const uint64_t cached = keyed_number(std::string(kCgroup) + "memory.stat", "file").value_or(0);
  used -= std::min(used, cached);
  return limit - std::min(limit, used);
}

}  // namespace

uint32_t usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  uint32_t n_cpus = 1;
  if (sched_getaffinity(0, sizeof set, &set) == 0) n_cpus = static_cast<uint32_t>(CPU_COUNT(&set));
  if (const auto line = first_line(std::string(kCgroup) + "cpu.max")) {
    std::istringstream words(*line);
    uint64_t quota = 0, period = 0;
    if (words >> quota >> period && period > 0) {
      n_cpus = std::min(n_cpus, static_cast<uint32_t>(std::max<uint64_t>(1, quota / period)));
    }
  }
  return std::max(1u, n_cpus);
}

uint64_t available_dram_bytes() {
  const uint64_t kib = keyed_number("/proc/meminfo", "MemAvailable:").value_or(0);
  uint64_t bytes = kib * 1024;
  if (kib == 0) {  // a system that hides it: what is physically there
    bytes = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
            static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE));
  }
  return std::min(bytes, cgroup_available_bytes().value_or(bytes));
}

uint64_t free_disk_bytes(const std::string& directory) {
  std::error_code error;
  auto path = std::filesystem::absolute(directory, error);
  while (!std::filesystem::exists(path, error) && path.has_relative_path())
    path = path.parent_path();
  const auto space = std::filesystem::space(path, error);
  return error ? 0 : space.available;
}

uint64_t peak_memory_bytes() {
  rusage resources{};
  getrusage(RUSAGE_SELF, &resources);
  return static_cast<uint64_t>(resources.ru_maxrss) * 1024;
}

}  // namespace strata::engine
