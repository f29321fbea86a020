#include "tools/serve/http_connection.h"

#include <fmt/format.h>
#include <httplib.h>

#include <charconv>
#include <utility>

#include "base/seconds_since.h"
#include "tools/serve/http_head.h"
#include "tools/serve/socket_stream.h"

namespace strata::serve {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// How long a departure of the client may go unseen.
constexpr milliseconds kLook{250};

/// A socket as the library takes one.
class LibraryStream final : public httplib::Stream {
 public:
  LibraryStream(SocketStream& socket, std::string client)
      : socket_(socket), client_(std::move(client)) {}
  bool is_readable() const override { return socket_.has_unread(); }
  bool is_writable() const override { return !socket_.is_gone(); }
  ssize_t read(char* out, size_t size) override { return socket_.read(out, size); }
  ssize_t write(const char* bytes, size_t size) override { return socket_.write(bytes, size); }
  void get_remote_ip_and_port(std::string& ip, int& port) const override {
    ip = client_;
    port = 0;
  }
  void get_local_ip_and_port(std::string& ip, int& port) const override {
    ip.clear();
    port = 0;
  }
  // The library refuses descriptors that select() could not take, and uses this for nothing else.
  socket_t socket() const override { return 0; }

 private:
  SocketStream& socket_;
  std::string client_;
};

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

/// A reply to what is no good request.
struct RequestFault {
  int status;
  const char* why;
};

constexpr RequestFault kBodiesTooLarge = {503, "too many large requests at once"};

/// What a request says about the size of its body.
struct BodySize {
  int refusal = 0;  // a status, or 0
  const char* why = "";
  bool is_chunked = false;
  uint64_t bytes = 0;
};

BodySize body_size(const httplib::Request& request, uint64_t most_bytes) {
  if (request.has_header("Content-Encoding"))
    return {415, "a compressed body is not taken: it may be small and hold anything"};
  const size_t n_lengths = request.get_header_value_count("Content-Length");
  if (request.has_header("Transfer-Encoding")) {
    // Two statements of one size are how requests are smuggled past a proxy.
    if (n_lengths > 0 || request.get_header_value_count("Transfer-Encoding") > 1)
      return {400, "a body has one length: Content-Length or Transfer-Encoding"};
    if (lower(request.get_header_value("Transfer-Encoding")) != "chunked")
      return {501, "of transfer encodings only chunked is known"};
    return {0, "", true, most_bytes};
  }
  if (n_lengths == 0) return {};
  if (n_lengths > 1) return {400, "Content-Length is given twice"};
  const std::string text = request.get_header_value("Content-Length");
  uint64_t bytes = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), bytes);
  if (read.ec == std::errc::result_out_of_range || bytes > most_bytes)
    return {413, "the body is larger than this server takes"};
  if (text.empty() || read.ec != std::errc() || read.ptr != text.data() + text.size())
    return {400, "Content-Length is no number"};
  return {0, "", false, bytes};
}

/// The library's parser and writer around one socket. It is a server of its own because its
/// handlers are told of no connection.
class Connection final : private httplib::Server {
 public:
  Connection(int descriptor, const std::string& client, HttpShared& shared, ConnectionState& state)
      : stream_(descriptor, shared.limits.head_bytes),
        library_stream_(stream_, client),
        shared_(shared),
        state_(state) {
    svr_sock_ = descriptor;  // replies in parts are written while it is valid; never closed here
    stream_.set_write_time(shared.limits.body);
    set_keep_alive_timeout(
        std::chrono::duration_cast<std::chrono::seconds>(shared.limits.idle).count());
    set_keep_alive_max_count(kMaxRequests);
    set_payload_max_length(shared.limits.body_bytes);
    set_pre_routing_handler([this](const httplib::Request&, httplib::Response& response) {
      if (!refusal_) return HandlerResponse::Unhandled;
      fill(response, std::move(*refusal_));
      return HandlerResponse::Handled;
    });
    set_expect_100_continue_handler([this](const httplib::Request&, httplib::Response& response) {
      if (!refusal_) return 100;
      fill(response, std::move(*refusal_));
      return response.status;
    });
    const Handler handler = [this](const httplib::Request& request, httplib::Response& response) {
      answer_request(request, response);
    };
    Get("/", handler).Options("/", handler);
    Post("/", [this](const httplib::Request& request, httplib::Response& response,
                     const httplib::ContentReader& reader) {
      if (read_body(reader)) answer_request(request, response);
    });
    set_error_handler(Handler([this](const httplib::Request&, httplib::Response& response) {
      if (!is_filled_) fill_fault(response);
    }));
  }

