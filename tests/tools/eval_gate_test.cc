// What passes the gate, what is kept of it, and what `--attn auto` makes of what was kept.
#include "tools/eval/gate.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "engine/fingerprint.h"
#include "tests/engine/zoo_fixture.h"
#include "tools/cli/attention_profile.h"

namespace strata::eval {
namespace {

struct Figures {
  double kl, top1, mass, kv_bytes;
};

EvalRow row(const std::string& text, const std::string& method, const Figures& of) {
  EvalRow made;
  made.task = "text";
  made.text = text;
  made.method = method;
  made.budget = "1024";
  made.agreement.emplace();
  made.agreement->kl.mean = of.kl;
  made.agreement->kl.n = 512;
  made.agreement->top1 = of.top1;
  made.attention.emplace();
  made.attention->mass_mean = of.mass;
  made.kv_read_bytes_per_token = of.kv_bytes;
  return made;
}

EvalRow task(const std::string& method, double exact, std::optional<double> kept) {
  EvalRow made;
  made.task = "log";
  made.method = method;
  made.budget = "1024";
  made.exact_score = exact;
  made.kept_score = kept;
  made.n_cases = 20;
  return made;
}

constexpr Figures kOracle = {0.008, 0.97, 0.98, 100};

std::string reason(const Figures& figures) {
  const std::vector<EvalRow> rows = {row("a", "oracle", kOracle), row("a", "quest", figures),
                                     task("quest", 1, 1)};
  const auto verdicts = judge(rows);
  EXPECT_EQ(verdicts.size(), 1u);
  EXPECT_EQ(verdicts[0].passes, verdicts[0].reason.empty());
  return verdicts[0].reason;
}

TEST(Gate, EachLimitAloneRefuses) {
  EXPECT_EQ(reason({0.016, 0.941, 0.92, 100}), "");
  EXPECT_NE(reason({0.0201, 0.96, 0.95, 100}).find("KL 0.0201 nat"), std::string::npos);
  EXPECT_NE(reason({0.0161, 0.96, 0.95, 100}).find("times the oracle's"), std::string::npos);
  EXPECT_NE(reason({0.010, 0.939, 0.95, 100}).find("top-1 93.9 %"), std::string::npos);
  EXPECT_NE(reason({0.010, 0.96, 0.91, 100}).find("mass 0.929"), std::string::npos);
  EXPECT_NE(reason({std::nan(""), 0.96, 0.95, 100}), "");
}

TEST(Gate, AnswersAreJudgedBesideTexts) {
  std::vector<EvalRow> rows = {
      row("a", "oracle", kOracle), row("a", "quest", {0.01, 0.96, 0.95, 1}),
      task("quest", 0.9, 0.95),    task("oracle", 0.9, 0.1),
      task("quest", 0.4, 0.1),     task("quest", 0.9, std::nullopt)};
  auto verdicts = judge(rows);
  ASSERT_EQ(verdicts.size(), 1u);
  EXPECT_EQ(verdicts[0].reason, "");
  EXPECT_EQ(verdicts[0].n_cases, 20u);
  rows.push_back(task("quest", 0.5, 0.94));
  verdicts = judge(rows);
  EXPECT_EQ(verdicts[0].reason,
            "94 % of exact attention's answers in the worst task (40 questions in all), wanted at "
            "least 95 %");
  EXPECT_EQ(verdicts[0].n_cases, 40u);
}

/// What is found in a short text says nothing of a long one, for which a verdict is kept.
TEST(Gate, AnswersAboutLessThanTheTextsDoNotCount) {
  std::vector<EvalRow> rows = {row("a", "oracle", kOracle),
                               row("a", "quest", {0.01, 0.96, 0.95, 1}), task("quest", 1, 1)};
  for (EvalRow& of : rows) of.context = 7168;
  EXPECT_TRUE(judge(rows)[0].passes) << judge(rows)[0].reason;
  rows[2].context = 7167;
  EXPECT_EQ(judge(rows)[0].reason,
            "its answers were judged at 7167 tokens, fewer than the 7168 of its texts: raise "
            "--lengths");
  rows.push_back(task("quest", 1, 0.5));  // as short, and longer
  rows.push_back(task("quest", 1, 1));
  rows.back().context = 8192;
  const Verdict verdict = judge(rows)[0];
  EXPECT_EQ(verdict.reason, "");
  EXPECT_EQ(verdict.n_tasks, 1u);
  EXPECT_EQ(verdict.n_cases, 20u);
}

/// A mean over tokens says little of the few that retrieve, so texts alone let nothing pass; where
/// exact attention solves no task, they have to do.
TEST(Gate, TextsAloneLetNoMethodPass) {
  std::vector<EvalRow> rows = {row("a", "oracle", kOracle),
                               row("a", "quest", {0.01, 0.96, 0.95, 1})};
  EXPECT_EQ(judge(rows)[0].reason, "its answers were not judged: give tasks, or a longer text");
  rows.push_back(task("oracle", 1, 1));  // another method's
  EXPECT_FALSE(judge(rows)[0].passes);
  rows.push_back(task("quest", 0.4, 0.1));
  rows.push_back(task("quest", 0, std::nullopt));
  const Verdict verdict = judge(rows)[0];
  EXPECT_TRUE(verdict.passes) << verdict.reason;
  EXPECT_EQ(verdict.n_tasks, 2u);
  EXPECT_EQ(verdict.n_cases, 0u);
  EXPECT_EQ(answers_text(verdict),
            "exact attention solves less than half of every task that was tried");
}

TEST(Gate, JudgesAllTextsTogetherAndChoosesTheCheapest) {
  const Figures good = {0.010, 0.96, 0.95, 200}, cheap = {0.011, 0.96, 0.95, 150},
                bad = {0.5, 0.5, 0.5, 10};
  const std::vector<EvalRow> rows = {row("a", "oracle", kOracle),
                                     row("a", "quest", bad),
                                     row(kAllTexts, "oracle", kOracle),
                                     row(kAllTexts, "quest", good),
                                     row(kAllTexts, "mean", cheap),
                                     row(kAllTexts, "cuboid", bad),
                                     row(kAllTexts, "recent", good),
                                     task("quest", 1, 1),
                                     task("mean", 1, 1),
                                     task("cuboid", 1, 1)};
  const auto verdicts = judge(rows);
  ASSERT_EQ(verdicts.size(), 3u);
  ASSERT_NE(cheapest(verdicts), nullptr);
  EXPECT_EQ(cheapest(verdicts)->method, "mean");
  EXPECT_EQ(cheapest(std::span(verdicts).last(1)), nullptr);
}

/// Each way has its own texts and answers; what passes one way says nothing of the other.
TEST(Gate, ReadingSparselyIsJudgedByItself) {
  EvalRow sparse_text = row("a", "quest", {0.5, 0.96, 0.95, 50}), sparse_task = task("quest", 1, 0);
  sparse_text.reads_sparsely = sparse_task.reads_sparsely = true;
  const auto verdicts =
      judge(std::vector{row("a", "oracle", kOracle), row("a", "quest", {0.01, 0.96, 0.95, 123}),
                        sparse_text, task("quest", 1, 1), sparse_task});
  ASSERT_EQ(verdicts.size(), 2u);
  EXPECT_TRUE(verdicts[0].passes) << verdicts[0].reason;
  EXPECT_EQ(verdicts[0].n_tasks, 1u);
  EXPECT_TRUE(verdicts[1].reads_sparsely);
  EXPECT_EQ(verdicts[1].kept, 0);
  EXPECT_EQ(cheapest(verdicts), &verdicts[0]);
  EXPECT_EQ(cheapest(verdicts, /*reads_sparsely=*/true), nullptr);
}

class Profile : public ::testing::Test {
 protected:
  engine::testing::TestFolder folder_;
};

TEST_F(Profile, WhatIsWrittenIsRead) {
  const auto path = folder_.path("deep/er/profile.toml");
  EXPECT_FALSE(cli::read_profile(path).has_value());
  const auto verdicts =
      judge(std::vector{row("a", "oracle", kOracle), row("a", "quest", {0.01, 0.96, 0.95, 123}),
                        row("a", "mean", {0.5, 0.96, 0.95, 50}), task("mean", 1, 0.5),
                        task("quest", 0, std::nullopt)});
  cli::write_profile(path, verdicts, "2026-01-02");
  const auto back = cli::read_profile(path);
  ASSERT_TRUE(back.has_value());
  ASSERT_EQ(back->size(), 2u);
  EXPECT_EQ((*back)[0].method, "quest");
  EXPECT_TRUE((*back)[0].passes);
  EXPECT_EQ((*back)[0].kl, 0.01);
  EXPECT_EQ((*back)[0].read_bytes_per_token, 123);
  EXPECT_EQ((*back)[0].tokens, 512u);
  EXPECT_FALSE((*back)[1].passes);
  EXPECT_EQ((*back)[0].kept, 1);
  EXPECT_EQ((*back)[0].n_tasks, 1u);
  EXPECT_EQ((*back)[1].kept, 0.5);
  EXPECT_EQ((*back)[1].n_cases, 20u);
  EXPECT_EQ((*back)[1].reason, verdicts[1].reason);
}

TEST_F(Profile, AWriteThatFailsLeavesTheVerdictsThatWereThere) {
  const auto path = folder_.path("profile.toml");
  const auto verdicts =
      judge(std::vector{row("a", "oracle", kOracle), row("a", "quest", {0.01, 0.96, 0.95, 123})});
  cli::write_profile(path, verdicts, "2026-01-02");
  std::filesystem::create_directory(fmt::format("{}.{}", path, ::getpid()));  // where it writes
  EXPECT_THROW(cli::write_profile(path, {}, "2026-01-03"), Error);
  const auto kept = cli::read_profile(path);
  ASSERT_TRUE(kept.has_value());
  EXPECT_EQ(kept->size(), 1u);
}

TEST_F(Profile, WhatIsNotAVerdictIsRefused) {
  for (const std::string text : {"version = 2\n[[verdict]]\nmethod = 3\n", "version = 1\n",
                                 "= nothing", "version = 2\nverdict = [1]\n",
                                 "version = 2\n[[verdict]]\nmethod = 'pq'\nbudget = '2%'\n"
                                 "passes = true\nlayers = 'all'\n"}) {
    const auto path = folder_.write("p.toml", text);
    try {
      cli::read_profile(path);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadFile) << text;
      EXPECT_EQ(error.where(), path);
    }
  }
}

TEST_F(Profile, AutoIsTheCheapestThatPassedElseExact) {
  const std::string model = folder_.path("zoo.gguf");
  makers::write_random_transformer(makers::zoo_member("llama3").model, model);
  const auto file = engine::GgufFile::open(model);
  const auto path = cli::profile_path(folder_.path("profiles"),
                                      engine::model_fingerprint(file, engine::read_model_spec(file),
                                                                cpu_attn::choose_kernels("").isa));
  const auto chosen = [&](std::string* line) {
    engine::EngineOptions options;
    options.model_path = model;
    *line = cli::choose_attention(folder_.path("profiles"), options);
    return options;
  };
  std::string line;
  EXPECT_FALSE(chosen(&line).method.has_value());
  EXPECT_NE(line.find("exact (no verdict on this model yet"), std::string::npos) << line;
  Verdict verdict{.method = "mean", .budget = "10%"};
  cli::write_profile(path, std::span(&verdict, 1), "2026-01-02");
  EXPECT_FALSE(chosen(&line).method.has_value());
  EXPECT_NE(line.find("exact (no method passed"), std::string::npos) << line;
  verdict.passes = true;  // as gates of before wrote it, which judged texts alone
  cli::write_profile(path, std::span(&verdict, 1), "2026-01-02");
  EXPECT_FALSE(chosen(&line).method.has_value());
  EXPECT_NE(line.find("judged no answers: run `strata eval --gate` again"), std::string::npos)
      << line;
  verdict.n_tasks = 1;
  cli::write_profile(path, std::span(&verdict, 1), "2026-01-02");
  EXPECT_FALSE(chosen(&line).method.has_value());
  EXPECT_NE(line.find("was judged on 0 tokens only"), std::string::npos) << line;
  verdict.context = engine::read_model_spec(file).shape.n_ctx_train;
  cli::write_profile(path, std::span(&verdict, 1), "2026-01-02");
  const auto options = chosen(&line);
  EXPECT_EQ(options.method, index::Method::kMean);
  EXPECT_EQ(options.selection.budget.value, 0.1);
  EXPECT_NE(line.find("attention: mean at a budget of 10%"), std::string::npos) << line;
  EXPECT_NE(line.find("exact attention solves less than half of every task"), std::string::npos)
      << line;
  EXPECT_TRUE(options.selection.layers.empty());
  verdict.layers = "1:dense";  // that it was judged with
  cli::write_profile(path, std::span(&verdict, 1), "2026-01-02");
  EXPECT_EQ(chosen(&line).selection.mode_of(1), index::LayerMode::kDense);
  EXPECT_NE(line.find("at a budget of 10%, layers 1:dense ("), std::string::npos) << line;
}

}  // namespace
}  // namespace strata::eval
