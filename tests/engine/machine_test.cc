#include "engine/machine.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/engine/mebibyte.h"
#include "tests/engine/test_folder.h"

namespace strata::engine {
namespace {

/// A file tree that stands for "/": 64 GiB of memory are free unless a group says otherwise.
class Machine : public ::testing::Test {
 protected:
  Machine() { write("proc/meminfo", "MemTotal: 99999999 kB\nMemAvailable: 67108864 kB\n"); }
  void write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = root() + name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  void write_group(const std::string& folder, const std::string& max, const std::string& high,
                   uint64_t used, uint64_t file_bytes = 0) const {
    const std::string at = "sys/fs/cgroup/" + folder + "/";
    write(at + "memory.max", max + "\n");
    write(at + "memory.high", high + "\n");
    write(at + "memory.current", std::to_string(used) + "\n");
    write(at + "memory.stat", "anon 1\nfile 77777777777\nactive_file " +
                                  std::to_string(file_bytes / 4) + "\ninactive_file " +
                                  std::to_string(file_bytes - file_bytes / 4) + "\n");
  }
  std::string root() const { return folder_.path("root") + "/"; }
  uint64_t available_mib() const { return available_dram_bytes(root()) / kMiB; }

 private:
  testing::TestFolder folder_;
};

TEST_F(Machine, WithoutALimitItIsWhatTheSystemHasFree) {
  EXPECT_EQ(available_mib(), 65536u);
  write("proc/self/cgroup", "0::/user/app\n");
  write_group("user/app", "max", "max", 5 * kMiB);
  EXPECT_EQ(available_mib(), 65536u);
}

TEST_F(Machine, WaitingForMemoryIsAShareOfTenSeconds) {
  EXPECT_EQ(memory_pressure(root()), 0);  // a system that does not say
  write("proc/pressure/memory",
        "some avg10=12.50 avg60=3.00 avg300=1.00 total=9\nfull avg10=1.00 avg60=0.0 total=1\n");
  EXPECT_DOUBLE_EQ(memory_pressure(root()), 0.125);
  write("proc/pressure/memory", "some avg60=3.00\n");
  EXPECT_EQ(memory_pressure(root()), 0);
}

TEST_F(Machine, PagesOfFilesAreNotHeld) {
  write("proc/self/status", "VmRSS:\t9000 kB\nRssAnon:\t   2048 kB\nRssFile:\t  7000 kB\n");
  EXPECT_EQ(held_memory_bytes(root()), 2 * kMiB);
}

TEST_F(Machine, TheOwnGroupLimitsIt) {
  write("proc/self/cgroup", "0::/user/app\n");
  write_group("user/app", std::to_string(1000 * kMiB), "max", 300 * kMiB);
  EXPECT_EQ(available_mib(), 700u);
}

TEST_F(Machine, EveryGroupAboveLimitsItToo) {
  write("proc/self/cgroup", "0::/user/app\n");
  write_group("user/app", std::to_string(1000 * kMiB), "max", 300 * kMiB);
  write_group("user", std::to_string(4000 * kMiB), "max", 3600 * kMiB);
  EXPECT_EQ(available_mib(), 400u);
  write_group("", std::to_string(4000 * kMiB), "max", 3900 * kMiB);
  EXPECT_EQ(available_mib(), 100u);
}

TEST_F(Machine, TheLimitThatSlowsDownCounts) {
  write("proc/self/cgroup", "0::/app\n");
  write_group("app", "max", std::to_string(500 * kMiB), 100 * kMiB);
  EXPECT_EQ(available_mib(), 400u);
}

TEST_F(Machine, PagesOfFilesAreFreeAndMemoryThatIsNoFileIsNot) {
  write("proc/self/cgroup", "0::/app\n");
  write_group("app", std::to_string(1000 * kMiB), "max", 900 * kMiB, 200 * kMiB);
  EXPECT_EQ(available_mib(), 300u);
}

TEST_F(Machine, AGroupThatHoldsMoreThanItsLimitLeavesNothing) {
  write("proc/self/cgroup", "0::/app\n");
  write_group("app", std::to_string(100 * kMiB), "max", 150 * kMiB);
  EXPECT_EQ(available_mib(), 0u);
}

TEST_F(Machine, APathOfTheHostLeadsToTheContainersOwnGroup) {
  write_group("", std::to_string(800 * kMiB), "max", 100 * kMiB);
  for (const char* path : {"/system.slice/container-4711", "/../other", "/"}) {
    write("proc/self/cgroup", "0::" + std::string(path) + "\n");
    EXPECT_EQ(available_mib(), 700u) << path;
  }
}

TEST_F(Machine, GroupsOfTheFirstVersionLimitIt) {
  write("proc/self/cgroup", "12:cpu,cpuacct:/job\n9:memory:/job/7\n1:name=systemd:/x\n");
  const std::string at = "sys/fs/cgroup/memory/job/";
  write(at + "7/memory.limit_in_bytes", std::to_string(600 * kMiB));
  write(at + "7/memory.usage_in_bytes", std::to_string(300 * kMiB));
  write(at + "7/memory.stat",
        "cache 9999999999\ntotal_inactive_file " + std::to_string(100 * kMiB) + "\n");
  EXPECT_EQ(available_mib(), 400u);
  write(at + "memory.limit_in_bytes", std::to_string(900 * kMiB));
  write(at + "memory.usage_in_bytes", std::to_string(850 * kMiB));
  EXPECT_EQ(available_mib(), 50u);
}

TEST_F(Machine, CpuQuotasOfEveryGroupCount) {
  const uint32_t all = usable_cpus(root());
  ASSERT_GE(all, 1u);
  write("proc/self/cgroup", "0::/user/app\n");
  write("sys/fs/cgroup/user/app/cpu.max", "max 100000\n");
  EXPECT_EQ(usable_cpus(root()), all);
  write("sys/fs/cgroup/user/cpu.max", "150000 100000\n");
  EXPECT_EQ(usable_cpus(root()), 1u);
  write("sys/fs/cgroup/user/cpu.max", "10000 100000\n");
  EXPECT_EQ(usable_cpus(root()), 1u);
}

TEST_F(Machine, WithoutALimitTheGroupsLeaveNoNumber) {
  EXPECT_FALSE(group_dram_bytes(root()).has_value());
  write("proc/self/cgroup", "0::/app\n");
  write_group("app", "max", "max", 5 * kMiB);
  EXPECT_FALSE(group_dram_bytes(root()).has_value());
  write_group("app", std::to_string(100 * kMiB), "max", 30 * kMiB);
  EXPECT_EQ(group_dram_bytes(root()), 70 * kMiB);
}

TEST_F(Machine, TheCpuIsCalledWhatTheFirstOneCallsItself) {
  EXPECT_EQ(cpu_name(root()), "unknown CPU");
  write("proc/cpuinfo",
        "processor\t: 0\nmodel\t: 17\nmodel name\t: Some CPU\nmodel name\t: Another\n");
  EXPECT_EQ(cpu_name(root()), "Some CPU");
}

TEST_F(Machine, AllOfItsMemoryIsNotWhatIsFree) {
  EXPECT_EQ(total_dram_bytes(root()), uint64_t{99999999} * 1024);
  EXPECT_EQ(total_dram_bytes(root() + "nowhere/"), 0u);
}

}  // namespace
}  // namespace strata::engine
