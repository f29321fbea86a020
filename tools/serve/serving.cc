#include "tools/serve/serving.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tools/serve/model_replies.h"

namespace strata::serve {
namespace {

/// What a client chose, so that no space or line end in it looks like the end of a field.
std::string encoded(std::string_view path) {
  std::string out;
  for (const char c : path) {
    if (c > ' ' && c < '\x7f' && c != '%')
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out.empty() ? "-" : out;
}

/// Null where the server is to stop before the model is there.
AnswerService* load(const ServingEvents& events) {
  try {
    return &events.load();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) throw;
    return nullptr;
  }
}

}  // namespace

bool serve_until_stopped(const ServingSetup& setup, const ServingEvents& events) {
  ServeApp app(setup.app);
  HttpServer server(Listener::open(setup.address), app, setup.limits);
  AnswerService* const loaded = load(events);
  if (loaded == nullptr) {
    events.say("stopped before the model was loaded");
    return true;
  }
  AnswerService& service = *loaded;
  app.set_service(service);
  const ServiceFacts& facts = service.facts();
  events.say(fmt::format("{} serves {}, {} at a time, context {}; Ctrl-C stops",
                         server.listener().url(), model_id(facts), facts.n_parallel, facts.n_ctx));
  events.wait_stop();
  const ServiceCounts before = service.counts();
  if (before.n_busy + before.n_waiting > 0)
    events.say(fmt::format("stopping: {} answers may take {} s more",
                           before.n_busy + before.n_waiting,
                           std::chrono::duration_cast<std::chrono::seconds>(setup.drain).count()));
  server.begin_drain();
  const bool has_drained = service.drain(setup.drain);
  server.stop(kFarewell);
  const ServiceCounts counts = service.counts();
  events.say(fmt::format("stopped: {} answered, {} cancelled, {} failed, {} refused",
                         counts.answered, counts.cancelled, counts.failed, counts.refused));
  return has_drained;
}

std::string log_line(const HttpRequest& request, const HttpOutcome& outcome, bool is_json) {
  using Json = nlohmann::ordered_json;
  // In ASCII: what notice() would write out as \xNN ends the line's being JSON.
  if (is_json)
    return Json({{"id", request.id},
                 {"client", request.client},
                 {"method", request.method},
                 {"path", request.path},
                 {"status", outcome.status},
                 {"ms", outcome.seconds * 1000},
                 {"bytes", outcome.reply_bytes},
                 {"whole", outcome.is_whole}})
        .dump(-1, ' ', true, Json::error_handler_t::replace);
  const auto or_dash = [](const std::string& text) { return text.empty() ? "-" : text; };
  return fmt::format("{} {} {} {} {} {:.3f} s, {} bytes{}", or_dash(request.id),
                     or_dash(request.client), or_dash(request.method), encoded(request.path),
                     outcome.status, outcome.seconds, outcome.reply_bytes,
                     outcome.is_whole ? "" : ", not all taken");
}

}  // namespace strata::serve
