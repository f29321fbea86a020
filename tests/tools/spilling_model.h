// tests/tools/spilling_model.h - a model of many small layers and a prompt whose K and V do not fit
// into the memory that the tests allow: half of them spill within a second.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "tests/engine/tiny_engine.h"
#include "tests/tools/refusal.h"

namespace strata::cli::testing {

class SpillingTest : public RefusalTest {
 protected:
  static constexpr uint32_t kLayers = 16;
  static constexpr uint64_t kPlaceBytes = uint64_t{16} << 10;  // 2 heads x 8 blocks x 1 KiB
  static constexpr uint64_t kMiB = uint64_t{1} << 20;
  static constexpr uint32_t kExtentPositions = 256;
  static constexpr uint32_t kPromptLetters = 4000;

  SpillingTest() {
    engine::testing::SmallModel model =
        engine::testing::make_small_model({.n_layers = kLayers,
                                           .vocab_size = engine::testing::kLetterVocabulary,
                                           .n_ctx_train = 1 << 16});
    engine::testing::set_letters(model);
    engine::testing::draw_weights(model, 3);
    model_ = this->model(model);
    prompt_ = prompt(11);
    disk_ = folder_.path("spill");
  }

  /// A file of random letters.
  std::string prompt(uint32_t seed) const {
    std::mt19937 random(seed);
    std::string text;
    for (uint32_t i = 0; i < kPromptLetters; ++i) text += static_cast<char>('a' + random() % 26);
    return folder_.write("prompt-" + std::to_string(seed), text);
  }

  /// `strata run` that draws its tokens: with many likely ones each, a wrong bit of a logit soon
  /// shows in an answer of 40.
  /// One thread: beside other tests, two would wait for each other.
  std::vector<std::string> in_memory(const std::string& prompt_file = "") const {
    return {"run", "-m",     model_, "-f",           prompt_file.empty() ? prompt_ : prompt_file,
            "-c",  "8k",     "-b",   "64",           "-t",
            "1",   "-n",     "40",   "--ignore-eos", "--temp",
            "1.5", "--seed", "7",    "--json"};
  }
  /// The same with room for 2,300 positions in memory; 16 KiB of K and V per layer and 256 of them.
  std::vector<std::string> spilling(const std::vector<std::string>& more = {},
                                    const std::string& prompt_file = "") const {
    std::vector<std::string> arguments = in_memory(prompt_file);
    arguments.insert(arguments.end(), {"--kv-dram", "2816KiB", "--nvme", disk_});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  static nlohmann::json object_of(const Outcome& outcome) {
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err << outcome.out;
    nlohmann::json json = nlohmann::json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(json.is_object()) << outcome.out;
    return json;
  }
  static std::string tokens_of(const Outcome& outcome) {
    const nlohmann::json json = object_of(outcome);
    return json.contains("tokens") ? json["tokens"].dump() : "";
  }

  std::string model_, prompt_, disk_;
};

/// An option's new value; an option given twice has its last value.
inline std::vector<std::string> with(std::vector<std::string> arguments,
                                     const std::vector<std::string>& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

inline std::vector<std::string> without_json(std::vector<std::string> arguments) {
  std::erase(arguments, "--json");
  return arguments;
}

inline size_t n_entries(const std::string& folder) {
  size_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++n;
  return n;
}

}  // namespace strata::cli::testing
