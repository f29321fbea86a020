// tools/serve/embedded.h - files that are part of the program, made into source by
// cmake/embed.cmake.
#pragma once

#include <string_view>

namespace strata::serve {

std::string_view page_html();     // page/index.html
std::string_view openapi_json();  // page/openapi.json

}  // namespace strata::serve
