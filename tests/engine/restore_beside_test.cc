// A saved context comes back while others answer, and costs them no step that waits for the disk.
#include "engine/restore_beside.h"

#include <gtest/gtest.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <random>

#include "engine/answer_scheduler.h"
#include "tests/engine/letter_requests.h"
#include "tests/engine/scheduled_order.h"
#include "tests/engine/test_folder.h"

namespace strata::engine {
namespace {

using testing::add;
using testing::drawn_tokens;
using testing::joined;
using testing::kLongContext;
using testing::letters;
using testing::loaded;
using testing::long_model;
using testing::options_of;
using testing::Order;
using testing::order_of;
using testing::run;
using testing::TemporaryModel;
using testing::TestFolder;
using testing::Tokens;

/// An engine with saved contexts on a disk that gives so many bytes a second (0 = all it can).
struct PacedRun {
  PacedRun(const TemporaryModel& model, const TestFolder& folder, uint64_t bytes_per_s)
      : engine(loaded([&] {
          EngineOptions options = options_of(model, 3, kLongContext);
          options.reads_saved = true;
          options.io = tiers::IoChoice::kThreads;
          options.disk_read_bytes_per_s = bytes_per_s;
          return options;
        }())),
        scheduler(engine, {.n_parallel = 3,
                           .contexts = ContextCacheOptions{.directory = folder.path("contexts"),
                                                           .limits = {}}}) {}
  Engine engine;
  AnswerScheduler scheduler;
};

class RestoreBesideTest : public ::testing::Test {
 protected:
  RestoreBesideTest() : model(long_model()), document(drawn_tokens(random, 1500)) {
    PacedRun saving(model, folder, 0);
    Order order = order_of(document, 1);
    add(saving.scheduler, order);
    run(saving.scheduler);
    EXPECT_TRUE(saving.scheduler.finish());
    plain = answer_of(saving);
  }
  Order question() { return order_of(joined(document, letters("whatnow")), 5); }
  Tokens answer_of(PacedRun& of) {
    Order order = question();
    add(of.scheduler, order);
    run(of.scheduler);
    return order.answer ? order.answer->tokens : Tokens();
  }

  std::mt19937 random{3};
  TemporaryModel model;
  TestFolder folder;
  Tokens document, plain;
};

TEST_F(RestoreBesideTest, AnAnswerGoesOnWhileTheDiskGives) {
  PacedRun slow(model, folder, 2 << 20);  // some half of a second for the document
  Order answering = order_of(drawn_tokens(random, 40), 300), asking = question();
  add(slow.scheduler, answering);
  slow.scheduler.step();
  add(slow.scheduler, asking);
  slow.scheduler.step();
  ASSERT_EQ(slow.scheduler.held().size(), 2u);
  EXPECT_TRUE(slow.engine.cache().store().has_away());
  const uint64_t n_before = slow.scheduler.held()[0].n_answered;
  // Its prompt is read no further than what was restored, and the other answers meanwhile.
  uint64_t n_beside = 0;
  while (slow.scheduler.has_work() && slow.engine.cache().store().has_away()) {
    slow.scheduler.step();
    if (!answering.answer) n_beside = slow.scheduler.held()[0].n_answered - n_before;
  }
  EXPECT_GT(n_beside, 0u);
  run(slow.scheduler);
  ASSERT_TRUE(asking.answer);
  EXPECT_EQ(asking.answer->tokens, plain);
  EXPECT_GE(asking.answer->usage.cached_tokens, 1472u);
}

TEST_F(RestoreBesideTest, SeveralAreRestoredOneAfterTheOther) {
  PacedRun slow(model, folder, 8 << 20);
  std::deque<Order> orders = {order_of(drawn_tokens(random, 40), 200), question(), question()};
  for (Order& order : orders) {
    add(slow.scheduler, order);
    slow.scheduler.step();
  }
  run(slow.scheduler);
  for (size_t i = 1; i < orders.size(); ++i) {
    ASSERT_TRUE(orders[i].answer);
    EXPECT_EQ(orders[i].answer->tokens, plain);
  }
  EXPECT_FALSE(slow.engine.cache().store().has_away());
  const tiers::TransferQueue& transfers = *slow.engine.cache().store().transfers();
  EXPECT_EQ(transfers.n_free(), transfers.n_frames());
}

TEST_F(RestoreBesideTest, ACancelledOneGivesItsFramesBack) {
  PacedRun slow(model, folder, 1 << 20);
  Order answering = order_of(drawn_tokens(random, 40), 300), asking = question();
  add(slow.scheduler, answering);
  slow.scheduler.step();
  add(slow.scheduler, asking);
  slow.scheduler.step();
  EXPECT_TRUE(slow.engine.cache().store().has_away());
  slow.scheduler.cancel(asking.id);
  slow.scheduler.step();
  ASSERT_TRUE(asking.answer);
  EXPECT_EQ(asking.answer->finish_reason, FinishReason::kCancelled);
  run(slow.scheduler);
  tiers::BlockStore& store = slow.engine.cache().store();
  while (store.wait_for_transfer()) continue;
  EXPECT_EQ(store.transfers()->n_free(), store.transfers()->n_frames());
  EXPECT_EQ(answer_of(slow), plain);
}

TEST_F(RestoreBesideTest, DamageIsComputedAgainBesideTheOther) {
  for (const auto& file : std::filesystem::directory_iterator(folder.path("contexts"))) {
    if (!file.path().string().ends_with(".pack")) continue;
    std::fstream pack(file.path(), std::ios::in | std::ios::out | std::ios::binary);
    pack.seekp(static_cast<std::streamoff>(std::filesystem::file_size(file.path()) / 4));
    pack.write("damaged", 7);
  }
  PacedRun run_of(model, folder, 0);
  Order answering = order_of(drawn_tokens(random, 40), 300), asking = question();
  add(run_of.scheduler, answering);
  run_of.scheduler.step();
  add(run_of.scheduler, asking);
  run(run_of.scheduler);
  ASSERT_TRUE(asking.answer);
  EXPECT_EQ(asking.answer->tokens, plain);
  EXPECT_GT(run_of.engine.cache().store().counts().corrupt_blocks, 0u);
}

}  // namespace
}  // namespace strata::engine
