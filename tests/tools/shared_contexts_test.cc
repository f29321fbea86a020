// Processes of `strata` that save, restore, verify, pin, evict and remove in one directory and
// under one session's name at the same time: answers are those of a process that is alone, and
// nothing is left that is not whole. STRATA_SHARED_ROUNDS sets how often four of them start (5),
// five under one name (4), and four of which two are killed (4).
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
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
  static constexpr uint64_t kBlockPositions = 32;

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
  /// With what is saved in the directory.
  Outcome run_saved(const Words& arguments) const {
    testing::Launch launch;
    launch.arguments = in_directory(arguments);
    launch.environment = {{"STRATA_NO_CACHE", "0"}};
    return run_strata(launch);
  }
  std::vector<Outcome> run_at_once(const std::vector<Words>& tasks) const {
    std::vector<std::unique_ptr<StrataProcess>> processes;
    for (const Words& task : tasks)
      processes.push_back(std::make_unique<StrataProcess>(
          in_directory(task), StrataProcess::Input::kNone,
          std::map<std::string, std::string>{{"STRATA_NO_CACHE", "0"}}));
    std::vector<Outcome> outcomes;
    for (const auto& process : processes) outcomes.push_back(process->finish());
    return outcomes;
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
    EXPECT_EQ(tokens_of(run_saved(question(text))), answers_[text]);
    const Outcome again = run_saved(question(text));
    EXPECT_EQ(tokens_of(again), answers_[text]);
    EXPECT_GT(object_of(again)["usage"].value("cached_tokens", uint64_t{0}), 0u) << again.err;
  }
  expect_whole();
}

/// Of processes that save under one name some are killed in the middle of it: what the others were
/// told to have saved is there, and what is there is whole.
TEST_F(SharedContexts, ProcessesThatAreKilledTakeNothingFromTheOthers) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const Words save = {"session", "save", "shared", "-m", model_, "-c", "3k", "-b", "64", "-t", "1"};
  int64_t whole_ms = 0;  // of a round without kills, the first
  uint64_t n_killed = 0, n_found = 0;
  const uint64_t n_rounds = tiers::repeats("STRATA_SHARED_ROUNDS", 4);
  for (uint64_t round = 0; round < n_rounds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    directory_ = folder_.path("killed-" + std::to_string(round));
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::unique_ptr<StrataProcess>> processes;
    for (uint32_t i = 0; i < kProcesses; ++i)
      processes.push_back(std::make_unique<StrataProcess>(
          in_directory(i < kTexts ? with(question(i), {"--session", "shared"})
                                  : with(save, {"-f", texts_[random() % kTexts]})),
          StrataProcess::Input::kNone,
          std::map<std::string, std::string>{{"STRATA_NO_CACHE", "0"}}));
    if (round > 0) {
      const auto first = static_cast<uint32_t>(random() % kProcesses);
      for (const uint32_t victim : {first, (first + 1) % kProcesses}) {
        const int64_t moment_ms = static_cast<int64_t>(random() % 1000) * whole_ms / 2000;
        processes[victim]->read_for(std::chrono::milliseconds(moment_ms));
        processes[victim]->signal(SIGKILL);
      }
    }
    std::vector<bool> is_saved(kTexts);
    for (uint32_t i = 0; i < kProcesses; ++i) {
      const Outcome outcome = processes[i]->finish();
      if (outcome.exit_code == 128 + SIGKILL) {
        ++n_killed;
        continue;
      }
      EXPECT_EQ(outcome.exit_code, 0) << outcome.err << outcome.out;
      if (i == kTexts) continue;
      EXPECT_EQ(tokens_of(outcome), answers_[i]);
      is_saved[i] = outcome.err.find(", named shared") != std::string::npos;
      EXPECT_TRUE(is_saved[i]) << outcome.err;
    }
    if (round == 0)
      whole_ms =
          std::chrono::ceil<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start)
              .count();
    // Who opens the directory next clears away what those who were killed had begun.
    EXPECT_EQ(run_strata(in_directory({"session", "verify"})).exit_code, 0);
    expect_whole();
    for (uint32_t text = 0; text < kTexts; ++text) {
      const Outcome again = run_saved(question(text));
      EXPECT_EQ(tokens_of(again), answers_[text]);
      if (!is_saved[text]) continue;
      const auto usage = object_of(again)["usage"];
      EXPECT_GE(usage["cached_tokens"].get<uint64_t>() + kBlockPositions,
                usage["prompt_tokens"].get<uint64_t>())
          << text;
      ++n_found;
    }
  }
  std::printf("%" PRIu64 " killed, %" PRIu64 " answers of others found again\n", n_killed, n_found);
  if (n_rounds > 1) {
    EXPECT_GT(n_killed, 0u);
  }
}

