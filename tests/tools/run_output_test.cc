// What `run` prints: the answer on standard output and everything else on standard error; the JSON
// contract; which source of an option wins; in which order the texts of a prompt stand.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "tests/engine/small_model.h"
#include "tests/tools/refusal.h"
#include "tests/tools/strata_process.h"
#include "tests/tree_paths.h"

namespace strata::cli {
namespace {

using nlohmann::json;
using testing::as_json;
using testing::Launch;
using testing::Outcome;
using testing::run_saying_a;
using testing::run_strata;

class RunOutput : public testing::RefusalTest {
 protected:
  static json object_of(const Outcome& outcome) {
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.out.find('\n'), outcome.out.size() - 1) << outcome.out;
    return json::parse(outcome.out, nullptr, false);
  }
  static std::set<std::string> keys_of(const json& object) {
    std::set<std::string> keys;
    for (const auto& [key, value] : object.items()) keys.insert(key);
    return keys;
  }
};

TEST_F(RunOutput, HoldsTheAnswerAloneAndTheRestIsOnStandardError) {
  const Outcome outcome = run_strata(run_saying_a(small_model(), "5"));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out, "aaaaa\n");
  EXPECT_NE(outcome.err.find("context 64 of 64 | KV 8.0 KiB f16/f16\n"), std::string::npos);
  EXPECT_NE(outcome.err.find("3 prompt (0 cached) "), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(" | 5 out, "), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(" | context 8 of 64 | exact attention | seed "), std::string::npos)
      << outcome.err;
  EXPECT_NE(outcome.err.find(" | stopped: -n 5\n"), std::string::npos) << outcome.err;
}

TEST_F(RunOutput, GoesToTheFileOfO) {
  auto arguments = run_saying_a(small_model(), "5");
  const std::string path = folder_.write("answer.txt", "an older, longer answer");
  arguments.insert(arguments.end(), {"-o", path});
  EXPECT_EQ(run_strata(arguments).out, "");
  Launch copy;
  copy.arguments = {"tokenize", "-m", small_model(), "-f", path, "--ids"};
  EXPECT_EQ(run_strata(copy).out, "1 0 3 3 3 3 3 0\n");  // <s>, the leading space, aaaaa, newline
}

TEST_F(RunOutput, IsTheContractsObjectWithJson) {
  const json answer = object_of(run_strata(as_json(run_saying_a(small_model(), "5"))));
  EXPECT_EQ(answer["text"], "aaaaa");
  EXPECT_EQ(answer["tokens"], json({3, 3, 3, 3, 3}));
  EXPECT_EQ(answer["finish_reason"], "length");
  EXPECT_EQ(answer["usage"], json({{"prompt_tokens", 3},
                                   {"cached_tokens", 0},
                                   {"recomputed_tokens", 0},
                                   {"completion_tokens", 5},
                                   {"as_generated_tokens", 0}}));
  EXPECT_EQ(keys_of(answer["timings"]),
            (std::set<std::string>{"load_ms", "prefill_ms", "ttft_ms", "decode_ms", "tpot_ms",
                                   "prefill_tokens_per_s", "decode_tokens_per_s"}));
  for (const auto& [key, value] : answer["timings"].items()) EXPECT_GT(value, 0.0) << key;
  EXPECT_GE(answer["timings"]["ttft_ms"], answer["timings"]["prefill_ms"]);
  // The last step reads 3 + 5 - 1 positions of 128 bytes.
  EXPECT_EQ(
      answer["attention"],
      json({{"method", "exact"}, {"kv_read_bytes_per_token", 7 * 128}, {"kv_read_share", 1.0}}));
  const json& dram = answer["tiers"]["dram"];
  for (const char* key : {"budget_bytes", "peak_bytes", "weights_bytes", "kv_bytes"})
    EXPECT_GT(dram.value(key, 0), 0) << key;
  EXPECT_GE(dram["budget_bytes"], dram["weights_bytes"].get<int>() + dram["kv_bytes"].get<int>());
  EXPECT_EQ(answer["faults"], json({{"retries", 0},
                                    {"corrupt_blocks", 0},
                                    {"recomputed_blocks", 0},
                                    {"failed_writes", 0},
                                    {"rows_made_exact", 0}}));
  EXPECT_TRUE(answer["device"].get<std::string>().starts_with("cpu "));
}

TEST_F(RunOutput, SaysWhyTheAnswerEnded) {
  engine::testing::SmallModel small = engine::testing::make_small_model();
  small.set("tokenizer.ggml.eos_token_id", uint32_t{2});
  const std::string path = model(small);
  const auto reason = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"run", "-m", path, "-p", "a", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return object_of(run_strata(arguments))["finish_reason"].get<std::string>();
  };
  EXPECT_EQ(reason({"--logit-bias", "2+99"}), "stop");
  EXPECT_EQ(reason({"--logit-bias", "3+99", "--stop", "aa"}), "stop");
  EXPECT_EQ(reason({"--logit-bias", "3+99"}), "length");  // the context is full
  EXPECT_EQ(reason({"--logit-bias", "3+99", "-n", "2"}), "length");
}

