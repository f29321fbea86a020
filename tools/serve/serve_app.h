// tools/serve/serve_app.h - the routes of `strata serve`: who may ask what, and what answers.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "tools/serve/access.h"
#include "tools/serve/answer_service.h"
#include "tools/serve/api_request.h"
#include "tools/serve/http_message.h"
#include "tools/serve/serve_metrics.h"

namespace strata::serve {

/// A method and a path; "{id}" in it is a number.
struct RouteName {
  std::string_view method, path;
};

/// Serves before the model is loaded too: what needs it is refused (503) until set_service().
/// Threads: as HttpApp; the setters from any thread.
class ServeApp final : public HttpApp {
 public:
  struct Options {
    AccessOptions access;
    ApiDefaults defaults;
    bool shares_prefixes = false;  // of prompts between keys
    bool draws_seed = false;       // for every request that names none; else that of the defaults
    std::string version;
    std::function<void(const HttpRequest&, const HttpOutcome&)> log;  // may be empty
  };

  explicit ServeApp(Options options);

  /// The model is loaded. `service` outlives the last request.
  void set_service(AnswerService& service) { service_ = &service; }

  /// All of them, for the description's test.
  static std::span<const RouteName> route_names();

  std::optional<HttpReply> refuse(const HttpRequest& head) override;
  HttpReply answer(HttpRequest& request, const HttpClient& client) override;
  HttpReply fault(const std::string& path, int status, const std::string& message) override;
  void on_end(const HttpRequest& request, const HttpOutcome& outcome) override;

 private:
  struct Route;
  static const Route kRoutes[];
  static const Route* find_route(std::string_view method, std::string_view path);
  static std::string methods_of(std::string_view path);

  HttpReply refused(const HttpRequest& head, int status, const std::string& message);
  HttpReply answer_page(HttpRequest& request, const HttpClient& client);
  HttpReply answer_health(HttpRequest& request, const HttpClient& client);
  HttpReply answer_description(HttpRequest& request, const HttpClient& client);
  HttpReply answer_metrics(HttpRequest& request, const HttpClient& client);
  HttpReply answer_models(HttpRequest& request, const HttpClient& client);
  HttpReply answer_props(HttpRequest& request, const HttpClient& client);
  HttpReply answer_slots(HttpRequest& request, const HttpClient& client);
  HttpReply answer_slot_action(HttpRequest& request, const HttpClient& client);
  HttpReply answer_status(HttpRequest& request, const HttpClient& client);
  HttpReply answer_tokenize(HttpRequest& request, const HttpClient& client);
  HttpReply answer_detokenize(HttpRequest& request, const HttpClient& client);
  HttpReply answer_template(HttpRequest& request, const HttpClient& client);
  HttpReply answer_order(HttpRequest& request, const HttpClient& client);

  Options options_;
  Access access_;
  ServeMetrics metrics_;
  int64_t created_;  // seconds since 1970
  std::atomic<AnswerService*> service_ = nullptr;
};

}  // namespace strata::serve
