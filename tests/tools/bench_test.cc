// `bench` through the program: llama-bench's keys and order, bytes by formula, forms of output,
// depths that are read and depths that are drawn.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/engine/small_model.h"
#include "tests/tools/refusal.h"
#include "tests/tools/strata_process.h"

namespace strata::cli {
namespace {

using engine::testing::make_small_model;
using engine::testing::SmallModelOptions;
using nlohmann::json;
using testing::Outcome;
using testing::run_strata;

constexpr double kKvBytes = 128;  // a token's: 2 layers x 2 KV heads x (K + V of 8 f16)

class Bench : public testing::RefusalTest {
 protected:
  static Outcome bench(const std::string& model, std::vector<std::string> more) {
    more.insert(more.begin(), {"bench", "-m", model});
    const Outcome outcome = run_strata(more);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome;
  }
  static json list_of(const Outcome& outcome) {
    const json list = json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(list.is_array()) << outcome.out;
    return list;
  }
  static std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      lines.push_back(text.substr(begin, end - begin));
      begin = end + 1;
    }
    return lines;
  }
};

TEST_F(Bench, ListsItsTestsInTheOrderOfLlamaBenchWithItsKeys) {
  const json list = list_of(bench(
      small_model(), {"-p", "8,16", "-n", "4", "-d", "0,32", "-r", "3", "-t", "2", "-o", "json"}));
  const std::vector<std::vector<int>> wanted = {{8, 0, 0},  {16, 0, 0},  {0, 4, 0},
                                                {8, 0, 32}, {16, 0, 32}, {0, 4, 32}};
  ASSERT_EQ(list.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    const json& test = list[i];
    EXPECT_EQ((std::vector<int>{test["n_prompt"], test["n_gen"], test["n_depth"]}), wanted[i]);
    for (const char* key : {"model_filename",
                            "model_type",
                            "model_size",
                            "model_n_params",
                            "n_batch",
                            "n_ubatch",
                            "n_threads",
                            "type_k",
                            "type_v",
                            "test_time",
                            "avg_ns",
                            "stddev_ns",
                            "avg_ts",
                            "stddev_ts",
                            "samples_ns",
                            "samples_ts",
                            "median_ts",
                            "bytes_per_token",
                            "gbytes_per_s",
                            "dram_gbytes_per_s",
                            "share_of_dram",
                            "peak_memory_bytes",
                            "memory_limit_bytes"})
      EXPECT_TRUE(test.contains(key)) << key;
    EXPECT_EQ(test["n_threads"], 2);
    EXPECT_EQ(test["type_k"], "f16");
    const auto rates = test["samples_ts"].get<std::vector<double>>();
    ASSERT_EQ(rates.size(), 3u);
    const double sum = rates[0] + rates[1] + rates[2];
    EXPECT_NEAR(test["avg_ts"], sum / 3, 1e-9 * sum);  // three additions and a division in double
    EXPECT_EQ(test["median_ts"], std::max(std::min(rates[0], rates[1]),
                                          std::min(std::max(rates[0], rates[1]), rates[2])));
    EXPECT_EQ(test.contains("depth_fill"), wanted[i][2] > 0);
  }
  // A decoded token at depth d reads d positions more; nothing else grows with the depth.
  EXPECT_EQ(list[5]["bytes_per_token"].get<double>() - list[2]["bytes_per_token"].get<double>(),
            32 * kKvBytes);
  // A prompt of 16 in one chunk reads its weights once: half as many a token as one of 8, but for
  // K and V (read once up to the chunk's end, written once) and the embedding rows.
  EXPECT_LT(list[1]["bytes_per_token"], list[0]["bytes_per_token"]);
}

