// `strata bench`: how fast this machine reads and decodes with a model.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "base/error.h"
#include "engine/byte_text.h"
#include "engine/machine.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/attention_profile.h"
#include "tools/cli/bench_prediction.h"
#include "tools/cli/bench_report.h"
#include "tools/cli/bench_runner.h"
#include "tools/cli/bench_setup.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/notices.h"
#include "tools/cli/placed_plan.h"
#include "tools/cli/plan_notices.h"
#include "tools/cli/plan_run.h"
#include "tools/cli/request_options.h"
#include "tools/cli/tier_report.h"
#include "tools/cli/verb_functions.h"
#include "tools/cli/weight_notices.h"

namespace strata::cli {
namespace {

using engine::grouped_number;

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
PlacedEngine open_engine(const Command& command, const std::vector<BenchTest>& tests,
                         Trace* trace) {
  const Settings& settings = command.settings;
  const uint64_t n_positions = deepest(tests);
  constexpr uint64_t kMaxPositions = std::numeric_limits<int32_t>::max() - 2 * kBlockPositions;
  if (n_positions > kMaxPositions)
    throw Error(ErrorCode::kUsage,
                fmt::format("{} needs {} positions, wanted at most {}", deepest_name(tests),
                            n_positions, kMaxPositions),
                "--n-depth", "measure at a smaller -d, -p or -n");
  engine::EngineOptions options = engine_options(settings);
  options.n_ctx = positions_to_hold(tests);
  options.n_sequences = 2;  // the depth, and a repetition
  options.reads_saved = false;
  options.trace = trace;
  options.allow_untrained = true;  // checked below, in this verb's words
  if (settings.attn == "auto") notice(choose_attention(settings.profile_dir, options));
  try {
    PlacedEngine placed = open_placed(command, options);
    const uint64_t n_trained = placed.engine.spec().shape.n_ctx_train;
    if (n_positions > n_trained && !settings.allow_untrained)
      throw Error(ErrorCode::kUsage,
                  fmt::format("{} needs a context of {} tokens, the model was trained for {}",
                              deepest_name(tests), n_positions, n_trained),
                  "--n-depth", "measure at a smaller -d, -p or -n, or pass --allow-untrained");
    return placed;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kDoesNotFit) throw;
    // A remedy that names the context's size names an option that this verb has not.
    const std::string remedy = error.remedy().substr(0, error.remedy().find("-c "));
    const bool is_context = error.where() == "--ctx-size";
    const bool is_other = remedy.ends_with(", or ");
    if (!is_context && !is_other && remedy == error.remedy()) throw;
    throw Error(error.code(), fmt::format("{}: {}", deepest_name(tests), error.what()),
                is_context ? "--n-depth" : error.where(),
                is_context ? "measure at a smaller -d, -p or -n, or use -ctk q8_0 -ctv q8_0"
                           : (is_other ? remedy : "") + "measure at a smaller -d, -p or -n");
  }
}

/// At the pace of memory and disk right now, where the profile is of them.
BenchPrediction prediction_of(const Settings& settings, const PlacedPlan& plan,
                              const BenchResult& result) {
  if (!plan.is_measured()) return predict_test(plan, result, {});
  const planner::MachineProfile& profile = plan.subject.request.profile;
  planner::MachinePace pace{.dram = dram_pace(plan, result.memory_gbytes_per_s)};
  try {
    if (reads_disk(plan))
      pace.disk =
          measure_disk_pace(profile, settings.nvme, engine_options(settings).io, &interrupt_flag());
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) throw;
    // The test itself is measured: a full disk is no reason to lose it.
    notice(fmt::format("note: predicted at the disk's pace of the profile: {}", error.what()));
  }
  pace.disk = limited_disk_pace(profile, pace.disk, settings.disk_rate);
  return predict_test(plan, result, pace);
}

