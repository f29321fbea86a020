#include <fmt/format.h>

#include <algorithm>

#include "engine/template/access.h"
#include "engine/template/code_points.h"
#include "engine/template/filters.h"
#include "engine/template/operators.h"
#include "engine/template/sort_key.h"
#include "engine/template/text_search.h"
#include "engine/template/value_text.h"

namespace strata::engine::jinja {
namespace {

Value length(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "length", arguments, {});
  const auto n = length_of(rt, input);
  if (!n) rt.fail(fmt::format("{} has no length", type_name(input)));
  return static_cast<int64_t>(*n);
}

Value first(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "first", arguments, {});
  Value item;
  Cursor(rt, input).next(&item);
  return item;
}

Value last(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "last", arguments, {});
  if (as_text(input) || is_list_or_tuple(as_cell<Sequence>(input))) {
    return get_item(rt, input, int64_t{-1});
  }
  const std::vector<Value> items = collect_items(rt, input);
  return items.empty() ? Value(Undefined{}) : items.back();
}

Value join(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "join", arguments, {"d", "attribute"});
  const Text separator = p.has(0) ? shared_text(rt, p.get(0)) : std::make_shared<MarkedText>();
  Joined joined(rt, *separator);
  Cursor cursor(rt, input);
  Value item;
  while (cursor.next(&item)) {
    if (p.has(1) && !is<None>(p.get(1))) item = get_path(rt, item, p.get(1));
    joined.add(*shared_text(rt, item));
  }
  return joined.take();
}

Value or_default(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "default", arguments, {"default_value", "boolean"});
  const bool is_absent = is<Undefined>(input) || (p.flag(1, false) && !is_true(input));
  return is_absent ? p.get_or(0, rt.text(std::string())) : input;
}

Value to_list(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "list", arguments, {});
  return rt.list(collect_items(rt, input));
}

Value items(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "items", arguments, {});
  if (is<Undefined>(input)) return rt.generator({});
  const Mapping* mapping = as_cell<Mapping>(input);
  if (!mapping) rt.fail(fmt::format("items wants a dict, found {}", type_name(input)));
  rt.visit_items(mapping->items.size());
  std::vector<Value> pairs;
  for (const auto& [key, value] : mapping->items) pairs.push_back(rt.tuple({key, value}));
  return rt.generator(std::move(pairs));
}

Value dict_sort(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const Mapping* mapping = as_cell<Mapping>(input);
  if (!mapping) rt.fail(fmt::format("dictsort wants a dict, found {}", type_name(input)));
  const MarkedText* by = p.text(1);
  if (by && by->bytes() != "key" && by->bytes() != "value")
    rt.fail("dictsort: by is neither key nor value");
  const bool by_value = by && by->bytes() == "value";
  std::vector<Value> pairs;
  std::vector<Value> keys;
  for (const auto& [key, value] : mapping->items) {
    pairs.push_back(rt.tuple({key, value}));
    keys.push_back(folded(rt, by_value ? value : key, p.flag(0, false)));
  }
  return rt.list(sorted_by(rt, std::move(pairs), keys, p.flag(2, false)));
}

Value sort(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "sort", arguments, {"reverse", "case_sensitive", "attribute"});
  std::vector<Value> all = collect_items(rt, input);
  std::vector<Value> keys;
  for (const Value& item : all) keys.push_back(sort_key(rt, item, p.get(2), p.flag(1, false)));
  return rt.list(sorted_by(rt, std::move(all), keys, p.flag(0, false)));
}

Value unique(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "unique", arguments, {"case_sensitive", "attribute"});
  std::vector<Value> kept;
  std::vector<Value> seen;
  Cursor cursor(rt, input);
  Value item;
  while (cursor.next(&item)) {
    const Value key = sort_key(rt, item, p.get(1), p.flag(0, false));
    const bool is_known = std::any_of(seen.begin(), seen.end(),
                                      [&](const Value& other) { return is_equal(rt, key, other); });
    if (is_known) continue;
    rt.hold_items(2);
    seen.push_back(key);
    kept.push_back(item);
  }
  return rt.generator(std::move(kept));
}

Value extreme(Runtime& rt, const Value& input, const Arguments& arguments, std::string_view name,
              bool wants_less) {
  const Parameters p(rt, name, arguments, {"case_sensitive", "attribute"});
  Value best;
  Value best_key;
  bool has_any = false;
  Cursor cursor(rt, input);
  Value item;
  while (cursor.next(&item)) {
    const Value key = sort_key(rt, item, p.get(1), p.flag(0, false));
    const int order = has_any ? compare_order(rt, key, best_key) : 0;
    if (has_any && (wants_less ? order >= 0 : order <= 0)) continue;
    best = item;
    best_key = key;
    has_any = true;
  }
  return best;
}
Value least(Runtime& rt, const Value& input, const Arguments& a) {
  return extreme(rt, input, a, "min", true);
}
Value greatest(Runtime& rt, const Value& input, const Arguments& a) {
  return extreme(rt, input, a, "max", false);
}

Value sum(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "sum", arguments, {"attribute", "start"});
  Value total = p.get_or(1, int64_t{0});
  Cursor cursor(rt, input);
  Value item;
  while (cursor.next(&item)) {
    const bool has_path = p.has(0) && !is<None>(p.get(0));
    total = apply_binary(rt, BinaryOp::kAdd, total, has_path ? get_path(rt, item, p.get(0)) : item);
  }
  return total;
}

Value reverse(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "reverse", arguments, {});
  if (as_text(input)) return get_slice(rt, input, None{}, None{}, int64_t{-1});
  std::vector<Value> all = collect_items(rt, input);
  std::reverse(all.begin(), all.end());
  return rt.generator(std::move(all));
}

}  // namespace

const FilterTable& sequence_filters() {
  static const FilterTable kFilters = {
      {"length", length}, {"count", length},       {"first", first},  {"last", last},
      {"join", join},     {"default", or_default}, {"d", or_default}, {"list", to_list},
      {"items", items},   {"dictsort", dict_sort}, {"sort", sort},    {"unique", unique},
      {"min", least},     {"max", greatest},       {"sum", sum},      {"reverse", reverse},
  };
  return kFilters;
}

}  // namespace strata::engine::jinja
