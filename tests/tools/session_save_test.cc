// `strata session save`: a text is read and kept without an answer, and the run that asks about it
// goes on from there.
#include <gtest/gtest.h>

#include "tests/tools/spilling_model.h"

namespace strata::cli {
namespace {

using nlohmann::json;
using testing::Launch;
using testing::Outcome;
using testing::run_strata;
using testing::StrataProcess;
using testing::with;
using Words = std::vector<std::string>;

class SessionSave : public testing::SpillingTest {
 protected:
  Words save(const Words& more = {}) const {
    return with({"session", "save", "letters", "-m", model_, "-f", prompt_, "-c", "8k", "-b", "64",
                 "-t", "1", "--session-dir", saved_},
                more);
  }
  json listed() const {
    return json::parse(run_strata({"session", "list", "--json", "--session-dir", saved_}).out,
                       nullptr, false);
  }
  std::string saved_ = folder_.path("saved");
};

TEST_F(SessionSave, KeepsATextThatTheNextRunGoesOnFrom) {
  const Outcome outcome = run_strata(save());
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(outcome.out.starts_with("saved letters: 4,00")) << outcome.out;
  EXPECT_EQ(outcome.out.find('\n'), outcome.out.size() - 1) << outcome.out;
  const json list = listed();
  ASSERT_EQ(list.size(), 1u) << list;
  EXPECT_EQ(list[0]["name"], "letters");
  EXPECT_GE(list[0]["tokens"], kPromptLetters);
  EXPECT_EQ(list[0]["verified"], true);
  Launch launch;
  launch.arguments = with(in_memory(), {"-p", "and where", "--session-dir", saved_});
  launch.environment = {{"STRATA_NO_CACHE", "0"}};
  const Outcome asked = run_strata(launch);
  EXPECT_GE(object_of(asked)["usage"]["cached_tokens"], kPromptLetters - 32);
  EXPECT_EQ(tokens_of(asked), tokens_of(run_strata(with(in_memory(), {"-p", "and where"}))));
}

TEST_F(SessionSave, SaysAsJsonWhatItSavedAndWhatItFound) {
  const json first = object_of(run_strata(save({"--json"})));
  EXPECT_EQ(first["usage"]["cached_tokens"], 0);
  EXPECT_EQ(first["tokens"], first["usage"]["prompt_tokens"]);
  const json second = object_of(run_strata(save({"--json"})));
  EXPECT_GE(second["usage"]["cached_tokens"], kPromptLetters - 32);
  const json entry = listed()[0];
  for (const auto& [key, value] : entry.items()) EXPECT_EQ(second.value(key, json()), value) << key;
}

TEST_F(SessionSave, RefusesWhatItCannotSave) {
  const auto without_model = [&](const Words& words) {
    return with(words, {"-p", "abc", "-m", model_});
  };
  expect_refused(without_model({"session", "save"}),
                 {2, "usage", {"no name is given"}, "strata session save", "save NAME -m"});
  expect_refused(without_model({"session", "save", "a/b"}),
                 {2, "usage", {"'a/b' is no name"}, "session", "letters, digits"});
  expect_refused(without_model({"session", "save", "a", "b"}),
                 {2, "usage", {"unexpected argument 'b'"}, "strata session save", "--help"});
  expect_refused(without_model({"session", "save", "a", "--temp", "1"}),
                 {2, "usage", {"has no option --temp"}, "--temp", "another verb"});
  expect_refused({"session", "save", "a", "-m", model_},
                 {2, "usage", {"there is no prompt"}, "strata session save", "-f FILE"});
  const std::string file = folder_.write("file", "no folder");
  expect_refused(without_model({"session", "save", "a", "--session-dir", file}),
                 {1, "io", {"Not a directory"}, file, ""});
  expect_refused(
      with(save(), {"-c", "2k"}),
      {3, "context_length_exceeded", {"exceeds the available context size"}, "prompt", "-c "});
}

TEST_F(SessionSave, IsAnErrorWhereTheBudgetDoesNotHoldTheText) {
  const Outcome outcome = run_strata(save({"--cache-budget", "1MiB", "--json"}));
  EXPECT_EQ(outcome.exit_code, 1) << outcome.out;
  const json error = json::parse(outcome.out, nullptr, false)["error"];
  EXPECT_NE(error.value("message", "").find("not saved whole"), std::string::npos) << error;
  EXPECT_NE(error.value("remedy", "").find("--cache-budget"), std::string::npos) << error;
  EXPECT_EQ(listed(), json::array());
}

TEST_F(SessionSave, StoppedOnTheWayLeavesNoName) {
  StrataProcess process(save(), StrataProcess::Input::kNone);
  ASSERT_TRUE(process.wait_for_err("loading"));
  process.interrupt();
  const Outcome outcome = process.finish();
  EXPECT_EQ(outcome.exit_code, 130) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(listed(), json::array());
}

}  // namespace
}  // namespace strata::cli