/// What the disk gives right now, where a step reads from it.
void add_disk(const Settings& settings, BenchResult& result) {
  const bool reads = result.nvme_read_bytes > 0 || result.weight_read_bytes > 0;
  if (!reads || settings.nvme.empty()) return;
  try {
    result.disk_read_gbytes_per_s =
        measure_disk_read(settings.nvme, engine_options(settings).io, &interrupt_flag());
    if (settings.disk_rate > 0)
      result.disk_read_gbytes_per_s =
          std::min(result.disk_read_gbytes_per_s, static_cast<double>(settings.disk_rate) / 1e9);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) throw;
    // The test itself is measured: a full disk is no reason to lose it.
    notice(fmt::format("note: no share of the disk's rate is shown: {}", error.what()));
  }
}

/// A limit is of this machine's reads in steps that are timed.
void check_disk_rate(const Command& command, bool predicts) {
  const Settings& settings = command.settings;
  if (!command.is_set("disk-rate")) return;
  const char* other = predicts          ? "--device"
                      : settings.tiers  ? "--tiers"
                      : settings.reopen ? "--reopen"
                                        : nullptr;
  if (settings.disk_rate > 0 && settings.disk_rate < kLeastDiskRate)
    throw Error(ErrorCode::kUsage,
                fmt::format("{} bytes a second: what is in flight would outlast a disk's deadline",
                            settings.disk_rate),
                command.where("disk-rate"), "state at least 16MB, or 0 for no limit");
  if (other == nullptr) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("--disk-rate and {} contradict each other: {} has the disk as it is",
                          other, other),
              command.where("disk-rate"), "leave one of them out");
}

/// What compares placements of its own takes none, and no number of threads but one.
void check_places(const Command& command) {
  const Settings& settings = command.settings;
  const char* mode = settings.tiers            ? "tiers"
                     : settings.reopen         ? "reopen"
                     : settings.validate_plans ? "validate-plans"
                                               : nullptr;
  if (mode == nullptr) return;
  if (settings.scaling)
    throw Error(ErrorCode::kUsage,
                fmt::format("--{} and --scaling contradict each other: threads are compared by the "
                            "tests of -p, -n and -d",
                            mode),
                command.where("scaling"), "leave one of them out");
  for (const std::string& option : stated_places(settings))
    throw Error(ErrorCode::kUsage,
                fmt::format("--{0} and --{1} contradict each other: --{0} chooses what is where",
                            mode, option),
                command.where(option), "leave one of them out");
}

/// What of a test is not as the answers of `run` come about.
void say_deviations(const engine::Engine& engine, const Settings& settings,
                    const BenchSubject& subject, const std::vector<BenchTest>& tests) {
  if (deepest(tests) > engine.spec().shape.n_ctx_train)
    notice(fmt::format("note: beyond {} tokens this model was never trained (--allow-untrained)",
                       engine.spec().shape.n_ctx_train));
  if (subject.fill == DepthFill::kRandom && settings.n_depth != std::vector<uint64_t>{0})
    notice("note: depths hold random K and V, not text that was read (--depth-fill random)");
  if (settings.scaling && engine.device() != nullptr)
    notice("note: --scaling is of the CPU's threads, and a device computes");
  if (settings.roofline && engine.device() != nullptr)
    notice("note: --roofline times operations of the CPU, not of a device");
  if (!subject.keeps_blocks && !subject.is_spilling)
    notice("note: all of K and V is in memory: --no-kept-blocks does nothing");
  if (!subject.reads_ahead && !subject.is_spilling && !engine.reads_weights())
    notice("note: all of K, V and the weights is in memory: --no-read-ahead does nothing");
}

/// How many threads measure each test, one after the other; 0 = every CPU.
std::vector<uint64_t> thread_counts(const Settings& settings) {
  if (!settings.scaling) return {settings.threads};
  const uint64_t n_most = settings.threads > 0 ? settings.threads : engine::usable_cpus();
  std::vector<uint64_t> counts;
  for (uint64_t n = 1; n < n_most; n *= 2) counts.push_back(n);
  counts.push_back(n_most);
  return counts;
}

