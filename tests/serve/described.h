// tests/serve/described.h - the description of the routes that the server gives, as JSON.
#pragma once

#include <nlohmann/json.hpp>

#include "tools/serve/embedded.h"

namespace strata::serve::testing {

inline const nlohmann::json& described() {
  static const nlohmann::json description = nlohmann::json::parse(openapi_json());
  return description;
}

}  // namespace strata::serve::testing
