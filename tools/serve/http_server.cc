#include "tools/serve/http_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>

#include "base/error.h"

namespace strata::serve {
namespace {

constexpr std::string_view kTooMany =
    "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    "Content-Length: 0\r\n\r\n";

std::string drawn_prefix() {
  std::random_device draw;
  return fmt::format("{:08x}", draw());
}

std::string address_text(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  const void* host = nullptr;
  if (address.ss_family == AF_INET)
    host = &reinterpret_cast<const sockaddr_in*>(&address)->sin_addr;
  else if (address.ss_family == AF_INET6)
    host = &reinterpret_cast<const sockaddr_in6*>(&address)->sin6_addr;
  if (host != nullptr) (void)::inet_ntop(address.ss_family, host, text, sizeof(text));
  return text;
}

}  // namespace

HttpServer::HttpServer(Listener listener, HttpApp& app, const HttpLimits& limits)
    : listener_(std::move(listener)), shared_{app, limits, drawn_prefix()} {
  wake_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_ < 0)
    throw Error(ErrorCode::kIo, fmt::format("no descriptor is left: {}", std::strerror(errno)), "",
                "raise the limit of open files (ulimit -n)");
  acceptor_ = std::thread([this] { accept_connections(); });
}

HttpServer::~HttpServer() {
  stop(std::chrono::milliseconds(0));
  ::close(wake_);
}

uint32_t HttpServer::n_connections() const {
  const std::lock_guard lock(mutex_);
  return static_cast<uint32_t>(open_.size());
}

uint32_t HttpServer::n_waiting() const {
  const std::lock_guard lock(mutex_);
  return static_cast<uint32_t>(std::ranges::count_if(
      open_, [](const auto& connection) { return connection->state.waits_since != 0; }));
}

void HttpServer::accept_connections() {
  while (!shared_.is_draining) {
    pollfd sources[] = {{listener_.descriptor(), POLLIN, 0}, {wake_, POLLIN, 0}};
    (void)::poll(sources, 2, -1);
    join_ended();
    if (shared_.is_draining) return;
    if (sources[0].revents != 0) accept_one();
  }
}

void HttpServer::accept_one() {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  const int descriptor =
      ::accept4(listener_.descriptor(), reinterpret_cast<sockaddr*>(&address), &size, SOCK_CLOEXEC);
  if (descriptor < 0) {
    // No descriptors: one that waits makes room, which takes its thread a moment.
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
      (void)evict_waiting();
      pollfd pause = {wake_, POLLIN, 0};
      (void)::poll(&pause, 1, 50);
    }
    return;  // else the client has gone already
  }
  const int yes = 1;
  (void)::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  if (n_connections() >= shared_.limits.connections && !evict_waiting()) {
    (void)::send(descriptor, kTooMany.data(), kTooMany.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    ::close(descriptor);
    return;
  }
  try {
    Connections accepted;
    Connection& kept = *accepted.emplace_back(std::make_unique<Connection>());
    kept.descriptor = descriptor;
    kept.state.waits_since = std::chrono::steady_clock::now().time_since_epoch().count();
    const std::lock_guard lock(mutex_);  // its thread ends no sooner than it is in the list
    kept.thread =
        std::thread([this, &kept, client = address_text(address)] { serve(kept, client); });
    open_.splice(open_.end(), accepted);
  } catch (const std::exception&) {  // no thread or no memory is to be had
    ::close(descriptor);
  }
}

void HttpServer::serve(Connection& connection, const std::string& client) {
  serve_connection(connection.descriptor, client, shared_, connection.state);
  const std::lock_guard lock(mutex_);
  ::close(connection.descriptor);  // under the lock: nobody shuts down another's descriptor
  const auto at =
      std::ranges::find_if(open_, [&](const auto& other) { return other.get() == &connection; });
  ended_.splice(ended_.end(), open_, at);
  has_ended_.notify_all();
}

bool HttpServer::evict_waiting() {
  const std::lock_guard lock(mutex_);
  for (;;) {
    Connection* longest = nullptr;
    int64_t since = INT64_MAX;
    for (const auto& connection : open_) {
      const int64_t begin = connection->state.waits_since;
      if (begin == 0 || begin >= since) continue;
      longest = connection.get();
      since = begin;
    }
    if (longest == nullptr) return false;
    // Not twice, and not one whose request has just come: then another.
    if (!longest->state.waits_since.compare_exchange_strong(since, 0)) continue;
    ::shutdown(longest->descriptor, SHUT_RDWR);
    return true;
  }
}

void HttpServer::join_ended() {
  Connections ended;
  {
    const std::lock_guard lock(mutex_);
    ended.swap(ended_);
  }
  for (const auto& connection : ended) connection->thread.join();
}

void HttpServer::begin_drain() {
  shared_.is_draining = true;
  const uint64_t one = 1;
  (void)!::write(wake_, &one, sizeof(one));
  if (acceptor_.joinable()) acceptor_.join();
  listener_.close();
  const std::lock_guard lock(mutex_);
  for (const auto& connection : open_)
    if (connection->state.waits_since != 0) ::shutdown(connection->descriptor, SHUT_RD);
}

void HttpServer::stop(std::chrono::milliseconds timeout) {
  begin_drain();
  {
    std::unique_lock lock(mutex_);
    has_ended_.wait_for(lock, timeout, [this] { return open_.empty(); });
    for (const auto& connection : open_) ::shutdown(connection->descriptor, SHUT_RDWR);
    has_ended_.wait(lock, [this] { return open_.empty(); });
  }
  join_ended();
}

}  // namespace strata::serve
