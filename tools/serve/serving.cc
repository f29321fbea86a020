#include "tools/serve/serving.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/cli/json_output.h"
#include "tools/serve/model_replies.h"

namespace strata::serve {
namespace {

// For what is left to write once the last answer has ended.
constexpr std::chrono::milliseconds kFarewell{2000};

}  // namespace

bool serve_until_stopped(const ServingSetup& setup, const ServingEvents& events) {
  ServeApp app(setup.app);
  HttpServer server(Listener::open(setup.address), app, setup.limits);
  AnswerService& service = events.load();
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
  if (is_json)
    return cli::json_line({{"id", request.id},
                           {"client", request.client},
                           {"method", request.method},
                           {"path", request.path},
                           {"status", outcome.status},
                           {"ms", outcome.seconds * 1000},
                           {"bytes", outcome.reply_bytes},
                           {"whole", outcome.is_whole}});
  return fmt::format("{} {} {} {} {} {:.3f} s, {} bytes{}", request.id.empty() ? "-" : request.id,
                     request.client.empty() ? "-" : request.client, request.method, request.path,
                     outcome.status, outcome.seconds, outcome.reply_bytes,
                     outcome.is_whole ? "" : ", not all taken");
}

}  // namespace strata::serve
