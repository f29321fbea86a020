#include "engine/template/render_tree.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "engine/template/functions.h"
#include "engine/template/interpreter.h"

namespace strata::engine::jinja {

Value from_json(Runtime& rt, const nlohmann::ordered_json& json, bool is_user) {
  using Kind = nlohmann::ordered_json::value_t;
  const Runtime::Frame frame(rt);
  switch (json.type()) {
    case Kind::boolean:
      return json.get<bool>();
    case Kind::number_integer:
      return json.get<int64_t>();
    case Kind::number_unsigned: {
      const auto value = json.get<uint64_t>();
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        return static_cast<double>(value);
      return static_cast<int64_t>(value);
    }
    case Kind::number_float:
      return json.get<double>();
    case Kind::string:
      return rt.text(MarkedText(json.get_ref<const std::string&>(), is_user));
    case Kind::array: {
      std::vector<Value> items;
      for (const auto& item : json) items.push_back(from_json(rt, item, is_user));
      return rt.list(std::move(items));
    }
    case Kind::object: {
      rt.hold_items(2 * json.size());
      Mapping* mapping = rt.mapping();
      for (const auto& [key, value] : json.items()) {
        // Keys of a JSON object differ already, so none needs to be looked for.
        mapping->items.emplace_back(rt.text(MarkedText(key, is_user)),
                                    from_json(rt, value, is_user));
      }
      return mapping;
    }
    case Kind::null:
    case Kind::binary:
    case Kind::discarded:
      break;
  }
  return None{};
}

MarkedText render_tree(const SyntaxTree& tree, Runtime& rt, const Variables& variables,
                       const std::string& date_iso) {
  Interpreter interpreter(tree, rt);
  for (const auto& [name, function] : global_functions(rt, date_iso))
    interpreter.define(name, function);
  for (const auto& [name, value] : variables) interpreter.define(name, value);
  return interpreter.run();
}

}  // namespace strata::engine::jinja
