// How a server ends: within which time, at any moment of its life, and what a unit for systemd may
// rely on.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <sstream>
#include <string>
#include <thread>

#include "base/error.h"
#include "tests/serve/serve_process.h"
#include "tests/serve/slot_server.h"
#include "tests/serve/wait_until.h"
#include "tests/tiers/child_process.h"
#include "tests/tree_paths.h"
#include "tiers/durable_directory.h"
#include "tools/cli/option_table.h"
#include "tools/serve/serving.h"

namespace strata::serve {
namespace {

using cli::testing::Launch;
using cli::testing::Outcome;
using cli::testing::StrataProcess;
using std::chrono::seconds;
using testing::kLong;
using testing::Place;
using testing::Server;

std::string unit_text() {
  std::ifstream file(tree_path("examples/strata.service"));
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The only group of the pattern's only match.
std::string found(const std::string& text, const std::string& pattern) {
  std::smatch match;
  EXPECT_TRUE(std::regex_search(text, match, std::regex(pattern))) << pattern;
  return match.size() == 2 ? match[1].str() : "";
}

TEST(ServeUnit, WaitsLongerThanAServerTakesToEnd) {
  const std::string unit = unit_text();
  const seconds stop(std::stoi(found(unit, "\nTimeoutStopSec=(\\d+)\n")));
  const std::string drain = found(unit, "\nExecStart=.* --drain (\\d+)");
  EXPECT_EQ(drain, cli::find_option("drain")->default_text);
  EXPECT_GT(stop, seconds(std::stoi(drain)) + kSavingMax + kFarewell + seconds(15));
}

TEST(ServeUnit, StartsTheServerWithOptionsThatItHas) {
  Launch launch;
  launch.arguments = {"serve"};
  std::istringstream words(found(unit_text(), "\nExecStart=/usr/bin/strata serve (.*)\n"));
  for (std::string word; words >> word;) launch.arguments.push_back(word);
  launch.arguments.emplace_back("--help");
  const Outcome outcome = cli::testing::run_strata(launch);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
}

TEST(ServeUnit, SystemdFindsNothingToSay) {
  if (std::system("command -v systemd-analyze > /dev/null") != 0)
    GTEST_SKIP() << "no systemd-analyze here";
  const engine::testing::TestFolder folder;
  const std::string path =
      folder.write("strata.service",
                   std::regex_replace(unit_text(), std::regex("/usr/bin/strata"), "/bin/true"));
  std::FILE* pipe = ::popen(("systemd-analyze verify '" + path + "' 2>&1").c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string all;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) all += static_cast<char>(c);
  // Its exit code and other lines are of this machine's units, too, which ours depends on.
  EXPECT_NE(::pclose(pipe), -1);
  std::string said;
  std::istringstream lines(all);
  for (std::string line; std::getline(lines, line);)
    if (line.find("strata.service") != std::string::npos) said += line + "\n";
  EXPECT_EQ(said, "");
}

TEST(ServeStop, SavingThatTakesTooLongIsLeft) {
  const Place place;
  EngineService::Options options = place.options();
  options.saving_max = std::chrono::milliseconds(0);
  std::atomic<int> n_said = 0;
  options.on_saving = [&](std::chrono::milliseconds most) {
    EXPECT_EQ(most, options.saving_max);
    ++n_said;
  };
  engine::Engine engine = Server::opened(place, options, testing::kContext);
  const auto service = EngineService::start(engine, options);
  // Nothing gets its name meanwhile, and after ten seconds the one who names gives up.
  const auto lock =
      tiers::DurableDirectory::open(place.folder.path("contexts"), tiers::system_calls())
          ->lock(kLong);
  AnswerOrder order;
  order.text = testing::document_of(1);
  order.n_predict = 3;
  const auto stream = service->submit(std::move(order));
  AnswerEvent event;
  do ASSERT_TRUE(stream->wait_next(event, kLong));
  while (event.kind != AnswerEvent::Kind::kEnd);
  EXPECT_FALSE(service->drain(kLong));
  EXPECT_EQ(n_said, 1);
  EXPECT_TRUE(service->take_notices().empty()) << "the one who names was waited for";
}

class ServeStopped : public cli::testing::RefusalTest {};

TEST_F(ServeStopped, WhileItLoadsItEndsWithZero) {
  engine::testing::SmallModelOptions options;  // 80 MiB, which take a moment
  options.d_model = 1024;
  options.n_heads = options.n_kv_heads = 16;
  options.head_dim = 64;
  options.d_ff = 2048;
  const std::string path = model(engine::testing::make_small_model(options));
  for (const int number : {SIGTERM, SIGINT}) {
    const std::string socket = folder_.path("socket");
    StrataProcess process({"serve", "-m", path, "--no-cache", "-t", "1", "--socket", socket},
                          StrataProcess::Input::kNone);
    // It listens before it loads.
    const auto listens = [&] { return std::filesystem::exists(socket); };
    ASSERT_TRUE(testing::wait_until(process, listens, kLong));
    process.signal(number);
    const Outcome outcome = process.finish();
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.err.find("error:"), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("stopped"), std::string::npos) << outcome.err;
  }
}

TEST_F(ServeStopped, AFolderThatOthersOwnIsNoPlaceForASocket) {
  const std::string closed = folder_.path("closed");
  ASSERT_EQ(::mkdir(closed.c_str(), 0500), 0);
  Launch launch;
  launch.arguments = {"serve", "-m", "no model.gguf", "--socket", closed + "/socket"};
  launch.prepare = [] { tiers::become_nobody(0); };
  if (cli::testing::run_strata(launch).exit_code == cli::testing::kNotPrepared)
    GTEST_SKIP() << "this user cannot become another";
  expect_refused(launch, {1, "io", {"cannot listen on", "Permission denied"}, "--socket", ""});
}

}  // namespace
}  // namespace strata::serve