/// Two answers and a text under one name at the same time, while it is checked and, every second
/// time, removed.
TEST_F(SharedContexts, WhatOneNameIsSaidToHoldIsThereAndWhole) {
  const uint64_t n_rounds = tiers::repeats("STRATA_SHARED_ROUNDS", 4);
  uint64_t n_named = 0, n_removed = 0;
  for (uint64_t round = 0; round < n_rounds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    directory_ = folder_.path("one-name-" + std::to_string(round));
    const bool removes = round % 2 == 1;
    if (removes) {
      EXPECT_EQ(run_saved(with(question(2), {"--session", "shared"})).exit_code, 0);
    }
    const std::vector<Words> tasks = {with(question(0), {"--session", "shared"}),
                                      with(question(1), {"--session", "shared"}),
                                      {"session", "save", "shared", "-m", model_, "-f", texts_[2],
                                       "-c", "3k", "-b", "64", "-t", "1", "--json"},
                                      {"session", removes ? "rm" : "verify", "shared", "--json"},
                                      {"session", "verify", "--json"}};
    std::vector<Outcome> outcomes = run_at_once(tasks);
    EXPECT_EQ(tokens_of(outcomes[0]), answers_[0]);
    EXPECT_EQ(tokens_of(outcomes[1]), answers_[1]);
    // What is not there yet, or any more, is no error of the directory.
    for (const size_t of : {size_t{3}, size_t{4}})
      EXPECT_TRUE(outcomes[of].exit_code == 0 || outcomes[of].exit_code == 2)
          << outcomes[of].out << outcomes[of].err;
    const bool is_removed = removes && outcomes[3].exit_code == 0;
    if (is_removed) {
      ++n_removed;
      EXPECT_EQ(object_of(outcomes[3])["removed"].size(), 1u) << outcomes[3].out;
    }
    std::vector<bool> is_named(kTexts);
    for (uint32_t text = 0; text < kTexts; ++text) {
      is_named[text] =
          outcomes[text].exit_code == 0 &&
          (text == 2 || outcomes[text].err.find(", named shared") != std::string::npos);
      if (is_named[text]) ++n_named;
      EXPECT_TRUE(is_named[text] || is_removed) << text << outcomes[text].out << outcomes[text].err;
    }
    expect_whole();
    // Alone, it is whole; or gone, where nobody saved it after it was removed.
    const Outcome alone = run_strata(in_directory({"session", "verify", "shared"}));
    EXPECT_TRUE(alone.exit_code == 0 || (is_removed && alone.exit_code == 2))
        << alone.exit_code << alone.out << alone.err;
    if (is_removed) continue;
    // The name has one of the texts, and all that was said to be saved is found again.
    EXPECT_EQ(run_strata(in_directory({"session", "show", "shared"})).exit_code, 0);
    for (uint32_t text = 0; text < kTexts; ++text) {
      const Outcome again = run_saved(question(text));
      EXPECT_EQ(tokens_of(again), answers_[text]);
      const auto usage = object_of(again)["usage"];
      EXPECT_GE(usage["cached_tokens"].get<uint64_t>() + kBlockPositions,
                usage["prompt_tokens"].get<uint64_t>())
          << text;
    }
  }
  // Where it is removed it was saved before, and nobody else removes it.
  if (n_rounds > 1) {
    EXPECT_GT(n_removed, 0u);
  }
  std::printf("%" PRIu64 " saved under one name, %" PRIu64 " times it was removed meanwhile\n",
              n_named, n_removed);
}

}  // namespace
}  // namespace strata::cli
