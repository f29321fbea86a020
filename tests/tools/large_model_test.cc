// A model of more than a hundred MiB through the program: how its weights are loaded is measured and
// said.
#include <gtest/gtest.h>

#include "tests/engine/tiny_engine.h"
#include "tests/tools/refusal.h"

namespace strata::cli {
namespace {

using testing::Outcome;
using testing::run_strata;
using Words = std::vector<std::string>;

class LargeModel : public testing::RefusalTest {
 protected:
  static constexpr uint32_t kLayers = 32;

  /// 193 MiB of weights, 6 in each layer.
  LargeModel() {
    engine::testing::SmallModel model =
        engine::testing::make_small_model({.n_layers = kLayers,
                                           .d_model = 64,
                                           .d_ff = 8192,
                                           .vocab_size = engine::testing::kLetterVocabulary,
                                           .n_ctx_train = 4096});
    engine::testing::set_letters(model);
    engine::testing::draw_weights(model, 3);
    model_ = this->model(model);
  }
  Words run(const Words& more) const {
    Words words = {"run",    "-m",  model_,   "-p", "abc",       "-n",  "12",
                   "-t",     "2",   "-b",     "32", "-c",        "512", "--ignore-eos",
                   "--temp", "1.5", "--seed", "7",  "--no-cache"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  std::string model_;
};

TEST_F(LargeModel, AutoSaysHowItLoadedAndWhatItMeasured) {
  const Outcome by_itself = run_strata(run({}));
  ASSERT_EQ(by_itself.exit_code, 0) << by_itself.err;
  const size_t line = by_itself.err.find("loaded ");
  ASSERT_NE(line, std::string::npos) << by_itself.err;
  const std::string said = by_itself.err.substr(line, by_itself.err.find('\n', line) - line);
  EXPECT_NE(said.find("page cache ("), std::string::npos) << said;
  EXPECT_NE(said.find(": measured "), std::string::npos) << said;
  EXPECT_NE(said.find("/s direct, "), std::string::npos) << said;
  EXPECT_TRUE(said.ends_with("/s mmap")) << said;
  // Who names the way knows it.
  for (const std::string mode : {"mmap", "direct"}) {
    const Outcome named = run_strata(run({"--load", mode}));
    EXPECT_EQ(named.out, by_itself.out);
    EXPECT_EQ(named.err.find("loaded "), std::string::npos) << named.err;
    const Outcome verbose = run_strata(run({"--load", mode, "-v"}));
    EXPECT_NE(verbose.err.find("(" + mode), std::string::npos) << verbose.err;
    EXPECT_EQ(verbose.err.find("measured"), std::string::npos) << verbose.err;
  }
}

}  // namespace
}  // namespace strata::cli
