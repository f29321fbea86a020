// engine/template/render_tree.h - one rendering: variables in, marked text out.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engine/template/runtime.h"
#include "engine/template/syntax_tree.h"

namespace strata::engine::jinja {

/// The value of a JSON document; its texts are user text where `is_user`. Integers beyond 64 bits
/// signed become reals.
Value from_json(Runtime& rt, const nlohmann::ordered_json& json, bool is_user);

using Variables = std::vector<std::pair<std::string, Value>>;
/// Errors: kTemplate. Variables hide functions of the same name.
MarkedText render_tree(const SyntaxTree& tree, Runtime& rt, const Variables& variables,
                       const std::string& date_iso);

}  // namespace strata::engine::jinja
