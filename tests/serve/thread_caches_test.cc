// What glibc is told of its heap when a server starts.
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <thread>

#include "tests/serve/serve_process.h"
#include "tests/serve/socket_client.h"

namespace strata::serve::testing {
namespace {

class ThreadCaches : public ServedTest {
 protected:
  void serve_with(const std::map<std::string, std::string>& environment) {
    serve(model(engine::testing::make_small_model({})), {"--no-cache"}, environment);
  }
  /// "NAME=VALUE" of the process that answers, NUL behind each.
  std::string environment() const {
    std::ifstream file("/proc/" + std::to_string(process_->id()) + "/environ", std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
};

TEST_F(ThreadCaches, AServerHasNone) {
  ::unsetenv("GLIBC_TUNABLES");  // of this test, whose children have its environment
  serve_with({});
  std::ifstream name("/proc/" + std::to_string(process_->id()) + "/comm");
  std::string comm;
  std::getline(name, comm);
  EXPECT_EQ(comm, "strata");
  EXPECT_NE(environment().find("GLIBC_TUNABLES=glibc.malloc.tcache_count=0"), std::string::npos);
}

/// A configuration that can be read once only: its key is wanted.
TEST_F(ThreadCaches, AreGoneBeforeAnythingIsRead) {
  ::unsetenv("GLIBC_TUNABLES");
  const std::string pipe = folder_.path("strata.toml");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::thread writer([&] { std::ofstream(pipe) << "[serve]\napi-key = [\"a-key\"]\n"; });
  serve(model(engine::testing::make_small_model({})), {"--no-cache", "--config", pipe});
  writer.join();
  SocketClient client(port());
  EXPECT_EQ(client.post("/tokenize", R"({"content": "a"})").status, 401);
}

TEST_F(ThreadCaches, AreAsTheEnvironmentHasThem) {
  serve_with({{"GLIBC_TUNABLES", "glibc.malloc.tcache_count=3"}});
  EXPECT_NE(environment().find("GLIBC_TUNABLES=glibc.malloc.tcache_count=3"), std::string::npos);
}

}  // namespace
}  // namespace strata::serve::testing
