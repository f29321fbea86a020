// Saved contexts of `run`, as a user meets them: another question about the same text is answered
// from what was read before, with the tokens of a run that reads it all.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

#include "tests/tiers/pack_fixture.h"
#include "tests/tools/spilling_model.h"

namespace strata::cli {
namespace {

using testing::Launch;
using testing::Outcome;
using testing::run_strata;
using testing::StrataProcess;
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
  std::vector<std::string> chat() const {
    return {"chat",
            "-m",
            model_,
            "-c",
            "8k",
            "-b",
            "64",
            "-t",
            "1",
            "-n",
            "2",
            "--ignore-eos",
            "--no-cache=off",
            "--session-dir",
            folder_.path("saved")};
  }
  static std::string text_of(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
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
  const auto spilled = with(question("and where"), {"--kv-dram", "2816KiB", "--nvme", disk_});
  const Outcome second = saved(spilled);
  EXPECT_GE(cached(second), kPromptLetters - 32);
  EXPECT_EQ(tokens_of(second), tokens_of(run_strata(question("and where"))));
}

/// What a disk lost is computed again, counted in the object and said on the last line.
TEST_F(SavedRun, DamageIsComputedAgainAndSaid) {
  const std::vector<std::string> asked = question("and where");
  const std::string expected = tokens_of(run_strata(asked));
  const auto damage = [&] {
    for (const std::string& name : tiers::names_in(folder_.path("saved"))) {
      if (!name.ends_with(".pack")) continue;
      auto bytes = tiers::bytes_of_file(folder_.path("saved/" + name));
      bytes[100] ^= std::byte{1};
      tiers::write_file(folder_.path("saved/" + name), bytes);
    }
  };
  (void)saved(question("what is it"));
  damage();
  const Outcome counted = saved(asked, {"--no-save"});
  EXPECT_EQ(tokens_of(counted), expected);
  const auto faults = object_of(counted)["faults"];
  EXPECT_GE(faults.value("retries", 0), 1);
  EXPECT_GE(faults.value("corrupt_blocks", 0), 1);
  EXPECT_GE(faults.value("recomputed_blocks", 0), 8);  // an extent of two KV heads has 16
  const Outcome said = saved(testing::without_json(asked), {"--no-save"});
  const size_t at = said.err.find("\nsaved contexts: memory: ");
  ASSERT_NE(at, std::string::npos) << said.err;
  const std::string line = said.err.substr(at + 1, said.err.find('\n', at + 1) - at - 1);
  for (const char* part : {" read, ", " written | disk: ", " waits of ", " reads repeated, ",
                           " blocks corrupt, ", " computed again"})
    EXPECT_NE(line.find(part), std::string::npos) << line;
  EXPECT_EQ(line.find("| 0 reads repeated"), std::string::npos) << line;
  EXPECT_EQ(line.find(", 0 computed again"), std::string::npos) << line;
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

TEST_F(SavedRun, ASecondQuestionByAnIndexReadsItsRowsInsteadOfKAndV) {
  engine::testing::SmallModel model =
      engine::testing::make_small_model({.n_layers = 4,
                                         .n_heads = 2,
                                         .n_kv_heads = 1,
                                         .head_dim = 16,
                                         .vocab_size = engine::testing::kLetterVocabulary,
                                         .n_ctx_train = 1 << 16});
  engine::testing::set_letters(model);
  engine::testing::draw_weights(model, 3);
  const std::vector<std::string> by_pq = {
      "-m", this->model(model, "wide.gguf"), "--attn", "pq", "--kv-budget", "256"};
  const auto ask = [&](const std::string& text) { return saved(question(text), by_pq); };
  const auto read_bytes = [](const Outcome& outcome) {
    return object_of(outcome)["tiers"]["nvme"].value("read_bytes", uint64_t{0});
  };
  (void)saved(question("what is it"), with(by_pq, {"--attn", "exact"}));
  const Outcome first = ask("and where");
  EXPECT_GE(cached(first), kPromptLetters - 32);
  EXPECT_NE(first.err.find(", 0 of them indexed before"), std::string::npos) << first.err;
  EXPECT_NE(first.err.find("index rows of this context, "), std::string::npos) << first.err;
  const Outcome second = ask("and where");
  EXPECT_NE(second.err.find(", 3,072 of them indexed before"), std::string::npos) << second.err;
  EXPECT_EQ(second.err.find("index rows of this context, "), std::string::npos) << second.err;
  EXPECT_EQ(tokens_of(second), tokens_of(first));
  EXPECT_LT(read_bytes(second), read_bytes(first));

  const std::vector<std::string> folder = {"--session-dir", folder_.path("saved")};
  const auto list = object_of(run_strata(with({"cache", "list", "--json"}, folder)));
  ASSERT_EQ(list["packs"].size(), 1u);
  EXPECT_GT(list["packs"][0]["rows_bytes"], 0);
  EXPECT_EQ(list["packs"][0]["bytes"], list["used_bytes"]);
  const std::string rows = list["packs"][0]["name"].get<std::string>() + ".pq1.rows";
  auto bytes = tiers::bytes_of_file(folder_.path("saved/" + rows));
  EXPECT_EQ(bytes.size(), list["packs"][0]["rows_bytes"]);
  bytes[bytes.size() / 2] ^= std::byte{1};
  tiers::write_file(folder_.path("saved/" + rows), bytes);
  const Outcome verified = run_strata(with({"session", "verify", "--json"}, folder));
  EXPECT_EQ(verified.exit_code, 4);
  const auto bad = nlohmann::json::parse(verified.out)["bad"];
  ASSERT_EQ(bad.size(), 1u);
  EXPECT_EQ(bad[0]["kind"], "rows");
  EXPECT_EQ(bad[0]["name"], rows);
  const Outcome third = ask("and where");
  EXPECT_NE(third.err.find("1 files of index rows were damaged"), std::string::npos) << third.err;
  EXPECT_EQ(tokens_of(third), tokens_of(first));
  EXPECT_EQ(run_strata(with({"session", "verify"}, folder)).exit_code, 0);
}

TEST_F(SavedRun, WhatIsReadExactlyForAChoiceIsSavedForEverybody) {
  const Outcome first = saved(question("what is it"), {"--attn", "mean", "--kv-budget", "256"});
  EXPECT_NE(first.err.find("saved "), std::string::npos) << first.err;
  const Outcome second = saved(question("and where"));
  EXPECT_GE(cached(second), kPromptLetters - 32);
  EXPECT_EQ(tokens_of(second), tokens_of(run_strata(question("and where"))));
}

TEST_F(SavedRun, WhatIsReadSparselyIsFoundByWhoReadsInTheSameWay) {
  const std::vector<std::string> by_mean = {"--attn",           "mean", "--kv-budget", "256",
                                            "--sparse-prefill", "512"};
  const Outcome first = saved(question("what is it"), by_mean);
  EXPECT_EQ(cached(first), 0u);
  const Outcome second = saved(question("and where"), by_mean);
  EXPECT_GE(cached(second), kPromptLetters - 32);
  EXPECT_NE(second.err.find("were read before, sparsely from token 512 on"), std::string::npos)
      << second.err;
  EXPECT_EQ(cached(saved(question("and where"), with(by_mean, {"--kv-budget", "512"}))), 0u);
  const Outcome exact = saved(question("and where"));
  EXPECT_EQ(cached(exact), 0u);
  EXPECT_EQ(tokens_of(exact), tokens_of(run_strata(question("and where"))));
  // Now that the text was read exactly, that is the better beginning.
  const Outcome third = saved(question("and whence"), by_mean);
  EXPECT_GE(cached(third), kPromptLetters - 32);
  EXPECT_EQ(third.err.find("sparsely from token"), std::string::npos) << third.err;
}

TEST_F(SavedRun, ConversationThatBeginsAnewFindsWhatIsSaved) {
  const std::string first = text_of(prompt_), other = text_of(prompt(12));
  Launch launch;
  launch.arguments = with(chat(), {"--json"});
  launch.has_input = true;
  // The third conversation begins as the first, of which memory holds nothing by then.
  launch.input = first + "\n/clear\n" + other + "\n/clear\n" + first + "\n";
  const Outcome outcome = run_strata(launch);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  std::vector<uint64_t> cached;
  std::istringstream lines(outcome.out);
  for (std::string line; std::getline(lines, line);)
    cached.push_back(nlohmann::json::parse(line)["usage"].value("cached_tokens", uint64_t{0}));
  ASSERT_EQ(cached.size(), 3u) << outcome.out;
  EXPECT_LE(cached[1], 2u);  // what begins every text is still in memory
  EXPECT_GE(cached[2], kPromptLetters - 32);
}

TEST_F(SavedRun, AShortConversationDoesNotGoOnWithWhatWasReadSparsely) {
  const std::string text = text_of(prompt_);
  const std::string beginning = text.substr(0, 320);  // shorter than where sparse reading begins
  Launch launch;
  launch.arguments =
      with(chat(), {"--json", "--attn", "mean", "--kv-budget", "256", "--sparse-prefill", "512"});
  launch.has_input = true;
  launch.input = text + "\n/clear\n" + beginning + "\n";
  EXPECT_EQ(run_strata(launch).exit_code, 0);
  // Everybody finds it.
  launch.arguments = with(chat(), {"--json"});
  launch.input = beginning + "\n";
  EXPECT_GE(cached(run_strata(launch)), 256u);
}

TEST_F(SavedRun, CtrlCTwiceLeavesAConversationThatWaitsToSave) {
  StrataProcess process(with(chat(), {"-n", "-1", "--session", "text"}),
                        StrataProcess::Input::kPipe);
  process.send(text_of(prompt_) + "\n");
  ASSERT_TRUE(process.wait_for_out("a"));  // the prompt is read and its pack on its way
  // Whoever locks the directory first makes it.
  const int lock = ::open(folder_.path("saved/.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  process.interrupt();
  ASSERT_TRUE(process.wait_for_err("stopped by you"));
  process.interrupt();
  process.read_for(std::chrono::milliseconds(100));  // two at once would be one
  process.interrupt();
  const Outcome outcome = process.finish();
  ::close(lock);
  EXPECT_EQ(outcome.exit_code, 130);
  // Neither was it saved, nor was it waited for until that was given up.
  for (const char* end : {"\nsaved  ", "another process"})
    EXPECT_EQ(outcome.err.find(end), std::string::npos) << outcome.err;
  for (const std::string& name : tiers::names_in(folder_.path("saved")))
    EXPECT_TRUE(name.ends_with(".pack")) << name;
}

}  // namespace
}  // namespace strata::cli
