// tools/serve/serving.h - the life of a server: listens, loads, serves, drains.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>

#include "tools/serve/http_server.h"
#include "tools/serve/serve_app.h"

namespace strata::serve {

/// For what is left to write to clients once the last answer has ended.
inline constexpr std::chrono::milliseconds kFarewell{2000};

struct ServingSetup {
  ListenAddress address;
  HttpLimits limits;
  ServeApp::Options app;
  std::chrono::milliseconds drain{30000};
};

struct ServingEvents {
  /// Loads the model; what it returns outlives serve_until_stopped(). Errors: kCancelled where the
  /// server is to stop before the model is there.
  std::function<AnswerService&()> load;
  /// Returns once the server is to stop.
  std::function<void()> wait_stop;
  /// A line for whoever started the server.
  std::function<void(std::string_view)> say;
};

/// Listens before it loads, so that a port in use costs no loading, and /health answers meanwhile.
/// Returns whether every answer ended in time. Errors: those of Listener::open, of HttpServer and,
/// but for kCancelled, of load().
bool serve_until_stopped(const ServingSetup& setup, const ServingEvents& events);

/// The line that a request leaves in the log, without its end.
std::string log_line(const HttpRequest& request, const HttpOutcome& outcome, bool is_json);

}  // namespace strata::serve
