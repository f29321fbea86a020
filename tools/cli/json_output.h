// tools/cli/json_output.h - JSON as the verbs print it.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

namespace strata::cli {

/// Indented text; bytes of a file that are not UTF-8 become U+FFFD instead of failing.
std::string json_text(const nlohmann::ordered_json& value);
/// The same on one line.
std::string json_line(const nlohmann::ordered_json& value);
/// null where it is empty.
nlohmann::ordered_json text_or_null(const std::string& text);

}  // namespace strata::cli
