// What `strata plan` plans for: which card of this machine, and what is proposed of one.
#include "tools/cli/plan_request.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "planner/virtual/virtual_table.h"
#include "tests/engine/small_model.h"
#include "tests/engine/test_folder.h"
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
    const Command command = read_command(
        {"plan", kPlan, ""}, more, [](const std::string&) { return std::optional<std::string>(); });
    const DeviceTable& table = table_without_its_first();
    return plan_subject(command, {.table = &table, .n_devices = 2, .module = "", .reason = ""});
  }
  static std::string notes(const PlanSubject& of) {
    std::string all;
    for (const std::string& note : of.notes) all += note + "\n";
    return all;
  }
  engine::testing::TestFolder folder_;
};

TEST_F(PlanSubjectTest, NamesTheCardThatWasOpened) {
  const PlanSubject found = subject({"--device", "auto", "-c", "32k"});
  EXPECT_EQ(found.device, "cuda:1") << notes(found);
  EXPECT_TRUE(found.request.device);
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
    EXPECT_TRUE(found.request.may_use_disk);
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

TEST_F(PlanSubjectTest, NoMoreOfACardsMemoryIsProposedThanItHas) {
  PlanSubject found = subject({"--device", "cuda:1", "--hbm", "1MiB"});
  EXPECT_NE(plan_refusal(found).remedy().find("--hbm "), std::string::npos);
  found.request.device->free_bytes = 1 << 20;
  const std::string remedy = plan_refusal(found).remedy();
  EXPECT_EQ(remedy.find("--hbm "), std::string::npos) << remedy;
  EXPECT_NE(remedy.find("--device none"), std::string::npos) << remedy;
}

TEST_F(PlanSubjectTest, TriesQ8OnlyWhereBlocksCanHoldIt) {
  EXPECT_EQ(subject({"--device", "none", "--allow-q8"}).request.codecs.size(), 2u);
  const PlanSubject found = subject({"--device", "none", "--allow-q8"}, /*head_dim=*/16);
  EXPECT_EQ(found.request.codecs.size(), 1u);
  EXPECT_NE(notes(found).find("head_dim"), std::string::npos) << notes(found);
}

}  // namespace
}  // namespace strata::cli
