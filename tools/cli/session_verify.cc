// `strata session verify`: reads every byte of the saved contexts, or of one session, and says what
// is not as it was saved.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "engine/byte_text.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/json_output.h"
#include "tools/cli/notices.h"
#include "tools/cli/saved_contexts.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

using nlohmann::ordered_json;

struct BadFile {
  std::string kind;  // "pack", "session", "rows"
  std::string name;
  std::string problem;
  uint64_t n_bad_blocks = 0;
  std::vector<std::string> sessions;  // of a pack or its rows: those that lose by it
};

struct Verified {
  uint64_t n_packs = 0;
  uint64_t n_sessions = 0;
  uint64_t read_bytes = 0;  // of packs and their index rows
  std::vector<BadFile> bad;
};

/// Those that one of the sessions pins.
std::vector<tiers::PackEntry> packs_of(std::vector<tiers::PackEntry> packs,
                                       std::span<const tiers::SessionEntry> sessions) {
  std::set<std::string> names;
  for (const auto& session : sessions) names.insert(session.name);
  std::erase_if(packs, [&](const tiers::PackEntry& pack) {
    return std::ranges::none_of(pack.sessions,
                                [&](const std::string& name) { return names.contains(name); });
  });
  return packs;
}

void verify_packs(const tiers::PackDirectory& packs, std::span<const tiers::PackEntry> entries,
                  Verified& verified) {
  uint64_t total_bytes = 0;
  for (const auto& entry : entries) total_bytes += entry.bytes;
  Progress progress("checking", engine::bytes_text, "/s");
  for (const auto& entry : entries) {
    if (interrupt_flag().load())
      throw Error(ErrorCode::kCancelled, "the check was stopped", entry.name);
    const auto verdict = packs.verify_pack(entry.name);
    if (!verdict) continue;  // evicted meanwhile
    ++verified.n_packs;
    verified.read_bytes += entry.bytes;
    if (!verdict->problem.empty())
      verified.bad.push_back(
          {"pack", entry.name, verdict->problem, verdict->n_bad_blocks, entry.sessions});
    for (const auto& rows : verdict->rows)
      verified.bad.push_back({"rows", rows.name, rows.problem, 0, entry.sessions});
    progress.update(verified.read_bytes, total_bytes);
  }
  progress.finish();
}

/// Of the manifests, which list() has read; damaged packs count on their own.
void verify_sessions(std::span<const tiers::SessionEntry> sessions, Verified& verified) {
  for (const auto& session : sessions) {
    ++verified.n_sessions;
    const std::string problem = session_problem(session, {});
    if (!problem.empty()) verified.bad.push_back({"session", session.name, problem, 0, {}});
  }
}

std::string verified_json(const Verified& verified) {
  auto bad = ordered_json::array();
  for (const BadFile& file : verified.bad) {
    ordered_json json = {{"kind", file.kind}, {"name", file.name}, {"problem", file.problem}};
    if (file.kind == "pack") json["bad_blocks"] = file.n_bad_blocks;
    if (file.kind != "session") json["sessions"] = file.sessions;
    bad.push_back(std::move(json));
  }
  return json_text({{"packs", verified.n_packs},
                    {"sessions", verified.n_sessions},
                    {"bytes", verified.read_bytes},
                    {"bad", bad}});
}

std::string verified_text(const Verified& verified) {
  std::string out;
  for (const BadFile& file : verified.bad) {
    out += fmt::format("NOT WHOLE {} {}: {}", file.kind, file.name, one_line(file.problem));
    if (!file.sessions.empty()) out += fmt::format(" (kept by {})", fmt::join(file.sessions, ", "));
    out += "\n";
  }
  return out + fmt::format("{} of {} and {} read: {}", count_text(verified.n_packs, "pack"),
                           engine::bytes_text(verified.read_bytes),
                           count_text(verified.n_sessions, "session"),
                           verified.bad.empty() ? "everything is as it was saved"
                                                : fmt::format("{} not whole", verified.bad.size()));
}

}  // namespace

int run_session_verify(const Command& command) {
  AnswerSink sink = AnswerSink::open("");
  auto packs = open_saved_contexts(command);
  Verified verified;
  const bool is_of_some = !command.settings.name.empty();
  std::vector<tiers::SessionEntry> sessions;
  if (is_of_some)
    sessions = asked_sessions(command, kSessionVerifySyntax, packs ? &*packs : nullptr);
  if (packs) {
    auto entries = packs->packs();
    if (is_of_some)
      entries = packs_of(std::move(entries), sessions);
    else
      sessions = packs->list();
    verify_packs(*packs, entries, verified);
    verify_sessions(sessions, verified);
  }
  sink.write_line(command.settings.json ? verified_json(verified) : verified_text(verified));
  sink.close();
  if (verified.bad.empty()) return 0;
  if (!command.settings.json)
    notice(
        "what is not whole is never used: what it held is computed again; `strata session rm` and "
        "`strata cache rm` remove it");
  return exit_code(ErrorCode::kBadFile);
}

}  // namespace strata::cli
