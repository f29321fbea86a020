// tests/serve/socket_client.h - the client of bytes of the soak tool, as tests use it.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "tools/soak/socket_client.h"

namespace strata::serve::testing {

using soak::Reply;

/// Every wait ends after 30 s and fails the test: nothing here waits that long in a good run.
class SocketClient final : public soak::SocketClient {
 public:
  explicit SocketClient(uint16_t port) : soak::SocketClient(port, kPatience) {}
  explicit SocketClient(const std::string& socket_path)
      : soak::SocketClient(socket_path, kPatience) {}

 private:
  static constexpr std::chrono::milliseconds kPatience{30000};
  void on_silence() override { ADD_FAILURE() << "the server says nothing"; }
};

}  // namespace strata::serve::testing
