// Calls of tools in answers: found however the text is cut, and what is none comes back as text.
#include "tools/serve/tool_calls.h"

#include <gtest/gtest.h>

#include <random>

namespace strata::serve {
namespace {

/// Pieces in their order: text as it is, calls as {name|arguments}.
std::string shown(const std::vector<AnswerPiece>& pieces) {
  std::string out;
  for (const AnswerPiece& piece : pieces)
    out += piece.call ? "{" + piece.call->name + "|" + piece.call->arguments + "}" : piece.text;
  return out;
}

/// What calls may be of where their style asks for it.
const nlohmann::ordered_json kTools = nlohmann::ordered_json::parse(R"([{"type": "function",
  "function": {"name": "f", "parameters": {"type": "object", "properties": {
    "text": {"type": "string"}, "unit": {"enum": ["1", "2"]}, "n": {"type": "integer"},
    "any": {}, "flag": {"type": "boolean"}, "maybe": {"type": ["boolean", "null"]},
    "either": {"type": ["string", "integer"]}, "note": {"type": ["string", "null"]},
    "label": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "level": {"oneOf": [{"enum": ["1", "2"]}, {"type": "null"}]},
    "mixed": {"anyOf": [{"type": "boolean"}, {"type": "integer"}]}}}}},
  {"type": "function", "function": {"name": "g", "parameters": {}}}])");

std::string read_cut(ToolCallStyle style, std::string_view text, size_t piece_bytes) {
  ToolCallReader reader(style, kTools);
  std::string out;
  for (size_t at = 0; at < text.size(); at += piece_bytes)
    out += shown(reader.push(text.substr(at, piece_bytes)));
  return out + shown(reader.finish());
}

/// The same, whichever way it is cut.
std::string read(ToolCallStyle style, std::string_view text) {
  const std::string whole = read_cut(style, text, text.size() + 1);
  for (size_t n = 1; n < text.size(); ++n) EXPECT_EQ(read_cut(style, text, n), whole) << n;
  return whole;
}

std::string hermes(std::string_view text) { return read(ToolCallStyle::kHermes, text); }
std::string llama(std::string_view text) { return read(ToolCallStyle::kLlama, text); }
std::string mistral(std::string_view text) { return read(ToolCallStyle::kMistral, text); }

TEST(ToolCalls, OfHermesStandBetweenMarkers) {
  EXPECT_EQ(hermes("Let me look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": "
                   "\"</tool_call> \\\"}{\"}}\n</tool_call>"),
            R"(Let me look.{f|{"b":1,"a":"</tool_call> \"}{"}})");
  EXPECT_EQ(hermes("<tool_call>{\"name\": \"f\"}</tool_call>\n<tool_call>{\"name\": \"g\", "
                   "\"arguments\": \"{\\\"x\\\": 2}\"}</tool_call>\n"),
            R"({f|{}}{g|{"x":2}})");
  EXPECT_EQ(hermes("<tool_call>{\"name\": \"f\", \"arguments\": {}}"), "{f|{}}");
  EXPECT_EQ(hermes("<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call> and more"),
            "{f|{}} and more");
}

TEST(ToolCalls, OfLlamaAreTheAnswer) {
  EXPECT_EQ(llama(R"({"name": "f", "parameters": {"a": [1, "]}"]}})"), R"({f|{"a":[1,"]}"]}})");
  EXPECT_EQ(llama("\n<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", "
                  "\"parameters\": {}}"),
            "{f|{}}{g|{}}");
  EXPECT_EQ(llama(R"({"answer": 42})"), R"({"answer": 42})");
  EXPECT_EQ(llama(R"(As JSON: {"name": "f", "parameters": {}})"),
            R"(As JSON: {"name": "f", "parameters": {}})");
}

TEST(ToolCalls, OfMistralAreAListWithItsMarkerShownOrNot) {
  EXPECT_EQ(mistral("[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", "
                    "\"arguments\": {}}]"),
            R"({f|{"a":1}}{g|{}})");
  EXPECT_EQ(mistral(R"([{"name": "f", "arguments": {}, "id": "abc"}])"), "{f|{}}");
  EXPECT_EQ(mistral("Sure. [TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}]"), "Sure.{f|{}}");
  EXPECT_EQ(mistral("[1] says so"), "[1] says so");
}

std::string args(std::string_view text) { return read(ToolCallStyle::kMistralArgs, text); }
std::string tagged(std::string_view text) { return read(ToolCallStyle::kQwenCoder, text); }

