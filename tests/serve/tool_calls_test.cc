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

std::string read_cut(ToolCallStyle style, std::string_view text, size_t piece_bytes) {
  ToolCallReader reader(style);
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
}

TEST(ToolCalls, LoseNoTextHoweverItLooks) {
  std::mt19937 random(20261126);
  const std::vector<std::string> words = {
      "<tool_call>",  "</tool_call>",   "{", "}", "[",    "]", "\"", "\\", " ", "\n",
      "[TOOL_CALLS]", "<|python_tag|>", "x", ";", "<tool"};
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (size_t n = random() % 12; n > 0; --n) text += words[random() % words.size()];
    for (const ToolCallStyle style :
         {ToolCallStyle::kHermes, ToolCallStyle::kLlama, ToolCallStyle::kMistral})
      EXPECT_EQ(read_cut(style, text, 1 + random() % 5), text);  // none of them is a call
  }
}

TEST(ToolCallStyle, IsToldFromTheTemplate) {
  EXPECT_EQ(tool_call_style(""), ToolCallStyle::kNone);
  EXPECT_EQ(tool_call_style("{{ messages[0].content }}"), ToolCallStyle::kNone);
  EXPECT_EQ(tool_call_style("'<tool_call>\\n{\"name\": '"), ToolCallStyle::kHermes);
  EXPECT_EQ(tool_call_style("<tool_call>\\n<function=' ~ name"), ToolCallStyle::kNone);
  EXPECT_EQ(tool_call_style("\"[TOOL_CALLS] [\""), ToolCallStyle::kMistral);
  EXPECT_EQ(tool_call_style("Environment: ipython {\"name\": f, \"parameters\": d}"),
            ToolCallStyle::kLlama);
}

}  // namespace
}  // namespace strata::serve