TEST_F(RunOutput, TakesFlagThenVariableThenFileThenDefault) {
  Launch launch;
  const std::string config =
      folder_.write("config.toml", "[prompt]\npredict = 2\n[model]\nctx-size = 32\n");
  const auto n_tokens = [&] {
    return object_of(run_strata(launch))["usage"]["completion_tokens"].get<int>();
  };
  const std::vector<std::string> base = {"run", "-m",           small_model(), "-p",
                                         "a",   "--logit-bias", "3+99",        "--json"};
  launch.arguments = base;
  EXPECT_EQ(n_tokens(), 64 - 3);  // by default until the context is full
  launch.environment["STRATA_CONFIG"] = config;
  EXPECT_EQ(n_tokens(), 2);
  EXPECT_EQ(object_of(run_strata(launch))["n_ctx"], 32);
  launch.environment["STRATA_PREDICT"] = "3";
  EXPECT_EQ(n_tokens(), 3);
  launch.arguments.insert(launch.arguments.end(), {"-n", "4"});
  EXPECT_EQ(n_tokens(), 4);
}

TEST_F(RunOutput, ReadsTheDocumentFirstAndTheQuestionLastInOneTurn) {
  engine::testing::SmallModel small = engine::testing::make_small_model();
  small.set("tokenizer.chat_template",
            std::string("{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"));
  Launch launch;
  const std::vector<std::string> base = {"run", "-m", model(small), "-n", "0", "-v"};
  const auto prompt_of = [&](const std::vector<std::string>& more, const char* input = nullptr) {
    launch.arguments = base;
    launch.arguments.insert(launch.arguments.end(), more.begin(), more.end());
    launch.has_input = input != nullptr;
    launch.input = input == nullptr ? "" : input;
    const std::string err = run_strata(launch).err;
    const size_t begin = err.find("prompt: ");
    return begin == std::string::npos ? err
                                      : err.substr(begin + 8, err.find('\n', begin) - begin - 8);
  };
  const std::string one = folder_.write("one", "ONE\n"), two = folder_.write("two", "TWO");
  EXPECT_EQ(prompt_of({"-p", "Q"}), "[user:Q]");
  EXPECT_EQ(prompt_of({"-p", "Q", "-f", one}), "[user:ONE\\n\\nQ]");
  EXPECT_EQ(prompt_of({"-f", one, "-p", "Q", "-f", two}), "[user:ONE\\n\\nTWO\\n\\nQ]");
  EXPECT_EQ(prompt_of({"-p", "Q"}, "PIPED\n"), "[user:PIPED\\n\\nQ]");
  EXPECT_EQ(prompt_of({}, "PIPED"), "[user:PIPED]");
  EXPECT_EQ(prompt_of({"-f", two, "-f", "-", "-p", "Q"}, "PIPED"), "[user:TWO\\n\\nPIPED\\n\\nQ]");
  EXPECT_EQ(prompt_of({"-s", "S", "-p", "Q"}), "[system:S][user:Q]");
  EXPECT_EQ(prompt_of({"--raw", "-p", "Q", "-f", one}), "ONE\\n\\nQ");
  // What is not read is said.
  prompt_of({"-f", one, "-p", "Q"}, "PIPED");
  EXPECT_NE(run_strata(launch).err.find("note: what stands in standard input is not read"),
            std::string::npos);
}

TEST_F(RunOutput, IsTheSameTextForTheSameSeed) {
  const std::string path = small_model();
  const auto text = [&](const std::string& seed) {
    return object_of(run_strata({"run", "-m", path, "-p", "a", "-n", "20", "--temp", "2", "--seed",
                                 seed, "--json"}))["tokens"];
  };
  EXPECT_EQ(text("7"), text("7"));
  EXPECT_NE(text("7"), text("8"));
}

TEST_F(RunOutput, IsVersionOrHelpWhereAskedFor) {
  EXPECT_EQ(run_strata({"--version"}).out, "strata " + project_version() + "\n");
  EXPECT_EQ(run_strata({"run", "--version"}).out, "strata " + project_version() + "\n");
  for (const std::string verb : {"run", "chat", "inspect", "tokenize", "bench"}) {
    const Outcome help = run_strata({verb, "--help"});
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_EQ(help.err, "");
    EXPECT_TRUE(help.out.starts_with("strata " + verb + " - ")) << help.out;
    EXPECT_EQ(run_strata({"help", verb}).out, help.out);
  }
  const Outcome nothing = run_strata(std::vector<std::string>{});
  EXPECT_EQ(nothing.exit_code, 2);
  EXPECT_EQ(nothing.out, "");
  EXPECT_NE(nothing.err.find("Usage: strata VERB"), std::string::npos);
}

TEST_F(RunOutput, OfChatIsOneObjectALineWithJson) {
  engine::testing::SmallModel small = engine::testing::make_small_model();
  small.set("tokenizer.chat_template",
            std::string("{% for m in messages %}{{ m.content }}{% endfor %}"));
  Launch launch;
  launch.arguments = {"chat", "-m", model(small), "-n", "2", "--logit-bias", "3+99", "--json"};
  launch.has_input = true;
  launch.input = "a\n\"\"\"a\na\"\"\"\n\xff\n" + std::string(100, 'a') + "\na\n";
  const Outcome outcome = run_strata(launch);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  std::vector<json> lines;
  for (size_t begin = 0; begin < outcome.out.size();) {
    const size_t end = outcome.out.find('\n', begin);
    lines.push_back(json::parse(outcome.out.substr(begin, end - begin), nullptr, false));
    begin = end + 1;
  }
  ASSERT_EQ(lines.size(), 5u) << outcome.out;
  for (const size_t answered : {0u, 1u, 4u}) EXPECT_EQ(lines[answered]["text"], "aa");
  EXPECT_EQ(lines[2]["error"]["code"], "bad_text");
  EXPECT_EQ(lines[3]["error"]["code"], "context_length_exceeded");
}

}  // namespace
}  // namespace strata::cli
