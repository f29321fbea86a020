// `strata chat`: a conversation on the terminal, or one message per line through a pipe.
#include "tools/cli/answer_sink.h"
#include "tools/cli/chat_loop.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/line_reader.h"
#include "tools/cli/model_session.h"
#include "tools/cli/notices.h"
#include "tools/cli/trace_file.h"
#include "tools/cli/verb_functions.h"

namespace strata::cli {
namespace {

int converse(const Command& command, Trace* trace) {
  AnswerSink sink = AnswerSink::open("");
  ModelSession session = ModelSession::open(kChatSyntax, command, trace);
  session.load();
  const auto reader = make_line_reader();
  if (reader->is_interactive())
    notice("Type a message, \"\"\" for several lines, /help for commands, /bye to leave.");
  // From here on Ctrl-C means the answer, not the program.
  catch_interrupts(SecondInterrupt::kIsFlagToo);
  return ChatLoop(session, *reader, sink, command.settings).run();
}

}  // namespace

int run_chat(const Command& command) {
  return with_trace(command.settings.trace, [&](Trace* trace) { return converse(command, trace); });
}

}  // namespace strata::cli
