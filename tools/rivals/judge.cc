#include "tools/rivals/judge.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "tools/eval/summary.h"

namespace strata::rivals {
namespace {

/// Of the judged steps.
struct Tally {
  double positions = 0, read = 0, retrieved = 0, blocks_share = 0;
  std::vector<double> found, found_of_heads, errors;
};

double output_error(const Partial& found, const Partial& exact) {
  double error = 0, norm = 0;
  for (size_t d = 0; d < exact.o.size(); ++d) {
    const double wanted = exact.o[d] / exact.l, difference = found.o[d] / found.l - wanted;
    error += difference * difference;
    norm += wanted * wanted;
  }
  return std::sqrt(error / norm);
}

void tally_step(const TraceCase& on, uint32_t stream, uint32_t step,
                const std::vector<Attended>& heads, Tally& tally) {
  STRATA_CHECK(heads.size() == on.group(), "%zu of %u queries", heads.size(), on.group());
  std::vector<bool> is_read(on.pos(step) + 1, true);
  std::fill_n(is_read.begin() + on.first(), on.n_candidates(), false);
  for (uint32_t head = 0; head < on.group(); ++head) {
    const Attended& of = heads[head];
    for (const uint32_t at : of.positions) {
      STRATA_CHECK(at >= on.first() && at < on.end(), "position %u is no candidate", at);
      is_read[at] = true;
    }
    tally.positions += static_cast<double>(on.n_always(step) + of.positions.size());
    const Partial& candidates = on.candidates(stream, step, head);
    double weight = 0;
    for (const uint32_t at : of.positions)
      weight += std::exp(double{on.scores(stream, step, head)[at]} - candidates.m);
    tally.found.push_back(weight / candidates.l);
    Partial found = on.always(stream, step, head), exact = found;
    merge(exact, candidates);
    merge(found, on.attend(stream, step, head, of.positions, of.log_counts));
    if (of.estimated) merge(found, *of.estimated);
    tally.errors.push_back(output_error(found, exact));
  }
  std::vector<bool> is_touched(on.pos(step) / kBlockPositions + 1);
  for (uint32_t at = 0; at <= on.pos(step); ++at)
    if (is_read[at]) is_touched[at / kBlockPositions] = true;
  const auto n_of = [](const std::vector<bool>& bits) {
    return static_cast<double>(std::ranges::count(bits, true));
  };
  tally.read += n_of(is_read);
  tally.retrieved += n_of(is_read) - on.n_always(step);
  tally.blocks_share += n_of(is_touched) / static_cast<double>(is_touched.size());
}

}  // namespace

Verdict judge(const TraceCase& on, Rival& rival) {
  Tally tally;
  for (uint32_t stream = 0; stream < on.n_streams(); ++stream) {
    const size_t n_before = tally.found.size();
    for (uint32_t step = 0; step < on.n_judged(); ++step)
      tally_step(on, stream, step, rival.attend(stream, step), tally);
    for (uint32_t head = 0; head < on.group(); ++head) {
      double sum = 0;
      for (size_t i = n_before + head; i < tally.found.size(); i += on.group())
        sum += tally.found[i];
      tally.found_of_heads.push_back(sum / on.n_judged());
    }
  }
  const double n_steps = 1.0 * on.n_streams() * on.n_judged();
  const eval::Summary errors = eval::summarise(std::move(tally.errors));
  const IndexBytes bytes = rival.bytes();
  // K of what was retrieved is read once.
  const double n_rows = 2 * tally.read - (bytes.reads_keys ? tally.retrieved : 0);
  return {.positions = tally.positions / (n_steps * on.group()),
          .read = tally.read / n_steps,
          .blocks_share = tally.blocks_share / n_steps,
          .bytes = bytes,
          .step_bytes = n_rows / n_steps * 2 * on.head_dim() + bytes.read * on.n_candidates(),
          .found_mean = eval::summarise(std::move(tally.found)).mean,
          .found_p10 = eval::summarise(std::move(tally.found_of_heads)).p10,
          .error_mean = errors.mean,
          .error_median = errors.median,
          .error_p99 = errors.p99};
}

}  // namespace strata::rivals
