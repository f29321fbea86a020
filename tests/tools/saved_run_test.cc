// Saved contexts of `run`, as a user meets them: another question about the same text is answered
// from what was read before, with the tokens of a run that reads it all.
#include <gtest/gtest.h>

#include "tests/tools/spilling_model.h"

namespace strata::cli {
namespace {

using testing::Launch;
using testing::Outcome;
using testing::run_strata;
using testing::with;

class SavedRun : public testing::SpillingTest {
 protected:
  /// A run that may use and keep saved contexts, in `folder` or the test's own.
  Outcome saved(const std::vector<std::string>& arguments,
                const std::vector<std::string>& more = {}, const std::string& folder = "") {
    Launch launch;
    launch.arguments = with(
        with(arguments, {"--session-dir", folder.empty() ? folder_.path("saved") : folder}), more);
    launch.environment = {{"STRATA_NO_CACHE", "0"}};
    return run_strata(launch);
  }
  std::vector<std::string> question(const std::string& text) const {
    return with(in_memory(), {"-p", text});
  }
  static uint64_t cached(const Outcome& outcome) {
    return object_of(outcome)["usage"].value("cached_tokens", uint64_t{0});
  }
};

TEST_F(SavedRun, AnotherQuestionIsAnsweredFromWhatWasRead) {
  const Outcome first = saved(question("what is it"));
  EXPECT_EQ(cached(first), 0u);
  EXPECT_NE(first.err.find("saved "), std::string::npos) << first.err;
  const Outcome second = saved(question("and where"));
  EXPECT_GE(cached(second), kPromptLetters - 32);
  EXPECT_NE(second.err.find("were read before"), std::string::npos) << second.err;
  EXPECT_EQ(tokens_of(second), tokens_of(run_strata(question("and where"))));
  EXPECT_GT(object_of(second)["tiers"]["nvme"].value("read_bytes", uint64_t{0}), 0u);
}

TEST_F(SavedRun, WhatIsRestoredMaySpill) {
  (void)saved(question("what is it"));
  const auto spilled = with(question("and where"), {"--kv-dram", "2304KiB", "--nvme", disk_});
  const Outcome second = saved(spilled);
  EXPECT_GE(cached(second), kPromptLetters - 32);
  EXPECT_EQ(tokens_of(second), tokens_of(run_strata(question("and where"))));
}

TEST_F(SavedRun, NothingIsFoundOrKeptWhereThatIsNotWanted) {
  (void)saved(question("what is it"), {"--no-save"});
  EXPECT_EQ(cached(saved(question("what is it"))), 0u);
  EXPECT_EQ(cached(saved(question("what is it"), {"--no-cache"})), 0u);
  EXPECT_GT(cached(saved(question("what is it"), {"--no-save"})), 0u);
}

TEST_F(SavedRun, ANamedContextIsListed) {
  (void)saved(question("what is it"), {"--session", "letters"});
  const Outcome list = run_strata({"session", "list", "--session-dir", folder_.path("saved")});
  EXPECT_EQ(list.exit_code, 0) << list.err;
  EXPECT_NE(list.out.find("letters"), std::string::npos) << list.out;
  for (const std::string name : {"../letters", ".hidden", "a b"}) {
    const Outcome refused = saved(question("what is it"), {"--session", name});
    EXPECT_EQ(refused.exit_code, 2) << name;
  }
}

TEST_F(SavedRun, AFolderThatCannotBeUsedCostsANoteAndNoAnswer) {
  const Outcome outcome = saved(question("and where"), {}, folder_.write("no-folder", "text"));
  EXPECT_EQ(tokens_of(outcome), tokens_of(run_strata(question("and where"))));
  EXPECT_NE(outcome.err.find("note: saved contexts are not used"), std::string::npos)
      << outcome.err;
}

}  // namespace
}  // namespace strata::cli
