// tools/serve/listener.h - the socket that clients connect to.
#pragma once

#include <cstdint>
#include <string>

namespace strata::serve {

struct ListenAddress {
  std::string host = "127.0.0.1";
  uint16_t port = 8080;     // 0 = any that is free
  std::string socket_path;  // a Unix socket instead; empty = none
  // Whether other machines may connect: only where a key is asked for.
  bool allows_others = false;
};

/// Listens from open() on: connections wait in the kernel's queue until they are accepted.
class Listener {
 public:
  /// A socket file that nobody listens on is replaced. Errors: kIo (in use, no right, no such
  /// address), kUsage (an address that others reach and may not, a path that is too long).
  static Listener open(const ListenAddress& address);
  ~Listener();
  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;

  /// Connections that were not accepted end, and new ones are refused. Harmless where it is closed.
  void close();

  int descriptor() const { return descriptor_; }  // -1 = closed
  uint16_t port() const { return port_; }         // 0 = a Unix socket
  bool is_loopback() const { return is_loopback_; }
  /// "http://127.0.0.1:8080", or "unix:/run/strata.sock".
  const std::string& url() const { return url_; }

 private:
  Listener() = default;
  void open_unix(const ListenAddress& address);
  void open_port(const ListenAddress& address);
  int descriptor_ = -1;
  uint16_t port_ = 0;
  bool is_loopback_ = true;
  std::string url_;
  std::string socket_path_;  // removed at the end; empty = none
};

}  // namespace strata::serve
