// The page that `strata serve` shows: what its script names exists, and a browser runs it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <set>
#include <string>

#include "tests/engine/test_folder.h"
#include "tests/serve/scripted_service.h"
#include "tests/serve/socket_client.h"
#include "tools/serve/embedded.h"
#include "tools/serve/http_server.h"
#include "tools/serve/serve_app.h"

namespace strata::serve {
namespace {

using testing::ScriptedService;
using testing::SocketClient;

/// Every first group of a pattern in the page.
std::set<std::string> found_in_page(const char* pattern) {
  const std::string page(page_html());
  const std::regex expression(pattern);
  std::set<std::string> found;
  for (std::sregex_iterator at(page.begin(), page.end(), expression), end; at != end; ++at)
    found.insert((*at)[1]);
  return found;
}

TEST(Page, EveryIdThatItsScriptUsesIsThereOnce) {
  const std::string page(page_html());
  const auto used = found_in_page(R"(at\('([\w-]+)'\))");
  EXPECT_GT(used.size(), 10u);
  for (const std::string& id : used) {
    const std::string attribute = " id=\"" + id + "\"";
    const size_t at = page.find(attribute);
    EXPECT_NE(at, std::string::npos) << id;
    EXPECT_EQ(page.find(attribute, at + 1), std::string::npos) << id;
  }
  for (const std::string& id : found_in_page(R"(aria-labelledby="([\w-]+)\")"))
    EXPECT_NE(page.find(" id=\"" + id + "\""), std::string::npos) << id;
}

TEST(Page, AsksRoutesThatExist) {
  const auto asked = found_in_page(R"(fetch\('([^']+)')");
  EXPECT_EQ(asked, (std::set<std::string>{"/status", "/tokenize", "/v1/chat/completions"}));
  for (const std::string& path : asked)
    EXPECT_TRUE(std::ranges::any_of(ServeApp::route_names(), [&](const RouteName& route) {
      return route.path == path;
    })) << path;
}

TEST(Page, EveryPartForAColourIsOneOfItsColours) {
  const auto used = found_in_page(R"(var\(--([a-z]+)\))");
  const std::string page(page_html());
  for (const std::string& name : used)
    EXPECT_NE(page.find("--" + name + ": #"), std::string::npos) << name;
  for (const char* tier : {"hbm", "dram", "nvme"}) {
    EXPECT_NE(page.find(fmt::format("--{}: #", tier)), std::string::npos) << tier;
  }
}

/// The page over a scripted service on a port of its own.
class ServedPage : public ::testing::Test {
 protected:
  void SetUp() override {
    service_.said_facts.plan = {"The planner decided.", "+1 GiB of <DRAM> would bring nothing."};
    service_.said_facts.layer_places = {"dram", "nvme"};
    service_.said_facts.attention_budget = "2048";
    service_.said_facts.kv_bytes_per_token = 64;
    service_.said_layers = {{.hbm = 0, .dram = 9, .nvme = 0}, {.hbm = 0, .dram = 3, .nvme = 6}};
    service_.said_counts.tiers = {{.name = "dram", .budget_bytes = 1000, .weights_bytes = 400}};
    service_.said_counts.slots = {{.id = 4, .is_busy = true, .n_tokens = 90}};
    app_.emplace(ServeApp::Options{});
    app_->set_service(service_);
    ListenAddress address;
    address.port = 0;
    server_.emplace(Listener::open(address), *app_, HttpLimits{});
  }
  uint16_t port() const { return server_->listener().port(); }
  ScriptedService service_;
  std::optional<ServeApp> app_;
  std::optional<HttpServer> server_;
};

TEST_F(ServedPage, ReadsFieldsThatTheStatusHas) {
  const auto status = nlohmann::json::parse(SocketClient(port()).get("/status").body);
  for (const std::string& field : found_in_page(R"(\bstatus\.([a-z_]+))"))
    EXPECT_TRUE(status.contains(field)) << field;
  for (const std::string& field : found_in_page(R"(\blayer\.([a-z_]+))"))
    EXPECT_TRUE(status["layers"][0].contains(field)) << field;
  for (const std::string& field : found_in_page(R"(\bslot\.([a-z_]+))"))
    EXPECT_TRUE(status["slots"][0].contains(field)) << field;
  for (const std::string& field : found_in_page(R"(\btier\.([a-z]+_[a-z_]+))"))
    EXPECT_TRUE(status["tiers"]["dram"].contains(field)) << field;
}

TEST_F(ServedPage, IsRunByABrowserWithoutAnError) {
  if (std::system("command -v chromium > /dev/null") != 0) GTEST_SKIP() << "no chromium here";
  const engine::testing::TestFolder folder;
  // --virtual-time-budget lets timers run ahead and waits for requests, so nothing here is a wait.
  const std::string command = fmt::format(
      "HOME='{0}' timeout 120 chromium --headless --no-sandbox --disable-gpu --no-first-run "
      "--user-data-dir='{0}/profile' --enable-logging=stderr --virtual-time-budget=3000 "
      "--dump-dom http://127.0.0.1:{1}/ 2> '{0}/log'",
      folder.path(""), port());
  std::FILE* pipe = ::popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string page;
  char part[4096];
  for (size_t n; (n = std::fread(part, 1, sizeof part, pipe)) > 0;) page.append(part, n);
  if (::pclose(pipe) != 0 || page.empty()) GTEST_SKIP() << "chromium does not run here";
  EXPECT_NE(page.find("scripted | context"), std::string::npos) << page;
  EXPECT_NE(page.find("<li>+1 GiB of &lt;DRAM&gt; would bring nothing.</li>"), std::string::npos);
  EXPECT_NE(page.find("2 layers: 12 blocks in DRAM, 6 on NVMe alone"), std::string::npos);
  EXPECT_NE(page.find("90 tokens, answering"), std::string::npos);
  const std::string log_command = fmt::format("grep CONSOLE '{}'", folder.path("log"));
  EXPECT_NE(std::system(log_command.c_str()), 0) << "the console has a line";
}

}  // namespace
}  // namespace strata::serve
