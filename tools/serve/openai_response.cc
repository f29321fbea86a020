// Chat completions and completions. Source: OpenAI's API reference; `timings` and `prompt_progress`
// are llama.cpp's.
#include <utility>

#include "tools/cli/json_output.h"
#include "tools/serve/response_shape.h"

namespace strata::serve {
namespace {

using nlohmann::ordered_json;

const char* finish_reason_of(const AnswerEvent& end, bool has_calls) {
  if (end.finish_reason == engine::FinishReason::kLength) return "length";
  return has_calls ? "tool_calls" : "stop";
}

/// What both share: chunks of one choice, then usage.
class OpenAiShape : public ResponseShape {
 public:
  OpenAiShape(ShapeFacts facts, std::string id_prefix, std::string chunk_object)
      : facts_(std::move(facts)),
        id_prefix_(std::move(id_prefix)),
        chunk_object_(std::move(chunk_object)) {}

  std::string progress_events(const AnswerEvent& event) final {
    if (!facts_.returns_progress) return {};
    ordered_json head = head_of(chunk_object_);
    head["choices"] = ordered_json::array();
    head["prompt_progress"] = progress_json(event);
    return server_sent_event("", head);
  }

  std::string error_event(const ApiError& error) final {
    return server_sent_event("", ordered_json::parse(error_body(ApiShape::kChat, error)));
  }

 protected:
  ordered_json head_of(const std::string& object) const {
    return {{"id", id_prefix_ + facts_.identity.id},
            {"object", object},
            {"created", facts_.identity.created},
            {"model", facts_.identity.model}};
  }

  std::string chunk(ordered_json choice) const {
    ordered_json out = head_of(chunk_object_);
    out["choices"] = ordered_json::array({std::move(choice)});
    if (facts_.includes_usage) out["usage"] = nullptr;
    return server_sent_event("", out);
  }

  /// The chunk that ends the choice, then usage where it was asked for.
  std::string last_chunks(ordered_json choice, const AnswerEvent& end) const {
    ordered_json out = head_of(chunk_object_);
    out["choices"] = ordered_json::array({std::move(choice)});
    if (facts_.includes_usage) out["usage"] = nullptr;
    out["timings"] = timings_json(end);
    std::string events = server_sent_event("", out);
    if (facts_.includes_usage) {
      ordered_json usage = head_of(chunk_object_);
      usage["choices"] = ordered_json::array();
      usage["usage"] = openai_usage(end);
      events += server_sent_event("", usage);
    }
    return events;
  }

  std::string whole_body(const std::string& object, ordered_json choice,
                         const AnswerEvent& end) const {
    ordered_json out = head_of(object);
    out["choices"] = ordered_json::array({std::move(choice)});
    out["usage"] = openai_usage(end);
    out["timings"] = timings_json(end);
    return cli::json_line(out);
  }

  const ShapeFacts facts_;

 private:
  const std::string id_prefix_;
  const std::string chunk_object_;
};

class ChatShape final : public OpenAiShape {
 public:
  explicit ChatShape(ShapeFacts facts)
      : OpenAiShape(std::move(facts), "chatcmpl-", "chat.completion.chunk") {}

  std::string piece_events(const AnswerPiece* piece, std::span<const ScoredToken> tokens) override {
    std::string events = role_event();
    ordered_json delta = ordered_json::object();
    if (piece && piece->call) {
      ordered_json call = call_json(*piece->call);
      call["index"] = n_calls_ - 1;
      delta["tool_calls"] = ordered_json::array({std::move(call)});
    } else if (piece) {
      delta["content"] = piece->text;
    }
    return events + chunk(choice_of("delta", std::move(delta), tokens, nullptr));
  }

  std::string end_events(const AnswerEvent& end) override {
    return role_event() + last_chunks(choice_of("delta", ordered_json::object(), {},
                                                finish_reason_of(end, n_calls_ > 0)),
                                      end);
  }

