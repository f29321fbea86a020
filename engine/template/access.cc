#include "engine/template/access.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/template/code_points.h"
#include "engine/template/loop.h"
#include "engine/template/methods.h"
#include "engine/template/number_text.h"
#include "engine/template/operators.h"

namespace strata::engine::jinja {
namespace {

Value undefined_named(const Value& name) {
  if (const Text* text = std::get_if<Text>(&name)) return Undefined{*text};
  return Undefined{};
}

// A key can be anything that does not change: no list, no dict.
bool is_hashable(const Value& key) {
  return !as_cell<Mapping>(key) && !as_sequence(key, SequenceKind::kList);
}

// Where index `i`, counted from the end where negative, lies in n items; nothing outside.
std::optional<uint64_t> position_of(int64_t i, uint64_t n) {
  const int64_t at = i < 0 ? i + static_cast<int64_t>(n) : i;
  if (at < 0 || at >= static_cast<int64_t>(n)) return std::nullopt;
  return static_cast<uint64_t>(at);
}

Value text_at(Runtime& rt, const Text& text, int64_t index) {
  const std::string& bytes = text->bytes();
  rt.scan_bytes(bytes.size());
  if (index >= 0) {
    const size_t begin = offset_of_code_point(bytes, static_cast<size_t>(index));
    if (begin >= bytes.size()) return Undefined{};
    return rt.slice(text, begin, begin + code_point_at(bytes, begin).bytes);
  }
  size_t end = bytes.size();
  for (; index < -1 && end > 0; ++index) end = code_point_before(bytes, end);
  if (end == 0) return Undefined{};
  return rt.slice(text, code_point_before(bytes, end), end);
}

Value item_at(Runtime& rt, const Value& value, int64_t index) {
  if (const Text* text = std::get_if<Text>(&value)) return text_at(rt, *text, index);
  if (const Sequence* sequence = as_cell<Sequence>(value)) {
    if (!is_list_or_tuple(sequence)) return Undefined{};
    const auto at = position_of(index, sequence->items.size());
    return at ? sequence->items[*at] : Value(Undefined{});
  }
  if (const Range* range = as_object<Range>(value, ObjectKind::kRange)) {
    const auto at = position_of(index, range->length);
    return at ? Value(range->at(*at)) : Value(Undefined{});
  }
  return Undefined{};
}

Value object_field(Runtime& rt, const Value& value, const Text& name) {
  if (const auto* fields = as_object<Namespace>(value, ObjectKind::kNamespace)) {
    rt.visit_items(fields->fields.size());
    for (const auto& [field, held] : fields->fields) {
      if (field.bytes() == name->bytes()) return held;
    }
  }
  if (auto* loop = as_object<Loop>(value, ObjectKind::kLoop)) return loop->field(rt, name);
  return Undefined{name};
}

// The indices that a slice of n items visits: start, then by step, count times.
struct SlicePlan {
  int64_t start = 0;
  int64_t step = 1;
  uint64_t count = 0;
};

int64_t slice_bound(Runtime& rt, const Value& value, int64_t fallback, int64_t n, int64_t low,
                    int64_t high) {
  if (is<None>(value)) return fallback;
  Number number;
  if (!as_number(value, &number) || number.is_real) {
    require_defined(rt, value);
    rt.fail(fmt::format("a slice wants integers, found {}", type_name(value)));
  }
  int64_t bound = number.integer;
  if (bound < 0) bound = bound < -n ? low : std::max(bound + n, low);
  return std::min(bound, high);
}

SlicePlan plan_slice(Runtime& rt, int64_t n, const Value& start, const Value& stop,
                     const Value& step) {
  SlicePlan plan;
  if (!is<None>(step)) {
    Number number;
    if (!as_number(step, &number) || number.is_real) rt.fail("a slice wants integers");
    if (number.integer == 0) rt.fail("a slice's step cannot be 0");
    plan.step = std::clamp<int64_t>(number.integer, -(n + 1), n + 1);
  }
  const bool forward = plan.step > 0;
  const int64_t low = forward ? 0 : -1;
  const int64_t high = forward ? n : n - 1;
  plan.start = slice_bound(rt, start, forward ? 0 : n - 1, n, low, high);
  const int64_t end = slice_bound(rt, stop, forward ? n : -1, n, low, high);
  const int64_t span = forward ? end - plan.start : plan.start - end;
  const int64_t stride = forward ? plan.step : -plan.step;
  if (span > 0) plan.count = static_cast<uint64_t>((span + stride - 1) / stride);
  return plan;
}

Value slice_text(Runtime& rt, const Text& text, const Value& start, const Value& stop,
                 const Value& step) {
  const std::string& bytes = text->bytes();
  rt.scan_bytes(bytes.size());
  const auto n = static_cast<int64_t>(count_code_points(bytes));
  const SlicePlan plan = plan_slice(rt, n, start, stop, step);
  if (plan.count == 0) return rt.text(std::string());
  if (plan.step == 1) {
    const size_t begin = offset_of_code_point(bytes, static_cast<size_t>(plan.start));
    const size_t length = offset_of_code_point(std::string_view(bytes).substr(begin), plan.count);
    return rt.slice(text, begin, begin + length);
  }
  rt.hold(static_cast<uint64_t>(n + 1) * sizeof(size_t));
  std::vector<size_t> offsets;
  for (size_t at = 0; at < bytes.size(); at += code_point_at(bytes, at).bytes)
    offsets.push_back(at);
  offsets.push_back(bytes.size());
  MarkedText out;
  for (uint64_t i = 0; i < plan.count; ++i) {
    const auto at = static_cast<size_t>(plan.start + static_cast<int64_t>(i) * plan.step);
    out.append(*text, offsets[at], offsets[at + 1]);
  }
  return rt.text(std::move(out));
}

}  // namespace

Value* find_key(Runtime& rt, Mapping& mapping, const Value& key) {
  if (!is_hashable(key)) rt.fail(fmt::format("{} cannot be a key", type_name(key)));
  rt.visit_items(mapping.items.size());
  const MarkedText* wanted = as_text(key);
  for (auto& [name, value] : mapping.items) {
    const MarkedText* text = as_text(name);
    if (wanted ? text && text->bytes() == wanted->bytes() : is_equal(rt, name, key)) return &value;
  }
  return nullptr;
}

void set_key(Runtime& rt, Mapping& mapping, const Value& key, const Value& value) {
  if (Value* held = find_key(rt, mapping, key)) {
    *held = value;
    return;
  }
  rt.hold_items(2);
  mapping.items.emplace_back(key, value);
}

Value get_attribute(Runtime& rt, const Value& value, const Text& name) {
  require_defined(rt, value);
  if (const MethodFn method = find_method(value, name->bytes())) {
    return rt.make<BoundMethod>(value, method);
  }
  if (Mapping* mapping = as_cell<Mapping>(value)) {
    const Value* held = find_key(rt, *mapping, name);
    return held ? *held : Value(Undefined{name});
  }
  return object_field(rt, value, name);
}

Value get_item(Runtime& rt, const Value& value, const Value& key) {
  require_defined(rt, value);
  if (Mapping* mapping = as_cell<Mapping>(value); mapping && is_hashable(key)) {
    if (const Value* held = find_key(rt, *mapping, key)) return *held;
  }
  if (const Text* name = std::get_if<Text>(&key)) return get_attribute(rt, value, *name);
  Number index;
  if (!as_cell<Mapping>(value) && as_number(key, &index) && !index.is_real) {
    return item_at(rt, value, index.integer);
  }
  return undefined_named(key);
}

Value get_slice(Runtime& rt, const Value& value, const Value& start, const Value& stop,
                const Value& step) {
  require_defined(rt, value);
  if (const Text* text = std::get_if<Text>(&value)) return slice_text(rt, *text, start, stop, step);
  const Sequence* sequence = as_cell<Sequence>(value);
  if (!is_list_or_tuple(sequence)) rt.fail(fmt::format("{} has no slices", type_name(value)));
  const auto n = static_cast<int64_t>(sequence->items.size());
  const SlicePlan plan = plan_slice(rt, n, start, stop, step);
  rt.visit_items(plan.count);
  std::vector<Value> items;
  for (uint64_t i = 0; i < plan.count; ++i) {
    items.push_back(
        sequence->items[static_cast<size_t>(plan.start + static_cast<int64_t>(i) * plan.step)]);
  }
  return rt.sequence(sequence->kind, std::move(items));
}

Value get_path(Runtime& rt, const Value& value, const Value& path, const Value* fallback) {
  const auto get = [&](const Value& from, const Value& key) {
    const Value found = get_item(rt, from, key);
    return fallback && is<Undefined>(found) ? *fallback : found;
  };
  const MarkedText* text = as_text(path);
  if (!text) return get(value, path);
  Value at = value;
  const std::string& names = text->bytes();
  for (size_t begin = 0; begin <= names.size();) {
    const size_t end = std::min(names.find('.', begin), names.size());
    const std::string part = names.substr(begin, end - begin);
    const bool is_index = !part.empty() && std::all_of(part.begin(), part.end(),
                                                       [](char c) { return c >= '0' && c <= '9'; });
    const auto index = is_index ? parse_integer(part) : std::nullopt;
    rt.step();
    at = get(at, index ? Value(*index) : rt.text(part));
    begin = end + 1;
  }
  return at;
}

std::optional<uint64_t> length_of(Runtime& rt, const Value& value) {
  if (is<Undefined>(value)) return 0;
  if (const MarkedText* text = as_text(value)) {
    rt.scan_bytes(text->size());
    return count_code_points(text->bytes());
  }
  if (const Sequence* sequence = as_cell<Sequence>(value)) {
    if (sequence->kind == SequenceKind::kGenerator) return std::nullopt;
    return sequence->items.size();
  }
  if (const Mapping* mapping = as_cell<Mapping>(value)) return mapping->items.size();
  if (const Range* range = as_object<Range>(value, ObjectKind::kRange)) return range->length;
  return std::nullopt;
}

bool is_iterable(const Value& value) {
  return is<Undefined>(value) || as_text(value) || as_cell<Sequence>(value) ||
         as_cell<Mapping>(value) || as_object<Range>(value, ObjectKind::kRange);
}

Cursor::Cursor(Runtime& rt, const Value& source) : rt_(&rt), source_(source) {
  if (!is_iterable(source)) rt.fail(fmt::format("{} cannot be walked over", type_name(source)));
  const Sequence* sequence = as_cell<Sequence>(source);
  if (sequence && sequence->kind == SequenceKind::kGenerator) {
    // The walk takes the items over, so that a second one finds none.
    source_ = rt.list(std::exchange(as_cell<Sequence>(source)->items, {}));
  }
}

bool Cursor::next(Value* out) {
  rt_->step();
  if (const Text* text = std::get_if<Text>(&source_)) {
    if (at_ >= (*text)->size()) return false;
    const size_t bytes = code_point_at((*text)->bytes(), at_).bytes;
    *out = rt_->slice(*text, at_, at_ + bytes);
    at_ += bytes;
    return true;
  }
  if (const Sequence* sequence = as_cell<Sequence>(source_)) {
    if (at_ >= sequence->items.size()) return false;
    *out = sequence->items[at_++];
    return true;
  }
  if (const Mapping* mapping = as_cell<Mapping>(source_)) {
    if (at_ >= mapping->items.size()) return false;
    *out = mapping->items[at_++].first;
    return true;
  }
  const Range* range = as_object<Range>(source_, ObjectKind::kRange);
  if (!range || at_ >= range->length) return false;
  *out = range->at(at_++);
  return true;
}

std::vector<Value> collect_items(Runtime& rt, const Value& source) {
  std::vector<Value> items;
  Cursor cursor(rt, source);
  Value item;
  while (cursor.next(&item)) {
    rt.hold_items(1);
    items.push_back(item);
  }
  return items;
}

}  // namespace strata::engine::jinja
