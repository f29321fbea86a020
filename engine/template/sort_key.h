// engine/template/sort_key.h - the order that sort, unique, min, max and dictsort share.
#pragma once

#include <vector>

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

/// Text in lower case unless `case_sensitive`; other values as they are.
Value folded(Runtime& rt, const Value& value, bool case_sensitive);
/// `item` itself, or what `attribute` (a path) finds in it, folded.
Value sort_key(Runtime& rt, const Value& item, const Value& attribute, bool case_sensitive);
/// The items in the order of their keys, equal ones in their old order. Errors: kTemplate where
/// keys have no order.
std::vector<Value> sorted_by(Runtime& rt, std::vector<Value> items, const std::vector<Value>& keys,
                             bool is_reversed);

}  // namespace strata::engine::jinja
