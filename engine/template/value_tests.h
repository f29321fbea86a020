// engine/template/value_tests.h - value is name(arguments).
#pragma once

#include <string_view>

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

/// Errors: kTemplate (no such test, wrong arguments, values that the test cannot judge).
bool apply_test(Runtime& rt, std::string_view name, const Value& input, const Arguments& arguments);

}  // namespace strata::engine::jinja