TEST_F(Bench, StagesTogetherMoveTheBytesOfTheTest) {
  const json list =
      list_of(bench(small_model(), {"-p", "16", "-n", "4", "-r", "1", "--roofline", "--json"}));
  for (const json& test : list) {
    EXPECT_EQ(test["ceilings"]["dram_gbytes_per_s"], test["dram_gbytes_per_s"]);
    double bytes = 0;
    std::vector<std::string> names;
    for (const json& stage : test["stages"]) {
      bytes += stage["bytes"].get<double>();
      names.push_back(stage["stage"]);
      EXPECT_GT(stage["ms"], 0.0);
      EXPECT_FALSE(stage["would_help"].get<std::string>().empty());
    }
    EXPECT_EQ(names, (std::vector<std::string>{"embed", "attn_norm", "qkv", "attend", "attn_output",
                                               "ffn_norm", "ffn_gate_up", "ffn_down", "logits"}));
    EXPECT_GT(test["recompute"]["kv_bytes_per_position"], 0.0);
    EXPECT_EQ(test["recompute"]["gbytes_per_s"], test["dram_gbytes_per_s"]);
    const int n_tokens = test["n_prompt"].get<int>() + test["n_gen"].get<int>();
    EXPECT_NEAR(bytes, test["bytes_per_token"].get<double>() * n_tokens, 0.5);  // whole bytes
  }
}

TEST_F(Bench, PrintsATableCsvOrALineATest) {
  const std::string path = small_model();
  const std::vector<std::string> tests = {"-p", "8", "-n", "4", "-r", "2"};
  const auto printed = [&](const std::string& format) {
    auto arguments = tests;
    arguments.insert(arguments.end(), {"-o", format});
    return lines_of(bench(path, arguments).out);
  };
  const auto table = printed("md");
  ASSERT_EQ(table.size(), 4u);
  EXPECT_TRUE(table[0].starts_with("| model "));
  EXPECT_NE(table[2].find(" pp8 |"), std::string::npos) << table[2];
  EXPECT_NE(table[3].find(" tg4 |"), std::string::npos) << table[3];
  for (const std::string& line : table)
    EXPECT_EQ(std::ranges::count(line, '|'), std::ranges::count(table[0], '|')) << line;

  const auto csv = printed("csv");
  ASSERT_EQ(csv.size(), 3u);
  EXPECT_TRUE(csv[0].starts_with("cpu_info,backends,model_filename,")) << csv[0];
  EXPECT_EQ(std::ranges::count(csv[1], ','), std::ranges::count(csv[0], ','));

  const auto lines = printed("jsonl");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(json::parse(lines[0])["n_prompt"], 8);
  EXPECT_EQ(json::parse(lines[1])["n_gen"], 4);
}

TEST_F(Bench, MeasuresFewerThreadsToo) {
  const std::vector<std::string> usual = {"-p", "8", "-n", "4", "-r", "1", "-t", "2"};
  EXPECT_EQ(bench(small_model(), usual).out.find("with 1 thread"), std::string::npos);
  const std::vector<std::string> twice = {"-p", "8,8", "-n", "0", "-r", "1", "-t", "2"};
  EXPECT_EQ(bench(small_model(), twice).out.find("t/s with"), std::string::npos);
  auto scaled = usual;
  scaled.emplace_back("--scaling");
  const std::string table = bench(small_model(), scaled).out;
  for (const char* test : {"\npp8: ", "\ntg4: "}) {
    const size_t at = table.find(test);
    ASSERT_NE(at, std::string::npos) << table;
    const std::string line = table.substr(at, table.find('\n', at + 1) - at);
    for (const char* text : {" t/s with 1 thread; ", " with 2, ", " x"})
      EXPECT_NE(line.find(text), std::string::npos) << text << line;
  }
  scaled.emplace_back("--json");
  std::vector<int> n_threads;
  for (const json& of : list_of(bench(small_model(), scaled))) n_threads.push_back(of["n_threads"]);
  EXPECT_EQ(n_threads, (std::vector<int>{1, 1, 2, 2}));
  expect_refused({"bench", "-m", small_model(), "--validate-plans", "--scaling"},
                 {2, "usage", {"--validate-plans and --scaling contradict"}, "--scaling", "leave"});
}

