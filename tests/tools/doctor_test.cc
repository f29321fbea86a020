// What `strata doctor` says of machines that are not here, and that trying a disk leaves nothing.
#include "tools/cli/doctor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cpu_attn/kernels.h"
#include "tests/engine/fake_device.h"
#include "tests/engine/small_model.h"
#include "tests/tools/machine_root.h"
#include "tests/tools/strata_process.h"

namespace strata::cli {
namespace {

using engine::testing::fake_machine;
using engine::testing::fake_table;
using Level = Finding::Level;
using nlohmann::json;
using testing::run_strata;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// That a finding says what is missing and what to do exactly where something is.
void expect_remedy(const Finding& of) {
  EXPECT_EQ(of.wanted.empty(), of.level == Level::kOk) << of.check << ": " << of.found;
  EXPECT_EQ(of.remedy.empty(), of.level == Level::kOk) << of.check << ": " << of.found;
}

class Doctor : public testing::MachineRoot {
 protected:
  Doctor() { write_memory(64 << 20, 32 << 20); }
  static std::string parts(const std::filesystem::path& folder) {
    std::string names;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      names += entry.path().filename().string() + " ";
    return names;
  }
};

TEST_F(Doctor, TheCpuHasItsNameAndTheKernelsThatWillRun) {
  write("proc/cpuinfo", "processor\t: 0\nmodel name\t: Strange CPU @ 3 GHz\n\nprocessor\t: 1\n");
  const Finding cpu = look_at_cpu(root());
  EXPECT_TRUE(has(cpu.found, "Strange CPU @ 3 GHz, ")) << cpu.found;
  EXPECT_TRUE(has(cpu.found, cpu_attn::choose_kernels().features)) << cpu.found;
  expect_remedy(cpu);
  write("sys/fs/cgroup/cpu.max", "100000 100000\n");
  EXPECT_TRUE(has(look_at_cpu(root()).found, " 1 of ")) << look_at_cpu(root()).found;
}

TEST_F(Doctor, LittleMemoryIsNoted) {
  EXPECT_EQ(look_at_memory(root()).level, Level::kOk);
  EXPECT_EQ(look_at_memory(root()).found, "32.0 GiB of 64.0 GiB available");
  write("sys/fs/cgroup/memory.max", std::to_string(512 << 20) + "\n");
  write("sys/fs/cgroup/memory.current", "0\n");
  const Finding limited = look_at_memory(root());
  EXPECT_EQ(limited.level, Level::kNote);
  EXPECT_EQ(limited.found, "512.0 MiB of 64.0 GiB available (the control group leaves 512.0 MiB)");
  expect_remedy(limited);
}

TEST_F(Doctor, SeveralNodesOfMemoryAreNoted) {
  EXPECT_EQ(look_at_nodes(root()).level, Level::kOk);
  make_folder("sys/devices/system/node/node0");
  make_folder("sys/devices/system/node/power");
  EXPECT_EQ(look_at_nodes(root()).found, "1 node");
  make_folder("sys/devices/system/node/node1");
  EXPECT_EQ(look_at_nodes(root()).found, "2 nodes");
  expect_remedy(look_at_nodes(root()));
}

TEST_F(Doctor, HugePagesThatOurMemoryGetsAreFine) {
  const std::string setting = "sys/kernel/mm/transparent_hugepage/enabled";
  EXPECT_EQ(look_at_huge_pages(root()).level, Level::kNote);
  for (const auto& [text, level] :
       std::vector<std::pair<std::string, Level>>{{"always [madvise] never\n", Level::kOk},
                                                  {"[always] madvise never\n", Level::kOk},
                                                  {"always madvise [never]\n", Level::kNote},
                                                  {"][", Level::kNote}}) {
    write(setting, text);
    EXPECT_EQ(look_at_huge_pages(root()).level, level) << text;
    expect_remedy(look_at_huge_pages(root()));
  }
}

/// Registers as much as the test says, and transfers nothing.
class Registering : public tiers::Io {
 public:
  explicit Registering(uint64_t bytes_max) : bytes_max_(bytes_max) {}
  std::string_view name() const override { return "registering"; }
  uint32_t depth() const override { return 1; }
  uint64_t prepare_memory(std::span<std::byte> memory) override {
    return std::min<uint64_t>(memory.size(), bytes_max_);
  }
  tiers::IoFile add_file(const tiers::File&) override { return {}; }
  uint32_t alignment(tiers::IoFile) const override { return 1; }
  uint32_t submit(std::span<const tiers::IoRequest>) override { return 0; }
  uint32_t wait(std::span<tiers::IoCompletion>, std::chrono::microseconds) override { return 0; }
  uint32_t in_flight() const override { return 0; }

