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
Value extend(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "extend", arguments, {"iterable"}, 1);
  std::vector<Value> items = collect_items(rt, p.get(0));
  rt.hold_items(items.size());
  self_list(self).items.insert(self_list(self).items.end(), items.begin(), items.end());
  return None{};
}
Value insert(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "insert", arguments, {"index", "object"}, 2);
  std::vector<Value>& items = self_list(self).items;
  const auto n = static_cast<int64_t>(items.size());
  const int64_t index = p.integer(0, 0);
  const int64_t at = index < 0 ? std::max<int64_t>(std::max(index, -n) + n, 0) : std::min(index, n);
  rt.hold_items(1);
  rt.visit_items(items.size());
  items.insert(items.begin() + at, p.get(1));
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
int64_t find_item(Runtime& rt, const Value& self, const Value& wanted) {
  const std::vector<Value>& items = self_list(self).items;
  for (size_t i = 0; i < items.size(); ++i) {
    if (is_equal(rt, items[i], wanted)) return static_cast<int64_t>(i);
  }
  return -1;
}
Value index_of(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "index", arguments, {"value"}, 1);
  const int64_t at = find_item(rt, self, p.get(0));
  if (at < 0) rt.fail("index: the list does not contain it");
  return at;
}
Value remove(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "remove", arguments, {"value"}, 1);
  const int64_t at = find_item(rt, self, p.get(0));
  if (at < 0) rt.fail("remove: the list does not contain it");
  rt.visit_items(self_list(self).items.size());
  self_list(self).items.erase(self_list(self).items.begin() + at);
  return None{};
}
Value count(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "count", arguments, {"value"}, 1);
  const std::vector<Value>& items = self_list(self).items;
  return static_cast<int64_t>(std::count_if(
      items.begin(), items.end(), [&](const Value& item) { return is_equal(rt, item, p.get(0)); }));
}
Value reverse(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "reverse", arguments, {});
  rt.visit_items(self_list(self).items.size());
  std::reverse(self_list(self).items.begin(), self_list(self).items.end());
  return None{};
}
Value clear(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "clear", arguments, {});
  self_list(self).items.clear();
  return None{};
}
Value copy(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "copy", arguments, {});
  rt.visit_items(self_list(self).items.size());
  return rt.list(self_list(self).items);
}

Value dict_get(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "get", arguments, {"key", "default"}, 1);
  const Value* held = find_key(rt, self_mapping(self), p.get(0));
  return held ? *held : p.get_or(1, None{});
}
template <class Choose>
Value view_of(Runtime& rt, const Value& self, Choose choose) {
  const Mapping& mapping = self_mapping(self);
  rt.visit_items(mapping.items.size());
  std::vector<Value> items;
  for (const auto& entry : mapping.items) items.push_back(choose(entry));
  return rt.sequence(SequenceKind::kView, std::move(items));
}
Value dict_keys(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "keys", arguments, {});
  return view_of(rt, self, [](const auto& entry) { return entry.first; });
}
Value dict_values(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "values", arguments, {});
  return view_of(rt, self, [](const auto& entry) { return entry.second; });
}
Value dict_items(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "items", arguments, {});
  return view_of(rt, self, [&](const auto& entry) {
    return rt.tuple({entry.first, entry.second});
  });
}
Value dict_update(Runtime& rt, const Value& self, const Arguments& arguments) {
  if (arguments.positional.size() > 1) rt.fail("update takes at most 1 positional argument");
  for (const Value& other : arguments.positional) {
    const Mapping* from = as_cell<Mapping>(other);
    if (!from) rt.fail("update wants a dict");
    const auto entries = from->items;  // a copy: a dict may be updated with itself
    rt.hold_items(2 * entries.size());
    for (const auto& [key, value] : entries) set_key(rt, self_mapping(self), key, value);
  }
  for (const auto& [name, value] : arguments.named) {
    set_key(rt, self_mapping(self), rt.text(name), value);
  }
  return None{};
}
Value dict_pop(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "pop", arguments, {"key", "default"}, 1);
  auto& items = self_mapping(self).items;
  const Value* held = find_key(rt, self_mapping(self), p.get(0));
  if (!held && !p.has(1)) rt.fail("pop: the dict has no such key");
  if (!held) return p.get(1);
  const Value taken = *held;
  std::erase_if(items, [&](const auto& entry) { return is_equal(rt, entry.first, p.get(0)); });
  return taken;
}
Value dict_setdefault(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "setdefault", arguments, {"key", "default"}, 1);
  if (const Value* held = find_key(rt, self_mapping(self), p.get(0))) return *held;
  const Value fallback = p.get_or(1, None{});
  set_key(rt, self_mapping(self), p.get(0), fallback);
  return fallback;
}
Value dict_copy(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "copy", arguments, {});
  const Mapping& from = self_mapping(self);
  rt.hold_items(2 * from.items.size());
  rt.visit_items(from.items.size());
  Mapping* made = rt.mapping();
  made->items = from.items;
  return made;
}
Value dict_clear(Runtime& rt, const Value& self, const Arguments& arguments) {
  const Parameters p(rt, "clear", arguments, {});
  self_mapping(self).items.clear();
  return None{};
}

