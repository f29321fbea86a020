#include "tools/cli/eval_inputs.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "engine/byte_text.h"
#include "tools/cli/input_files.h"
#include "tools/cli/notices.h"
#include "tools/cli/request_options.h"
#include "tools/eval/recall_tasks.h"
#include "tools/eval/task_draft.h"
#include "tools/eval/text_tasks.h"

namespace strata::cli {
namespace {

std::string text_of(const std::string& path, const Command& command) {
  std::string text = path == "-" ? read_descriptor(STDIN_FILENO, "standard input", "stdin")
                                 : read_text_file(path, command.where("file"));
  check_utf8(text, path);
  return text;
}

[[noreturn]] void refuse_short(const std::string& path, uint64_t n_tokens, uint64_t n_ctx,
                               uint64_t n_last) {
  const bool is_cut = n_tokens > n_ctx;
  throw Error(is_cut ? ErrorCode::kUsage : ErrorCode::kBadText,
              fmt::format("wanted more than {} tokens (--last {}), found {}", n_last + 1, n_last,
                          std::min(n_tokens, n_ctx)),
              is_cut ? "--ctx-size" : path,
              is_cut ? "raise -c or lower --last" : "give a longer text or lower --last");
}

/// Makes the cases of one kind of model.
class CaseMaker {
 public:
  CaseMaker(const engine::Engine& engine, const Command& command)
      : engine_(engine), command_(command) {
    if (const auto options = makers::read_recall_options(engine.file()))
      recall_ = makers::RecallModel::make(*options);
    else if (const auto source = engine.file().get_string("tokenizer.chat_template"))
      chat_ = engine::ChatTemplate::parse(*source);
  }

  std::vector<std::string> hard_tasks() const {
    if (recall_) return {eval::recall_task_name(recall_->options())};
    return {"multi-key", "key-value", "variables"};
  }

  void check_task(const std::string& task) const {
    std::vector<std::string> known = hard_tasks();
    if (!recall_) known.assign(eval::text_task_names().begin(), eval::text_task_names().end());
    if (std::ranges::find(known, task) != known.end()) return;
    throw Error(ErrorCode::kUsage, fmt::format("there is no task '{}' for this model", task),
                command_.where("tasks"), fmt::format("wanted of: {}", fmt::join(known, ", ")));
  }

  TaskSet make_set(const std::string& task, uint64_t length) const {
    TaskSet set{task, length, {}};
    for (uint64_t idx = 0; idx < command_.settings.cases; ++idx)
      set.cases.push_back(make(task, length, idx));
    return set;
  }

 private:
  eval::TaskCase make(const std::string& task, uint64_t length, uint64_t idx) const {
    const uint64_t seed = command_.settings.task_seed + kSeedStride * idx;
    if (recall_) return eval::make_recall_case(*recall_, engine_.tokenizer(), length, seed);
    const uint64_t n_cases = command_.settings.cases;
    const double depth =
        n_cases == 1 ? 0.5 : static_cast<double>(idx) / static_cast<double>(n_cases - 1);
    const eval::TaskWriter writer(engine_.tokenizer(), chat_ ? &*chat_ : nullptr);
    return writer.make(task, length, depth, seed);
  }