 private:
  uint64_t bytes_max_;
};

TEST_F(Doctor, ARingThatRegistersItsMemoryIsFine) {
  const auto with_limit = [&](uint64_t bytes) {
    return look_at_transfers([=](uint32_t) { return std::make_unique<Registering>(bytes); },
                             root());
  };
  auto findings = with_limit(UINT64_MAX);
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].level, Level::kOk);
  EXPECT_EQ(findings[1].level, Level::kOk) << findings[1].found;
  findings = with_limit(8 << 20);
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[1].level, Level::kNote);
  EXPECT_TRUE(has(findings[1].found, "8.0 MiB of 64.0 MiB could be registered"))
      << findings[1].found;
  EXPECT_TRUE(has(findings[1].remedy, "memlock")) << findings[1].remedy;
}

TEST_F(Doctor, ARefusedRingNamesWhatRefusesIt) {
  const OpenRing refused = [](uint32_t) -> std::unique_ptr<tiers::Io> {
    throw Error(ErrorCode::kIo, "io_uring cannot be used: setting up a ring: not permitted");
  };
  auto findings = look_at_transfers(refused, root());
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].level, Level::kNote);
  EXPECT_TRUE(has(findings[0].found, "not permitted"));
  EXPECT_TRUE(has(findings[0].remedy, "seccomp")) << findings[0].remedy;
  write("proc/sys/kernel/io_uring_disabled", "2\n");
  findings = look_at_transfers(refused, root());
  EXPECT_TRUE(has(findings[0].found, "io_uring_disabled is 2")) << findings[0].found;
  EXPECT_TRUE(has(findings[0].remedy, "sysctl")) << findings[0].remedy;
}

TEST_F(Doctor, TryingAFolderLeavesNothingAndMakesNoFolder) {
  make_folder("disk");
  for (const std::string& place : {path("disk"), path("disk/not/yet")}) {
    const Finding spill = look_at_spill_folder(place, /*is_named=*/true, root());
    EXPECT_NE(spill.level, Level::kFail) << spill.found;
    EXPECT_TRUE(has(spill.found, " free")) << spill.found;
    expect_remedy(spill);
    EXPECT_EQ(parts(path("disk")), "");
  }
  expect_remedy(look_at_session_folder(path("disk/sessions"), root()));
  EXPECT_EQ(parts(path("disk")), "");
}

TEST_F(Doctor, AFolderInMemoryIsRefusedWhereItWasNamed) {
  write_mounts({{"0:1", "/", "tmpfs", "none"}});
  const Finding named = look_at_spill_folder(path(), /*is_named=*/true, root());
  EXPECT_EQ(named.level, Level::kFail);
  EXPECT_TRUE(has(named.found, "tmpfs")) << named.found;
  EXPECT_TRUE(has(named.remedy, "--nvme")) << named.remedy;
  EXPECT_EQ(look_at_spill_folder(path(), /*is_named=*/false, root()).level, Level::kNote);
  const Finding saved = look_at_session_folder(path("x"), root());
  EXPECT_EQ(saved.level, Level::kNote);
  EXPECT_TRUE(has(saved.remedy, "--session-dir")) << saved.remedy;
}

TEST_F(Doctor, ADiskThatIsElsewhereOrRotatesIsNoted) {
  write_mounts({{"0:1", "/", "nfs4", "server:/home"}});
  EXPECT_TRUE(has(look_at_spill_folder(path(), true, root()).wanted, "this machine"));
  write_mounts({{"8:0", "/", "ext4", "/dev/sda"}});
  write("sys/dev/block/8:0/queue/rotational", "1\n");
  write("sys/dev/block/8:0/device/model", "SPINNER\n");
  EXPECT_TRUE(has(look_at_spill_folder(path(), true, root()).wanted, "solid-state"));
}

TEST_F(Doctor, AFolderWhereNoFileCanBeMadeIsRefused) {
  const Finding spill = look_at_spill_folder("/proc/self", /*is_named=*/true, root());
  EXPECT_EQ(spill.level, Level::kFail) << spill.found;
  expect_remedy(spill);
}

TEST_F(Doctor, SavedContextsThatOthersCanReachAreNoted) {
  make_folder("open");
  std::filesystem::permissions(path("open"), std::filesystem::perms(0755));
  const Finding saved = look_at_session_folder(path("open"), root());
  EXPECT_EQ(saved.level, Level::kNote);
  EXPECT_TRUE(has(saved.remedy, "chmod 700")) << saved.remedy;
  EXPECT_EQ(parts(path("open")), "");
}

class DoctorDevices : public Doctor {
 protected:
  DoctorDevices() { fake_machine() = {}; }
  ~DoctorDevices() override { fake_machine() = {}; }
  void write_card(const std::string& width, const std::string& address = "0000:01:00.0") const {
    const std::string card = "sys/bus/pci/devices/" + address + "/";
    write(card + "vendor", "0x10de\n");
    write(card + "class", "0x030000\n");
    write(card + "current_link_width", width + "\n");
    write(card + "max_link_width", "16\n");
  }
  static gpu_attn::CudaDevices none() {
    return {.table = nullptr, .n_devices = 0, .module = "", .reason = "no CUDA device: no driver"};
  }
};

TEST_F(DoctorDevices, WithoutACardTheCpuComputes) {
  const auto findings = look_at_devices(none(), root());
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].level, Level::kOk);
  EXPECT_TRUE(has(findings[0].found, "no driver")) << findings[0].found;
}

