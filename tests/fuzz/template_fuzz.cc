// tests/fuzz/template_fuzz.cc - libFuzzer target: any bytes as a chat template.
// Each input is parsed and rendered over a fixed conversation with tools, within small budgets.
// Wanted: text or Error(kTemplate) that names a line and a remedy; live memory within what the
// budgets and the source's size allow; the same text again; marks that are sorted ranges of it.
// Run: template_fuzz -dict=tests/fuzz/template_fuzz.dict -timeout=5 CORPUS_DIR \
//      tests/fuzz/seeds/template_fuzz
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "engine/template/render_tree.h"
#include "tests/fuzz/live_memory.h"

namespace {

namespace jinja = strata::engine::jinja;

// A token of one byte takes a token record, an expression and its place in a vector that grows.
constexpr uint64_t kLiveBytesPerSourceByte = 1024;
// Containers grow by doubling, and a text is built beside the one that it replaces.
constexpr uint64_t kLiveBytesPerBudgetByte = 4;
constexpr uint64_t kLiveBytesMin = uint64_t{1} << 20;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "template_fuzz: %s\n", what);
  std::abort();
}

const nlohmann::ordered_json& conversation() {
  static const auto kConversation = nlohmann::ordered_json::parse(R"({
    "messages": [
      {"role": "system", "content": "Be brief.\n"},
      {"role": "user", "content": " What's the <b>weather</b>? \u00e9\ud83d\ude00"},
      {"role": "assistant", "content": null, "tool_calls": [{"id": "call00001", "type": "function",
        "function": {"name": "weather", "arguments": {"city": "K\u00f6ln", "n": 1.5, "x": null}}}]},
      {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": "12"},
      {"role": "assistant", "content": "<think>\nhm\n</think>\n\nIt is 12."}],
    "tools": [{"type": "function", "function": {"name": "weather", "description": "d",
      "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}}}}}],
    "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"})");
  return kConversation;
}

jinja::RenderLimits small_limits() {
  jinja::RenderLimits limits;
  limits.steps = 50'000;
  limits.output_bytes = 1 << 20;
  limits.memory_bytes = 4 << 20;
  limits.range_length = 1'000;
  return limits;
}

std::optional<jinja::MarkedText> render(std::string_view source) {
  try {
    const jinja::SyntaxTree tree = jinja::parse_template(source);
    jinja::Runtime rt(small_limits(), 0);
    jinja::Variables variables;
    for (const auto& [name, value] : conversation().items()) {
      variables.emplace_back(name, jinja::from_json(rt, value, name != "bos_token"));
    }
    return jinja::render_tree(tree, rt, variables, "2026-11-25");
  } catch (const strata::Error& error) {
    if (error.code() != strata::ErrorCode::kTemplate) fail("an error of another code");
    if (!error.where().starts_with("chat template, line ")) fail("an error without its place");
    if (error.what()[0] == '\0' || error.remedy().empty()) fail("an error without words");
    return std::nullopt;
  }
}

void check_marks(const jinja::MarkedText& text) {
  size_t end = 0;
  for (const jinja::ByteRange& range : text.user()) {
    if (range.begin >= range.end || range.end > text.size()) fail("a mark outside of the text");
    if (range.begin < end) fail("marks that are not sorted");
    end = range.end;
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  strata::fuzz::count_live_memory();
  (void)conversation();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  std::optional<jinja::MarkedText> text;
  const uint64_t peak_bytes = strata::fuzz::peak_bytes_of([&] { text = render(source); });
  const uint64_t allowed = kLiveBytesMin + kLiveBytesPerSourceByte * size +
                           kLiveBytesPerBudgetByte * small_limits().memory_bytes +
                           small_limits().output_bytes;
  if (peak_bytes > allowed) fail("more memory than the budgets allow");
  if (!text) return 0;
  check_marks(*text);
  const auto again = render(source);
  if (!again || again->bytes() != text->bytes()) fail("the second rendering differs");
  return 0;
}