TEST_F(Bench, SaysWhereADepthWasDrawnAndNotRead) {
  const std::string path = small_model();
  const Outcome drawn =
      bench(path, {"-p", "0", "-n", "4", "-d", "32", "-r", "1", "--depth-fill", "random"});
  EXPECT_NE(drawn.err.find("note: depths hold random K and V, not text that was read"),
            std::string::npos)
      << drawn.err;
  EXPECT_NE(drawn.out.find("tg4 @ d32 (random KV)"), std::string::npos) << drawn.out;
  for (const std::string fill : {"random", "prefill"}) {
    const json list = list_of(
        bench(path, {"-p", "0", "-n", "4", "-d", "32", "-r", "1", "--depth-fill", fill, "--json"}));
    EXPECT_EQ(list[0]["depth_fill"], fill);
  }
}

TEST_F(Bench, HoldsDepthsOfWindowedLayersInAnyOrder) {
  SmallModelOptions options;
  options.architecture = "gemma3";  // windows of 16 beside full layers
  options.n_layers = 7;
  const std::string path = model(make_small_model(options));
  for (const std::string fill : {"random", "prefill"}) {
    const Outcome outcome =
        bench(path, {"-p", "100", "-n", "40", "-d", "600,0,40,601", "-r", "2", "-b", "32",
                     "--allow-untrained", "--depth-fill", fill, "--json"});
    EXPECT_EQ(list_of(outcome).size(), 8u);
    EXPECT_NE(outcome.err.find("note: beyond 64 tokens this model was never trained"),
              std::string::npos);
    EXPECT_NE(outcome.err.find("memory: peak "), std::string::npos) << outcome.err;
  }
}

TEST_F(Bench, MeasuresQ8KvWhereTheHeadsAllowIt) {
  SmallModelOptions options;
  options.head_dim = 32;
  const std::string path = model(make_small_model(options));
  const json list = list_of(bench(path, {"-p", "0", "-n", "2", "-d", "0,32", "-r", "1", "-ctk",
                                         "q8_0", "-ctv", "f16", "--json"}));
  EXPECT_EQ(list[0]["type_k"], "q8_0");
  EXPECT_EQ(list[0]["type_v"], "f16");
  // 2 layers x 2 KV heads x (32 i8 and one f16 scale of K, 32 f16 of V).
  EXPECT_EQ(list[1]["bytes_per_token"].get<double>() - list[0]["bytes_per_token"].get<double>(),
            32.0 * 4 * (32 + 2 + 64));
}

TEST_F(Bench, CountsWhatADecodedTokenReadsUnderASelection) {
  SmallModelOptions options;
  options.head_dim = 16;
  const std::string path = model(make_small_model(options));
  for (const std::string fill : {"random", "prefill"}) {
    SCOPED_TRACE(fill);
    const std::vector<std::string> test = {
        "-p",           "0",  "-n",    "4", "-d", "1088", "-r", "2", "-t", "2", "--allow-untrained",
        "--depth-fill", fill, "--json"};
    const json exact = list_of(bench(path, test))[0];
    EXPECT_FALSE(exact.contains("attention"));
    for (const std::string method : {"pq", "quest", "sparq", "recent"}) {
      auto arguments = test;
      arguments.insert(arguments.end(), {"--attn", method, "--kv-budget", "256"});
      const json selected = list_of(bench(path, arguments))[0];
      const json& attention = selected["attention"];
      EXPECT_EQ(attention["method"], method);
      EXPECT_EQ(attention["budget"], "256");
      EXPECT_EQ(attention["selected_steps"], 4);
      // 34 full blocks and up to 4 open positions; of these blocks 7 fit 256 positions.
      const double all = 4 * 1088 + 1 + 2 + 3 + 4, attended = 4 * 7 * 32 + 1 + 2 + 3 + 4;
      EXPECT_NEAR(attention["kv_read_share"].get<double>(), attended / all, 1e-12);
      // 2 layers x 2 KV heads x (K + V of 16 f16).
      EXPECT_EQ(attention["kv_read_bytes_per_token"], attended / 4 * 256);
      const double index_bytes = attention["index_read_bytes_per_token"];
      EXPECT_EQ(index_bytes > 0, method != "recent");
      EXPECT_NEAR(
          exact["bytes_per_token"].get<double>() - selected["bytes_per_token"].get<double>(),
          (all - attended) / 4 * 256 - index_bytes, 0.5);
      // What an index holds a position is what a token reads of it, for each of 1,088; of sparq's
      // a quarter for each query head, and less where two ask for the same.
      const double held = selected["index"]["bytes_per_position"];
      if (method == "sparq") {
        EXPECT_LT(index_bytes / 1088, held);
        EXPECT_GE(index_bytes / 1088, held / 4);
        continue;
      }
      EXPECT_NEAR(held, index_bytes / 1088, 1e-9);
    }
  }
}

