// `strata bench`: how fast this machine reads and decodes with a model.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "engine/byte_text.h"
#include "engine/inspect.h"
#include "engine/machine.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/bench_report.h"
#include "tools/cli/bench_runner.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/notices.h"
#include "tools/cli/request_options.h"
#include "tools/cli/verb_functions.h"
#include "tools/cli/weight_notices.h"

namespace strata::cli {
namespace {

using engine::bytes_text;
using engine::grouped_number;

constexpr uint64_t kWorkingBytes = 200'000'000;  // the stated allowance beside weights and KV

/// In llama-bench's order: per depth the prompts, then the decodes.
std::vector<BenchTest> list_tests(const Settings& settings) {
  std::vector<BenchTest> tests;
  for (const uint64_t depth : settings.n_depth) {
    const auto n_depth = static_cast<uint32_t>(depth);
    for (const uint64_t n : settings.n_prompt)
      if (n > 0) tests.push_back({.n_prompt = static_cast<uint32_t>(n), .n_depth = n_depth});
    for (const uint64_t n : settings.n_gen)
      if (n > 0) tests.push_back({.n_gen = static_cast<uint32_t>(n), .n_depth = n_depth});
  }
  if (tests.empty())
    throw Error(ErrorCode::kUsage, "there is nothing to measure: -p and -n are both 0",
                "strata bench", "give a length with -p or -n");
  return tests;
}

std::string deepest_name(const std::vector<BenchTest>& tests) {
  return std::ranges::max_element(tests, {}, &BenchTest::n_positions)->name();
}

/// Opens the model with a context of the deepest test. Errors: those of Engine::open, in the words
/// of this verb's options; kUsage beyond the trained context.
engine::Engine open_engine(const Settings& settings, const std::vector<BenchTest>& tests) {
  const uint64_t n_positions = deepest(tests);
  constexpr uint64_t kMaxPositions = std::numeric_limits<int32_t>::max();
  if (n_positions > kMaxPositions)
    throw Error(ErrorCode::kUsage,
                fmt::format("{} needs {} positions, wanted at most {}", deepest_name(tests),
                            n_positions, kMaxPositions),
                "--n-depth", "measure at a smaller -d, -p or -n");
  engine::EngineOptions options = engine_options(settings);
  options.n_ctx = n_positions;
  options.allow_untrained = true;  // checked below, in this verb's words
  try {
    engine::Engine engine = engine::Engine::open(options);
    const uint64_t n_trained = engine.spec().shape.n_ctx_train;
    if (n_positions > n_trained && !settings.allow_untrained)
      throw Error(ErrorCode::kUsage,
                  fmt::format("{} needs a context of {} tokens, the model was trained for {}",
                              deepest_name(tests), n_positions, n_trained),
                  "--n-depth", "measure at a smaller -d, -p or -n, or pass --allow-untrained");
    return engine;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kDoesNotFit || error.where() != "--ctx-size") throw;
    throw Error(error.code(), fmt::format("{}: {}", deepest_name(tests), error.what()), "--n-depth",
                "measure at a smaller -d, -p or -n, or use -ctk q8_0 -ctv q8_0");
  }
}

BenchSubject describe(const engine::Engine& engine, const Settings& settings) {
  const auto facts = engine::inspect_model(engine.file());
  BenchSubject subject;
  subject.model_filename = settings.model;
  subject.model_type =
      fmt::format("{} {:.0f}M {}", facts.architecture, static_cast<double>(facts.parameters) / 1e6,
                  facts.tensor_types.empty() ? "" : facts.tensor_types[0].type);
  subject.model_size = engine.weight_file_bytes();
  subject.model_n_params = facts.parameters;
  subject.n_batch = engine.context().chunk_rows;
  subject.n_threads = engine.n_threads();
  subject.device = fmt::format("cpu {}", engine.kernels().name);
  return subject;
}

engine::Model load_model(const engine::Engine& engine, ThreadPool& pool) {
  Progress progress("loading", bytes_text, "/s");
  auto model = engine.load_model(pool, [&](uint64_t done, uint64_t total) {
    progress.update(done, total);
    return !interrupt_flag().load();
  });
  progress.finish();
  return model;
}

void say_memory(uint64_t weight_bytes, uint64_t kv_bytes) {
  const uint64_t peak = engine::peak_memory_bytes();
  const uint64_t allowed = weight_bytes + kv_bytes + kWorkingBytes;
  notice(fmt::format("memory: peak {}, {} {} = weights {} + KV {} + {}", bytes_text(peak),
                     peak <= allowed ? "within" : "ABOVE", bytes_text(allowed),
                     bytes_text(weight_bytes), bytes_text(kv_bytes), bytes_text(kWorkingBytes)));
}

}  // namespace

int run_bench(const Command& command) {
  const Settings& settings = command.settings;
  AnswerSink sink = AnswerSink::open("");
  const std::vector<BenchTest> tests = list_tests(settings);
  const engine::Engine engine = open_engine(settings, tests);
  BenchSubject subject = describe(engine, settings);
  const engine::EngineOptions chosen = engine_options(settings);
  subject.k_codec = chosen.k_codec;
  subject.v_codec = chosen.v_codec;
  subject.fill = settings.depth_fill == "random" ? DepthFill::kRandom : DepthFill::kPrefill;
  if (deepest(tests) > engine.spec().shape.n_ctx_train)
    notice(fmt::format("note: beyond {} tokens this model was never trained (--allow-untrained)",
                       engine.spec().shape.n_ctx_train));
  if (subject.fill == DepthFill::kRandom && settings.n_depth != std::vector<uint64_t>{0})
    notice("note: depths hold random K and V, not text that was read (--depth-fill random)");

  ThreadPool pool(engine.n_threads());
  say_streaming(engine.weight_plan());
  const engine::Model model = load_model(engine, pool);
  if (settings.verbose) say_load(model.load_report());
  BenchRunner runner(model, engine.kernels(), pool,
                     {.k_codec = subject.k_codec,
                      .v_codec = subject.v_codec,
                      .chunk_rows = subject.n_batch,
                      .n_repetitions = static_cast<uint32_t>(settings.repetitions),
                      .fill = subject.fill,
                      .stages = settings.stages || settings.verbose,
                      .cancel = &interrupt_flag()},
                     tests);
  subject.memory_limit_bytes = model.weight_bytes() + runner.kv_budget_bytes() + kWorkingBytes;
  runner.check_answer();

  const bool json = settings.json && !settings.output_format.starts_with("json");
  BenchReport report(sink, json ? "json" : settings.output_format, subject);
  for (const BenchTest& test : tests) {
    Progress filling("depth", grouped_number, " tok/s");
    const auto on_depth = [&](uint64_t done, uint64_t total) { filling.update(done, total); };
    const auto on_run = [&](uint64_t run, uint64_t total) {
      filling.finish();
      if (settings.verbose) notice(fmt::format("{}: run {} of {}", test.name(), run, total));
    };
    report.add(runner.measure(test, {on_depth, on_run}));
  }
  report.finish();
  if (settings.verbose) say_reads(model);
  say_memory(model.weight_bytes(), runner.kv_budget_bytes());
  return 0;
}

}  // namespace strata::cli
