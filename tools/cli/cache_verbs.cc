// `strata cache list` and `rm`: the saved contexts as files, and the space they take.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/byte_text.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/json_output.h"
#include "tools/cli/notices.h"
#include "tools/cli/saved_contexts.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

using engine::bytes_text;
using engine::grouped_number;
using nlohmann::ordered_json;
using tiers::PackEntry;

/// What the whole directory takes.
struct Totals {
  uint64_t used_bytes = 0;  // packs, their index rows and sessions
  uint64_t budget_bytes = 0;
  std::optional<uint64_t> free_bytes;  // nothing where there is no directory
};

ordered_json list_json(std::span<const PackEntry> packs, const Totals& totals) {
  auto list = ordered_json::array();
  for (const PackEntry& pack : packs) {
    ordered_json json = {{"name", pack.name},
                         {"first_pos", pack.first_pos},
                         {"tokens", pack.n_positions},
                         {"bytes", pack.bytes},
                         {"rows_bytes", pack.rows_bytes},
                         {"last_use", utc_time_text(pack.used_ns)},
                         {"pinned_by", pack.sessions}};
    if (!pack.problem.empty()) json["problem"] = pack.problem;
    list.push_back(std::move(json));
  }
  ordered_json json = {
      {"packs", list}, {"used_bytes", totals.used_bytes}, {"budget_bytes", totals.budget_bytes}};
  if (totals.free_bytes) json["free_bytes"] = *totals.free_bytes;
  return json;
}

/// The last used first.
std::string list_text(std::vector<PackEntry> packs, const Totals& totals) {
  const size_t digits = shown_digits(packs);
  std::ranges::stable_sort(packs, std::greater{}, &PackEntry::used_ns);
  std::vector<std::vector<std::string>> rows = {
      {"PACK", "FROM", "TOKENS", "SIZE", "LAST USE", "PINNED BY", "STATE"}};
  uint64_t n_tokens = 0, rows_bytes = 0;
  for (const PackEntry& pack : packs) {
    n_tokens += pack.n_positions;
    rows_bytes += pack.rows_bytes;
    const bool is_known = pack.problem.empty();
    rows.push_back({pack.name.substr(0, digits), is_known ? grouped_number(pack.first_pos) : "?",
                    is_known ? grouped_number(pack.n_positions) : "?", bytes_text(pack.bytes),
                    local_time_text(pack.used_ns), fmt::format("{}", fmt::join(pack.sessions, " ")),
                    is_known ? "ok" : "NOT WHOLE: " + one_line(pack.problem)});
  }
  std::string out = packs.empty() ? "" : table_text(rows, "<>>><<<") + "\n";
  out += fmt::format("{} in {}; {} of {} used", count_text(n_tokens, "token"),
                     count_text(packs.size(), "pack"), bytes_text(totals.used_bytes),
                     bytes_text(totals.budget_bytes));
  if (rows_bytes > 0) out += fmt::format(", index rows {}", bytes_text(rows_bytes));
  if (totals.free_bytes)
    out += fmt::format("; the disk has {} free", bytes_text(*totals.free_bytes));
  return out;
}

/// The pack whose name begins so. Errors: kUsage where it is not exactly one, or a session pins it.
const PackEntry& asked_pack(std::span<const PackEntry> packs, const std::string& beginning,
                            const std::string& directory) {
  constexpr size_t kDigitsMin = 4;
  const PackEntry* found = nullptr;
  size_t n_found = 0;
  for (const PackEntry& pack : packs) {
    if (beginning.size() < kDigitsMin || !pack.name.starts_with(beginning)) continue;
    found = &pack;
    ++n_found;
  }
  if (n_found == 0) {
    throw Error(ErrorCode::kUsage, fmt::format("there is no pack '{}'", beginning), directory,
                "`strata cache list` lists them; at least 4 digits of a name");
  }
  if (n_found > 1) {
    throw Error(ErrorCode::kUsage,
                fmt::format("the names of {} packs begin with '{}'", n_found, beginning), directory,
                "name more digits; `strata cache list --json` has whole names");
  }
  if (!found->sessions.empty()) {
    throw Error(ErrorCode::kUsage,
                fmt::format("pack '{}' is kept by {}", beginning, fmt::join(found->sessions, ", ")),
                directory, fmt::format("`strata session rm {}` lets it go", found->sessions[0]));
  }
  return *found;
}

std::vector<std::string> asked_packs(const Command& command, std::span<const PackEntry> packs) {
  const Settings& settings = command.settings;
  if (settings.name.empty() && !settings.all) {
    throw Error(ErrorCode::kUsage, "no pack is named", "strata cache rm",
                "`strata cache list` lists them; --all removes those that no session keeps");
  }
  std::vector<std::string> asked;
  for (const std::string& beginning : settings.name)
    asked.push_back(asked_pack(packs, beginning, settings.session_dir).name);
  for (const PackEntry& pack : packs)
    if (settings.all) asked.push_back(pack.name);
  return asked;
}

}  // namespace

int run_cache_list(const Command& command) {
  AnswerSink sink = AnswerSink::open("");
  auto packs = open_saved_contexts(command);
  std::vector<PackEntry> entries;
  Totals totals;
  totals.budget_bytes = command.settings.cache_budget;
  if (packs) {
    entries = packs->packs();
    totals.used_bytes = packs->used_bytes();
    totals.free_bytes = packs->free_bytes();
  }
  sink.write_line(command.settings.json ? json_text(list_json(entries, totals))
                                        : list_text(std::move(entries), totals));
  sink.close();
  return 0;
}

int run_cache_remove(const Command& command) {
  AnswerSink sink = AnswerSink::open("");
  auto packs = open_saved_contexts(command);
  std::vector<PackEntry> entries;
  if (packs) entries = packs->packs();
  const auto asked = asked_packs(command, entries);
  std::vector<std::string> names;
  if (packs) names = packs->remove_unpinned(asked);
  auto removed = ordered_json::array();
  uint64_t bytes = 0;
  std::string out;
  for (const std::string& name : names) {
    const auto entry = std::ranges::find(entries, name, &PackEntry::name);
    bytes += entry->bytes;
    removed.push_back({{"name", name}, {"bytes", entry->bytes}});
    out += fmt::format("removed {}: {}\n", name.substr(0, shown_digits(entries)),
                       bytes_text(entry->bytes));
  }
  const auto n_pinned = std::ranges::count_if(
      entries, [](const PackEntry& entry) { return !entry.sessions.empty(); });
  if (command.settings.json) {
    sink.write_line(json_text({{"removed", removed}, {"bytes", bytes}}));
  } else {
    sink.write_line(out + fmt::format("{} removed, {} given back", count_text(names.size(), "pack"),
                                      bytes_text(bytes)));
    if (command.settings.all && n_pinned > 0)
      notice(fmt::format("{} kept by sessions; `strata session rm NAME` lets go of them",
                         count_text(static_cast<uint64_t>(n_pinned), "pack")));
  }
  sink.close();
  return 0;
}

}  // namespace strata::cli
