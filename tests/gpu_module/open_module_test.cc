// Modules that are not there, not ours, of another version, without a driver: a reason each, never
// an abort. And the module of this build, where it was built.
#include "gpu_attn/open_module.h"
#include "tests/tree_paths.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>

namespace strata::gpu_attn {
namespace {

const std::string kFolder = FAKE_MODULE_FOLDER;

std::string reason_of(const std::string& kind) {
  const std::string path = kFolder + "/fake_module_" + kind + ".so";
  EXPECT_TRUE(std::filesystem::exists(path)) << path;
  const CudaDevices devices = find_cuda_devices({path});
  EXPECT_EQ(devices.table, nullptr);
  EXPECT_EQ(devices.n_devices, 0u);
  EXPECT_EQ(devices.reason.substr(0, 16), "no CUDA device: ");
  EXPECT_EQ(devices.reason.find('\n'), std::string::npos);
  return devices.reason;
}

std::string output_of(const std::string& command) {
  std::string text;
  FILE* pipe = ::popen(command.c_str(), "r");
  char piece[4096];
  while (pipe != nullptr && std::fgets(piece, sizeof piece, pipe) != nullptr) text += piece;
  if (pipe != nullptr) ::pclose(pipe);
  return text;
}

TEST(OpenModule, OneThatWorksGivesItsDevices) {
  const std::string path = kFolder + "/fake_module_works.so";
  const CudaDevices devices = find_cuda_devices({"/nowhere/strata_cuda.so", path});
  ASSERT_NE(devices.table, nullptr) << devices.reason;
  EXPECT_EQ(devices.n_devices, 2u);
  EXPECT_EQ(devices.module, path);
  EXPECT_EQ(devices.reason, "");
}

TEST(OpenModule, AnAbsentOneIsNamedWithThePlaces) {
  EXPECT_EQ(find_cuda_devices({"/nowhere/a.so", "/nowhere/b.so"}).reason,
            "no CUDA device: the CUDA module is not installed (looked for /nowhere/a.so, "
            "/nowhere/b.so)");
}

TEST(OpenModule, TheFirstThatIsThereDecides) {
  const CudaDevices devices =
      find_cuda_devices({kFolder + "/fake_module_no_device.so", kFolder + "/fake_module_works.so"});
  EXPECT_EQ(devices.table, nullptr);
}

TEST(OpenModule, WhatIsNoModuleOrAnotherVersionsIsRefused) {
  const std::string text = ::testing::TempDir() + "strata-no-module.so";
  std::ofstream(text) << "no library\n";
  const CudaDevices devices = find_cuda_devices({text});
  EXPECT_NE(devices.reason.find("the CUDA module cannot be loaded: "), std::string::npos)
      << devices.reason;
  std::filesystem::remove(text);
  EXPECT_NE(reason_of("no_symbol").find("is no CUDA module of Strata"), std::string::npos);
  EXPECT_NE(reason_of("other_abi").find("belongs to another version"), std::string::npos);
  EXPECT_NE(reason_of("other_size").find("belongs to another version"), std::string::npos);
}

TEST(OpenModule, NoDeviceAndAnOldDriverAreReasons) {
  EXPECT_EQ(reason_of("no_device"), "no CUDA device: none there");
  EXPECT_EQ(reason_of("old_driver"), "no CUDA device: the NVIDIA driver is too old: old words");
  EXPECT_EQ(reason_of("empty"), "no CUDA device: the machine has none");
}

TEST(OpenModule, IsLookedForBesideTheProgramAndInTheLibraryFolder) {
  const std::vector<std::string> paths = cuda_module_paths();
  ASSERT_EQ(paths.size(), 3u);
  const auto folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  EXPECT_EQ(paths[0], (folder / kCudaModuleName).string());
  EXPECT_TRUE(paths[1].ends_with("/strata/strata_cuda.so")) << paths[1];
  EXPECT_TRUE(paths[1].starts_with(folder.parent_path().string())) << paths[1];
  EXPECT_EQ(paths[2], build_path("gpu_attn/strata_cuda.so"));
  EXPECT_EQ(std::ranges::count(paths, paths[1]), 1);
}

/// The module of this build. Tests of it pass with a card and without one.
class BuiltModule : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(path_)) GTEST_SKIP() << "nvcc was not found: there is no module";
  }
  const std::string path_ = build_path("gpu_attn/strata_cuda.so");
};

TEST_F(BuiltModule, CountsDevicesOrSaysWhyThereIsNone) {
  const CudaDevices devices = find_cuda_devices({path_});
  EXPECT_EQ(devices.table != nullptr, devices.n_devices > 0);
  EXPECT_NE(devices.table != nullptr, devices.reason.starts_with("no CUDA device: "));
  EXPECT_EQ(devices.reason.find("version of Strata"), std::string::npos) << devices.reason;
}

TEST_F(BuiltModule, RefusesAnotherAbiAndFillsTheWholeTable) {
  void* library = ::dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << ::dlerror();
  const auto table_of = reinterpret_cast<DeviceTableFunction>(::dlsym(library, kDeviceTableSymbol));
  ASSERT_NE(table_of, nullptr);
  EXPECT_EQ(table_of(kDeviceAbi + 1), nullptr);
  const DeviceTable* table = table_of(kDeviceAbi);
  ASSERT_NE(table, nullptr);
  EXPECT_EQ(table->table_bytes, sizeof(DeviceTable));
  // Behind the two numbers stand function pointers alone.
  const auto* entries = reinterpret_cast<void* const*>(&table->status);
  const size_t n = (sizeof(DeviceTable) - offsetof(DeviceTable, status)) / sizeof(void*);
  EXPECT_EQ(std::count(entries, entries + n, nullptr), 0);
}

TEST_F(BuiltModule, GivesOneSymbolAndWantsNoLibraryOfNvidias) {
  const std::string symbols = output_of("nm -D --defined-only '" + path_ + "'");
  EXPECT_EQ(std::count(symbols.begin(), symbols.end(), '\n'), 1) << symbols;
  EXPECT_NE(symbols.find(" T strata_device_table\n"), std::string::npos) << symbols;
  const std::string needed = output_of("readelf -d '" + path_ + "' | grep NEEDED");
  EXPECT_EQ(needed.find("cu"), std::string::npos) << needed;
}

}  // namespace
}  // namespace strata::gpu_attn
