#include <algorithm>
#include <unordered_map>

#include "engine/template/access.h"
#include "engine/template/loop.h"
#include "engine/template/methods.h"
#include "engine/template/operators.h"

namespace strata::engine::jinja {
namespace {

using MethodTable = std::unordered_map<std::string_view, MethodFn>;

MethodFn find_in(const MethodTable& table, std::string_view name) {
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

Sequence& self_list(const Value& self) { return *std::get<Sequence*>(self); }
Mapping& self_mapping(const Value& self) { return *std::get<Mapping*>(self); }

Value append(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "append", arguments, {"object"}, 1);
  rt.hold_items(1);
  self_list(self).items.push_back(p.get(0));
  return None{};
}
Value pop(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "pop", arguments, {"index"});
  std::vector<Value>& items = self_list(self).items;
  const auto n = static_cast<int64_t>(items.size());
  int64_t at = p.integer(0, -1);
  if (at < -n || at >= n) rt.fail("pop: the list has no such index");
  if (at < 0) at += n;
  rt.visit_items(items.size());
  const Value taken = items[static_cast<size_t>(at)];
  items.erase(items.begin() + at);
  return taken;
}
Value dict_get(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "get", arguments, {"key", "default"}, 1);
  const Value* held = find_key(rt, self_mapping(self), p.get(0));
  return held ? *held : p.get_or(1, None{});
}
template <class Choose>
Value view_of(Runtime& rt, const Value& self, SequenceKind kind, Choose choose) {
  const Mapping& mapping = self_mapping(self);
  rt.visit_items(mapping.items.size());
  std::vector<Value> items;
  for (const auto& entry : mapping.items) items.push_back(choose(entry));
  return rt.sequence(kind, std::move(items));
}
Value dict_keys(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "keys", arguments, {});
  return view_of(rt, self, SequenceKind::kKeys, [](const auto& entry) { return entry.first; });
}
Value dict_values(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "values", arguments, {});
  return view_of(rt, self, SequenceKind::kValues, [](const auto& entry) { return entry.second; });
}
Value dict_items(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "items", arguments, {});
  return view_of(rt, self, SequenceKind::kItems, [&](const auto& entry) {
    return rt.tuple({entry.first, entry.second});
  });
}
Value loop_cycle(Runtime& rt, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty()) rt.fail("loop.cycle wants at least one value");
  const Loop* loop = as_object<Loop>(self, ObjectKind::kLoop);
  return arguments.positional[loop->index0() % arguments.positional.size()];
}
Value loop_changed(Runtime& rt, const Value& self, const Arguments& arguments) {
  return as_object<Loop>(self, ObjectKind::kLoop)->changed(rt, rt.tuple(arguments.positional));
}
}  // namespace

MethodFn find_method(const Value& value, std::string_view name) {
  static const MethodTable kOfLists = {{"append", append}, {"pop", pop}};
  static const MethodTable kOfMappings = {
      {"get", dict_get}, {"keys", dict_keys}, {"values", dict_values}, {"items", dict_items}};
  static const MethodTable kOfLoops = {{"cycle", loop_cycle}, {"changed", loop_changed}};
  if (as_text(value)) return find_text_method(name);
  if (as_cell<Mapping>(value)) return find_in(kOfMappings, name);
  if (as_sequence(value, SequenceKind::kList)) return find_in(kOfLists, name);
  return as_object<Loop>(value, ObjectKind::kLoop) ? find_in(kOfLoops, name) : nullptr;
}

}  // namespace strata::engine::jinja
