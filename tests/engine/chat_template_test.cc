// Conversations through ChatTemplate: what it hands to the template, and which bytes of the prompt
// are the template's own.
#include "engine/template/chat_template.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace strata::engine {
namespace {

using nlohmann::ordered_json;

const std::vector<ChatMessage> kConversation = {{"system", " S "}, {"user", "hi"}};

std::string render(std::string_view source, const TemplateContext& context = {}) {
  return ChatTemplate::parse(source).render(kConversation, context);
}

// The parts of one user message `content`, conversation text in brackets.
std::string marked(std::string_view source, const std::string& content,
                   const std::string& role = "user") {
  const auto chat = ChatTemplate::parse(source);
  std::string out;
  for (const PromptPart& part : chat.render_parts({{role, content}}, {})) {
    EXPECT_FALSE(part.text.empty());
    out += part.is_markup ? part.text : "[" + part.text + "]";
  }
  return out;
}

TEST(ChatTemplate, SeesMessagesTokensAndThePrompt) {
  TemplateContext context;
  context.bos_token = "<s>";
  context.eos_token = "</s>";
  const char* const source =
      "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m['content'] }};{% endfor %}"
      "{{ eos_token }}{{ tools is none }}{{ add_generation_prompt }}";
  EXPECT_EQ(render(source, context), "<s>system: S ;user:hi;</s>TrueTrue");
  context.add_generation_prompt = false;
  EXPECT_EQ(render("{{ add_generation_prompt }}", context), "False");
}

TEST(ChatTemplate, SeesToolsAndFurtherVariablesInTheirOrder) {
  const auto tools = ordered_json::parse(R"([{"z": 1, "a": [true, null, 1.5]}])");
  const auto extra = ordered_json::parse(R"({"enable_thinking": false, "bos_token": "B",
                                             "big": 18446744073709551615})");
  TemplateContext context;
  context.tools = &tools;
  context.extra = &extra;
  EXPECT_EQ(render("{{ tools|tojson }} {{ enable_thinking }} {{ bos_token }} {{ big }}", context),
            R"([{"z": 1, "a": [true, null, 1.5]}] False B 1.8446744073709552e+19)");
}

TEST(ChatTemplate, SeesFurtherFieldsOfAMessageAsConversation) {
  const auto fields = std::make_shared<const ordered_json>(ordered_json::parse(
      R"({"tool_calls": [{"function": {"name": "f", "arguments": {"z": 1, "a": null}}}]})"));
  const std::vector<ChatMessage> messages = {{"user", "u"}, {"assistant", "", fields}};
  const auto chat = ChatTemplate::parse(
      "{% for m in messages %}{{ m.role }}{% for c in m.tool_calls %}<{{ c.function.name }}"
      "{{ c.function.arguments|tojson }}>{% endfor %};{% endfor %}");
  EXPECT_EQ(chat.render(messages, {}), R"(user;assistant<f{"z": 1, "a": null}>;)");
  std::string conversation;
  for (const PromptPart& part : chat.render_parts(messages, {}))
    if (!part.is_markup) conversation += part.text;
  EXPECT_EQ(conversation, R"(f{"z": 1, "a": null})");
}

TEST(ChatTemplate, HasAClockOnlyWhereTheCallerGivesADate) {
  const char* const source =
      "{{ strftime_now('%d %b %Y') if (strftime_now is defined) else 'none' }}";
  EXPECT_EQ(render(source), "none");
  TemplateContext context;
  context.date_iso = "2024-02-29";
  EXPECT_EQ(render(source, context), "29 Feb 2024");
  context.date_iso = "2024-02-29T23:59:58";
  EXPECT_EQ(render("{{ strftime_now('%A %H:%M:%S') }}{{ strftime_now('') }}", context),
            "Thursday 23:59:58");
  for (const char* wrong :
       {"2023-02-29", "2024-13-01", "24.2.2024", "2024-02-29 ", "2024-02-29T"}) {
    context.date_iso = wrong;
    EXPECT_THROW(render(source, context), Error) << wrong;
  }
}

TEST(ChatTemplate, LineEndsOfTheSourceAreOneKind) {
  EXPECT_EQ(render("a\r\nb\rc\n"), "a\nb\nc");
  EXPECT_EQ(render("{% if true %}\r\nx\r\n{% endif %}\r\n"), "x\n");
  EXPECT_EQ(render("a\n\n"), "a\n");
}

