#include "tools/cli/attention_profile.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <sstream>

#include "base/error.h"
#include "cpu_attn/kernels.h"
#include "engine/fingerprint.h"
#include "tools/cli/input_files.h"
#include "tools/cli/program.h"
#include "tools/cli/replaced_file.h"
#include "tools/cli/request_options.h"
#include "tools/cli/value_readers.h"

namespace strata::cli {
namespace {

constexpr uint64_t kContextFactor = 2;  // of the judged context, as far as a verdict is trusted
constexpr int64_t kVersion = 2;         // of the file's keys and of what they mean

struct RealKey {
  const char* name;
  double eval::Verdict::*value;
};
constexpr RealKey kReals[] = {{"kld", &eval::Verdict::kl},
                              {"kld_of_oracle", &eval::Verdict::kl_of_oracle},
                              {"top1_agreement", &eval::Verdict::top1},
                              {"top1_of_oracle", &eval::Verdict::top1_of_oracle},
                              {"mass_recall", &eval::Verdict::mass},
                              {"mass_of_oracle", &eval::Verdict::mass_of_oracle},
                              {"kv_read_share", &eval::Verdict::kv_read_share},
                              {"read_bytes_per_token", &eval::Verdict::read_bytes_per_token},
                              {"kept_score", &eval::Verdict::kept}};

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw Error(ErrorCode::kBadFile, why, path, "remove the file, or run `strata eval --gate` again");
}

eval::Verdict read_verdict(const toml::table& table, const std::string& path) {
  eval::Verdict of{.method = table["method"].value_or(std::string()),
                   .budget = table["budget"].value_or(std::string())};
  const auto passes = table["passes"].value<bool>();
  if (of.method.empty() || of.budget.empty() || !passes)
    refuse(path, "wanted method, budget and passes in every [[verdict]]");
  of.passes = *passes;
  of.layers = table["layers"].value_or(std::string());
  if (!of.layers.empty() && !read_layer_modes(of.layers))
    refuse(path, fmt::format("wanted layers such as 0-1:dense, found '{}'", of.layers));
  of.reason = table["reason"].value_or(std::string());
  of.context = static_cast<uint64_t>(table["context"].value_or(int64_t{0}));
  of.tokens = static_cast<uint64_t>(table["tokens"].value_or(int64_t{0}));
  of.n_tasks = static_cast<uint64_t>(table["tasks"].value_or(int64_t{0}));
  of.n_cases = static_cast<uint64_t>(table["cases"].value_or(int64_t{0}));
  of.passed_unjudged = of.passes && of.n_tasks == 0;
  of.passes = of.passes && !of.passed_unjudged;
  for (const RealKey& key : kReals) of.*key.value = table[key.name].value_or(of.*key.value);
  return of;
}

}  // namespace

std::string profile_path(const std::string& folder, const tiers::Hash128& model) {
  return fmt::format("{}/{:016x}{:016x}.toml", folder, model.high, model.low);
}

void write_profile(const std::string& path, std::span<const eval::Verdict> verdicts,
                   const std::string& date) {
  toml::array list;
  for (const eval::Verdict& of : verdicts) {
    toml::table table{{"method", of.method},
                      {"budget", of.budget},
                      {"passes", of.passes},
                      {"context", static_cast<int64_t>(of.context)},
                      {"tokens", static_cast<int64_t>(of.tokens)},
                      {"tasks", static_cast<int64_t>(of.n_tasks)},
                      {"cases", static_cast<int64_t>(of.n_cases)}};
    if (!of.layers.empty()) table.insert("layers", of.layers);
    if (!of.reason.empty()) table.insert("reason", of.reason);
    for (const RealKey& key : kReals) table.insert(key.name, of.*key.value);
    list.push_back(std::move(table));
  }
  const toml::table root{
      {"version", kVersion}, {"written_by", version_text()}, {"date", date}, {"verdict", list}};
  std::ostringstream text;
  text << root << "\n";
  replace_cache_file(path, text.str(), "the verdict");
}

std::optional<std::vector<eval::Verdict>> read_profile(const std::string& path) {
  const auto text = read_text_file_if_present(
      path, "check that the file may be read, or remove it and run `strata eval --gate` again");
  if (!text) return std::nullopt;
  try {
    const toml::table root = toml::parse(*text, path);
    const auto version = root["version"].value_or(int64_t{0});
    if (version != kVersion)
      refuse(path, fmt::format("wanted version {}, found {}", kVersion, version));
    std::vector<eval::Verdict> verdicts;
    if (const toml::array* list = root["verdict"].as_array())
      for (const toml::node& node : *list) {
        if (!node.is_table()) refuse(path, "wanted tables under verdict");
        verdicts.push_back(read_verdict(*node.as_table(), path));
      }
    return verdicts;
  } catch (const toml::parse_error& error) {
    refuse(path, fmt::format("not TOML: {}", error.description()));
  }
}

std::string choose_attention(const std::string& folder, engine::EngineOptions& options) {
  const auto file = engine::GgufFile::open(options.model_path);
  engine::RopeOverrides rope = options.rope;
  rope.n_ctx = options.n_ctx;
  const auto spec = engine::read_model_spec(file, rope);
  const CpuIsa isa = cpu_attn::choose_kernels(options.cpu_isa).isa;
  if (folder.empty()) return "attention: exact (no cache folder is known for verdicts)";
  const auto verdicts =
      read_profile(profile_path(folder, engine::model_fingerprint(file, spec, isa)));
  if (!verdicts)
    return "attention: exact (no verdict on this model yet: `strata eval --gate` makes one)";
  const eval::Verdict* best = eval::cheapest(*verdicts);
  if (best == nullptr && std::ranges::any_of(*verdicts, &eval::Verdict::passed_unjudged))
    return "attention: exact (the verdicts are of an earlier gate, which judged no answers: run "
           "`strata eval --gate` again)";
  if (best == nullptr) return "attention: exact (no method passed `strata eval --gate`)";
  const uint64_t n_ctx = options.n_ctx > 0 ? options.n_ctx : spec.shape.n_ctx_train;
  if (n_ctx > kContextFactor * best->context)
    return fmt::format(
        "attention: exact (method {} was judged on {} tokens only: `strata eval --gate` "
        "with a larger -c, or run with a smaller one)",
        best->method, best->context);
  options.method = index::find_method(best->method);
  options.selection.budget = kv_budget(best->budget, "verdict");
  if (!best->layers.empty()) options.selection.layers = *read_layer_modes(best->layers);
  return fmt::format(
      "attention: {} at a budget of {}{} (KL {:.4f} nat to exact over {} tokens; {})", best->method,
      best->budget, best->layers.empty() ? "" : fmt::format(", layers {}", best->layers), best->kl,
      best->tokens, answers_text(*best));
}

}  // namespace strata::cli