Value loop_cycle(Runtime& rt, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty()) rt.fail("loop.cycle wants at least one value");
  const Loop* loop = as_object<Loop>(self, ObjectKind::kLoop);
  return arguments.positional[loop->index0() % arguments.positional.size()];
}
Value loop_changed(Runtime& rt, const Value& self, const Arguments& arguments) {
  return as_object<Loop>(self, ObjectKind::kLoop)->changed(rt, rt.tuple(arguments.positional));
}
Value cycler_next(Runtime&, const Value& self, const Arguments&) {
  Cycler* cycler = as_object<Cycler>(self, ObjectKind::kCycler);
  const Value current = cycler->items[cycler->at];
  cycler->at = (cycler->at + 1) % cycler->items.size();
  return current;
}
Value cycler_reset(Runtime&, const Value& self, const Arguments&) {
  as_object<Cycler>(self, ObjectKind::kCycler)->at = 0;
  return None{};
}

}  // namespace

MethodFn find_list_method(std::string_view name, bool is_tuple) {
  static const MethodTable kShared = {{"index", index_of}, {"count", count}};
  static const MethodTable kOfLists = {
      {"append", append}, {"extend", extend},   {"insert", insert}, {"pop", pop},
      {"remove", remove}, {"reverse", reverse}, {"clear", clear},   {"copy", copy},
  };
  if (const MethodFn shared = find_in(kShared, name)) return shared;
  return is_tuple ? nullptr : find_in(kOfLists, name);
}

MethodFn find_mapping_method(std::string_view name) {
  static const MethodTable kMethods = {
      {"get", dict_get},     {"keys", dict_keys},   {"values", dict_values},
      {"items", dict_items}, {"pop", dict_pop},     {"update", dict_update},
      {"copy", dict_copy},   {"clear", dict_clear}, {"setdefault", dict_setdefault},
  };
  return find_in(kMethods, name);
}

MethodFn find_object_method(ObjectKind kind, std::string_view name) {
  static const MethodTable kOfLoops = {{"cycle", loop_cycle}, {"changed", loop_changed}};
  static const MethodTable kOfCyclers = {{"next", cycler_next}, {"reset", cycler_reset}};
  if (kind == ObjectKind::kLoop) return find_in(kOfLoops, name);
  if (kind == ObjectKind::kCycler) return find_in(kOfCyclers, name);
  return nullptr;
}

MethodFn find_method(const Value& value, std::string_view name) {
  if (as_text(value)) return find_text_method(name);
  if (as_cell<Mapping>(value)) return find_mapping_method(name);
  if (const Sequence* sequence = as_cell<Sequence>(value)) {
    if (sequence->kind == SequenceKind::kList) return find_list_method(name, false);
    return sequence->kind == SequenceKind::kTuple ? find_list_method(name, true) : nullptr;
  }
  if (const Object* object = as_cell<Object>(value)) return find_object_method(object->kind, name);
  return nullptr;
}

}  // namespace strata::engine::jinja
