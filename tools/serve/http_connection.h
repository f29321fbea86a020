// tools/serve/http_connection.h - one client's connection: requests are read, answered by the app,
// replies written. Why: cpp-httplib parses and writes HTTP, but its own loop bounds neither how
// long a request may take to come nor how large a chunked body gets, and reads what it refuses.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "tools/serve/body_budget.h"
#include "tools/serve/http_message.h"

namespace strata::serve {

/// What a client may cost before it is answered.
struct HttpLimits {
  uint64_t head_bytes = uint64_t{16} << 10;  // request line and headers
  uint64_t body_bytes = uint64_t{64} << 20;  // of one request
  uint64_t all_bodies_bytes = uint64_t{256} << 20;
  uint32_t connections = 512;
  std::chrono::milliseconds first{10000};  // from connecting to the first byte
  std::chrono::milliseconds head{10000};   // from a request's first byte to its last header
  std::chrono::milliseconds idle{60000};   // from one request to the next
  std::chrono::milliseconds body{60000};   // for a whole body, and for each part of a reply
  // How long what a refused client still sends is read, so that it can read the refusal.
  std::chrono::milliseconds linger{2000};
};

/// What the connections of a server share.
struct HttpShared {
  HttpApp& app;
  HttpLimits limits;
  std::string id_prefix;                 // of request ids
  std::atomic<uint64_t> n_requests = 0;  // so far
  BodyBudget bodies{limits.all_bodies_bytes};
  std::atomic<bool> is_draining = false;
};

/// One connection, as the server sees it.
struct ConnectionState {
  // Since when it has no request at work, in steady-clock ticks: the head of the next is not whole,
  // or what a refused client still sends is read. 0 = a request is at work, or whoever set it to 0
  // has shut the connection down to make room.
  std::atomic<int64_t> waits_since = 0;
};

/// Serves the connection until it ends; leaves the descriptor open. Whoever shuts the descriptor
/// down from another thread ends it. `client` is the address, empty for a Unix socket. Never
/// throws.
void serve_connection(int descriptor, const std::string& client, HttpShared& shared,
                      ConnectionState& state);

}  // namespace strata::serve
