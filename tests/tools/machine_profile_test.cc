// The file of a machine's profile: what is written is read back, and what is not such a file is
// refused by name.
#include "tools/cli/machine_profile_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/engine/test_folder.h"

namespace strata::cli {
namespace {

using engine::testing::TestFolder;
using nlohmann::json;
using planner::MachineProfile;

MachineProfile full_profile() {
  MachineProfile of;
  of.cpu = "Some CPU @ 3 GHz";
  of.cpu_isa = "avx2 fma f16c";
  of.disk = "ext4 on /dev/nvme0n1p2 (Fast 990)";
  of.device = "Card 4090";
  of.driver = "550.54.15";
  of.n_threads = 12;
  of.measured_at = "2026-11-26T13:20:00Z";
  of.written_by = "strata 0.1.0";
  of.dram_bytes = 0xffff'ffff'ffffu;
  of.dram_read_bytes_per_s = 51.23456789e9;
  of.dram_copy_bytes_per_s = 1e9 / 3;
  of.linear = {{TensorType::kQ4_0, 1.5e9, 2.5e11, 7e9}, {TensorType::kF16, 3e9, 4e11, 2.25e9}};
  of.attend = {{KvCodec::kF16, 64, 5e9, 6e10, 12.5}, {KvCodec::kQ8_0, 64, 7e9, 8e10, 0}};
  of.index = {{"rabitq", 64, 6.5e9}, {"pq", 128, 5.5e9}};
  of.step_cost = {.step_us = 81.25, .layer_us = 34.5, .row_values_per_s = 2.5e9};
  of.disk_read = {{4096, 1, 4e7}, {4096, 32, 9e8}, {1 << 20, 32, 3e9}};
  of.disk_write = {{4096, 1, 3e7}, {1 << 20, 32, 1.1e9}};
  of.disk_is_direct = false;
  of.n_disturbed = 3;
  of.disk_read_bytes_per_s = 3.1e9;
  of.disk_write_bytes_per_s = 1.2e9;
  of.disk_alone = {87.5, 2.9e9};
  of.pairs = {{"nvme_read", "attend", 0.9, 1}, {"nvme_read", "gemv", 0.25, 0.125}};
  of.gpu = {.hbm_bytes = 24ull << 30,
            .host_to_device = {10, 2.4e10},
            .device_to_host = {0, 2.3e10},
            .copy_bytes_per_s = 9e11,
            .gemv_bytes_per_s = 8e11,
            .attend_bytes_per_s = 7e11,
            .gemm_flops = 1.6e14,
            .attend_flops = 9e13,
            .launch_us = 3.5};
  return of;
}

json full_json() { return json::parse(machine_profile_json(full_profile())); }

/// What the refusal of a text says; "" where it is read.
std::string refusal(const std::string& text) {
  try {
    (void)parse_machine_profile(text, "here.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadFile);
    EXPECT_EQ(error.where(), "here.json");
    EXPECT_NE(error.remedy().find("strata calibrate"), std::string::npos);
    return error.what();
  }
  return "";
}

TEST(MachineProfileFile, EveryFigureComesBackExactly) {
  const MachineProfile wanted = full_profile();
  const std::string text = machine_profile_json(wanted);
  const MachineProfile found = parse_machine_profile(text, "here.json");
  EXPECT_EQ(machine_profile_json(found), text);
  EXPECT_EQ(found.cpu, wanted.cpu);
  EXPECT_EQ(found.driver, wanted.driver);
  EXPECT_EQ(found.dram_bytes, wanted.dram_bytes);
  EXPECT_EQ(found.dram_copy_bytes_per_s, wanted.dram_copy_bytes_per_s);
  ASSERT_EQ(found.linear.size(), 2u);
  EXPECT_EQ(found.linear[1].type, TensorType::kF16);
  EXPECT_EQ(found.linear[1].pack_bytes_per_s, 2.25e9);
  ASSERT_EQ(found.attend.size(), 2u);
  EXPECT_EQ(found.attend[1].codec, KvCodec::kQ8_0);
  EXPECT_EQ(found.attend[0].decode_layer_us, 12.5);
  EXPECT_EQ(found.step_cost.step_us, 81.25);
  EXPECT_EQ(found.step_cost.layer_us, 34.5);
  EXPECT_EQ(found.step_cost.row_values_per_s, 2.5e9);
  ASSERT_EQ(found.disk_read.size(), 3u);
  EXPECT_EQ(found.disk_read[1].depth, 32u);
  ASSERT_EQ(found.index.size(), 2u);
  EXPECT_EQ(found.index[1].method, "pq");
  EXPECT_EQ(found.index[1].head_dim, 128u);
  EXPECT_EQ(found.index[1].scan_bytes_per_s, 5.5e9);
  ASSERT_EQ(found.disk_write.size(), 2u);
  EXPECT_EQ(found.disk_write[1].bytes_per_s, 1.1e9);
  EXPECT_FALSE(found.disk_is_direct);
  EXPECT_EQ(found.n_disturbed, 3u);
  EXPECT_EQ(found.disk_alone.alpha_us, 87.5);
  EXPECT_EQ(found.pairs[1].second_share, 0.125);
  EXPECT_EQ(found.gpu.launch_us, 3.5);
}

TEST(MachineProfileFile, WhatThereIsNotIsLeftOut) {
  MachineProfile of = full_profile();
  of.disk = of.device = of.driver = "";
  of.disk_read = {};
  of.disk_read_bytes_per_s = of.disk_write_bytes_per_s = 0;
  of.gpu = {};
  of.pairs = {};
  const json written = json::parse(machine_profile_json(of));
  EXPECT_FALSE(written.contains("disk"));
  EXPECT_FALSE(written.contains("gpu"));
  EXPECT_EQ(refusal(written.dump()), "");
}

TEST(MachineProfileFile, EveryRateMustBeFiniteAndAboveZero) {
  const char* rates[] = {"/dram/read_bytes_per_s",
                         "/dram/copy_bytes_per_s",
                         "/linear/0/gemv_bytes_per_s",
                         "/linear/1/gemm_flops",
                         "/linear/1/pack_bytes_per_s",
                         "/attend/0/decode_bytes_per_s",
                         "/attend/1/prefill_flops",
                         "/step/row_values_per_s",
                         "/index/1/scan_bytes_per_s",
                         "/disk/read_bytes_per_s",
                         "/disk/write_bytes_per_s",
                         "/disk/alone/bytes_per_s",
                         "/disk/reads/2/bytes_per_s",
                         "/disk/writes/1/bytes_per_s",
                         "/pairs/0/first_share",
                         "/pairs/1/second_share",
                         "/gpu/copy_bytes_per_s",
                         "/gpu/host_to_device/bytes_per_s",
                         "/gpu/gemm_flops",
                         "/gpu/launch_us"};
  for (const char* rate : rates) {
    const json::json_pointer at(rate);
    ASSERT_TRUE(full_json().contains(at)) << rate;
    for (const json& value :
         {json(0), json(-1e9), json("1e9"), json(nullptr), json(true), json::array({1e9})}) {
      json changed = full_json();
      changed[at] = value;
      const std::string said = refusal(changed.dump());
      EXPECT_NE(said.find(at.back()), std::string::npos) << rate << " " << value << ": " << said;
    }
  }
  // A number that no double holds.
  std::string text = machine_profile_json(full_profile());
  text.replace(text.find("87.5"), 4, "1e999");
  EXPECT_NE(refusal(text), "");
}

TEST(MachineProfileFile, EveryKeyMustBeThereAndNoOther) {
  const std::function<void(const json::json_pointer&)> walk = [&](const json::json_pointer& at) {
    const json all = full_json();
    for (const auto& [key, unused] : all[at].items()) {
      json changed = all;
      if (all[at].is_object()) {
        changed[at].erase(key);
        const bool must_be = key != "writes" && key != "is_direct";
        EXPECT_EQ(refusal(changed.dump()) != "", must_be) << at << " without " << key;
      }
      const json::json_pointer below = at / json::json_pointer("/" + key);
      if (all[below].is_structured()) walk(below);
    }
    if (!all[at].is_object()) return;
    json changed = all;
    changed[at]["more"] = 1;
    EXPECT_NE(refusal(changed.dump()).find("'more'"), std::string::npos) << at;
  };
  for (const char* part : {"/machine", "/dram", "/linear", "/attend", "/step", "/disk", "/pairs"})
    walk(json::json_pointer(part));
  // The rates of a card may be missing, and of its kernels: they are where none was measured.
  json without = full_json();
  without.erase("gpu");
  EXPECT_EQ(refusal(without.dump()), "");
  for (const auto& [key, unused] : full_json()["gpu"].items()) {
    json changed = full_json();
    changed["gpu"].erase(key);
    const bool must_be = key == "hbm_bytes" || key.find("host") != std::string::npos;
    EXPECT_EQ(refusal(changed.dump()) != "", must_be) << key;
  }
}

TEST(MachineProfileFile, WhatOthersDisturbedTakesNoCleanProfilesPlace) {
  MachineProfile clean = full_profile(), disturbed = full_profile();
  clean.n_disturbed = 0;
  disturbed.n_disturbed = 2;
  const int64_t now_s = 1795699200 + 86400;  // a day after it was measured
  const std::string said = why_not_replaced(clean, disturbed, now_s);
  EXPECT_NE(said.find("2 figures were disturbed"), std::string::npos) << said;
  EXPECT_EQ(why_not_replaced(clean, clean, now_s), "");
  EXPECT_EQ(why_not_replaced(disturbed, disturbed, now_s), "");
  EXPECT_EQ(why_not_replaced(std::nullopt, disturbed, now_s), "");
  EXPECT_EQ(why_not_replaced(clean, disturbed, now_s + 60 * 86400), "");  // stale
}

TEST(MachineProfileFile, OtherWrongValuesAreRefusedByName) {
  struct Case {
    const char* at;
    json value;
    const char* said;
  };
  const std::vector<Case> cases = {{"/version", 2, "wanted 3 as version"},
                                   {"/version", 4, "wanted 3 as version"},
                                   {"/version", "1", "version"},
                                   {"/measured_at", "yesterday", "measured_at"},
                                   {"/measured_at", "2026-02-30T00:00:00Z", "measured_at"},
                                   {"/measured_at", "", "measured_at"},
                                   {"/machine/dram_bytes", -1, "machine.dram_bytes"},
                                   {"/machine/n_threads", 0, "machine.n_threads"},
                                   {"/machine/n_threads", 2.5, "machine.n_threads"},
                                   {"/machine/cpu", 7, "machine.cpu"},
                                   {"/linear/0/type", "Q4_9", "linear[0].type"},
                                   {"/linear/1/type", "Q4_0", "each type once"},
                                   {"/attend/0/codec", "f32", "attend[0].codec"},
                                   {"/index/0/method", "rabbit", "index[0].method"},
                                   {"/attend/1/codec", "f16", "each codec"},
                                   {"/disk/reads/2/request_bytes", 512, "sizes that rise"},
                                   {"/disk/alone/alpha_us", -1, "disk.alone.alpha_us"},
                                   {"/attend/1/decode_layer_us", -1, "decode_layer_us"},
                                   {"/step/step_us", -1, "step.step_us"},
                                   {"/step/layer_us", "30", "step.layer_us"},
                                   {"/pairs/0/first", "moon", "one of nvme_read"},
                                   {"/pairs/0/first_share", 1.5, "at most 1"},
                                   {"/linear", json::object(), "a list"},
                                   {"/machine/disk", "", "no disk where none is named"},
                                   {"/machine/device", "", "no gpu where no device is named"}};
  for (const Case& of : cases) {
    json changed = full_json();
    changed[json::json_pointer(of.at)] = of.value;
    EXPECT_NE(refusal(changed.dump()).find(of.said), std::string::npos)
        << of.at << " " << of.value << ": " << refusal(changed.dump());
  }
  for (const std::string text : {"", "{", "[]", "17", "nan", "{\"version\": 1}"})
    EXPECT_NE(refusal(text), "") << text;
  EXPECT_NE(refusal(std::string(2 << 20, ' ') + machine_profile_json(full_profile())), "");
}

TEST(MachineProfileFile, DeepNestingIsRefusedByItsKind) {
  constexpr size_t kDepth = 100'000;
  const std::string deep = std::string(kDepth, '[') + std::string(kDepth, ']');
  EXPECT_NE(refusal(deep).find("found a list"), std::string::npos) << refusal(deep);
  std::string objects;
  for (size_t i = 0; i < kDepth; ++i) objects += "{\"a\":";
  objects += "1" + std::string(kDepth, '}');
  EXPECT_NE(refusal(objects).find("found an object"), std::string::npos) << refusal(objects);
  std::string text = machine_profile_json(full_profile());
  text.replace(text.find("\"Card 4090\""), 11, deep);
  EXPECT_NE(refusal(text).find("as machine.device, found a list"), std::string::npos);
}

TEST(MachineProfileFile, AMachineWhoseMemoryIsUnknownIsReadBack) {
  MachineProfile of = full_profile();
  of.dram_bytes = 0;
  EXPECT_EQ(refusal(machine_profile_json(of)), "");
}

TEST(MachineProfileFile, OneThatCannotBeOpenedNamesItself) {
  const TestFolder folder;
  const std::string path = folder.path("loop.json");
  std::filesystem::create_symlink(path, path);
  try {
    (void)read_machine_profile(path);
    ADD_FAILURE() << "it was read";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_EQ(error.remedy().find("--config"), std::string::npos) << error.remedy();
    EXPECT_NE(error.remedy().find("strata calibrate"), std::string::npos) << error.remedy();
  }
}

TEST(MachineProfileFile, IsReplacedAllAtOnceAndLeavesNothingBeside) {
  const TestFolder folder;
  const std::string path = machine_profile_path(folder.path("a/b"), full_profile());
  EXPECT_FALSE(read_machine_profile(path).has_value());
  for (const uint32_t n_threads : {1u, 2u}) {
    MachineProfile of = full_profile();
    of.n_threads = n_threads;
    write_machine_profile(path, of);
    EXPECT_EQ(read_machine_profile(path)->n_threads, n_threads);
  }
  const auto entries = std::filesystem::directory_iterator(folder.path("a/b"));
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1);
  EXPECT_THROW(write_machine_profile(path + "/below/a/file.json", full_profile()), Error);
}

TEST(MachineProfileFile, IsKeptUnderTheWordsOfItsMachine) {
  const MachineProfile here = full_profile();
  const std::string path = machine_profile_path("folder", here);
  const std::vector<std::pair<std::string MachineProfile::*, const char*>> words = {
      {&MachineProfile::cpu, "its CPU is"},
      {&MachineProfile::cpu_isa, "its instruction set is"},
      {&MachineProfile::disk, "its disk is"},
      {&MachineProfile::device, "its device is"},
      {&MachineProfile::driver, "its driver is"}};
  for (const auto& [word, said] : words) {
    MachineProfile other = here;
    other.*word = "another";
    EXPECT_NE(machine_profile_path("folder", other), path) << said;
    try {
      expect_same_machine(other, here, path);
      ADD_FAILURE() << said;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      EXPECT_NE(std::string(error.what()).find(said), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("'another'"), std::string::npos) << error.what();
      EXPECT_NE(error.remedy().find("strata calibrate"), std::string::npos);
    }
  }
  // Words cannot run into each other.
  MachineProfile shifted = here;
  shifted.cpu = here.cpu + here.cpu_isa.substr(0, 1);
  shifted.cpu_isa = here.cpu_isa.substr(1);
  EXPECT_NE(machine_profile_path("folder", shifted), path);
  EXPECT_NO_THROW(expect_same_machine(here, here, path));
}

TEST(MachineProfileFile, GrowsStaleWithAgeAndWithOtherKernelsAndThreads) {
  constexpr int64_t kMeasured = 1795699200;  // 2026-11-26T13:20:00Z
  constexpr int64_t kDay = 86400;
  ASSERT_EQ(profile_time_text(kMeasured), "2026-11-26T13:20:00Z");
  const MachineProfile here = full_profile();
  EXPECT_EQ(profile_age_days(here, kMeasured + 3 * kDay + 5), 3);
  EXPECT_EQ(stale_reason(here, here, kMeasured + 30 * kDay), "");
  EXPECT_EQ(stale_reason(here, here, kMeasured + 31 * kDay), "it is 31 days old");
  EXPECT_NE(stale_reason(here, here, kMeasured - 2 * kDay), "");
  MachineProfile old = here;
  old.written_by = "strata 0.0.9";
  EXPECT_NE(stale_reason(old, here, kMeasured).find("strata 0.0.9"), std::string::npos);
  old = here;
  old.n_threads = 3;
  EXPECT_NE(stale_reason(old, here, kMeasured).find("3 threads"), std::string::npos);
  old.measured_at = "";
  EXPECT_NE(stale_reason(old, here, kMeasured).find("not measured here"), std::string::npos);
}

}  // namespace
}  // namespace strata::cli
