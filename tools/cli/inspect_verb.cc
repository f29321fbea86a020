// `strata inspect`: what a model file holds, whether Strata runs it, and with --check whether every
// part of it can be read.
#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/byte_text.h"
#include "engine/inspect.h"
#include "engine/template/chat_template.h"
#include "engine/text/tokenizer.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/json_output.h"
#include "tools/cli/notices.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

using engine::bytes_text;
using engine::grouped_number;
using engine::ModelFacts;
using nlohmann::ordered_json;

std::string number_or_unknown(const std::optional<uint32_t>& value) {
  return value ? grouped_number(*value) : "?";
}

std::string parameters_text(uint64_t n) {
  if (n >= 1'000'000'000) return fmt::format("{:.2f} B parameters", static_cast<double>(n) / 1e9);
  return fmt::format("{:.1f} M parameters", static_cast<double>(n) / 1e6);
}

std::string layers_text(const ModelFacts& facts) {
  std::string text = number_or_unknown(facts.n_layers) + " layers";
  std::map<std::string, uint64_t> kinds;
  for (const LayerShape& layer : facts.layers) {
    std::string kind(engine::layer_kind_name(layer.kind));
    if (layer.window > 0) kind += fmt::format(" {}", layer.window);
    ++kinds[kind];
  }
  if (kinds.size() < 2) return text;
  std::string parts;
  for (const auto& [kind, count] : kinds)
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", count, kind);
  return text + fmt::format(" ({})", parts);
}

std::string facts_text(const ModelFacts& facts, const std::string& path) {
  std::string out = fmt::format(
      "{} | {} | {} | {}, GGUF v{}", facts.name.empty() ? path : facts.name, facts.architecture,
      parameters_text(facts.parameters), bytes_text(facts.file_bytes), facts.gguf_version);
  if (facts.n_shards > 1) out += fmt::format(" in {} files", facts.n_shards);
  out += fmt::format("\nlayers     {}, {} / {} heads x {}, d_model {}, d_ff {}\n",
                     layers_text(facts), number_or_unknown(facts.n_heads),
                     number_or_unknown(facts.n_kv_heads), number_or_unknown(facts.head_dim),
                     number_or_unknown(facts.d_model), number_or_unknown(facts.d_ff));
  out += fmt::format("context    trained for {} tokens", number_or_unknown(facts.n_ctx_train));
  if (facts.kv_bytes_per_token)
    out += fmt::format("; KV {} per token in f16", bytes_text(*facts.kv_bytes_per_token));
  out += fmt::format("\ntensors    {}:", facts.tensors.size());
  const char* separator = " ";
  for (const auto& use : facts.tensor_types) {
    out += fmt::format("{}{} {} ({})", separator, use.n_tensors, use.type, bytes_text(use.bytes));
    separator = ", ";
  }
  out += fmt::format("\ntokenizer  {}{}{}, {} tokens\n",
                     facts.tokenizer_model.empty() ? "none" : facts.tokenizer_model,
                     facts.tokenizer_pre.empty() ? "" : " ", facts.tokenizer_pre,
                     grouped_number(facts.n_tokens.value_or(0)));
  out += fmt::format(
      "template   {}\n",
      facts.chat_template ? "chat template of " + bytes_text(facts.chat_template->size()) : "none");
  if (!facts.license.empty()) out += fmt::format("license    {}\n", facts.license);
  return out;
}

void put(ordered_json& json, const char* key, const auto& optional) {
  if (optional) json[key] = *optional;
}

ordered_json facts_json(const ModelFacts& facts) {
  ordered_json json = {{"architecture", facts.architecture}, {"name", facts.name},
                       {"file_bytes", facts.file_bytes},     {"gguf_version", facts.gguf_version},
                       {"n_shards", facts.n_shards},         {"parameters", facts.parameters}};
  put(json, "n_layers", facts.n_layers);
  put(json, "n_heads", facts.n_heads);
  put(json, "n_kv_heads", facts.n_kv_heads);
  put(json, "head_dim", facts.head_dim);
  put(json, "d_model", facts.d_model);
  put(json, "d_ff", facts.d_ff);
  put(json, "vocab_size", facts.vocab_size);
  put(json, "n_ctx_train", facts.n_ctx_train);
  put(json, "kv_bytes_per_token", facts.kv_bytes_per_token);
  json["tensor_types"] = ordered_json::array();
  for (const auto& use : facts.tensor_types) {
    json["tensor_types"].push_back(
        {{"type", use.type}, {"n_tensors", use.n_tensors}, {"bytes", use.bytes}});
  }
  json["tokenizer"] = {{"model", facts.tokenizer_model}, {"pre", facts.tokenizer_pre}};
  put(json["tokenizer"], "n_tokens", facts.n_tokens);
  if (facts.chat_template)
    json["chat_template"] = {{"bytes", facts.chat_template->size()},
                             {"sha256", facts.chat_template_sha256}};
  json["license"] = facts.license;
  json["can_run"] = facts.can_run;
  if (!facts.can_run)
    json["why_not"] = {
        {"message", facts.why_not}, {"where", facts.why_not_where}, {"remedy", facts.remedy}};
  return json;
}

/// One thing --check looked at.
struct CheckLine {
  std::string check;
  bool ok = true;
  std::string found;
};

/// Runs `look`; an Error is what it found.
CheckLine check_line(const std::string& name, const std::function<std::string()>& look) {
  try {
    return {name, true, look()};
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled || error.code() == ErrorCode::kIo) throw;
    return {name, false, fmt::format("{} [{}]", error.what(), error.where())};
  }
}

