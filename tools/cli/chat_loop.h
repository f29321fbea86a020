// tools/cli/chat_loop.h - a conversation: messages and slash commands in, answers out.
#pragma once

#include <string>
#include <vector>

#include "tools/cli/answer_sink.h"
#include "tools/cli/line_reader.h"
#include "tools/cli/model_session.h"

namespace strata::cli {

class ChatLoop {
 public:
  ChatLoop(ModelSession& session, LineReader& reader, AnswerSink& sink, const Settings& settings);

  /// Runs until /bye, the end of input, or Ctrl-C twice at the prompt. Returns the exit code.
  int run();

 private:
  /// What a slash command wants next.
  enum class Next : bool { kGoOn, kLeave };
  Next command(const std::string& line);
  void answer(const std::string& message);
  void clear();
  void show() const;
  void say_stats() const;

  ModelSession& session_;
  LineReader& reader_;
  AnswerSink& sink_;
  bool json_;
  std::string system_;
  std::vector<engine::ChatMessage> messages_;  // the system message is put before them
  std::vector<engine::ChatMessage> conversation() const;
  uint64_t n_answers_ = 0;
  uint64_t n_prompt_ = 0, n_cached_ = 0, n_out_ = 0;
  uint64_t n_in_context_ = 0;
};

}  // namespace strata::cli
