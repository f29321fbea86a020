// engine/template/filters.h - value | name(arguments).
#pragma once

#include <string_view>
#include <unordered_map>

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

/// Errors: kTemplate (no such filter, wrong arguments, whatever the filter finds wrong).
Value apply_filter(Runtime& rt, std::string_view name, const Value& input,
                   const Arguments& arguments);

using FilterFn = Value (*)(Runtime& rt, const Value& input, const Arguments& arguments);
using FilterTable = std::unordered_map<std::string_view, FilterFn>;

// The tables that apply_filter looks in, one per file.
const FilterTable& text_filters();
const FilterTable& number_filters();
const FilterTable& sequence_filters();
const FilterTable& selection_filters();

}  // namespace strata::engine::jinja
