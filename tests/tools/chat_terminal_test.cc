// `chat` on a terminal, key by key: history, several lines, /help, Ctrl-C, Ctrl-D; and progress,
// which is a bar there and a line in a pipe.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/engine/small_model.h"
#include "tests/tools/refusal.h"
#include "tests/tools/strata_process.h"

namespace strata::cli {
namespace {

using testing::Outcome;
using testing::run_strata;
using testing::StrataProcess;

constexpr const char* kPrompt = ">>> ";
constexpr const char* kUp = "\x1b[A";
constexpr const char* kCtrlC = "\x03";
constexpr const char* kCtrlD = "\x04";

class ChatTerminal : public testing::RefusalTest {
 protected:
  std::vector<std::string> chat_saying_a(const std::string& n) {
    engine::testing::SmallModelOptions options;
    options.n_ctx_train = 1 << 20;
    return {"chat",         "-m",  model(engine::testing::make_small_model(options)), "-n", n,
            "--logit-bias", "3+99"};
  }
};

TEST_F(ChatTerminal, AnswersRecallsAndHelps) {
  StrataProcess process(chat_saying_a("3"), StrataProcess::Input::kTerminal);
  ASSERT_TRUE(process.wait_for_err("/help for commands"));
  ASSERT_TRUE(process.wait_for_err(kPrompt));
  process.send("aa\r");
  ASSERT_TRUE(process.wait_for_out("aaa\n"));
  ASSERT_TRUE(process.wait_for_err("3 out"));
  ASSERT_TRUE(process.wait_for_err(kPrompt));
  process.send("/help\r");
  ASSERT_TRUE(process.wait_for_err("/clear"));
  ASSERT_TRUE(process.wait_for_err("Ctrl-C          stops the answer"));
  ASSERT_TRUE(process.wait_for_err(kPrompt));
  process.send(std::string(kUp) + kUp + "\r");  // past /help to the message
  ASSERT_TRUE(process.wait_for_out("aaa\n"));
  ASSERT_TRUE(process.wait_for_err(kPrompt));
  process.send("/stats\r");
  ASSERT_TRUE(process.wait_for_err("2 answers"));
  ASSERT_TRUE(process.wait_for_err(kPrompt));
  process.send(kCtrlD);
  EXPECT_EQ(process.finish().exit_code, 0);
}

TEST_F(ChatTerminal, TakesAMessageOfSeveralLines) {
  StrataProcess process(chat_saying_a("1"), StrataProcess::Input::kTerminal);
  ASSERT_TRUE(process.wait_for_err(kPrompt));
  process.send("\"\"\"\r");
  ASSERT_TRUE(process.wait_for_err("... "));
  process.send("first\r");
  ASSERT_TRUE(process.wait_for_err("... "));
  process.send("second\r");
  ASSERT_TRUE(process.wait_for_err("... "));
  process.send("\"\"\"\r");
  ASSERT_TRUE(process.wait_for_out("a\n"));
  ASSERT_TRUE(process.wait_for_err(kPrompt));
  process.send("/show\r");
  ASSERT_TRUE(process.wait_for_err("first\r\nsecond"));
  ASSERT_TRUE(process.wait_for_err(kPrompt));
  process.send("/bye\r");
  EXPECT_EQ(process.finish().exit_code, 0);
}

TEST_F(ChatTerminal, CtrlCStopsTheAnswerAndTwiceAtThePromptLeaves) {
  StrataProcess process(chat_saying_a("-1"), StrataProcess::Input::kTerminal);
  ASSERT_TRUE(process.wait_for_err(kPrompt));
  process.send("a\r");
  ASSERT_TRUE(process.wait_for_out("aaaa"));
  process.send(kCtrlC);
  ASSERT_TRUE(process.wait_for_err("stopped by you"));
  ASSERT_TRUE(process.wait_for_err(kPrompt));
  process.send(kCtrlC);
  ASSERT_TRUE(process.wait_for_err("Ctrl-C again or /bye leaves"));
  ASSERT_TRUE(process.wait_for_err(kPrompt));
  process.send(kCtrlC);
  EXPECT_EQ(process.finish().exit_code, 130);
}

TEST_F(ChatTerminal, ShowsProgressAsABarOnATerminalAndAsALineInAPipe) {
  auto arguments = testing::run_saying_a(small_model(), "3");
  StrataProcess process(arguments, StrataProcess::Input::kTerminal);
  const Outcome on_terminal = process.finish();
  EXPECT_EQ(on_terminal.exit_code, 0);
  EXPECT_EQ(on_terminal.out, "aaa\n");
  EXPECT_NE(on_terminal.err.find("\rloading  [====================] 62.6 KiB/62.6 KiB"),
            std::string::npos)
      << on_terminal.err;
  const Outcome in_pipe = run_strata(arguments);
  EXPECT_EQ(in_pipe.out, "aaa\n");
  EXPECT_NE(in_pipe.err.find("\nloading  62.6 KiB/62.6 KiB"), std::string::npos) << in_pipe.err;
  EXPECT_EQ(in_pipe.err.find_first_of("\r\x1b"), std::string::npos) << in_pipe.err;
}

}  // namespace
}  // namespace strata::cli