TEST_F(Bench, SaysWhatObservingAPromptTakes) {
  SmallModelOptions options;
  options.head_dim = 16;
  const std::string path = model(make_small_model(options));
  const std::vector<std::string> test = {"-p",
                                         "96",
                                         "-n",
                                         "0",
                                         "-d",
                                         "1000",
                                         "-r",
                                         "1",
                                         "-b",
                                         "64",
                                         "--attn",
                                         "pq",
                                         "--allow-untrained"};
  auto as_json = test;
  as_json.emplace_back("--json");
  const json read = list_of(bench(path, as_json))[0];
  EXPECT_EQ(read["attention"], (json{{"method", "exact"}}));  // as a prompt of `run` is read
  EXPECT_EQ(read["index"]["method"], "pq");
  EXPECT_EQ(read["index"]["observed_positions"], 96);  // blocks 31, 32 and 33
  // Times of so little work may be too short for the clock.
  EXPECT_GE(read["index"]["observe_cpu_ms_per_1000"], 0.0);
  EXPECT_GE(read["index"]["observe_share_of_prefill"], 0.0);
  const std::string table = bench(path, test).out;
  EXPECT_NE(table.find("pp96 @ d1000, pq index |"), std::string::npos) << table;
  EXPECT_NE(table.find(", pq index: attended exactly; observing"), std::string::npos) << table;
  EXPECT_NE(table.find("% of the rest of reading; its index holds"), std::string::npos) << table;
  auto sparsely = test;  // from a position inside the prompt on
  sparsely.insert(sparsely.end(), {"--kv-budget", "256", "--sparse-prefill", "1040"});
  const std::string sparse = bench(path, sparsely).out;
  EXPECT_NE(sparse.find(", pq index: read sparsely; observing"), std::string::npos) << sparse;
  sparsely.emplace_back("--json");
  EXPECT_EQ(list_of(bench(path, sparsely))[0]["attention"],
            (json{{"method", "pq"}, {"budget", "256"}, {"selected_steps", 1}}));
  auto as_csv = test;
  as_csv.insert(as_csv.end(), {"-o", "csv", "-n", "4"});
  const std::vector<std::string> csv = lines_of(bench(path, as_csv).out);
  ASSERT_EQ(csv.size(), 3u);
  EXPECT_NE(csv[0].find(",attention_method,index_method,index_bytes_per_position,"),
            std::string::npos)
      << csv[0];
  EXPECT_NE(csv[0].find(",attention_budget,"), std::string::npos) << csv[0];
  for (const std::string& line : csv)
    EXPECT_EQ(std::ranges::count(line, ','), std::ranges::count(csv[0], ',')) << line;
}

TEST_F(Bench, PredictionsAndTiersAreOfExactAttention) {
  expect_refused({"bench", "-m", small_model(), "--tiers", "--attn", "pq"},
                 {2, "usage", {"of exact attention"}, "--attn", "without --tiers"});
  expect_refused({"bench", "-m", small_model(), "--device", "virtual:rtx4090", "--attn", "mean"},
                 {2, "usage", {"of exact attention"}, "--attn", "without --tiers"});
}

}  // namespace
}  // namespace strata::cli
