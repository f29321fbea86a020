// tools/cli/eval_report.h - results of `eval` as Markdown tables, CSV, JSON or JSON lines.
#pragma once

#include <span>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "tools/eval/eval_row.h"

namespace strata::cli {

/// The object of one row. Keys stay as they are; what does not apply is absent.
nlohmann::ordered_json eval_json(const eval::EvalRow& row);

/// What people read: texts, the attention behind them, what it would read from disk, tasks; those
/// that have rows.
struct EvalTable {
  std::vector<std::string> titles;
  std::vector<bool> is_text;  // per column: else a number, set to the right
  std::vector<std::vector<std::string>> rows;
};
std::vector<EvalTable> eval_tables(std::span<const eval::EvalRow> rows);

/// All rows; `format` is a value of --output-format.
std::string eval_report(std::span<const eval::EvalRow> rows, const std::string& format);

}  // namespace strata::cli
