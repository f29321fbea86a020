// tools/cli/tier_figure.h - one row of `bench --tiers`: bytes by a formula, times, and what they
// are judged by.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "tools/cli/answer_sink.h"
#include "tools/cli/bench_records.h"
#include "tools/cli/bench_report.h"

namespace strata::cli {

struct TierFigure {
  std::string name;
  std::string formula;         // in words and numbers; its result is formula_bytes
  uint64_t formula_bytes = 0;  // of one sample
  uint64_t bytes = 0;          // of one sample, as counted while it was measured
  std::vector<double> samples_s;
  // What a sample is judged by, each beside a ceiling that was measured just before or after it.
  std::string measure = "";  // "of sequential read"; empty = nothing
  std::vector<double> values = {};
  double wanted = 0;  // of the median of the values; 0 = no figure is wanted
  bool is_at_most = false;
  bool is_share = true;  // shown as a percentage, else as a factor
  std::string note = "";

  double gbytes_per_s() const;
  double value() const;
  bool is_reached() const;
};

nlohmann::ordered_json figure_json(const BenchSubject& subject, uint32_t n_depth,
                                   const TierFigure& figure);

/// Figures as a Markdown table, formulas and notes under it, or as BenchRecords.
class TierReport {
 public:
  TierReport(AnswerSink& sink, std::string format, BenchSubject subject, uint32_t n_depth);
  void add(const TierFigure& figure);
  void finish();

 private:
  void add_row(const TierFigure& figure);

  AnswerSink& sink_;
  std::string format_;
  BenchRecords records_;
  BenchSubject subject_;
  uint32_t n_depth_;
  std::string below_;  // the table of md
};

}  // namespace strata::cli
