// engine/grammar/json_grammar.h - a JSON schema as a graph of what values may look like, for a
// matcher of bytes (engine/grammar/json_machine.h).
//
// The subset: type (also several), properties, required, additionalProperties (false, true, or a
// schema where there are no properties), items, minItems, maxItems, minLength, maxLength, enum,
// const, anyOf, allOf of one, $ref to the root, $defs or definitions (of the schema, or of the
// nearest one around it that has an $id); and what only describes (title, description, default,
// examples, $schema, $comment, deprecated).
// Narrower than the schema, so that an answer stays small and can always be ended (a string, an
// array or a map without a most need not end by itself): properties come in the
// order the schema has them, keys that it does not name come nowhere, numbers have at most 15
// digits before and behind the point and two in the exponent, white space is a space or a line
// break with its indentation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace strata::engine {

/// A value that nests deeper is never begun.
inline constexpr uint32_t kGrammarFramesMax = 64;
inline constexpr uint32_t kGrammarNodesMax = 8192;
/// Of one anyOf or enum, anyOf inside of anyOf counted, and of one object's properties.
inline constexpr uint32_t kGrammarChoicesMax = 256;

struct GrammarNode {
  enum class Kind : uint8_t {
    kRoot,     // nodes[0], white space before it
    kLiteral,  // just this JSON text
    kString,
    kInteger,
    kNumber,
    kArray,   // of nodes[0]
    kObject,  // of properties: nodes[i] behind keys[i]
    kMap,     // any string keys[0], behind it nodes[0]
    kAnyOf,   // one of nodes
  };
  Kind kind = Kind::kLiteral;
  std::string text;                       // kLiteral, not empty
  uint32_t least = 0, most = UINT32_MAX;  // kString: code points; kArray: items
  std::vector<uint32_t> nodes;
  std::vector<uint32_t> keys;
  std::vector<uint8_t> is_required;  // kObject: as nodes
  uint32_t height = UINT32_MAX;      // frames that the flattest value of it takes
};

struct JsonGrammar {
  std::vector<GrammarNode> nodes;
  uint32_t root = 0;  // kRoot
};

/// Errors: kUsage (a keyword outside the subset, by name and place; a schema that no finite value
/// fits, or that is too large: of more than 4096 values or 256 KiB of texts, or kGrammarNodesMax).
JsonGrammar compile_json_schema(const nlohmann::ordered_json& schema);

}  // namespace strata::engine
