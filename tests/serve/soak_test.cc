// Short runs of the soak tool against a process, and that the tool finds what is wrong.
#include "tools/soak/soak.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <memory>
#include <string>

#include "tests/serve/serve_process.h"
#include "tools/makers/random_transformer.h"
#include "tools/serve/http_server.h"
#include "tools/soak/hostile.h"
#include "tools/soak/hostile_case.h"

namespace strata::serve {
namespace {

using std::chrono::milliseconds;

class Soak : public testing::ServedTest {
 protected:
  soak::Target start() {
    makers::RandomTransformer shape;
    shape.n_layers = 1;
    shape.d_model = 64;
    shape.n_heads = 2;
    shape.n_kv_heads = 1;
    shape.head_dim = 32;
    shape.d_ff = 128;
    shape.vocab_size = 320;
    shape.n_ctx = 1024;
    shape.is_tied = false;
    const std::string path = folder_.write("random.gguf", "");
    makers::write_random_transformer(shape, path);
    serve(path, {"--no-cache", "-c", "1024", "--parallel", "3", "--queue", "7"});
    return {.port = port(), .process = process_->id()};
  }
  void expect_ends_well() {
    process_->signal(SIGTERM);
    const cli::testing::Outcome outcome = process_->finish();
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  }
};

TEST_F(Soak, ManyClientsGetTheAnswersOfALoneOne) {
  soak::SoakOptions options;
  options.n_clients = 10;
  options.duration = milliseconds(1000);
  options.n_each_min = 2;  // a slow machine gives some clients no answer in a second
  options.n_common = 2;
  options.n_rare = 10;
  options.n_tokens_max = 24;
  options.slow_pause = milliseconds(5);
  const soak::SoakReport report = soak::run_soak(start(), options);
  EXPECT_EQ(report.findings.count(), 0u) << soak::text_of(report);
  EXPECT_GE(report.answers, 16u);  // each client two, of two of them one
  EXPECT_GT(report.left, 0u);
  EXPECT_GT(report.distinct_answers, 6u);
  EXPECT_NE(soak::text_of(report).find("size not judged"), std::string::npos);
  expect_ends_well();
}

TEST_F(Soak, HostileClientsLeaveNothingAndStopNobody) {
  soak::HostileOptions options;
  options.n_cases = 200;
  options.n_threads = 4;
  options.n_slow = 4;
  const soak::HostileReport report = soak::run_hostile(start(), options);
  EXPECT_EQ(report.findings.count(), 0u) << soak::text_of(report);
  EXPECT_EQ(report.n_cases, 200u);
  EXPECT_EQ(report.n_good, 20u);
  EXPECT_GE(report.statuses.size(), 8u) << soak::text_of(report);
  EXPECT_GT(report.statuses.at(413), 0u) << soak::text_of(report);
  expect_ends_well();
}

TEST(HostileCase, IsTheSameForTheSameSeedAndOfEveryKind) {
  const uint64_t n = soak::n_hostile_kinds();
  for (uint64_t i = 0; i < n; ++i) {
    EXPECT_EQ(soak::hostile_case(5, i).bytes, soak::hostile_case(5, i).bytes);
    EXPECT_EQ(soak::hostile_case(5, i).kind, soak::hostile_case(6, i + n).kind);
    EXPECT_EQ(soak::hostile_case(5, i).kind == soak::hostile_case(5, i + 1).kind, false);
  }
}

TEST(HostileCase, SendsAGigabyteInOneOfManyBodies) {
  uint64_t n_streamed = 0, n_whole = 0;
  for (uint64_t i = 0; i < 32 * soak::n_hostile_kinds(); ++i) {
    const soak::HostileCase made = soak::hostile_case(5, i);
    n_streamed += made.tail.empty() ? 0u : 1u;
    n_whole += made.tail.size() * made.n_tails >= soak::kGigabyte ? 1u : 0u;
  }
  EXPECT_EQ(n_streamed, 32u);
  EXPECT_EQ(n_whole, 2u);
}

enum class Fickle : uint8_t { kOtherWord, kNumber, kFault };

/// Streams an answer with one word in it, and something else from its `n_true`-th answer on.
class FickleApp final : public HttpApp {
 public:
  FickleApp(uint32_t n_true, Fickle then) : n_true_(n_true), then_(then) {}
  std::optional<HttpReply> refuse(const HttpRequest&) override { return std::nullopt; }
  HttpReply answer(HttpRequest& request, const HttpClient&) override {
    HttpReply reply;
    if (request.path == "/metrics") {
      reply.body = "# HELP\nstrata_orders_at_work 0\nstrata_orders_waiting 0\n";
    } else if (request.path == "/v1/completions") {
      const bool is_true = n_++ < n_true_;
      if (!is_true && then_ == Fickle::kFault) return fault(request.path, 500, "fails");
      const char* const other = then_ == Fickle::kNumber ? "5" : "\"other\"";
      reply.parts = std::make_unique<OneWord>(is_true ? "\"true\"" : other);
    }
    return reply;
  }
  HttpReply fault(const std::string&, int status, const std::string& message) override {
    HttpReply reply;
    reply.status = status;
    reply.body = message;
    return reply;
  }
  void on_end(const HttpRequest&, const HttpOutcome&) override {}

 private:
  class OneWord final : public HttpBody {
   public:
    explicit OneWord(std::string body) : json_(std::move(body)) {}
    bool wait_part(std::string& part, milliseconds) override {
      part = fmt::format(
          "data: {{\"choices\":[{{\"text\":{},\"finish_reason\":\"stop\"}}]}}\n\n"
          "data: {{\"choices\":[],\"usage\":{{\"completion_tokens\":1}}}}\n\ndata: [DONE]\n\n",
          json_);
      return false;
    }

   private:
    std::string json_;
  };
  const uint32_t n_true_;
  const Fickle then_;
  std::atomic<uint32_t> n_ = 0;
};

class SoakOfAFickleApp : public ::testing::TestWithParam<Fickle> {};

TEST_P(SoakOfAFickleApp, FindsOtherAnswersAndFailures) {
  ListenAddress address;
  address.port = 0;
  {
    soak::SoakOptions options;
    options.n_clients = 2;
    options.duration = milliseconds(50);
    FickleApp app(options.n_common + options.n_rare, GetParam());
    const HttpServer server(Listener::open(address), app, {});
    const auto report = run_soak({server.listener().port(), ::getpid()}, options);
    ASSERT_GT(report.findings.count(), 0u) << soak::text_of(report);
    EXPECT_EQ(report.answers, 0u);
    const std::map<Fickle, std::string> said = {{Fickle::kOtherWord, "'other'"},
                                                {Fickle::kNumber, "must be string"},
                                                {Fickle::kFault, "status 500"}};
    EXPECT_NE(report.findings.lines()[0].find(said.at(GetParam())), std::string::npos)
        << soak::text_of(report);
  }
  {
    soak::HostileOptions options;
    options.n_cases = 20;
    options.n_slow = 0;
    FickleApp app(1, GetParam());
    const HttpServer server(Listener::open(address), app, {});
    const auto report = run_hostile({server.listener().port(), ::getpid()}, options);
    EXPECT_GE(report.findings.count(), 2u) << soak::text_of(report);
    EXPECT_EQ(report.n_good, 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(All, SoakOfAFickleApp,
                         ::testing::Values(Fickle::kOtherWord, Fickle::kNumber, Fickle::kFault));

}  // namespace
}  // namespace strata::serve
