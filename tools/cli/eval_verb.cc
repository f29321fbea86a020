// `strata eval`: what approximate attention costs, against exact attention on the same model.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "engine/byte_text.h"
#include "engine/fingerprint.h"
#include "engine/machine.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/attention_profile.h"
#include "tools/cli/eval_inputs.h"
#include "tools/cli/eval_page.h"
#include "tools/cli/eval_report.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/notices.h"
#include "tools/cli/program.h"
#include "tools/cli/request_options.h"
#include "tools/cli/value_readers.h"
#include "tools/cli/verb_functions.h"
#include "tools/cli/weight_notices.h"
#include "tools/eval/attention_trace.h"

namespace strata::cli {
namespace {

using engine::grouped_number;
using eval::EvalRow;

engine::Engine open_engine(const Settings& settings) {
  engine::EngineOptions options = engine_options(settings);
  options.device.kind = engine::DeviceChoice::Kind::kNone;
  options.nvme_directory = "";  // a probe reads K and V in memory
  options.reads_saved = false;
  if (!settings.tasks.empty() && (settings.ctx_size > 0 || settings.file.empty()))
    options.n_ctx = std::max(options.n_ctx, std::ranges::max(settings.lengths));
  return engine::Engine::open(options);
}

engine::Model load_model(const engine::Engine& engine, ThreadPool& pool) {
  LoadingBar bar;
  auto model = engine.load_model(pool, bar.updates());
  bar.finish();
  return model;
}

std::vector<double> held_shares(const Settings& settings) {
  std::vector<double> shares;
  if (settings.kv_held.empty()) return shares;
  for (const std::string& part : split_list(settings.kv_held, "--kv-held"))
    shares.push_back(kv_share(part, "--kv-held"));
  return shares;
}

eval::SplitRunner::Options runner_options(const engine::Engine& engine, uint64_t n_context,
                                          uint64_t n_rest, const Settings& settings) {
  return {.k_codec = engine.options().k_codec,
          .v_codec = engine.options().v_codec,
          .chunk_rows = engine.context().chunk_rows,
          .n_context = n_context,
          .n_rest = n_rest,
          .held_shares = held_shares(settings),
          .sparse_from = sparse_from(settings.sparse_prefill),
          .cancel = &interrupt_flag()};
}

bool probes(const Settings& settings) { return settings.probe || settings.gate; }

/// What is judged, and the room that it takes.
struct Subjects {
  std::vector<eval::Contender> contenders;
  std::vector<eval::TextSample> samples;
  std::vector<TaskSet> sets;
  uint64_t n_context = 0, n_rest = 0;  // positions read exactly and after them, at most
};

Subjects gather_subjects(const Command& command, const engine::Engine& engine) {
  Subjects all{
      .contenders = contenders_of(command), .samples = read_samples(command, engine), .sets = {}};
  const uint64_t n_last = command.settings.last;
  uint64_t longest = 0;
  for (const eval::TextSample& sample : all.samples) {
    all.n_context = std::max(all.n_context, sample.tokens.size() - n_last - 1);
    all.n_rest = n_last;
    longest = std::max<uint64_t>(longest, sample.tokens.size());
  }
  all.sets = make_task_sets(command, engine, longest);
  for (const TaskSet& set : all.sets)
    for (const eval::TaskCase& of : set.cases) {
      all.n_context = std::max<uint64_t>(all.n_context, of.context.size());
      for (const eval::TaskQuestion& question : of.questions)
        all.n_rest = std::max<uint64_t>(all.n_rest, question.tokens.size() + question.n_predict);
    }
  if (const uint64_t from = sparse_from(command.settings.sparse_prefill); from >= all.n_context) {
    std::erase_if(all.contenders, &eval::Contender::reads_sparsely);
    if (from != engine::kNeverSparse)
      notice(fmt::format(
          "note: no context is longer than --sparse-prefill {}: none is read sparsely", from));
  }
  for (const TaskSet& set : all.sets)
    if (set.length > engine.context().n_ctx)
      throw Error(ErrorCode::kUsage,
                  fmt::format("wanted tasks of at most {} tokens, the context, found {}",
                              engine.context().n_ctx, set.length),
                  command.where("lengths"), "lower --lengths, or raise -c");
  return all;
}

/// Rows of every text and, where there are several, of all together.
void evaluate_texts(const Subjects& subjects, const Settings& settings, eval::SplitRunner& runner,
                    std::vector<EvalRow>& rows) {
  const auto& contenders = subjects.contenders;
  std::vector<eval::TextRun> all(contenders.size());
  uint64_t longest = 0;
  for (const eval::TextSample& sample : subjects.samples) {
    Progress reading("reading", grouped_number, " tok/s");
    const auto runs = evaluate_text(
        runner, sample, static_cast<uint32_t>(settings.last), contenders, probes(settings),
        {.on_read = [&](uint64_t done, uint64_t total) { reading.update(done, total); },
         .on_pass =
             [&](const std::string& what) {
               reading.finish();
               if (settings.verbose) notice(what);
             }});
    longest = std::max<uint64_t>(longest, sample.tokens.size());
    for (size_t i = 0; i < contenders.size(); ++i) {
      rows.push_back(text_row(sample.name, sample.tokens.size(), contenders[i], runs[i]));
      all[i].add(runs[i]);
    }
  }
  if (subjects.samples.size() > 1)
    for (size_t i = 0; i < contenders.size(); ++i)
      rows.push_back(text_row(eval::kAllTexts, longest, contenders[i], all[i]));
  compare_with_oracle(rows);
}

void evaluate_tasks(const Subjects& subjects, const Settings& settings,
                    const engine::Tokenizer& tokenizer, eval::SplitRunner& runner,
                    std::vector<EvalRow>& rows) {
  for (const TaskSet& set : subjects.sets) {
    const auto runs =
        evaluate_cases(runner, tokenizer, set.cases, subjects.contenders, [&](size_t idx) {
          if (settings.verbose)
            notice(fmt::format("{}, {} tokens: case {} of {}", set.task, set.length, idx + 1,
                               set.cases.size()));
        });
    for (size_t i = 0; i < subjects.contenders.size(); ++i)
      rows.push_back(task_row(set.task, set.length, subjects.contenders[i], runs, i));
  }
}

std::string today() {
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  return fmt::format("{:%Y-%m-%d}", fmt::gmtime(now));
}

/// Says what each method's figures are worth and keeps it. False where none passes.
bool pass_gate(const engine::Engine& engine, const Settings& settings,
               std::span<const EvalRow> rows) {
  auto verdicts = eval::judge(rows);
  for (eval::Verdict& of : verdicts)
    if (!settings.attn_layers.empty())
      of.layers = layer_modes_text(*read_layer_modes(settings.attn_layers));
  for (const eval::Verdict& of : verdicts)
    notice(fmt::format("gate: {} at {} {}", eval::method_text(of.method, of.reads_sparsely),
                       of.budget,
                       of.passes ? "passes: " + answers_text(of) : "fails: " + of.reason));
  const bool nears = kv_share(settings.kv_near, "--kv-near") > 0;
  if (nears || settings.sparse_prefill != "off") {
    notice(
        fmt::format("note: --{} was judged as well, so the verdicts are not kept for --attn auto",
                    nears ? "kv-near" : "sparse-prefill"));
  } else if (settings.profile_dir.empty()) {
    notice("note: no cache folder is known, so the verdicts are not kept");
  } else {
    const std::string path =
        profile_path(settings.profile_dir,
                     engine::model_fingerprint(engine.file(), engine.spec(), engine.kernels().isa));
    write_profile(path, verdicts, today());
    notice("gate: kept in " + path);
  }
  // Where reading sparsely is asked for, that is what has to pass.
  return eval::cheapest(verdicts, settings.sparse_prefill != "off") != nullptr;
}

void write_page(const engine::Engine& engine, const Settings& settings,
                std::span<const EvalRow> rows) {
  AnswerSink page = AnswerSink::open(settings.html, "the page");
  const std::string& name = engine.spec().name.empty() ? settings.model : engine.spec().name;
  page.write(eval_page({name, fmt::format("cpu {}", engine.kernels().name), version_text()}, rows));
  page.close();
}

/// Writes K, V and queries of a text's beginning.
void record_text(const Settings& settings, std::span<const int32_t> tokens,
                 const engine::Engine& engine, const engine::Model& model, ThreadPool& pool) {
  eval::SplitRunner runner(
      model, engine.kernels(), pool,
      runner_options(engine, tokens.size() - settings.steps, settings.steps, settings));
  const auto trace =
      eval::record_trace(runner, tokens, static_cast<uint32_t>(settings.steps), settings.layers);
  eval::write_trace(trace, settings.record);
  notice(fmt::format("{}: {} layer(s) of {} KV heads, {} positions, {} steps", settings.record,
                     trace.layers.size(), trace.n_kv_heads, trace.n_positions, trace.n_steps));
}

/// Refuses what the free memory does not hold: weights, K and V, the larger index, and the exact
/// logits of a text.
void check_memory(const engine::Engine& engine, const Subjects& subjects,
                  const Settings& settings) {
  const ModelShape& shape = engine.spec().shape;
  const uint64_t n_exact = subjects.samples.empty() ? 0 : settings.last;
  check_eval_memory(
      engine.weight_plan().total_bytes() + n_exact * shape.vocab_size * sizeof(float) +
          eval::SplitRunner::memory_bytes(
              shape, runner_options(engine, subjects.n_context, subjects.n_rest, settings),
              subjects.contenders, probes(settings) && n_exact > 0, engine.n_threads()),
      engine::available_dram_bytes());
}

/// What memory is taken to hold shows in a probe only.
void check_held(const Command& command) {
  const Settings& settings = command.settings;
  const std::vector<double> held = held_shares(settings);
  const bool nears = kv_share(settings.kv_near, command.where("kv-near")) > 0;
  if (std::ranges::count(held, 0.0) > 0)
    throw Error(ErrorCode::kUsage, "a memory that holds nothing cannot be judged",
                command.where("kv-held"), "such as 5%");
  if (!held.empty() && !probes(settings))
    throw Error(ErrorCode::kUsage, "what memory holds shows in probed attention only",
                command.where("kv-held"), "add --probe or --gate");
  if (held.empty() && nears)
    throw Error(ErrorCode::kUsage, "all of K and V is in memory, so that nothing is nearer",
                command.where("kv-near"), "say how much memory holds, such as --kv-held 5%");
  if (held.size() > 1 && nears)
    throw Error(ErrorCode::kUsage, "what is chosen depends on which memory there is",
                command.where("kv-near"), "give one size with --kv-held");
}

void check_eval(const Command& command) {
  const Settings& settings = command.settings;
  contenders_of(command);  // refused before the model is opened
  check_held(command);
  if (settings.file.empty() && settings.tasks.empty())
    throw Error(ErrorCode::kUsage, "there is nothing to judge by", "strata eval",
                "give texts with -f FILE, or tasks with --tasks");
  if (!settings.file.empty()) return;
  for (const std::string option :
       {settings.gate ? "gate" : "", settings.record.empty() ? "" : "record"})
    if (!option.empty())
      throw Error(ErrorCode::kUsage, fmt::format("--{} needs a text", option),
                  command.where(option), "give one with -f FILE");
}

}  // namespace

int run_eval(const Command& command) {
  const Settings& settings = command.settings;
  AnswerSink sink = AnswerSink::open("");
  check_eval(command);
  const engine::Engine engine = open_engine(settings);
  const bool records = !settings.record.empty();
  const auto beginning = records ? read_beginning(command, engine) : std::vector<int32_t>();
  const Subjects subjects = records ? Subjects() : gather_subjects(command, engine);
  if (!records) check_memory(engine, subjects, settings);

  ThreadPool pool(engine.n_threads());
  say_streaming(engine);
  const engine::Model model = load_model(engine, pool);
  if (records) {
    record_text(settings, beginning, engine, model, pool);
    return 0;
  }
  eval::SplitRunner runner(model, engine.kernels(), pool,
                           runner_options(engine, subjects.n_context, subjects.n_rest, settings));
  std::vector<EvalRow> rows;
  evaluate_texts(subjects, settings, runner, rows);
  evaluate_tasks(subjects, settings, engine.tokenizer(), runner, rows);
  const bool json = settings.json && !settings.output_format.starts_with("json");
  sink.write(eval_report(rows, json ? "json" : settings.output_format));
  if (!settings.html.empty()) write_page(engine, settings, rows);
  return settings.gate && !pass_gate(engine, settings, rows) ? 1 : 0;
}

}  // namespace strata::cli
