// Anthropic's messages. Source: its API reference, "Messages" and "Streaming messages".
#include <utility>

#include "tools/cli/json_output.h"
#include "tools/serve/response_shape.h"

namespace strata::serve {
namespace {

using nlohmann::ordered_json;

const char* stop_reason_of(const AnswerEvent& end, bool has_calls) {
  if (end.finish_reason == engine::FinishReason::kLength) return "max_tokens";
  if (!end.stop_text.empty()) return "stop_sequence";
  return has_calls ? "tool_use" : "end_turn";
}

/// Its input tokens are those that no cache held.
ordered_json usage_json(uint64_t n_prompt, uint64_t n_cached, uint64_t n_answer) {
  return {{"input_tokens", n_prompt - n_cached},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", n_cached},
          {"output_tokens", n_answer}};
}

ordered_json usage_json(const AnswerEvent& end) {
  return usage_json(end.usage.prompt_tokens, end.usage.cached_tokens, end.usage.completion_tokens);
}

class MessagesShape final : public ResponseShape {
 public:
  explicit MessagesShape(ShapeFacts facts) : facts_(std::move(facts)) {}

  std::string progress_events(const AnswerEvent& event) override {
    n_prompt_ = event.n_prompt;
    n_cached_ = event.n_cached;
    return {};
  }

  std::string piece_events(const AnswerPiece* piece, std::span<const ScoredToken>) override {
    if (!piece) return {};
    std::string events = start_event();
    if (!piece->call) {
      if (!is_text_open_) events += open_block({{"type", "text"}, {"text", ""}});
      is_text_open_ = true;
      return events + delta_event({{"type", "text_delta"}, {"text", piece->text}});
    }
    events += close_text();
    events += open_block(tool_use(*piece->call, ordered_json::object()));
    events += delta_event({{"type", "input_json_delta"}, {"partial_json", piece->call->arguments}});
    return events + close_block();
  }

  std::string end_events(const AnswerEvent& end) override {
    std::string events = start_event() + close_text();
    events +=
        server_sent_event("message_delta", {{"type", "message_delta"},
                                            {"delta",
                                             {{"stop_reason", stop_reason_of(end, n_calls_ > 0)},
                                              {"stop_sequence", cli::text_or_null(end.stop_text)}}},
                                            {"usage", usage_json(end)}});
    return events + server_sent_event("message_stop", {{"type", "message_stop"}});
  }

  std::string error_event(const ApiError& error) override {
    return server_sent_event("error", ordered_json::parse(error_body(ApiShape::kMessages, error)));
  }

  std::string body(const WholeAnswer& answer) override {
    ordered_json content = ordered_json::array();
    for (const AnswerPiece& piece : answer.pieces) {
      if (piece.call) {
        content.push_back(tool_use(*piece.call, ordered_json::parse(piece.call->arguments)));
      } else {
        content.push_back({{"type", "text"}, {"text", piece.text}});
      }
    }
    ordered_json out = head();
    out["content"] = std::move(content);
    out["stop_reason"] = stop_reason_of(answer.end, n_calls_ > 0);
    out["stop_sequence"] = cli::text_or_null(answer.end.stop_text);
    out["usage"] = usage_json(answer.end);
    return cli::json_line(out);
  }

 private:
  ordered_json head() const {
    return {{"id", "msg_" + facts_.identity.id},
            {"type", "message"},
            {"role", "assistant"},
            {"model", facts_.identity.model}};
  }

  std::string start_event() {
    if (std::exchange(has_begun_, true)) return {};
    ordered_json message = head();
    message["content"] = ordered_json::array();
    message["stop_reason"] = nullptr;
    message["stop_sequence"] = nullptr;
    message["usage"] = usage_json(n_prompt_, n_cached_, 0);
    return server_sent_event("message_start",
                             {{"type", "message_start"}, {"message", std::move(message)}});
  }

  std::string open_block(ordered_json block) const {
    return server_sent_event("content_block_start", {{"type", "content_block_start"},
                                                     {"index", n_blocks_},
                                                     {"content_block", std::move(block)}});
  }

  std::string delta_event(ordered_json delta) const {
    return server_sent_event(
        "content_block_delta",
        {{"type", "content_block_delta"}, {"index", n_blocks_}, {"delta", std::move(delta)}});
  }

  std::string close_block() {
    return server_sent_event("content_block_stop",
                             {{"type", "content_block_stop"}, {"index", n_blocks_++}});
  }

  std::string close_text() { return std::exchange(is_text_open_, false) ? close_block() : ""; }

  ordered_json tool_use(const ToolCall& call, ordered_json input) {
    return {{"type", "tool_use"},
            {"id", call_id(facts_.identity, n_calls_++)},
            {"name", call.name},
            {"input", std::move(input)}};
  }

  const ShapeFacts facts_;
  bool has_begun_ = false;
  bool is_text_open_ = false;
  size_t n_blocks_ = 0, n_calls_ = 0;
  uint64_t n_prompt_ = 0, n_cached_ = 0;
};

}  // namespace

std::unique_ptr<ResponseShape> make_messages_shape(ShapeFacts facts) {
  return std::make_unique<MessagesShape>(std::move(facts));
}

}  // namespace strata::serve
