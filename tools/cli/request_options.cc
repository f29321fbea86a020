#include "tools/cli/request_options.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "index/paper_rule.h"
#include "tools/cli/input_files.h"
#include "tools/cli/notices.h"
#include "tools/cli/value_readers.h"

namespace strata::cli {
namespace {

KvCodec kv_codec(const std::string& name) {
  return name == "q8_0" ? KvCodec::kQ8_0 : KvCodec::kF16;
}

tiers::IoChoice io_choice(const std::string& name) {
  if (name == "io_uring") return tiers::IoChoice::kUring;
  return name == "threads" ? tiers::IoChoice::kThreads : tiers::IoChoice::kAuto;
}

/// Adds a text to the prompt, a blank line after what stands there.
void append_text(std::string& prompt, const std::string& text, const std::string& where) {
  check_utf8(text, where);
  if (!prompt.empty()) {
    while (prompt.ends_with('\n')) prompt.pop_back();
    prompt += "\n\n";
  }
  prompt += text;
}

/// Whether a text lies ready in standard input.
bool standard_input_has_text() {
  if (!standard_input_is_given()) return false;
  pollfd input = {STDIN_FILENO, POLLIN, 0};
  int n_bytes = 0;
  return ::poll(&input, 1, 0) > 0 && ::ioctl(STDIN_FILENO, FIONREAD, &n_bytes) == 0 && n_bytes > 0;
}

/// Nothing = where it pays. Verbs that answer nothing have no such option.
std::optional<uint32_t> draft_tokens(const std::string& text) {
  constexpr uint64_t kMax = 64;  // rows of one answer; more would be bound by arithmetic
  if (text == "auto") return std::nullopt;
  if (text.empty() || text == "off") return 0;
  const auto n = read_count(text);
  if (n && *n <= kMax) return static_cast<uint32_t>(*n);
  throw Error(ErrorCode::kUsage,
              fmt::format("wanted auto, off or 0 to {} tokens, found '{}'", kMax, text),
              "--draft-lookup", "such as 8");
}

/// Nothing = as planned. Verbs that compute nothing have no such option.
std::optional<double> cpu_share(const Settings& settings) {
  const std::string& text = settings.cpu_share;
  if (text.empty()) return 0;
  const std::optional<double> share =
      text == "auto" ? std::nullopt : std::optional(kv_share(text, "--cpu-share"));
  if (share == 0) return share;
  if (settings.device == "none")
    throw Error(ErrorCode::kUsage,
                "--cpu-share is of what a device does not hold, and none computes", "--cpu-share",
                "leave it out, or name a card with --device");
  return share;
}

engine::LoadMode load_mode(std::string_view name) {
  if (name == "direct") return engine::LoadMode::kDirect;
  return name == "mmap" ? engine::LoadMode::kMapped : engine::LoadMode::kAuto;
}

}  // namespace

index::Budget kv_budget(const std::string& text, const std::string& where) {
  const auto budget = read_budget(text);
  if (budget) return *budget;
  throw Error(
      ErrorCode::kUsage,
      fmt::format("wanted tokens, a share of the context or of the weight, or nats, found '{}'",
                  text),
      where, "such as 2048, 2%, 0.98p or 6n");
}

double kv_share(const std::string& text, const std::string& where) {
  if (const auto share = read_share(text)) return *share;
  throw Error(ErrorCode::kUsage, fmt::format("wanted a share from 0 to 100%, found '{}'", text),
              where, "such as 1%");
}

index::Rule kv_rule(const Settings& settings, std::optional<index::Method> method,
                    const std::string& budget, const std::string& where) {
  index::Rule rule;
  if (budget == "paper" && !method)
    throw Error(ErrorCode::kUsage, "no method is named whose paper it could be", where,
                "name one with --attn, such as --attn quest");
  if (budget == "paper")
    rule = index::paper_rule(*method);
  else
    rule.budget = kv_budget(budget, where);
  rule.residency_tolerance = kv_share(settings.kv_near, "--kv-near");
  if (settings.attn_layers.empty()) return rule;
  const auto modes = read_layer_modes(settings.attn_layers);
  if (!modes)
    throw Error(ErrorCode::kUsage,
                fmt::format("wanted layers and what they attend (index, dense or reuse), found "
                            "'{}'",
                            settings.attn_layers),
                "--attn-layers", "such as 0-1:dense,7:reuse");
  rule.layers = *modes;
  return rule;
}

uint64_t sparse_from(const std::string& text, const std::string& where) {
  if (text == "off") return engine::kNeverSparse;
  if (text == "on") return engine::kSparseFrom;
  if (const auto from = read_count(text)) return *from;
  throw Error(ErrorCode::kUsage,
              fmt::format("wanted off, on or the number of a token, found '{}'", text), where,
              "such as on or 16384");
}

engine::EngineOptions engine_options(const Settings& settings) {
  engine::EngineOptions options;
  options.model_path = settings.model;
  options.n_ctx = settings.ctx_size;
  if (!settings.device.empty()) options.device = engine::parse_device_choice(settings.device);
  options.hbm_bytes = settings.hbm;
  options.cpu_share = cpu_share(settings);
  options.dram_bytes = settings.dram;
  options.kv_dram_bytes = settings.kv_dram;
  options.nvme_directory = settings.nvme;
  options.nvme_is_named = settings.nvme_is_named;
  options.nvme_budget_bytes = settings.nvme_budget;
  options.reads_saved = !settings.no_cache && !settings.session_dir.empty();
  options.io = io_choice(settings.io);
  options.disk_read_bytes_per_s = settings.disk_rate;
  options.weights_dram_bytes = settings.weights_dram;
  options.load = load_mode(settings.load);
  options.k_codec = kv_codec(settings.cache_type_k);
  options.v_codec = kv_codec(settings.cache_type_v);
  options.chunk_rows = static_cast<uint32_t>(settings.batch_size);
  options.chunk_is_named = settings.batch_is_named;
  options.n_threads = static_cast<uint32_t>(settings.threads);
  options.cpu_isa = settings.cpu_isa;
  if (settings.attn != "exact" && settings.attn != "auto")
    options.method = index::find_method(settings.attn);
  options.selection = kv_rule(settings, options.method, settings.kv_budget);
  options.sparse_from = sparse_from(settings.sparse_prefill);
  options.n_draft_max = draft_tokens(settings.draft_lookup);
  options.allow_untrained = settings.allow_untrained;
  options.rope.scaling = settings.rope_scaling;
  options.rope.freq_base = settings.rope_freq_base;
  options.rope.factor = settings.rope_factor;
  options.rope.n_ctx_original = static_cast<uint32_t>(settings.yarn_orig_ctx);
  options.rope.yarn_ext_factor = settings.yarn_ext_factor;
  options.rope.yarn_attn_factor = settings.yarn_attn_factor;
  options.rope.yarn_beta_fast = settings.yarn_beta_fast;
  options.rope.yarn_beta_slow = settings.yarn_beta_slow;
  return options;
}

engine::SamplerOptions sampler_options(const Command& command) {
  const Settings& settings = command.settings;
  engine::SamplerOptions options;
  options.temperature = settings.temp;
  options.top_k = static_cast<uint32_t>(settings.top_k);
  options.top_p = settings.top_p;
  options.min_p = settings.min_p;
  options.repeat_penalty = settings.repeat_penalty;
  options.repeat_last_n = static_cast<uint32_t>(settings.repeat_last_n);
  options.presence_penalty = settings.presence_penalty;
  options.frequency_penalty = settings.frequency_penalty;
  options.seed = settings.seed >= 0 ? static_cast<uint64_t>(settings.seed) : std::random_device{}();
  for (const std::string& text : settings.logit_bias) {
    const auto bias = read_logit_bias(text);
    if (!bias) {
      throw Error(
          ErrorCode::kUsage, fmt::format("wanted TOKEN_ID, + or -, and a number, found '{}'", text),
          command.where("logit-bias"), "such as 15043+1 or 2-inf; `strata tokenize` shows ids");
    }
    options.logit_bias.push_back(*bias);
  }
  return options;
}

std::optional<engine::JsonGrammar> answer_grammar(const Command& command) {
  const Settings& settings = command.settings;
  if (settings.json_schema.empty()) return std::nullopt;
  const std::string where = command.where("json-schema");
  if (settings.ignore_eos)
    throw Error(ErrorCode::kUsage, "--ignore-eos lets no answer end, and JSON has an end", where,
                "leave --ignore-eos out");
  const auto schema =
      nlohmann::ordered_json::parse(read_text_file(settings.json_schema, where), nullptr, false);
  if (schema.is_discarded())
    throw Error(ErrorCode::kUsage, settings.json_schema + " is no JSON", where,
                "give a file that holds a JSON schema");
  return engine::compile_json_schema(schema);
}

std::string gather_prompt(const Command& command, std::string_view verb) {
  const Settings& settings = command.settings;
  std::string prompt;
  const auto add_standard_input = [&] {
    append_text(prompt, read_descriptor(STDIN_FILENO, "standard input", "stdin"), "stdin");
  };
  const bool has_pipe = settings.file.empty() && standard_input_is_given();
  if (has_pipe) add_standard_input();
  for (const std::string& path : settings.file) {
    if (path == "-")
      add_standard_input();
    else
      append_text(prompt, read_text_file(path, command.where("file")), path);
  }
  if (!has_pipe && std::ranges::count(settings.file, "-") == 0 && standard_input_has_text())
    notice("note: what stands in standard input is not read (-f - reads it, too)");
  if (command.is_set("prompt")) append_text(prompt, settings.prompt, command.where("prompt"));
  if (!prompt.empty()) return prompt;
  if (has_pipe || !settings.file.empty() || command.is_set("prompt")) {
    throw Error(ErrorCode::kBadText, "the prompt is empty", fmt::format("strata {}", verb),
                "give a text with -p or -f");
  }
  throw Error(ErrorCode::kUsage, "there is no prompt", fmt::format("strata {}", verb),
              "give one with -p TEXT, -f FILE or through a pipe");
}

std::vector<engine::ChatMessage> gather_messages(const Command& command, std::string_view verb) {
  std::vector<engine::ChatMessage> messages;
  if (!command.settings.system.empty()) messages.push_back({"system", command.settings.system});
  messages.push_back({"user", gather_prompt(command, verb)});
  return messages;
}

}  // namespace strata::cli
