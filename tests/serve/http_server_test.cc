// The server over real sockets, with an app that is a script.
#include "tools/serve/http_server.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "tests/serve/socket_client.h"
#include "tests/serve/wait_until.h"

namespace strata::serve {
namespace {

using std::chrono::milliseconds;
using testing::Reply;
using testing::SocketClient;
using testing::wait_until;

constexpr milliseconds kHttpPatience = std::chrono::seconds(30);

/// A place where threads meet: what happened, in words.
class Meeting {
 public:
  void say(const std::string& word) {
    const std::lock_guard lock(mutex_);
    said_.push_back(word);
    changed_.notify_all();
  }
  bool wait_for(const std::string& word, size_t n = 1) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kHttpPatience, [&] {
      return static_cast<size_t>(std::ranges::count(said_, word)) >= n;
    });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> said_;
};

/// Parts that the test gives; "end" is the last.
class ToldBody final : public HttpBody {
 public:
  ToldBody(Meeting& meeting, std::string last) : meeting_(meeting), last_(std::move(last)) {}
  ~ToldBody() override { meeting_.say("dropped"); }
  bool wait_part(std::string& part, milliseconds) override {
    if (n_++ == 0) {
      part = "first";
      return true;
    }
    if (last_.empty()) return true;  // never ends
    if (!meeting_.wait_for("go")) return false;
    part = last_;
    return false;
  }

