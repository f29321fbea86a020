// tests/tools/plan_fixture.h - `strata plan` of a small model through the program.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/engine/small_model.h"
#include "tests/tools/refusal.h"
#include "tests/tools/strata_process.h"

namespace strata::cli::testing {

/// Of eight layers, so small that 128k positions of K and V (256 MiB) are most of what it needs.
class PlanTest : public RefusalTest {
 protected:
  PlanTest() {
    engine::testing::SmallModelOptions options;
    options.n_layers = 8;
    options.head_dim = 32;
    options.n_ctx_train = 1 << 17;
    small_ = engine::testing::make_small_model(options);
    path_ = model(small_);
  }
  std::vector<std::string> arguments(std::vector<std::string> more) const {
    more.insert(more.begin(), {"plan", "-m", path_, "--no-cache", "-t", "2"});
    return more;
  }
  std::string text(const std::vector<std::string>& more) const {
    const Outcome outcome = run_strata(arguments(more));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    return outcome.out;
  }
  nlohmann::json plan(std::vector<std::string> more) const {
    more.push_back("--json");
    const nlohmann::json found = nlohmann::json::parse(text(more), nullptr, false);
    EXPECT_TRUE(found.is_object());
    return found;
  }
  engine::testing::SmallModel small_;
  std::string path_;
};

}  // namespace strata::cli::testing
