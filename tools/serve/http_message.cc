#include "tools/serve/http_message.h"

namespace strata::serve {
namespace {

std::optional<std::string_view> first_of(
    const std::vector<std::pair<std::string, std::string>>& pairs, std::string_view name) {
  for (const auto& [key, value] : pairs)
    if (key == name) return value;
  return std::nullopt;
}

}  // namespace

void HttpRequest::drop_body() {
  std::string().swap(body);  // an assignment would keep the memory
  body_share.release();
}

std::optional<std::string_view> HttpRequest::header(std::string_view name) const {
  return first_of(headers, name);
}

std::optional<std::string_view> HttpRequest::parameter(std::string_view name) const {
  return first_of(query, name);
}

}  // namespace strata::serve
