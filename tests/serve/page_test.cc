// The page that `strata serve` shows: what its script and its styles name exists.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <string>

#include "tests/serve/served_page.h"
#include "tests/serve/socket_client.h"
#include "tools/serve/embedded.h"

namespace strata::serve {
namespace {

using testing::ServedPage;
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

TEST_F(ServedPage, ReadsFieldsThatTheStatusHas) {
  const auto status = nlohmann::json::parse(SocketClient(port()).get("/status").body);
  for (const std::string& field : found_in_page(R"(\bstatus\.([a-z_]+))"))
    EXPECT_TRUE(status.contains(field)) << field;
  for (const std::string& field : found_in_page(R"(\blayer\.([a-z_]+))"))
    EXPECT_TRUE(std::ranges::any_of(status["layers"], [&](const nlohmann::json& layer) {
      return layer.contains(field);
    })) << field;
  for (const std::string& field : found_in_page(R"(\bslot\.([a-z_]+))"))
    EXPECT_TRUE(status["slots"][0].contains(field)) << field;
  for (const std::string& field : found_in_page(R"(\btier\.([a-z]+_[a-z_]+))"))
    EXPECT_TRUE(status["tiers"]["dram"].contains(field)) << field;
}

}  // namespace
}  // namespace strata::serve