TEST_F(DoctorDevices, ACardOnTheBusThatCannotBeUsedIsNoted) {
  write_card("16");
  auto findings = look_at_devices(none(), root());
  EXPECT_EQ(findings[0].level, Level::kNote);
  EXPECT_TRUE(has(findings[0].found, "0000:01:00.0")) << findings[0].found;
  EXPECT_TRUE(has(findings[0].remedy, "install NVIDIA's driver")) << findings[0].remedy;
  write("proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC\n");
  findings = look_at_devices(none(), root());
  EXPECT_TRUE(has(findings[0].remedy, "550.54.15")) << findings[0].remedy;
}

TEST_F(DoctorDevices, EveryDeviceHasALineWithItsLink) {
  write_card("16");
  fake_machine().capabilities = {90, 86};
  auto findings = look_at_devices(gpu_attn::count_devices(fake_table()), root());
  ASSERT_EQ(findings.size(), 3u);
  EXPECT_EQ(findings[0].level, Level::kOk) << findings[0].found;
  EXPECT_EQ(findings[1].check, "device cuda:1");
  EXPECT_TRUE(has(findings[1].found, "compute capability 8.6")) << findings[1].found;
  EXPECT_EQ(findings[2].check, "link 0000:01:00.0");
  EXPECT_EQ(findings[2].found, "x16 of x16");
  EXPECT_EQ(fake_machine().n_live, 0);
}

TEST_F(DoctorDevices, ANarrowLinkIsNotedOfItsOwnCardAlone) {
  write_card("4");
  write_card("16", "0000:41:00.0");
  write_card("", "0000:81:00.0");  // a system that does not say
  fake_machine().capabilities = {90, 86, 86};
  const auto findings = look_at_devices(gpu_attn::count_devices(fake_table()), root());
  ASSERT_EQ(findings.size(), 6u);
  for (const size_t i : {0u, 1u, 2u, 4u, 5u})
    EXPECT_EQ(findings[i].level, Level::kOk) << findings[i].check << ": " << findings[i].found;
  EXPECT_EQ(findings[3].level, Level::kNote);
  EXPECT_EQ(findings[3].found, "x4 of x16");
  expect_remedy(findings[3]);
  EXPECT_EQ(findings[5].check, "link 0000:81:00.0");
}

TEST_F(DoctorDevices, MemoryThatCannotBePinnedIsNoted) {
  const auto devices = gpu_attn::count_devices(fake_table());
  fake_machine().errors["pin"] = 2;
  const auto findings = look_at_devices(devices, root());
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].level, Level::kNote) << findings[0].found;
  expect_remedy(findings[0]);
}

TEST_F(Doctor, AModelThatRunsHasItsContext) {
  const std::string model =
      folder_.write("model.gguf", engine::testing::make_small_model().bytes());
  const auto findings = look_at_model(model, root());
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_TRUE(can_run(findings)) << findings_text(findings);
  EXPECT_TRUE(has(findings[1].found, "Strata chooses a context of ")) << findings[1].found;
}

TEST_F(Doctor, AModelThatCannotBeReadIsAFailureWithItsRemedy) {
  for (const std::string& model : {path("absent.gguf"), folder_.write("bad.gguf", "GGUX")}) {
    const auto findings = look_at_model(model, root());
    ASSERT_EQ(findings.size(), 1u);
    EXPECT_EQ(findings[0].level, Level::kFail);
    EXPECT_TRUE(has(findings[0].found, model)) << findings[0].found;
    expect_remedy(findings[0]);
    EXPECT_FALSE(can_run(findings));
  }
}

TEST(DoctorVerb, PrintsAListAndEndsWithWhetherStrataCanRun) {
  const engine::testing::TestFolder folder;
  const std::vector<std::string> here = {"doctor",      "--json",        "--nvme",
                                         folder.path(), "--session-dir", folder.path("sessions")};
  const auto good = run_strata(here);
  EXPECT_EQ(good.exit_code, 0) << good.out << good.err;
  EXPECT_EQ(good.err, "");
  const json list = json::parse(good.out, nullptr, false);
  ASSERT_TRUE(list.is_array()) << good.out;
  ASSERT_GE(list.size(), 8u);
  for (const json& row : list) {
    for (const char* key : {"check", "found", "wanted", "remedy", "level"})
      EXPECT_TRUE(row[key].is_string()) << row;
    EXPECT_EQ(row["ok"], row["level"] != "fail") << row;
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));

  auto with_model = here;
  with_model.insert(with_model.end(), {"-m", folder.path("absent.gguf")});
  const auto bad = run_strata(with_model);
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_EQ(json::parse(bad.out, nullptr, false).back()["ok"], false) << bad.out;

  const auto text = run_strata({"doctor", "--nvme", folder.path(), "-m", "/absent.gguf"});
  EXPECT_EQ(text.exit_code, 1);
  EXPECT_TRUE(has(text.out, "fail  model file")) << text.out;
  EXPECT_TRUE(has(text.out, "Strata cannot run like this.")) << text.out;
}

}  // namespace
}  // namespace strata::cli