/// All tests with command.settings.threads; opens the model anew, for a plan depends on them.
void run_with_threads(const Command& command, const std::vector<BenchTest>& tests,
                      BenchReport& report) {
  const Settings& settings = command.settings;
  std::optional<Trace> trace;
  if (settings.attribution) trace.emplace().set_on(false);
  auto [engine, plan] = open_engine(command, tests, trace ? &*trace : nullptr);
  BenchSubject subject = bench_subject(engine, settings);
  say_deviations(engine, settings, subject, tests);
  load_for_bench(engine);
  say_plan(plan, engine, settings.verbose);
  const engine::Model& model = engine.model();
  say_load(model.load_report(), settings.verbose);
  BenchRunner runner(
      engine, {.n_repetitions = static_cast<uint32_t>(settings.repetitions),
               .fill = subject.fill,
               .roofline = (settings.roofline || settings.verbose) && engine.device() == nullptr,
               .keeps_blocks = subject.keeps_blocks,
               .trace = trace ? &*trace : nullptr,
               .cancel = &interrupt_flag()});
  const uint64_t kv_bytes = engine.context().kv.dram_bytes();
  subject.index_budget_bytes = engine.index_bytes();
  subject.rates_text = plan.subject.rates_text;
  subject.memory_limit_bytes = model.weight_bytes() + kv_bytes + bench_working_bytes(engine);
  engine.walk().set_reads_ahead(subject.reads_ahead);
  runner.check_answer();

  if (!plan.is_measured()) notice("note: predictions count for little. " + plan.subject.rates_text);
  report.begin(subject);
  for (const BenchTest& test : tests) {
    Progress filling("depth", grouped_number, " tok/s");
    const auto on_depth = [&](uint64_t done, uint64_t total) { filling.update(done, total); };
    const auto on_run = [&](uint64_t run, uint64_t total) {
      filling.finish();
      if (settings.verbose) notice(fmt::format("{}: run {} of {}", test.name(), run, total));
    };
    BenchResult result = runner.measure(test, {on_depth, on_run});
    if (settings.roofline) add_disk(settings, result);
    report.add(result, prediction_of(settings, plan, result));
  }
  if (settings.verbose) say_reads(engine);
  if (const std::string line = tier_line(engine, {}); !line.empty()) notice(line);
  say_memory(model.weight_bytes(), kv_bytes, bench_working_bytes(engine));
}

/// The tests of -p, -n and -d.
int run_tests(const Command& command, AnswerSink& sink) {
  const std::vector<BenchTest> tests = list_tests(command.settings);
  BenchReport report(sink, bench_format(command.settings), command.settings.scaling);
  for (const uint64_t n_threads : thread_counts(command.settings)) {
    Command of_threads = command;
    of_threads.settings.threads = n_threads;
    run_with_threads(of_threads, tests, report);
  }
  report.finish();
  return 0;
}

}  // namespace

int run_bench(const Command& command) {
  const Settings& settings = command.settings;
  AnswerSink sink = AnswerSink::open("");
  const bool predicts =
      engine::parse_device_choice(settings.device).kind == engine::DeviceChoice::Kind::kVirtual;
  if ((predicts || settings.tiers || settings.validate_plans) && settings.attn != "exact")
    throw Error(ErrorCode::kUsage,
                "predictions, --tiers and --validate-plans are of exact attention",
                command.where("attn"),
                "measure --attn without --tiers and --validate-plans on this machine");
  check_places(command);
  check_disk_rate(command, predicts);
  if (predicts) return run_device_bench(command, sink);
  if (command.is_set("device-ctx"))
    throw Error(ErrorCode::kUsage, "-c is of predictions, and nothing is predicted",
                command.where("device-ctx"), "name a card with --device, or a depth with -d");
  if (settings.tiers) return run_tier_bench(command, sink);
  if (settings.reopen) return run_reopen_bench(command, sink);
  if (settings.validate_plans) return run_plan_trials(command, sink);
  if (!settings.reopened.empty()) return run_reopened(command, sink);
  return run_tests(command, sink);
}

}  // namespace strata::cli
