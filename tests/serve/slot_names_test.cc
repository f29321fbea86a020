// Names that POST /slots/{id} gives and takes: whose they are, what waits for them, and how much
// they may keep.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <future>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "engine/text_roots.h"
#include "tests/serve/slot_server.h"
#include "tests/serve/wait_until.h"
#include "tiers/durable_directory.h"
#include "tiers/pack_directory.h"
#include "tools/serve/slot_desk.h"

namespace strata::serve {
namespace {

using nlohmann::json;
using testing::document_of;
using testing::kContext;
using testing::kLong;
using testing::kNamed;
using testing::message_of;
using testing::Place;
using testing::Reply;
using testing::Server;

ServeApp::Options two_keys() {
  ServeApp::Options options;
  options.access.keys = {"one", "other"};
  return options;
}

json body_of(const std::string& name) { return {{"filename", name}}; }

tiers::DirectoryLock lock_of(const Place& place) {
  return tiers::DurableDirectory::open(place.folder.path("contexts"), tiers::system_calls())
      ->lock(kLong);
}

void wait_until_open(const Server& server, uint64_t n) {
  testing::wait_until([&] { return server.service->counts().n_slot_actions >= n; }, kLong);
}

/// An engine without a server, on the thread of the test.
struct Scheduled {
  explicit Scheduled(const Place& place, tiers::PackLimits limits = {},
                     tiers::DurableCalls* calls = nullptr)
      : engine(engine::testing::loaded([&] {
          auto options = engine::testing::options_of(place.model, 1, kContext);
          options.reads_saved = true;
          options.io = tiers::IoChoice::kThreads;
          return options;
        }())),
        scheduler(
            engine,
            {.n_parallel = 1,
             .n_idle_max = 1000,
             .contexts = engine::ContextCacheOptions{
                 .directory = place.folder.path("contexts"), .limits = limits, .calls = calls}}) {}
  void answer(const engine::testing::Tokens& prompt) {
    engine::testing::Order order = engine::testing::order_of(prompt, 5);
    add(scheduler, order);
    engine::testing::run(scheduler);
    EXPECT_TRUE(order.answer);
  }
  engine::Engine engine;
  engine::AnswerScheduler scheduler;
};

TEST(SlotNames, ATextThatBeginsAsAnotherKeysHasNotItsName) {
  const Place place;
  Server server(place, place.options(), two_keys());
  const std::string beginning = document_of(1, 300);
  server.ask(beginning + document_of(2, 300), "one");
  server.act(0, "save", kNamed, "one");
  server.ask(beginning + document_of(3, 300), "other");
  const Reply foreign = server.routes->act(1, "restore", kNamed, "other");
  EXPECT_EQ(foreign.status, 404);
  EXPECT_EQ(server.routes->act(1, "save", kNamed, "other").status, 400);
  EXPECT_GT(server.act(5, "restore", kNamed, "one")["n_restored"].get<uint64_t>(), 590u);
  // What is refused whole may be anybody's.
  (void)place.folder.write("contexts/broken.session", "no session");
  const std::string broken = body_of("broken").dump();
  const Reply refused = server.routes->act(1, "restore", broken, "other");
  EXPECT_EQ(refused.status, 404);
  EXPECT_EQ(message_of(refused),
            message_of(server.routes->act(1, "restore", body_of("broke").dump(), "other"))
                .replace(message_of(refused).find("broke"), 5, "broken"));
  EXPECT_EQ(server.routes->act(1, "save", broken, "other").status, 400);
}

TEST(SlotNames, ANameIsFoundWhereTheIndexOfHeadsHasNoRoom) {
  const Place place;
  uint64_t n_saved = 0;
  {
    Server server(place, place.options());
    server.ask(document_of(4));
    n_saved = server.act(0, "save")["n_saved"].get<uint64_t>();
  }
  tiers::PackLimits limits;
  limits.index_bytes = 1;
  const Scheduled bounded(place, limits);
  const auto found = bounded.scheduler.sessions()->find("notes.bin", {});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->tokens.size(), n_saved);
  EXPECT_FALSE(bounded.scheduler.sessions()->find("notes.bin", engine::prefix_root("other")));
}

/// Holds the next sync until it is told to go on.
class HeldCalls final : public tiers::DurableCalls {
 public:
  int sync(int descriptor) override {
    std::unique_lock lock(mutex_);
    if (holds_next_) {
      holds_next_ = false;
      is_asked_ = true;
      changed_.notify_all();
      changed_.wait(lock, [&] { return is_released_; });
    }
    lock.unlock();
    return DurableCalls::sync(descriptor);
  }
  void hold_next() {
    const std::lock_guard lock(mutex_);
    holds_next_ = true;
  }
  /// Of this process, which may run the test again.
  void reset() {
    const std::lock_guard lock(mutex_);
    holds_next_ = is_asked_ = is_released_ = false;
  }
  void wait_until_asked() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_asked_; });
  }
  void release() {
    const std::lock_guard lock(mutex_);
    is_released_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool holds_next_ = false, is_asked_ = false, is_released_ = false;
};

