#include "tools/cli/bench_records.h"

#include <algorithm>
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
  auto& fields = fields_.emplace_back();
  const auto put = [&](const std::string& name, const ordered_json& value) {
    if (std::ranges::find(columns_, name) == columns_.end()) columns_.push_back(name);
    fields[name] = csv_field(value);
  };
  for (const auto& [key, value] : record.items()) {
    if (value.is_array()) continue;
    if (!value.is_object()) {
      put(key, value);
      continue;
    }
    for (const auto& [inner, of_inner] : value.items()) put(key + "_" + inner, of_inner);
  }
}

/// A record without a column has an empty field there.
void BenchRecords::print_csv() const {
  if (fields_.empty()) return;
  std::string names;
  for (const std::string& name : columns_) {
    if (!names.empty()) names += ',';
    names += name;
  }
  sink_.write_line(names);
  for (const auto& fields : fields_) {
    std::string line;
    for (size_t i = 0; i < columns_.size(); ++i) {
      const auto field = fields.find(columns_[i]);
      if (i > 0) line += ',';
      if (field != fields.end()) line += field->second;
    }
    sink_.write_line(line);
  }
}

void BenchRecords::add(const ordered_json& record) {
  if (format_ == "csv") return add_csv(record);
  if (format_ == "jsonl") return sink_.write_line(json_line(record));
  list_ += (list_.empty() ? "" : ",\n") + json_text(record);
}

void BenchRecords::finish() {
  if (format_ == "csv") print_csv();
  if (format_ == "json") sink_.write_line("[\n" + list_ + "\n]");
}

}  // namespace strata::cli
