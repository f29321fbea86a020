// `strata serve`: one model for clients of OpenAI, Anthropic and llama.cpp, and a page.
// It stands here rather than in tools/cli, which this folder reads and which reads nothing of it.
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>

#include "base/error.h"
#include "tools/cli/attention_profile.h"
#include "tools/cli/bench_prediction.h"
#include "tools/cli/device_notices.h"
#include "tools/cli/input_files.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/memory_watch.h"
#include "tools/cli/model_notes.h"
#include "tools/cli/notices.h"
#include "tools/cli/placed_plan.h"
#include "tools/cli/plan_notices.h"
#include "tools/cli/plan_sentences.h"
#include "tools/cli/program.h"
#include "tools/cli/request_options.h"
#include "tools/cli/verb_functions.h"
#include "tools/cli/weight_notices.h"
#include "tools/serve/engine_service.h"
#include "tools/serve/planned_parallel.h"
#include "tools/serve/serving.h"

namespace strata::cli {
namespace {

// Every connection has a thread, and glibc spreads threads over up to eight arenas a core, each of
// which keeps what a large body once took: 10,000 hostile requests left 300 MiB, and so 41. Large
// pieces go back to the system at once. Comes before any thread.
void bound_heap() {
  constexpr int kArenas = 2, kLargeBytes = 128 << 10;
  ::mallopt(M_ARENA_MAX, kArenas);
  ::mallopt(M_MMAP_THRESHOLD, kLargeBytes);
  ::mallopt(M_TRIM_THRESHOLD, kLargeBytes);
}

/// Those of --api-key, and every line of --api-key-file. Errors: kUsage (one that a header cannot
/// carry, a file with none), kIo.
std::vector<std::string> keys_of(const Command& command) {
  const Settings& settings = command.settings;
  std::vector<std::string> keys = settings.api_key;
  if (!settings.api_key_file.empty()) {
    const std::string text = read_text_file(settings.api_key_file, command.where("api-key-file"));
    size_t n_read = 0;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      std::string line = text.substr(begin, end - begin);
      while (!line.empty() && (line.back() == ' ' || line.back() == '\r')) line.pop_back();
      begin = end + 1;
      if (line.empty()) continue;
      keys.push_back(std::move(line));
      ++n_read;
    }
    if (n_read == 0)
      throw Error(ErrorCode::kUsage, "the file has no key in it", command.where("api-key-file"),
                  "write one into each line");
  }
  for (const std::string& key : keys)
    if (!serve::is_key_text(key))
      throw Error(ErrorCode::kUsage, "a key has letters, digits and -._~+/= only",
                  command.where(settings.api_key.empty() ? "api-key-file" : "api-key"),
                  "such as what `openssl rand -hex 24` prints");
  return keys;
}

serve::ServingSetup setup_of(const Command& command) {
  const Settings& settings = command.settings;
  serve::ServingSetup setup;
  setup.address.host = settings.host;
  setup.address.port = static_cast<uint16_t>(settings.port);
  setup.address.socket_path = settings.socket;
  serve::AccessOptions& access = setup.app.access;
  access.keys = keys_of(command);
  access.cors_origins = settings.cors_origin;
  access.host = settings.host;
  setup.address.allows_others = !access.keys.empty();
  // A key keeps pages out whose name was pointed at us: without one only names of this machine do.
  access.checks_host = access.keys.empty() && settings.socket.empty();
  setup.app.defaults.sampler = sampler_options(command);
  setup.app.shares_prefixes = settings.share_prefixes;
  setup.app.draws_seed = settings.seed < 0;
  if (settings.predict >= 0) setup.app.defaults.n_predict = static_cast<uint64_t>(settings.predict);
  setup.app.version = version_text();
  setup.app.log = [is_json = settings.log == "json"](const serve::HttpRequest& request,
                                                     const serve::HttpOutcome& outcome) {
    notice(serve::log_line(request, outcome, is_json));
  };
  setup.limits.body = std::chrono::seconds(settings.timeout);
  setup.drain = std::chrono::seconds(settings.drain);
  return setup;
}

serve::EngineService::Options service_options(const Settings& settings) {
  serve::EngineService::Options options;
  options.n_parallel = static_cast<uint32_t>(settings.parallel);
  options.n_queued_max = static_cast<uint32_t>(settings.queue);
  if (settings.predict >= 0) options.n_predict = static_cast<uint64_t>(settings.predict);
  if (!settings.no_cache) options.session_dir = settings.session_dir;
  options.cache_budget_bytes = settings.cache_budget;
  options.saves = !settings.no_save;
  options.on_notices = wake_waiter;
  options.on_saving = [](std::chrono::milliseconds most) {
    notice(fmt::format("stopping: what was read is being saved, for {} s at most",
                       std::chrono::duration_cast<std::chrono::seconds>(most).count()));
  };
  return options;
}

/// Open for as many answers at a time as `service` says, or as the plan has room for, which is said
/// there then.
PlacedEngine open_for_service(const Command& command, const engine::EngineOptions& wanted,
                              serve::EngineService::Options& service) {
  std::optional<PlacedEngine> placed;
  const auto open = [&](uint32_t n_parallel) {
    placed.reset();  // what it holds of the disk comes back first
    service.n_parallel = n_parallel;
    engine::EngineOptions options = wanted;
    serve::EngineService::prepare(service, options);
    placed.emplace(open_placed(command, options));
    const engine::ContextPlan& context = placed->engine.context();
    return serve::PlannedContext{.n_ctx = context.n_ctx, .step_rows = context.chunk_rows};
  };
  if (service.n_parallel > 0)
    (void)open(service.n_parallel);
  else
    (void)serve::planned_parallel(open);
  return std::move(*placed);
}

/// What to say where answers begin to drift. `n_drifted`: tokens of the shortest that did; 0 = none
/// does. One that is shorter still may be too short to tell.
std::string begun_drift(const PlacedPlan& plan, std::span<const engine::LoneStep> steps,
                        size_t& n_drifted) {
  std::string line = drift_line(plan, steps);
  const size_t n = steps.size();
  if (line.empty()) {
    if (n >= n_drifted) n_drifted = 0;
    return line;
  }
  const bool was_drifting = n_drifted > 0;
  n_drifted = was_drifting ? std::min(n, n_drifted) : n;
  return was_drifting ? "" : line;
}

/// What the log says of an answer: where answers that are alone begin to take another time than
/// predicted, and where memory runs short.
auto review_of(PlacedPlan placed) {
  struct Review {
    PlacedPlan plan;
    MemoryWatch memory;
    size_t n_drifted = 0;
  };
  const MemoryWatch memory(predicted_peak_bytes(placed));
  const auto of = std::make_shared<Review>(Review{std::move(placed), memory});
  return [of](const engine::Generation& answer, bool was_alone) {
    std::vector<std::string> lines;
    if (was_alone) lines.push_back(begun_drift(of->plan, answer.times.lone_steps, of->n_drifted));
    lines.push_back(of->memory.look(memory_now()));
    std::erase(lines, "");
    return lines;
  };
}

/// Says in `service` why what is where, and what it says of answers.
engine::Engine loaded_engine(const Command& command, serve::EngineService::Options& service) {
  const Settings& settings = command.settings;
  engine::EngineOptions options = engine_options(settings);
  if (settings.attn == "auto") notice(choose_attention(settings.profile_dir, options));
  PlacedEngine placed = open_for_service(command, options, service);
  engine::Engine engine = std::move(placed.engine);
  note_missing_pre_tokenizer(engine.file());
  say_streaming(engine);
  say_device(engine);
  say_plan(placed.plan, engine, settings.verbose);
  service.plan = plan_sentences(placed.plan, engine);
  service.review = review_of(std::move(placed.plan));
  LoadingBar bar;
  engine.load(bar.updates());
  bar.finish();
  for (const std::string& line : engine.notices()) notice("note: " + line);
  say_load(engine.model().load_report(), settings.verbose);
  return engine;
}

}  // namespace

int run_serve(const Command& command) {
  const Settings& settings = command.settings;
  bound_heap();
  catch_termination();
  std::optional<engine::Engine> engine;
  std::unique_ptr<serve::EngineService> service;  // after the engine: it goes first
  serve::ServingEvents events;
  events.load = [&]() -> serve::AnswerService& {
    serve::EngineService::Options options = service_options(settings);
    engine.emplace(loaded_engine(command, options));
    service = serve::EngineService::start(*engine, options);
    return *service;
  };
  const auto say_notices = [&service] {
    if (service == nullptr) return;  // it was stopped while it loaded
    for (const std::string& line : service->take_notices()) notice("note: " + line);
  };
  events.wait_stop = [&] {
    do say_notices();
    while (!wait_for_interrupt());
  };
  events.say = notice;
  const bool is_whole = serve::serve_until_stopped(setup_of(command), events);
  say_notices();  // of the last contexts that were saved
  if (!is_whole)
    notice("note: answers took longer than --drain, or what was read could not be saved");
  return 0;
}

}  // namespace strata::cli
