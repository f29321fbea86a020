#include "tools/cli/command_line.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "tiers/session_manifest.h"
#include "tools/cli/input_files.h"

namespace strata::cli {
namespace {

std::optional<std::string> non_empty(std::optional<std::string> value) {
  return value && !value->empty() ? value : std::nullopt;
}

/// The config file to read and whether it must be there; nothing where no place is known.
std::optional<std::pair<std::string, bool>> config_path(const Command& stated,
                                                        const GetVariable& get) {
  if (!stated.settings.config.empty()) return std::pair{stated.settings.config, true};
  if (const auto base = non_empty(get("XDG_CONFIG_HOME")))
    return std::pair{*base + "/strata/config.toml", false};
  if (const auto home = non_empty(get("HOME")))
    return std::pair{*home + "/.config/strata/config.toml", false};
  return std::nullopt;
}

/// The folder of the spill file that --nvme means; empty for none.
std::string spill_directory(const std::string& asked, const GetVariable& get) {
  if (asked == "off") return "";
  if (!asked.empty()) return asked;
  if (const auto base = non_empty(get("XDG_CACHE_HOME"))) return *base + "/strata/spill";
  if (const auto home = non_empty(get("HOME"))) return *home + "/.cache/strata/spill";
  return "";
}

/// The folder of verdicts on models and of profiles of machines; empty where none is known.
std::string profile_directory(const GetVariable& get) {
  if (const auto base = non_empty(get("XDG_CACHE_HOME"))) return *base + "/strata/profiles";
  if (const auto home = non_empty(get("HOME"))) return *home + "/.cache/strata/profiles";
  return "";
}

/// As the C library takes the locale: the first of these that is set and not empty.
bool is_utf8_locale(const GetVariable& get) {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const auto value = non_empty(get(name));
    if (!value) continue;
    std::string lower = *value;
    std::ranges::transform(lower, lower.begin(), [](char c) {
      return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    return lower.ends_with("utf-8") || lower.ends_with("utf8");
  }
  return false;
}

/// The folder of saved contexts that --session-dir means; empty where none is known.
std::string session_directory(const std::string& asked, const GetVariable& get) {
  if (!asked.empty()) return asked;
  if (const auto base = non_empty(get("XDG_DATA_HOME"))) return *base + "/strata/sessions";
  if (const auto home = non_empty(get("HOME"))) return *home + "/.local/share/strata/sessions";
  return "";
}

void refuse_together(const Command& command, std::string_view one, std::string_view other,
                     const std::string& why) {
  throw Error(ErrorCode::kUsage,
              fmt::format("--{} and --{} contradict each other: {}", one, other, why),
              command.where(other), "leave one of them out");
}

void check_prompt_options(const Command& command) {
  const Settings& settings = command.settings;
  if (settings.raw && !settings.system.empty()) {
    refuse_together(command, "raw", "system", "raw text has no system prompt");
  }
  if (std::ranges::count(settings.file, "-") > 1) {
    throw Error(ErrorCode::kUsage, "standard input is named twice", "--file", "name - once");
  }
  if (std::ranges::any_of(settings.stop, &std::string::empty)) {
    throw Error(ErrorCode::kUsage, "wanted a text, found an empty one", command.where("stop"),
                "leave --stop out to stop nowhere");
  }
}

/// `eval` judges methods whatever --attn says.
void check_attention_options(const Command& command, const VerbSyntax& verb) {
  const Settings& settings = command.settings;
  if (verb.bit == kEval) return;
  if (!settings.attn_layers.empty() && (settings.attn == "exact" || settings.attn == "auto"))
    refuse_together(command, "attn", "attn-layers",
                    settings.attn == "exact"
                        ? "exact attention has no layers that choose"
                        : "auto takes the layers that a method was judged with");
  if (settings.sparse_prefill == "off") return;
  if (settings.attn == "exact")
    refuse_together(command, "attn", "sparse-prefill", "exact attention reads all of a prompt");
  if (settings.attn == "auto")
    refuse_together(command, "attn", "sparse-prefill",
                    "auto takes what was judged on prompts that were read exactly");
}

void check_rope_options(const Command& command) {
  const Settings& settings = command.settings;
  if (settings.rope_scaling == "none" && command.is_set("rope-factor")) {
    refuse_together(command, "rope-scaling", "rope-factor", "no scaling has no factor");
  }
  if (settings.rope_scaling != "none" && settings.rope_scaling != "linear") return;
  for (const std::string_view yarn : {"yarn-orig-ctx", "yarn-ext-factor", "yarn-attn-factor",
                                      "yarn-beta-fast", "yarn-beta-slow"}) {
    if (command.is_set(yarn))
      refuse_together(command, "rope-scaling", yarn, "the scaling is not yarn");
  }
}

}  // namespace

std::string Command::where(std::string_view option) const {
  const auto origin = origins.find(option);
  return origin == origins.end() ? fmt::format("--{}", option) : origin->second;
}

RawValues values_from_environment(const VerbSyntax& verb, const GetVariable& get) {
  RawValues values;
  for (const OptionSpec& option : option_table()) {
    if ((option.verbs & verb.bit) == 0 || option.sources == Sources::kFlagOnly) continue;
    const std::string name = environment_name(option);
    // An empty variable counts as absent, as a shell's `VAR= command` is meant.
    if (auto value = non_empty(get(name)))
      values[std::string(option.name)] = {{std::move(*value)}, name};
  }
  return values;
}

Command merge_values(std::span<const RawValues> strongest_first) {
  Command command;
  command.settings = default_settings();
  for (auto source = strongest_first.rbegin(); source != strongest_first.rend(); ++source) {
    for (const auto& [name, value] : *source) {
      const OptionSpec* option = find_option(name);
      STRATA_CHECK(option != nullptr, "no option %s", name.c_str());
      store_option(*option, value.texts, value.where, command.settings);
      command.origins[name] = value.where;
    }
  }
  return command;
}

Command read_command(const VerbSyntax& verb, std::span<const std::string> arguments,
                     const GetVariable& get) {
  std::vector<RawValues> sources;
  sources.push_back(values_from_arguments(verb, arguments));
  if (sources.front().contains("help") || sources.front().contains("version")) {
    return merge_values(sources);  // help must come also beside a broken environment or config file
  }
  sources.push_back(values_from_environment(verb, get));
  Command stated = merge_values(sources);
  if (const auto path = config_path(stated, get)) {
    const auto text = path->second
                          ? std::optional(read_text_file(path->first, stated.where("config")))
                          : read_text_file_if_present(
                                path->first,
                                "check that the file may be read and whose HOME this is, or "
                                "name another file with --config");
    if (text) {
      sources.push_back(values_from_config(verb, *text, path->first));
      stated = merge_values(sources);
    }
  }
  check_command(verb, stated);
  stated.settings.batch_is_named = stated.is_set("batch-size");
  stated.settings.nvme_is_named = !stated.settings.nvme.empty();
  stated.settings.nvme = spill_directory(stated.settings.nvme, get);
  stated.settings.session_dir = session_directory(stated.settings.session_dir, get);
  stated.settings.profile_dir = profile_directory(get);
  stated.settings.is_utf8 = is_utf8_locale(get);
  return stated;
}

void check_command(const VerbSyntax& verb, const Command& command) {
  check_prompt_options(command);
  check_attention_options(command, verb);
  check_rope_options(command);
  if (command.settings.json && command.settings.ids) {
    refuse_together(command, "json", "ids", "both choose the form of the output");
  }
  if (!command.settings.session.empty()) {
    if (command.settings.no_cache)
      refuse_together(command, "session", "no-cache", "a named context is a saved one");
    if (command.settings.no_save)
      refuse_together(command, "session", "no-save", "a named context is a saved one");
    if (!tiers::is_session_name(command.settings.session))
      throw Error(ErrorCode::kUsage,
                  fmt::format("'{}' is no name of a session", command.settings.session),
                  command.where("session"),
                  "use 1 to 64 letters, digits, dots, dashes and underscores, no dot first");
  }
  const std::string& format = command.settings.output_format;
  if (command.settings.json && command.is_set("output-format") && !format.starts_with("json")) {
    refuse_together(command, "json", "output-format", "both choose the form of the output");
  }
  if (command.settings.all && !command.settings.name.empty()) {
    refuse_together(command, "name", "all", "--all is every one");
  }
  const bool needs_model = find_flag("-m", verb.bit) != nullptr &&
                           (verb.bit & kModelIsOptional) == 0 && !command.settings.help &&
                           !command.settings.version;
  if (needs_model && command.settings.model.empty()) {
    throw Error(ErrorCode::kUsage, "no model is named", fmt::format("strata {}", verb.name),
                verb.positional == "model"
                    ? fmt::format("strata {} MODEL.gguf", verb.name)
                    : "name a GGUF file with -m MODEL.gguf, STRATA_MODEL or the config file");
  }
}

}  // namespace strata::cli