/// The one who gives a name holds the folder's lock until the disk has it.
TEST(SlotNames, SavingGoesOnBehindANameThatTakesLong) {
  const Place place;
  static HeldCalls& calls = *new HeldCalls;  // threads may end after main() does
  calls.reset();
  tiers::PackLimits limits;
  limits.lock_wait = std::chrono::milliseconds(1);
  Scheduled run(place, limits, &calls);
  std::mt19937 random(5);
  run.answer(engine::testing::drawn_tokens(random, 600));
  const engine::TextToName text = run.scheduler.save_slot(0);
  const auto sessions = run.scheduler.sessions();
  sessions->wait_on_disk(text);
  calls.hold_next();
  auto named = std::async(std::launch::async,
                          [&] { return sessions->save("notes.bin", text).tokens.size(); });
  calls.wait_until_asked();
  run.answer(engine::testing::drawn_tokens(random, 600));
  const engine::TextToName other = run.scheduler.save_slot(1);
  EXPECT_THROW(other.publisher->wait_named(other.n_given, std::chrono::milliseconds(300), nullptr),
               Error);
  calls.release();
  EXPECT_EQ(named.get(), text.tokens.size());
  other.publisher->wait_named(other.n_given, kLong, nullptr);
  EXPECT_EQ(other.publisher->problem(), "");
}

TEST(SlotNames, NothingThatIsSavedIsNoPin) {
  const Place place;
  Scheduled run(place);
  std::mt19937 random(6);
  run.answer(engine::testing::drawn_tokens(random, 600));
  const engine::TextToName text = run.scheduler.save_slot(0);
  run.scheduler.sessions()->wait_on_disk(text);
  auto directory = tiers::PackDirectory::open(place.folder.path("contexts"), {});
  const engine::SessionKind other{{}, "other", {}};
  EXPECT_EQ(pin_session(directory, other, text.tokens, "nothing"),
            engine::PinOutcome::kNothingSaved);
  EXPECT_FALSE(directory.session("nothing"));
}

