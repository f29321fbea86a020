#include "tests/serve/socket_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstring>

namespace strata::serve::testing {
namespace {

constexpr int kPatienceMs = 30000;

template <class Address>
int connected(int family, const Address& address) {
  const int descriptor = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (::connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0)
    return descriptor;
  ::close(descriptor);
  return -1;
}

}  // namespace

SocketClient::SocketClient(uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  descriptor_ = connected(AF_INET, address);
}

SocketClient::SocketClient(const std::string& socket_path) {
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

bool SocketClient::read_more() {
  pollfd source = {descriptor_, POLLIN, 0};
  if (::poll(&source, 1, kPatienceMs) <= 0) {
    ADD_FAILURE() << "the server says nothing";
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

Reply SocketClient::read_reply(bool has_body) {
  Reply reply;
  std::string head = read_until("\r\n\r\n");
  if (!head.starts_with("HTTP/1.1 ")) return reply;
  reply.status = std::atoi(head.c_str() + 9);
  for (size_t begin = head.find("\r\n") + 2; begin + 2 < head.size();) {
    const size_t end = head.find("\r\n", begin);
    const size_t colon = head.find(": ", begin);
    std::string name = head.substr(begin, colon - begin);
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
    reply.headers[name] = head.substr(colon + 2, end - colon - 2);
    begin = end + 2;
  }
  if (!has_body) return reply;
  if (reply.headers.contains("transfer-encoding")) {
    for (;;) {
      const uint64_t n = std::strtoull(read_until("\r\n").c_str(), nullptr, 16);
      std::string end;
      if (!read_exactly(n, reply.body) || !read_exactly(2, end) || n == 0) return reply;
    }
  }
  if (reply.headers.contains("content-length"))
    read_exactly(std::strtoull(reply.headers["content-length"].c_str(), nullptr, 10), reply.body);
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

}  // namespace strata::serve::testing
