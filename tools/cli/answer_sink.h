// tools/cli/answer_sink.h - where answers go: standard output or the file of -o; a trace goes to
// its file the same way. Everything else goes to standard error.
#pragma once

#include <string>
#include <string_view>

namespace strata::cli {

/// Unbuffered, so that a streamed answer shows at once. A write that fails (closed pipe, full disk)
/// throws and is never lost.
class AnswerSink {
 public:
  /// "" = standard output. A file is opened now, so that a wrong path fails before any work, but
  /// emptied only by the first write. Errors: kIo, which name `what`.
  static AnswerSink open(const std::string& path, const std::string& what = "the answer");
  AnswerSink(AnswerSink&& other) noexcept;
  AnswerSink& operator=(AnswerSink&&) = delete;
  ~AnswerSink();

  /// Errors: kIo.
  void write(std::string_view text);
  void write_line(std::string_view text);
  /// Errors: kIo where the file system reports only now that something was not stored.
  void close();

  bool is_terminal() const;

 private:
  AnswerSink(int descriptor, std::string name, std::string what)
      : descriptor_(descriptor), name_(std::move(name)), what_(std::move(what)) {}
  [[noreturn]] void fail(int error_number) const;
  int descriptor_;
  std::string name_;
  std::string what_;
  bool emptied_ = false;
};

}  // namespace strata::cli
