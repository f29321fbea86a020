// What a client or a user can get wrong, each with its status, its message and what goes on.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/engine/letter_requests.h"
#include "tests/serve/scripted_service.h"
#include "tests/serve/socket_client.h"
#include "tests/tiers/child_process.h"
#include "tests/tiers/small_disk.h"
#include "tools/serve/api_request.h"
#include "tools/serve/engine_service.h"
#include "tools/serve/http_server.h"
#include "tools/serve/serve_app.h"

namespace strata::serve {
namespace {

using nlohmann::json;
using testing::Reply;
using testing::ScriptedService;
using testing::SocketClient;
using Kind = AnswerEvent::Kind;

constexpr const char* kChat = "/v1/chat/completions";

class BadInputTest : public ::testing::Test {
 protected:
  void SetUp() override {
    app_.emplace(ServeApp::Options{});
    app_->set_service(service_);
    ListenAddress address;
    address.port = 0;
    server_.emplace(Listener::open(address), *app_, HttpLimits{});
  }
  Reply post(const std::string& path, const std::string& body) {
    return SocketClient(server_->listener().port()).post(path, body);
  }
  /// A chat of this message and further fields.
  Reply chat(const std::string& message, const std::string& more = "") {
    return post(kChat, R"({"messages": [)" + message + "]" + more + "}");
  }
  /// Refused with 400, and the message holds `said`.
  void expect_refused(const Reply& reply, const std::string& said) {
    EXPECT_EQ(reply.status, 400) << reply.body;
    const json error = json::parse(reply.body)["error"];
    EXPECT_EQ(error["type"], "invalid_request_error");
    EXPECT_NE(error["message"].get<std::string>().find(said), std::string::npos)
        << error["message"] << " lacks " << said;
    EXPECT_TRUE(service_.orders().empty());
  }
  ScriptedService service_;
  std::optional<ServeApp> app_;
  std::optional<HttpServer> server_;
};

constexpr const char* kHi = R"({"role": "user", "content": "hi"})";

TEST_F(BadInputTest, AnyModelNameIsAnsweredByTheModelThatIsServed) {
  const Reply reply = chat(kHi, R"(, "model": "gpt-nowhere")");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(json::parse(reply.body)["model"], "scripted");
}

TEST_F(BadInputTest, FieldsThatNobodyKnowsAreIgnored) {
  EXPECT_EQ(chat(kHi, R"(, "frobnicate": {"deep": [1]}, "user": "u", "metadata": {})").status, 200);
}

TEST_F(BadInputTest, FieldsThatContradictEachOtherAreRefused) {
  expect_refused(chat(kHi, R"(, "n": 2)"), "n is 2, which is not implemented");
  expect_refused(chat(kHi, R"(, "response_format": {"type": "json_object"}, "tools": [{"type":
    "function", "function": {"name": "f"}}])"),
                 "wanted none with a response_format of JSON");
  expect_refused(chat(kHi, R"(, "temperature": 1, "temperature": 0)"), "comes twice");
}

TEST_F(BadInputTest, WrongTypesAreRefusedByName) {
  expect_refused(chat(kHi, R"(, "temperature": "hot")"), "temperature is \"hot\"");
  expect_refused(chat(kHi, R"(, "stream": 1)"), "stream is 1; wanted true or false");
  expect_refused(chat(kHi, R"(, "max_tokens": 1.5)"), "max_tokens is 1.5");
  expect_refused(post("/v1/completions", R"({"prompt": 7})"), "prompt is 7");
  expect_refused(post(kChat, R"({"messages": "hi"})"), "messages is \"hi\"");
}

TEST_F(BadInputTest, TextThatIsNotUtf8IsRefused) {
  expect_refused(chat("{\"role\": \"user\", \"content\": \"\xC3\x28\"}"), "not UTF-8 at byte");
  expect_refused(chat(R"({"role": "user", "content": "\ud800"})"), "is no JSON at byte");
}

TEST_F(BadInputTest, MessagesThatATemplateCannotBeGivenAreRefused) {
  expect_refused(chat(""), "at least one message");
  expect_refused(chat(R"({"role": "wizard", "content": "hi"})"), "wanted system, developer, user");
  expect_refused(chat(R"({"role": "user"})"), "messages[0].content is missing");
  for (const char* type : {"image_url", "input_image", "input_audio", "file"})
    expect_refused(chat(fmt::format(R"({{"role": "user", "content": [{{"type": "{}"}}]}})", type)),
                   fmt::format("is of type \"{}\"; wanted text", type));
}

TEST_F(BadInputTest, SchemasOutsideTheSubsetAreRefusedByTheirWord) {
  expect_refused(chat(kHi, R"(, "response_format": {"type": "json_schema", "json_schema":
    {"schema": {"type": "string", "pattern": "x"}}})"),
                 "#/pattern is not supported here");
}

AnswerOrder order_of(const std::string& text, uint64_t n_predict) {
  AnswerOrder order;
  order.text = text;
  order.n_predict = n_predict;
  order.ignore_eos = true;
  order.sampler.temperature = 0;
  return order;
}

engine::Engine loaded(const std::string& path, const EngineService::Options& options) {
  engine::EngineOptions of;
  of.model_path = path;
  of.n_ctx = 2048;
  of.chunk_rows = 16;
  of.n_threads = 1;
  of.io = tiers::IoChoice::kThreads;
  EngineService::prepare(options, of);
  engine::Engine engine = engine::Engine::open(of);
  engine.load({});
  return engine;
}

