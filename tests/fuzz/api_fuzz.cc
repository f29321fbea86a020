// tests/fuzz/api_fuzz.cc - libFuzzer target: any bytes as the body of a request, as the text of an
// answer, and as a schema of answers.
// Wanted: an order, an action on a slot whose name reaches no other folder, or Error(kUsage,
// kBadText) with a remedy; bodies and streams of answers that are JSON; no text lost where no call
// was found; a schema whose machine always can go on or end.
// Run: api_fuzz -max_len=4096 -timeout=10 CORPUS_DIR tests/fuzz/seeds/api_fuzz
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/grammar/json_machine.h"
#include "engine/text/utf8.h"
#include "tiers/session_manifest.h"
#include "tools/serve/api_response.h"
#include "tools/serve/json_body.h"
#include "tools/serve/slot_request.h"

namespace {

using nlohmann::ordered_json;
using namespace strata::serve;

constexpr ToolCallStyle kStyles[] = {ToolCallStyle::kNone,    ToolCallStyle::kLlama,
                                     ToolCallStyle::kHermes,  ToolCallStyle::kQwenCoder,
                                     ToolCallStyle::kMistral, ToolCallStyle::kMistralArgs};

void hold(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

void hold_error(const strata::Error& error) {
  const bool is_ours =
      error.code() == strata::ErrorCode::kUsage || error.code() == strata::ErrorCode::kBadText;
  hold(is_ours && error.what()[0] != '\0' && !error.remedy().empty(), "an error with its remedy");
  for (const ApiShape shape : {ApiShape::kChat, ApiShape::kMessages})
    hold(ordered_json::accept(error_body(shape, api_error(error))), "a refusal that is JSON");
}

/// The bytes as an answer has them: whole code points, cut anywhere between.
std::vector<std::string> answer_texts(std::string_view bytes) {
  std::vector<std::string> out;
  for (size_t n = 0; !bytes.empty(); ++n) {
    const auto step = strata::engine::utf8_step(bytes);
    const bool is_whole = step.status == strata::engine::Utf8Status::kWhole;
    if (n % 5 == 0) out.emplace_back();
    out.back() += is_whole ? bytes.substr(0, step.bytes) : strata::engine::kReplacementCharacter;
    bytes.remove_prefix(step.bytes);
  }
  return out;
}

void hold_stream(std::string_view stream) {
  while (!stream.empty()) {
    const size_t end = stream.find("\n\n");
    hold(end != std::string_view::npos, "whole events");
    std::string_view event = stream.substr(0, end);
    stream.remove_prefix(end + 2);
    if (event.starts_with("event: ")) event.remove_prefix(event.find('\n') + 1);
    hold(event.starts_with("data: "), "an event with data");
    event.remove_prefix(6);
    hold(event == "[DONE]" || ordered_json::accept(event), "data that is JSON");
  }
}

void answer(const ApiRequest& request, const std::vector<std::string>& texts, ToolCallStyle style,
            bool fails) {
  const auto response = make_response(request, {"1", "m", 2, style});
  std::string out;
  AnswerEvent event;
  event.n_prompt = 9;
  out += response->push(event);
  for (const std::string& text : texts) {
    AnswerEvent one;
    one.kind = AnswerEvent::Kind::kText;
    one.text = text;
    if (request.order.n_logprobs) one.tokens = {{{1, text.substr(0, 3), -1}, {}}};
    out += response->push(one);
  }
  event.kind = fails ? AnswerEvent::Kind::kError : AnswerEvent::Kind::kEnd;
  if (fails) event.error = strata::Error(strata::ErrorCode::kIo, "m", "w", "r");
  out += response->push(event);
  out += response->finish();
  if (request.is_streamed) return hold_stream(out);
  hold(ordered_json::accept(out), "a body that is JSON");
  hold(response->status() == (fails ? 500 : 200), "the status of its end");
}

void read_calls(const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) all += text;
  for (const ToolCallStyle style : kStyles) {
    ToolCallReader reader(style);
    std::string found;
    bool has_calls = false;
    const auto take = [&](const std::vector<AnswerPiece>& pieces) {
      for (const AnswerPiece& piece : pieces) {
        found += piece.text;
        has_calls |= piece.call.has_value();
        if (piece.call) hold(ordered_json::accept(piece.call->arguments), "arguments of JSON");
      }
    };
    for (const std::string& text : texts) take(reader.push(text));
    take(reader.finish());
    hold(has_calls || found == all, "text that is no call comes back");
  }
}

/// Follows bytes that a hash picks of those that may come.
void follow_schema(const ordered_json& schema) {
  using strata::engine::GrammarStack;
  const strata::engine::JsonGrammar grammar = strata::engine::compile_json_schema(schema);
  GrammarStack stack = strata::engine::first_stack(grammar);
  uint32_t picked = 12345;
  for (int i = 0; i < 100; ++i) {
    std::vector<GrammarStack> next;
    for (uint32_t byte = 0; byte < 256; ++byte)
      strata::engine::step_stack(grammar, stack, static_cast<uint8_t>(byte), next);
    if (next.empty()) {
      hold(strata::engine::may_end(grammar, stack), "a value that can be completed");
      return;
    }
    picked = picked * 1664525 + 1013904223;
    stack = next[(picked >> 8) % next.size()];
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::vector<std::string> texts = answer_texts(bytes);
  read_calls(texts);
  for (const ApiShape shape : {ApiShape::kChat, ApiShape::kCompletion, ApiShape::kMessages}) {
    try {
      const ApiRequest request = parse_request(shape, bytes, ApiDefaults{});
      for (const ToolCallStyle style : kStyles) answer(request, texts, style, size % 2 == 0);
    } catch (const strata::Error& error) {
      hold_error(error);
    }
  }
  for (const char* action : {"save", "restore", "erase"}) {
    try {
      const SlotAction of = parse_slot_action("7", action, bytes);
      hold(of.name.empty() || strata::tiers::is_session_name(of.name), "a name of a session");
    } catch (const strata::Error& error) {
      hold_error(error);
    }
  }
  try {
    JsonBudget budget;
    follow_schema(parse_object(bytes, budget));
  } catch (const strata::Error& error) {
    hold_error(error);
  }
  return 0;
}
