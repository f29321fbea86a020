// tests/fuzz/head_fuzz.cc - libFuzzer target: any bytes as what a client sends over a connection.
// Wanted: a head ends where it ends however it comes; what reaches the app has names of headers
// that no proxy reads otherwise, and is let in by its key and its host alone; every reply is one of
// HTTP.
// Run: head_fuzz -max_len=4096 -timeout=10 CORPUS_DIR tests/fuzz/seeds/head_fuzz
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "tools/serve/access.h"
#include "tools/serve/http_connection.h"
#include "tools/serve/http_head.h"

namespace {

using namespace strata::serve;

// Replies to as many requests as fit in there are less than a socket holds.
constexpr size_t kSentMax = 2048;

void hold(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

bool is_shown(std::string_view text) {
  return std::ranges::none_of(text, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte < 0x20 && c != '\t') || byte == 0x7f;
  });
}

/// Lets in by its key, and looks at what the library has made of a head that was let pass.
class KeyedApp final : public HttpApp {
 public:
  std::optional<HttpReply> refuse(const HttpRequest& head) override {
    size_t n_hosts = 0;
    // Of values nothing is held: the library decodes %0a in them.
    for (const auto& [name, value] : head.headers) {
      hold(!name.empty() && is_shown(name) && name.find_first_of(" \t:") == std::string::npos,
           "a header's name");
      hold(std::ranges::none_of(name, [](char c) { return c >= 'A' && c <= 'Z'; }),
           "small letters");
      n_hosts += name == "host" ? 1 : 0;
    }
    hold(n_hosts <= 1, "one Host");
    const auto refusal = access_.refuse(head, true);
    if (!refusal) {
      const bool has_key =
          head.header("x-api-key") == "secret" ||
          std::string(head.header("authorization").value_or("")).ends_with("secret");
      hold(has_key || head.method == "OPTIONS", "a key");
      return std::nullopt;
    }
    hold(refusal->status == 401 || refusal->status == 403, "a refusal's status");
    return fault(head.path, refusal->status, refusal->message);
  }
  HttpReply answer(HttpRequest& request, const HttpClient&) override {
    HttpReply reply;
    access_.add_headers(request, reply);
    for (const auto& [name, value] : reply.headers)
      hold(name != "Access-Control-Allow-Origin" || value == "https://app.example", "an origin");
    return reply;
  }
  HttpReply fault(const std::string&, int status, const std::string& message) override {
    HttpReply reply;
    reply.status = status;
    reply.body = message;
    return reply;
  }
  void on_end(const HttpRequest&, const HttpOutcome& outcome) override {
    hold(outcome.status == 0 || (outcome.status >= 200 && outcome.status < 600), "a status");
  }

 private:
  static AccessOptions options() {
    AccessOptions options;
    options.keys = {"secret"};
    options.cors_origins = {"https://app.example"};
    return options;
  }
  Access access_{options()};
};

void read_head(std::string_view bytes) {
  const size_t n = head_size(bytes);
  hold(n <= bytes.size(), "a head of what there is");
  // Looked at as it comes, from where the last look ended: an end is up to three bytes long.
  for (size_t cut = 0; cut < std::min(bytes.size(), size_t{64}); ++cut) {
    const std::string_view begin = bytes.substr(0, cut);
    const size_t early = head_size(begin);
    hold(early == (n > 0 && n <= cut ? n : 0), "the same end");
  }
  if (n == 0 || head_fault(bytes.substr(0, n))) return;
  const std::string_view head = bytes.substr(0, n);
  hold(head.ends_with("\r\n\r\n"), "a head that ends with an empty line");
  hold(std::ranges::count(head, '\n') == std::ranges::count(head, '\r'),
       "lines that end with CRLF");
}

void serve(std::string_view bytes) {
  int ends[2];
  hold(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "a pair of sockets");
  hold(::send(ends[0], bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
       "all is sent");
  ::shutdown(ends[0], SHUT_WR);
  static KeyedApp app;
  HttpLimits limits;
  limits.head_bytes = 1024;
  limits.body_bytes = 512;
  limits.linger = std::chrono::milliseconds(0);
  HttpShared shared{app, limits, "id"};
  ConnectionState state;
  serve_connection(ends[1], "127.0.0.1", shared, state);
  hold(shared.bodies.taken_bytes() == 0, "no body that is kept");
  ::close(ends[1]);
  std::string said;
  char part[4096];
  for (ssize_t n; (n = ::recv(ends[0], part, sizeof part, 0)) > 0;)
    said.append(part, static_cast<size_t>(n));
  ::close(ends[0]);
  hold(said.empty() || said.starts_with("HTTP/1.1 "), "a reply of HTTP");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  read_head(bytes);
  serve(bytes.substr(0, kSentMax));
  const std::string_view other = bytes.substr(size / 2);
  hold(is_same_secret(bytes, other) == (bytes == other && !other.empty()), "the same secret");
  hold(!is_key_text(bytes) || is_shown(bytes), "a key without a control character");
  return 0;
}