TEST(BadInput, ATemplateThatFailsRefusesTheRequestWithItsWords) {
  engine::testing::SmallModel small = engine::testing::drawn_model();
  small.set("llama.context_length", uint32_t{2048});
  small.set("tokenizer.chat_template",
            std::string("{{ raise_exception('roles have to alternate') }}"));
  const engine::testing::TemporaryModel model(small);
  engine::Engine engine = loaded(model.path(), {});
  const auto service = EngineService::start(engine, {});
  AnswerOrder order;
  order.messages = {{"user", "hi"}};
  try {
    (void)service->submit(order);
    ADD_FAILURE() << "it was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kTemplate);
    EXPECT_NE(std::string(error.what()).find("roles have to alternate"), std::string::npos);
    EXPECT_EQ(api_error(error).status, 400);
  }
}

/// The last event of an order; the service has minutes for it.
AnswerEvent end_of(AnswerStream& stream) {
  for (;;) {
    AnswerEvent event;
    tiers::demand(stream.wait_next(event, std::chrono::minutes(5)), "no event came");
    if (event.kind == Kind::kEnd || event.kind == Kind::kError) return event;
  }
}

TEST(BadInput, AFullDiskUnderTheCacheIsANoticeAndAnswersGoOn) {
  engine::testing::SmallModel small = engine::testing::drawn_model();
  small.set("llama.context_length", uint32_t{2048});
  const engine::testing::TemporaryModel model(small);
  const engine::testing::TestFolder folder;
  STRATA_EXPECT_CHILD_PASSES(tiers::run_in_child([&] {
    EngineService::Options options;
    // 64 MiB, of which the server leaves all to others: no pack of a context has room.
    options.session_dir = tiers::mount_small_disk(folder.path()) + "/contexts";
    engine::Engine engine = loaded(model.path(), options);
    const auto service = EngineService::start(engine, options);
    for (const char letter : {'a', 'b'}) {
      const std::string text(500, letter);
      tiers::demand(end_of(*service->submit(order_of(text, 3))).kind == Kind::kEnd,
                    "the answer failed");
    }
    tiers::demand(!service->drain(std::chrono::minutes(5)), "it says that all was saved");
    const auto notices = service->take_notices();
    tiers::demand(notices.size() == 1, fmt::format("{} notices", notices.size()));
    tiers::demand(notices[0].starts_with("contexts are not saved whole"), notices[0]);
  }));
}

/// Until the file system has room for nothing more.
void fill_disk(const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  for (const size_t piece : {size_t{1} << 20, size_t{1} << 12, size_t{1}}) {
    const std::string bytes(piece, 'x');
    while (file.write(bytes.data(), static_cast<std::streamsize>(piece)).flush()) continue;
    file.clear();
  }
}

std::string answer_of(EngineService& service, const std::string& text) {
  const auto stream = service.submit(order_of(text, 20));
  std::string answer;
  for (;;) {
    AnswerEvent event;
    tiers::demand(stream->wait_next(event, std::chrono::minutes(5)), "no event came");
    tiers::demand(event.kind != Kind::kError, "the answer failed");
    answer += event.text;
    if (event.kind == Kind::kEnd) return answer;
  }
}

TEST(BadInput, ADiskThatGetsFullWhileAContextIsSavedCostsNoAnswer) {
  engine::testing::SmallModel small = engine::testing::drawn_model();
  small.set("llama.context_length", uint32_t{2048});
  const engine::testing::TemporaryModel model(small);
  const engine::testing::TestFolder folder;
  std::string text;
  for (size_t i = 0; i < 1500; ++i) text += static_cast<char>('a' + i * i % 26);
  STRATA_EXPECT_CHILD_PASSES(tiers::run_in_child([&] {
    EngineService::Options options;
    const std::string disk = tiers::mount_small_disk(folder.path());
    engine::Engine undisturbed = loaded(model.path(), options);
    const std::string wanted = answer_of(*EngineService::start(undisturbed, options), text);
    options.session_dir = disk + "/contexts";
    options.free_floor_bytes = 0;
    engine::Engine engine = loaded(model.path(), options);
    // Two extents of the text are written by then, and three are not.
    constexpr uint64_t kStepsBefore = 40;  // of 16 positions
    bool is_full = false;
    engine.walk().set_between_operations([&] {
      if (is_full || engine.walk().counts().steps < kStepsBefore) return;
      tiers::demand(tiers::free_bytes(disk) > 1 << 20, "the disk was full before");
      fill_disk(disk + "/filler");
      is_full = true;
    });
    const auto service = EngineService::start(engine, options);
    tiers::demand(answer_of(*service, text) == wanted, "it is another answer");
    tiers::demand(is_full, "nothing has filled the disk");
    tiers::demand(!service->drain(std::chrono::minutes(5)), "it says that all was saved");
    const auto notices = service->take_notices();
    tiers::demand(notices.size() == 1, fmt::format("{} notices", notices.size()));
    tiers::demand(notices[0].starts_with("contexts are not saved whole"), notices[0]);
  }));
}

TEST(BadInput, AFolderThatOthersOwnIsNoPlaceForASocket) {
  const engine::testing::TestFolder folder;
  const std::string closed = folder.path("closed");
  ASSERT_EQ(::mkdir(closed.c_str(), 0500), 0);
  STRATA_EXPECT_CHILD_PASSES(tiers::run_in_child([&] {
    tiers::become_nobody(0);
    ListenAddress address;
    address.socket_path = closed + "/socket";
    std::string said;
    try {
      (void)Listener::open(address);
    } catch (const Error& error) {
      said = fmt::format("{}: {} [{}]", error_code_name(error.code()), error.what(), error.where());
    }
    const std::string wanted =
        fmt::format("io: cannot listen on {}: Permission denied [--socket]", address.socket_path);
    tiers::demand(said == wanted, said);
  }));
}

}  // namespace
}  // namespace strata::serve
