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

struct Answer {
  std::string text;
  std::vector<int32_t> tokens;
  std::string finish_reason;
};

Answer ask(const std::string& model, const std::string& n_threads, const std::string& chunk_rows) {
  const auto output = std::filesystem::path(build_path("golden_demo_answer.json"));
  const std::vector<std::string> arguments = {"run",
                                              "-m",
                                              model,
                                              "-f",
                                              tree_path("examples/archive-log.txt"),
                                              "-p",
                                              "What is the new access code of the north door?",
                                              "--temp",
                                              "0",
                                              "-n",
                                              "32",
                                              "-t",
                                              n_threads,
                                              "-b",
                                              chunk_rows,
                                              "--json",
                                              "-o",
                                              output.string()};
  EXPECT_EQ(cli::run_program(arguments, [](const std::string&) { return std::nullopt; }), 0);
  std::ifstream file(output);
  const auto json = nlohmann::json::parse(file);
  return {json.at("text"), json.at("tokens"), json.at("finish_reason")};
}

TEST(GoldenDemo, TheQuestionIsAnsweredWithTheSameTokensInEveryThreadCountAndChunk) {
  STRATA_GOLDEN_MODEL(model, kSmolLm2);
  const Answer answer = ask(model, "2", "512");
  EXPECT_NE(answer.text.find("7305"), std::string::npos) << answer.text;
  EXPECT_EQ(answer.finish_reason, "stop");
  EXPECT_EQ(ask(model, "1", "512").tokens, answer.tokens) << "1 thread";
  EXPECT_EQ(ask(model, "2", "64").tokens, answer.tokens) << "chunks of 64";
}

}  // namespace
}  // namespace strata::golden