  void run() {
    for (uint32_t n = 0; n < kMaxRequests && serve_one(n == 0); ++n) {
    }
    if (!is_unread_) return;
    state_.waits_since = now_ticks();  // so that it makes room for others
    stream_.linger(shared_.limits.linger);
  }

 private:
  static constexpr uint32_t kMaxRequests = 100000;

  static int64_t now_ticks() { return Clock::now().time_since_epoch().count(); }

  /// Reads and answers one request; false where the connection ends.
  bool serve_one(bool is_first) {
    const HttpLimits& limits = shared_.limits;
    state_.waits_since = now_ticks();
    if (shared_.is_draining && !is_first) return false;
    if (!stream_.wait_request(is_first ? limits.first : limits.idle)) return false;
    request_ = {};
    refusal_.reset();
    is_headed_ = is_filled_ = is_too_large_ = is_crowded_ = false;
    ends_after_ = true;
    wait_head();
    if (state_.waits_since.exchange(0) == 0) return false;  // it has made room for another
    const uint64_t written_before = stream_.written_bytes();
    begin_ = Clock::now();
    bool ends = false;
    const bool is_whole = process_request(library_stream_, false, ends,
                                          [this](httplib::Request& head) { on_head(head); });
    request_.drop_body();
    const uint64_t reply_bytes = stream_.written_bytes() - written_before;
    if (is_headed_ || reply_bytes > 0)
      shared_.app.on_end(request_, {status_, seconds_since(begin_), reply_bytes, is_whole});
    if (!is_headed_) is_unread_ = reply_bytes > 0;
    return is_whole && !ends && !ends_after_;
  }

  /// Waits for a head and judges it before the library does. Of one that is no good the library is
  /// given the first line alone, which makes it ask for the reply to a broken request.
  void wait_head() {
    const auto deadline = Clock::now() + shared_.limits.head;
    const size_t n_bytes = stream_.wait_head(deadline);
    head_fault_.reset();
    if (n_bytes > 0) {
      if (const char* why = head_fault(stream_.unread().substr(0, n_bytes)))
        head_fault_ = RequestFault{400, why};
    } else if (stream_.is_late()) {
      head_fault_ = RequestFault{408, "the request did not come in time"};
    } else if (stream_.is_full()) {
      head_fault_ = RequestFault{431, "the head of the request is larger than this server takes"};
    } else {
      head_fault_ = RequestFault{400, "the request ends within its head"};
    }
    stream_.allow(head_fault_ ? stream_.unread().find('\n') + 1 : n_bytes, deadline);
  }

  /// The head has been read: decides whether the body is.
  void on_head(httplib::Request& head) {
    is_headed_ = true;
    request_.id = fmt::format("{}-{}", shared_.id_prefix, ++shared_.n_requests);
    request_.client = head.remote_addr;
    request_.method = head.method;
    request_.path = std::move(head.path);
    request_.query.assign(head.params.begin(), head.params.end());
    for (const auto& [name, value] : head.headers)
      request_.headers.emplace_back(lower(name), value);
    // The library would choose a handler by the path, a part of the body by the range, and gzip.
    head.path = "/";
    head.ranges.clear();
    head.headers.erase("Accept-Encoding");

    const BodySize size = body_size(head, shared_.limits.body_bytes);
    const bool reads_body = head.method == "POST" && (size.is_chunked || size.bytes > 0);
    const bool has_body = size.refusal != 0 || size.is_chunked || size.bytes > 0;
    if (size.refusal != 0)
      refusal_ = shared_.app.fault(request_.path, size.refusal, size.why);
    else
      refusal_ = shared_.app.refuse(request_);
    const bool has_no_length =
        head.method == "POST" && !has_body && !request_.header("content-length");
    if (!refusal_ && has_no_length)
      refusal_ = shared_.app.fault(request_.path, 411, "a POST needs a body with a length");
    if (!refusal_ && reads_body && !size.is_chunked &&
        !request_.body_share.grow(shared_.bodies, size.bytes))
      refusal_ = shared_.app.fault(request_.path, kBodiesTooLarge.status, kBodiesTooLarge.why);
    // The library takes chunks for whole that are not, so what follows them may be no request.
    is_unread_ = has_no_length || size.is_chunked || (has_body && (refusal_ || !reads_body));
    // HTTP/1.0 knows no chunks: there the end of a reply in parts is that of the connection.
    ends_after_ = is_unread_ || shared_.is_draining || head.version == "HTTP/1.0";
    if (ends_after_) {
      head.headers.erase("Connection");
      head.set_header("Connection", "close");
    }
    // Chunks have heads of their own, which are small beside those of honest clients.
    const uint64_t n_allowed = size.is_chunked ? size.bytes + size.bytes / 8 + 4096 : size.bytes;
    stream_.allow(n_allowed, Clock::now() + shared_.limits.body);
  }

