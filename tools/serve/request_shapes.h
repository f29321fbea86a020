// tools/serve/request_shapes.h - what the parsers of the three shapes of requests share.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/serve/api_request.h"
#include "tools/serve/json_body.h"

namespace strata::serve {

/// One body on its way to a request.
struct RequestBody {
  FieldReader fields;
  JsonBudget budget;  // for JSON text inside of it
};

/// Of chat completions and completions.
void read_openai_request(RequestBody& body, ApiRequest& request);
/// Of Anthropic's messages.
void read_anthropic_request(RequestBody& body, ApiRequest& request);

std::vector<engine::ChatMessage> openai_messages(RequestBody& body);
std::vector<engine::ChatMessage> anthropic_messages(const FieldReader& body);

/// The text of a message's content: a string, or an array of text parts, joined by line breaks.
/// Nothing where it is absent. Errors: kUsage, which names a part that is an image or audio.
std::optional<std::string> content_text(const FieldReader& message);

/// One part's text. `where` is its path.
std::string part_text(const FieldReader& part, const std::string& where);

/// A field that changes what the answer means and is not implemented: only the value that changes
/// nothing is taken.
struct NeutralField {
  const char* name;
  const char* neutral;  // JSON text
};
void refuse_unimplemented(const FieldReader& body, std::span<const NeutralField> fields);

void read_stop(const FieldReader& body, const char* name, std::vector<std::string>& out);

/// The tool that `tool` describes, with its checked name, description and its parameters' schema
/// under `schema_key`, as the templates read one.
nlohmann::ordered_json function_tool(const FieldReader& tool, const char* schema_key);

engine::ChatMessage message_of(std::string role, std::string content,
                               nlohmann::ordered_json fields);

}  // namespace strata::serve
