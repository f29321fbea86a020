// `strata bench --reopen`: what it is asked for, and what the user hears of it.
#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "engine/byte_text.h"
#include "tools/cli/attention_profile.h"
#include "tools/cli/bench_reopen.h"
#include "tools/cli/bench_setup.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/notices.h"
#include "tools/cli/request_options.h"

namespace strata::cli {
namespace {

constexpr uint32_t kReopenDepthMin = 4096;  // below it a text is read quicker than it is found

engine::EngineOptions options_in_memory(const Command& command, uint32_t n_depth) {
  const Settings& settings = command.settings;
  engine::EngineOptions options = engine_options(settings);
  options.device.kind = engine::DeviceChoice::Kind::kNone;
  options.n_ctx = reopened_context(n_depth);
  options.n_sequences = 2;         // the text, and an answer
  options.allow_untrained = true;  // disk_bench_depth() has looked
  options.kv_dram_bytes = 0;
  options.nvme_directory.clear();
  options.reads_saved = true;
  if (settings.attn == "auto") notice(choose_attention(settings.profile_dir, options));
  return options;
}

/// One whose rows are saved. Errors: kUsage.
index::Method method_of(const Command& command, const engine::EngineOptions& options) {
  if (options.method && !index::rows_kind(*options.method).empty()) return *options.method;
  throw Error(ErrorCode::kUsage,
              fmt::format("--reopen measures an index that is saved, and --attn {} has none",
                          command.settings.attn),
              command.where("attn"), "name a method, such as --attn rabitq");
}

/// Of the processes that are measured: the same engine as here.
std::vector<std::string> process_arguments(const Settings& settings,
                                           const engine::EngineOptions& options, uint32_t n_depth) {
  std::vector<std::string> arguments = {"bench", "--json"};
  const auto add = [&](const char* flag, const std::string& value) {
    if (value.empty()) return;
    arguments.emplace_back(flag);
    arguments.push_back(value);
  };
  add("--model", settings.model);
  add("--n-depth", std::to_string(n_depth));
  add("--threads", std::to_string(options.n_threads));
  add("--batch-size", std::to_string(options.chunk_rows));
  add("--cache-type-k", settings.cache_type_k);
  add("--cache-type-v", settings.cache_type_v);
  add("--kv-budget", settings.kv_budget);
  add("--attn-layers", settings.attn_layers);
  add("--nvme", settings.nvme);
  add("--io", settings.io);
  add("--load", settings.load);
  add("--cpu-isa", settings.cpu_isa);
  add("--weights-dram", std::to_string(options.weights_dram_bytes));
  return arguments;
}

engine::Engine open_in_memory(const engine::EngineOptions& options) {
  try {
    return engine::Engine::open(options);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kDoesNotFit || error.where() != "--ctx-size") throw;
    throw Error(error.code(), fmt::format("to compare with K and V in memory: {}", error.what()),
                "--n-depth", "measure at a smaller -d, or use -ctk q8_0 -ctv q8_0");
  }
}

}  // namespace

int run_reopen_bench(const Command& command, AnswerSink& sink) {
  const Settings& settings = command.settings;
  check_disk_bench(command, "reopen");
  const uint32_t n_depth = disk_bench_depth(command, "reopen", kReopenDepthMin);
  const engine::EngineOptions options = options_in_memory(command, n_depth);
  const index::Method method = method_of(command, options);
  engine::Engine engine = open_in_memory(options);
  const BenchSubject subject = bench_subject(engine, settings);
  say_disk_bench_depth(engine, subject, n_depth);
  load_for_bench(engine);
  TierReport report(sink, bench_format(settings), subject, n_depth);
  ReopenBench bench({.in_memory = options,
                     .arguments = process_arguments(settings, options, n_depth),
                     .method = method,
                     .directory = settings.nvme,
                     .n_depth = n_depth,
                     .slot_bytes = settings.kv_dram,
                     .n_samples = static_cast<uint32_t>(settings.repetitions),
                     .fill = subject.fill,
                     .cancel = &interrupt_flag()},
                    {.on_figure = [&](const TierFigure& figure) { report.add(figure); },
                     .on_depth = depth_progress(),
                     .on_note = [](const std::string& line) { notice("note: " + line); }});
  bench.run(std::move(engine));
  report.finish();
  return 0;
}

}  // namespace strata::cli
