// tools/serve/response_shape.h - how the events of one answer are written in each dialect:
// server-sent events while it comes, or one body when it is whole.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "tools/serve/api_response.h"

namespace strata::serve {

/// What an answer's writer needs of its request.
struct ShapeFacts {
  ApiIdentity identity;
  bool includes_usage = false;
  bool returns_progress = false;
  bool tells_logprobs = false;
  std::string echo;  // the prompt, where it stands before the answer
};

/// Everything of an answer that is over.
struct WholeAnswer {
  std::vector<AnswerPiece> pieces;  // neighbours of text joined
  std::vector<ScoredToken> tokens;
  AnswerEvent end;  // kEnd
};

/// Functions that return events return bytes of whole ones; each is called in the order of the
/// answer, and either those or body().
class ResponseShape {
 public:
  virtual ~ResponseShape() = default;
  virtual std::string progress_events(const AnswerEvent& event) = 0;
  /// One piece, or none where only tokens are told.
  virtual std::string piece_events(const AnswerPiece* piece,
                                   std::span<const ScoredToken> tokens) = 0;
  virtual std::string end_events(const AnswerEvent& end) = 0;
  virtual std::string error_event(const ApiError& error) = 0;
  virtual std::string body(const WholeAnswer& answer) = 0;
};

std::unique_ptr<ResponseShape> make_chat_shape(ShapeFacts facts);
std::unique_ptr<ResponseShape> make_completion_shape(ShapeFacts facts);
std::unique_ptr<ResponseShape> make_messages_shape(ShapeFacts facts);

/// "data: JSON", with "event: NAME" before it where there is a name.
std::string server_sent_event(std::string_view name, const nlohmann::ordered_json& data);

/// A call's name for the client: nine letters and digits, as Mistral's templates want it. The same
/// answer's calls differ, and those of other answers do but for chance.
std::string call_id(const ApiIdentity& identity, size_t idx);

nlohmann::ordered_json openai_usage(const AnswerEvent& end);
/// llama.cpp's: counts, milliseconds, tokens per second.
nlohmann::ordered_json timings_json(const AnswerEvent& end);
/// {"total", "cache", "processed"} of a prompt that is being read, llama.cpp's.
nlohmann::ordered_json progress_json(const AnswerEvent& event);

/// The object of chat completions.
nlohmann::ordered_json chat_logprobs(std::span<const ScoredToken> tokens);
/// The object of completions, whose first token begins at code point `offset`, which is moved on.
nlohmann::ordered_json completion_logprobs(std::span<const ScoredToken> tokens, uint64_t& offset);
/// Of well-formed UTF-8.
uint64_t n_code_points(std::string_view text);

}  // namespace strata::serve
