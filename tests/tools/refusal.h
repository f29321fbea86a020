// tests/tools/refusal.h - what a user must see when the program refuses: one line on standard error
// and nothing else, or with --json one object on standard output and nothing else.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/engine/small_model.h"
#include "tests/engine/test_folder.h"
#include "tests/tools/strata_process.h"

namespace strata::cli::testing {

/// `strata run` whose answer is `n` times the letter a.
inline std::vector<std::string> run_saying_a(const std::string& model, const std::string& n) {
  return {"run", "-m", model, "-p", "a", "-n", n, "--logit-bias", "3+99"};
}

/// With --json behind it.
inline std::vector<std::string> as_json(std::vector<std::string> arguments) {
  arguments.push_back("--json");
  return arguments;
}

/// What an error must say; each text stands in its part of the line.
struct Refusal {
  int exit_code;
  std::string code;               // of the JSON object
  std::vector<std::string> what;  // wanted and found
  std::string where, remedy;
};

class RefusalTest : public ::testing::Test {
 protected:
  std::string model(const engine::testing::SmallModel& of, const std::string& name = "model.gguf") {
    return folder_.write(name, of.bytes());
  }
  std::string small_model() { return model(engine::testing::make_small_model()); }

  static void expect_line(const Outcome& outcome, const Refusal& refusal) {
    EXPECT_EQ(outcome.exit_code, refusal.exit_code) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    const std::string& line = outcome.err;
    EXPECT_TRUE(line.starts_with("error: ")) << line;
    EXPECT_EQ(line.find('\n'), line.size() - 1) << line;
    const size_t where = line.rfind(" [", line.rfind(" (remedy: "));
    const size_t remedy = line.rfind(" (remedy: ");
    ASSERT_NE(where, std::string::npos) << line;
    ASSERT_NE(remedy, std::string::npos) << line;
    for (const std::string& what : refusal.what)
      EXPECT_LT(line.find(what), where) << "'" << what << "' in " << line;
    EXPECT_NE(line.substr(where, remedy - where).find(refusal.where), std::string::npos) << line;
    EXPECT_NE(line.find(refusal.remedy, remedy), std::string::npos) << line;
  }

  static void expect_object(const Outcome& outcome, const Refusal& refusal) {
    EXPECT_EQ(outcome.exit_code, refusal.exit_code) << outcome.out;
    EXPECT_EQ(outcome.err, "");
    EXPECT_EQ(outcome.out.find('\n'), outcome.out.size() - 1) << outcome.out;
    const auto json = nlohmann::json::parse(outcome.out, nullptr, false);
    ASSERT_TRUE(json.is_object() && json.contains("error")) << outcome.out;
    const auto& error = json["error"];
    EXPECT_EQ(error.value("code", ""), refusal.code);
    for (const std::string& what : refusal.what)
      EXPECT_NE(error.value("message", "").find(what), std::string::npos) << outcome.out;
    EXPECT_NE(error.value("where", "").find(refusal.where), std::string::npos) << outcome.out;
    EXPECT_NE(error.value("remedy", "").find(refusal.remedy), std::string::npos) << outcome.out;
  }

  static void expect_refused(Launch launch, const Refusal& refusal) {
    expect_line(run_strata(launch), refusal);
    launch.arguments.push_back("--json");
    expect_object(run_strata(launch), refusal);
  }
  static void expect_refused(const std::vector<std::string>& arguments, const Refusal& refusal) {
    Launch launch;
    launch.arguments = arguments;
    expect_refused(launch, refusal);
  }

  engine::testing::TestFolder folder_;
};

}  // namespace strata::cli::testing
