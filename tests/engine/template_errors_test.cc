// What is wrong with a template is said in one line, with the place, and never ends the program.
#include <gtest/gtest.h>

#include "tests/engine/template_fixture.h"

namespace strata::engine {
namespace {

using testing::error_of;
using testing::render_source;

struct Row {
  const char* source;
  const char* error;
};

void expect_rows(const std::vector<Row>& rows) {
  for (const Row& row : rows) EXPECT_EQ(error_of(row.source), row.error) << row.source;
}

TEST(TemplateErrors, SourcesThatDoNotParseNameLineAndColumn) {
  expect_rows({
      {"a\n  {{ b", "a tag lacks its '}}' [chat template, line 2, column 3]"},
      {"{% if a", "a tag lacks its '%}' [chat template, line 1, column 1]"},
      {"{{\n1\n+", "a tag lacks its '}}' [chat template, line 1, column 1]"},
      {"\n\n{# b", "a comment lacks its '#}' [chat template, line 3, column 1]"},
      {"x {% raw %} {{", "a raw block lacks its 'endraw' [chat template, line 1, column 3]"},
      {"{{ 'abc }}", "a text lacks its closing quote [chat template, line 1, column 4]"},
      {"{% if a %}\nx",
       "expected 'endif', found the end of the template [chat template, line 2, column 2]"},
      {"{% for x in y %}{% endif %}",
       "expected a statement (if, for, set, macro, call, filter, do, generation, break, continue), "
       "found 'endif' [chat template, line 1, column 20]"},
      {"{% include 'a' %}",
       "expected a statement (if, for, set, macro, call, filter, do, generation, break, continue), "
       "found 'include' [chat template, line 1, column 4]"},
      {"{{ }}", "expected an expression, found '}}' [chat template, line 1, column 4]"},
      {"{{ 1 + }}", "expected an expression, found '}}' [chat template, line 1, column 8]"},
      {"{{ a b }}", "expected '}}', found 'b' [chat template, line 1, column 6]"},
      {"{{ a | }}", "expected a filter's name, found '}}' [chat template, line 1, column 8]"},
      {"{{ a is }}", "expected a test's name, found '}}' [chat template, line 1, column 9]"},
      {"{{ (1] }}", "expected ')', found ']' [chat template, line 1, column 6]"},
      {"{{ 1) }}", "unexpected ')' [chat template, line 1, column 5]"},
      {"{{ a ? b }}", "unexpected character '?' [chat template, line 1, column 6]"},
      {"{{ 2 ** 3 }}", "expected an expression, found '*' [chat template, line 1, column 7]"},
      {"{{ x. }}",
       "expected a name or a number after '.', found '}}' [chat template, line 1, column 7]"},
      {"{{ x[] }}", "expected an index, found ']' [chat template, line 1, column 6]"},
      {"{{ 99999999999999999999 }}",
       "'99999999999999999999' is no integer of 64 bits [chat template, line 1, column 4]"},
      {"{% for x y %}", "expected 'in', found 'y' [chat template, line 1, column 10]"},
      {"{% set 1 = 2 %}",
       "expected a name to assign to, found 1 [chat template, line 1, column 8]"},
      {"{% break %}", "'break' stands outside of a loop [chat template, line 1, column 4]"},
      {"{% for x in y %}{% macro f() %}{% continue %}",
       "'continue' stands outside of a loop [chat template, line 1, column 35]"},
      {"{{ f(a=1, 2) }}",
       "a positional argument stands behind a named one [chat template, line 1, column 11]"},
      {"{% macro f(a=1, b) %}",
       "a parameter without default stands behind one with a default "
       "[chat template, line 1, column 18]"},
      {"{% call 1 %}{% endcall %}", "a call block wants a call [chat template, line 1, column 11]"},
  });
}

TEST(TemplateErrors, FailuresWhileRenderingNameTheLine) {
  expect_rows({
      {"\n{{ x.y }}", "'x' is undefined [chat template, line 2]"},
      {"{% set a = {} %}\n\n{{ a.b.c }}", "'b' is undefined [chat template, line 3]"},
      {"{{ x() }}", "'x' is undefined [chat template, line 1]"},
      {"{{ 'a' + 1 }}", "'+' does not apply to str and int [chat template, line 1]"},
      {"{{ 'a' % 1 }}", "'%' does not apply to str and int [chat template, line 1]"},
      {"{{ 1 < 'a' }}", "'<' does not apply to int and str [chat template, line 1]"},
      {"{{ 1 // 0 }}", "division by zero [chat template, line 1]"},
      {"{{ 9223372036854775807 + 1 }}",
       "the result of '+' does not fit 64 bits [chat template, "
       "line 1]"},
      {"{{ 1|nosuch }}", "no filter named 'nosuch' [chat template, line 1]"},
      {"{{ 1 is nosuch }}", "no test named 'nosuch' [chat template, line 1]"},
      {"{{ 1|length }}", "int has no length [chat template, line 1]"},
      {"{{ 'a'|trim(1, 2) }}", "trim takes at most 1 arguments, 2 given [chat template, line 1]"},
      {"{{ 'a'|join(x=1) }}", "join has no argument named 'x' [chat template, line 1]"},
      {"{% for i in 5 %}{% endfor %}", "int cannot be walked over [chat template, line 1]"},
      {"{% for a, b in [[1]] %}{% endfor %}",
       "1 values cannot be unpacked into 2 names [chat template, line 1]"},
      {"{{ {[]: 1} }}", "list cannot be a key [chat template, line 1]"},
      {"{{ range|tojson }}", "tojson: function has no JSON form [chat template, line 1]"},
      {"{% set a = 1 %}{% set a.b = 2 %}",
       "'a' is no namespace, so its fields cannot be set [chat template, line 1]"},
      {"{% macro f(a) %}\n{% endmacro %}{{ f(1, 2) }}",
       "macro 'f' takes at most 1 arguments, 2 given [chat template, line 2]"},
      {"{% macro f(a) %}{% endmacro %}{{ f(b=2) }}",
       "macro 'f' has no argument named 'b' [chat template, line 1]"},
      {"{{ raise_exception('no\\ntools') }}",
       "the template raised: no\ntools [chat template, line 1]"},
      {"{{ '{:>9}'.format(1) }}",
       "format: no argument for '{:>9}' (a field is empty, a number or a name) "
       "[chat template, line 1]"},
      {"{{ strftime_now('%A' * 999) }}",
       "strftime_now: more than 511 bytes [chat template, line 1]"},
  });
  EXPECT_LT(error_of("{{ raise_exception('x' * 100000) }}").size(), 600u);
}

TEST(TemplateErrors, NothingOfTheHostIsReachable) {
  for (const char* name :
       {"self", "environment", "lipsum", "cycler", "joiner", "open", "eval", "__import__", "os"}) {
    EXPECT_EQ(render_source("{{ " + std::string(name) + " is defined }}"), "False") << name;
  }
  for (const char* name : {"__class__", "__init__", "__globals__", "mro", "gi_frame", "encode"}) {
    EXPECT_EQ(render_source("{% macro m() %}{% endmacro %}{{ ''." + std::string(name) +
                            " is defined }}{{ m." + name + " is defined }}{{ range['" + name +
                            "'] is defined }}"),
              "FalseFalseFalse")
        << name;
  }
}

}  // namespace
}  // namespace strata::engine