  std::string body(const WholeAnswer& answer) override {
    std::string text;
    ordered_json calls = ordered_json::array();
    for (const AnswerPiece& piece : answer.pieces) {
      text += piece.text;
      if (piece.call) calls.push_back(call_json(*piece.call));
    }
    ordered_json message = {{"role", "assistant"}, {"content", nullptr}, {"refusal", nullptr}};
    if (!text.empty() || calls.empty()) message["content"] = std::move(text);
    if (!calls.empty()) message["tool_calls"] = std::move(calls);
    return whole_body("chat.completion",
                      choice_of("message", std::move(message), answer.tokens,
                                finish_reason_of(answer.end, n_calls_ > 0)),
                      answer.end);
  }

 private:
  std::string role_event() {
    if (std::exchange(has_begun_, true)) return {};
    return chunk(choice_of("delta", {{"role", "assistant"}, {"content", ""}}, {}, nullptr));
  }

  ordered_json call_json(const ToolCall& call) {
    return {{"id", call_id(facts_.identity, n_calls_++)},
            {"type", "function"},
            {"function", {{"name", call.name}, {"arguments", call.arguments}}}};
  }

  ordered_json choice_of(const char* key, ordered_json value, std::span<const ScoredToken> tokens,
                         const char* finish_reason) const {
    ordered_json choice = {{"index", 0}, {key, std::move(value)}, {"logprobs", nullptr}};
    const bool is_whole = std::string_view(key) == "message";
    if (facts_.tells_logprobs && (is_whole || !tokens.empty()))
      choice["logprobs"] = chat_logprobs(tokens);
    choice["finish_reason"] = finish_reason ? ordered_json(finish_reason) : ordered_json();
    return choice;
  }

  bool has_begun_ = false;
  size_t n_calls_ = 0;
};

class CompletionShape final : public OpenAiShape {
 public:
  explicit CompletionShape(ShapeFacts facts)
      : OpenAiShape(std::move(facts), "cmpl-", "text_completion"),
        offset_(n_code_points(facts_.echo)) {}

  std::string piece_events(const AnswerPiece* piece, std::span<const ScoredToken> tokens) override {
    std::string events = echo_event();
    return events + chunk(choice_of(piece ? piece->text : "", tokens, nullptr));
  }

  std::string end_events(const AnswerEvent& end) override {
    std::string events = echo_event();
    return events + last_chunks(choice_of("", {}, finish_reason_of(end, false)), end);
  }

  std::string body(const WholeAnswer& answer) override {
    std::string text = facts_.echo;
    for (const AnswerPiece& piece : answer.pieces) text += piece.text;
    return whole_body(
        "text_completion",
        choice_of(std::move(text), answer.tokens, finish_reason_of(answer.end, false)), answer.end);
  }

 private:
  std::string echo_event() {
    if (std::exchange(has_begun_, true) || facts_.echo.empty()) return {};
    return chunk(choice_of(facts_.echo, {}, nullptr));
  }

  ordered_json choice_of(std::string text, std::span<const ScoredToken> tokens,
                         const char* finish_reason) {
    ordered_json choice = {{"text", std::move(text)}, {"index", 0}, {"logprobs", nullptr}};
    if (facts_.tells_logprobs && !tokens.empty())
      choice["logprobs"] = completion_logprobs(tokens, offset_);
    choice["finish_reason"] = finish_reason ? ordered_json(finish_reason) : ordered_json();
    return choice;
  }

  bool has_begun_ = false;
  uint64_t offset_;  // code points before the next token
};

}  // namespace

std::unique_ptr<ResponseShape> make_chat_shape(ShapeFacts facts) {
  return std::make_unique<ChatShape>(std::move(facts));
}

std::unique_ptr<ResponseShape> make_completion_shape(ShapeFacts facts) {
  return std::make_unique<CompletionShape>(std::move(facts));
}

}  // namespace strata::serve
