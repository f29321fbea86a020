// tests/serve/api_fixture.h - what the tests of bodies share.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tests/serve/described.h"
#include "tests/serve/json_schema.h"
#include "tools/serve/api_request.h"

namespace strata::serve::testing {

/// The request, whose body is as openapi.json describes one: what is taken is described.
inline ApiRequest parsed(ApiShape shape, std::string_view body) {
  ApiRequest request = parse_request(shape, body, ApiDefaults{});
  const char* const name = shape == ApiShape::kChat         ? "chatRequest"
                           : shape == ApiShape::kCompletion ? "completionRequest"
                                                            : "messagesRequest";
  const nlohmann::json& schema = described()["components"]["schemas"][name];
  EXPECT_EQ(schema_fault(described(), schema, nlohmann::json::parse(body)), "")
      << body.substr(0, 1000);
  return request;
}

/// "CODE FIELD: message" of the refusal of a body, or "taken".
inline std::string refusal_of(ApiShape shape, std::string_view body) {
  try {
    (void)parsed(shape, body);
    return "taken";
  } catch (const Error& error) {
    if (error.remedy().empty()) return "a refusal without a remedy";
    return std::string(error_code_name(error.code())) + " " + error.where() + ": " + error.what();
  }
}

/// A chat body of one message and further fields, given as JSON text that begins with a comma.
inline std::string chat_body(const std::string& more = "") {
  return R"({"messages": [{"role": "user", "content": "hi"}])" + more + "}";
}

inline std::string completion_body(const std::string& more = "") {
  return R"({"prompt": "once")" + more + "}";
}

inline std::string messages_body(const std::string& more = "") {
  return R"({"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}])" + more + "}";
}

}  // namespace strata::serve::testing
