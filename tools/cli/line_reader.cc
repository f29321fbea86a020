#include "tools/cli/line_reader.h"

#include <fmt/format.h>
#include <histedit.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cwchar>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "tools/cli/interrupt.h"

namespace strata::cli {
namespace {

constexpr std::string_view kFence = "\"\"\"";

class PlainReader : public LineReader {
 public:
  explicit PlainReader(int descriptor) : descriptor_(descriptor) {}

  LineStatus read(const std::string&, std::string& line) override {
    for (;;) {
      const size_t end = pending_.find('\n', searched_);
      if (end != std::string::npos) {
        line = pending_.substr(0, end);
        pending_.erase(0, end + 1);
        searched_ = 0;
        break;
      }
      searched_ = pending_.size();
      char part[4096];
      if (!wait_for_input(descriptor_)) return LineStatus::kInterrupted;
      const ssize_t n = ::read(descriptor_, part, sizeof part);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0)
        throw Error(ErrorCode::kIo, fmt::format("cannot read: {}", std::strerror(errno)),
                    "standard input");
      if (n == 0) {
        if (pending_.empty()) return LineStatus::kEnd;
        line = std::exchange(pending_, "");
        searched_ = 0;
        break;
      }
      pending_.append(part, static_cast<size_t>(n));
    }
    if (line.ends_with('\r')) line.pop_back();
    return LineStatus::kLine;
  }
  void remember(const std::string&) override {}
  bool is_interactive() const override { return false; }

 private:
  int descriptor_;
  std::string pending_;
  size_t searched_ = 0;  // bytes of pending_ known to hold no newline
};

class TerminalReader : public LineReader {
 public:
  TerminalReader() {
    // libedit reads multi-byte characters by the locale; in the C locale it would take a UTF-8
    // letter for several.
    if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1)
      std::setlocale(LC_CTYPE, "C.UTF-8");
    history_ = history_init();
    edit_ = el_init("strata", stdin, stderr, stderr);
    if (history_ == nullptr || edit_ == nullptr) {
      throw Error(ErrorCode::kIo, "cannot set up line editing", "standard input",
                  "pipe the messages in, one per line");
    }
    HistEvent event;
    history(history_, &event, H_SETSIZE, 1000);
    el_set(edit_, EL_CLIENTDATA, this);
    el_set(edit_, EL_PROMPT, &TerminalReader::prompt_of);
    el_set(edit_, EL_EDITOR, "emacs");
    el_set(edit_, EL_GETCFN, &TerminalReader::read_character);
    el_set(edit_, EL_HIST, history, history_);
  }
  ~TerminalReader() override {
    if (edit_ != nullptr) el_end(edit_);
    if (history_ != nullptr) history_end(history_);
  }

  LineStatus read(const std::string& prompt, std::string& line) override {
    prompt_ = prompt;
    // libedit shows the prompt and only then takes the terminal out of its line mode, in which a
    // key like Ctrl-D, typed in between, would be kept as something else.
    el_set(edit_, EL_PREP_TERM, 1);
    int n = 0;
    const char* text = el_gets(edit_, &n);
    if (text == nullptr || n <= 0) {
      std::fputc('\n', stderr);
      if (interrupt_flag().load()) {
        el_reset(edit_);  // drops what was half typed
        return LineStatus::kInterrupted;
      }
      return LineStatus::kEnd;
    }
    line.assign(text, static_cast<size_t>(n));
    while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
    return LineStatus::kLine;
  }
  void remember(const std::string& entry) override {
    HistEvent event;
    history(history_, &event, H_ENTER, entry.c_str());
  }
  bool is_interactive() const override { return true; }

 private:
  /// One character for libedit: 1, 0 at the end, -1 where Ctrl-C came. Why not libedit's own: it
  /// blocks in read(), so that a Ctrl-C just before would be seen only after the next key.
  static int read_character(EditLine*, wchar_t* character) {
    std::mbstate_t state{};
    for (;;) {
      if (!wait_for_input(STDIN_FILENO)) return -1;
      char byte = 0;
      const ssize_t n = ::read(STDIN_FILENO, &byte, 1);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return static_cast<int>(n);
      const size_t length = std::mbrtowc(character, &byte, 1, &state);
      if (length == static_cast<size_t>(-1)) state = {};  // a byte that begins nothing is dropped
      if (length <= 1) return 1;
    }
  }
  static char* prompt_of(EditLine* edit) {
    void* self = nullptr;
    el_get(edit, EL_CLIENTDATA, &self);
    return static_cast<TerminalReader*>(self)->prompt_.data();
  }
  History* history_ = nullptr;
  EditLine* edit_ = nullptr;
  std::string prompt_;
};

}  // namespace

std::unique_ptr<LineReader> make_line_reader() {
  if (::isatty(STDIN_FILENO) == 1) return std::make_unique<TerminalReader>();
  return make_plain_reader(STDIN_FILENO);
}

std::unique_ptr<LineReader> make_plain_reader(int descriptor) {
  return std::make_unique<PlainReader>(descriptor);
}

LineStatus read_message(LineReader& reader, std::string& message) {
  std::string line;
  LineStatus status = reader.read(">>> ", line);
  if (status != LineStatus::kLine) return status;
  if (!line.starts_with(kFence)) {
    message = std::move(line);
    if (!message.empty()) reader.remember(message);
    return LineStatus::kLine;
  }
  message.clear();
  line.erase(0, kFence.size());
  bool is_first = true;
  for (;;) {
    const bool closes = line.ends_with(kFence);
    if (closes) line.erase(line.size() - kFence.size());
    if (!is_first && !(closes && line.empty())) message += '\n';
    message += line;
    is_first = is_first &&
               line.empty();  // nothing behind the opening marker: the text begins on the next line
    if (closes) break;
    status = reader.read("... ", line);
    if (status == LineStatus::kEnd) break;  // the end of input closes what is open
    if (status == LineStatus::kInterrupted) return status;
  }
  if (!message.empty()) reader.remember(message);
  return LineStatus::kLine;
}

}  // namespace strata::cli
