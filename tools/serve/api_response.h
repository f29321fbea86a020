// tools/serve/api_response.h - from the events of an answer to what clients read: whole bodies and
// server-sent events. Pure functions and one object per answer, no socket.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "tools/serve/api_request.h"
#include "tools/serve/tool_calls.h"

namespace strata::serve {

/// What names an answer.
struct ApiIdentity {
  std::string id;  // without the prefix of its shape
  std::string model;
  int64_t created = 0;                              // seconds since 1970
  ToolCallStyle tool_calls = ToolCallStyle::kNone;  // of the model's template
};

/// Takes the events of one answer, in order.
class ApiResponse {
 public:
  virtual ~ApiResponse() = default;
  /// Streamed: bytes to send now, whole server-sent events; may be empty. Else always empty.
  virtual std::string push(const AnswerEvent& event) = 0;
  /// After kEnd or kError. Streamed: the last events ("data: [DONE]"; none after an error, which is
  /// the last one of its stream). Else the body.
  virtual std::string finish() = 0;
  /// Of the body: 200, or the status of the error that ended it.
  virtual int status() const = 0;
};

std::unique_ptr<ApiResponse> make_response(const ApiRequest& request, const ApiIdentity& identity);

}  // namespace strata::serve