TEST(SlotNames, ANameThatWaitsHoldsUpNobodyAndEndsWithTheServer) {
  const Place place;
  Server server(place, place.options());
  server.ask(document_of(7));
  server.act(0, "save", body_of("early").dump());
  std::optional<tiers::DirectoryLock> lock = lock_of(place);
  server.ask(document_of(8));  // its packs wait for the lock
  auto saved = std::async(std::launch::async, [&] { return server.routes->act(1, "save").status; });
  wait_until_open(server, 1);
  // Of several one at least comes when the other has its turn at the folder, or waits for it.
  for (uint32_t slot = 5; slot < 10; ++slot)
    EXPECT_GT(server.act(slot, "restore", body_of("early").dump())["n_restored"], 490);
  EXPECT_EQ(saved.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  auto drained = std::async(std::launch::async,
                            [&] { return server.service->drain(std::chrono::milliseconds(0)); });
  EXPECT_EQ(saved.get(), 503);
  lock.reset();
  EXPECT_FALSE(drained.get());
}

TEST(SlotNames, FewActionsAreOpenAtATime) {
  const Place place;
  Server server(place, place.options());
  server.ask(document_of(9));
  std::optional<tiers::DirectoryLock> lock = lock_of(place);
  std::vector<std::future<int>> saved;
  for (uint64_t i = 0; i < kSlotActionsMax; ++i)
    saved.push_back(std::async(std::launch::async, [&, i] {
      return server.routes->act(0, "save", body_of("notes" + std::to_string(i)).dump()).status;
    }));
  wait_until_open(server, kSlotActionsMax);
  const Reply refused = server.routes->act(0, "erase", "{}");
  EXPECT_EQ(refused.status, 429) << refused.body;
  lock.reset();
  for (auto& status : saved) EXPECT_EQ(status.get(), 200);
  server.act(0, "erase", "{}");
}

TEST(SlotNames, NamesKeepHalfOfTheBudgetAtMost) {
  const Place place;
  uint64_t packs_bytes = 0;
  const std::string session = place.folder.path("contexts/notes.bin.session");
  {
    Server server(place, place.options());
    server.ask(document_of(10));
    packs_bytes = server.act(0, "save")["n_written"].get<uint64_t>();
    packs_bytes -= std::filesystem::file_size(session);
    std::filesystem::remove(session);
  }
  EngineService::Options options = place.options();
  options.cache_budget_bytes = 2 * packs_bytes - 2;
  {
    Server server(place, options);
    server.ask(document_of(10));
    const Reply reply = server.routes->act(0, "save");
    EXPECT_EQ(reply.status, 503) << reply.body;
    EXPECT_NE(message_of(reply).find("half of the budget"), std::string::npos) << reply.body;
    EXPECT_FALSE(std::filesystem::exists(session));
  }
  options.cache_budget_bytes = 2 * packs_bytes;
  Server server(place, options);
  server.ask(document_of(10));
  server.act(0, "save");
}

TEST(SlotNames, NobodysContextGoesForWhatCannotBeRestored) {
  const Place place;
  Scheduled run(place);
  std::mt19937 random(11);
  for (size_t n_held = 0;;) {  // until one had to go for another
    run.answer(engine::testing::drawn_tokens(random, 200));
    if (run.scheduler.held().size() == n_held) break;
    n_held = run.scheduler.held().size();
    ASSERT_LT(n_held, 500u);
  }
  const size_t n_held = run.scheduler.held().size();
  SlotJob job;
  job.action = {SlotAction::Kind::kRestore, 999, "gone", ""};
  job.tokens = engine::testing::drawn_tokens(random, 1500);
  run_slot_job(run.scheduler, kContext, job);
  EXPECT_TRUE(job.failure);
  EXPECT_EQ(run.scheduler.held().size(), n_held);
}

/// A longer text's pack takes the place of the shorter one's, whose end may lie inside a block.
TEST(SlotNames, AShorterTextIsSavedByItsWholeBlocks) {
  const Place place;
  Server server(place, place.options());
  const std::string document = document_of(12);
  const std::string answer = server.ask(document)["text"].get<std::string>();
  const uint64_t n_first = server.act(0, "save")["n_saved"].get<uint64_t>();
  server.act(3, "restore");
  ASSERT_TRUE(std::filesystem::remove(place.folder.path("contexts/notes.bin.session")));
  server.ask(document + answer + "andthen");
  uint32_t longer = 0, shorter = 3;
  for (const json& slot : json::parse(server.routes->get("/slots").body))
    (slot["n_past"] == n_first ? shorter : longer) = slot["id"].get<uint32_t>();
  ASSERT_NE(longer, shorter);
  server.act(longer, "save", body_of("longer").dump());
  const uint64_t n_saved =
      server.act(shorter, "save", body_of("shorter").dump())["n_saved"].get<uint64_t>();
  EXPECT_GE(n_saved, n_first / 32 * 32);
  EXPECT_LE(n_saved, n_first);
}

TEST(SlotNames, AFolderThatOthersCanReachIsNoFaultOfWhoAsks) {
  const Place place;
  Server server(place, place.options());
  server.ask(document_of(13));
  server.act(0, "save");
  std::filesystem::permissions(place.folder.path("contexts"), std::filesystem::perms(0755));
  for (const char* action : {"save", "restore"}) {
    const Reply reply = server.routes->act(0, action);
    EXPECT_EQ(reply.status, 500) << reply.body;
    EXPECT_EQ(reply.body.find(place.folder.path("")), std::string::npos) << reply.body;
  }
  std::filesystem::permissions(place.folder.path("contexts"), std::filesystem::perms(0700));
}

}  // namespace
}  // namespace strata::serve
