// What `strata plan` plans for: which card of this machine, and what is proposed of one.
#include "tools/cli/plan_request.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "cpu_attn/kernels.h"
#include "planner/virtual/virtual_table.h"
#include "tests/engine/small_model.h"
#include "tests/engine/test_folder.h"
#include "tools/cli/machine_profile_file.h"
#include "tools/cli/machine_words.h"
#include "tools/cli/plan_report.h"

namespace strata::cli {
namespace {

using engine::testing::make_small_model;
using engine::testing::SmallModelOptions;

/// The virtual cards as if they were here, the first of them out of order.
const DeviceTable& table_without_its_first() {
  static const DeviceTable table = [] {
    DeviceTable of = planner::virtual_table();
    of.open = [](uint32_t ordinal, Device** device) {
      return ordinal == 0 ? 100 : planner::virtual_table().open(ordinal, device);  // no such device
    };
    return of;
  }();
  return table;
}

class PlanSubjectTest : public ::testing::Test {
 protected:
  std::string model(uint32_t head_dim) const {
    SmallModelOptions options;
    options.n_layers = 8;
    options.head_dim = head_dim;
    options.n_ctx_train = 1 << 17;
    return folder_.write("model.gguf", make_small_model(options).bytes());
  }
  PlanSubject subject(std::vector<std::string> more, uint32_t head_dim = 32) const {
    more.insert(more.begin(), {"-m", model(head_dim), "-t", "2", "--no-cache"});
    Command command = read_command({"plan", kPlan, ""}, more,
                                   [](const std::string&) { return std::optional<std::string>(); });
    command.settings.profile_dir = profiles_;
    const DeviceTable& table = table_without_its_first();
    return plan_subject(command, {.table = &table, .n_devices = 2, .module = "", .reason = ""});
  }
  static std::string notes(const PlanSubject& of) {
    std::string all;
    for (const std::string& note : of.notes) all += note + "\n";
    return all;
  }
  engine::testing::TestFolder folder_;
  std::string profiles_;  // folder of kept profiles; empty = none are looked for
};

TEST_F(PlanSubjectTest, NamesTheCardThatWasOpened) {
  const PlanSubject found = subject({"--device", "auto", "-c", "32k"});
  EXPECT_EQ(found.device, "cuda:1") << notes(found);
  EXPECT_TRUE(found.request.device);
  // What the engine does not do there is not planned for it.
  EXPECT_FALSE(found.request.may_attend_on_cpu || found.request.may_compute_on_cpu);
}

TEST_F(PlanSubjectTest, AutoGoesOnWithTheCpuWhereNothingCanBePlacedOnTheCard) {
  struct Case {
    std::vector<std::string> more;
    const char* why;
  };
  const std::vector<std::string> spilling = {"--nvme", folder_.path(), "--nvme-budget", "1GiB"};
  for (const Case& of :
       std::vector<Case>{{{"--dram", "190MiB"}, "K and V that spill"},
                         {{"--dram", "20MiB"}, "weights that are read from disk"},
                         {{"--hbm", "1MiB"}, "a step needs"},
                         {{"--attn", "rabitq+tail", "--kv-budget", "2k"}, "a device attends"}}) {
    SCOPED_TRACE(of.why);
    std::vector<std::string> more = {"--device", "auto", "-c", "128k", "-b", "256"};
    more.insert(more.end(), spilling.begin(), spilling.end());
    more.insert(more.end(), of.more.begin(), of.more.end());
    const PlanSubject found = subject(more);
    EXPECT_EQ(found.device, "none");
    EXPECT_FALSE(found.request.device);
    EXPECT_TRUE(found.request.may_stream && found.request.may_spill);
    EXPECT_NE(notes(found).find(std::string("the CPU computes: ") + of.why), std::string::npos)
        << notes(found);
    // A card that was named must do: the plan is refused for it.
    more[1] = "cuda:1";
    try {
      EXPECT_EQ(subject(more).device, "cuda:1");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    }
  }
}

TEST_F(PlanSubjectTest, KAndVMaySpillBesideACardThatIsNamed) {
  const auto may_spill = [&](const char* device, const std::vector<std::string>& more) {
    std::vector<std::string> words = {"--device", device, "-c", "128k", "-b", "256"};
    words.insert(words.end(), {"--nvme", folder_.path(), "--nvme-budget", "1GiB"});
    words.insert(words.end(), more.begin(), more.end());
    const PlanSubject found = subject(words);
    EXPECT_EQ(found.device, "cuda:1");
    EXPECT_EQ(found.request.may_stream, std::string(device) != "auto");
    const auto problems = engine::placement_problems(found.model, found.request);
    EXPECT_EQ(problems.front().may_spill, found.request.may_spill);
    EXPECT_EQ(problems.front().may_stream, found.request.may_stream);
    return found.request.may_spill;
  };
  EXPECT_TRUE(may_spill("cuda:1", {}));
  EXPECT_TRUE(may_spill("cuda:1", {"--kv-tier", "nvme"}));
  EXPECT_TRUE(may_spill("cuda:1", {"--attn", "quest", "--kv-budget", "2k"}));
  EXPECT_FALSE(may_spill("auto", {}));
}

TEST_F(PlanSubjectTest, NoMoreOfACardsMemoryIsProposedThanItHas) {
  PlanSubject found = subject({"--device", "cuda:1", "--hbm", "1MiB"});
  EXPECT_NE(plan_refusal(found).remedy().find("--hbm "), std::string::npos);
  found.request.device->free_bytes = 1 << 20;
  const std::string remedy = plan_refusal(found).remedy();
  EXPECT_EQ(remedy.find("--hbm "), std::string::npos) << remedy;
  EXPECT_NE(remedy.find("--device none"), std::string::npos) << remedy;
}

TEST_F(PlanSubjectTest, AWishForMoreThanACardHasIsALine) {
  const PlanSubject found = subject({"--device", "cuda:1", "--hbm", "100GiB", "-c", "32k"});
  EXPECT_EQ(found.request.hbm_bytes, found.request.device->free_bytes);
  EXPECT_NE(notes(found).find("of the 100.0 GiB of --hbm this card has "), std::string::npos)
      << notes(found);
  EXPECT_EQ(notes(subject({"--device", "cuda:1", "--hbm", "2GiB", "-c", "32k"})).find("--hbm"),
            std::string::npos);
}

TEST_F(PlanSubjectTest, ACardsLinkIsPricedAsItWasMeasured) {
  profiles_ = folder_.path("profiles");
  const auto with = [&](const std::vector<std::string>& other) {
    std::vector<std::string> more = {"--device", "cuda:1", "-c", "32k", "--nvme", "off"};
    more.insert(more.end(), other.begin(), other.end());
    return subject(more);
  };
  const auto read = [&] { return with({"--cpu-share", "auto"}); };
  // Stated, it wants no rates.
  EXPECT_TRUE(with({"--cpu-share", "40%"}).request.may_attend_on_cpu);
  EXPECT_TRUE(with({"--cpu-share", "40%"}).request.may_compute_on_cpu);
  const PlanSubject assumed = read();
  const DeviceFacts& card = *assumed.request.device;
  planner::MachineProfile kept = machine_words(cpu_attn::choose_kernels(), 2, profiles_, &card);
  kept.measured_at = profile_time_text(unix_seconds());
  kept.dram_read_bytes_per_s = kept.dram_copy_bytes_per_s = 1e10;
  kept.linear = {{TensorType::kF16, 1e9, 2e9, 1e9}};
  kept.attend = {{KvCodec::kF16, 32, 5e9, 6e10, 0}};
  kept.step_cost.row_values_per_s = 1e9;
  kept.disk_read = {{16 << 10, 8, 1e9}};
  kept.disk_read_bytes_per_s = kept.disk_write_bytes_per_s = 2e9;
  kept.disk_alone = {87.5, 2.9e9};
  kept.index = {{"rabitq", 32, 7e9}};
  kept.gpu = {.hbm_bytes = card.memory_bytes,
              .host_to_device = {9, 3e9},
              .device_to_host = {9, 2e9},
              .copy_bytes_per_s = 1e11};
  write_machine_profile(machine_profile_path(profiles_, kept), kept);
  const PlanSubject found = read();
  EXPECT_EQ(found.request.profile.gpu.host_to_device.bytes_per_s, 3e9);
  // Only now it is known which side of the link is quicker.
  EXPECT_FALSE(assumed.request.may_attend_on_cpu || assumed.request.may_compute_on_cpu);
  EXPECT_TRUE(found.request.may_attend_on_cpu && found.request.may_compute_on_cpu);
  ASSERT_EQ(found.request.profile.linear.size(), 1u);
  EXPECT_EQ(found.request.profile.linear[0].gemv_bytes_per_s, 1e9);
  ASSERT_EQ(found.request.profile.attend.size(), 1u);
  EXPECT_EQ(found.request.profile.attend[0].decode_bytes_per_s, 5e9);
  EXPECT_EQ(found.request.profile.dram_read_bytes_per_s, 1e10);
  for (const std::vector<std::string>& other : {std::vector<std::string>{},
                                                {"--cpu-share", "0"},
                                                {"--attn", "rabitq", "--kv-budget", "2k"}})
    EXPECT_FALSE(with(other).request.may_attend_on_cpu) << other.size();
  EXPECT_EQ(with({"--cpu-share", "40%"}).request.cpu_share, 0.4);
  EXPECT_NE(found.rates_text.find("but for its link"), std::string::npos) << found.rates_text;
  EXPECT_FALSE(found.request.profile.is_measured());
  EXPECT_EQ(found.request.profile.gpu.gemm_flops, assumed.request.profile.gpu.gemm_flops);
  ASSERT_EQ(found.request.profile.index.size(), 1u);
  EXPECT_EQ(found.request.profile.index[0].scan_bytes_per_s, 7e9);
  EXPECT_EQ(found.stale_text, "");
  kept.gpu.gemv_bytes_per_s = kept.gpu.attend_bytes_per_s = 5e10;
  kept.gpu.gemm_flops = 4e12;
  write_machine_profile(machine_profile_path(profiles_, kept), kept);
  const PlanSubject with_kernels = read();
  EXPECT_EQ(with_kernels.request.profile.gpu.gemm_flops, 4e12);
  EXPECT_EQ(with_kernels.request.profile.gpu.gemv_bytes_per_s, 5e10);
  EXPECT_NE(with_kernels.rates_text.find("and its kernels, "), std::string::npos)
      << with_kernels.rates_text;
  kept.measured_at = "2020-01-01T00:00:00Z";
  write_machine_profile(machine_profile_path(profiles_, kept), kept);
  const PlanSubject stale = read();
  EXPECT_EQ(stale.request.profile.index.size(), assumed.request.profile.index.size());
  EXPECT_NE(stale.request.profile.index[0].scan_bytes_per_s, 7e9);
  EXPECT_NE(stale.stale_text.find("is stale, for it is "), std::string::npos) << stale.stale_text;
}

TEST_F(PlanSubjectTest, OnACardThatIsNotHereTheCpuAttendsWhereThatIsWanted) {
  const auto request = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"--device", "virtual:rtx3060", "-c", "32k"});
    return subject(more).request;
  };
  for (const std::vector<std::string>& other :
       {std::vector<std::string>{}, {"--attn", "rabitq", "--kv-budget", "2k"}}) {
    EXPECT_FALSE(request(other).may_attend_on_cpu) << other.size();
    EXPECT_FALSE(request(other).may_compute_on_cpu) << other.size();
    EXPECT_FALSE(request(other).may_share()) << other.size();
  }
  for (const char* share : {"auto", "40%"}) {
    EXPECT_TRUE(request({"--cpu-share", share}).may_attend_on_cpu) << share;
    EXPECT_TRUE(request({"--cpu-share", share}).may_compute_on_cpu) << share;
    // Of chosen blocks none is the CPU's, of weights they are.
    const auto chosen = request({"--cpu-share", share, "--attn", "rabitq", "--kv-budget", "2k"});
    EXPECT_FALSE(chosen.may_attend_on_cpu) << share;
    EXPECT_TRUE(chosen.may_compute_on_cpu) << share;
    EXPECT_TRUE(request({"--cpu-share", share}).may_share()) << share;
  }
}

TEST_F(PlanSubjectTest, TriesQ8OnlyWhereBlocksCanHoldIt) {
  EXPECT_EQ(subject({"--device", "none", "--allow-q8"}).request.codecs.size(), 2u);
  const PlanSubject found = subject({"--device", "none", "--allow-q8"}, /*head_dim=*/16);
  EXPECT_EQ(found.request.codecs.size(), 1u);
  EXPECT_NE(notes(found).find("head_dim"), std::string::npos) << notes(found);
}

}  // namespace
}  // namespace strata::cli
