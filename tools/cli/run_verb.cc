// `strata run`: one prompt, one answer.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tools/cli/answer_sink.h"
#include "tools/cli/json_output.h"
#include "tools/cli/model_session.h"
#include "tools/cli/notices.h"
#include "tools/cli/request_options.h"
#include "tools/cli/trace_file.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

int answer_prompt(const Command& command, Trace* trace) {
  const Settings& settings = command.settings;
  AnswerSink sink = AnswerSink::open(settings.output);
  const auto messages = gather_messages(command, kRunSyntax.name);
  auto grammar = answer_grammar(command);
  ModelSession session = ModelSession::open(kRunSyntax, command, trace);
  const auto prompt = session.encode(messages);
  if (settings.verbose) notice("prompt: " + session.rendered(messages));
  session.check_fits(prompt);
  session.load();
  if (grammar) session.bind_answers(*std::move(grammar));

  bool ends_line = true;
  const auto on_text = [&](std::string_view text) {
    if (!settings.json) sink.write(text);
    ends_line = text.ends_with('\n');
    return true;
  };
  const engine::Generation answer = session.answer(prompt, on_text);
  if (settings.json)
    sink.write_line(json_line(session.to_json(answer)));
  else if (!ends_line)
    sink.write("\n");
  sink.close();
  notice(session.summary(answer));
  session.say_tiers();
  // Whoever stopped it wants the prompt back, not the disk's time; whole packs are kept already.
  if (answer.finish_reason != engine::FinishReason::kCancelled) session.save();
  return answer.finish_reason == engine::FinishReason::kCancelled ? exit_code(ErrorCode::kCancelled)
                                                                  : 0;
}

}  // namespace

int run_run(const Command& command) {
  return with_trace(command.settings.trace,
                    [&](Trace* trace) { return answer_prompt(command, trace); });
}

}  // namespace strata::cli
