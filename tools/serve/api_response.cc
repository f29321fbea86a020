#include "tools/serve/api_response.h"

#include <utility>

#include "base/check.h"
#include "tools/serve/response_shape.h"

namespace strata::serve {
namespace {

constexpr const char* kDone = "data: [DONE]\n\n";

std::unique_ptr<ResponseShape> make_shape(ApiShape shape, ShapeFacts facts) {
  switch (shape) {
    case ApiShape::kChat:
      return make_chat_shape(std::move(facts));
    case ApiShape::kCompletion:
      return make_completion_shape(std::move(facts));
    case ApiShape::kMessages:
      break;
  }
  return make_messages_shape(std::move(facts));
}

ShapeFacts facts_of(const ApiRequest& request, const ApiIdentity& identity) {
  ShapeFacts facts;
  facts.identity = identity;
  facts.includes_usage = request.includes_usage;
  facts.returns_progress = request.returns_progress;
  facts.tells_logprobs = request.order.n_logprobs.has_value();
  if (request.echoes) facts.echo = request.order.text;
  return facts;
}

ToolCallReader reader_of(const ApiRequest& request, ToolCallStyle style) {
  const auto& tools = request.order.tools;
  if (tools.is_null()) return ToolCallReader(ToolCallStyle::kNone);
  // The others need neither schemas nor names, and an answer may take minutes.
  const bool asks_tools =
      style == ToolCallStyle::kQwenCoder || style == ToolCallStyle::kMistralArgs;
  return asks_tools ? ToolCallReader(style, tools) : ToolCallReader(style);
}

class EventedResponse final : public ApiResponse {
 public:
  EventedResponse(const ApiRequest& request, const ApiIdentity& identity)
      : shape_(request.shape),
        is_streamed_(request.is_streamed),
        has_one_call_(request.has_one_call),
        writer_(make_shape(request.shape, facts_of(request, identity))),
        calls_(reader_of(request, identity.tool_calls)) {}

  std::string push(const AnswerEvent& event) override {
    STRATA_CHECK(!has_ended_, "an event after the last one, kind %d", static_cast<int>(event.kind));
    switch (event.kind) {
      case AnswerEvent::Kind::kPrompt: {
        std::string events = writer_->progress_events(event);
        return is_streamed_ ? events : "";
      }
      case AnswerEvent::Kind::kText:
        return take(calls_.push(event.text), event.tokens);
      case AnswerEvent::Kind::kEnd:
        return end(event);
      case AnswerEvent::Kind::kError:
        break;
    }
    STRATA_CHECK(event.error.has_value(), "an event of an error without one");
    return fail(*event.error);
  }

  std::string finish() override {
    STRATA_CHECK(has_ended_, "an answer without an end");
    // Anthropic's streams end with an event of their own.
    if (is_streamed_) return error_ || shape_ == ApiShape::kMessages ? "" : kDone;
    return error_ ? error_body(shape_, *error_) : writer_->body(whole_);
  }

  int status() const override { return error_ ? error_->status : 200; }

 private:
  std::string take(std::vector<AnswerPiece> pieces, const std::vector<ScoredToken>& tokens) {
    std::erase_if(pieces, [this](const AnswerPiece& piece) { return is_further_call(piece); });
    if (!is_streamed_) {
      for (AnswerPiece& piece : pieces) add_whole(std::move(piece));
      whole_.tokens.insert(whole_.tokens.end(), tokens.begin(), tokens.end());
      return {};
    }
    std::string events;
    std::span<const ScoredToken> untold = tokens;
    for (const AnswerPiece& piece : pieces)
      events += writer_->piece_events(&piece, std::exchange(untold, {}));
    if (!untold.empty()) events += writer_->piece_events(nullptr, untold);
    return events;
  }

  bool is_further_call(const AnswerPiece& piece) {
    return piece.call && std::exchange(has_call_, true) && has_one_call_;
  }

  void add_whole(AnswerPiece piece) {
    auto& all = whole_.pieces;
    if (!piece.call && !all.empty() && !all.back().call) {
      all.back().text += piece.text;
    } else {
      all.push_back(std::move(piece));
    }
  }

  std::string end(const AnswerEvent& event) {
    // A client that is still there to read it was not the one who stopped it.
    if (event.finish_reason == engine::FinishReason::kCancelled)
      return fail(Error(ErrorCode::kCancelled, "the answer was stopped before its end", "",
                        "The server is going down: ask again later."));
    has_ended_ = true;
    std::string events = take(calls_.finish(), {});
    if (is_streamed_) return events + writer_->end_events(event);
    whole_.end = event;
    return {};
  }

  std::string fail(const Error& error) {
    has_ended_ = true;
    error_ = api_error(error);
    if (!is_streamed_) return {};
    std::string events = take(calls_.finish(), {});
    return events + writer_->error_event(*error_);
  }

  const ApiShape shape_;
  const bool is_streamed_, has_one_call_;
  std::unique_ptr<ResponseShape> writer_;
  ToolCallReader calls_;
  WholeAnswer whole_;
  std::optional<ApiError> error_;
  bool has_call_ = false;
  bool has_ended_ = false;
};

}  // namespace

std::unique_ptr<ApiResponse> make_response(const ApiRequest& request, const ApiIdentity& identity) {
  return std::make_unique<EventedResponse>(request, identity);
}

}  // namespace strata::serve
