// engine/template/methods.h - what values can do when called with a dot: "a".upper(),
// list.append(x), loop.cycle(...).
#pragma once

#include <string_view>

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

using MethodFn = Value (*)(Runtime& rt, const Value& self, const Arguments& arguments);

/// The method of that name that values of this kind have, or null.
MethodFn find_method(const Value& value, std::string_view name);

/// Those of text.
MethodFn find_text_method(std::string_view name);

/// A method with the value it belongs to, as a value.
struct BoundMethod final : Object {
  BoundMethod(Value of, MethodFn fn)
      : Object(ObjectKind::kMethod), self(std::move(of)), method(fn) {}
  Value self;
  MethodFn method;
};

}  // namespace strata::engine::jinja
