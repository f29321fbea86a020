// tools/cli/bench_records.h - results of benches as CSV, JSON or JSON lines.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "tools/cli/answer_sink.h"

namespace strata::cli {

class BenchRecords {
 public:
  /// `format`: csv, json or jsonl.
  BenchRecords(AnswerSink& sink, std::string format) : sink_(sink), format_(std::move(format)) {}

  /// Rows of csv and jsonl are printed at once; json only by finish(), so that a run that fails
  /// leaves no half list. Csv has no lists: they are left out;
  /// what an object holds has both names.
  void add(const nlohmann::ordered_json& record);
  void finish();

 private:
  void add_csv(const nlohmann::ordered_json& record);

  AnswerSink& sink_;
  std::string format_;
  bool has_header_ = false;
  std::string list_;  // the objects of json
};

}  // namespace strata::cli
