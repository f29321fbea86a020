#include "tools/cli/eval_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "tools/cli/json_output.h"
#include "tools/eval/gate.h"

namespace strata::cli {
namespace {

using eval::EvalRow;
using nlohmann::ordered_json;

struct Column {
  std::string title;
  bool is_text;  // else a number, set to the right
  std::function<std::string(const EvalRow&)> cell;
};

std::string percent(double share, int decimals = 1) {
  return fmt::format("{:.{}f}", 100 * share, decimals);
}

/// In a table cell a bar would end the cell.
std::string cell_text(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '|' ? "\\|" : std::string(1, c);
  return out;
}

std::string ratio_text(const std::optional<double>& ratio) {
  return ratio ? fmt::format("{:.2f}", *ratio) : "";
}

std::vector<Column> contender_columns() {
  return {{"context", false, [](const EvalRow& row) { return fmt::format("{}", row.context); }},
          {"method", true,
           [](const EvalRow& row) { return eval::method_text(row.method, row.reads_sparsely); }},
          {"budget", false, [](const EvalRow& row) { return row.budget; }},
          {"KV read %", false, [](const EvalRow& row) { return percent(row.kv_read_share); }}};
}

std::vector<Column> text_columns() {
  std::vector<Column> columns = contender_columns();
  columns.insert(columns.begin(), {"text", true, [](const EvalRow& row) { return row.text; }});
  const auto add = [&](const std::string& title, std::function<std::string(const EvalRow&)> cell) {
    columns.push_back({title, false, std::move(cell)});
  };
  add("KL, nat", [](const EvalRow& row) {
    return fmt::format("{:.4f} ± {:.4f}", row.agreement->kl.mean, row.agreement->kl.error);
  });
  add("p99", [](const EvalRow& row) { return fmt::format("{:.3f}", row.agreement->kl.p99); });
  add("x oracle", [](const EvalRow& row) { return ratio_text(row.kl_of_oracle); });
  add("top-1 %", [](const EvalRow& row) { return percent(row.agreement->top1); });
  add("PPL exact",
      [](const EvalRow& row) { return fmt::format("{:.3f}", row.agreement->exact_perplexity); });
  add("PPL", [](const EvalRow& row) { return fmt::format("{:.3f}", row.agreement->perplexity); });
  add("KV KB/token",
      [](const EvalRow& row) { return fmt::format("{:.0f}", row.kv_read_bytes_per_token / 1e3); });
  add("index B/token",
      [](const EvalRow& row) { return fmt::format("{:.0f}", row.index_bytes_per_token); });
  return columns;
}

std::vector<Column> attention_columns() {
  std::vector<Column> columns = contender_columns();
  columns.insert(columns.begin(), {"text", true, [](const EvalRow& row) { return row.text; }});
  const auto add = [&](const std::string& title, double eval::AttentionSummary::*value) {
    columns.push_back({title, false, [value](const EvalRow& row) {
                         return fmt::format("{:.3f}", (*row.attention).*value);
                       }});
  };
  using Of = eval::AttentionSummary;
  add("mass", &Of::mass_mean);
  add("p10", &Of::mass_p10);
  add("least", &Of::mass_least);
  add("error, median", &Of::error_median);
  add("p99", &Of::error_p99);
  add("set recall", &Of::set_recall);
  add("reuse", &Of::reuse);
  add("fetched / useful", &Of::fetched_over_useful);
  add("weight bias, nat", &Of::weight_bias);
  return columns;
}

/// A column for each size of memory that was asked about.
std::vector<Column> missing_columns(std::span<const EvalRow> rows) {
  std::vector<Column> columns = contender_columns();
  columns.insert(columns.begin(), {"text", true, [](const EvalRow& row) { return row.text; }});
  using Of = eval::MissingTally;
  const auto per_step = [&](const std::string& title, uint64_t Of::*count) {
    columns.push_back({title, false, [count](const EvalRow& row) {
                         return fmt::format("{:.1f}", row.missing->per_step((*row.missing).*count));
                       }});
  };
  const auto of_missing = [&](const std::string& title, uint64_t Of::*count) {
    columns.push_back({title, false, [count](const EvalRow& row) {
                         return percent(row.missing->of_missing((*row.missing).*count));
                       }});
  };
  per_step("chosen/token", &Of::chosen);
  per_step("missing/token", &Of::missing);
  per_step("layers that wait/token", &Of::waits);
  of_missing("chosen a token before %", &Of::in_last);
  of_missing("next to that %", &Of::runners_up);
  of_missing("chosen a layer before %", &Of::in_layer_before);
  const auto first =
      std::ranges::find_if(rows, [](const EvalRow& row) { return row.missing.has_value(); });
  for (size_t i = 0; first != rows.end() && i < first->missing->points.size(); ++i)
    columns.push_back(
        {fmt::format("found % with {} % (by weight)", percent(first->missing->points[i].share)),
         false, [i](const EvalRow& row) {
           const eval::HeldPoint& of = row.missing->points[i];
           return fmt::format("{} ({})", percent(row.missing->hit_rate(of.missing)),
                              percent(row.missing->hit_rate(of.missing_weighed)));
         }});
  return columns;
}

std::vector<Column> task_columns() {
  std::vector<Column> columns = contender_columns();
  columns.insert(columns.begin(), {"task", true, [](const EvalRow& row) { return row.task; }});
  const auto add = [&](const std::string& title, std::optional<double> EvalRow::*value) {
    columns.push_back({title, false, [value](const EvalRow& row) {
                         return row.*value ? percent(*(row.*value), 0) : "";
                       }});
  };
  add("right %", &EvalRow::score);
  add("partly %", &EvalRow::partial_score);
  add("exact: right %", &EvalRow::exact_score);
  add("exact: partly %", &EvalRow::exact_partial_score);
  add("kept %", &EvalRow::kept_score);
  columns.push_back(
      {"cases", false, [](const EvalRow& row) { return fmt::format("{}", row.n_cases); }});
  columns.push_back({"note", true, [](const EvalRow& row) -> std::string {
                       return row.exact_score.value_or(0) < eval::kGatingScore ? "does not gate"
                                                                               : "";
                     }});
  return columns;
}

EvalTable table_of(std::span<const EvalRow> rows, const std::vector<Column>& columns,
                   const std::function<bool(const EvalRow&)>& is_in) {
  EvalTable table;
  for (const Column& column : columns) {
    table.titles.push_back(column.title);
    table.is_text.push_back(column.is_text);
  }
  for (const EvalRow& row : rows) {
    if (!is_in(row)) continue;
    auto& cells = table.rows.emplace_back();
    for (const Column& column : columns) cells.push_back(column.cell(row));
  }
  return table;
}

std::string markdown(std::span<const EvalRow> rows) {
  std::string out;
  for (const EvalTable& table : eval_tables(rows)) {
    std::string titles = "|", rules = "|";
    for (size_t i = 0; i < table.titles.size(); ++i) {
      titles += " " + table.titles[i] + " |";
      rules += table.is_text[i] ? " --- |" : " ---: |";
    }
    out += fmt::format("{}{}\n{}\n", out.empty() ? "" : "\n", titles, rules);
    for (const auto& cells : table.rows) {
      out += "|";
      for (const std::string& cell : cells) out += " " + cell_text(cell) + " |";
      out += "\n";
    }
  }
  return out;
}

std::string csv_field(const ordered_json& value) {
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

/// A column for every key that some row has, in the order of the contract.
std::string csv(std::span<const EvalRow> rows) {
  std::vector<ordered_json> objects;
  std::vector<std::string> names;
  for (const EvalRow& row : rows) objects.push_back(eval_json(row));
  for (const auto& object : objects)
    for (const auto& [key, value] : object.items())
      if (std::find(names.begin(), names.end(), key) == names.end()) names.push_back(key);
  std::string out = fmt::format("{}\n", fmt::join(names, ","));
  for (const auto& object : objects) {
    std::vector<std::string> fields;
    fields.reserve(names.size());
    for (const std::string& name : names)
      fields.push_back(object.contains(name) ? csv_field(object[name]) : "");
    out += fmt::format("{}\n", fmt::join(fields, ","));
  }
  return out;
}

}  // namespace

ordered_json eval_json(const EvalRow& row) {
  ordered_json json = {{"method", row.method}, {"task", row.task}};
  if (!row.text.empty()) json["text"] = row.text;
  if (row.reads_sparsely) json["read_sparsely"] = true;
  json["context"] = row.context;
  json["budget"] = row.budget;
  const auto add = [&](const char* key, const std::optional<double>& value) {
    if (value) json[key] = *value;
  };
  add("budget_share", row.budget_share);
  add("score", row.score);
  add("partial_score", row.partial_score);
  add("exact_score", row.exact_score);
  add("exact_partial_score", row.exact_partial_score);
  add("kept_score", row.kept_score);
  if (row.score) {
    json["cases"] = row.n_cases;
    json["gates"] = row.exact_score.value_or(0) >= eval::kGatingScore;
  }
  if (row.agreement) {
    json["kld"] = row.agreement->kl.mean;
    json["kld_error"] = row.agreement->kl.error;
    json["kld_p99"] = row.agreement->kl.p99;
    add("kld_of_oracle", row.kl_of_oracle);
    json["top1_agreement"] = row.agreement->top1;
    json["perplexity"] = row.agreement->perplexity;
    json["exact_perplexity"] = row.agreement->exact_perplexity;
    json["tokens"] = row.agreement->kl.n;
  }
  if (row.attention) {
    json["mass_recall"] = row.attention->mass_mean;
    json["mass_recall_p10"] = row.attention->mass_p10;
    json["mass_recall_least"] = row.attention->mass_least;
    json["output_error_median"] = row.attention->error_median;
    json["output_error_p99"] = row.attention->error_p99;
    json["set_recall"] = row.attention->set_recall;
    json["reuse"] = row.attention->reuse;
    json["fetched_over_useful"] = row.attention->fetched_over_useful;
    json["weight_bias"] = row.attention->weight_bias;
    for (const eval::LayerFigures& of : row.attention->layers)
      json["layers"].push_back(
          {{"layer", of.layer}, {"mass_recall", of.mass}, {"output_error", of.error}});
  }
  if (row.missing) {
    const eval::MissingTally& of = *row.missing;
    json["chosen_blocks_per_token"] = of.per_step(of.chosen);
    json["missing_blocks_per_token"] = of.per_step(of.missing);
    json["waiting_layers_per_token"] = of.per_step(of.waits);
    json["missing_chosen_token_before"] = of.of_missing(of.in_last);
    json["missing_next_token_before"] = of.of_missing(of.runners_up);
    json["missing_chosen_layer_before"] = of.of_missing(of.in_layer_before);
    for (const eval::HeldPoint& point : of.points)
      json["held"].push_back({{"share", point.share},
                              {"hit_rate", of.hit_rate(point.missing)},
                              {"hit_rate_by_weight", of.hit_rate(point.missing_weighed)}});
  }
  json["kv_read_share"] = row.kv_read_share;
  json["kv_read_bytes_per_token"] = row.kv_read_bytes_per_token;
  json["index_bytes_per_token"] = row.index_bytes_per_token;
  json["index_read_bytes_per_token"] = row.index_read_bytes_per_token;
  return json;
}

std::vector<EvalTable> eval_tables(std::span<const EvalRow> rows) {
  std::vector<EvalTable> tables = {
      table_of(rows, text_columns(), [](const EvalRow& row) { return row.agreement.has_value(); }),
      table_of(rows, attention_columns(),
               [](const EvalRow& row) { return row.attention.has_value(); }),
      table_of(rows, missing_columns(rows),
               [](const EvalRow& row) { return row.missing.has_value(); }),
      table_of(rows, task_columns(), [](const EvalRow& row) { return row.score.has_value(); })};
  std::erase_if(tables, [](const EvalTable& table) { return table.rows.empty(); });
  return tables;
}

std::string eval_report(std::span<const EvalRow> rows, const std::string& format) {
  if (format == "md") return markdown(rows);
  if (format == "csv") return csv(rows);
  std::string out;
  for (const EvalRow& row : rows) {
    const bool is_line = format == "jsonl";
    if (!is_line && !out.empty()) out += ",\n";
    out += is_line ? json_line(eval_json(row)) + "\n" : json_text(eval_json(row));
  }
  return format == "jsonl" ? out : "[\n" + out + "\n]\n";
}

}  // namespace strata::cli