TEST(ToolCalls, OfMistralWithArgsHaveTheirNamesBeforeTheJson) {
  EXPECT_EQ(args("[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g-2[ARGS] {}"),
            R"({f|{"a":1}}{g-2|{}})");
  EXPECT_EQ(args("Sure.\n[TOOL_CALLS]f[ARGS]{\"a\": \"}[ARGS]\"}"), R"(Sure.{f|{"a":"}[ARGS]"}})");
  EXPECT_EQ(args(R"(f{"a": {"b": []}}g{})"), R"({f|{"a":{"b":[]}}}{g|{}})");  // no marker is shown
  EXPECT_EQ(args("h{\"a\": 1}"), "h{\"a\": 1}");  // no tool has that name
  EXPECT_EQ(args("[TOOL_CALLS]h{\"a\": 1}"), R"({h|{"a":1}})");
  EXPECT_EQ(args("f{}h{}"), "{f|{}}h{}");
  for (const std::string_view text :
       {"Hello", "Hello there", "f {}", "f[1]", "f{\"a\": }", "[TOOL_CALLS]", "[TOOL_CALLS]{}",
        "[TOOL_CALLS]f[ARGS]", "[TOOL_CALLS]f[ARGS]{", "[TOOL_CALLS]f g[ARGS]{}", "{\"a\": 1}",
        " "})
    EXPECT_EQ(args(text), text);
  EXPECT_EQ(args(std::string(65, 'f') + "{}"), std::string(65, 'f') + "{}");
  ToolCallReader reader(ToolCallStyle::kMistralArgs);
  EXPECT_EQ(shown(reader.push("Hello")), "");  // it may be a name
  EXPECT_EQ(shown(reader.push(" there")), "Hello there");
  EXPECT_EQ(shown(reader.push(" again")), " again");
}

TEST(ToolCalls, OfQwenCoderHaveTheirParametersBetweenTags) {
  EXPECT_EQ(tagged("I look.\n\n<tool_call>\n<function=f>\n<parameter=text>\na < b\n\n"
                   "</parameter>\n<parameter=n>\n7\n</parameter>\n</function>\n</tool_call>\n"
                   "<tool_call><function=g></function></tool_call>"),
            R"(I look.{f|{"text":"a < b\n","n":7}}{g|{}})");
  EXPECT_EQ(tagged("<tool_call><function=g><parameter=a>[1, {}]</parameter></function>"),
            R"({g|{"a":[1,{}]}})");  // the marker behind it did not come
  for (const std::string_view text :
       {"<tool_call>\n<function=f>\n<parameter=text>\n1", "<tool_call><function=f>",
        "<tool_call><function=>", "<tool_call><function=f\n></function></tool_call>",
        "<tool_call><function=f>x</function></tool_call>", "<tool_call><parameter=a>",
        "<tool_call>{\"name\": \"f\"}</tool_call>", "<function=f></function>"})
    EXPECT_EQ(tagged(text), text);
}

/// A model writes 7 and "7" alike.
TEST(ToolCalls, OfQwenCoderHaveValuesOfTheTypesThatTheirToolsSay) {
  const auto value = [](const std::string& name, const std::string& text) {
    return read_cut(ToolCallStyle::kQwenCoder,
                    "<tool_call><function=f><parameter=" + name + ">\n" + text +
                        "\n</parameter></function></tool_call>",
                    3);
  };
  EXPECT_EQ(value("text", "7"), R"({f|{"text":"7"}})");
  EXPECT_EQ(value("text", "{\"a\": true}"), R"({f|{"text":"{\"a\": true}"}})");
  EXPECT_EQ(value("unit", "2"), R"({f|{"unit":"2"}})");
  EXPECT_EQ(value("n", "7"), R"({f|{"n":7}})");
  EXPECT_EQ(value("n", "seven"), R"({f|{"n":"seven"}})");
  EXPECT_EQ(value("any", "null"), R"({f|{"any":null}})");
  EXPECT_EQ(value("other", "true"), R"({f|{"other":true}})");
  EXPECT_EQ(value("any", "1,\"b\":2"), R"({f|{"any":"1,\"b\":2"}})");
  for (const std::string name : {"flag", "maybe", "mixed"}) {
    EXPECT_EQ(value(name, "True"), "{f|{\"" + name + "\":true}}");
    EXPECT_EQ(value(name, "False"), "{f|{\"" + name + "\":false}}");
    EXPECT_EQ(value(name, "true"), "{f|{\"" + name + "\":true}}");
    EXPECT_EQ(value(name, "TRUE"), "{f|{\"" + name + "\":\"TRUE\"}}");
  }
  for (const std::string name : {"text", "n", "any", "note", "unit", "level"})
    EXPECT_EQ(value(name, "True"), "{f|{\"" + name + "\":\"True\"}}");
  for (const std::string word : {"None", "null"}) {
    for (const std::string name : {"n", "any", "flag", "maybe", "mixed", "note", "label", "level"})
      EXPECT_EQ(value(name, word), "{f|{\"" + name + "\":null}}");
    for (const std::string name : {"text", "unit"})
      EXPECT_EQ(value(name, word), "{f|{\"" + name + "\":\"" + word + "\"}}");
  }
  EXPECT_EQ(value("either", "None"), R"({f|{"either":"None"}})");
  EXPECT_EQ(value("either", "7"), R"({f|{"either":7}})");
  for (const std::string name : {"note", "label", "level"}) {
    EXPECT_EQ(value(name, "7"), "{f|{\"" + name + "\":\"7\"}}");
    EXPECT_EQ(value(name, "none"), "{f|{\"" + name + "\":\"none\"}}");
  }
}

