// `strata serve` as a user runs it: a process, a model file, signals.
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/serve/serve_process.h"
#include "tests/serve/socket_client.h"

namespace strata::serve {
namespace {

using cli::testing::Outcome;
using testing::SocketClient;

// Always the letter a, as run_saying_a() has it.
constexpr const char* kBody = R"({"prompt": "a", "max_tokens": 4})";
constexpr const char* kEndless = R"({"prompt": "a", "stream": true})";

class ServeProcess : public testing::ServedTest {
 protected:
  /// A model whose answers run on.
  void start(const std::vector<std::string>& more = {"--no-cache"},
             const std::map<std::string, std::string>& environment = {}) {
    engine::testing::SmallModelOptions options;
    options.n_ctx_train = 1 << 20;
    std::vector<std::string> arguments = {"--logit-bias", "3+99"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    serve(model(engine::testing::make_small_model(options)), arguments, environment);
  }
};

TEST_F(ServeProcess, AnswersAndEndsWithZeroOnTermination) {
  start();
  SocketClient client(port());
  const auto answer = nlohmann::json::parse(client.post("/v1/completions", kBody).body);
  EXPECT_EQ(answer["choices"][0]["text"], "aaaa");
  EXPECT_EQ(answer["usage"]["completion_tokens"], 4);
  EXPECT_EQ(client.get("/health").status, 200);
  process_->signal(SIGTERM);
  const Outcome outcome = process_->finish();
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("POST /v1/completions 200"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("stopped: 1 answered"), std::string::npos) << outcome.err;
}

TEST_F(ServeProcess, AnswerThatOutlastsTheDrainIsCancelled) {
  start({"--no-cache", "--drain", "0", "--log", "json"});
  SocketClient client(port());
  client.request("POST", "/v1/completions", kEndless);
  EXPECT_NE(client.read_until("data: "), "");
  process_->interrupt();
  const Outcome outcome = process_->finish();
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("1 cancelled"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("longer than --drain"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("\"path\":\"/v1/completions\""), std::string::npos) << outcome.err;
}

TEST_F(ServeProcess, SaysWhatComesUpWhileItServes) {
  start({"--session-dir", folder_.write("no folder", "")}, {{"STRATA_NO_CACHE", "0"}});
  EXPECT_TRUE(process_->wait_for_err("note: saved contexts are not used"));
}

TEST_F(ServeProcess, ClientThatLeavesFreesItsPlace) {
  start({"--no-cache", "--parallel", "1"});
  {
    SocketClient client(port());
    client.request("POST", "/v1/completions", kEndless);
    EXPECT_NE(client.read_until("data: "), "");
  }
  EXPECT_EQ(SocketClient(port()).post("/v1/completions", kBody).status, 200);
}

TEST_F(ServeProcess, RefusesBeforeItReadsTheModel) {
  start();
  const std::string busy = std::to_string(port());
  expect_refused({"serve", "-m", "no model.gguf", "--port", busy},
                 {1, "io", {"another program listens"}, "--port", "--port 0"});
  expect_refused({"serve", "-m", "no model.gguf", "--host", "0.0.0.0"},
                 {2, "usage", {"no key is asked for"}, "--host", "--api-key-file"});
  expect_refused({"serve", "-m", "no model.gguf", "--api-key", "two words"},
                 {2, "usage", {"letters, digits"}, "--api-key", "openssl"});
  expect_refused({"serve", "-m", "no model.gguf", "--api-key-file", folder_.write("keys", "\n\n")},
                 {2, "usage", {"no key in it"}, "--api-key-file", "each line"});
  expect_refused({"serve", "-m", "no model.gguf", "--port", "70000"},
                 {2, "usage", {"from 0 to 65535"}, "--port", "--help"});
}

TEST_F(ServeProcess, KeysComeFromAFile) {
  start({"--no-cache", "--api-key-file", folder_.write("keys", "first\r\nsecond\n")});
  const auto status_with = [this](const std::string& header) {
    return SocketClient(port()).post("/v1/completions", kBody, header).status;
  };
  EXPECT_EQ(status_with(""), 401);
  EXPECT_EQ(status_with("Authorization: Bearer second\r\n"), 200);
  EXPECT_EQ(status_with("x-api-key: first\r\n"), 200);
}

}  // namespace
}  // namespace strata::serve
