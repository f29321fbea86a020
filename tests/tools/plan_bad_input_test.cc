// What `strata plan` says of input that makes no plan: each names its option and a remedy.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "cpu_attn/kernels.h"
#include "tests/tiers/child_process.h"
#include "tests/tiers/small_disk.h"
#include "tests/tools/announced_model.h"
#include "tests/tools/plan_fixture.h"
#include "tools/cli/machine_profile_file.h"
#include "tools/cli/machine_words.h"

namespace strata::cli {
namespace {

using testing::run_strata;

class PlanBadInput : public testing::PlanTest {};

TEST_F(PlanBadInput, SizesAreReadWithTheirUnitOrRefused) {
  struct Case {
    const char* text;
    uint64_t bytes;
  };
  for (const Case& of : {Case{"12G", uint64_t{12} << 30}, Case{"12gib", uint64_t{12} << 30},
                         Case{"12GB", 12'000'000'000}, Case{"12gb", 12'000'000'000},
                         Case{"1536m", uint64_t{1536} << 20}})
    EXPECT_EQ(plan({"--device", "none", "--dram", of.text})["tiers"]["dram"]["budget_bytes"],
              of.bytes)
        << of.text;
  for (const char* option : {"--dram", "--hbm", "--nvme-budget"})
    for (const char* text : {"-1", "-4GiB", "1e99GiB", "12XB", "12e9", "nan", "12 GiB", "99999TiB",
                             "18446744073709551616"})
      expect_refused(arguments({"--device", "virtual:rtx3060", std::string(option) + "=" + text}),
                     {2, "usage", {"a size such as 512MiB", text}, option, "strata VERB --help"});
}

TEST_F(PlanBadInput, BudgetsThatHoldNothingAreRefusedWithWhatWould) {
  // A byte and a MiB of memory; not 0, which stands for what is free.
  for (const char* dram : {"1B", "1MiB"})
    expect_refused(
        arguments({"--device", "none", "--dram", dram}),
        {3, "does_not_fit", {"the model alone needs", "there is 1"}, "--dram", "use --dram "});
  expect_refused(arguments({"--device", "virtual:rtx3060", "--hbm", "1B"}),
                 {3, "does_not_fit", {"the device's memory", "there is 1 B"}, "--hbm", "--hbm "});
  EXPECT_EQ(plan({"--device", "none", "--dram", "0"})["feasible"], true);
  // All that sizes can say.
  EXPECT_EQ(plan({"--device", "none", "--dram", "64TiB"})["feasible"], true);
}

TEST_F(PlanBadInput, OneLayerThatDoesNotFitIsRefusedWithWhatWould) {
  const testing::AnnouncedModel wide{"Wide", 2, 16384, 128, 8, 128, 65536, 32000, 8192};
  path_ = folder_.path("wide.gguf");
  wide.write(path_);
  // A layer of 2 GiB, of which two pass at a time.
  expect_refused(
      arguments({"--device", "none", "--dram", "3GiB", "-c", "4k"}),
      {3, "does_not_fit", {"only two layers of it", "there is 3.0 GiB"}, "--dram", "use --dram "});
  expect_refused(arguments({"--device", "virtual:laptop8", "--hbm", "3GiB", "-c", "4k"}),
                 {3, "does_not_fit", {"two layers", "there is 3.0 GiB"}, "--hbm", "--hbm "});
}

TEST_F(PlanBadInput, WhatIsPinnedIntoTooSmallACardIsRefusedWithALineThatRuns) {
  const testing::AnnouncedModel small{"8B", 32, 4096, 32, 8, 128, 14336, 128256, 131072};
  const testing::AnnouncedModel large{"70B", 80, 8192, 64, 8, 128, 28672, 128256, 131072};
  struct Case {
    const testing::AnnouncedModel& model;
    std::vector<std::string> words;
    const char* holds;
  };
  const std::vector<Case> cases = {
      {small,
       {"-c", "16k", "--kv-tier", "hbm", "--hbm", "2GiB", "-ngl", "40"},
       "none without --pin"},
      {small, {"-c", "128k", "--kv-tier", "hbm", "--dram", "1GiB"}, ""},
      {large, {"-c", "32k", "-ngl", "40", "--nvme", "off"}, ""},
      // Neither the CPU alone nor a plan without pins has the memory.
      {large, {"-c", "32k", "-ngl", "40", "--nvme", "off", "--dram", "3GiB"}, "and --kv-tier ("}};
  for (const Case& of : cases) {
    SCOPED_TRACE(::testing::PrintToString(of.words));
    path_ = folder_.path("announced.gguf");
    of.model.write(path_);
    std::vector<std::string> words = {"--device", "virtual:rtx3060", "--json"};
    words.insert(words.end(), of.words.begin(), of.words.end());
    const auto refused = testing::run_strata(arguments(words));
    EXPECT_EQ(refused.exit_code, 3);
    const std::string remedy = nlohmann::json::parse(refused.out, nullptr, false)["remedy"];
    EXPECT_NE(remedy.find(of.holds), std::string::npos) << remedy;
    const std::string begins = " (strata ";
    const size_t begin = remedy.find(begins) + begins.size();
    ASSERT_GT(begin, begins.size()) << remedy;
    std::istringstream line(remedy.substr(begin, remedy.find(')', begin) - begin));
    const std::vector<std::string> typed{std::istream_iterator<std::string>(line), {}};
    const auto planned = testing::run_strata(typed);
    EXPECT_EQ(planned.exit_code, 0) << remedy << planned.out;
  }
}

TEST_F(PlanBadInput, ARateOfZeroIsNamed) {
  planner::MachineProfile profile = machine_words(cpu_attn::choose_kernels(), 2, folder_.path());
  profile.measured_at = profile_time_text(unix_seconds());
  profile.dram_read_bytes_per_s = profile.dram_copy_bytes_per_s = 8e9;
  profile.linear = {{TensorType::kF16, 1e9, 2e9, 1e9}};
  profile.attend = {{KvCodec::kF16, 32, 5e9, 6e10}};
  profile.step_cost.row_values_per_s = 1e9;
  profile.disk_read = {{16 << 10, 8, 1e9}};
  profile.disk_read_bytes_per_s = profile.disk_write_bytes_per_s = 2e9;
  profile.disk_alone = {87.5, 2.9e9};
  const std::string path = machine_profile_path(folder_.path("cache/strata/profiles"), profile);
  write_machine_profile(path, profile);
  std::ifstream in(path);
  const std::string good(std::istreambuf_iterator<char>(in), {});
  for (const std::string key :
       {"read_bytes_per_s", "gemv_bytes_per_s", "decode_bytes_per_s", "row_values_per_s"}) {
    SCOPED_TRACE(key);
    std::string text = good;
    const size_t at = text.find("\"" + key + "\"");
    ASSERT_NE(at, std::string::npos) << text;
    const size_t begin = text.find(':', at) + 1;
    text.replace(begin, text.find_first_of(",}\n", begin) - begin, " 0");
    std::ofstream(path) << text;
    testing::Launch launch;
    launch.arguments = arguments({"--device", "none", "--nvme", folder_.path()});
    launch.environment["XDG_CACHE_HOME"] = folder_.path("cache");
    expect_refused(launch,
                   {4, "bad_file", {key, "above 0", "found 0"}, "machine-", "strata calibrate"});
  }
}

TEST_F(PlanBadInput, AFullDiskIsRefusedWhereItWasNamed) {
  STRATA_EXPECT_CHILD_PASSES(tiers::run_in_child([&] {
    const std::string disk = tiers::mount_small_disk(folder_.path(""));
    for (const size_t piece : {size_t{1} << 20, size_t{1} << 10}) {
      std::ofstream fill(disk + "/fill" + std::to_string(piece), std::ios::binary);
      const std::string bytes(piece, 'x');
      for (int i = 0; i < 2048 && fill.write(bytes.data(), std::ssize(bytes)).flush(); ++i)
        continue;
    }
    expect_refused(arguments({"--device", "none", "--nvme", disk}),
                   {1, "io", {"no room for a spill file"}, disk, "--nvme"});
    tiers::demand(!HasFailure(), "see above");
  }));
}

TEST_F(PlanBadInput, TimesWithoutAUnitOrAboveAllReasonAreRefused) {
  for (const char* option : {"--ttft-max", "--tpot-max"})
    for (const char* text : {"0s", "30", "-1s", "1e99s", "soon", "99999999h"})
      expect_refused(arguments({"--device", "none", std::string(option) + "=" + text}),
                     {2, "usage", {"a time such as 30s", text}, option, "strata VERB --help"});
}

}  // namespace
}  // namespace strata::cli
