// tests/serve/json_schema.h - whether a value fits a schema, by as much of JSON Schema as the
// description of the server uses.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace strata::serve::testing {

/// What of an object may be there that its schema does not name: anything, as JSON Schema has it,
/// or nothing, so that a reply with a field that nobody described is found. With kNothing an object
/// whose schema has "properties" is bound to those, so schemas may not be put together by "allOf".
enum class Unnamed : uint8_t { kAnything, kNothing };

/// Why `value` does not fit, with its place; "" = it does. `document` holds what "$ref" names.
/// A word of the schema that is not known here is a fault as well.
std::string schema_fault(const nlohmann::json& document, const nlohmann::json& schema,
                         const nlohmann::json& value, Unnamed unnamed = Unnamed::kAnything);

/// The value that "#/a/b" names in a document; null = there is none.
const nlohmann::json* referred(const nlohmann::json& document, const std::string& reference);

}  // namespace strata::serve::testing
