// tests/serve/socket_client.h - a client of bytes: says just what a test wants said, also what no
// library would.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace strata::serve::testing {

struct Reply {
  int status = 0;                              // 0 = the connection ended before
  std::map<std::string, std::string> headers;  // names in small letters
  std::string body;                            // chunks put together
};

/// Every wait ends after 30 s and fails the test: nothing here waits that long in a good run.
class SocketClient {
 public:
  explicit SocketClient(uint16_t port);
  explicit SocketClient(const std::string& socket_path);
  ~SocketClient();
  SocketClient(const SocketClient&) = delete;
  SocketClient& operator=(const SocketClient&) = delete;

  bool is_connected() const { return descriptor_ >= 0; }
  /// False where the server has closed the connection.
  bool send(std::string_view bytes);
  /// "METHOD PATH HTTP/1.1" with Host and, where there is a body, its type and length; `headers`
  /// are whole lines ("X-Name: value\r\n").
  bool request(std::string_view method, std::string_view path, std::string_view body = "",
               std::string_view headers = "");
  Reply read_reply(bool has_body = true);
  Reply get(std::string_view path, std::string_view headers = "");
  Reply post(std::string_view path, std::string_view body, std::string_view headers = "");
  /// Reads on until all that was read and not yet taken holds `text`, and takes it up to its end.
  std::string read_until(std::string_view text);
  /// True where the server ends the connection before it sends anything else.
  bool wait_end();
  /// Ends the sending side only.
  void close_sending();
  void close();

 private:
  bool read_more();
  bool read_exactly(uint64_t n, std::string& out);
  int descriptor_ = -1;
  std::string unread_;
};

}  // namespace strata::serve::testing