 private:
  Meeting& meeting_;
  std::string last_;
  int n_ = 0;
};

/// /echo gives the body back, /parts comes in two, /endless never ends, /flood is more than sockets
/// hold, /wait waits for the client to go.
class ScriptedApp final : public HttpApp {
 public:
  std::optional<HttpReply> refuse(const HttpRequest& head) override {
    if (head.path == "/refused") return fault(head.path, 401, "refused");
    return std::nullopt;
  }
  HttpReply answer(HttpRequest& request, const HttpClient& client) override {
    HttpReply reply;
    if (request.path == "/throws") throw Error(ErrorCode::kIo, "the disk is gone");
    if (request.path == "/parts") reply.parts = std::make_unique<ToldBody>(meeting, "last");
    if (request.path == "/endless") reply.parts = std::make_unique<ToldBody>(meeting, "");
    if (request.path == "/flood") reply.body.assign(size_t{64} << 20, 'x');
    if (request.path == "/drops") request.drop_body();
    if (request.path == "/wait" || request.path == "/drops") {
      meeting.say("waits");
      (void)wait_until([&] { return client.is_gone(); }, kHttpPatience);
      meeting.say("gone");
    }
    if (reply.body.empty())
      reply.body = request.body + std::string(request.parameter("say").value_or(""));
    return reply;
  }
  HttpReply fault(const std::string& path, int status, const std::string& message) override {
    HttpReply reply;
    reply.status = status;
    reply.body = fmt::format("{} {}", path, message);
    return reply;
  }
  void on_end(const HttpRequest& request, const HttpOutcome& outcome) override {
    meeting.say(fmt::format("{} {}", request.path, outcome.status));
    if (!outcome.is_whole) meeting.say(request.path + " is not all taken");
  }
  Meeting meeting;
};

class HttpServerTest : public ::testing::Test {
 protected:
  void start(const HttpLimits& limits = {}) {
    ListenAddress address;
    address.port = 0;
    server_.emplace(Listener::open(address), app_, limits);
  }
  uint16_t port() const { return server_->listener().port(); }
  ScriptedApp app_;
  std::optional<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersRequestsOfOneConnectionOneAfterTheOther) {
  start();
  SocketClient client(port());
  EXPECT_EQ(client.post("/echo", "one").body, "one");
  EXPECT_EQ(client.get("/echo?say=two%20words").body, "two words");
  EXPECT_EQ(client.post("/echo", "three", "Range: bytes=0-1\r\nAccept-Encoding: gzip\r\n").body,
            "three");
  client.request("HEAD", "/echo?say=x");
  EXPECT_EQ(client.read_reply(false).headers["content-length"], "1");
  // Two at once, which wait in the socket.
  client.request("GET", "/echo?say=a");
  client.request("GET", "/echo?say=b");
  EXPECT_EQ(client.read_reply().body, "a");
  EXPECT_EQ(client.read_reply().body, "b");
  EXPECT_EQ(server_->n_connections(), 1u);
}

TEST_F(HttpServerTest, EveryRequestHasAnIdOfItsOwn) {
  start();
  SocketClient client(port());
  const std::string first = client.get("/echo").headers["x-request-id"];
  EXPECT_FALSE(first.empty());
  EXPECT_NE(client.get("/echo").headers["x-request-id"], first);
}

TEST_F(HttpServerTest, PartsAreSentAsTheyCome) {
  start();
  SocketClient client(port());
  client.request("GET", "/parts");
  EXPECT_NE(client.read_until("first\r\n"), "");
  app_.meeting.say("go");
  EXPECT_NE(client.read_until("last\r\n0\r\n\r\n"), "");
  EXPECT_EQ(client.get("/echo?say=x").body, "x");
}

TEST_F(HttpServerTest, PartsForAnOldClientEndWithTheConnection) {
  start();
  SocketClient client(port());
  client.send("GET /parts HTTP/1.0\r\n\r\n");
  app_.meeting.say("go");
  EXPECT_TRUE(client.read_until("firstlast").find("chunked") == std::string::npos);
  EXPECT_TRUE(client.wait_end());
}

TEST_F(HttpServerTest, OldClientThatAsksToStayIsLetGo) {
  start();
  SocketClient client(port());
  client.send("GET /parts HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
  app_.meeting.say("go");
  EXPECT_NE(client.read_until("firstlast").find("Connection: close"), std::string::npos);
  EXPECT_TRUE(client.wait_end());
}

TEST_F(HttpServerTest, PartsAreDroppedWhereTheClientGoes) {
  start();
  SocketClient client(port());
  client.request("GET", "/endless");
  client.read_until("first");
  client.close();
  EXPECT_TRUE(app_.meeting.wait_for("dropped"));
}

TEST_F(HttpServerTest, HalfClosedClientCountsAsGone) {
  start();
  SocketClient client(port());
  client.request("GET", "/wait");
  EXPECT_TRUE(app_.meeting.wait_for("waits"));
  client.close_sending();
  EXPECT_TRUE(app_.meeting.wait_for("gone"));
}

TEST_F(HttpServerTest, FailureOfTheAppIsAReply) {
  start();
  SocketClient client(port());
  const Reply reply = client.get("/throws");
  EXPECT_EQ(reply.status, 500);
  EXPECT_EQ(reply.body, "/throws the disk is gone");
  EXPECT_EQ(client.get("/echo?say=x").body, "x");
}

struct BadRequest {
  std::string bytes;
  int status;
};

std::string repeated(std::string_view text, size_t n) {
  std::string out;
  for (size_t i = 0; i < n; ++i) out += text;
  return out;
}

TEST_F(HttpServerTest, WhatIsNoGoodRequestIsRefusedAndTheConnectionEnds) {
  HttpLimits limits;
  limits.body_bytes = 1000;
  limits.linger = milliseconds(0);
  start(limits);
  const std::string post = "POST /echo HTTP/1.1\r\nHost: x\r\n";
  const std::vector<BadRequest> cases = {
      {"nonsense\r\n\r\n", 400},
      {"BREW / HTTP/1.1\r\n\r\n", 400},
      {"GET / HTTP/9\r\n\r\n", 400},
      {"GET /" + std::string(9000, 'a') + " HTTP/1.1\r\n\r\n", 414},
      {"GET / HTTP/1.1\r\nX: " + std::string(9000, 'a') + "\r\n\r\n", 400},
      {"GET /echo HTTP/1.1\nHost: x\n\n", 400},
      {"GET /echo HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", 400},
      {"GET /echo HTTP/1.1\r\nX: a\rb\r\n\r\n", 400},
      {"GET /echo HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400},
      {"GET /echo HTTP/1.1\r\nHost:\r\nhost: x\r\n\r\n", 400},
      {"GET /echo HTTP/1.1\r\nno header\r\n\r\n", 400},
      {"GET /echo HTTP/1.1\r\n: no name\r\n\r\n", 400},
      {"GET /echo HTTP/1.1\r\nRange: bytes=-" + repeated(",-", 4000) + "\r\n\r\n", 400},
      {post + "Content-Length : 5\r\n\r\nabcde", 400},
      {post + " Content-Length: 5\r\n\r\nabcde", 400},
      {post + "X: folded,\r\n Content-Length: 5\r\n\r\nabcde", 400},
      {post + "\r\nGET /echo HTTP/1.1\r\n\r\n", 411},
      {post + "Content-Length: 1073741824\r\n\r\n", 413},
      {post + "Content-Length: 99999999999999999999999\r\n\r\n", 413},
      {post + "Content-Length: -1\r\n\r\n", 400},
      {post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde", 400},
      {post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nabcde", 400},
      {post + "Transfer-Encoding: gzip\r\n\r\n", 501},
      {post + "Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde", 415},
      {post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {post + "Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + std::string(2000, 'a'), 413},
      {post + "Transfer-Encoding: chunked\r\n\r\n-2\r\n" + std::string(8000, 'a'), 413},
      {"POST /refused HTTP/1.1\r\nContent-Length: 10\r\n\r\n", 401},
      {"POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n", 413},
      {"GET /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde", 200}};
  for (const BadRequest& bad : cases) {
    SocketClient client(port());
    client.send(bad.bytes);
    const Reply reply = client.read_reply();
    EXPECT_EQ(reply.status, bad.status) << bad.bytes.substr(0, 100) << "\n" << reply.body;
    EXPECT_TRUE(client.wait_end()) << bad.bytes.substr(0, 100);
  }
  SocketClient client(port());
  EXPECT_EQ(client.get("/echo?say=x").body, "x");
}

TEST_F(HttpServerTest, HeadMayComeByteByByteAndBeforeTheNext) {
  start();
  SocketClient client(port());
  const std::string_view head = "GET /echo?say=x HTTP/1.1\r\nHost: x\r\nX:\t\xc3\xa4\r\n\r\n";
  for (const char c : head) client.send({&c, 1});
  EXPECT_EQ(client.read_reply().body, "x");
  client.send(repeated(head, 1000));  // which is more than one head may be
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(client.read_reply().body, "x");
}

TEST_F(HttpServerTest, WhatFollowsChunksIsNoRequest) {
  start();
  // Sizes and ends that the library takes, and that others read otherwise.
  for (const char* body : {"3\r\nabc", "0x3\r\nabc\r\n0\r\n\r\n", "+3\r\nabc\r\n0\r\n\r\n"}) {
    SocketClient client(port());
    client.send(
        fmt::format("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}"
                    "GET /echo?say=smuggled HTTP/1.1\r\n\r\n",
                    body));
    EXPECT_EQ(client.read_reply().headers["connection"], "close") << body;
    EXPECT_TRUE(client.wait_end()) << body;
  }
}

TEST_F(HttpServerTest, ChunkedBodyIsPutTogether) {
  start();
  SocketClient client(port());
  client.send("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n");
  client.send("0\r\n\r\n");
  EXPECT_EQ(client.read_reply().body, "abcde");
  EXPECT_TRUE(client.wait_end());
}

TEST_F(HttpServerTest, HeadThatIsTooLongIsRefused) {
  start();
  SocketClient client(port());
  client.send("GET / HTTP/1.1\r\n");
  for (int i = 0; i < 400; ++i) client.send("X-Padding: " + std::string(40, 'a') + "\r\n");
  EXPECT_EQ(client.read_reply().status, 431);
}

TEST_F(HttpServerTest, SlowHeadAndSlowBodyAreGivenUp) {
  HttpLimits limits;
  limits.body = milliseconds(300);
  limits.linger = milliseconds(0);
  start(limits);
  SocketClient slow_body(port());
  slow_body.send("POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nab");
  EXPECT_EQ(slow_body.read_reply().status, 408);
  limits = {};
  limits.first = milliseconds(300);
  start(limits);
  SocketClient silent(port());
  EXPECT_TRUE(silent.wait_end());
  limits = {};
  limits.head = milliseconds(300);
  limits.linger = milliseconds(0);
  start(limits);
  SocketClient slow_head(port()), slow_line(port());
  slow_head.send("GET / HTTP/1.1\r\nX: ");
  slow_line.send("GET /");
  EXPECT_EQ(slow_head.read_reply().status, 408);
  EXPECT_TRUE(slow_line.wait_end());
}

TEST_F(HttpServerTest, ClientThatAsksNothingMoreIsLetGo) {
  HttpLimits limits;
  limits.idle = milliseconds(300);
  start(limits);
  SocketClient client(port());
  EXPECT_EQ(client.get("/echo?say=x").body, "x");
  EXPECT_TRUE(client.wait_end());
}

TEST_F(HttpServerTest, ClientThatDoesNotReadItsReplyIsGivenUp) {
  HttpLimits limits;
  limits.body = milliseconds(300);
  start(limits);
  SocketClient client(port());
  client.request("GET", "/flood");
  EXPECT_TRUE(app_.meeting.wait_for("/flood is not all taken"));
}

TEST_F(HttpServerTest, RefusedClientThatKeepsSendingMakesRoom) {
  HttpLimits limits;
  limits.connections = 1;
  limits.linger = std::chrono::minutes(10);
  start(limits);
  SocketClient refused(port());
  refused.send("POST /refused HTTP/1.1\r\nContent-Length: 10\r\n\r\n");
  EXPECT_EQ(refused.read_reply().status, 401);
  EXPECT_TRUE(refused.wait_end());  // it is read on
  EXPECT_EQ(SocketClient(port()).get("/echo?say=x").body, "x");
}

TEST_F(HttpServerTest, AnswerInPartsFreesTheRoomOfItsBody) {
  HttpLimits limits;
  limits.all_bodies_bytes = 10;
  start(limits);
  SocketClient streamed(port()), chunked(port());
  streamed.request("POST", "/parts", "12345678");
  EXPECT_NE(streamed.read_until("first"), "");
  // Of a body in chunks only what has come counts.
  chunked.send("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
  EXPECT_EQ(SocketClient(port()).post("/echo", "12345678").status, 200);
  chunked.send("a\r\n1234567890\r\n");
  EXPECT_EQ(chunked.read_reply().status, 503);
  app_.meeting.say("go");
}

TEST_F(HttpServerTest, BodiesThatAreTooLargeTogetherAreRefused) {
  HttpLimits limits;
  limits.all_bodies_bytes = 10;
  start(limits);
  SocketClient first(port()), second(port());
  first.send("POST /wait HTTP/1.1\r\nContent-Length: 8\r\n\r\n12345678");
  EXPECT_TRUE(app_.meeting.wait_for("waits"));
  EXPECT_EQ(second.post("/echo", "12345678").status, 503);
  first.close();
  EXPECT_TRUE(app_.meeting.wait_for("/wait 200"));
  EXPECT_EQ(SocketClient(port()).post("/echo", "12345678").status, 200);
}

TEST_F(HttpServerTest, BodyThatIsDroppedMakesRoomBeforeItsAnswer) {
  HttpLimits limits;
  limits.all_bodies_bytes = 10;
  start(limits);
  SocketClient first(port());
  first.request("POST", "/drops", "12345678");
  EXPECT_TRUE(app_.meeting.wait_for("waits"));
  EXPECT_EQ(SocketClient(port()).post("/echo", "12345678").status, 200);
  first.close();
  EXPECT_TRUE(app_.meeting.wait_for("/drops 200"));
}

TEST_F(HttpServerTest, IdleConnectionsMakeRoomAndBusyOnesDoNot) {
  HttpLimits limits;
  limits.connections = 3;
  start(limits);
  SocketClient idle(port());
  EXPECT_EQ(idle.get("/echo?say=x").body, "x");
  // A reply is read before its connection waits again: the longest of all, from here on.
  ASSERT_TRUE(wait_until([this] { return server_->n_waiting() >= 1; }, kHttpPatience));
  SocketClient busy(port()), other(port());
  busy.request("GET", "/wait");
  EXPECT_TRUE(app_.meeting.wait_for("waits"));
  EXPECT_EQ(other.get("/echo?say=x").body, "x");
  ASSERT_TRUE(wait_until([this] { return server_->n_waiting() >= 2; }, kHttpPatience));
  SocketClient fourth(port());  // the one that has waited longest is gone
  EXPECT_EQ(fourth.get("/echo?say=y").body, "y");
  EXPECT_TRUE(idle.wait_end());
  other.request("GET", "/wait");
  fourth.request("GET", "/wait");
  EXPECT_TRUE(app_.meeting.wait_for("waits", 3));
  EXPECT_EQ(SocketClient(port()).get("/echo").status, 503);
}

TEST_F(HttpServerTest, ManyClientsAreServedAtOnce) {
  start();
  constexpr size_t kClients = 128;
  std::vector<std::unique_ptr<SocketClient>> clients;
  for (size_t i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<SocketClient>(port()));
    clients.back()->request("GET", "/parts");
  }
  for (auto& client : clients) EXPECT_NE(client->read_until("first"), "");
  app_.meeting.say("go");
  for (auto& client : clients) EXPECT_NE(client->read_until("last"), "");
  EXPECT_EQ(server_->n_connections(), kClients);
}

TEST_F(HttpServerTest, DrainLetsRequestsEndAndTakesNoOther) {
  start();
  const uint16_t at = port();
  SocketClient idle(at), busy(at);
  EXPECT_EQ(idle.get("/echo?say=x").body, "x");
  busy.request("GET", "/parts");
  busy.read_until("first");
  server_->begin_drain();
  EXPECT_TRUE(idle.wait_end());
  EXPECT_FALSE(SocketClient(at).is_connected());
  app_.meeting.say("go");
  EXPECT_NE(busy.read_until("last\r\n0\r\n\r\n"), "");
  EXPECT_TRUE(busy.wait_end());
  server_->stop(kHttpPatience);
  EXPECT_EQ(server_->n_connections(), 0u);
}

TEST_F(HttpServerTest, StopEndsWhatDoesNotEndInTime) {
  start();
  SocketClient client(port());
  client.request("GET", "/endless");
  client.read_until("first");
  server_->stop(milliseconds(0));
  EXPECT_TRUE(app_.meeting.wait_for("dropped"));
}

}  // namespace
}  // namespace strata::serve
