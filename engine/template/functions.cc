#include "engine/template/functions.h"

#include <fmt/format.h>

#include <locale.h>
#include <time.h>

#include <array>
#include <optional>

#include "engine/template/access.h"
#include "engine/template/value_text.h"

namespace strata::engine::jinja {
namespace {

Value range(Runtime& rt, const Arguments& arguments) {
  const Parameters p(rt, "range", arguments, {"start", "stop", "step"}, 1);
  for (size_t i = 0; i < 3; ++i) {
    if (p.has(i) && !is<int64_t>(p.get(i)) && !is<bool>(p.get(i))) {
      rt.fail(fmt::format("range wants integers, found {}", type_name(p.get(i))));
    }
  }
  const int64_t start = p.has(1) ? p.integer(0, 0) : 0;
  const int64_t stop = p.integer(p.has(1) ? 1 : 0, 0);
  const int64_t step = p.integer(2, 1);
  if (step == 0) rt.fail("range: the step cannot be 0");
  for (const int64_t figure : {start, stop, step}) {
    if (figure > kMaxRangeBound || figure < -kMaxRangeBound) rt.fail("range: a bound is too large");
  }
  const int64_t span = step > 0 ? stop - start : start - stop;
  const int64_t stride = step > 0 ? step : -step;
  const uint64_t length = span > 0 ? static_cast<uint64_t>((span - 1) / stride + 1) : 0;
  if (length > rt.limits().range_length) {
    rt.fail(fmt::format("the template's range budget of {} ran out: a range of {} was asked for",
                        rt.limits().range_length, length));
  }
  return rt.make<Range>(start, stop, step, length);
}

Value dict(Runtime& rt, const Arguments& arguments) {
  if (arguments.positional.size() > 1) rt.fail("dict takes at most 1 positional argument");
  Mapping* made = rt.mapping();
  for (const Value& source : arguments.positional) {
    if (const Mapping* from = as_cell<Mapping>(source)) {
      for (const auto& [key, value] : from->items) set_key(rt, *made, key, value);
      continue;
    }
    Cursor cursor(rt, source);
    Value item;
    while (cursor.next(&item)) {
      const std::vector<Value> pair = collect_items(rt, item);
      if (pair.size() != 2) rt.fail("dict wants pairs");
      set_key(rt, *made, pair[0], pair[1]);
    }
  }
  for (const auto& [name, value] : arguments.named) set_key(rt, *made, rt.text(name), value);
  return made;
}

Value make_namespace(Runtime& rt, const Arguments& arguments) {
  const Value fields = dict(rt, arguments);
  auto* space = rt.make<Namespace>();
  for (const auto& [key, value] : as_cell<Mapping>(fields)->items) {
    if (!as_text(key)) rt.fail("a namespace's fields have text names");
    rt.hold_items(2);
    space->fields.emplace_back(*as_text(key), value);
  }
  return space;
}

Value raise_exception(Runtime& rt, const Arguments& arguments) {
  const Parameters p(rt, "raise_exception", arguments, {"message"}, 1);
  constexpr size_t kMaxShown = 500;
  const MarkedText message = print_text(rt, p.get(0));
  rt.fail("the template raised: " + message.bytes().substr(0, kMaxShown));
}

std::optional<tm> parse_date(const std::string& iso) {
  tm date{};
  const char* end = strptime(iso.c_str(), "%Y-%m-%d", &date);
  if (end && *end == 'T') end = strptime(end + 1, "%H:%M:%S", &date);
  if (!end || *end != '\0') return std::nullopt;
  const int day = date.tm_mday;
  timegm(&date);  // fills in the day of the week, and moves a day that the month lacks
  return date.tm_mday == day ? std::optional<tm>(date) : std::nullopt;
}

// As Python's strftime, in English whatever the process's locale is.
Value strftime_now(Runtime& rt, const tm& date, const Arguments& arguments) {
  const Parameters p(rt, "strftime_now", arguments, {"format"}, 1);
  const MarkedText* format = p.text(0);
  if (!format) rt.fail("strftime_now wants a format");
  if (format->empty()) return p.get(0);
  static const locale_t kEnglish = newlocale(LC_ALL_MASK, "C", nullptr);
  std::array<char, 512> text;
  const size_t n = strftime_l(text.data(), text.size(), format->bytes().c_str(), &date, kEnglish);
  if (n == 0) rt.fail(fmt::format("strftime_now: more than {} bytes", text.size() - 1));
  return rt.text(MarkedText(std::string(text.data(), n), format->has_user_text()));
}

}  // namespace

std::vector<std::pair<std::string, Value>> global_functions(Runtime& rt,
                                                            const std::string& date_iso) {
  std::vector<std::pair<std::string, Value>> functions;
  const auto add = [&](const char* name, Function::Run run) {
    functions.emplace_back(name, rt.make<Function>(std::move(run)));
  };
  add("range", range);
  add("dict", dict);
  add("namespace", make_namespace);
  add("raise_exception", raise_exception);
  if (date_iso.empty()) return functions;
  const auto date = parse_date(date_iso);
  if (!date)
    rt.fail(fmt::format("the date '{}' is not YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS", date_iso));
  add("strftime_now", [date](Runtime& runtime, const Arguments& arguments) {
    return strftime_now(runtime, *date, arguments);
  });
  return functions;
}

}  // namespace strata::engine::jinja
