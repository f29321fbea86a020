// Answers bound to a schema: random walks over what is allowed end in JSON that fits, told by
// a checker of its own.
#include "engine/grammar/answer_constraint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "engine/sampler.h"
#include "engine/text/utf8.h"

namespace strata::engine {
namespace {

using nlohmann::ordered_json;

constexpr TokenId kEndToken = 0;

/// Every byte, and longer tokens that cross what a grammar knows.
const std::vector<std::string>& texts() {
  static const auto kTexts = [] {
    std::vector<std::string> out = {"", ""};  // the end, and a token without text
    for (int byte = 0; byte < 256; ++byte) out.emplace_back(1, static_cast<char>(byte));
    for (const char* const text :
         {"{\"",      "\":",      "\": ",    ", \"", "\",\"", "[]", "{}",   "},",     "]}",
          "\"}",      "true",     "fal",     "se,",  "null",  "  ", "\n  ", "\n    ", "12",
          "-3",       "0.",       "e-",      "\\u",  "\\u00", "ab", "abc",  "name",   "\xC3\xA9",
          "\xF0\x9F", "\x98\x80", "\"a\":1", "[[",   "],[",   "ab"})
      out.emplace_back(text);
    return out;
  }();
  return kTexts;
}

std::shared_ptr<const TokenTable> table() {
  static const auto kTable =
      std::make_shared<const TokenTable>(texts(), std::vector<TokenId>{kEndToken});
  return kTable;
}

std::vector<TokenId> tokens_of(std::span<const uint64_t> mask) {
  std::vector<TokenId> out;
  for (size_t i = 0; i < texts().size(); ++i)
    if (mask[i / 64] >> (i % 64) & 1) out.push_back(static_cast<TokenId>(i));
  return out;
}

uint64_t n_points(const std::string& text) {
  return static_cast<uint64_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

const ordered_json& target_of(const ordered_json& root, const ordered_json& schema) {
  const auto target = schema["$ref"].get<std::string>();
  return target == "#" ? root : root["$defs"][target.substr(8)];
}

bool fits_type(const ordered_json& root, const ordered_json& schema, const std::string& type,
               const ordered_json& value);

/// A checker that knows nothing of grammars.
bool fits(const ordered_json& root, const ordered_json& schema, const ordered_json& value) {
  if (schema.contains("$ref")) return fits(root, target_of(root, schema), value);
  if (schema.contains("anyOf"))
    return std::ranges::any_of(schema["anyOf"],
                               [&](const auto& one) { return fits(root, one, value); });
  if (schema.contains("enum"))
    return std::ranges::find(schema["enum"], value) != schema["enum"].end();
  return !schema.contains("type") ||
         fits_type(root, schema, schema["type"].get<std::string>(), value);
}

bool fits_type(const ordered_json& root, const ordered_json& schema, const std::string& type,
               const ordered_json& value) {
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "string")
    return value.is_string() && n_points(value) >= schema.value("minLength", 0u) &&
           n_points(value) <= schema.value("maxLength", UINT32_MAX);
  if (type == "array")
    return value.is_array() && value.size() >= schema.value("minItems", 0u) &&
           value.size() <= schema.value("maxItems", UINT32_MAX) &&
           std::ranges::all_of(value,
                               [&](const auto& item) { return fits(root, schema["items"], item); });
  if (!value.is_object()) return false;
  for (const auto& name : schema["required"])
    if (!value.contains(name.get<std::string>())) return false;
  for (const auto& [name, one] : value.items())
    if (!schema["properties"].contains(name) || !fits(root, schema["properties"][name], one))
      return false;
  return true;
}

/// A schema of at most `depth` levels; refers to the definitions "d0" and "d1".
ordered_json random_schema(std::mt19937& random, int depth) {
  switch (random() % (depth > 0 ? 10 : 6)) {
    case 0:
      return {{"type", "integer"}};
    case 1:
      return {{"type", "number"}};
    case 2:
      return {{"type", random() % 2 ? "boolean" : "null"}};
    case 3:
      return {{"type", "string"}, {"minLength", random() % 3}, {"maxLength", 2 + random() % 4}};
    case 4:
      return {{"type", "string"}};
    case 5:
      return {{"enum", {"a", "ab", "abc", 1, 12, nullptr, ordered_json::object()}}};
    case 6:
      return {{"type", "array"},
              {"items", random_schema(random, depth - 1)},
              {"minItems", random() % 3},
              {"maxItems", 2 + random() % 3}};
    case 7:
      return {{"anyOf", {random_schema(random, depth - 1), random_schema(random, depth - 1)}}};
    case 8:
      return {{"$ref", random() % 2 ? "#/$defs/d0" : "#/$defs/d1"}};
    default:
      break;
  }
  ordered_json properties = ordered_json::object(), required = ordered_json::array();
  for (const char* const name : {"a", "ab", "name", "\xC3\xA9\""}) {
    if (random() % 3 == 0) continue;
    properties[name] = random_schema(random, depth - 1);
    if (random() % 2) required.push_back(name);
  }
  return {{"type", "object"},
          {"properties", properties},
          {"required", required},
          {"additionalProperties", false}};
}

/// Of the tokens that close something, the one that closes most. Ends every value in few steps.
TokenId closing(const std::vector<TokenId>& allowed) {
  for (const std::string_view wanted :
       {"", "\"", "}", "]", ":", "0", "1", "8", "n", "u", "l", "t", "r", "e", "f", "a", "s"})
    for (const TokenId token : allowed)
      if (wanted == (token == kEndToken ? "" : texts()[static_cast<size_t>(token)])) return token;
  return allowed.front();
}

/// The text of one answer: `n_free` tokens at random, then whatever ends it soonest.
std::string walk(AnswerConstraint& constraint, std::mt19937& random, int n_free) {
  std::string text;
  for (int i = 0; i < 3000; ++i) {
    const std::vector<TokenId> allowed = tokens_of(constraint.allowed());
    if (allowed.empty()) {
      ADD_FAILURE() << "nothing may follow " << text;
      return text;
    }
    const TokenId token = i < n_free ? allowed[random() % allowed.size()] : closing(allowed);
    constraint.accept(token);
    if (token == kEndToken) return text;
    text += texts()[static_cast<size_t>(token)];
  }
  ADD_FAILURE() << "no end of " << text;
  return text;
}

TEST(AnswerConstraint, RandomAnswersFitRandomSchemas) {
  std::mt19937 random(9);
  int n_compiled = 0;
  for (int round = 0; round < 150; ++round) {
    ordered_json schema = random_schema(random, 3);
    schema["$defs"] = {{"d0", random_schema(random, 2)}, {"d1", random_schema(random, 1)}};
    std::optional<JsonGrammar> grammar;
    try {
      grammar = compile_json_schema(schema);
    } catch (const Error& error) {
      continue;  // definitions that only lead to each other
    }
    ++n_compiled;
    for (int i = 0; i < 4; ++i) {
      AnswerConstraint constraint(table(), *grammar);
      const std::string text = walk(constraint, random, static_cast<int>(random() % 40));
      const ordered_json value = ordered_json::parse(text, nullptr, false);
      ASSERT_FALSE(value.is_discarded()) << text << " of " << schema.dump();
      ASSERT_TRUE(fits(schema, schema, value)) << text << " of " << schema.dump();
    }
  }
  EXPECT_GT(n_compiled, 100);
}

TEST(AnswerConstraint, AnyObjectIsWhatJsonModeAsksFor) {
  std::mt19937 random(4);
  for (int i = 0; i < 20; ++i) {
    AnswerConstraint constraint(table(), compile_json_schema({{"type", "object"}}));
    EXPECT_TRUE(ordered_json::parse(walk(constraint, random, 60)).is_object());
  }
}

/// The mask from its definition: every token's bytes through the machine.
std::vector<TokenId> allowed_one_by_one(const JsonGrammar& grammar, const std::string& before) {
  std::vector<TokenId> out;
  for (size_t i = 1; i < texts().size(); ++i) {
    if (texts()[i].empty()) continue;
    std::vector<GrammarStack> stacks = {first_stack(grammar)}, next;
    for (const char byte : before + texts()[i]) {
      next.clear();
      for (const GrammarStack& stack : stacks)
        step_stack(grammar, stack, static_cast<uint8_t>(byte), next);
      stacks = next;
    }
    if (!stacks.empty()) out.push_back(static_cast<TokenId>(i));
  }
  return out;
}

TEST(AnswerConstraint, AllowsJustTheTokensWhoseBytesFit) {
  const auto schema = ordered_json::parse(R"({"type": "object", "required": ["name"], "properties":
    {"name": {"type": "string", "maxLength": 3}, "ab": {"anyOf": [{"type": "array",
     "items": {"type": "array"}}, {"type": "number"}, {"enum": ["abc", "ab"]}]}}})");
  const JsonGrammar grammar = compile_json_schema(schema);
  const std::string text = "{\"name\": \"ab\xF0\x9F\x98\x80\", \"ab\":[[],[12]]}";
  AnswerConstraint constraint(table(), grammar);
  for (size_t i = 0; i < text.size(); ++i) {
    ASSERT_EQ(tokens_of(constraint.allowed()), allowed_one_by_one(grammar, text.substr(0, i)))
        << text.substr(0, i);
    constraint.accept(2 + static_cast<uint8_t>(text[i]));
  }
  EXPECT_EQ(tokens_of(constraint.allowed()), std::vector<TokenId>{kEndToken});
}

TEST(AnswerConstraint, IsOverWhereItIsCompleteAndNothingMayFollow) {
  AnswerConstraint constraint(table(), compile_json_schema({{"type", {"integer", "boolean"}}}));
  EXPECT_FALSE(constraint.is_complete() || constraint.is_over());
  AnswerConstraint number(table(), compile_json_schema({{"type", "integer"}}));
  number.accept(2 + '7');
  EXPECT_TRUE(number.is_complete() && !number.is_over());
  for (const char c : std::string("true")) constraint.accept(2 + c);
  EXPECT_TRUE(constraint.is_complete() && constraint.is_over());
}

TEST(AnswerConstraint, GoesOnWhereItsStatesAreFull) {
  const JsonGrammar grammar = compile_json_schema({{"type", "string"}, {"maxLength", 20000}});
  AnswerConstraint constraint(table(), grammar);
  constraint.accept(2 + '"');
  for (int i = 0; i < 20000; ++i) {
    constraint.accept(2 + 'x');
    ASSERT_LE(constraint.held_bytes(), AnswerConstraint::kBytesMax) << i;
  }
  EXPECT_EQ(tokens_of(constraint.allowed()).front(), 2 + '"');
  constraint.accept(2 + '"');
  EXPECT_TRUE(constraint.is_complete());
}

/// `n` strings of different lengths, inside of `depth` arrays.
ordered_json strings_schema(int n, int depth) {
  ordered_json schema = {{"anyOf", ordered_json::array()}};
  for (int i = 0; i < n; ++i)
    schema["anyOf"].push_back({{"type", "string"}, {"maxLength", 1000 + i}});
  for (int i = 0; i < depth; ++i) schema = {{"type", "array"}, {"items", std::move(schema)}};
  return schema;
}

TEST(AnswerConstraint, GoesOnWhereOneMaskFillsItsStates) {
  // Each length, and each unfinished escape behind it, is a state of 60 deep stacks.
  ordered_json schema = {{"anyOf", ordered_json::array()}};
  for (int i = 0; i < 60; ++i)
    schema["anyOf"].push_back(
        {{"type", "string"}, {"minLength", i / 2}, {"maxLength", 70 - i % 2}});
  for (int i = 0; i < 56; ++i) schema = {{"type", "array"}, {"items", std::move(schema)}};
  std::vector<std::string> many = {"", "[", "\""};
  for (size_t n = 0; n < 80; ++n)
    for (const char* const end : {"x", "\\", "\\u", "\\ud", "\\u0", "\\u00", "\\u000", "\x01"})
      many.push_back(std::string(n, 'x') + end);
  AnswerConstraint constraint(
      std::make_shared<const TokenTable>(many, std::vector<TokenId>{kEndToken}),
      compile_json_schema(schema));
  for (int i = 0; i < 56; ++i) constraint.accept(1);
  constraint.accept(2);
  const std::span<const uint64_t> mask = constraint.allowed();
  for (size_t i = 1; i < many.size(); ++i) {
    const auto n_plain = std::ranges::count(many[i], 'x');
    const bool is_plain = many[i].back() == 'x';
    const bool fits = many[i].back() != '\x01' && n_plain + (is_plain ? 0 : 1) <= 70;
    ASSERT_EQ(mask[i / 64] >> (i % 64) & 1, fits ? 1u : 0u) << many[i];
  }
  const uint64_t one_token_bytes = 90 * (AnswerConstraint::kStateBytesMax + 2048);
  EXPECT_LE(constraint.held_bytes(), AnswerConstraint::kBytesMax + one_token_bytes);
  constraint.accept(3);
  EXPECT_FALSE(constraint.is_complete());
}

std::string refusal_of(const ordered_json& schema, std::string_view before) {
  try {
    AnswerConstraint constraint(table(), compile_json_schema(schema));
    for (const char byte : before) constraint.accept(2 + static_cast<uint8_t>(byte));
    (void)constraint.allowed();
    return "taken";
  } catch (const Error& error) {
    return error.code() == ErrorCode::kUsage && !error.remedy().empty() ? error.where() : "other";
  }
}

TEST(AnswerConstraint, RefusesToFollowTooManyWaysAtOnce) {
  EXPECT_EQ(refusal_of(strings_schema(64, 0), ""), "taken");
  EXPECT_EQ(refusal_of(strings_schema(65, 0), ""), "schema");
  EXPECT_EQ(refusal_of(strings_schema(250, 58), "["), "taken");
  EXPECT_EQ(refusal_of(strings_schema(250, 58), std::string(58, '[')), "schema");
  // Literals are many ways too, but not for long. Their copies of deep stacks are bounded.
  ordered_json names = {{"enum", ordered_json::array()}}, keys = {{"type", "object"}};
  for (int i = 0; i < 256; ++i) names["enum"].push_back("name" + std::to_string(i));
  for (int i = 0; i < 256; ++i) keys["properties"]["name" + std::to_string(i)] = true;
  EXPECT_EQ(refusal_of(names, "\"name"), "taken");
  EXPECT_EQ(refusal_of(keys, "{\"name"), "taken");
  for (int i = 0; i < 58; ++i) names = {{"type", "array"}, {"items", std::move(names)}};
  EXPECT_EQ(refusal_of(names, std::string(58, '[')), "schema");
}

TEST(AnswerConstraint, StringsFarFromTheirBoundsShareTheirMask) {
  const JsonGrammar grammar =
      compile_json_schema({{"type", "string"}, {"minLength", 9}, {"maxLength", 30}});
  AnswerConstraint asked(table(), grammar), other(table(), grammar);
  std::string text = "\"";
  uint64_t n_asked = 0, n_other = 0;  // bytes that a token added, far from both bounds
  for (int i = 0; i < 30; ++i) {
    const uint64_t asked_bytes = asked.held_bytes(), other_bytes = other.held_bytes();
    asked.accept(2 + static_cast<uint8_t>(text.back()));
    other.accept(2 + static_cast<uint8_t>(text.back()));
    ASSERT_EQ(tokens_of(asked.allowed()), allowed_one_by_one(grammar, text)) << text;
    if (i >= 14 && i <= 20) n_asked += asked.held_bytes() - asked_bytes;
    if (i >= 14 && i <= 20) n_other += other.held_bytes() - other_bytes;
    text += 'x';
  }
  EXPECT_EQ(n_asked, n_other);
}

TEST(AnswerConstraint, BoundsWhatASamplerPicks) {
  AnswerConstraint constraint(table(), compile_json_schema({{"enum", {"ab"}}}));
  std::vector<float> logits(texts().size());
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 97);
  SamplerOptions options;
  Sampler sampler(options, static_cast<uint32_t>(logits.size()));
  std::string text;
  for (TokenId token = kNoToken; token != kEndToken;) {
    token = sampler.pick(logits, constraint.allowed());
    constraint.accept(token);
    text += texts()[static_cast<size_t>(token)];
    ASSERT_LT(text.size(), 64u);
  }
  EXPECT_EQ(ordered_json::parse(text), "ab");
  const std::vector<uint64_t> none((logits.size() + 63) / 64, 0);
  try {
    (void)sampler.pick(logits, none);
    ADD_FAILURE() << "a token where none is allowed";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_EQ(error.where(), "schema");
  }
}

}  // namespace
}  // namespace strata::engine
