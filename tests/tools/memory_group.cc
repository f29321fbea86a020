#include "tests/tools/memory_group.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <system_error>

#include "tests/tiers/child_process.h"

namespace strata::cli::testing {
namespace {

using tiers::NotPossibleHere;

struct Place {
  std::string path;  // of this process's own group
  bool is_version_2 = false;
};

/// From /proc/self/cgroup: "4:memory:/a/b" of version 1, "0::/a/b" of version 2.
Place own_group() {
  std::ifstream groups("/proc/self/cgroup");
  Place found;
  for (std::string line; std::getline(groups, line);) {
    const std::string path = line.substr(line.rfind(':') + 1);
    if (line.find(":memory:") != std::string::npos) return {"/sys/fs/cgroup/memory" + path, false};
    if (line.starts_with("0::")) found = {"/sys/fs/cgroup" + path, true};
  }
  if (found.path.empty()) throw NotPossibleHere("this process is in no memory group");
  return found;
}

}  // namespace

MemoryGroup::MemoryGroup(uint64_t limit_bytes) {
  const Place own = own_group();
  is_version_2_ = own.is_version_2;
  path_ = own.path + "/strata_test_" + std::to_string(::getpid());
  std::error_code error;
  if (!std::filesystem::create_directory(path_, error))
    throw NotPossibleHere("no memory group can be made here: " + error.message());
  try {
    set(is_version_2_ ? "memory.max" : "memory.limit_in_bytes", std::to_string(limit_bytes));
    set(is_version_2_ ? "memory.swap.max" : "memory.swappiness", "0");
    (void)peak_bytes();
  } catch (...) {
    std::filesystem::remove(path_, error);
    throw;
  }
}

MemoryGroup::~MemoryGroup() {
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
}

void MemoryGroup::set(const std::string& file, const std::string& value) const {
  std::ofstream out(path_ + "/" + file);
  out << value << std::flush;
  if (!out) throw NotPossibleHere("no memory group can be limited here: " + path_ + "/" + file);
}

void MemoryGroup::enter() const {
  std::ofstream out(path_ + "/cgroup.procs");
  out << ::getpid() << std::flush;
  tiers::demand(static_cast<bool>(out), "cannot enter " + path_);
}

uint64_t MemoryGroup::peak_bytes() const {
  std::ifstream in(path_ + (is_version_2_ ? "/memory.peak" : "/memory.max_usage_in_bytes"));
  uint64_t bytes = 0;
  if (!(in >> bytes)) throw NotPossibleHere("the memory group does not tell its peak");
  return bytes;
}

}  // namespace strata::cli::testing
