// tools/cli/bench_records.h - results of benches as CSV, JSON or JSON lines.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "tools/cli/answer_sink.h"

namespace strata::cli {

class BenchRecords {
 public:
  /// `format`: csv, json or jsonl.
  BenchRecords(AnswerSink& sink, std::string format) : sink_(sink), format_(std::move(format)) {}

  /// Rows of jsonl are printed at once; the others only by finish(): json so that a run that fails
  /// leaves no half list, csv because its columns are those of all records. Csv has no lists: they
  /// are left out; what an object holds has both names.
  void add(const nlohmann::ordered_json& record);
  void finish();

 private:
  void add_csv(const nlohmann::ordered_json& record);
  void print_csv() const;

  AnswerSink& sink_;
  std::string format_;
  std::string list_;                                        // the objects of json
  std::vector<std::string> columns_;                        // of csv, in the order met
  std::vector<std::map<std::string, std::string>> fields_;  // of csv, by column: a map per record
};

}  // namespace strata::cli
