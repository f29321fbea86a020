// What the program says of a device before a model is loaded: who searches the index.
#include "tools/cli/device_notices.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/device/device_fixture.h"
#include "tools/cli/attention_report.h"

namespace strata::engine {
namespace {

class DeviceNotices : public testing::DeviceTest {
 protected:
  static std::string said(const Engine& engine) {
    ::testing::internal::CaptureStderr();
    cli::say_device(engine);
    return ::testing::internal::GetCapturedStderr();
  }
  static constexpr const char* kByCard = "searched there";
  static constexpr const char* kByCpu = "the CPU searches the index";
  static bool has(const std::string& text, const char* words) {
    return text.find(words) != std::string::npos;
  }
};

TEST_F(DeviceNotices, SayWhoSearchesTheIndexBeforeThereIsOne) {
  EngineOptions choosing = options();
  choosing.method = index::Method::kRabitq;
  Engine by_card = Engine::open(choosing);
  ASSERT_NE(by_card.device(), nullptr);
  EXPECT_TRUE(has(said(by_card), kByCard)) << said(by_card);
  EXPECT_FALSE(has(said(by_card), kByCpu));
  // Of too little memory, and of a method whose rows no device scans.
  EngineOptions small = choosing, quest = choosing;
  small.hbm_bytes = by_card.device_plan().hbm_bytes - 1;
  quest.method = index::Method::kQuest;
  for (const EngineOptions& of : {small, quest}) {
    Engine by_cpu = Engine::open(of);
    ASSERT_NE(by_cpu.device(), nullptr);
    EXPECT_TRUE(has(said(by_cpu), kByCpu)) << said(by_cpu);
    EXPECT_FALSE(has(said(by_cpu), kByCard));
    by_cpu.load({});
    EXPECT_TRUE(has(said(by_cpu), kByCpu)) << said(by_cpu);
  }
  // Where nothing is searched.
  EngineOptions recent = choosing;
  recent.method = index::Method::kRecent;
  for (const EngineOptions& of : {recent, options()}) {
    Engine engine = Engine::open(of);
    ASSERT_NE(engine.device(), nullptr);
    EXPECT_FALSE(has(said(engine), "index")) << said(engine);
  }
}

TEST_F(DeviceNotices, SayThatThePlanLetsTheCpuSearch) {
  EngineOptions choosing = options();
  choosing.method = index::Method::kRabitq;
  Engine by_hand = Engine::open(choosing);
  Placement placement;
  placement.n_ctx = 256;
  placement.chunk_rows = 32;
  placement.streamed.assign(by_hand.spec().shape.n_layers, kNoPiece);
  placement.resident.assign(by_hand.spec().shape.n_layers, kWholeLayer);
  choosing.placement = placement;
  EXPECT_TRUE(has(said(Engine::open(choosing)), "the CPU searches the index, as planned"));
  choosing.placement->index_in_hbm = true;
  EXPECT_TRUE(has(said(Engine::open(choosing)), kByCard));
}

/// Rows whose means are scored, for one, are the CPU's.
TEST(SearchedBy, IsWhatWasReadAndNotWhatWasPlanned) {
  SelectionCounts reads;
  EXPECT_STREQ(cli::index_searched_by(reads, true), "card");
  EXPECT_STREQ(cli::index_searched_by(reads, false), "cpu");
  reads.index_bytes = 800;
  EXPECT_STREQ(cli::index_searched_by(reads, true), "cpu");
  EXPECT_EQ(cli::searched_place_text(reads), "");
  reads.scanned_on_device_bytes = 300;
  EXPECT_STREQ(cli::index_searched_by(reads, true), "both");
  EXPECT_EQ(cli::searched_place_text(reads), " (37.5 % of it in the card's memory)");
  reads.scanned_on_device_bytes = 800;
  EXPECT_STREQ(cli::index_searched_by(reads, true), "card");
  EXPECT_EQ(cli::searched_place_text(reads), " in the card's memory");
}

}  // namespace
}  // namespace strata::engine
