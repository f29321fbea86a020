// The question of demo.sh, put to the program itself: exact attention over a real model and a text
// of 5,600 tokens.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/golden/golden_models.h"
#include "tests/tree_paths.h"
#include "tools/cli/program.h"

namespace strata::golden {
namespace {

const std::string kFirstQuestion = "What is the new access code of the north door?";

/// The object that `strata run --json` writes of the demo's text.
nlohmann::json ask(const std::string& model, const std::string& question,
                   const std::vector<std::string>& options) {
  const std::string output = build_path("golden_demo_answer.json");
  std::vector<std::string> arguments = {
      "run", "-m",     model,    "-f",    tree_path("examples/archive-log.txt"),
      "-p",  question, "--temp", "0",     "-n",
      "32",  "-o",     output,   "--json"};
  arguments.insert(arguments.end(), options.begin(), options.end());
  EXPECT_EQ(cli::run_program(arguments, [](const std::string&) { return std::nullopt; }), 0);
  std::ifstream file(output);
  return nlohmann::json::parse(file);
}

TEST(GoldenDemo, TheQuestionIsAnsweredWithTheSameTokensInEveryThreadCountAndChunk) {
  STRATA_GOLDEN_MODEL(model, kSmolLm2);
  const auto asked = [&](const char* n_threads, const char* chunk_rows) {
    return ask(model, kFirstQuestion, {"-t", n_threads, "-b", chunk_rows});
  };
  const nlohmann::json answer = asked("2", "512");
  EXPECT_NE(answer.at("text").get<std::string>().find("7305"), std::string::npos) << answer;
  EXPECT_EQ(answer.at("finish_reason"), "stop");
  EXPECT_EQ(asked("1", "512").at("tokens"), answer.at("tokens")) << "1 thread";
  EXPECT_EQ(asked("2", "64").at("tokens"), answer.at("tokens")) << "chunks of 64";
}

/// As demo.sh asks.
TEST(GoldenDemo, KAndVSpillAndTheSecondQuestionGoesOnFromTheSavedSession) {
  STRATA_GOLDEN_MODEL(model, kSmolLm2);
  const std::filesystem::path folder = build_path("golden_demo");
  std::filesystem::remove_all(folder);
  const std::vector<std::string> options = {"--kv-dram",      "60MiB",         "--nvme",
                                            folder / "spill", "--session-dir", folder / "saved",
                                            "--session",      "archive-log"};
  const nlohmann::json first = ask(model, kFirstQuestion, options);
  EXPECT_NE(first.at("text").get<std::string>().find("7305"), std::string::npos) << first;
  EXPECT_EQ(first.at("usage").at("cached_tokens"), 0);
  EXPECT_LE(first.at("tiers").at("dram").at("kv_bytes"), uint64_t{60} << 20);
  EXPECT_GT(first.at("tiers").at("nvme").at("kv_bytes"), uint64_t{60} << 20);
  const std::string question = "What is the new access code?";
  const nlohmann::json second = ask(model, question, options);
  EXPECT_EQ(second.at("tokens"), ask(model, question, {"--no-cache"}).at("tokens"));
  EXPECT_LT(second.at("usage").at("prompt_tokens").get<int>() -
                second.at("usage").at("cached_tokens").get<int>(),
            64);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace strata::golden
