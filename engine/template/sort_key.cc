#include "engine/template/sort_key.h"

#include <algorithm>
#include <numeric>

#include "engine/template/access.h"
#include "engine/template/code_points.h"
#include "engine/template/operators.h"

namespace strata::engine::jinja {

Value folded(Runtime& rt, const Value& value, bool case_sensitive) {
  const MarkedText* text = as_text(value);
  if (!text || case_sensitive) return value;
  rt.scan_bytes(text->size());
  return rt.text(MarkedText(to_lower(text->bytes()), text->has_user_text()));
}

Value sort_key(Runtime& rt, const Value& item, const Value& attribute, bool case_sensitive) {
  const bool has_attribute = !is<Undefined>(attribute) && !is<None>(attribute);
  return folded(rt, has_attribute ? get_path(rt, item, attribute) : item, case_sensitive);
}

std::vector<Value> sorted_by(Runtime& rt, std::vector<Value> items, const std::vector<Value>& keys,
                             bool is_reversed) {
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (is_reversed) std::swap(a, b);
    // Equal ones first: two that are missing need no order.
    return !is_equal(rt, keys[a], keys[b]) && compare_order(rt, keys[a], keys[b]) < 0;
  });
  std::vector<Value> sorted;
  sorted.reserve(items.size());
  for (const size_t at : order) sorted.push_back(std::move(items[at]));
  return sorted;
}

}  // namespace strata::engine::jinja
