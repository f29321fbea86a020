#include "tools/serve/listener.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"
#include "tests/serve/socket_client.h"
#include "tools/serve/http_server.h"
#include "tools/serve/serve_app.h"

namespace strata::serve {
namespace {

using testing::SocketClient;

std::string refusal_of(const ListenAddress& address) {
  try {
    const Listener listener = Listener::open(address);
    return "";
  } catch (const Error& error) {
    return fmt::format("{} [{}] {}", error.what(), error.where(), error.remedy());
  }
}

TEST(Listener, SaysWhyAnAddressIsNotTaken) {
  ListenAddress address;
  address.port = 0;
  const Listener first = Listener::open(address);
  EXPECT_EQ(first.url(), fmt::format("http://127.0.0.1:{}", first.port()));
  address.port = first.port();
  EXPECT_EQ(refusal_of(address),
            fmt::format("another program listens on 127.0.0.1 port {} [--port] stop it, or take "
                        "another port: --port 0 takes one that is free",
                        first.port()));
  address.host = "192.0.2.1";  // of no machine (RFC 5737)
  address.allows_others = true;
  EXPECT_NE(refusal_of(address).find("no interface of this machine"), std::string::npos);
  address.host = "no name";
  EXPECT_NE(refusal_of(address).find("wanted an address of this machine"), std::string::npos);
}

TEST(Listener, OtherMachinesNeedAKey) {
  ListenAddress address;
  address.port = 0;
  address.host = "0.0.0.0";
  EXPECT_NE(refusal_of(address).find("no key is asked for"), std::string::npos);
  address.allows_others = true;
  EXPECT_FALSE(Listener::open(address).is_loopback());
  for (const char* host : {"localhost", "127.0.0.2"}) {
    address.host = host;
    address.allows_others = false;
    EXPECT_TRUE(Listener::open(address).is_loopback()) << host;
  }
}

TEST(Listener, UnixSocketIsTheOwnersAndReplacesADeadOne) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / fmt::format("serve-{}", ::getpid());
  std::filesystem::create_directories(folder);
  ListenAddress address;
  address.socket_path = folder / "socket";
  {
    ServeApp app({});
    HttpServer server(Listener::open(address), app, {});
    EXPECT_EQ(server.listener().url(), "unix:" + address.socket_path);
    struct stat there = {};
    ASSERT_EQ(::stat(address.socket_path.c_str(), &there), 0);
    EXPECT_EQ(there.st_mode & 0777u, 0600u);
    EXPECT_EQ(SocketClient(address.socket_path).get("/health").status, 503);  // no model yet
    EXPECT_NE(refusal_of(address).find("another program listens"), std::string::npos);
  }
  EXPECT_FALSE(std::filesystem::exists(address.socket_path));
  {  // as kill -9 leaves it
    const int dead = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un place = {};
    place.sun_family = AF_UNIX;
    address.socket_path.copy(place.sun_path, sizeof(place.sun_path) - 1);
    ASSERT_EQ(::bind(dead, reinterpret_cast<sockaddr*>(&place), sizeof(place)), 0);
    ::close(dead);
  }
  EXPECT_EQ(refusal_of(address), "");
  std::ofstream(address.socket_path) << "text";
  EXPECT_NE(refusal_of(address).find("is no socket"), std::string::npos);
  address.socket_path = folder / std::string(200, 'a');
  EXPECT_NE(refusal_of(address).find("wanted a path of at most"), std::string::npos);
  address.socket_path = folder / "no folder" / "socket";
  EXPECT_NE(refusal_of(address).find("No such file"), std::string::npos);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace strata::serve
