// The heap of a server: what glibc is told when the program starts.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "tests/serve/serve_process.h"

namespace strata::serve::testing {
namespace {

class HeapOfAServer : public ServedTest {
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

TEST_F(HeapOfAServer, HasNoCachesOfThreads) {
  serve_with({});
  EXPECT_NE(environment().find("GLIBC_TUNABLES=glibc.malloc.tcache_count=0"), std::string::npos);
}

TEST_F(HeapOfAServer, IsAsTheEnvironmentHasIt) {
  serve_with({{"GLIBC_TUNABLES", "glibc.malloc.tcache_count=3"}});
  EXPECT_NE(environment().find("GLIBC_TUNABLES=glibc.malloc.tcache_count=3"), std::string::npos);
}

}  // namespace
}  // namespace strata::serve::testing
