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

TEST_F(ServeProcess, KeysDoNotSeeEachOthersPrompts) {
  const std::string keys = folder_.write("keys", "first\nsecond\n");
  const std::string sessions = folder_.path("contexts");
  const std::string body =
      nlohmann::json{{"prompt", std::string(600, 'a')}, {"max_tokens", 2}}.dump();
  const auto n_cached = [&](const std::string& key) {
    const auto answer = nlohmann::json::parse(
        SocketClient(port()).post("/v1/completions", body, "x-api-key: " + key + "\r\n").body);
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"].get<int>();
  };
  const auto end = [&] {
    process_->signal(SIGTERM);
    const Outcome outcome = process_->finish();
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  };
  const auto start_with = [&](std::vector<std::string> more) {
    for (const std::string& argument :
         {std::string("--api-key-file"), keys, std::string("--session-dir"), sessions,
          std::string("-c"), std::string("4096")})
      more.push_back(argument);
    start(more, {{"STRATA_NO_CACHE", "0"}});
  };
  start_with({});
  EXPECT_EQ(n_cached("first"), 0);
  EXPECT_GT(n_cached("first"), 500);
  EXPECT_EQ(n_cached("second"), 0);
  end();
  start_with({"--api-key", "third"});
  EXPECT_EQ(n_cached("third"), 0);
  EXPECT_GT(n_cached("first"), 500);
  EXPECT_GT(n_cached("second"), 500);
  end();
  start_with({"--share-prefixes"});
  EXPECT_EQ(n_cached("first"), 0) << "what everybody has read stands apart";
  EXPECT_GT(n_cached("second"), 500);
  end();
}

TEST_F(ServeProcess, SaysWhyWhatIsWhere) {
  const auto sentences = [this] {
    std::string text;
    const auto status = nlohmann::json::parse(SocketClient(port()).get("/status").body);
    for (const auto& sentence : status["plan"]) text += sentence.get<std::string>() + "\n";
    return text;
  };
  start();
  EXPECT_NE(sentences().find("Everything is as near as it can be."), std::string::npos)
      << sentences();
  process_.reset();
  start({"--no-cache", "-c", "262144", "--kv-dram", "6MiB", "--nvme", folder_.path("spill")});
  const std::string said = sentences();
  for (const char* part :
       {"Weights of 2 layers: 2 in DRAM.\n", "% on disk.\n", "limited by NVMe",
        "+1 GiB of DRAM would bring nothing.", "A disk 10 % quicker would bring -"})
    EXPECT_NE(said.find(part), std::string::npos) << part << " is not in\n" << said;
}

}  // namespace
}  // namespace strata::serve
