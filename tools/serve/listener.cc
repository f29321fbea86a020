#include "tools/serve/listener.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "base/error.h"

namespace strata::serve {
namespace {

constexpr int kQueueLength = 512;  // connections that wait to be accepted

[[noreturn]] void fail_port(int error, const ListenAddress& address) {
  const std::string place = fmt::format("{} port {}", address.host, address.port);
  if (error == EADDRINUSE)
    throw Error(ErrorCode::kIo, "another program listens on " + place, "--port",
                "stop it, or take another port: --port 0 takes one that is free");
  if (error == EACCES || error == EPERM)
    throw Error(ErrorCode::kIo, "no right to listen on " + place, "--port",
                "ports below 1024 belong to the system: take another, such as --port 8080");
  if (error == EADDRNOTAVAIL)
    throw Error(ErrorCode::kIo, "no interface of this machine has the address " + address.host,
                "--host", "127.0.0.1 is this machine alone, 0.0.0.0 every interface");
  throw Error(ErrorCode::kIo, fmt::format("cannot listen on {}: {}", place, std::strerror(error)),
              "--host");
}

bool is_loopback_address(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    in_addr host = {};
    std::memcpy(&host, &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, sizeof(host));
    return (ntohl(host.s_addr) >> 24) == 127;
  }
  if (address->sa_family != AF_INET6) return false;
  return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr) != 0;
}

uint16_t bound_port(int descriptor) {
  sockaddr_storage bound = {};
  socklen_t size = sizeof(bound);
  if (::getsockname(descriptor, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return 0;
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
}

/// True where a program listens on this socket file.
bool is_listened_on(const sockaddr_un& place) {
  const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (probe < 0) return false;
  const int failed = ::connect(probe, reinterpret_cast<const sockaddr*>(&place), sizeof(place));
  const int error = errno;
  ::close(probe);
  return failed == 0 || (error != ECONNREFUSED && error != ENOENT);
}

}  // namespace

Listener::Listener(Listener&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      port_(other.port_),
      is_loopback_(other.is_loopback_),
      url_(std::move(other.url_)),
      socket_path_(std::exchange(other.socket_path_, {})) {}

Listener::~Listener() { close(); }

void Listener::close() {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  const std::string path = std::exchange(socket_path_, {});
  if (!path.empty()) ::unlink(path.c_str());
}

Listener Listener::open(const ListenAddress& address) {
  Listener listener;
  if (address.socket_path.empty())
    listener.open_port(address);
  else
    listener.open_unix(address);
  return listener;
}

void Listener::open_port(const ListenAddress& address) {
  std::string host = address.host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failed =
      ::getaddrinfo(host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (failed != 0)
    throw Error(ErrorCode::kIo,
                fmt::format("wanted an address of this machine, found '{}': {}", address.host,
                            ::gai_strerror(failed)),
                "--host", "127.0.0.1 is this machine alone, 0.0.0.0 every interface");
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> kept(found, ::freeaddrinfo);
  is_loopback_ = is_loopback_address(found->ai_addr);
  if (!is_loopback_ && !address.allows_others)
    throw Error(ErrorCode::kUsage,
                fmt::format("other machines reach {}, and no key is asked for", address.host),
                "--host", "add --api-key-file FILE, or listen on 127.0.0.1");
  descriptor_ = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor_ < 0) fail_port(errno, address);
  // A port of connections that have just ended may be taken again; one that is listened on not.
  const int yes = 1;
  (void)::setsockopt(descriptor_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (::bind(descriptor_, found->ai_addr, found->ai_addrlen) != 0 ||
      ::listen(descriptor_, kQueueLength) != 0)
    fail_port(errno, address);
  port_ = bound_port(descriptor_);
  url_ = found->ai_family == AF_INET6 ? fmt::format("http://[{}]:{}", host, port_)
                                      : fmt::format("http://{}:{}", host, port_);
}

void Listener::open_unix(const ListenAddress& address) {
  const std::string& path = address.socket_path;
  sockaddr_un place = {};
  place.sun_family = AF_UNIX;
  if (path.size() >= sizeof(place.sun_path))
    throw Error(ErrorCode::kUsage,
                fmt::format("wanted a path of at most {} bytes, found {}",
                            sizeof(place.sun_path) - 1, path.size()),
                "--socket", "put it into a folder with a shorter name");
  std::memcpy(place.sun_path, path.data(), path.size());
  struct stat there = {};
  if (::lstat(path.c_str(), &there) == 0) {
    if (!S_ISSOCK(there.st_mode))
      throw Error(ErrorCode::kIo, fmt::format("{} is there and is no socket", path), "--socket",
                  "name another path");
    if (is_listened_on(place))
      throw Error(ErrorCode::kIo, fmt::format("another program listens on {}", path), "--socket",
                  "stop it, or name another path");
    ::unlink(path.c_str());
  }
  descriptor_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool is_bound = descriptor_ >= 0 && ::bind(descriptor_, reinterpret_cast<sockaddr*>(&place),
                                                   sizeof(place)) == 0;
  if (is_bound) socket_path_ = path;
  // Nobody connects before listen(), so nobody does with wider rights than these.
  if (!is_bound || ::chmod(path.c_str(), 0600) != 0 || ::listen(descriptor_, kQueueLength) != 0) {
    const int error = errno;
    throw Error(ErrorCode::kIo, fmt::format("cannot listen on {}: {}", path, std::strerror(error)),
                "--socket", "name a path in a folder that you may write to");
  }
  url_ = "unix:" + path;
}

}  // namespace strata::serve
