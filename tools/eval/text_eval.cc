#include "tools/eval/text_eval.h"

#include "base/check.h"
#include "tools/eval/eval_row.h"

namespace strata::eval {
namespace {

class Rest {
 public:
  Rest(SplitRunner& runner, std::span<const int32_t> tokens) : runner_(runner), tokens_(tokens) {}

  /// Logits [n][vocab_size] of every prediction.
  std::vector<std::vector<float>> walk_exactly() {
    runner_.use(nullptr);
    engine::Sequence sequence = runner_.start();
    std::vector<std::vector<float>> all;
    for (size_t i = 0; i + 1 < tokens_.size(); ++i) {
      const auto logits = runner_.feed(sequence, tokens_.subspan(i, 1));
      check_finite(logits);
      all.emplace_back(logits.begin(), logits.end());
    }
    return all;
  }

  TextRun walk(const Contender& contender, const std::vector<std::vector<float>>& exact,
               const index::SelectorSource* oracles) {
    runner_.use(&contender);
    engine::Sequence sequence = runner_.start();
    std::optional<AttentionMetrics> metrics;
    if (oracles != nullptr)
      metrics.emplace(runner_.cache(), oracles->make(), runner_.rule(), runner_.held_shares());
    const ProbeScope scope(runner_.walk(), metrics ? &*metrics : nullptr);
    TextRun run;
    for (size_t i = 0; i + 1 < tokens_.size(); ++i) {
      const auto logits = runner_.feed(sequence, tokens_.subspan(i, 1));
      run.predictions.push_back(compare_logits(exact[i], logits, tokens_[i + 1]));
    }
    run.read = runner_.kv_read();
    run.index_bytes_per_position = runner_.index_bytes_per_position();
    if (metrics) {
      run.attention = metrics->tally();
      run.missing = metrics->missing();
    }
    return run;
  }

 private:
  SplitRunner& runner_;
  std::span<const int32_t> tokens_;
};

}  // namespace

void TextRun::add(const TextRun& other) {
  predictions.insert(predictions.end(), other.predictions.begin(), other.predictions.end());
  read.add(other.read);
  index_bytes_per_position = other.index_bytes_per_position;
  const auto add_to = [](auto& sums, const auto& of) {
    if (!of) return;
    if (!sums) sums.emplace();
    sums->add(*of);
  };
  add_to(attention, other.attention);
  add_to(missing, other.missing);
}

std::vector<TextRun> evaluate_text(SplitRunner& runner, const TextSample& sample, uint32_t n_last,
                                   std::span<const Contender> contenders, bool probes,
                                   const TextEvents& events) {
  const std::span<const int32_t> tokens = sample.tokens;
  STRATA_CHECK(tokens.size() > uint64_t{n_last} + 1, "%zu tokens for the last %u", tokens.size(),
               n_last);
  const auto say = [&](const std::string& what) {
    if (events.on_pass) events.on_pass(sample.name + ": " + what);
  };
  const size_t n_context = tokens.size() - n_last - 1;
  runner.read(tokens.first(n_context), events.on_read);
  Rest rest(runner, tokens.subspan(n_context));
  say("exact");
  const auto exact = rest.walk_exactly();
  std::unique_ptr<index::SelectorSource> oracles;
  if (probes) oracles = runner.make_source(index::Method::kOracle);
  std::vector<TextRun> runs;
  for (const Contender& contender : contenders) {
    say(method_text(contender.method_name, contender.reads_sparsely) + " " + contender.budget_text);
    runs.push_back(rest.walk(contender, exact, oracles.get()));
  }
  return runs;
}

}  // namespace strata::eval
