#include "tests/golden/golden_comparison.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/engine.h"
#include "engine/sha256.h"
#include "tests/tree_paths.h"
#include "tools/makers/golden_prompts.h"
#include "tools/makers/teacher_forced.h"

namespace strata::golden {
namespace {

using makers::GoldenPrompt;
using makers::GoldenRow;
using makers::NamedPrompt;

/// What one prompt gave.
struct Findings {
  double largest = 0;
  double sum = 0;
  uint32_t n = 0;
  uint32_t n_rows = 0;
  uint32_t n_leads = 0;  // rows whose likeliest token was judged

  double mean() const { return n == 0 ? 0 : sum / n; }
};

double log_sum_exp(std::span<const float> logits) {
  const double max = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

void compare_row(const GoldenRow& golden, std::span<const float> logits, const Tolerance& tolerance,
                 Findings& findings) {
  const double log_sum = log_sum_exp(logits);
  for (const auto& item : golden.top) {
    const double log_p = logits[static_cast<size_t>(item.id)] - log_sum;
    const double change = std::abs(log_p - item.log_p);
    EXPECT_LE(change, tolerance.largest)
        << fmt::format("position {}, token {}: log P {:.5f}, reference {:.5f}", golden.pos, item.id,
                       log_p, item.log_p);
    findings.largest = std::max(findings.largest, change);
    findings.sum += change;
    ++findings.n;
  }
  const GoldenRow ours = makers::golden_row(golden.pos, logits);
  for (const auto& item : ours.top) {
    if (std::ranges::find(golden.top, item.id, &GoldenRow::Candidate::id) != golden.top.end())
      continue;
    EXPECT_LE(item.log_p, golden.top.back().log_p + tolerance.largest) << fmt::format(
        "position {}: token {} is none of the reference's likeliest", golden.pos, item.id);
  }
  if (golden.lead() >= tolerance.lead) {
    EXPECT_EQ(ours.top[0].id, golden.top[0].id)
        << fmt::format("position {}: lead of {:.3f} lost", golden.pos, golden.lead());
    ++findings.n_leads;
  }
  ++findings.n_rows;
}

void compare_prompt(engine::Engine& engine, const NamedPrompt& prompt, const GoldenPrompt& golden,
                    const Tolerance& tolerance) {
  SCOPED_TRACE(prompt.name);
  ASSERT_EQ(engine::sha256_hex(makers::ids_text(prompt.ids)), golden.ids_sha256)
      << "the prompt or the tokenizer is another than when the goldens were made";
  std::vector<uint32_t> positions;
  for (const GoldenRow& row : golden.rows) positions.push_back(row.pos);
  ASSERT_EQ(positions, makers::golden_positions(golden.n_tokens));
  auto sequence = engine.cache().make_sequence();
  Findings findings;
  const auto on_row = [&](uint32_t, std::span<const float> logits) {
    compare_row(golden.rows.at(findings.n_rows), logits, tolerance, findings);
  };
  makers::walk_teacher_forced(engine.walk(), sequence, prompt.ids, positions, on_row);
  // As a decoder would, one token at a time; the reference's, so that every row can be compared.
  for (uint32_t i = 0; i + 1 < makers::kGoldenGreedyTokens; ++i)
    makers::walk_teacher_forced(engine.walk(), sequence, std::span(golden.greedy).subspan(i, 1),
                                positions, on_row);
  EXPECT_EQ(findings.n_rows, golden.rows.size());
  EXPECT_LE(findings.mean(), tolerance.mean);
  fmt::print(
      "{:24} {:5} tokens, {} rows: log P of the top {} off by {:.4f} at most, {:.5f} on average; "
      "{} leads held\n",
      prompt.name, golden.n_tokens, findings.n_rows, makers::kGoldenTop, findings.largest,
      findings.mean(), findings.n_leads);
}

}  // namespace

void expect_agreement(const std::string& model_path, const std::string& golden_name,
                      bool (*is_chosen)(std::string_view prompt_name), const Tolerance& tolerance) {
  const auto goldens = makers::read_golden_file(tree_path("tests/golden/" + golden_name));
  engine::EngineOptions options{.model_path = model_path, .cpu_isa = "", .rope = {}};
  uint64_t n_ctx = 0;
  for (const GoldenPrompt& golden : goldens.prompts)
    if (is_chosen(golden.name))
      n_ctx = std::max<uint64_t>(n_ctx, golden.n_tokens + makers::kGoldenGreedyTokens);
  ASSERT_GT(n_ctx, 0u) << "no prompt is chosen";
  options.n_ctx = n_ctx;
  auto engine = engine::Engine::open(options);
  engine.load({});
  const auto prompts = makers::golden_prompts(tree_path("tests/golden/prompts"), engine.tokenizer(),
                                              engine.spec().shape.n_ctx_train);
  for (const GoldenPrompt& golden : goldens.prompts) {
    if (!is_chosen(golden.name)) continue;
    const auto prompt = std::ranges::find(prompts, golden.name, &NamedPrompt::name);
    ASSERT_NE(prompt, prompts.end()) << golden.name;
    compare_prompt(engine, *prompt, golden, tolerance);
  }
}

}  // namespace strata::golden