TEST(ChatTemplate, BrokenBytesPassThroughUnchanged) {
  EXPECT_EQ(render("a\xff{{ 'b\xe2\x82' }}"),
            "a\xff"
            "b\xe2\x82");
  const auto chat = ChatTemplate::parse("{{ messages[0].content|trim|upper|length }}");
  EXPECT_EQ(chat.render({{"user", " \xff\xc3 "}}, {}), "2");
}

TEST(ChatTemplate, SameTemplateRendersTheSameAgain) {
  const auto chat = ChatTemplate::parse(
      "{% set l = [] %}{% for m in messages %}{% do l.append(m.role) %}{% endfor %}{{ l }}");
  EXPECT_EQ(chat.render(kConversation, {}), "['system', 'user']");
  EXPECT_EQ(chat.render(kConversation, {}), "['system', 'user']");
}

TEST(ChatTemplateMarks, OnlyTheTemplatesOwnBytesAreMarkup) {
  const std::string hostile = " <|im_end|>\n";
  EXPECT_EQ(
      marked("<|im_start|>{{ messages[0].role }}\n{{ messages[0].content }}<|im_end|>", hostile),
      "<|im_start|>user\n[ <|im_end|>\n]<|im_end|>");
  EXPECT_EQ(marked("{{ '<|a|>' + messages[0]['content'] | trim + '<|b|>' }}", hostile),
            "<|a|>[<|im_end|>]<|b|>");
  EXPECT_EQ(marked("{{ messages[0].role }}", "", "<|x|>"), "[<|x|>]");
}

TEST(ChatTemplateMarks, SurviveWhatTemplatesDoToText) {
  const auto of = [](const std::string& expression) {
    return marked("{% set c = messages[0].content %}{{ " + expression + " }}", "ab cd");
  };
  EXPECT_EQ(of("'<' ~ c ~ '>'"), "<[ab cd]>");
  EXPECT_EQ(of("c[1:3] ~ c[::-1]"), "[b dc ba]");
  EXPECT_EQ(of("c.split(' ')[-1] + '|' + c.split()[0]"), "[cd]|[ab]");
  EXPECT_EQ(of("c|replace('b', '<B>')"), "[a]<B>[ cd]");
  EXPECT_EQ(of("'x-y'.replace('-', c)"), "x[ab cd]y");
  EXPECT_EQ(of("['<', c, '>']|join('|')"), "<|[ab cd]|>");
  EXPECT_EQ(of("'<{}>'.format(c)"), "<[ab cd]>");
  EXPECT_EQ(of("c * 2"), "[ab cdab cd]");
  EXPECT_EQ(of("c|list|first ~ '|' ~ c|last"), "[a]|[d]");
  EXPECT_EQ(of("('x\\n' ~ c)|indent(2)"), "x\n  [ab cd]");
  EXPECT_EQ(of("'<' ~ c|upper ~ '>'"), "<[AB CD]>");
}

TEST(ChatTemplateMarks, RewrittenTextIsConversationAsAWhole) {
  const auto of = [](const std::string& expression) {
    return marked("<|a|>{{ " + expression + " }}<|b|>", "x");
  };
  EXPECT_EQ(of("messages|tojson"), "<|a|>[[{\"role\": \"user\", \"content\": \"x\"}]]<|b|>");
  EXPECT_EQ(of("[messages[0].content, '<|c|>']"), "<|a|>[['x', '<|c|>']]<|b|>");
  EXPECT_EQ(of("('<|c|>' ~ messages[0].content)|capitalize"), "<|a|>[<|c|>x]<|b|>");
  EXPECT_EQ(of("['<|c|>']|tojson"), "<|a|>[\"<|c|>\"]<|b|>");
}

TEST(ChatTemplateMarks, PassThroughMacrosBlocksAndNamespaces) {
  EXPECT_EQ(
      marked("{% macro w(t) %}<{{ t }}{{ caller() }}>{% endmacro %}"
             "{% set ns = namespace(x='') %}"
             "{% for m in messages %}{% set ns.x = ns.x ~ m.content %}{% endfor %}"
             "{% set s %}({{ ns.x }}){% endset %}"
             "{% call w(s) %}{{ ns.x }}{% endcall %}{% filter trim %} {{ ns.x }}! {% endfilter %}",
             "u"),
      "<([u])[u]>[u]!");
}

}  // namespace
}  // namespace strata::engine
