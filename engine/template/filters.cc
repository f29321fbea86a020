#include "engine/template/filters.h"

#include <fmt/format.h>

namespace strata::engine::jinja {

Value apply_filter(Runtime& rt, std::string_view name, const Value& input,
                   const Arguments& arguments) {
  for (const FilterTable* table :
       {&text_filters(), &number_filters(), &sequence_filters(), &selection_filters()}) {
    const auto found = table->find(name);
    if (found != table->end()) return found->second(rt, input, arguments);
  }
  rt.fail(fmt::format("no filter named '{}'", name));
}

}  // namespace strata::engine::jinja
