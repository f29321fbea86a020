// base/error.h - the one exception type for what the outside can cause.
// Why: a bad file, option, device or disk ends the operation with a name, a place and a remedy;
// text and exit codes are made at the edge (tools). Bugs are STRATA_CHECK (base/check.h),
// never an Error.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace strata {

enum class ErrorCode : uint8_t {
  kUsage,                  // an option or its value is wrong, or two options contradict each other
  kBadText,                // a prompt is empty or not UTF-8
  kBadFile,                // a model or other input file is damaged, truncated or inconsistent
  kUnsupported,            // a well-formed file asks for something Strata does not implement
  kContextLengthExceeded,  // a request has more tokens than its context holds
  kDoesNotFit,             // memory budgets cannot hold the model and context asked for
  kOutOfMemory,            // the system refused memory that the budgets allow
  kIo,                     // the system refused a read, write, open or map
  kTemplate,               // the model's chat template does not parse or render
  kNoDevice,               // the device asked for is not there or cannot be used
  kDeviceLost,             // a device in use failed: what it computed is gone
  kBusy,                   // as much is at work or waiting as may be: try again later
  kCancelled,              // the user stopped the operation
};

/// The name that `--json` prints in `error.code`, such as "context_length_exceeded".
std::string_view error_code_name(ErrorCode code);

/// The process exit code of an error: 1, 2 usage, 3 does not fit, 4 bad file, 130 cancelled.
int exit_code(ErrorCode code);

/// What went wrong (`what()`: one line, no full stop), where (file, key, offset, option; may be
/// empty) and the remedy (one sentence; may be empty). The message names what was wanted and what
/// was found.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, std::string where = "", std::string remedy = "")
      : std::runtime_error(message),
        code_(code),
        where_(std::move(where)),
        remedy_(std::move(remedy)) {}

  ErrorCode code() const { return code_; }
  const std::string& where() const { return where_; }
  const std::string& remedy() const { return remedy_; }

 private:
  ErrorCode code_;
  std::string where_;
  std::string remedy_;
};

}  // namespace strata
