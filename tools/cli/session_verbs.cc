// `strata session list`, `show` and `rm`: the named sessions among the saved contexts.
#include <fmt/format.h>

#include <map>
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

int print(const std::string& text) {
  AnswerSink sink = AnswerSink::open("");
  sink.write(text);
  sink.close();
  return 0;
}

std::string state_text(const std::string& problem) {
  return problem.empty() ? "ok" : "NOT WHOLE: " + one_line(problem);
}

/// One pack of a session that is shown; `entry` is null where the file is missing.
struct ShownPack {
  std::string name;
  const tiers::PackEntry* entry = nullptr;

  std::string problem() const { return entry == nullptr ? "the file is missing" : entry->problem; }
};

std::vector<std::string> others_of(const ShownPack& pack, const std::string& session) {
  std::vector<std::string> others;
  if (pack.entry == nullptr) return others;
  for (const std::string& name : pack.entry->sessions)
    if (name != session) others.push_back(name);
  return others;
}

ordered_json packs_json(std::span<const ShownPack> packs, const std::string& session) {
  auto list = ordered_json::array();
  for (const ShownPack& pack : packs) {
    ordered_json json = {{"name", pack.name}};
    if (pack.entry != nullptr) {
      json["first_pos"] = pack.entry->first_pos;
      json["tokens"] = pack.entry->n_positions;
      json["bytes"] = pack.entry->bytes;
      json["last_use"] = utc_time_text(pack.entry->used_ns);
      json["shared_with"] = others_of(pack, session);
    }
    if (!pack.problem().empty()) json["problem"] = pack.problem();
    list.push_back(std::move(json));
  }
  return list;
}

std::string packs_text(std::span<const ShownPack> packs, const std::string& session,
                       size_t digits) {
  std::vector<std::vector<std::string>> rows = {
      {"PACK", "FROM", "TOKENS", "SIZE", "LAST USE", "STATE", "ALSO KEPT BY"}};
  for (const ShownPack& pack : packs) {
    const auto others = others_of(pack, session);
    const std::string name = pack.name.substr(0, digits);
    if (pack.entry == nullptr) {
      rows.push_back({name, "?", "?", "?", "?", state_text(pack.problem()), ""});
      continue;
    }
    const bool is_known = pack.entry->problem.empty();
    rows.push_back({name, is_known ? grouped_number(pack.entry->first_pos) : "?",
                    is_known ? grouped_number(pack.entry->n_positions) : "?",
                    bytes_text(pack.entry->bytes), local_time_text(pack.entry->used_ns),
                    state_text(pack.entry->problem), fmt::format("{}", fmt::join(others, " "))});
  }
  return table_text(rows, "<>>><<<");
}

}  // namespace

int run_session_list(const Command& command) {
  auto packs = open_saved_contexts(command);
  std::vector<tiers::SessionEntry> sessions;
  std::vector<tiers::PackEntry> entries;
  if (packs) {
    sessions = packs->list();
    entries = packs->packs();
  }
  if (command.settings.json) {
    auto list = ordered_json::array();
    for (const auto& session : sessions)
      list.push_back(session_json(session, session_problem(session, entries)));
    return print(json_text(list) + "\n");
  }
  if (sessions.empty()) {
    notice(fmt::format("no session is saved in {}", command.settings.session_dir));
    return 0;
  }
  std::vector<std::vector<std::string>> rows = {
      {"NAME", "MODEL", "TOKENS", "SIZE", "SAVED", "STATE"}};
  for (const auto& session : sessions) {
    const bool is_known = session.problem.empty();
    const bool is_seen = session.saved_ns > 0;  // what cannot be opened has no size either
    rows.push_back({session.name, is_known ? one_line(session.model_name) : "?",
                    is_known ? grouped_number(session.n_tokens) : "?",
                    is_seen ? bytes_text(session.bytes) : "?",
                    is_seen ? local_time_text(session.saved_ns) : "?",
                    state_text(session_problem(session, entries))});
  }
  return print(table_text(rows, "<<>><<"));
}

int run_session_show(const Command& command) {
  const Settings& settings = command.settings;
  auto packs = open_saved_contexts(command);
  const auto asked = asked_sessions(command, kSessionShowSyntax, packs ? &*packs : nullptr);
  if (asked.size() > 1) {
    throw Error(ErrorCode::kUsage, fmt::format("{} sessions are named", asked.size()),
                command.where("name"), "name one");
  }
  const tiers::SessionEntry& session = asked.front();
  const auto manifest = packs->session(session.name);
  if (!manifest) {
    throw Error(ErrorCode::kIo, fmt::format("session '{}' was just removed", session.name),
                settings.session_dir, "`strata session list` lists those that are left");
  }
  const auto entries = packs->packs();
  std::map<std::string, const tiers::PackEntry*> entry_of;
  for (const auto& entry : entries) entry_of[entry.name] = &entry;
  std::vector<ShownPack> shown;
  for (const std::string& name : manifest->packs) {
    const auto found = entry_of.find(name);
    shown.push_back({name, found == entry_of.end() ? nullptr : found->second});
  }
  const std::string problem = session_problem(session, entries);
  const std::string fingerprint =
      fmt::format("{:016x}{:016x}", session.model.high, session.model.low);
  if (settings.json) {
    ordered_json json = session_json(session, problem);
    json["model_fingerprint"] = fingerprint;
    json["packs"] = packs_json(shown, session.name);
    return print(json_text(json) + "\n");
  }
  return print(
      fmt::format("session  {}\nmodel    {} ({})\ntokens   {} in {}\nsize     {}\nsaved    {}\n"
                  "state    {}\n\n{}",
                  session.name, one_line(session.model_name), fingerprint,
                  grouped_number(session.n_tokens), count_text(session.n_packs, "pack"),
                  bytes_text(session.bytes), local_time_text(session.saved_ns), state_text(problem),
                  packs_text(shown, session.name, shown_digits(entries))));
}

int run_session_remove(const Command& command) {
  auto packs = open_saved_contexts(command);
  const auto asked = asked_sessions(command, kSessionRemoveSyntax, packs ? &*packs : nullptr);
  AnswerSink sink = AnswerSink::open("");
  auto removed = ordered_json::array();
  uint64_t bytes = 0;
  for (const auto& session : asked) {
    const auto given_back = packs->remove(session.name);
    if (!given_back) continue;  // another process was quicker
    bytes += *given_back;
    removed.push_back({{"name", session.name}, {"bytes", *given_back}});
    if (!command.settings.json)
      sink.write_line(
          fmt::format("removed {}: {} given back", session.name, bytes_text(*given_back)));
  }
  if (command.settings.json)
    sink.write_line(json_text({{"removed", removed}, {"bytes", bytes}}));
  else if (removed.size() != 1)
    sink.write_line(fmt::format("{} removed, {} given back", count_text(removed.size(), "session"),
                                bytes_text(bytes)));
  sink.close();
  return 0;
}

}  // namespace strata::cli
