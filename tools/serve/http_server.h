// tools/serve/http_server.h - connections of one listener, a thread for each.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "tools/serve/http_connection.h"
#include "tools/serve/listener.h"

namespace strata::serve {

/// Serves from construction to stop(). Where all connections that limits allow are taken, the one
/// that has waited longest for its next request makes room; where none waits, the new one is
/// refused (503). Threads: stop() from one thread; the app is called from many.
class HttpServer {
 public:
  /// `app` outlives the server. Errors: kIo (the system refuses a thread or a descriptor).
  HttpServer(Listener listener, HttpApp& app, const HttpLimits& limits);
  ~HttpServer();  // stops at once
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  const Listener& listener() const { return listener_; }
  uint32_t n_connections() const;
  uint32_t n_waiting() const;  // of these, between two requests: what can make room

  /// Listens no more, so that new connections are refused; requests that are at work go on, and
  /// each is the last of its connection.
  void begin_drain();
  /// Waits for so long until every connection has ended, and ends the others. Calls begin_drain().
  void stop(std::chrono::milliseconds timeout);

 private:
  struct Connection {
    int descriptor = -1;
    ConnectionState state;
    std::thread thread;
  };
  using Connections = std::list<std::unique_ptr<Connection>>;

  void accept_connections();
  void accept_one();
  void serve(Connection& connection, const std::string& client);
  /// Ends the connection that has waited longest for a request; false where none does.
  bool evict_waiting();
  void join_ended();

  Listener listener_;
  HttpShared shared_;
  int wake_ = -1;  // readable once the acceptor is to end
  mutable std::mutex mutex_;
  std::condition_variable has_ended_;
  Connections open_, ended_;
  std::thread acceptor_;
};

}  // namespace strata::serve