std::vector<CheckLine> check_file(const engine::GgufFile& file, const ModelFacts& facts) {
  std::vector<CheckLine> lines;
  lines.push_back(
      {"model", facts.can_run, facts.can_run ? "Strata runs this architecture" : facts.why_not});
  Progress progress("checking", bytes_text, "/s");
  const auto report = engine::check_tensors(file, [&](uint64_t done, uint64_t total) {
    progress.update(done, total);
    return !interrupt_flag().load();
  });
  progress.finish();
  for (const auto& problem : report.problems) {
    lines.push_back({"tensor " + problem.tensor, false,
                     fmt::format("{} NaN and {} infinite values, the first at element {}",
                                 problem.n_nan, problem.n_infinite, problem.first_element)});
  }
  if (report.problems.empty()) {
    lines.push_back({"tensors", true,
                     fmt::format("{} decoded, {}, all finite", report.n_tensors,
                                 bytes_text(report.bytes_read))});
  }
  lines.push_back(check_line("tokenizer", [&] {
    const auto tokenizer = engine::Tokenizer::make(engine::read_tokenizer_spec(file));
    const std::string sample = "Strata 1 2 3";
    engine::EncodeOptions options;
    options.add_special = false;
    const auto back = tokenizer->decode(tokenizer->encode(sample, options));
    if (!std::string_view(back).ends_with(sample)) {
      throw Error(ErrorCode::kBadFile, fmt::format("'{}' came back as '{}'", sample, back),
                  "tokenizer.ggml");
    }
    return fmt::format("{} tokens, text survives the round trip", tokenizer->vocab_size());
  }));
  if (facts.chat_template) {
    lines.push_back(check_line("template", [&]() -> std::string {
      const auto parsed = engine::ChatTemplate::parse(*facts.chat_template);
      (void)parsed.render({{"user", "Hello"}}, {});
      return "renders a user turn";
    }));
  }
  return lines;
}

}  // namespace

int run_inspect(const Command& command) {
  const Settings& settings = command.settings;
  AnswerSink sink = AnswerSink::open(settings.output);
  const auto file = engine::GgufFile::open(settings.model);
  const ModelFacts facts = engine::inspect_model(file);
  std::vector<CheckLine> checks;
  if (settings.check) checks = check_file(file, facts);

  bool all_ok = true;
  std::string out;
  ordered_json json = facts_json(facts);
  if (!settings.json) out = facts_text(facts, settings.model);
  for (const CheckLine& line : checks) {
    all_ok = all_ok && line.ok;
    json["checks"].push_back({{"check", line.check}, {"ok", line.ok}, {"found", line.found}});
    out +=
        fmt::format("{:<10} {}: {}\n", line.ok ? "ok" : "FAILED", line.check, one_line(line.found));
  }
  if (settings.verbose) {
    for (const auto& tensor : facts.tensors) {
      out += fmt::format("{:<6} {:>24}  {}\n", tensor_type_info(tensor.type).name,
                         fmt::format("[{}]", fmt::join(tensor.shape, ", ")), one_line(tensor.name));
    }
  }
  if (facts.can_run)
    out += fmt::format("runs       try: strata run -m {} -p \"Hello\"\n", settings.model);
  else
    out += fmt::format("cannot run {} [{}] (remedy: {})\n", facts.why_not, facts.why_not_where,
                       facts.remedy);
  sink.write(settings.json ? json_text(json) + "\n" : out);
  sink.close();
  return all_ok ? 0 : exit_code(ErrorCode::kBadFile);
}

}  // namespace strata::cli
