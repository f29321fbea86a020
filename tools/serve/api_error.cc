#include <nlohmann/json.hpp>

#include "tools/cli/json_output.h"
#include "tools/serve/api_request.h"

namespace strata::serve {
namespace {

int status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage:
    case ErrorCode::kBadText:
    case ErrorCode::kTemplate:
    case ErrorCode::kContextLengthExceeded:
      return 400;
    case ErrorCode::kBusy:
      return 429;
    case ErrorCode::kUnsupported:
      return 501;
    case ErrorCode::kBadFile:
    case ErrorCode::kIo:
      return 500;
    case ErrorCode::kDoesNotFit:  // what may be otherwise at another time, or on another server
    case ErrorCode::kOutOfMemory:
    case ErrorCode::kNoDevice:
    case ErrorCode::kDeviceLost:
    case ErrorCode::kCancelled:
      return 503;
  }
  return 500;
}

const char* openai_type(int status) {
  if (status == 429) return "rate_limit_error";
  return status < 500 ? "invalid_request_error" : "server_error";
}

/// Source: the table of errors in Anthropic's API reference.
const char* anthropic_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    default:
      return status < 500 ? "invalid_request_error" : "api_error";
  }
}

std::string sentence_of(const Error& error) {
  std::string text = error.what();
  if (!error.remedy().empty()) text += ". " + error.remedy();
  return text;
}

}  // namespace

ApiError api_error(const Error& error) {
  ApiError out;
  out.status = status_of(error.code());
  out.type = openai_type(out.status);
  out.code = error_code_name(error.code());
  // Elsewhere it is a file or a device, which is no business of a client's.
  const bool names_field = out.status == 400 && !error.where().starts_with("--");
  if (names_field && error.code() != ErrorCode::kTemplate) out.param = error.where();
  out.message = sentence_of(error);
  return out;
}

std::string error_body(ApiShape shape, const ApiError& error) {
  if (shape == ApiShape::kMessages)
    return cli::json_line(
        {{"type", "error"},
         {"error", {{"type", anthropic_type(error.status)}, {"message", error.message}}}});
  return cli::json_line({{"error",
                          {{"message", error.message},
                           {"type", error.type},
                           {"param", cli::text_or_null(error.param)},
                           {"code", cli::text_or_null(error.code)}}}});
}

}  // namespace strata::serve
