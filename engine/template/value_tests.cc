#include "engine/template/value_tests.h"

#include <fmt/format.h>

#include <unordered_map>

#include "engine/template/access.h"
#include "engine/template/operators.h"

namespace strata::engine::jinja {
namespace {

using TestFn = bool (*)(Runtime& rt, const Value& input, const Arguments& arguments);

void want_none(Runtime& rt, const Arguments& arguments) {
  const Parameters p(rt, "the test", arguments, {});
}

// A test without arguments, from a function of the value.
template <bool (*kHolds)(const Value&)>
bool plain(Runtime& rt, const Value& input, const Arguments& arguments) {
  want_none(rt, arguments);
  return kHolds(input);
}

bool is_undefined(const Value& v) { return is<Undefined>(v); }
bool is_defined(const Value& v) { return !is<Undefined>(v); }
bool is_none(const Value& v) { return is<None>(v); }
bool is_boolean(const Value& v) { return is<bool>(v); }
bool is_the_true(const Value& v) { return is<bool>(v) && std::get<bool>(v); }
bool is_the_false(const Value& v) { return is<bool>(v) && !std::get<bool>(v); }
bool is_integer(const Value& v) { return is<int64_t>(v); }
bool is_float(const Value& v) { return is<double>(v); }
bool is_number(const Value& v) { return is<bool>(v) || is<int64_t>(v) || is<double>(v); }
bool is_string(const Value& v) { return is<Text>(v); }
bool is_mapping(const Value& v) { return is<Mapping*>(v); }
bool is_sequence_like(const Value& v) {
  // Whatever has a length and items by index or key; undefined claims both.
  if (is<Undefined>(v) || is<Text>(v) || is<Mapping*>(v)) return true;
  return is_list_or_tuple(as_cell<Sequence>(v)) || as_object<Range>(v, ObjectKind::kRange);
}
bool is_callable(const Value& v) {
  if (is<Undefined>(v)) return true;  // calling it is what fails
  const Object* object = as_cell<Object>(v);
  return object && object->kind != ObjectKind::kRange && object->kind != ObjectKind::kNamespace;
}

bool has_remainder(Runtime& rt, const Value& input, const Value& divisor, int64_t wanted) {
  return is_equal(rt, apply_binary(rt, BinaryOp::kModulo, input, divisor), wanted);
}
bool is_odd(Runtime& rt, const Value& input, const Arguments& arguments) {
  want_none(rt, arguments);
  return has_remainder(rt, input, int64_t{2}, 1);
}
bool is_even(Runtime& rt, const Value& input, const Arguments& arguments) {
  want_none(rt, arguments);
  return has_remainder(rt, input, int64_t{2}, 0);
}
bool is_divisible(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "divisibleby", arguments, {"num"}, 1);
  return has_remainder(rt, input, p.get(0), 0);
}

template <CompareOp kOp>
bool compares(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "the test", arguments, {"other"}, 1);
  return apply_compare(rt, kOp, input, p.get(0));
}
bool is_same(Runtime& rt, const Value& input, const Arguments& arguments) {
  const Parameters p(rt, "sameas", arguments, {"other"}, 1);
  const Value& other = p.get(0);
  if (input.index() != other.index()) return false;
  // The same container, not an equal one.
  if (is<Sequence*>(input)) return as_cell<Sequence>(input) == as_cell<Sequence>(other);
  if (is<Mapping*>(input)) return as_cell<Mapping>(input) == as_cell<Mapping>(other);
  return is_equal(rt, input, other);
}

const std::unordered_map<std::string_view, TestFn>& all_tests() {
  static const std::unordered_map<std::string_view, TestFn> kTests = {
      {"defined", plain<is_defined>},
      {"undefined", plain<is_undefined>},
      {"none", plain<is_none>},
      {"boolean", plain<is_boolean>},
      {"true", plain<is_the_true>},
      {"false", plain<is_the_false>},
      {"integer", plain<is_integer>},
      {"float", plain<is_float>},
      {"number", plain<is_number>},
      {"string", plain<is_string>},
      {"mapping", plain<is_mapping>},
      {"iterable", plain<is_iterable>},
      {"sequence", plain<is_sequence_like>},
      {"callable", plain<is_callable>},
      {"odd", is_odd},
      {"even", is_even},
      {"divisibleby", is_divisible},
      {"sameas", is_same},
      {"in", compares<CompareOp::kIn>},
      {"eq", compares<CompareOp::kEqual>},
      {"equalto", compares<CompareOp::kEqual>},
      {"==", compares<CompareOp::kEqual>},
      {"ne", compares<CompareOp::kNotEqual>},
      {"!=", compares<CompareOp::kNotEqual>},
      {"lt", compares<CompareOp::kLess>},
      {"lessthan", compares<CompareOp::kLess>},
      {"<", compares<CompareOp::kLess>},
      {"le", compares<CompareOp::kLessEqual>},
      {"<=", compares<CompareOp::kLessEqual>},
      {"gt", compares<CompareOp::kGreater>},
      {"greaterthan", compares<CompareOp::kGreater>},
      {">", compares<CompareOp::kGreater>},
      {"ge", compares<CompareOp::kGreaterEqual>},
      {">=", compares<CompareOp::kGreaterEqual>},
  };
  return kTests;
}

}  // namespace

bool apply_test(Runtime& rt, std::string_view name, const Value& input,
                const Arguments& arguments) {
  const auto found = all_tests().find(name);
  if (found == all_tests().end()) rt.fail(fmt::format("no test named '{}'", name));
  return found->second(rt, input, arguments);
}

}  // namespace strata::engine::jinja
