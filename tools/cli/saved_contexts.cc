#include "tools/cli/saved_contexts.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/error.h"
#include "engine/byte_text.h"
#include "tools/cli/option_table.h"

namespace strata::cli {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;

std::time_t seconds_of(int64_t time_ns) { return static_cast<std::time_t>(time_ns / kNsPerSecond); }

/// What was perhaps meant by a name that no session has.
std::string near_names(const std::string& name, std::span<const std::string> known) {
  constexpr size_t kShownMax = 5;
  std::vector<std::string> near;
  if (std::string nearest = nearest_word(name, known); !nearest.empty())
    near.push_back(std::move(nearest));
  for (const std::string& candidate : known) {
    const bool is_new = std::ranges::find(near, candidate) == near.end();
    if (near.size() < kShownMax && is_new && candidate.find(name) != std::string::npos)
      near.push_back(candidate);
  }
  if (!near.empty()) return fmt::format("did you mean {}?", fmt::join(near, " or "));
  return known.empty() ? "no session is saved here; name another folder with --session-dir"
                       : "`strata session list` lists those that there are";
}

}  // namespace

std::optional<tiers::PackDirectory> open_saved_contexts(const Command& command) {
  const std::string& path = command.settings.session_dir;
  if (path.empty()) {
    throw Error(ErrorCode::kUsage, "no folder of saved contexts is known",
                command.where("session-dir"), "name one with --session-dir DIR");
  }
  // Opening would make it. What cannot be examined is left to the opening, which says why.
  std::error_code error;
  if (std::filesystem::status(path, error).type() == std::filesystem::file_type::not_found)
    return std::nullopt;
  return tiers::PackDirectory::open(path, {});
}

std::vector<tiers::SessionEntry> asked_sessions(const Command& command, const VerbSyntax& verb,
                                                const tiers::PackDirectory* packs) {
  const Settings& settings = command.settings;
  if (settings.name.empty() && !settings.all) {
    throw Error(ErrorCode::kUsage, "no session is named", fmt::format("strata {}", verb.name),
                "`strata session list` lists them");
  }
  for (const std::string& name : settings.name)
    (void)tiers::session_file_name(name);  // throws where it reaches another file
  std::vector<tiers::SessionEntry> known;
  if (packs != nullptr) known = packs->list();
  if (settings.all) return known;
  std::vector<std::string> names;
  for (const auto& session : known) names.push_back(session.name);
  std::vector<tiers::SessionEntry> asked;
  for (const std::string& name : settings.name) {
    const auto found = std::ranges::find(known, name, &tiers::SessionEntry::name);
    if (found == known.end()) {
      throw Error(ErrorCode::kUsage, fmt::format("there is no session '{}'", name),
                  settings.session_dir, near_names(name, names));
    }
    const bool is_new = std::ranges::find(asked, name, &tiers::SessionEntry::name) == asked.end();
    if (is_new) asked.push_back(*found);
  }
  return asked;
}

std::string session_problem(const tiers::SessionEntry& session,
                            std::span<const tiers::PackEntry> packs) {
  if (!session.problem.empty()) return session.problem;
  if (session.n_packs_missing > 0)
    return fmt::format("{} of {} missing", session.n_packs_missing,
                       count_text(session.n_packs, "pack"));
  const auto n_damaged = std::ranges::count_if(packs, [&](const tiers::PackEntry& pack) {
    return !pack.problem.empty() &&
           std::ranges::find(pack.sessions, session.name) != pack.sessions.end();
  });
  if (n_damaged == 0) return "";
  return fmt::format("{} of {} damaged", n_damaged, count_text(session.n_packs, "pack"));
}

nlohmann::ordered_json session_json(const tiers::SessionEntry& session,
                                    const std::string& problem) {
  nlohmann::ordered_json json = {{"name", session.name},
                                 {"model", session.model_name},
                                 {"tokens", session.n_tokens},
                                 {"bytes", session.bytes},
                                 {"created", utc_time_text(session.saved_ns)},
                                 {"verified", problem.empty()}};
  if (!problem.empty()) json["problem"] = problem;
  return json;
}

std::string utc_time_text(int64_t time_ns) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(seconds_of(time_ns)));
}

std::string local_time_text(int64_t time_ns) {
  return fmt::format("{:%Y-%m-%d %H:%M}", fmt::localtime(seconds_of(time_ns)));
}

std::string table_text(std::span<const std::vector<std::string>> rows, std::string_view alignment) {
  std::vector<size_t> widths(alignment.size());
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += i == 0 ? "" : "  ";
      line += alignment[i] == '>' ? fmt::format("{:>{}}", row[i], widths[i])
                                  : fmt::format("{:<{}}", row[i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string count_text(uint64_t n, std::string_view noun) {
  return fmt::format("{} {}{}", engine::grouped_number(n), noun, n == 1 ? "" : "s");
}

size_t shown_digits(std::span<const tiers::PackEntry> packs) {
  size_t digits = 12;
  for (size_t i = 1; i < packs.size(); ++i) {  // they are sorted: neighbours have most in common
    const auto [here, there] = std::ranges::mismatch(packs[i].name, packs[i - 1].name);
    digits = std::max(digits, static_cast<size_t>(here - packs[i].name.begin()) + 1);
  }
  return digits;
}

}  // namespace strata::cli