TEST(ToolCalls, ThatAreMalformedAreText) {
  for (const std::string_view text :
       {"<tool_call>", "<tool_call>{", "<tool_call>{]</tool_call>", "<tool_call>f()</tool_call>",
        "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"x\"}</tool_call>", "a <tool", " \n",
        "<tool_call>{\"name\": \"f\", \"name\": \"g\"}</tool_call> b"})
    EXPECT_EQ(hermes(text), text);
  for (const std::string_view text : {"[", "[{", "[]", "[TOOL_CALLS][]", "[TOOL_CALLS]",
                                      "[{\"name\": \"f\", \"arguments\": {}}, 5] x"})
    EXPECT_EQ(mistral(text), text);
  EXPECT_EQ(hermes("<tool_call>no <tool_call>{\"name\": \"f\"}</tool_call>"),
            "<tool_call>no{f|{}}");
}

TEST(ToolCalls, HoldTextBackOnlyWhileItMayBeginOne) {
  ToolCallReader reader(ToolCallStyle::kHermes);
  EXPECT_EQ(shown(reader.push("one <two")), "one <two");
  EXPECT_EQ(shown(reader.push(" \n<tool_")), "");
  EXPECT_EQ(shown(reader.push("box> three")), " \n<tool_box> three");
  EXPECT_EQ(shown(reader.push(std::string(1000, ' '))), std::string(936, ' '));
  ToolCallReader none(ToolCallStyle::kNone);
  EXPECT_EQ(shown(none.push("<tool_")), "<tool_");
}

TEST(ToolCalls, AreBoundedInBytesAndDepth) {
  const std::string deep = R"(<tool_call>{"name": "f", "arguments": {"a": )" +
                           std::string(100, '[') + std::string(100, ']') + "}}</tool_call>";
  EXPECT_EQ(read_cut(ToolCallStyle::kHermes, deep, 7), deep);
  const std::string endless = "<tool_call>{" + std::string(3 << 20, '[');
  ToolCallReader reader(ToolCallStyle::kHermes);
  EXPECT_GT(shown(reader.push(endless)).size(), size_t{2} << 20);
  ToolCallReader tags(ToolCallStyle::kQwenCoder);
  std::string text = shown(tags.push("<tool_call><function=f><parameter=a>"));
  for (int i = 0; i < 3 << 10; ++i) text += shown(tags.push(std::string(1 << 10, '<')));
  EXPECT_GT(text.size(), size_t{1} << 20);
}

TEST(ToolCalls, LoseNoTextHoweverItLooks) {
  std::mt19937 random(20261126);
  const std::vector<std::string> words = {"<tool_call>",
                                          "</tool_call>",
                                          "{",
                                          "}",
                                          "[",
                                          "]",
                                          "\"",
                                          "\\",
                                          " ",
                                          "\n",
                                          "[TOOL_CALLS]",
                                          "<|python_tag|>",
                                          "x",
                                          ";",
                                          "<tool",
                                          "<function=f>",
                                          "<parameter=a>"};
  const std::vector<std::string> unclosed = {"[TOOL_CALLS]", "[ARGS]", "f", "[", "{", " ", "\""};
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (size_t n = random() % 12; n > 0; --n) text += words[random() % words.size()];
    for (const ToolCallStyle style : {ToolCallStyle::kHermes, ToolCallStyle::kLlama,
                                      ToolCallStyle::kMistral, ToolCallStyle::kQwenCoder})
      EXPECT_EQ(read_cut(style, text, 1 + random() % 5), text);  // none of them is a call
    text.clear();
    for (size_t n = random() % 12; n > 0; --n) text += unclosed[random() % unclosed.size()];
    EXPECT_EQ(read_cut(ToolCallStyle::kMistralArgs, text, 1 + random() % 5), text);
  }
}

TEST(ToolCallStyle, IsToldFromTheTemplate) {
  EXPECT_EQ(tool_call_style(""), ToolCallStyle::kNone);
  EXPECT_EQ(tool_call_style("{{ messages[0].content }}"), ToolCallStyle::kNone);
  EXPECT_EQ(tool_call_style("'<tool_call>\\n{\"name\": '"), ToolCallStyle::kHermes);
  EXPECT_EQ(tool_call_style("<tool_call>\\n<function=' ~ name"), ToolCallStyle::kQwenCoder);
  EXPECT_EQ(tool_call_style("<tool_call>' ~ name ~ '<arg_key>"), ToolCallStyle::kNone);
  EXPECT_EQ(tool_call_style("'[TOOL_CALLS]' + name + '[ARGS]'"), ToolCallStyle::kMistralArgs);
  EXPECT_EQ(tool_call_style("[TOOL_CALLS] [CALL_ID] [ARGS]"), ToolCallStyle::kNone);
  EXPECT_EQ(tool_call_style("\"[TOOL_CALLS] [\""), ToolCallStyle::kMistral);
  EXPECT_EQ(tool_call_style("Environment: ipython {\"name\": f, \"parameters\": d}"),
            ToolCallStyle::kLlama);
}

}  // namespace
}  // namespace strata::serve