  static constexpr uint64_t kSeedStride = 1000003;  // so that seeds near each other share no case
  const engine::Engine& engine_;
  const Command& command_;
  std::optional<makers::RecallModel> recall_;
  std::optional<engine::ChatTemplate> chat_;
};

}  // namespace

std::vector<std::string> split_list(const std::string& text, const std::string& where) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (end == begin)
      throw Error(ErrorCode::kUsage, fmt::format("wanted names between commas, found '{}'", text),
                  where, "leave no name out");
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

void check_eval_memory(uint64_t needed_bytes, uint64_t free_bytes) {
  if (needed_bytes <= free_bytes) return;
  throw Error(
      ErrorCode::kDoesNotFit,
      fmt::format("judging needs {} of memory, {} are free", engine::bytes_text(needed_bytes),
                  engine::bytes_text(free_bytes)),
      "strata eval",
      "lower -c or --lengths, use -ctk q8_0 -ctv q8_0, or judge without oracle and --probe");
}

std::vector<eval::Contender> contenders_of(const Command& command) {
  std::vector<eval::Contender> contenders;
  const std::string where = command.where("budgets");
  auto methods = split_list(command.settings.methods, command.where("methods"));
  const bool has_oracle = std::ranges::find(methods, "oracle") != methods.end();
  if (command.settings.gate && !has_oracle) methods.emplace_back("oracle");
  for (const std::string& method : methods) {
    const index::Method found = index::find_method(method);
    for (const std::string& budget : split_list(command.settings.budgets, where)) {
      if (found == index::Method::kOracle && budget == "paper") continue;  // is of no paper
      eval::Contender of{.method = found,
                         .rule = kv_rule(command.settings, found, budget, where),
                         .method_name = method,
                         .budget_text = budget};
      contenders.push_back(of);
      // The oracle is what others are judged beside: a choice, not a way to read.
      if (command.settings.sparse_prefill == "off" || found == index::Method::kOracle) continue;
      of.reads_sparsely = true;
      contenders.push_back(of);
    }
  }
  return contenders;
}

std::vector<eval::TextSample> read_samples(const Command& command, const engine::Engine& engine) {
  const Settings& settings = command.settings;
  const uint64_t n_ctx = settings.ctx_size > 0
                             ? std::min<uint64_t>(settings.ctx_size, engine.context().n_ctx)
                             : engine.context().n_ctx;
  std::vector<eval::TextSample> samples;
  for (const std::string& path : settings.file) {
    eval::TextSample sample{path, engine.tokenizer().encode(text_of(path, command), {})};
    const uint64_t n_tokens = sample.tokens.size();
    sample.tokens.resize(std::min(n_tokens, n_ctx));
    if (sample.tokens.size() < settings.last + 2)
      refuse_short(path, n_tokens, n_ctx, settings.last);
    if (n_tokens < settings.ctx_size)
      notice(fmt::format("note: {} has {} tokens, fewer than -c {}", path, n_tokens,
                         settings.ctx_size));
    samples.push_back(std::move(sample));
  }
  return samples;
}

std::vector<int32_t> read_beginning(const Command& command, const engine::Engine& engine) {
  const Settings& settings = command.settings;
  auto tokens = engine.tokenizer().encode(text_of(settings.file.front(), command), {});
  const uint64_t n_most = std::min<uint64_t>(tokens.size(), engine.context().n_ctx);
  if (settings.positions > n_most || settings.steps >= settings.positions)
    throw Error(ErrorCode::kUsage,
                fmt::format("wanted {} positions with {} steps at their end, found {}",
                            settings.positions, settings.steps, n_most),
                command.where("positions"), "lower --positions or --steps, or give a longer text");
  tokens.resize(settings.positions);
  return tokens;
}

std::vector<TaskSet> make_task_sets(const Command& command, const engine::Engine& engine,
                                    uint64_t text_length) {
  const Settings& settings = command.settings;
  if (settings.tasks.empty() && !settings.gate) return {};
  const CaseMaker maker(engine, command);
  std::vector<TaskSet> sets;
  if (settings.tasks.empty()) {
    for (const std::string& task : maker.hard_tasks()) {
      try {
        sets.push_back(maker.make_set(task, text_length));
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kUsage) throw;
        notice(fmt::format("note: {}, the length of the longest text: the gate goes without it",
                           error.what()));
      }
    }
    return sets;
  }
  const auto tasks = split_list(settings.tasks, command.where("tasks"));
  for (const std::string& task : tasks) maker.check_task(task);
  for (const std::string& task : tasks)
    for (const uint64_t length : settings.lengths) sets.push_back(maker.make_set(task, length));
  return sets;
}

}  // namespace strata::cli
