#include "engine/template/value.h"

namespace strata::engine::jinja {

std::string_view type_name(SequenceKind kind) {
  switch (kind) {
    case SequenceKind::kList:
      return "list";
    case SequenceKind::kTuple:
      return "tuple";
    case SequenceKind::kKeys:
      return "dict_keys";
    case SequenceKind::kValues:
      return "dict_values";
    case SequenceKind::kItems:
      return "dict_items";
    case SequenceKind::kGenerator:
      return "generator";
  }
  return "sequence";
}

std::string_view type_name(ObjectKind kind) {
  switch (kind) {
    case ObjectKind::kRange:
      return "range";
    case ObjectKind::kNamespace:
      return "Namespace";
    case ObjectKind::kLoop:
      return "LoopContext";
    case ObjectKind::kMacro:
      return "Macro";
    case ObjectKind::kFunction:
      return "function";
    case ObjectKind::kMethod:
      return "method";
  }
  return "object";
}

std::string_view type_name(const Value& value) {
  if (is<Undefined>(value)) return "Undefined";
  if (is<None>(value)) return "NoneType";
  if (is<bool>(value)) return "bool";
  if (is<int64_t>(value)) return "int";
  if (is<double>(value)) return "float";
  if (is<Text>(value)) return "str";
  if (const Sequence* sequence = as_cell<Sequence>(value)) return type_name(sequence->kind);
  if (is<Mapping*>(value)) return "dict";
  return type_name(std::get<Object*>(value)->kind);
}

bool is_true(const Value& value) {
  if (is<Undefined>(value) || is<None>(value)) return false;
  if (const bool* flag = std::get_if<bool>(&value)) return *flag;
  if (const int64_t* integer = std::get_if<int64_t>(&value)) return *integer != 0;
  if (const double* real = std::get_if<double>(&value)) return *real != 0;
  if (const MarkedText* text = as_text(value)) return !text->empty();
  if (const Sequence* sequence = as_cell<Sequence>(value)) {
    return sequence->kind == SequenceKind::kGenerator || !sequence->items.empty();
  }
  if (const Mapping* mapping = as_cell<Mapping>(value)) return !mapping->items.empty();
  if (const Range* range = as_object<Range>(value, ObjectKind::kRange)) return range->length != 0;
  return true;
}

bool as_number(const Value& value, Number* out) {
  if (const bool* flag = std::get_if<bool>(&value)) {
    *out = {false, *flag ? 1 : 0, *flag ? 1.0 : 0.0};
  } else if (const int64_t* integer = std::get_if<int64_t>(&value)) {
    *out = {false, *integer, static_cast<double>(*integer)};
  } else if (const double* real = std::get_if<double>(&value)) {
    *out = {true, 0, *real};
  } else {
    return false;
  }
  return true;
}

}  // namespace strata::engine::jinja
