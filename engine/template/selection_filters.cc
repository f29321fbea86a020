// Filters that apply a filter or a test to each item: map, select, reject, selectattr, rejectattr.
#include <fmt/format.h>

#include "engine/template/access.h"
#include "engine/template/filters.h"
#include "engine/template/value_tests.h"

namespace strata::engine::jinja {
namespace {

// The arguments behind the first `n`, for the filter or test that those name.
Arguments without_first(const Arguments& arguments, size_t n) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(), rest.positional.begin() + static_cast<int64_t>(n));
  return rest;
}

const Value* find_named(const Arguments& arguments, std::string_view name) {
  for (const auto& [key, value] : arguments.named) {
    if (key == name) return &value;
  }
  return nullptr;
}

const std::string& name_at(Runtime& rt, const Arguments& arguments, size_t i,
                           std::string_view filter) {
  const MarkedText* name = as_text(arguments.positional[i]);
  if (!name)
    rt.fail(fmt::format("{} wants a name, found {}", filter, type_name(arguments.positional[i])));
  return name->bytes();
}

Value map_attribute(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Value* path = find_named(arguments, "attribute");
  const Value* fallback = find_named(arguments, "default");
  if (!path || !arguments.positional.empty() || arguments.named.size() != (fallback ? 2u : 1u)) {
    rt.fail("map wants a filter's name, or attribute= and default=");
  }
  std::vector<Value> mapped;
  Cursor cursor(rt, input);
  Value item;
  while (cursor.next(&item)) mapped.push_back(get_path(rt, item, *path, fallback));
  return rt.generator(std::move(mapped));
}

Value map(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Runtime::Frame frame(rt);
  if (!is_true(input)) return rt.generator({});  // none, too, has no items here
  if (arguments.positional.empty()) return map_attribute(rt, input, arguments);
  const std::string& name = name_at(rt, arguments, 0, "map");
  const Arguments rest = without_first(arguments, 1);
  std::vector<Value> mapped;
  Cursor cursor(rt, input);
  Value item;
  while (cursor.next(&item)) mapped.push_back(apply_filter(rt, name, item, rest));
  return rt.generator(std::move(mapped));
}

Value choose(Runtime& rt, const Value& input, const Arguments& arguments, std::string_view filter,
             bool by_attribute, bool wanted) {
  const Runtime::Frame frame(rt);
  if (!is_true(input)) return rt.generator({});
  const size_t n_own = by_attribute ? 1 : 0;
  if (arguments.positional.size() < n_own) rt.fail(fmt::format("{} wants an attribute", filter));
  const bool has_test = arguments.positional.size() > n_own;
  const std::string test = has_test ? name_at(rt, arguments, n_own, filter) : "";
  const Arguments rest = without_first(arguments, has_test ? n_own + 1 : n_own);
  std::vector<Value> chosen;
  Cursor cursor(rt, input);
  Value item;
  while (cursor.next(&item)) {
    const Value tested = by_attribute ? get_path(rt, item, arguments.positional[0]) : item;
    const bool holds = has_test ? apply_test(rt, test, tested, rest) : is_true(tested);
    if (holds == wanted) chosen.push_back(item);
  }
  return rt.generator(std::move(chosen));
}

Value select(Runtime& rt, const Value& input, const Arguments& a) {
  return choose(rt, input, a, "select", false, true);
}
Value reject(Runtime& rt, const Value& input, const Arguments& a) {
  return choose(rt, input, a, "reject", false, false);
}
Value select_attribute(Runtime& rt, const Value& input, const Arguments& a) {
  return choose(rt, input, a, "selectattr", true, true);
}
Value reject_attribute(Runtime& rt, const Value& input, const Arguments& a) {
  return choose(rt, input, a, "rejectattr", true, false);
}

}  // namespace

const FilterTable& selection_filters() {
  static const FilterTable kFilters = {
      {"map", map},
      {"select", select},
      {"reject", reject},
      {"selectattr", select_attribute},
      {"rejectattr", reject_attribute},
  };
  return kFilters;
}

}  // namespace strata::engine::jinja
