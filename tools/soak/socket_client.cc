#include "tools/soak/socket_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace strata::soak {
namespace {

template <class Address>
int connected(int family, const Address& address) {
  const int descriptor = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return -1;
  if (::connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0)
    return descriptor;
  ::close(descriptor);
  return -1;
}

}  // namespace

SocketClient::SocketClient(uint16_t port, std::chrono::milliseconds patience)
    : patience_(patience) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  descriptor_ = connected(AF_INET, address);
}

SocketClient::SocketClient(const std::string& socket_path, std::chrono::milliseconds patience)
    : patience_(patience) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_path.data(),
              std::min(socket_path.size(), sizeof(address.sun_path) - 1));
  descriptor_ = connected(AF_UNIX, address);
}

SocketClient::~SocketClient() { close(); }

void SocketClient::close() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

void SocketClient::reset() {
  const linger at_once = {1, 0};
  ::setsockopt(descriptor_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  close();
}

void SocketClient::close_sending() { ::shutdown(descriptor_, SHUT_WR); }

bool SocketClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

bool SocketClient::request(std::string_view method, std::string_view path, std::string_view body,
                           std::string_view headers) {
  std::string text = fmt::format("{} {} HTTP/1.1\r\nHost: localhost\r\n{}", method, path, headers);
  if (!body.empty())
    text += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", body.size());
  return send(text + "\r\n" + std::string(body));
}

bool SocketClient::wait_readable(std::chrono::milliseconds time) const {
  pollfd source = {descriptor_, POLLIN, 0};
  return ::poll(&source, 1, static_cast<int>(time.count())) > 0;
}

bool SocketClient::read_more() {
  if (!wait_readable(patience_)) {
    on_silence();
    return false;
  }
  char bytes[16384];
  const ssize_t n = ::recv(descriptor_, bytes, sizeof(bytes), 0);
  if (n <= 0) return false;
  unread_.append(bytes, static_cast<size_t>(n));
  return true;
}

std::string SocketClient::read_until(std::string_view text) {
  for (;;) {
    const size_t at = unread_.find(text);
    if (at != std::string::npos) {
      std::string taken = unread_.substr(0, at + text.size());
      unread_.erase(0, taken.size());
      return taken;
    }
    if (!read_more()) return "";
  }
}

bool SocketClient::read_exactly(uint64_t n, std::string& out) {
  while (unread_.size() < n)
    if (!read_more()) return false;
  out.append(unread_, 0, n);
  unread_.erase(0, n);
  return true;
}

bool SocketClient::wait_end() {
  const size_t n_before = unread_.size();
  while (unread_.size() == n_before)
    if (!read_more()) return true;
  return false;
}

std::string SocketClient::read_to_end() {
  while (read_more()) {
  }
  return std::exchange(unread_, {});
}

Reply SocketClient::read_head() {
  Reply reply;
  std::string head = read_until("\r\n\r\n");
  if (!head.starts_with("HTTP/1.1 ")) return reply;
  reply.status = static_cast<int>(std::strtol(head.c_str() + 9, nullptr, 10));
  for (size_t begin = head.find("\r\n") + 2; begin + 2 < head.size();) {
    const size_t end = head.find("\r\n", begin);
    const size_t colon = head.find(": ", begin);
    std::string name = head.substr(begin, colon - begin);
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
    reply.headers[name] = head.substr(colon + 2, end - colon - 2);
    begin = end + 2;
  }
  return reply;
}

bool SocketClient::read_chunk(std::string& out) {
  const uint64_t n = std::strtoull(read_until("\r\n").c_str(), nullptr, 16);
  std::string end;
  return read_exactly(n, out) && read_exactly(2, end) && n > 0;
}

Reply SocketClient::read_reply(bool has_body) {
  Reply reply = read_head();
  if (!has_body) return reply;
  if (reply.headers.contains("transfer-encoding")) {
    while (read_chunk(reply.body)) {
    }
  } else if (reply.headers.contains("content-length")) {
    read_exactly(std::strtoull(reply.headers["content-length"].c_str(), nullptr, 10), reply.body);
  }
  return reply;
}

Reply SocketClient::get(std::string_view path, std::string_view headers) {
  request("GET", path, "", headers);
  return read_reply();
}

Reply SocketClient::post(std::string_view path, std::string_view body, std::string_view headers) {
  request("POST", path, body, headers);
  return read_reply();
}

}  // namespace strata::soak
