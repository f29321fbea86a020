#include "tools/cli/html_page.h"

#include <fmt/format.h>

namespace strata::cli {
namespace {

constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --ink: #1c2024; --paper: #ffffff; --line: #d0d5da; --c0: #1f6fb4;
  --c1: #c2410c; --c2: #15803d; --c3: #7e22ce; --c4: #a16207; --c5: #be185d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --paper: #16191c; --line: #3a4147;
  --c0: #6cb2f0; --c1: #fb9a66; --c2: #6fd08c; --c3: #c79bf2; --c4: #e3bd4f; --c5: #f38bb9; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1100px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25em .6em; text-align: left; }
th.number, td.number { text-align: right; }
div.wide { overflow-x: auto; }
svg { max-width: 100%; height: auto; }
svg text { fill: var(--ink); font-size: 12px; }
svg .axis { stroke: var(--line); fill: none; }
)";

}  // namespace

std::string html_escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else if (c == '\'')
      out += "&#39;";
    else
      out += c;
  }
  return out;
}

std::string html_page(const std::string& title, const std::string& heading,
                      const std::string& body) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width, "
      "initial-scale=1\">\n<title>{}</title>\n<style>{}</style></head>"
      "<body>\n<h1>{}</h1>\n{}</body></html>\n",
      html_escaped(title), kStyle, html_escaped(heading), body);
}

}  // namespace strata::cli
