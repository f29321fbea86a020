// tools/serve/api_request.h - the bodies of requests, as OpenAI's, Anthropic's and llama.cpp's
// clients write them: from JSON to an order. Pure functions of their arguments.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "tools/serve/answer_service.h"

namespace strata::serve {

enum class ApiShape : uint8_t { kChat, kCompletion, kMessages };  // the last is Anthropic's

/// What a request wants beside the answer itself.
struct ApiRequest {
  ApiShape shape = ApiShape::kChat;
  AnswerOrder order;
  std::string model;  // as the client names it; empty = it names none
  bool is_streamed = false;
  bool includes_usage = false;    // stream_options.include_usage
  bool returns_progress = false;  // llama.cpp's: how much of the prompt is read, while it is
  bool echoes = false;            // kCompletion: the prompt stands before the answer
  // The answer has to be a call (bind_forced_call()): of the tool of this name; "" = of any.
  std::optional<std::string> forced_call;
  bool has_one_call = false;  // of the calls in an answer the client gets the first alone
};

/// What is taken where a body does not say: the server's options.
struct ApiDefaults {
  engine::SamplerOptions sampler;
  uint64_t n_predict = UINT64_MAX;
};

/// A refusal as an HTTP status and the words of OpenAI's error object.
struct ApiError {
  int status = 400;
  std::string type;     // "invalid_request_error", "server_error", ...
  std::string code;     // "context_length_exceeded", ...; may be empty
  std::string param;    // the field; may be empty
  std::string message;  // with the remedy
};

/// Errors: kUsage or kBadText, whose where() is the field.
ApiRequest parse_request(ApiShape shape, std::string_view body, const ApiDefaults& defaults);

/// The status and words of any error that a request can end with.
ApiError api_error(const Error& error);
/// The body of a refusal, as clients of that shape expect it.
std::string error_body(ApiShape shape, const ApiError& error);

}  // namespace strata::serve
