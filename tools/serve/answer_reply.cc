#include "tools/serve/answer_reply.h"

#include <chrono>

#include "base/seconds_since.h"

namespace strata::serve {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kLook{250};               // how long a departure of the client goes unseen
constexpr std::chrono::seconds kQuiet{15};       // behind it a comment goes out
constexpr std::string_view kComment = ": \n\n";  // server-sent events: a line that says nothing
constexpr int kClientGone = 499;                 // nginx's; nobody reads it but the log

bool is_last(const AnswerEvent& event) {
  return event.kind == AnswerEvent::Kind::kEnd || event.kind == AnswerEvent::Kind::kError;
}

/// The events of one order, timed as they pass.
class TimedStream {
 public:
  TimedStream(std::unique_ptr<AnswerStream> stream, ServeMetrics& metrics)
      : stream_(std::move(stream)), metrics_(metrics), begin_(Clock::now()) {}

  bool wait_next(AnswerEvent& event, milliseconds timeout) {
    event = {};
    if (!stream_->wait_next(event, timeout)) return false;
    const double seconds = seconds_since(begin_);
    if (event.kind == AnswerEvent::Kind::kText && !has_text_) {
      has_text_ = true;
      metrics_.add_first_token(seconds);
    }
    if (event.kind == AnswerEvent::Kind::kEnd) {
      metrics_.add_whole_answer(seconds);
      if (event.times.n_decode_tokens > 0) metrics_.add_token(event.times.tpot_ms() / 1000);
    }
    return true;
  }

 private:
  std::unique_ptr<AnswerStream> stream_;
  ServeMetrics& metrics_;
  Clock::time_point begin_;
  bool has_text_ = false;
};

class EventBody final : public HttpBody {
 public:
  EventBody(TimedStream stream, std::unique_ptr<ApiResponse> response)
      : stream_(std::move(stream)), response_(std::move(response)), sent_(Clock::now()) {}

  bool wait_part(std::string& part, milliseconds timeout) override {
    AnswerEvent event;
    bool goes_on = true;
    if (stream_.wait_next(event, timeout)) {
      part = response_->push(event);
      goes_on = !is_last(event);
      if (!goes_on) part += response_->finish();
    } else if (Clock::now() - sent_ >= kQuiet) {
      part = kComment;
    }
    if (!part.empty()) sent_ = Clock::now();
    return goes_on;
  }

 private:
  TimedStream stream_;
  std::unique_ptr<ApiResponse> response_;
  Clock::time_point sent_;
};

}  // namespace

HttpReply answer_reply(AnswerService& service, ApiRequest request, BodyShare body_share,
                       const ApiIdentity& identity, ServeMetrics& metrics,
                       const HttpClient& client) {
  auto response = make_response(request, identity);
  TimedStream stream(service.submit(std::move(request.order)), metrics);
  body_share.release();
  HttpReply reply;
  if (request.is_streamed) {
    reply.content_type = "text/event-stream";
    reply.headers.emplace_back("Cache-Control", "no-cache");
    reply.headers.emplace_back("X-Accel-Buffering", "no");  // or nginx holds events back
    reply.parts = std::make_unique<EventBody>(std::move(stream), std::move(response));
    return reply;
  }
  AnswerEvent event;
  for (;;) {
    if (stream.wait_next(event, kLook)) {
      (void)response->push(event);
      if (is_last(event)) break;
    }
    if (client.is_gone()) {
      reply.status = kClientGone;
      return reply;
    }
  }
  reply.body = response->finish();
  reply.status = response->status();
  return reply;
}

}  // namespace strata::serve
