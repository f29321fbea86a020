// Processes of `strata` that save, restore, verify, pin, evict and remove in one directory and
// under one session's name at the same time: answers are those of a process that is alone, and
// nothing is left that is not whole. STRATA_SHARED_ROUNDS sets how often four of them start (5).
#include <gtest/gtest.h>

#include <algorithm>
#include <cinttypes>
#include <filesystem>
#include <memory>
#include <random>

#include "tests/tiers/long_run.h"
#include "tests/tools/spilling_model.h"
#include "tiers/pack_format.h"
#include "tiers/rows_format.h"
#include "tiers/session_manifest.h"

namespace strata::cli {
namespace {

using testing::Outcome;
using testing::run_strata;
using testing::StrataProcess;
using testing::with;
using Words = std::vector<std::string>;

class SharedContexts : public testing::SpillingTest {
 protected:
  static constexpr uint32_t kTexts = 3;
  static constexpr uint32_t kProcesses = 4;

  SharedContexts() {
    for (uint32_t i = 0; i < kTexts; ++i) {
      std::mt19937 random(100 + i);
      std::string text;
      // They begin alike: their packs are shared, and the longer ones go on from others.
      for (uint32_t at = 0; at < 900 + i * 500; ++at)
        text += static_cast<char>('a' + (at < 700 ? at * at : random()) % 26);
      texts_.push_back(folder_.write("text-" + std::to_string(i), text));
      const Outcome alone = run_strata(question(i));
      answers_.push_back(tokens_of(alone));
    }
  }

  Words question(uint32_t text) const {
    return with(in_memory(texts_[text]), {"-c", "3k", "-n", "8"});
  }
  Words in_directory(const Words& arguments) const {
    return with(arguments, {"--session-dir", directory_});
  }
  /// What the process is to do; where it is a question, about which text.
  struct Task {
    Words arguments;
    uint32_t text = kTexts;
  };
  Task draw(std::mt19937_64& random) const {
    const auto text = static_cast<uint32_t>(random() % kTexts);
    // Three megabytes hold two of the texts.
    const Words asked = with(in_directory(question(text)), {"--cache-budget", "3MiB"});
    switch (random() % 8) {
      case 0:
        return {in_directory({"session", "verify", "--json"})};
      case 1:
        return {in_directory({"cache", "rm", "--all"})};
      case 2:
        return {in_directory({"session", "rm", "shared"})};
      case 3:
        return {in_directory({"session", "list", "--json"})};
      case 4:
      case 5:
        return {with(asked, {"--session", "shared"}), text};
      default:
        return {asked, text};
    }
  }
  /// Every file is one of ours under its own name, and whole.
  void expect_whole() const {
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      const std::string name = entry.path().filename();
      EXPECT_TRUE(name == ".lock" || tiers::is_pack_file_name(name) ||
                  !tiers::pack_of_rows_file(name).empty() ||
                  !tiers::session_of_file_name(name).empty())
          << name;
    }
    const Outcome verified = run_strata(in_directory({"session", "verify"}));
    EXPECT_EQ(verified.exit_code, 0) << verified.out << verified.err;
    const Outcome listed = run_strata(in_directory({"session", "list", "--json"}));
    const auto sessions = nlohmann::json::parse(listed.out, nullptr, false);
    ASSERT_TRUE(sessions.is_array()) << listed.out << listed.err;
    for (const auto& session : sessions) EXPECT_EQ(session["verified"], true) << session;
  }

  std::string directory_ = folder_.path("shared");
  std::vector<std::string> texts_, answers_;
};

TEST_F(SharedContexts, ProcessesThatDoEverythingAtOnceDamageNothingAndAnswerAsIfAlone) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const uint64_t n_rounds = tiers::repeats("STRATA_SHARED_ROUNDS", 5);
  uint64_t n_answers = 0, n_restored = 0;
  for (uint64_t round = 0; round < n_rounds; ++round) {
    std::vector<Task> tasks;
    std::vector<std::unique_ptr<StrataProcess>> processes;
    for (uint32_t i = 0; i < kProcesses; ++i) {
      tasks.push_back(draw(random));
      processes.push_back(std::make_unique<StrataProcess>(
          tasks.back().arguments, StrataProcess::Input::kNone,
          std::map<std::string, std::string>{{"STRATA_NO_CACHE", "0"}}));
    }
    for (uint32_t i = 0; i < kProcesses; ++i) {
      const Outcome outcome = processes[i]->finish();
      std::string line;
      for (const std::string& word : tasks[i].arguments) line += word + " ";
      SCOPED_TRACE(line + outcome.err + outcome.out);
      if (tasks[i].text == kTexts) {
        // A session that another process has just removed is no error of the directory.
        EXPECT_TRUE(outcome.exit_code == 0 || outcome.exit_code == 2) << outcome.exit_code;
        continue;
      }
      EXPECT_EQ(tokens_of(outcome), answers_[tasks[i].text]);
      ++n_answers;
      const auto usage = object_of(outcome)["usage"];
      if (usage.value("cached_tokens", uint64_t{0}) > 0) ++n_restored;
    }
  }
  expect_whole();
  std::printf("%" PRIu64 " answers, %" PRIu64 " of them from what was saved\n", n_answers,
              n_restored);
  // Alone again, the directory serves as ever.
  for (uint32_t text = 0; text < kTexts; ++text) {
    testing::Launch launch;
    launch.arguments = in_directory(question(text));
    launch.environment = {{"STRATA_NO_CACHE", "0"}};
    EXPECT_EQ(tokens_of(run_strata(launch)), answers_[text]);
    const Outcome again = run_strata(launch);
    EXPECT_EQ(tokens_of(again), answers_[text]);
    EXPECT_GT(object_of(again)["usage"].value("cached_tokens", uint64_t{0}), 0u) << again.err;
  }
  expect_whole();
}

}  // namespace
}  // namespace strata::cli
