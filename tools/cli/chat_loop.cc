#include "tools/cli/chat_loop.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/byte_text.h"
#include "tools/cli/input_files.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/json_output.h"
#include "tools/cli/notices.h"
#include "tools/cli/program.h"

namespace strata::cli {
namespace {

constexpr const char* kHelp =
    "  /help, /?       this list\n"
    "  /clear          forget the conversation\n"
    "  /system TEXT    set the system prompt (and forget the conversation); without TEXT show it\n"
    "  /show           the conversation as the model reads it\n"
    "  /stats          tokens so far and what is cached\n"
    "  /bye, /exit     leave (also Ctrl-D)\n"
    "  \"\"\"             begins and ends a message of several lines\n"
    "  Ctrl-C          stops the answer; twice at the prompt leaves\n";

std::string trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return std::string(text);
}

}  // namespace

ChatLoop::ChatLoop(ModelSession& session, LineReader& reader, AnswerSink& sink,
                   const Settings& settings)
    : session_(session),
      reader_(reader),
      sink_(sink),
      json_(settings.json),
      system_(settings.system) {}

std::vector<engine::ChatMessage> ChatLoop::conversation() const {
  std::vector<engine::ChatMessage> all;
  if (!system_.empty()) all.push_back({"system", system_});
  all.insert(all.end(), messages_.begin(), messages_.end());
  return all;
}

int ChatLoop::run() {
  bool was_interrupted = false;
  std::string line;
  for (;;) {
    const LineStatus status = read_message(reader_, line);
    if (status == LineStatus::kEnd) return 0;
    if (status == LineStatus::kInterrupted) {
      interrupt_flag().store(false);
      if (was_interrupted || !reader_.is_interactive()) return exit_code(ErrorCode::kCancelled);
      was_interrupted = true;
      notice("(Ctrl-C again or /bye leaves)");
      continue;
    }
    was_interrupted = false;
    const std::string word = trimmed(line);
    if (word.empty()) continue;
    if (word.starts_with('/') && word.find('\n') == std::string::npos) {
      if (command(word) == Next::kLeave) return 0;
      continue;
    }
    answer(line);
    interrupt_flag().store(false);
  }
}

ChatLoop::Next ChatLoop::command(const std::string& line) {
  const std::string word = line.substr(0, line.find(' '));
  if (word == "/bye" || word == "/exit") return Next::kLeave;
  if (word == "/help" || word == "/?") {
    std::fputs(kHelp, stderr);
  } else if (word == "/clear") {
    clear();
    notice("(the conversation is forgotten)");
  } else if (word == "/system") {
    const std::string text = trimmed(std::string_view(line).substr(word.size()));
    if (text.empty()) {
      notice(system_.empty() ? "(no system prompt)" : system_);
    } else if (!session_.has_template()) {
      notice("(this model has no chat template, so a system prompt has no place)");
    } else {
      system_ = text;
      clear();
      notice("(the system prompt is set, the conversation begins anew)");
    }
  } else if (word == "/show") {
    show();
  } else if (word == "/stats") {
    say_stats();
  } else {
    notice(fmt::format("(unknown command {}; /help lists them)", word));
  }
  return Next::kGoOn;
}

void ChatLoop::clear() {
  messages_.clear();
  n_in_context_ = 0;
  session_.begin_anew();
}

void ChatLoop::show() const {
  try {
    const std::string text = session_.rendered(conversation());
    std::fwrite(text.data(), 1, text.size(), stderr);
    if (!text.ends_with('\n')) std::fputc('\n', stderr);
  } catch (const Error& error) {
    notice(report_error(error).line);
  }
}

void ChatLoop::say_stats() const {
  using engine::grouped_number;
  notice(fmt::format(
      "{} answers | {} prompt tokens, {} of them cached | {} tokens answered | context {} of {}",
      grouped_number(n_answers_), grouped_number(n_prompt_), grouped_number(n_cached_),
      grouped_number(n_out_), grouped_number(n_in_context_),
      grouped_number(session_.engine().context().n_ctx)));
}

void ChatLoop::answer(const std::string& message) {
  messages_.push_back({"user", message});
  engine::Generation answer;
  bool ends_line = true;
  try {
    check_utf8(message, "message");
    const auto prompt = session_.encode(conversation());
    session_.check_fits(prompt);
    answer = session_.answer(prompt, [&](std::string_view text) {
      if (!json_) sink_.write(text);
      ends_line = text.ends_with('\n');
      return true;
    });
  } catch (const engine::ContextLengthError& error) {
    messages_.pop_back();
    auto report = report_error(error);
    if (json_)
      sink_.write_line(report.json);
    else
      notice(report.line + (reader_.is_interactive() ? "; /clear begins anew" : ""));
    return;
  } catch (const Error& error) {
    // What is wrong with one message (its text, a template that refuses it) does not end the
    // conversation; the rest does.
    if (error.code() != ErrorCode::kBadText && error.code() != ErrorCode::kTemplate) throw;
    messages_.pop_back();
    const auto report = report_error(error);
    if (json_)
      sink_.write_line(report.json);
    else
      notice(report.line);
    return;
  }
  // What stopped the answer has done its work. A slow disk holds nobody: while it is waited for, a
  // second Ctrl-C ends the program, as everywhere outside a conversation.
  interrupt_flag().store(false);
  catch_interrupts(SecondInterrupt::kEndsProgram);
  if (json_)
    sink_.write_line(json_line(session_.to_json(answer)));
  else if (!ends_line)
    sink_.write("\n");
  notice(session_.summary(answer));
  session_.say_tiers();
  session_.save();
  catch_interrupts(SecondInterrupt::kIsFlagToo);
  if (answer.text.empty() && answer.finish_reason == engine::FinishReason::kCancelled) {
    messages_.pop_back();  // stopped before it was answered: as if it had not been asked
  } else {
    messages_.push_back({"assistant", answer.text});
  }
  ++n_answers_;
  n_prompt_ += answer.usage.prompt_tokens;
  n_cached_ += answer.usage.cached_tokens;
  n_out_ += answer.usage.completion_tokens;
  n_in_context_ = answer.usage.prompt_tokens + answer.usage.completion_tokens;
  session_.advance_seed();
}

}  // namespace strata::cli
