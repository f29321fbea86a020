#include "tools/serve/access.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>

namespace strata::serve {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

/// "localhost:8080" -> "localhost", "[::1]:8080" -> "[::1]".
std::string_view without_port(std::string_view host) {
  if (host.starts_with('[')) return host.substr(0, std::min(host.find(']'), host.size() - 1) + 1);
  return host.substr(0, host.find(':'));
}

}  // namespace

bool is_same_secret(std::string_view given, std::string_view secret) {
  if (secret.empty()) return false;
  unsigned difference = given.size() == secret.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i)
    difference |= static_cast<unsigned char>(given[i] ^ secret[i % secret.size()]);
  return difference == 0;
}

bool is_key_text(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    const bool is_word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    return is_word || std::string_view("-._~+/=").find(c) != std::string_view::npos;
  });
}

Access::Access(AccessOptions options) : options_(std::move(options)) {
  options_.host = lower(options_.host);
  std::ranges::sort(options_.keys);
  options_.keys.erase(std::unique(options_.keys.begin(), options_.keys.end()), options_.keys.end());
}

bool Access::is_known_host(std::string_view host) const {
  const std::string name = lower(without_port(host));
  if (name == "localhost" || name == "[::1]" || name == options_.host) return true;
  in_addr address = {};
  return ::inet_pton(AF_INET, name.c_str(), &address) == 1 && (ntohl(address.s_addr) >> 24) == 127;
}

std::string_view Access::allowed_origin(std::string_view origin) const {
  for (const std::string& allowed : options_.cors_origins)
    if (allowed == "*" || allowed == origin) return allowed;
  return {};
}

std::string_view Access::key_of(const HttpRequest& request) const {
  const std::string_view given = request.header("x-api-key").value_or("");
  std::string_view bearer = request.header("authorization").value_or("");
  bearer = lower(bearer.substr(0, 7)) == "bearer " ? bearer.substr(7) : std::string_view{};
  // Clients send both where a proxy or a library adds one of its own.
  std::string_view known;
  for (const std::string& key : options_.keys)
    if (is_same_secret(given, key) | is_same_secret(bearer, key)) known = key;
  return known;
}

std::optional<AccessRefusal> Access::refuse(const HttpRequest& request, bool needs_key) const {
  const auto host = request.header("host");
  if (options_.checks_host && host && !is_known_host(*host))
    return AccessRefusal{403, "this server is not reached by that name: use localhost"};
  if (const auto origin = request.header("origin")) {
    const std::string same = host ? std::string(*host) : "";
    const bool is_own = host && (*origin == "http://" + same || *origin == "https://" + same);
    if (!is_own && allowed_origin(*origin).empty())
      return AccessRefusal{403, "pages of other sites may not ask here: see --cors-origin"};
  }
  // A preflight carries no key.
  if (needs_key && request.method != "OPTIONS" && !options_.keys.empty() && key_of(request).empty())
    return AccessRefusal{401, "wanted a key of this server: Authorization: Bearer KEY"};
  return std::nullopt;
}

void Access::add_headers(const HttpRequest& request, HttpReply& reply) const {
  reply.headers.emplace_back("X-Content-Type-Options", "nosniff");
  if (options_.cors_origins.empty()) return;
  reply.headers.emplace_back("Vary", "Origin");
  const auto origin = request.header("origin");
  const std::string_view allowed = origin ? allowed_origin(*origin) : std::string_view{};
  if (allowed.empty()) return;
  reply.headers.emplace_back("Access-Control-Allow-Origin", allowed);
  reply.headers.emplace_back("Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
  if (request.method != "OPTIONS") return;
  reply.headers.emplace_back("Access-Control-Allow-Methods", "GET, POST");
  reply.headers.emplace_back("Access-Control-Allow-Headers", "Authorization, Content-Type, *");
  reply.headers.emplace_back("Access-Control-Max-Age", "600");
}

}  // namespace strata::serve
