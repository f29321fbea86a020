#include "base/error.h"

namespace strata {

std::string_view error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage:
      return "usage";
    case ErrorCode::kBadText:
      return "bad_text";
    case ErrorCode::kBadFile:
      return "bad_file";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kContextLengthExceeded:
      return "context_length_exceeded";
    case ErrorCode::kDoesNotFit:
      return "does_not_fit";
    case ErrorCode::kOutOfMemory:
      return "out_of_memory";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kTemplate:
      return "template";
    case ErrorCode::kNoDevice:
      return "no_device";
    case ErrorCode::kDeviceLost:
      return "device_lost";
    case ErrorCode::kBusy:
      return "busy";
    case ErrorCode::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

int exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage:
    case ErrorCode::kBadText:
      return 2;
    case ErrorCode::kContextLengthExceeded:
    case ErrorCode::kDoesNotFit:
    case ErrorCode::kOutOfMemory:
      return 3;
    case ErrorCode::kBadFile:
    case ErrorCode::kUnsupported:
    case ErrorCode::kTemplate:
      return 4;
    case ErrorCode::kCancelled:
      return 130;
    case ErrorCode::kIo:
    case ErrorCode::kNoDevice:
    case ErrorCode::kDeviceLost:
    case ErrorCode::kBusy:
      return 1;
  }
  return 1;
}

}  // namespace strata
