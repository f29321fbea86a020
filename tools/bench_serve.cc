// tools/bench_serve.cc - what HTTP and server-sent events cost per token of a streamed answer: a
// server in this process whose tokens cost nothing, one client that reads them over a socket. The
// answer is checked before its time is printed. Figures are of both ends together, so they bound
// the server's from above.
//
//   bench_serve [--tokens N] [--repeats N]
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/seconds_since.h"
#include "tools/cli/bench_index.h"
#include "tools/cli/sample_statistics.h"
#include "tools/serve/http_server.h"
#include "tools/serve/serve_app.h"
#include "tools/soak/questions.h"
#include "tools/soak/socket_client.h"

namespace {

using namespace strata;
using serve::AnswerEvent;

constexpr const char* kToken = " word";

/// Every order's answer is kToken, as often as it asks for tokens.
class FreeTokens final : public serve::AnswerService {
 public:
  const serve::ServiceFacts& facts() const override { return facts_; }
  serve::ServiceCounts counts() const override { return {}; }
  std::vector<engine::LayerBlocks> layer_blocks() const override { return {}; }
  std::unique_ptr<serve::AnswerStream> submit(serve::AnswerOrder order) override {
    return std::make_unique<Stream>(order.n_predict);
  }
  serve::SlotOutcome act_on_slot(const serve::SlotAction&) override {
    return {.end = serve::SlotOutcome::End::kNoSlot};
  }
  std::vector<engine::TokenId> tokenize(std::string_view, bool, bool) const override { return {}; }
  std::string detokenize(const std::vector<engine::TokenId>&) const override { return {}; }
  std::string rendered(const serve::AnswerOrder&) const override { return {}; }
  bool drain(std::chrono::milliseconds) override { return true; }

 private:
  class Stream final : public serve::AnswerStream {
   public:
    explicit Stream(uint64_t n_tokens) : n_tokens_(n_tokens) {}
    bool wait_next(AnswerEvent& out, std::chrono::milliseconds) override {
      const bool is_text = n_told_ < n_tokens_;
      out.kind = is_text ? AnswerEvent::Kind::kText : AnswerEvent::Kind::kEnd;
      if (is_text) out.text = kToken;
      ++n_told_;
      out.usage.completion_tokens = n_tokens_;
      return true;
    }
    void cancel() override {}

   private:
    uint64_t n_tokens_, n_told_ = 0;
  };
  serve::ServiceFacts facts_;
};

/// Whether the events of a reply tell so many tokens and their end.
bool is_whole(std::string_view events, uint32_t n_tokens) {
  uint32_t n_told = 0;
  for (size_t at = 0; (at = events.find(kToken, at)) != std::string_view::npos; ++at) ++n_told;
  return n_told == n_tokens && events.ends_with("data: [DONE]\n\n");
}

/// False where the answer was wrong.
bool time_tokens(uint32_t n_tokens, uint32_t n_repeats) {
  FreeTokens service;
  serve::ServeApp app({});
  app.set_service(service);
  serve::ListenAddress address;
  address.port = 0;
  const serve::HttpServer server(serve::Listener::open(address), app, {});
  soak::SocketClient client(server.listener().port(), std::chrono::seconds(60));
  std::string wanted;
  for (uint32_t i = 0; i < n_tokens; ++i) wanted += kToken;
  const std::string body = soak::question_body("a", n_tokens);
  if (soak::ask(client, body).text != wanted) {
    std::fputs("the answer is not the one that was told\n", stderr);
    return false;
  }
  std::vector<double> wall_us, processor_us;
  std::string answer;
  for (uint32_t i = 0; i < n_repeats; ++i) {
    const double processor = cli::process_cpu_s();
    const auto begin = std::chrono::steady_clock::now();
    client.request("POST", "/v1/completions", body);
    (void)client.read_head();
    for (answer.clear(); client.read_chunk(answer);) {
    }
    const double wall = seconds_since(begin);
    wall_us.push_back(wall / n_tokens * 1e6);
    processor_us.push_back((cli::process_cpu_s() - processor) / n_tokens * 1e6);
    if (!is_whole(answer, n_tokens)) {
      std::fputs("a timed answer is not the one that was told\n", stderr);
      return false;
    }
  }
  std::printf("%u tokens, %zu bytes each; per token %.1f us, processor time %.1f us\n", n_tokens,
              answer.size() / n_tokens, cli::median(wall_us), cli::median(processor_us));
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  uint32_t n_tokens = 10000, n_repeats = 9;
  CLI::App app("Times the streaming of tokens that cost nothing");
  app.add_option("--tokens", n_tokens, "of an answer")->check(CLI::Range(1u, 1000000u));
  app.add_option("--repeats", n_repeats, "answers; figures are medians")
      ->check(CLI::Range(1u, 1000u));
  CLI11_PARSE(app, argc, argv);
  try {
    return time_tokens(n_tokens, n_repeats) ? 0 : 1;
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s [%s]\n", error.what(), error.where().c_str());
    return exit_code(error.code());
  }
}
