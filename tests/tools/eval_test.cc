// `eval` through the program: forms of output, and what it refuses.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/engine/zoo_fixture.h"
#include "tests/tools/refusal.h"
#include "tests/tools/strata_process.h"
#include "tools/eval/attention_trace.h"
#include "tools/makers/recall_model.h"

namespace strata::cli {
namespace {

using nlohmann::json;
using testing::Outcome;
using testing::run_strata;

/// What every row of a text has when attention is probed.
constexpr const char* kTextKeys[] = {"method",
                                     "text",
                                     "budget",
                                     "budget_share",
                                     "kld",
                                     "kld_error",
                                     "kld_p99",
                                     "kld_of_oracle",
                                     "top1_agreement",
                                     "perplexity",
                                     "exact_perplexity",
                                     "mass_recall",
                                     "mass_recall_p10",
                                     "mass_recall_least",
                                     "output_error_median",
                                     "output_error_p99",
                                     "set_recall",
                                     "reuse",
                                     "fetched_over_useful",
                                     "weight_bias",
                                     "layers",
                                     "kv_read_share",
                                     "kv_read_bytes_per_token",
                                     "index_bytes_per_token",
                                     "index_read_bytes_per_token"};

class Eval : public testing::RefusalTest {
 protected:
  std::string zoo_model() {
    const std::string path = folder_.path("zoo.gguf");
    makers::write_random_transformer(makers::zoo_member("llama3").model, path);
    return path;
  }
  /// Words that the zoo's vocabulary can express, some hundred tokens.
  std::string text(const std::string& name, size_t n_words) {
    std::string words;
    for (size_t i = 0; i < n_words; ++i) words += "the " + std::to_string(i * i % 97) + " a ";
    return folder_.write(name, words);
  }
};

/// The oracle, which is judged by itself, is no paper's.
TEST_F(Eval, OfPapersRulesLeavesTheOracleOut) {
  const Outcome outcome =
      run_strata({"eval", "-m", zoo_model(), "-f", text("a.txt", 300), "--attn", "oracle,quest",
                  "--kv-budget", "paper", "--last", "8", "-c", "400", "--json"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  std::vector<std::string> methods;
  for (const json& row : json::parse(outcome.out)) methods.push_back(row.at("method"));
  EXPECT_EQ(methods, std::vector<std::string>{"quest"});
}

TEST_F(Eval, ListsEveryMethodBudgetAndTextAndAllTextsTogether) {
  const std::vector<std::string> arguments = {"eval",
                                              "-m",
                                              zoo_model(),
                                              "-f",
                                              text("a.txt", 300),
                                              "-f",
                                              text("b.txt", 330),
                                              "--attn",
                                              "oracle,quest",
                                              "--kv-budget",
                                              "256,50%",
                                              "--last",
                                              "8",
                                              "-c",
                                              "400",
                                              "--probe",
                                              "-t",
                                              "2"};
  auto as_list = arguments;
  as_list.push_back("--json");
  const Outcome outcome = run_strata(as_list);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const json list = json::parse(outcome.out, nullptr, false);
  ASSERT_TRUE(list.is_array()) << outcome.out;
  ASSERT_EQ(list.size(), 12u);
  for (const json& row : list) {
    EXPECT_EQ(row["task"], "text");
    EXPECT_EQ(row["context"], 400);
    for (const char* key : kTextKeys) EXPECT_TRUE(row.contains(key)) << key;
    EXPECT_FALSE(row.contains("score"));
  }
  EXPECT_EQ(list[0]["method"], "oracle");
  EXPECT_EQ(list[0]["budget"], "256");
  EXPECT_EQ(list[1]["budget"], "50%");
  EXPECT_EQ(list[1]["budget_share"], 0.5);
  EXPECT_EQ(list[2]["method"], "quest");
  EXPECT_EQ(list[8]["text"], "all");
  EXPECT_EQ(list[8]["tokens"], 16);

  const Outcome table = run_strata(arguments);
  EXPECT_NE(table.out.find("| text | context | method | budget | KV read % | KL, nat |"),
            std::string::npos)
      << table.out;
  EXPECT_NE(table.out.find("| mass | p10 | least |"), std::string::npos) << table.out;
  auto as_csv = arguments;
  as_csv.insert(as_csv.end(), {"-o", "csv"});
  const std::string csv = run_strata(as_csv).out;
  EXPECT_TRUE(csv.starts_with("method,task,text,context,budget,budget_share,")) << csv;
  EXPECT_EQ(std::ranges::count(csv, '\n'), 13);
}

TEST_F(Eval, TasksOfARecallModelScoreBesideExactAttention) {
  const std::string path = folder_.path("recall.gguf");
  makers::RecallModel::make(makers::recall_variant()).write(path);
  const std::vector<std::string> arguments = {
      "eval",    "-m", path,     "--tasks",       "recall",      "--lengths", "2048",
      "--cases", "1",  "--attn", "oracle,recent", "--kv-budget", "25%"};
  auto as_list = arguments;
  as_list.push_back("--json");
  const Outcome outcome = run_strata(as_list);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const json list = json::parse(outcome.out, nullptr, false);
  ASSERT_EQ(list.size(), 2u) << outcome.out;
  EXPECT_EQ(list[0]["score"], 1.0);
  EXPECT_EQ(list[0]["exact_score"], 1.0);
  EXPECT_EQ(list[0]["gates"], true);
  EXPECT_LT(list[1]["score"], 1.0);
  EXPECT_EQ(list[0]["cases"], 8);
  EXPECT_NE(run_strata(arguments).out.find("| right % |"), std::string::npos);
}

TEST_F(Eval, TheGateKeepsAVerdictAndDrawsAPage) {
  const std::string path = zoo_model(), page = folder_.path("page.html");
  testing::Launch launch;
  launch.environment = {{"XDG_CACHE_HOME", folder_.path("cache")}};
  const std::vector<std::string> run = {"run", "-m", path, "--raw", "-p",     "the a",
                                        "-n",  "1",  "-c", "64",    "--attn", "auto"};
  launch.arguments = run;
  EXPECT_NE(run_strata(launch).err.find("attention: exact (no verdict on this model yet"),
            std::string::npos);
  const auto gate = [&](const std::string& budget) {
    launch.arguments = {"eval",        "-m",      path,     "-f",          text("a.txt", 300),
                        "--kv-budget", budget,    "-c",     "400",         "--last",
                        "8",           "--gate",  "--attn", "mean,recent", "--html",
                        page,          "--cases", "1"};
    return run_strata(launch);
  };
  const Outcome failed = gate("40%");
  EXPECT_EQ(failed.exit_code, 1) << failed.err;
  EXPECT_NE(failed.err.find("gate: mean at 40% fails: "), std::string::npos) << failed.err;
  launch.arguments = run;
  EXPECT_NE(run_strata(launch).err.find("attention: exact (no method passed"), std::string::npos);
  // What leaves nothing out shows nothing.
  const Outcome whole = gate("100%");
  EXPECT_EQ(whole.exit_code, 1) << whole.err;
  EXPECT_NE(whole.err.find("gate: mean at 100% fails: 100 % of K and V read"), std::string::npos)
      << whole.err;
  EXPECT_EQ(whole.err.find("gate: recent"), std::string::npos) << whole.err;
  for (const std::string task : {"multi-key", "key-value", "variables"})  // nobody named any
    EXPECT_NE(whole.out.find("| " + task + " |"), std::string::npos) << whole.out;

  std::ifstream file(page);
  const std::string html{std::istreambuf_iterator<char>(file), {}};
  EXPECT_TRUE(html.starts_with("<!doctype html>"));
  EXPECT_NE(html.find("<svg"), std::string::npos);
  EXPECT_NE(html.find("prefers-color-scheme: dark"), std::string::npos);
  for (const std::string outside : {"http", "src=", "@import", "url("})
    EXPECT_EQ(html.find(outside), std::string::npos) << outside;
  expect_refused({"eval", "-m", path, "--gate", "--tasks", "needle"},
                 {2, "usage", {"--gate needs a text"}, "--gate", "-f FILE"});
}

size_t n_times(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST_F(Eval, ThePageHasACurveOfEveryMethodThroughItsBudgets) {
  const std::string page = folder_.path("page.html");
  const Outcome outcome = run_strata({"eval", "-m", zoo_model(), "-f", text("a.txt", 300), "--attn",
                                      "oracle,quest,recent", "--kv-budget", "192,256,320", "--last",
                                      "8", "-c", "400", "--html", page});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  std::ifstream file(page);
  const std::string html{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(n_times(html, "<svg"), 1u);
  EXPECT_EQ(n_times(html, "<polyline"), 3u);
  EXPECT_EQ(n_times(html, "<circle"), 9u);
  for (const std::string method : {"oracle", "quest", "recent"}) {
    EXPECT_EQ(n_times(html, ">" + method + "</text>"), 1u) << method;
    for (const std::string budget : {"192", "256", "320"})
      EXPECT_EQ(n_times(html, ">" + method + " " + budget + ": "), 1u) << method << budget;
  }
  // A line has as many points as its method has budgets.
  const size_t at = html.find("<polyline points=\"");
  const std::string points = html.substr(at + 18, html.find('"', at + 18) - at - 18);
  EXPECT_EQ(n_times(points, ","), 3u) << points;
}

TEST_F(Eval, SaysWhatASmallMemoryWouldLack) {
  const std::vector<std::string> usual = {
      "eval",   "-m",     zoo_model(), "-f",      text("a.txt", 300),
      "--attn", "oracle", "--last",    "8",       "--kv-budget",
      "256",    "-c",     "700",       "--probe", "--kv-held",
      "45%"};
  const auto missing = [&](const std::string& near) {
    auto arguments = usual;
    arguments.insert(arguments.end(), {"--kv-near", near, "--json"});
    const Outcome outcome = run_strata(arguments);
    const json list = json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(list.is_array()) << outcome.err;
    for (const char* key :
         {"chosen_blocks_per_token", "waiting_layers_per_token", "missing_chosen_token_before",
          "missing_next_token_before", "missing_chosen_layer_before"})
      EXPECT_TRUE(list[0].contains(key)) << key;
    return list[0].value("missing_blocks_per_token", -1.0);
  };
  EXPECT_GT(missing("0"), missing("50%"));
  auto several = usual;
  several.back() = "45%,100%";
  const std::string table = run_strata(several).out;
  for (const char* text :
       {"| missing/token | layers that wait/token |",
        "| found % with 45.0 % (by weight) | found % with 100.0 % (by weight) |"})
    EXPECT_NE(table.find(text), std::string::npos) << text << table;
  auto nearer = several;
  nearer.insert(nearer.end(), {"--kv-near", "5%"});
  expect_refused(nearer, {2, "usage", {"depends on which memory"}, "--kv-near", "one size"});
  several.emplace_back("--json");
  const json held = json::parse(run_strata(several).out)[0]["held"];
  ASSERT_EQ(held.size(), 2u);
  EXPECT_EQ(held[0]["share"], 0.45);
  EXPECT_GT(held[0]["hit_rate"], 0);
  EXPECT_LT(held[0]["hit_rate"], held[1]["hit_rate"]);
  EXPECT_EQ(held[1]["hit_rate"], held[1]["hit_rate_by_weight"]);
}

/// Reading by the method moves the prediction away; by a budget of everything it does not.
TEST_F(Eval, JudgesReadingByTheMethodToo) {
  const std::string path = zoo_model(), long_text = text("a.txt", 300);
  const auto divergence = [&](const std::string& sparse, const std::string& budget) {
    const Outcome outcome =
        run_strata({"eval", "-m", path, "-f", long_text, "--attn", "quest", "--last", "8",
                    "--kv-budget", budget, "-c", "700", "--sparse-prefill", sparse, "--json"});
    const json list = json::parse(outcome.out, nullptr, false);
    EXPECT_EQ(list.size(), sparse == "off" ? 1u : 2u) << outcome.err;  // a line of its own
    for (const json& row : list) EXPECT_EQ(row.value("method", ""), "quest");
    EXPECT_EQ(list.back().contains("read_sparsely"), sparse != "off");
    EXPECT_FALSE(list[0].contains("read_sparsely"));
    return std::pair(list[0].value("kld", -1.0), list.back().value("kld", -1.0));
  };
  EXPECT_EQ(divergence("300", "100%"), std::pair(0.0, 0.0));
  const auto [of_answer, of_both] = divergence("300", "256");
  EXPECT_EQ(of_answer, divergence("off", "256").first);
  EXPECT_GT(of_answer, 0);
  EXPECT_GT(of_both, 0);
  EXPECT_NE(of_both, of_answer);
  const std::vector<std::string> run = {"run", "-m", path, "-p", "x", "--sparse-prefill"};
  auto exact = run;
  exact.emplace_back("on");
  expect_refused(exact, {2, "usage", {"exact attention reads all"}, "--sparse-prefill", "leave"});
  auto wrong = run;
  wrong.insert(wrong.end(), {"often", "--attn", "quest"});
  expect_refused(wrong, {2, "usage", {"found 'often'"}, "--sparse-prefill", "such as on"});
}

TEST_F(Eval, RecordsATraceOfTheBeginningOfAText) {
  const std::string path = zoo_model(), trace_path = folder_.path("trace.bin");
  const std::vector<std::string> arguments = {
      "eval",        "-m",  path,      "-f", text("a.txt", 300), "--record", trace_path,
      "--positions", "256", "--steps", "16", "--layers"};
  auto first = arguments;
  first.emplace_back("1");
  const Outcome outcome = run_strata(first);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  const auto trace = eval::read_trace(trace_path);
  EXPECT_EQ(trace.layers, std::vector<uint32_t>{1});
  EXPECT_EQ(trace.n_positions, 256u);
  EXPECT_EQ(trace.n_steps, 16u);
  auto wrong = arguments;
  wrong.emplace_back("7");
  EXPECT_EQ(run_strata(wrong).exit_code, 2);
  first.insert(first.end(), {"--positions", "1m"});
  expect_refused(first, {2, "usage", {"wanted 1048576 positions"}, "--positions", "longer text"});
}

TEST_F(Eval, RefusesWhatItCannotJudge) {
  const std::string path = zoo_model(), long_text = text("a.txt", 300);
  const std::vector<std::string> usual = {"eval", "-m", path, "-f", long_text};
  const auto with = [&](const std::vector<std::string>& more) {
    auto arguments = usual;
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  expect_refused({"eval", "-m", path},
                 {2, "usage", {"nothing to judge by"}, "strata eval", "-f FILE, or tasks"});
  expect_refused(with({"--attn", "quest,magic"}),
                 {2, "usage", {"unknown attention method 'magic'"}, "--attn", "quest"});
  expect_refused(with({"--attn", "quest,,mean"}),
                 {2, "usage", {"names between commas", "'quest,,mean'"}, "methods", "leave no"});
  for (const std::string bad : {"0", "0%", "101%", "1.5p", "many"})
    expect_refused(with({"--kv-budget", "64," + bad}),
                   {2, "usage", {"found '" + bad + "'"}, "--budgets", "such as 2048"});
  for (const std::string bad : {"1", "101%", "many"})
    expect_refused(with({"--kv-near", bad}),
                   {2, "usage", {"found '" + bad + "'"}, "--kv-near", "such as 1%"});
  expect_refused(with({"--kv-near", "1%", "--probe"}),
                 {2, "usage", {"all of K and V is in memory"}, "--kv-near", "--kv-held 5%"});
  expect_refused(with({"--kv-held", "5%"}),
                 {2, "usage", {"probed attention only"}, "--kv-held", "--probe"});
  expect_refused(with({"--kv-held", "0", "--probe"}),
                 {2, "usage", {"holds nothing"}, "--kv-held", "such as 5%"});
  expect_refused(with({"--tasks", "needle,haystack"}),
                 {2, "usage", {"no task 'haystack'"}, "--tasks", "multi-key"});
  expect_refused(with({"--tasks", "needle", "--lengths", "5000"}),
                 {2, "usage", {"at most 4096 tokens", "found 5000"}, "--lengths", "lower"});
  expect_refused({"eval", "-m", path, "--tasks", "needle", "--lengths", "16"},
                 {2, "usage", {"the task needle needs", "found 16"}, "--lengths", "greater"});
  expect_refused({"eval", "-m", path, "-f", text("b.txt", 10)},
                 {2, "bad_text", {"wanted more than 257 tokens (--last 256)"}, "b.txt", "longer"});
  expect_refused(with({"-c", "100"}),
                 {2, "usage", {"wanted more than 257 tokens", "found 100"}, "--ctx-size", "raise"});
  expect_refused({"eval", "-m", path, "-f", folder_.write("c.txt", "a \xff b")},
                 {2, "bad_text", {"wanted UTF-8", "0xff"}, "c.txt", "iconv"});
}

TEST_F(Eval, AModelWhoseLogitsAreNotNumbersIsNamed) {
  auto bad = engine::testing::make_small_model();
  bad.tensor("output_norm.weight").values[0] = std::numeric_limits<float>::quiet_NaN();
  const std::string letters = folder_.write("a.txt", std::string(40, 'a'));
  const Outcome outcome =
      run_strata({"eval", "-m", model(bad), "-f", letters, "--last", "4", "--attn", "mean"});
  EXPECT_EQ(outcome.exit_code, 4);
  EXPECT_EQ(outcome.out, "");
  EXPECT_NE(outcome.err.find("error: the model's logits are not finite: token 0 [logits] (remedy: "
                             "check the model file"),
            std::string::npos)
      << outcome.err;
}

}  // namespace
}  // namespace strata::cli
