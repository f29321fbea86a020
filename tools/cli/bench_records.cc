#include "tools/cli/bench_records.h"

#include <nlohmann/json.hpp>

#include "tools/cli/json_output.h"

namespace strata::cli {
namespace {

using nlohmann::ordered_json;

/// Quoted as llama-bench does it.
std::string csv_field(const ordered_json& value) {
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
  return out + "\"";
}

}  // namespace

void BenchRecords::add_csv(const ordered_json& record) {
  std::string names, values;
  const auto put = [&](const std::string& name, const ordered_json& value) {
    names += (names.empty() ? "" : ",") + name;
    values += (values.empty() ? "" : ",") + csv_field(value);
  };
  for (const auto& [key, value] : record.items()) {
    if (value.is_array()) continue;
    if (!value.is_object()) {
      put(key, value);
      continue;
    }
    for (const auto& [inner, of_inner] : value.items()) put(key + "_" + inner, of_inner);
  }
  if (!has_header_) sink_.write_line(names);
  has_header_ = true;
  sink_.write_line(values);
}

void BenchRecords::add(const ordered_json& record) {
  if (format_ == "csv") return add_csv(record);
  if (format_ == "jsonl") return sink_.write_line(json_line(record));
  list_ += (list_.empty() ? "" : ",\n") + json_text(record);
}

void BenchRecords::finish() {
  if (format_ == "json") sink_.write_line("[\n" + list_ + "\n]");
}

}  // namespace strata::cli
