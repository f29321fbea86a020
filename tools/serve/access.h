// tools/serve/access.h - who may ask: keys, and web pages of other sites.
// Why: a page in a browser on this machine reaches a server on it. It names itself in Origin, and
// where its own name was pointed at us (DNS rebinding) it names that in Host.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/serve/http_message.h"

namespace strata::serve {

/// Compares in a time that depends on the length of what was given alone.
bool is_same_secret(std::string_view given, std::string_view secret);

/// Characters that a key may have: those that need no quoting in a header.
bool is_key_text(std::string_view text);

struct AccessOptions {
  std::vector<std::string> keys;          // empty = nobody needs one
  std::vector<std::string> cors_origins;  // "https://app.example"; "*" = every page
  std::string host;                       // that is listened on, as the user named it
  // Only programs of this machine connect to the port: then a browser's Host is a name of this
  // machine. Elsewhere it may be any name, and a key is what keeps pages out.
  bool checks_host = true;
};

/// Why a request is refused.
struct AccessRefusal {
  int status = 403;
  std::string message;
};

class Access {
 public:
  explicit Access(AccessOptions options);
  /// Nothing where it may be answered. `needs_key` false: of the key nothing is asked.
  std::optional<AccessRefusal> refuse(const HttpRequest& request, bool needs_key) const;
  /// The key of the server that the request has; "" where it has none.
  std::string_view key_of(const HttpRequest& request) const;
  /// One that was given twice is one.
  bool has_several_keys() const { return options_.keys.size() > 1; }
  /// What a browser wants to see before it hands a reply to a page of another site.
  void add_headers(const HttpRequest& request, HttpReply& reply) const;

 private:
  bool is_known_host(std::string_view host) const;
  /// The header's text where the page is one of cors_origins, "" where it is not.
  std::string_view allowed_origin(std::string_view origin) const;
  AccessOptions options_;
};

}  // namespace strata::serve
