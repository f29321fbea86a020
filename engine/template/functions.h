// engine/template/functions.h - what every template may call: range, dict, namespace,
// raise_exception, and strftime_now where the caller gave a date.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/template/runtime.h"

namespace strata::engine::jinja {

struct Function final : Object {
  using Run = std::function<Value(Runtime&, const Arguments&)>;
  explicit Function(Run fn) : Object(ObjectKind::kFunction), run(std::move(fn)) {}
  Run run;
};

/// By name. `date_iso` is "YYYY-MM-DD" or "YYYY-MM-DDTHH:MM:SS"; where it is empty there is no
/// strftime_now, which templates that ask `strftime_now is defined` handle with a date of their
/// own. Errors: kTemplate where it is neither.
std::vector<std::pair<std::string, Value>> global_functions(Runtime& rt,
                                                            const std::string& date_iso);

}  // namespace strata::engine::jinja
