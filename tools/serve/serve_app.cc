#include "tools/serve/serve_app.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "tools/cli/json_output.h"
#include "tools/serve/answer_reply.h"
#include "tools/serve/embedded.h"
#include "tools/serve/forced_call.h"
#include "tools/serve/model_replies.h"
#include "tools/serve/slot_request.h"

namespace strata::serve {
namespace {

// The page loads nothing, and nothing may frame it: what a model writes can at most be read.
constexpr std::string_view kPagePolicy =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

constexpr std::string_view kSlotPrefix = "/slots/";
constexpr size_t kSlotDigitsMax = 9;  // they fit 32 bits
constexpr std::string_view kMessages = "/v1/messages", kCompletions = "/v1/completions";

ApiShape shape_of(std::string_view path) {
  if (path == kMessages) return ApiShape::kMessages;
  return path == kCompletions ? ApiShape::kCompletion : ApiShape::kChat;
}

HttpReply json_reply(const nlohmann::ordered_json& value) {
  HttpReply reply;
  reply.body = cli::json_line(value);
  return reply;
}

HttpReply error_reply(std::string_view path, const ApiError& error) {
  HttpReply reply;
  reply.status = error.status;
  reply.body = error_body(shape_of(path), error);
  if (error.status == 429 || error.status == 503) reply.headers.emplace_back("Retry-After", "1");
  if (error.status == 401) reply.headers.emplace_back("WWW-Authenticate", "Bearer");
  return reply;
}

/// "/slots/7" -> "/slots/{id}"; other paths as they are.
std::string_view pattern_of(std::string_view path) {
  if (!path.starts_with(kSlotPrefix)) return path;
  const std::string_view id = path.substr(kSlotPrefix.size());
  if (id.empty() || id.size() > kSlotDigitsMax) return path;
  const bool is_number = std::ranges::all_of(id, [](char c) { return c >= '0' && c <= '9'; });
  return is_number ? "/slots/{id}" : path;
}

bool is_json_type(std::string_view type) {
  type = type.substr(0, type.find(';'));
  while (type.ends_with(' ')) type.remove_suffix(1);
  return std::ranges::equal(type, std::string_view("application/json"), {},
                            [](char c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c; });
}

}  // namespace

struct ServeApp::Route {
  RouteName name;
  bool is_open;  // asks for no key
  bool needs_model;
  HttpReply (ServeApp::*answer)(HttpRequest&, const HttpClient&);
};

const ServeApp::Route ServeApp::kRoutes[] = {
    {{"GET", "/"}, true, false, &ServeApp::answer_page},
    {{"GET", "/health"}, true, false, &ServeApp::answer_health},
    {{"GET", "/openapi.json"}, true, false, &ServeApp::answer_description},
    {{"GET", "/metrics"}, false, false, &ServeApp::answer_metrics},
    {{"GET", "/status"}, false, true, &ServeApp::answer_status},
    {{"GET", "/v1/models"}, false, true, &ServeApp::answer_models},
    {{"GET", "/props"}, false, true, &ServeApp::answer_props},
    {{"GET", "/slots"}, false, true, &ServeApp::answer_slots},
    {{"POST", "/slots/{id}"}, false, true, &ServeApp::answer_slot_action},
    {{"POST", "/tokenize"}, false, true, &ServeApp::answer_tokenize},
    {{"POST", "/detokenize"}, false, true, &ServeApp::answer_detokenize},
    {{"POST", "/apply-template"}, false, true, &ServeApp::answer_template},
    {{"POST", "/v1/chat/completions"}, false, true, &ServeApp::answer_order},
    {{"POST", kCompletions}, false, true, &ServeApp::answer_order},
    {{"POST", kMessages}, false, true, &ServeApp::answer_order},
};

std::span<const RouteName> ServeApp::route_names() {
  static const auto kNames = [] {
    std::array<RouteName, std::size(kRoutes)> names;
    std::ranges::transform(kRoutes, names.begin(), &Route::name);
    return names;
  }();
  return kNames;
}

ServeApp::ServeApp(Options options)
    : options_(std::move(options)),
      access_(options_.access),
      created_(std::chrono::duration_cast<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count()) {}

const ServeApp::Route* ServeApp::find_route(std::string_view method, std::string_view path) {
  const std::string_view wanted = method == "HEAD" ? "GET" : method;
  const std::string_view pattern = pattern_of(path);
  for (const Route& route : kRoutes)
    if (route.name.method == wanted && route.name.path == pattern) return &route;
  return nullptr;
}

std::string ServeApp::methods_of(std::string_view path) {
  const std::string_view pattern = pattern_of(path);
  std::string methods;
  for (const Route& route : kRoutes)
    if (route.name.path == pattern) methods += std::string(route.name.method) + ", ";
  return methods.empty() ? "" : methods + "OPTIONS";
}

HttpReply ServeApp::refused(const HttpRequest& head, int status, const std::string& message) {
  HttpReply reply = fault(head.path, status, message);
  access_.add_headers(head, reply);
  return reply;
}

std::optional<HttpReply> ServeApp::refuse(const HttpRequest& head) {
  const Route* route = find_route(head.method, head.path);
  if (const auto refusal = access_.refuse(head, route == nullptr || !route->is_open))
    return refused(head, refusal->status, refusal->message);
  const std::string methods = methods_of(head.path);
  if (methods.empty()) return refused(head, 404, "no such path: /openapi.json lists them");
  if (head.method == "OPTIONS") {
    HttpReply reply;
    reply.status = 204;
    reply.headers.emplace_back("Allow", methods);
    access_.add_headers(head, reply);
    return reply;
  }
  if (route == nullptr) {
    HttpReply reply = refused(head, 405, "this path takes " + methods);
    reply.headers.emplace_back("Allow", methods);
    return reply;
  }
  // A page of another site can send text without asking first, so text is not read as JSON.
  if (head.method == "POST" && !is_json_type(head.header("content-type").value_or("")))
    return refused(head, 415, "wanted the header Content-Type: application/json");
  if (route->needs_model && service_ == nullptr)
    return refused(head, 503, "the model is being loaded");
  return std::nullopt;
}

HttpReply ServeApp::answer(HttpRequest& request, const HttpClient& client) {
  const Route* route = find_route(request.method, request.path);
  HttpReply reply;
  try {
    reply = (this->*route->answer)(request, client);  // refuse() has found it
  } catch (const Error& error) {
    reply = error_reply(request.path, api_error(error));
  }
  access_.add_headers(request, reply);
  return reply;
}

HttpReply ServeApp::fault(const std::string& path, int status, const std::string& message) {
  ApiError error;
  error.status = status;
  error.type = status < 500 ? "invalid_request_error" : "server_error";
  error.message = message;
  return error_reply(path, error);
}

void ServeApp::on_end(const HttpRequest& request, const HttpOutcome& outcome) {
  const Route* route = find_route(request.method, request.path);
  metrics_.add_request(route == nullptr ? "other" : route->name.path, outcome.status);
  if (options_.log) options_.log(request, outcome);
}

HttpReply ServeApp::answer_page(HttpRequest&, const HttpClient&) {
  HttpReply reply;
  reply.content_type = "text/html; charset=utf-8";
  reply.body = page_html();
  reply.headers.emplace_back("Content-Security-Policy", kPagePolicy);
  reply.headers.emplace_back("Referrer-Policy", "no-referrer");
  return reply;
}

HttpReply ServeApp::answer_health(HttpRequest&, const HttpClient&) {
  const bool is_loading = service_ == nullptr;
  HttpReply reply = json_reply({{"status", is_loading ? "loading model" : "ok"}});
  if (is_loading) reply.status = 503;
  return reply;
}

HttpReply ServeApp::answer_description(HttpRequest&, const HttpClient&) {
  HttpReply reply;
  reply.body = openapi_json();
  return reply;
}

HttpReply ServeApp::answer_metrics(HttpRequest&, const HttpClient&) {
  HttpReply reply;
  reply.content_type = "text/plain; version=0.0.4; charset=utf-8";
  const AnswerService* service = service_;
  if (service == nullptr) {
    reply.body = metrics_.text(nullptr);
  } else {
    const ServiceCounts counts = service->counts();
    reply.body = metrics_.text(&counts);
  }
  return reply;
}

HttpReply ServeApp::answer_status(HttpRequest&, const HttpClient&) {
  const AnswerService& service = *service_;
  return json_reply(status_json(service.facts(), service.counts(), service.layer_blocks()));
}

HttpReply ServeApp::answer_models(HttpRequest&, const HttpClient&) {
  return json_reply(models_json(service_.load()->facts(), created_));
}

HttpReply ServeApp::answer_props(HttpRequest&, const HttpClient&) {
  return json_reply(props_json(service_.load()->facts(), options_.defaults, options_.version));
}

HttpReply ServeApp::answer_slots(HttpRequest& request, const HttpClient&) {
  const AnswerService& service = *service_;
  const ServiceCounts counts = service.counts();
  const bool is_full = counts.n_busy >= service.facts().n_parallel;
  if (is_full && request.parameter("fail_on_no_slot"))
    return fault(request.path, 503, "every place is taken");
  return json_reply(slots_json(service.facts(), counts));
}

HttpReply ServeApp::answer_slot_action(HttpRequest& request, const HttpClient&) {
  SlotAction action = parse_slot_action(std::string_view(request.path).substr(kSlotPrefix.size()),
                                        request.parameter("action").value_or(""), request.body);
  if (!options_.shares_prefixes) action.owner = access_.key_of(request);
  request.drop_body();
  const auto begin = std::chrono::steady_clock::now();
  const SlotOutcome outcome = service_.load()->act_on_slot(action);
  if (outcome.end != SlotOutcome::End::kDone)
    return error_reply(request.path, slot_refusal(action, outcome));
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
  return json_reply(slot_action_json(action, outcome, time.count()));
}

HttpReply ServeApp::answer_tokenize(HttpRequest& request, const HttpClient&) {
  return json_reply(tokenize_json(*service_, request.body));
}

HttpReply ServeApp::answer_detokenize(HttpRequest& request, const HttpClient&) {
  return json_reply(detokenize_json(*service_, request.body));
}

HttpReply ServeApp::answer_template(HttpRequest& request, const HttpClient&) {
  return json_reply(rendered_json(*service_, request.body, options_.defaults));
}

HttpReply ServeApp::answer_order(HttpRequest& request, const HttpClient& client) {
  AnswerService& service = *service_;
  ApiDefaults defaults = options_.defaults;
  if (options_.draws_seed) defaults.sampler.seed = std::random_device{}();
  ApiRequest wanted = parse_request(shape_of(request.path), request.body, defaults);
  const std::string_view key = access_.key_of(request);
  if (!options_.shares_prefixes) wanted.order.owner = key;
  if (access_.has_several_keys()) wanted.order.asker = key;
  // What is made of the body until the order is taken is as large as it is, so its share is kept.
  BodyShare body_share = std::move(request.body_share);
  request.drop_body();  // an answer may take minutes
  ApiIdentity identity;
  identity.id = request.id;
  identity.model = model_id(service.facts());
  identity.created = std::chrono::duration_cast<std::chrono::seconds>(
                         std::chrono::system_clock::now().time_since_epoch())
                         .count();
  identity.tool_calls = bind_forced_call(wanted, tool_call_style(service.facts().chat_template));
  return answer_reply(service, std::move(wanted), std::move(body_share), identity, metrics_,
                      client);
}

}  // namespace strata::serve
