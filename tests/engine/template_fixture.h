// tests/engine/template_fixture.h - what the tests of chat templates share: one rendering of a
// source with variables from JSON, and the error where it fails.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"
#include "engine/template/render_tree.h"

namespace strata::engine::testing {

inline constexpr const char* kTestDate = "2026-11-25T09:05:07";

/// Errors: kTemplate. The variables' texts are user text.
inline std::string render_source(std::string_view source,
                                 const nlohmann::ordered_json& variables = {},
                                 const jinja::RenderLimits& limits = {}) {
  const jinja::SyntaxTree tree = jinja::parse_template(source);
  jinja::Runtime rt(limits, 0);
  jinja::Variables values;
  for (const auto& [name, value] : variables.items()) {
    values.emplace_back(name, jinja::from_json(rt, value, true));
  }
  return jinja::render_tree(tree, rt, values, kTestDate).bytes();
}

/// "message [where]" of the Error that the source gives, or what it renders to.
inline std::string error_of(std::string_view source, const nlohmann::ordered_json& variables = {},
                            const jinja::RenderLimits& limits = {}) {
  try {
    return "no error: " + render_source(source, variables, limits);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kTemplate) return "an error of another code";
    if (error.remedy().empty()) return "an error without a remedy";
    return std::string(error.what()) + " [" + error.where() + "]";
  }
}

}  // namespace strata::engine::testing
