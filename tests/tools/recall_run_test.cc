// `strata run` from its arguments to the answer's file, on a model that knows what is right.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/engine/test_folder.h"
#include "tools/cli/program.h"
#include "tools/makers/recall_model.h"
#include "tools/makers/recall_text.h"

namespace strata::cli {
namespace {

constexpr uint64_t kSeed = 5;
constexpr uint32_t kAnswer = 5;  // words

int run(const std::vector<std::string>& arguments) {
  return run_program(arguments, [](const std::string&) { return std::nullopt; });
}

TEST(RecallRun, TheAnswerStandsInTheOutputFile) {
  const engine::testing::TestFolder folder;
  const std::string model_path = folder.path("recall.gguf"), text_path = folder.path("text.txt"),
                    answer_path = folder.path("answer.txt");
  const auto model = makers::RecallModel::make(makers::recall_variant());
  model.write(model_path);
  const makers::RecallTask task = make_recall_task(model, 3, kAnswer, kSeed);
  const std::string text = model.text(make_recall_text(model, 700, task.passages, kSeed).words);
  std::ofstream(text_path) << text << "\n";
  for (const makers::RecallQuestion& question : task.questions) {
    const std::string asked = " " + model.text(question.ask);
    for (const std::vector<std::string>& prompt :
         {std::vector<std::string>{"-p", text + asked}, {"-f", text_path, "-p", asked}}) {
      std::vector<std::string> arguments = {"run",    "-m", model_path, "--raw", "-c", "1k",
                                            "--temp", "0",  "-n",       "5",     "-o", answer_path};
      arguments.insert(arguments.end(), prompt.begin(), prompt.end());
      ASSERT_EQ(run(arguments), 0);
      std::ostringstream answer;
      answer << std::ifstream(answer_path).rdbuf();
      EXPECT_EQ(answer.str(), " " + model.text(question.answer) + "\n") << prompt[0];
    }
  }
}

}  // namespace
}  // namespace strata::cli
