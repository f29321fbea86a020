// `strata session save`: reads a text as `run` would, answers nothing, and keeps what was read.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/byte_text.h"
#include "engine/context_cache.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/json_output.h"
#include "tools/cli/model_session.h"
#include "tools/cli/notices.h"
#include "tools/cli/request_options.h"
#include "tools/cli/saved_contexts.h"
#include "tools/cli/trace_file.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

using engine::grouped_number;

/// What is there now under the name, whoever of two processes saved it last.
tiers::SessionEntry saved_session(const Command& command) {
  const std::string& name = command.settings.session;
  if (const auto packs = open_saved_contexts(command)) {
    const auto sessions = packs->list();
    const auto found = std::ranges::find(sessions, name, &tiers::SessionEntry::name);
    if (found != sessions.end()) return *found;
  }
  throw Error(ErrorCode::kIo, fmt::format("session '{}' was just removed", name),
              command.settings.session_dir, "save it again");
}

std::string saved_text(const tiers::SessionEntry& session, uint64_t n_cached) {
  std::string text =
      fmt::format("saved {}: {} in {}, {}", session.name, count_text(session.n_tokens, "token"),
                  count_text(session.n_packs, "pack"), engine::bytes_text(session.bytes));
  if (n_cached > 0) text += fmt::format(" ({} were saved before)", grouped_number(n_cached));
  return text;
}

int save_text(const Command& command, Trace* trace) {
  const Settings& settings = command.settings;
  if (settings.session.empty()) {
    throw Error(ErrorCode::kUsage, "no name is given", "strata session save",
                "strata session save NAME -m MODEL.gguf -f DOCUMENT");
  }
  AnswerSink sink = AnswerSink::open("");
  if (!open_saved_contexts(command))  // what cannot be a folder is refused before reading
    (void)tiers::PackDirectory::open(settings.session_dir, {});
  const auto messages = gather_messages(command, kSessionSaveSyntax.name);
  Command unanswered = command;
  unanswered.settings.predict = 0;
  ModelSession session = ModelSession::open(kSessionSaveSyntax, unanswered, trace);
  const auto text = session.encode(messages);
  if (settings.verbose) notice("text: " + session.rendered(messages));
  session.check_fits(text);
  session.load();
  const engine::Generation read = session.answer(text, {});
  if (read.finish_reason == engine::FinishReason::kCancelled) {
    throw Error(ErrorCode::kCancelled,
                fmt::format("the text was not read to its end; session '{}' is as it was",
                            settings.session),
                "strata session save", "the same command goes on where whole packs end");
  }
  session.say_tiers();
  session.save();
  const tiers::SessionEntry saved = saved_session(command);
  if (settings.json) {
    nlohmann::ordered_json json = session_json(saved, "");
    json["usage"] = {{"prompt_tokens", read.usage.prompt_tokens},
                     {"cached_tokens", read.usage.cached_tokens}};
    json["timings"] = {{"load_ms", session.engine().load_ms()},
                       {"prefill_ms", read.times.prefill_ms}};
    sink.write_line(json_line(json));
  } else {
    sink.write_line(saved_text(saved, read.usage.cached_tokens));
    notice("`strata run` with the same -m, -f and --system and any -p goes on from here");
  }
  if (text.size() < engine::kSavedTokensMin)
    notice(fmt::format("note: texts of fewer than {} tokens are read anew: that is quicker",
                       engine::kSavedTokensMin));
  sink.close();
  return 0;
}

}  // namespace

int run_session_save(const Command& command) {
  return with_trace(command.settings.trace,
                    [&](Trace* trace) { return save_text(command, trace); });
}

}  // namespace strata::cli
