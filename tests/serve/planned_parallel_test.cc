// Answers at a time where nobody says how many.
#include "tools/serve/planned_parallel.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "tests/serve/serve_process.h"
#include "tests/serve/socket_client.h"

namespace strata::serve {
namespace {

/// A machine where only n_most answers at a time fit, and the numbers that were tried on it.
uint32_t planned(PlannedContext context, uint32_t n_most, std::vector<uint32_t>& tried) {
  return planned_parallel([&](uint32_t n) {
    tried.push_back(n);
    if (n > n_most) throw Error(ErrorCode::kDoesNotFit, "windows");
    return context;
  });
}

TEST(PlannedParallel, IsWhatContextRowsAndMemoryHaveRoomFor) {
  std::vector<uint32_t> tried;
  EXPECT_EQ(planned({.n_ctx = 1 << 20, .step_rows = 512}, 99, tried), kPlannedParallelMax);
  EXPECT_EQ(tried.size(), 1u);
  EXPECT_EQ(planned({.n_ctx = 3 * kPlannedShareTokens + 1, .step_rows = 512}, 99, tried), 3u);
  EXPECT_EQ(planned({.n_ctx = 100, .step_rows = 512}, 99, tried), 1u);
  EXPECT_EQ(planned({.n_ctx = 1 << 20, .step_rows = 4}, 99, tried), 2u);
  EXPECT_EQ(planned({.n_ctx = 1 << 20, .step_rows = 1}, 99, tried), 1u);
  tried.clear();
  EXPECT_EQ(planned({.n_ctx = 1 << 20, .step_rows = 512}, 1, tried), 1u);
  EXPECT_EQ(tried, (std::vector<uint32_t>{4, 2, 1}));
  EXPECT_THROW(planned({.n_ctx = 1 << 20, .step_rows = 512}, 0, tried), Error);
}

class ParallelOfAProcess : public testing::ServedTest {
 protected:
  std::string start_line(const std::string& model_path, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"--no-cache"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    serve(model_path, arguments);
    return process_->err().substr(process_->err().find(" serves "));
  }
};

TEST_F(ParallelOfAProcess, FollowsTheContextUnlessItIsStated) {
  engine::testing::SmallModelOptions options;
  options.n_ctx_train = 1 << 14;
  const std::string path = model(engine::testing::make_small_model(options));
  const auto at_a_time = [&](const std::vector<std::string>& more, const std::string& said) {
    const std::string line = start_line(path, more);
    EXPECT_NE(line.find(said + " at a time"), std::string::npos) << line;
  };
  at_a_time({"-c", "8192"}, "4");
  at_a_time({"-c", "1024"}, "2");
  at_a_time({"-c", "256"}, "1");
  at_a_time({"-c", "256", "--parallel", "3"}, "3");
  const std::string config = folder_.write("serve.toml", "[serve]\nparallel = 3\n");
  at_a_time({"-c", "256", "--config", config}, "3");
}

}  // namespace
}  // namespace strata::serve
