// tools/soak/socket_client.h - a client of bytes: says just what one wants said, also what no
// library would.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace strata::soak {

struct Reply {
  int status = 0;                              // 0 = the connection ended before
  std::map<std::string, std::string> headers;  // names in small letters
  std::string body;                            // chunks put together
};

/// Over TCP to this machine, or a Unix socket. A server that says nothing for `patience` counts as
/// one that has ended the connection, and on_silence() is told.
class SocketClient {
 public:
  SocketClient(uint16_t port, std::chrono::milliseconds patience);
  SocketClient(const std::string& socket_path, std::chrono::milliseconds patience);
  virtual ~SocketClient();
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
  /// Status and headers alone.
  Reply read_head();
  /// Adds the next chunk of a body in chunks; false behind the last, or where the connection ended.
  bool read_chunk(std::string& out);
  Reply get(std::string_view path, std::string_view headers = "");
  Reply post(std::string_view path, std::string_view body, std::string_view headers = "");
  /// Reads on until all that was read and not yet taken holds `text`, and takes it up to its end.
  std::string read_until(std::string_view text);
  /// False where the connection ended before.
  bool read_exactly(uint64_t n, std::string& out);
  /// Reads until the server ends the connection; what it said.
  std::string read_to_end();
  /// True where the server ends the connection before it sends anything else.
  bool wait_end();
  /// True where something, or the end, can be read within so long.
  bool wait_readable(std::chrono::milliseconds time) const;
  /// Ends the sending side only.
  void close_sending();
  void close();
  /// As a client whose machine is switched off: nothing is said, what comes is refused.
  void reset();

 protected:
  virtual void on_silence() {}

 private:
  bool read_more();
  int descriptor_ = -1;
  std::chrono::milliseconds patience_;
  std::string unread_;
};

}  // namespace strata::soak
