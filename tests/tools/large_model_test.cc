// A model of more than a hundred MiB through the program: how its weights are loaded is measured
// and said, and it runs where memory does not hold it.
#include <gtest/gtest.h>

#include <cinttypes>

#include "tests/engine/tiny_engine.h"
#include "tests/tiers/child_process.h"
#include "tests/tools/memory_group.h"
#include "tests/tools/refusal.h"

namespace strata::cli {
namespace {

using testing::Launch;
using testing::MemoryGroup;
using testing::Outcome;
using testing::run_strata;
using Words = std::vector<std::string>;

class LargeModel : public testing::RefusalTest {
 protected:
  static constexpr uint32_t kLayers = 32;
  static constexpr uint64_t kMiB = uint64_t{1} << 20;

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
    file_bytes_ = std::filesystem::file_size(model_);
  }
  Words run(const Words& more) const {
    Words words = {"run",    "-m",  model_,   "-p", "abc",       "-n",  "12",
                   "-t",     "2",   "-b",     "32", "-c",        "512", "--ignore-eos",
                   "--temp", "1.5", "--seed", "7",  "--no-cache"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  std::string model_;
  uint64_t file_bytes_ = 0;
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

/// The kernel ends what exceeds the group, which is smaller than the weights alone.
TEST_F(LargeModel, RunsInLessMemoryThanItsWeightsTake) {
  const uint64_t dram = 128 * kMiB, limit = dram + 16 * kMiB;
  ASSERT_GT(file_bytes_, limit + 16 * kMiB);
  const Outcome whole = run_strata(run({"--json"}));
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  STRATA_EXPECT_CHILD_PASSES(tiers::run_in_child([&] {
    const MemoryGroup group(limit);
    Launch launch;
    launch.arguments = run({"--json", "--dram", std::to_string(dram)});
    launch.prepare = [&] { group.enter(); };
    const Outcome outcome = run_strata(launch);
    std::printf("%" PRIu64 " bytes of weights, limit %" PRIu64 ", peak %" PRIu64 ", exit code %d\n",
                file_bytes_, limit, group.peak_bytes(), outcome.exit_code);
    (void)std::fflush(stdout);
    tiers::demand(outcome.exit_code == 0,
                  std::to_string(outcome.exit_code) + outcome.out + outcome.err);
    tiers::demand(group.peak_bytes() <= limit, "the limit does not hold");
    const auto found = nlohmann::json::parse(outcome.out);
    tiers::demand(found["tokens"] == nlohmann::json::parse(whole.out)["tokens"],
                  "another answer: " + outcome.out);
  }));
}

}  // namespace
}  // namespace strata::cli
