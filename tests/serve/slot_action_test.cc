// POST /slots/{id} over real sockets: its bodies with a service that is a script, and what becomes
// of contexts with an engine.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/serve/scripted_service.h"
#include "tests/serve/slot_server.h"
#include "tests/serve/wait_until.h"
#include "tiers/durable_directory.h"
#include "tiers/pack_directory.h"
#include "tools/serve/slot_job.h"

namespace strata::serve {
namespace {

using engine::testing::TemporaryModel;
using nlohmann::json;
using testing::document_of;
using testing::kContext;
using testing::kLong;
using testing::kNamed;
using testing::message_of;
using testing::paths_in;
using testing::Place;
using testing::Reply;
using testing::Routes;
using testing::ScriptedService;
using testing::Server;
using testing::SocketClient;

TEST(SlotAction, IsAskedAndSaidAsLlamaCppHasIt) {
  ScriptedService service;
  service.slot_outcome = {SlotOutcome::End::kDone, 300, 70000};
  Routes routes(service);
  json saved = json::parse(routes.act(4, "save").body);
  EXPECT_GE(saved["timings"]["save_ms"].get<double>(), 0);
  saved.erase("timings");
  EXPECT_EQ(saved.dump(),
            R"({"filename":"notes.bin","id_slot":4,"n_saved":300,"n_written":70000})");
  json restored = json::parse(routes.act(999999999, "restore").body);
  EXPECT_GE(restored["timings"]["restore_ms"].get<double>(), 0);
  restored.erase("timings");
  EXPECT_EQ(restored.dump(),
            R"({"filename":"notes.bin","id_slot":999999999,"n_read":70000,"n_restored":300})");
  EXPECT_EQ(routes.act(0, "erase", "{}").body, R"({"id_slot":0,"n_erased":300})");
  const auto actions = service.slot_actions();
  ASSERT_EQ(actions.size(), 3u);
  EXPECT_EQ(actions[1].slot, 999999999u);
  EXPECT_EQ(actions[0].name, "notes.bin");
  EXPECT_EQ(actions[2].name, "");
}

TEST(SlotAction, WhatCannotBeANameIsRefused) {
  ScriptedService service;
  Routes routes(service);
  for (const std::string& name :
       {std::string("."), std::string(".."), std::string(".hidden"), std::string("../up"),
        std::string("a/b"), std::string("/etc/passwd"), std::string("a\\b"), std::string("a b"),
        std::string("a\0b", 3), std::string("ä"), std::string(65, 'a')}) {
    for (const char* action : {"save", "restore"}) {
      const Reply reply = routes.act(0, action, json{{"filename", name}}.dump());
      EXPECT_EQ(reply.status, 400) << name;
      EXPECT_EQ(json::parse(reply.body)["error"]["param"], "filename") << name;
      EXPECT_NE(message_of(reply).find("Use 1 to 64 letters"), std::string::npos) << name;
    }
  }
  for (const char* body :
       {R"({"filename": ""})", "{}", "[]", R"({"filename": 7})", R"({"filename": null})",
        "{\"filename\": \"\xff\"}", R"({"filename": "a)"})
    EXPECT_EQ(routes.act(0, "save", body).status, 400) << body;
  EXPECT_EQ(routes.act(0, "save", json{{"filename", std::string(64, 'a')}}.dump()).status, 200);
  EXPECT_EQ(service.slot_actions().size(), 1u);
}

TEST(SlotAction, OtherActionsAndNumbersAreRefused) {
  ScriptedService service;
  Routes routes(service);
  EXPECT_EQ(routes.post("/slots/0", kNamed).status, 400);
  EXPECT_EQ(routes.act(0, "copy").status, 400);
  EXPECT_EQ(routes.post("/slots/1234567890?action=erase", "{}").status, 404);
  EXPECT_EQ(routes.post("/slots/-1?action=erase", "{}").status, 404);
  EXPECT_EQ(routes.get("/slots/0?action=erase").status, 405);
  // What a page of another site could send without asking.
  SocketClient client(routes.port());
  client.send(
      "POST /slots/0?action=erase HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
  EXPECT_EQ(client.read_reply().status, 415);
  EXPECT_TRUE(service.slot_actions().empty());
}

TEST(SlotAction, WhyNothingWasDoneHasAStatusAndWords) {
  ScriptedService service;
  Routes routes(service);
  using End = SlotOutcome::End;
  const auto refusal = [&](End end, const char* action, int status) {
    service.slot_outcome.end = end;
    const Reply reply = routes.act(3, action);
    EXPECT_EQ(reply.status, status);
    return message_of(reply);
  };
  EXPECT_EQ(refusal(End::kNoSlot, "save", 404),
            "no context is in slot 3. GET /slots lists those that are held.");
  EXPECT_EQ(refusal(End::kNoSlot, "restore", 404),
            "slot 3 is another key's. Take one that GET /slots does not list.");
  EXPECT_EQ(refusal(End::kIsBusy, "erase", 409),
            "slot 3 is answering. Try again when its answer has ended.");
  EXPECT_EQ(refusal(End::kNoName, "restore", 404),
            "no context of this model is saved as notes.bin. `strata session list` names those "
            "that are.");
}

TEST(SlotAction, WhatIsSavedIsRestoredByAnotherServer) {
  const Place place;
  const std::string document = document_of(1);
  json first;
  uint64_t n_saved = 0;
  {
    Server server(place, place.options());
    first = server.ask(document);
    EXPECT_EQ(first["cached"], 0);
    const json saved = server.act(0, "save");
    n_saved = saved["n_saved"].get<uint64_t>();
    EXPECT_EQ(n_saved, first["prompt"].get<uint64_t>() + 4);  // the last token was not walked
    EXPECT_GT(saved["n_written"].get<uint64_t>(), n_saved);
    const json erased = server.act(0, "erase", "{}");
    EXPECT_EQ(erased["n_erased"], n_saved);
    EXPECT_EQ(server.routes->act(0, "erase", "{}").status, 404);
    EXPECT_EQ(server.routes->get("/slots").body, "[]");
  }
  const auto session =
      tiers::PackDirectory::open(place.folder.path("contexts"), {}).session("notes.bin");
  ASSERT_TRUE(session);  // as `strata session` has it
  EXPECT_EQ(session->tokens.size(), n_saved);
  for (const std::string& path : paths_in(place.folder.path("")))
    EXPECT_TRUE(path.starts_with(place.folder.path("contexts"))) << path;
  Server server(place, place.options());
  EXPECT_EQ(server.routes->get("/slots").body, "[]");
  const json restored = server.act(7, "restore");
  EXPECT_EQ(restored["n_restored"], n_saved);
  EXPECT_GT(restored["n_read"].get<uint64_t>(), n_saved);
  const json slots = json::parse(server.routes->get("/slots").body);
  ASSERT_EQ(slots.size(), 1u);
  EXPECT_EQ(slots[0]["id"], 7);
  EXPECT_EQ(slots[0]["n_past"], n_saved);
  // The folder has nothing any more, so what is found is what the slot keeps.
  for (const std::string& path : paths_in(place.folder.path("contexts")))
    std::filesystem::remove(path);
  const json again = server.ask(document);
  EXPECT_EQ(again["cached"], first["prompt"].get<uint64_t>() - 1);
  EXPECT_EQ(again["text"], first["text"]);
}

TEST(SlotAction, TheNextTurnStaysInTheSlotThatItBeganWith) {
  const Place place;
  const std::string document = document_of(2);
  Server server(place, place.options());
  const std::string answer = server.ask(document)["text"].get<std::string>();
  server.act(0, "save");
  EXPECT_EQ(server.act(3, "restore")["id_slot"], 3);
  server.act(0, "erase", "{}");
  const json next = server.ask(document + answer + "andthen");
  EXPECT_GE(next["cached"].get<uint64_t>(), document.size());
  const json slots = json::parse(server.routes->get("/slots").body);
  ASSERT_EQ(slots.size(), 1u);
  EXPECT_EQ(slots[0]["id"], 3);
  // What was in the slot makes place, whatever it is.
  server.act(3, "save", R"({"filename": "longer"})");
  server.ask(document_of(3));
  EXPECT_EQ(server.act(0, "restore", R"({"filename": "longer"})")["n_restored"],
            next["prompt"].get<uint64_t>() + 4);
  EXPECT_EQ(json::parse(server.routes->get("/slots").body).size(), 2u);
}

TEST(SlotAction, ErasedContextsAreReadAnewWhereNoneAreSaved) {
  const Place place;
  EngineService::Options options = place.options();
  options.session_dir = "";
  Server server(place, options);
  const std::string document = document_of(4);
  server.ask(document);
  EXPECT_GT(server.ask(document)["cached"].get<uint64_t>(), 0u);
  for (const char* action : {"save", "restore"}) {
    const Reply reply = server.routes->act(0, action);
    EXPECT_EQ(reply.status, 501);
    EXPECT_NE(message_of(reply).find("--no-cache"), std::string::npos) << reply.body;
  }
  const json slots = json::parse(server.routes->get("/slots").body);
  for (const json& slot : slots) server.act(slot["id"].get<uint32_t>(), "erase", "{}");
  EXPECT_EQ(server.ask(document)["cached"], 0);
}

TEST(SlotAction, WhatCannotBeSavedOrRestoredSaysWhy) {
  const Place place;
  uint64_t n_saved = 0;
  {
    Server server(place, place.options());
    server.ask(document_of(5, 90));
    Reply reply = server.routes->act(0, "save");
    EXPECT_EQ(reply.status, 400);
    EXPECT_NE(message_of(reply).find("wanted 256 or more"), std::string::npos) << reply.body;
    EXPECT_EQ(server.routes->act(9, "save").status, 404);
    EXPECT_EQ(server.routes->act(0, "restore").status, 404);  // no such name
    server.ask(document_of(6, 1000));
    n_saved = server.act(1, "save")["n_saved"].get<uint64_t>();
  }
  EngineService::Options options = place.options();
  options.saves = false;
  Server server(place, options, {}, 512);
  (void)place.folder.write("contexts/broken.session", "no session");
  const Reply broken = server.routes->act(0, "restore", R"({"filename": "broken"})");
  EXPECT_EQ(broken.status, 500);
  EXPECT_NE(message_of(broken).find("Remove it by its name"), std::string::npos) << broken.body;
  const Reply longer = server.routes->act(0, "restore");
  EXPECT_EQ(longer.status, 400);
  EXPECT_NE(message_of(longer).find(fmt::format("-c {}", n_saved)), std::string::npos)
      << longer.body;
  server.ask(document_of(7, 400));
  const Reply unsaved = server.routes->act(0, "save", R"({"filename": "other"})");
  EXPECT_EQ(unsaved.status, 501);
  EXPECT_NE(message_of(unsaved).find("--no-save"), std::string::npos) << unsaved.body;
}

TEST(SlotAction, WhatHasLeftTheFolderIsNotSaidToBeSaved) {
  const Place place;
  Server server(place, place.options());
  server.ask(document_of(11));
  server.act(0, "save");
  for (const std::string& path : paths_in(place.folder.path("contexts")))
    std::filesystem::remove(path);
  const Reply reply = server.routes->act(0, "save");
  EXPECT_EQ(reply.status, 500);
  EXPECT_NE(message_of(reply).find("only 0 are saved"), std::string::npos) << reply.body;
  server.act(0, "erase", "{}");  // as the message advises
  EXPECT_EQ(server.ask(document_of(11))["cached"], 0);
  server.act(0, "save");
}

/// Another process may hold the folder's lock for as long.
TEST(SlotAction, AnswersGoOnWhileANameWaitsForTheFolder) {
  const Place place;
  Server server(place, place.options());
  server.ask(document_of(8));
  std::optional<tiers::DirectoryLock> lock =
      tiers::DurableDirectory::open(place.folder.path("contexts"), tiers::system_calls())
          ->lock(kLong);
  auto saved = std::async(std::launch::async, [&] { return server.routes->act(0, "save").status; });
  (void)testing::wait_until([&] { return server.service->counts().n_slot_actions > 0; }, kLong);
  EXPECT_GT(server.ask(document_of(8), "", 9)["cached"].get<uint64_t>(), 0u);
  EXPECT_EQ(saved.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  EXPECT_EQ(server.service->counts().n_slot_actions, 1u);
  lock.reset();
  EXPECT_EQ(saved.get(), 200);
}

TEST(SlotAction, ASlotThatIsAnsweringIsBusy) {
  const TemporaryModel model(engine::testing::long_model());
  engine::Engine engine = engine::testing::loaded(engine::testing::options_of(model, 1, kContext));
  engine::AnswerScheduler scheduler(engine, {.n_parallel = 1, .contexts = std::nullopt});
  engine::testing::Order order = engine::testing::order_of(engine::testing::letters("abc"), 100);
  add(scheduler, order);
  scheduler.step();
  ASSERT_FALSE(order.answer);
  const auto end_of = [&](SlotAction::Kind kind, uint32_t slot, const std::string& owner = "") {
    SlotJob job;
    job.action = {kind, slot, "name", owner};
    run_slot_job(scheduler, kContext, job);
    EXPECT_FALSE(job.failure);
    return job.outcome.end;
  };
  using End = SlotOutcome::End;
  using Kind = SlotAction::Kind;
  for (const Kind kind : {Kind::kSave, Kind::kRestore, Kind::kErase}) {
    EXPECT_EQ(end_of(kind, 0), End::kIsBusy);
    EXPECT_EQ(end_of(kind, 0, "other"), End::kNoSlot);
  }
  EXPECT_EQ(end_of(Kind::kErase, 1), End::kNoSlot);
  engine::testing::run(scheduler);
  EXPECT_EQ(end_of(Kind::kErase, 0, "other"), End::kNoSlot);
  EXPECT_EQ(end_of(Kind::kErase, 0), End::kDone);
  EXPECT_TRUE(scheduler.held().empty());
}

TEST(SlotAction, AKeySeesNeitherSlotsNorNamesOfAnother) {
  const Place place;
  const auto app = [] {
    ServeApp::Options options;
    options.access.keys = {"one", "other"};
    return options;
  };
  Server server(place, place.options(), app());
  const std::string document = document_of(9);
  server.ask(document, "one");
  EXPECT_EQ(server.routes->act(0, "save").status, 401);
  for (const char* action : {"save", "erase"})
    EXPECT_EQ(server.routes->act(0, action, kNamed, "other").status, 404) << action;
  server.act(0, "save", kNamed, "one");
  EXPECT_EQ(server.routes->act(5, "restore", kNamed, "other").status, 404);
  server.ask(document_of(10), "other");
  EXPECT_EQ(server.routes->act(0, "restore", kNamed, "other").status, 404);
  const Reply taken = server.routes->act(1, "save", kNamed, "other");
  EXPECT_EQ(taken.status, 400);
  EXPECT_NE(message_of(taken).find("taken"), std::string::npos) << taken.body;
  server.act(1, "save", R"({"filename": "mine"})", "other");
  const Reply foreign = server.routes->act(0, "restore", R"({"filename": "mine"})", "other");
  EXPECT_EQ(foreign.status, 404);
  EXPECT_NE(message_of(foreign).find("another key's"), std::string::npos) << foreign.body;
  EXPECT_GT(server.act(5, "restore", kNamed, "one")["n_restored"].get<uint64_t>(), 500u);
}

}  // namespace
}  // namespace strata::serve
