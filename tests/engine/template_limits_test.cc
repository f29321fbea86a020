// Every budget of a rendering is hit by a template that would otherwise run for ever, or take all
// memory, or the machine's stack; each ends in an error that names the budget and the line.
#include <gtest/gtest.h>

#include <algorithm>

#include "engine/template/runtime.h"
#include "tests/engine/template_fixture.h"

namespace strata::engine {
namespace {

using nlohmann::ordered_json;
using testing::error_of;
using testing::render_source;

std::string times(const std::string& text, size_t n) {
  std::string all;
  for (size_t i = 0; i < n; ++i) all += text;
  return all;
}

constexpr const char* kSteps =
    "the template's step budget of 500000 steps and 20000 for each message ran out";
constexpr const char* kMemory = "the template's memory budget of 33554432 bytes ran out";
constexpr const char* kCalls = "the template's depth budget of 200 nested calls ran out";
constexpr const char* kDepthEnded = "the template's depth budget of 800 nested evaluations ran out";

struct Attack {
  const char* source;
  const char* error;
};

// A part of the default budgets, so that many attacks take little time; depths and ranges are
// whole.
jinja::RenderLimits test_limits() {
  jinja::RenderLimits limits;
  limits.steps /= 4;
  limits.memory_bytes /= 8;
  limits.output_bytes /= 8;
  return limits;
}

void expect_errors(const std::vector<Attack>& attacks) {
  for (const Attack& attack : attacks) {
    const std::string error = error_of(attack.source, {}, test_limits());
    EXPECT_TRUE(error.starts_with(attack.error)) << attack.source << "\n" << error.substr(0, 300);
    EXPECT_NE(error.find("[chat template, line 2"), std::string::npos) << error.substr(0, 300);
  }
}

TEST(TemplateLimits, WorkEndsAtTheStepBudget) {
  expect_errors({
      {"{% set r = range(100000) %}\n"
       "{% for a in r %}{% for b in r %}{% for c in r %}{% endfor %}{% endfor %}{% endfor %}",
       kSteps},
      {"\n{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
       "{{ f(60) }}",
       kSteps},
      {"{% set r = range(100000)|list %}\n{{ r|unique|list|length }}", kSteps},
      {"{% set r = range(100000)|list %}\n{{ r|select('in', r)|list }}", kSteps},
      {"{% set x = 'ab' * 1000000 %}\n{% for i in range(100000) %}{{ x.count('ba') }}{% endfor %}",
       kSteps},
      {"{% set x = 'a' * 1000000 ~ 'b' %}\n{{ x.strip('b' * 1000000 ~ 'a') }}", kSteps},
      {"\n{% for i in range(100000) %}{{ range(90000)|sum }}{% endfor %}", kSteps},
  });
}

TEST(TemplateLimits, DefaultBudgetsEndTheWorstTemplatesToo) {
  EXPECT_TRUE(
      error_of("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}")
          .starts_with("the template's step budget of 2000000 steps"));
  EXPECT_TRUE(error_of("{{ 'a' * 1000000000 }}")
                  .starts_with("the template's memory budget of 268435456 bytes"));
}

TEST(TemplateLimits, MoreMessagesHaveMoreSteps) {
  jinja::RenderLimits limits;
  limits.steps = 100;
  jinja::Runtime few(limits, 0);
  EXPECT_THROW(few.step(101), Error);
  jinja::Runtime many(limits, 3);
  many.step(100 + 3 * limits.steps_per_message);
  EXPECT_THROW(many.step(), Error);
}

TEST(TemplateLimits, GrowthEndsAtTheMemoryBudget) {
  expect_errors({
      {"{% set ns = namespace(x='ab') %}\n"
       "{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
       kMemory},
      {"{% set ns = namespace(x='ab') %}\n"
       "{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
       kMemory},
      {"\n{{ 'a' * 1000000000 }}", kMemory},
      {"\n{{ 'ab' * 9223372036854775807 }}", kMemory},
      {"\n{{ [1] * 9223372036854775807 }}", kMemory},
      {"{% set ns = namespace(x=[1]) %}\n"
       "{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
       kMemory},
      {"{% set x = 'a' * 100000 %}\n{{ x|replace('a', x) }}", kMemory},
      {"{% set x = 'a' * 100000 %}\n{{ x.replace('', x) }}", kMemory},
      {"{% set x = 'a' * 100000 %}\n{{ range(100000)|join(x) }}", kMemory},
      {"{% set x = 'a' * 100000 %}\n{{ x.join(x) }}", kMemory},
      {"{% set x = 'a' * 1000000 %}\n{{ ('{0}' * 1000).format(x) }}", kMemory},
      {"\n{{ 'a\\nb'|indent(1000000000) }}", kMemory},
      {"{% set x = '\\n' * 100000 %}\n{{ x|indent(100000, blank=true) }}", kMemory},
      {"{% set x = range(90000)|list %}\n{{ [x, x, x]|tojson(indent='       ' * 1000) }}", kMemory},
      {"{% set x = ['a' * 1000000] %}\n{{ x * 1000 }}", kMemory},
      {"{% set ns = namespace(x='') %}\n"
       "{% for i in range(99) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}ab{% endset %}{% endfor %}",
       kMemory},
      {"{% set x = [] %}{% set y = 'a' * 1000000 %}\n"
       "{% for i in range(100) %}{% do x.append(y ~ i) %}{% endfor %}",
       kMemory},
  });
}

TEST(TemplateLimits, OutputEndsAtItsBudget) {
  expect_errors({{"{% set x = 'a' * 1000000 %}\n{% for i in range(100) %}{{ x }}{% endfor %}",
                  "the template's output budget of 8388608 bytes ran out"}});
  jinja::RenderLimits limits;
  limits.output_bytes = 5;
  EXPECT_EQ(render_source("{{ 'ab' }}cde", {}, limits), "abcde");
  EXPECT_EQ(error_of("{{ 'ab' }}cde{{ 1 }}", {}, limits),
            "the template's output budget of 5 bytes ran out [chat template, line 1]");
}

TEST(TemplateLimits, RangesEndAtTheirBudget) {
  EXPECT_EQ(render_source("{{ range(100000)|length }}"), "100000");
  expect_errors({
      {"\n{{ range(100001) }}",
       "the template's range budget of 100000 ran out: a range of 100001 was asked for"},
      {"\n{{ range(0, 1000000000, 3) }}",
       "the template's range budget of 100000 ran out: a range of 333333334 was asked for"},
      {"\n{{ range(9223372036854775807) }}", "range: a bound is too large"},
  });
}

TEST(TemplateLimits, RecursionEndsAtTheDepthBudgets) {
  expect_errors({
      {"{% macro f() %}\n{{ f() }}{% endmacro %}{{ f() }}", kCalls},
      {"{% macro f() %}\n{{ caller() }}{% call f() %}{% endcall %}{% endmacro %}"
       "{% call f() %}{% endcall %}",
       kCalls},
      {"{% for x in [0] recursive %}\n{{ loop([0]) }}{% endfor %}", kCalls},
      {"{% macro f() %}\n{{ [[[[[[[[f()]]]]]]]] }}{% endmacro %}{{ f() }}", kDepthEnded},
      {"{% set ns = namespace() %}{% set ns.x = ns %}\n{{ ns }}", kDepthEnded},
      {"{% set x = [] %}{% do x.append(x) %}\n{{ x }}", kDepthEnded},
      {"{% set x = [] %}{% do x.append(x) %}\n{{ x|tojson }}", kDepthEnded},
      {"{% set x = [] %}{% do x.append(x) %}{% set y = [] %}{% do y.append(y) %}\n{{ x == y }}",
       kDepthEnded},
      {"{% set x = [] %}{% do x.append(x) %}{% set y = [] %}{% do y.append(y) %}\n"
       "{{ [x, y]|sort }}",
       kDepthEnded},
      {"{% set ns = namespace(x=[]) %}"
       "{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}\n{{ ns.x }}",
       kDepthEnded},
  });
}

TEST(TemplateLimits, LongChainsOfScopesAreNotMade) {
  // A loop kept in a namespace and called again makes a loop inside that loop's scope, and so on.
  EXPECT_EQ(render_source("{% set ns = namespace() %}"
                          "{% for x in [0] recursive %}{% set ns.l = loop %}{% endfor %}"
                          "{% for i in range(100000) %}{{ ns.l([i]) }}{% endfor %}ok"),
            "ok");
}

TEST(TemplateLimits, DeepVariablesAreRefused) {
  ordered_json deep = ordered_json::array();
  for (int i = 0; i < 900; ++i) deep = ordered_json::array({deep});
  EXPECT_EQ(error_of("x", {{"tools", deep}}),
            std::string(kDepthEnded) + " [chat template, line 0]");
}

TEST(TemplateLimits, DeepSourcesAreRefused) {
  const std::string wanted = "expressions or statements are nested deeper than 200 [";
  const auto deep = [](const std::string& begin, const std::string& middle,
                       const std::string& end) {
    return error_of("{{ " + times(begin, 50'000) + middle + times(end, 50'000) + " }}");
  };
  EXPECT_TRUE(deep("(", "1", ")").starts_with(wanted));
  EXPECT_TRUE(deep("[", "1", "]").starts_with(wanted));
  EXPECT_TRUE(deep("{1:", "1", "}").starts_with(wanted));
  EXPECT_TRUE(deep("not ", "1", "").starts_with(wanted));
  EXPECT_TRUE(deep("- ", "1", "").starts_with(wanted));
  EXPECT_TRUE(deep("1 if 1 else ", "1", "").starts_with(wanted));
  EXPECT_TRUE(deep("", "a", ".b").starts_with(wanted));
  EXPECT_TRUE(deep("", "a", "[0]").starts_with(wanted));
  EXPECT_TRUE(deep("", "a", "()").starts_with(wanted));
  EXPECT_TRUE(deep("f(", "1", ")").starts_with(wanted));
  EXPECT_TRUE(deep("", "a", "|list").starts_with(wanted));
  EXPECT_TRUE(deep("a is eq ", "1", "").starts_with(wanted));
  EXPECT_TRUE(deep("", "1", " + 1").starts_with(wanted));
  EXPECT_TRUE(deep("", "1", " * 1").starts_with(wanted));
  EXPECT_TRUE(deep("", "1", " and 1").starts_with(wanted));
  EXPECT_TRUE(error_of(times("{% if 1 %}", 20'000)).starts_with(wanted));
  EXPECT_TRUE(error_of(times("{% set x %}", 20'000)).starts_with(wanted));
  EXPECT_TRUE(error_of("{% set " + times("(", 5'000) + "a" + times(")", 5'000) + " = 1 %}")
                  .starts_with(wanted));
  EXPECT_EQ(render_source("{{ 1" + times(" ~ 1", 5'000) + " }}").size(), 5'001u);
}

TEST(TemplateLimits, LongSourcesAreRefused) {
  EXPECT_EQ(render_source(std::string(jinja::kMaxSourceBytes, 'x')).size(), jinja::kMaxSourceBytes);
  EXPECT_EQ(error_of(std::string(jinja::kMaxSourceBytes + 1, 'x')),
            "the template has 1048577 bytes, more than the limit of 1048576 "
            "[chat template, line 1, column 1]");
}

TEST(TemplateLimits, AMebibyteOfConversationFits) {
  const std::string text = times("0123456789abcde ", 1 << 16);
  const ordered_json variables = {
      {"messages", {{{"role", "user"}, {"content", text}}, {{"role", "user"}, {"content", text}}}}};
  const std::string rendered = render_source(
      "{% for m in messages %}{% set c = m.content|trim %}{% if '</think>' in c %}x{% endif %}"
      "{{ '<|' + m.role + '|>\\n' + c.split('</think>')[-1].lstrip('\\n') + '<|end|>\\n' }}"
      "{% endfor %}",
      variables);
  EXPECT_EQ(rendered.size(), 2 * (text.size() - 1 + 9 + 8));
}

}  // namespace
}  // namespace strata::engine