  /// False where it is broken, too large, late or without room: the error handler answers.
  bool read_body(const httplib::ContentReader& reader) {
    return reader([this](const char* bytes, size_t size) {
      const uint64_t n_bytes = request_.body.size() + size;
      is_too_large_ = n_bytes > shared_.limits.body_bytes;
      // Of chunks it is not known before how many come.
      is_crowded_ = !is_too_large_ && !request_.body_share.grow(shared_.bodies, n_bytes);
      if (is_too_large_ || is_crowded_) return false;
      request_.body.append(bytes, size);
      return true;
    });
  }

  void answer_request(const httplib::Request& request, httplib::Response& response) {
    try {
      HttpReply reply = shared_.app.answer(request_, stream_);
      request_.drop_body();  // a reply in parts may take minutes, and needs it no more
      fill(response, std::move(reply), request.version == "HTTP/1.0");
    } catch (const std::exception& error) {
      fill(response, shared_.app.fault(request_.path, 500, error.what()));
    }
  }

  /// A reply to what the library refuses itself.
  void fill_fault(httplib::Response& response) {
    int status = response.status;
    const char* message = "this is no HTTP request";
    if (head_fault_) {
      status = head_fault_->status;
      message = head_fault_->why;
    } else if (is_crowded_) {
      status = kBodiesTooLarge.status;
      message = kBodiesTooLarge.why;
    } else if (stream_.is_late()) {
      status = 408;
      message = "the body did not come in time";
    } else if (is_too_large_ || stream_.is_over_limit()) {
      status = 413;
      message = "the body is larger than this server takes";
    } else if (status == 414) {
      message = "the path is longer than this server takes";
    } else if (is_headed_) {
      message = "the body of the request is broken";
    }
    ends_after_ = is_unread_ = true;
    fill(response, shared_.app.fault(request_.path, status, message));
    response.set_header("Connection", "close");
  }

  void fill(httplib::Response& response, HttpReply reply, bool is_old_client = false) {
    is_filled_ = true;
    status_ = response.status = reply.status;
    for (const auto& [name, value] : reply.headers) response.set_header(name, value);
    if (!request_.id.empty()) response.set_header("X-Request-Id", request_.id);
    if (!reply.parts) {
      response.set_content(reply.body, reply.content_type);
      return;
    }
    const std::shared_ptr<HttpBody> parts = std::move(reply.parts);
    auto provider = [this, parts](size_t, httplib::DataSink& sink) {
      return write_part(*parts, sink);
    };
    if (is_old_client)
      response.set_content_provider(reply.content_type, std::move(provider));
    else
      response.set_chunked_content_provider(reply.content_type, std::move(provider));
  }

  bool write_part(HttpBody& parts, httplib::DataSink& sink) {
    std::string part;
    const bool goes_on = parts.wait_part(part, kLook);
    if (!part.empty() && !sink.write(part.data(), part.size())) return false;
    if (!goes_on) sink.done();
    return !goes_on || !stream_.is_gone();
  }

  SocketStream stream_;
  LibraryStream library_stream_;
  HttpShared& shared_;
  ConnectionState& state_;
  // Of the request at work.
  HttpRequest request_;
  std::optional<RequestFault> head_fault_;
  std::optional<HttpReply> refusal_;
  Clock::time_point begin_;
  int status_ = 0;
  bool is_headed_ = false;     // its head is whole
  bool is_filled_ = false;     // it has its reply
  bool is_too_large_ = false;  // its body
  bool is_crowded_ = false;    // its body has no room beside those of others
  bool is_unread_ = false;     // some of it may never be read
  bool ends_after_ = false;    // no request follows
};

}  // namespace

void serve_connection(int descriptor, const std::string& client, HttpShared& shared,
                      ConnectionState& state) {
  try {
    Connection(descriptor, client, shared, state).run();
  } catch (const std::exception&) {  // no memory: the connection ends, the server does not
  }
}

}  // namespace strata::serve
