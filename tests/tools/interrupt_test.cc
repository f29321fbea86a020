// Ctrl-C, as the process sees it: `run` ends with 130 and what was answered so far; `chat` stops
// the answer only.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/engine/small_model.h"
#include "tests/tools/refusal.h"
#include "tests/tools/strata_process.h"

namespace strata::cli {
namespace {

using testing::Outcome;
using testing::StrataProcess;

class Interrupt : public testing::RefusalTest {
 protected:
  /// A model whose answers run on for a million tokens.
  std::string endless_model() {
    engine::testing::SmallModelOptions options;
    options.n_ctx_train = 1 << 20;
    return model(engine::testing::make_small_model(options));
  }
};

bool is_letters_a(std::string text) {
  if (text.ends_with('\n')) text.pop_back();
  return !text.empty() && text.find_first_not_of('a') == std::string::npos;
}

TEST_F(Interrupt, EndsRunWith130AndKeepsWhatWasAnswered) {
  StrataProcess process(testing::run_saying_a(endless_model(), "-1"), StrataProcess::Input::kNone);
  ASSERT_TRUE(process.wait_for_out("aaaa"));
  process.interrupt();
  const Outcome outcome = process.finish();
  EXPECT_EQ(outcome.exit_code, 130);
  EXPECT_TRUE(is_letters_a(outcome.out)) << outcome.out;
  EXPECT_NE(outcome.err.find("stopped by you"), std::string::npos) << outcome.err;
}

TEST_F(Interrupt, LeavesTheJsonObjectOfRunWhole) {
  auto arguments = testing::run_saying_a(endless_model(), "-1");
  arguments.insert(arguments.end(), {"--json", "-t", "1"});
  StrataProcess process(arguments, StrataProcess::Input::kNone);
  // With --json nothing is streamed: the end of loading is the last sign before the answer.
  ASSERT_TRUE(process.wait_for_err("loading"));
  process.interrupt();
  const Outcome outcome = process.finish();
  EXPECT_EQ(outcome.exit_code, 130);
  const auto printed = nlohmann::json::parse(outcome.out, nullptr, false);
  ASSERT_TRUE(printed.is_object()) << outcome.out << outcome.err;
  EXPECT_EQ(printed.contains("error") ? printed["error"].value("code", "")
                                      : printed.value("finish_reason", ""),
            "cancelled");
}

TEST_F(Interrupt, EndsTheWaitForStandardInput) {
  StrataProcess process({"run", "-m", endless_model(), "-p", "a"}, StrataProcess::Input::kPipe);
  ASSERT_TRUE(process.wait_for_err("waiting for text on standard input"));
  process.interrupt();
  const Outcome outcome = process.finish();
  EXPECT_EQ(outcome.exit_code, 130);
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("error: reading 'standard input' was interrupted [stdin]"),
            std::string::npos)
      << outcome.err;
}

TEST_F(Interrupt, StopsTheAnswerOfChatAndNotTheConversation) {
  StrataProcess process({"chat", "-m", endless_model(), "--logit-bias", "3+99"},
                        StrataProcess::Input::kPipe);
  for (int answer = 1; answer <= 2; ++answer) {
    process.send("a\n");
    ASSERT_TRUE(process.wait_for_out("aaaa"));
    process.interrupt();
    ASSERT_TRUE(process.wait_for_out("\n"));
    ASSERT_TRUE(process.wait_for_err("stopped by you"));
  }
  process.send("/stats\n");
  ASSERT_TRUE(process.wait_for_err("2 answers"));
  const Outcome outcome = process.finish();  // the end of input leaves
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
}

TEST_F(Interrupt, EndsBenchWith130AndNoHalfList) {
  StrataProcess process(
      {"bench", "-m", endless_model(), "-p", "0", "-n", "500000", "-r", "100", "-o", "json", "-v"},
      StrataProcess::Input::kNone);
  ASSERT_TRUE(process.wait_for_err("run 1 of 100"));
  process.interrupt();
  const Outcome outcome = process.finish();
  EXPECT_EQ(outcome.exit_code, 130);
  const auto printed = nlohmann::json::parse(outcome.out, nullptr, false);
  ASSERT_TRUE(printed.is_object()) << outcome.out;
  EXPECT_EQ(printed["error"].value("code", ""), "cancelled");
}

}  // namespace
}  // namespace strata::cli
