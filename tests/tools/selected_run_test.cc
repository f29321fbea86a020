// `strata run --attn` whose K and V do not fit into memory, as a user meets it: the answer of the
// same choice in memory, and what is said of the disk.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "index/method.h"
#include "tests/tools/spilling_model.h"

namespace strata::cli {
namespace {

using testing::Outcome;
using testing::run_strata;
using testing::with;
using testing::without_json;

class SelectedRun : public testing::SpillingTest {
 protected:
  const std::vector<std::string> oracle_ = {"--attn", "oracle", "--kv-budget", "512"};
  /// Room for a third of K and V beside the oracle's keys and the frames.
  std::vector<std::string> on_disk(const std::string& io) const {
    return with(spilling(oracle_), {"--kv-dram", "21MiB", "--io", io});
  }
};

TEST_F(SelectedRun, GivesTheTokensOfTheSameChoiceInMemory) {
  const Outcome in_dram = run_strata(with(in_memory(), oracle_));
  const std::string expected = tokens_of(in_dram);
  EXPECT_NE(tokens_of(run_strata(in_memory())), expected);  // a choice it is
  EXPECT_EQ(object_of(in_dram)["attention"].value("hit_rate", 0.0), 1.0);
  for (const std::string io : {"auto", "threads"}) {
    const Outcome outcome = run_strata(on_disk(io));
    EXPECT_EQ(tokens_of(outcome), expected) << io;
    const auto answer = object_of(outcome);
    const auto& attention = answer["attention"];
    EXPECT_EQ(attention.value("method", ""), "oracle");
    const double hit_rate = attention.value("hit_rate", 0.0);
    EXPECT_GT(hit_rate, 0.05);
    EXPECT_LT(hit_rate, 0.999);
    // 39 steps; 512 positions of each of 2 KV heads in 16 layers, the open block aside.
    EXPECT_NEAR(attention.value("attended_blocks", 0.0), 39.0 * 16 * 2 * 16, 39.0 * 16 * 2);
    const double n_read = (1 - hit_rate) * attention.value("attended_blocks", 0.0);
    // A block of 1 KiB is read with the 4 KiB that it lies in.
    constexpr double kRounding = 1 - 1e-9;  // of the quotients above
    EXPECT_GE(attention.value("disk_read_bytes_per_token", 0.0) * 39, n_read * 1024 * kRounding);
    EXPECT_LE(attention.value("disk_read_bytes_per_token", 0.0) * 39, n_read * 8192);
    EXPECT_GT(answer["tiers"]["nvme"].value("kv_bytes", 0), 0);
    EXPECT_EQ(answer["faults"].value("rows_made_exact", -1), 0);
  }
}

TEST_F(SelectedRun, ReadsAPromptByTheMethodWhereItIsAskedTo) {
  const std::string exact = tokens_of(run_strata(in_memory()));
  const auto sparsely = [&](const std::string& from, const std::string& budget) {
    return run_strata(
        with(in_memory(), {"--attn", "oracle", "--kv-budget", budget, "--sparse-prefill", from}));
  };
  EXPECT_EQ(tokens_of(sparsely("256", "100%")), exact);
  const Outcome outcome = sparsely("256", "512");
  EXPECT_NE(tokens_of(outcome), tokens_of(run_strata(with(in_memory(), oracle_))));
  EXPECT_EQ(object_of(outcome)["attention"].value("sparse_prefill_from", 0), 256);
  // Of decoded tokens alone: what is said per token is not what chunks read.
  EXPECT_EQ(object_of(outcome)["attention"].value("selected_steps", 0), 39);
  const Outcome line = run_strata(without_json(
      with(in_memory(), {"--attn", "oracle", "--kv-budget", "512", "--sparse-prefill", "256"})));
  EXPECT_NE(line.err.find("prompts read by it too from token 256 on"), std::string::npos)
      << line.err;
  for (const std::string attn : {"exact", "auto"})
    EXPECT_EQ(run_strata(with(in_memory(), {"--attn", attn, "--sparse-prefill", "on"})).exit_code,
              2);
}

TEST_F(SelectedRun, TheLastLineSaysWhatWasFoundInMemoryAndTheTraceWhenItWaited) {
  const std::string trace = folder_.path("trace.json");
  const Outcome outcome = run_strata(without_json(with(on_disk("threads"), {"--trace", trace})));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  const size_t at = outcome.err.find(" | attention oracle 512 (approximate): ");
  ASSERT_NE(at, std::string::npos) << outcome.err;
  const std::string line = outcome.err.substr(at, outcome.err.find('\n', at) - at);
  for (const char* part :
       {" % of K and V read, ", " a step, ", " % of it found in memory, ", " a step from disk"})
    EXPECT_NE(line.find(part), std::string::npos) << line;
  std::ostringstream events;
  events << std::ifstream(trace).rdbuf();
  EXPECT_NE(events.str().find("pin_blocks"), std::string::npos);
  const Outcome near = run_strata(without_json(with(on_disk("threads"), {"--kv-near", "1.5%"})));
  EXPECT_NE(near.err.find("preferred for up to 1.5 % of the weight: the answer depends on what is"),
            std::string::npos)
      << near.err;
  EXPECT_EQ(outcome.err.find("preferred"), std::string::npos) << outcome.err;
  const Outcome in_dram = run_strata(without_json(with(in_memory(), oracle_)));
  EXPECT_EQ(in_dram.err.find("from disk"), std::string::npos) << in_dram.err;
}

/// A paper's rule is its budget, its first and last blocks and its dense layers; layers that a user
/// names take the place of these.
TEST_F(SelectedRun, AttendsWhatAPaperOrTheUserSaysOfLayers) {
  const auto attention = [&](const std::vector<std::string>& more) {
    return object_of(run_strata(with(in_memory(), with({"--attn", "quest"}, more))))["attention"];
  };
  const auto paper = attention({"--kv-budget", "paper"}),
             plain = attention({"--kv-budget", "1024"}),
             all_but_two = attention({"--kv-budget", "paper", "--attn-layers", "2-15:dense"});
  EXPECT_EQ(paper.value("budget", ""), "1024");
  // Of 16 layers the paper's first two attend everything.
  const double dense = 2 + 14 * plain.value("kv_read_share", 0.0);
  EXPECT_NEAR(16 * paper.value("kv_read_share", 0.0), dense, 0.2);
  EXPECT_NEAR(16 * paper.value("index_read_bytes_per_token", 0.0),
              14 * plain.value("index_read_bytes_per_token", 0.0), 1);
  EXPECT_NEAR(8 * all_but_two.value("index_read_bytes_per_token", 0.0),
              plain.value("index_read_bytes_per_token", 0.0), 1);
}

/// A method that trains needs more keys than a short prompt has; a budget may be larger than the
/// context. Either way the answer is that of exact attention, and the last line says so.
TEST_F(SelectedRun, SaysThatItIsExactWhereNothingIsLeftOut) {
  engine::testing::SmallModel small = engine::testing::make_small_model(
      {.head_dim = 16, .vocab_size = engine::testing::kLetterVocabulary, .n_ctx_train = 8192});
  engine::testing::set_letters(small);
  engine::testing::draw_weights(small, 5);
  model_ = model(small, "wide.gguf");
  const std::string ten = folder_.write("ten", "abcdefgh"),  // with <s> and the leading space
      long_text = prompt(12);
  const auto run = [&](const std::string& text, const std::vector<std::string>& more) {
    return run_strata(with(in_memory(text), with({"--raw", "-c", "5000"}, more)));
  };
  const auto line = [&](const std::string& text, const std::vector<std::string>& more) {
    return run_strata(without_json(with(in_memory(text), with({"--raw", "-c", "5000"}, more)))).err;
  };
  const std::string exact_ten = tokens_of(run(ten, {"-n", "100"}));
  EXPECT_EQ(object_of(run(ten, {"-n", "100"}))["usage"].value("prompt_tokens", 0), 10);
  for (const auto& method : index::method_names()) {
    SCOPED_TRACE(method.name);
    const Outcome of_ten = run(ten, {"-n", "100", "--attn", method.name, "--kv-budget", "2%"});
    EXPECT_EQ(tokens_of(of_ten), exact_ten);
    EXPECT_TRUE(object_of(of_ten)["attention"].value("nothing_left_out", false));
    const std::string err = line(ten, {"-n", "100", "--attn", method.name, "--kv-budget", "2%"});
    EXPECT_NE(err.find(std::string(" | attention ") + method.name +
                       " 2% (exact here: nothing was left out): 100.0 % of K and V read"),
              std::string::npos)
        << err;
  }
  const std::string exact_long = tokens_of(run(long_text, {}));
  const std::vector<std::string> above = {"--attn", "pq", "--kv-budget", "100000"},
                                 below = {"--attn", "pq", "--kv-budget", "256"};
  EXPECT_EQ(tokens_of(run(long_text, above)), exact_long);
  EXPECT_EQ(object_of(run(long_text, above))["attention"].value("kv_read_share", 0.0), 1.0);
  EXPECT_NE(line(long_text, above).find("pq 100000 (exact here: nothing was left out): 100.0 %"),
            std::string::npos);
  EXPECT_NE(line(long_text, below).find("pq 256 (approximate): "), std::string::npos);
  EXPECT_FALSE(object_of(run(long_text, below))["attention"].value("nothing_left_out", true));
  // Chunks of a prompt may have left something out that no decoded token did.
  EXPECT_NE(line(long_text, with(above, {"--sparse-prefill", "256"})).find("(approximate)"),
            std::string::npos);
}

}  // namespace
}  // namespace strata::cli
