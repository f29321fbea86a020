// tools/serve/http_message.h - requests and replies as the routes see them: no socket, no library.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/serve/body_budget.h"

namespace strata::serve {

struct HttpRequest {
  std::string id;      // of this server's, in the log and in the reply's X-Request-Id
  std::string client;  // address; empty = a Unix socket
  std::string method;
  std::string path;
  std::vector<std::pair<std::string, std::string>> query;
  std::vector<std::pair<std::string, std::string>> headers;  // names in small letters
  std::string body;
  BodyShare body_share;  // what the body takes of the room of all bodies

  /// Frees the body and its room: for who has read it and goes on to what takes long.
  void drop_body();
  /// The first value of that name, which is in small letters; nothing where there is none.
  std::optional<std::string_view> header(std::string_view name) const;
  std::optional<std::string_view> parameter(std::string_view name) const;
};

/// A body that comes in parts. Dropped where the client has gone.
class HttpBody {
 public:
  virtual ~HttpBody() = default;
  /// Waits for the next part; false where this is the last. `part` may stay empty.
  virtual bool wait_part(std::string& part, std::chrono::milliseconds timeout) = 0;
};

struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::unique_ptr<HttpBody> parts;  // instead of `body`
  std::vector<std::pair<std::string, std::string>> headers;
};

/// Whether someone still waits for a reply. A client that has closed its sending side counts as
/// gone, as in Go's net/http: a closed connection looks no different until one writes to it.
class HttpClient {
 public:
  virtual ~HttpClient() = default;
  virtual bool is_gone() const = 0;
};

/// How a request ended, for the log.
struct HttpOutcome {
  int status = 0;
  double seconds = 0;
  uint64_t reply_bytes = 0;
  bool is_whole = true;  // false: the client did not take all of the reply
};

/// What answers requests. Threads: one per connection calls.
class HttpApp {
 public:
  virtual ~HttpApp() = default;
  /// Looks at a request whose body is not read yet: a refusal, or nothing.
  virtual std::optional<HttpReply> refuse(const HttpRequest& head) = 0;
  /// May take as long as it likes, and then drops the body first; what it throws becomes a reply
  /// of status 500.
  virtual HttpReply answer(HttpRequest& request, const HttpClient& client) = 0;
  /// The reply to what is not HTTP, is too large or came too slowly. The path may be empty.
  virtual HttpReply fault(const std::string& path, int status, const std::string& message) = 0;
  /// After the reply, or as much of it as was taken.
  virtual void on_end(const HttpRequest& request, const HttpOutcome& outcome) = 0;
};

}  // namespace strata::serve
