// tools/cli/line_reader.h - lines that a person types, or that come through a pipe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace strata::cli {

enum class LineStatus : uint8_t { kLine, kEnd, kInterrupted };

class LineReader {
 public:
  virtual ~LineReader() = default;
  /// One line without its newline. Errors: kIo.
  virtual LineStatus read(const std::string& prompt, std::string& line) = 0;
  /// Adds an entry that arrow-up brings back; kept in memory only.
  virtual void remember(const std::string& entry) = 0;
  virtual bool is_interactive() const = 0;
};

/// libedit (the one file that includes it is line_reader.cc) where standard input is a terminal;
/// plain reads otherwise. Prompts and echo go to standard error, so that standard output holds
/// answers only.
std::unique_ptr<LineReader> make_line_reader();
/// Plain reads from a descriptor, without prompts.
std::unique_ptr<LineReader> make_plain_reader(int descriptor);

/// A message: one line, or several between """ and """. The markers are left out.
LineStatus read_message(LineReader& reader, std::string& message);

}  // namespace strata::cli
