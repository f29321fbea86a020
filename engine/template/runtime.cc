#include "engine/template/runtime.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace strata::engine::jinja {

Runtime::Runtime(const RenderLimits& limits, uint64_t n_messages)
    : limits_(limits),
      steps_left_(limits.steps +
                  limits.steps_per_message * std::min<uint64_t>(n_messages, 1'000'000)),
      memory_left_(limits.memory_bytes) {}

void Runtime::hold(uint64_t bytes) {
  if (bytes > memory_left_) {
    fail(fmt::format("the template's memory budget of {} bytes ran out", limits_.memory_bytes));
  }
  memory_left_ -= bytes;
}

void Runtime::fail(const std::string& message) const {
  throw Error(ErrorCode::kTemplate, message, fmt::format("chat template, line {}", line_),
              kTemplateRemedy);
}

void Runtime::out_of_steps() const {
  fail(fmt::format("the template's step budget of {} steps and {} for each message ran out",
                   limits_.steps, limits_.steps_per_message));
}

void Runtime::out_of_frames() const {
  fail(fmt::format("the template's depth budget of {} nested evaluations ran out", limits_.frames));
}

void Runtime::out_of_calls() const {
  fail(fmt::format("the template's depth budget of {} nested calls ran out", limits_.calls));
}

Value Runtime::text(MarkedText text) {
  hold(text.memory_bytes());
  return held_text(std::move(text));
}

Value Runtime::held_text(MarkedText text) {
  hold(sizeof(MarkedText) + kCellOverhead);
  return std::make_shared<const MarkedText>(std::move(text));
}

Value Runtime::slice(const Text& whole, size_t begin, size_t end) {
  if (begin == 0 && end == whole->size()) return whole;
  scan_bytes(end - begin);
  return text(whole->slice(begin, end));
}

Sequence* Runtime::sequence(SequenceKind kind, std::vector<Value> items) {
  hold_items(items.size());
  auto* made = make<Sequence>();
  made->kind = kind;
  made->items = std::move(items);
  return made;
}

Mapping* Runtime::mapping() { return make<Mapping>(); }

Parameters::Parameters(Runtime& rt, std::string_view callee, const Arguments& arguments,
                       std::initializer_list<std::string_view> names, size_t n_required)
    : rt_(rt), callee_(callee), names_(names), values_(names.size()), given_(names.size(), false) {
  if (arguments.positional.size() > names_.size()) {
    rt.fail(fmt::format("{} takes at most {} arguments, {} given", callee, names_.size(),
                        arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    values_[i] = arguments.positional[i];
    given_[i] = true;
  }
  for (const auto& [name, value] : arguments.named) {
    const auto at = std::find(names_.begin(), names_.end(), name);
    if (at == names_.end()) rt.fail(fmt::format("{} has no argument named '{}'", callee, name));
    const auto i = static_cast<size_t>(at - names_.begin());
    if (given_[i]) rt.fail(fmt::format("{} got its argument '{}' twice", callee, name));
    values_[i] = value;
    given_[i] = true;
  }
  for (size_t i = 0; i < n_required; ++i) {
    if (!given_[i]) rt.fail(fmt::format("{} lacks its argument '{}'", callee, names_[i]));
  }
}

int64_t Parameters::integer(size_t i, int64_t fallback) const {
  if (!given_[i] || is<None>(values_[i])) return fallback;
  Number number;
  if (!as_number(values_[i], &number) || number.is_real) {
    rt_.fail(fmt::format("{} wants an integer as '{}', found {}", callee_, names_[i],
                         type_name(values_[i])));
  }
  return number.integer;
}

const MarkedText* Parameters::text(size_t i) const {
  if (!given_[i] || is<None>(values_[i])) return nullptr;
  const MarkedText* text = as_text(values_[i]);
  if (!text) {
    rt_.fail(
        fmt::format("{} wants text as '{}', found {}", callee_, names_[i], type_name(values_[i])));
  }
  return text;
}

}  // namespace strata::engine::jinja
