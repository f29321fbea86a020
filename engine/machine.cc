#include "engine/machine.h"

#include <malloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

namespace strata::engine {
namespace {

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

/// Where control groups of one controller are mounted, and what their files are called.
struct GroupFiles {
  std::string mount;
  std::vector<const char*> memory_limits;
  const char* memory_used;
  std::vector<const char*> file_pages;  // keys of memory.stat that the system gives back
};

/// The folders of the control groups that this process is in, its own first. A path that the mount
/// does not hold (a container that sees the host's names) leads to its parents, at last to the
/// mount itself, which is then the container's own group.
std::vector<std::string> group_folders(const std::string& root, const std::string& mount,
                                       const std::string& controller) {
  std::ifstream lines(root + "proc/self/cgroup");
  std::filesystem::path path = "/";
  // Lines "number:controllers:path"; of version 2 the number is 0 and the controllers are empty.
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string named = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool is_it = controller.empty() ? line.starts_with("0::")
                                          : named.find("," + controller + ",") != std::string::npos;
    if (is_it) path = line.substr(second + 1);
  }
  if (std::ranges::find(path, "..") != path.end()) path = "/";  // outside of what is mounted here
  std::vector<std::string> folders;
  for (; path.has_relative_path(); path = path.parent_path())
    folders.push_back(root + mount + path.string());
  folders.push_back(root + mount);
  return folders;
}

std::optional<uint64_t> number_in(const std::string& path) {
  const auto line = first_line(path);
  uint64_t number = 0;
  if (!line || !(std::istringstream(*line) >> number)) return std::nullopt;  // "max" is none
  return number;
}

/// The least that any of the groups leaves; nothing where none has a limit.
std::optional<uint64_t> group_bytes(const std::string& root, const std::string& controller,
                                    const GroupFiles& files) {
  std::optional<uint64_t> least;
  for (const std::string& folder : group_folders(root, files.mount, controller)) {
    std::optional<uint64_t> limit;
    for (const char* name : files.memory_limits)
      if (const auto one = number_in(folder + "/" + name))
        limit = std::min(*one, limit.value_or(*one));
    const auto used = number_in(folder + "/" + files.memory_used);
    if (!limit || !used) continue;
    uint64_t held = *used;
    for (const char* key : files.file_pages)
      held -= std::min(held, keyed_number(folder + "/memory.stat", key).value_or(0));
    const uint64_t left = *limit - std::min(*limit, held);
    least = std::min(left, least.value_or(left));
  }
  return least;
}

}  // namespace

uint32_t usable_cpus(const std::string& root) {
  cpu_set_t set;
  CPU_ZERO(&set);
  uint64_t n_cpus = 1;
  if (sched_getaffinity(0, sizeof set, &set) == 0) n_cpus = static_cast<uint64_t>(CPU_COUNT(&set));
  const auto limit = [&](uint64_t quota, uint64_t period) {
    if (period > 0) n_cpus = std::min(n_cpus, std::max<uint64_t>(1, quota / period));
  };
  for (const std::string& folder : group_folders(root, "sys/fs/cgroup", "")) {
    std::istringstream words(first_line(folder + "/cpu.max").value_or(""));
    uint64_t quota = 0, period = 0;
    if (words >> quota >> period) limit(quota, period);
  }
  for (const std::string& folder : group_folders(root, "sys/fs/cgroup/cpu", "cpu")) {
    const auto quota = number_in(folder + "/cpu.cfs_quota_us");  // -1 is none
    const auto period = number_in(folder + "/cpu.cfs_period_us");
    if (quota && period && *quota <= INT64_MAX) limit(*quota, *period);
  }
  return static_cast<uint32_t>(n_cpus);
}

uint64_t available_dram_bytes(const std::string& root) {
  const uint64_t kib = keyed_number(root + "proc/meminfo", "MemAvailable:").value_or(0);
  uint64_t bytes = kib * 1024;
  if (kib == 0) {  // a system that hides it: what is physically there
    bytes = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
            static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE));
  }
  return std::min(bytes, group_dram_bytes(root).value_or(bytes));
}

uint64_t held_memory_bytes(const std::string& root) {
  return keyed_number(root + "proc/self/status", "RssAnon:").value_or(0) * 1024;
}

double memory_pressure(const std::string& root) {
  // "some avg10=1.50 avg60=0.20 avg300=0.05 total=12345", in percent.
  std::istringstream words(first_line(root + "proc/pressure/memory").value_or(""));
  const std::string key = "avg10=";
  for (std::string word; words >> word;) {
    double percent = 0;
    if (word.starts_with(key) && std::istringstream(word.substr(key.size())) >> percent)
      return percent / 100;
  }
  return 0;
}

std::optional<uint64_t> group_dram_bytes(const std::string& root) {
  // memory.high slows down who exceeds it: as good as a limit.
  const GroupFiles version_2{"sys/fs/cgroup",
                             {"memory.max", "memory.high"},
                             "memory.current",
                             {"active_file", "inactive_file"}};
  const GroupFiles version_1{"sys/fs/cgroup/memory",
                             {"memory.limit_in_bytes"},
                             "memory.usage_in_bytes",
                             {"total_active_file", "total_inactive_file"}};
  const auto newer = group_bytes(root, "", version_2);
  const auto older = group_bytes(root, "memory", version_1);
  if (newer && older) return std::min(*newer, *older);
  return newer ? newer : older;
}

uint64_t total_dram_bytes(const std::string& root) {
  return keyed_number(root + "proc/meminfo", "MemTotal:").value_or(0) * 1024;
}

std::string cpu_name(const std::string& root) {
  std::ifstream lines(root + "proc/cpuinfo");
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t name = line.find_first_not_of(": \t", line.find(':'));
    if (name != std::string::npos) return line.substr(name);
  }
  return "unknown CPU";
}

void forget_peak_memory() { std::ofstream("/proc/self/clear_refs") << "5"; }

void release_freed_memory() { ::malloc_trim(0); }

uint64_t peak_memory_bytes() {
  rusage resources{};
  getrusage(RUSAGE_SELF, &resources);
  return static_cast<uint64_t>(resources.ru_maxrss) * 1024;
}

}  // namespace strata::engine
