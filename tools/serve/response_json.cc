#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "engine/text/utf8.h"
#include "tools/cli/json_output.h"
#include "tools/serve/response_shape.h"

namespace strata::serve {
namespace {

using nlohmann::ordered_json;

// What OpenAI writes for a token that cannot be: JSON has no infinity.
constexpr double kImpossible = -9999;

double finite(double logprob) { return std::isfinite(logprob) ? logprob : kImpossible; }

double per_second(uint64_t n, double ms) { return ms > 0 ? static_cast<double>(n) * 1000 / ms : 0; }

ordered_json bytes_json(std::string_view bytes) {
  ordered_json out = ordered_json::array();
  for (const char c : bytes) out.push_back(static_cast<unsigned char>(c));
  return out;
}

ordered_json chat_token(const TokenLogprob& token) {
  return {{"token", token.bytes},  // written with U+FFFD where it is not UTF-8; bytes are exact
          {"logprob", finite(token.logprob)},
          {"bytes", bytes_json(token.bytes)}};
}

/// Source: FNV-1a, 64 bits.
uint64_t fnv1a(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return hash;
}

/// As OpenAI names tokens that are part of a code point: the keys of an object have to differ.
std::string completion_token(const std::string& bytes) {
  if (engine::utf8_fault(bytes) == bytes.size()) return bytes;
  std::string out = "bytes:";
  for (const char c : bytes) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return out;
}

}  // namespace

std::string server_sent_event(std::string_view name, const ordered_json& data) {
  std::string out = name.empty() ? "" : fmt::format("event: {}\n", name);
  return out + "data: " + cli::json_line(data) + "\n\n";
}

std::string call_id(const ApiIdentity& identity, size_t idx) {
  constexpr size_t kLength = 9;
  constexpr std::string_view kDigits =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  uint64_t left = fnv1a(identity.id) + idx;
  std::string id(kLength, '0');
  for (char& digit : id) {
    digit = kDigits[left % kDigits.size()];
    left /= kDigits.size();
  }
  return id;
}

ordered_json openai_usage(const AnswerEvent& end) {
  const engine::TokenUsage& usage = end.usage;
  return {
      {"prompt_tokens", usage.prompt_tokens},
      {"completion_tokens", usage.completion_tokens},
      {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
      {"prompt_tokens_details",
       {{"cached_tokens", usage.cached_tokens}, {"recomputed_tokens", usage.recomputed_tokens}}}};
}

ordered_json timings_json(const AnswerEvent& end) {
  const uint64_t n_read = end.usage.prompt_tokens - end.usage.cached_tokens;
  const engine::GenerationTimes& times = end.times;
  ordered_json json = {
      {"cache_n", end.usage.cached_tokens},
      {"prompt_n", n_read},
      {"prompt_ms", times.prefill_ms},
      {"prompt_per_second", per_second(n_read, times.prefill_ms)},
      {"predicted_n", end.usage.completion_tokens},
      {"predicted_ms", times.decode_ms},
      {"predicted_per_second", per_second(times.n_decode_tokens, times.decode_ms)}};
  if (end.drafts.proposed == 0) return json;
  json["draft_n"] = end.drafts.proposed;
  json["draft_n_accepted"] = end.drafts.accepted;
  return json;
}

ordered_json progress_json(const AnswerEvent& event) {
  return {{"total", event.n_prompt}, {"cache", event.n_cached}, {"processed", event.n_read}};
}

ordered_json chat_logprobs(std::span<const ScoredToken> tokens) {
  ordered_json content = ordered_json::array();
  for (const ScoredToken& scored : tokens) {
    ordered_json one = chat_token(scored.token);
    ordered_json likeliest = ordered_json::array();
    for (const TokenLogprob& token : scored.likeliest) likeliest.push_back(chat_token(token));
    one["top_logprobs"] = std::move(likeliest);
    content.push_back(std::move(one));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

ordered_json completion_logprobs(std::span<const ScoredToken> tokens, uint64_t& offset) {
  ordered_json texts = ordered_json::array(), logprobs = ordered_json::array();
  ordered_json likeliest = ordered_json::array(), offsets = ordered_json::array();
  for (const ScoredToken& scored : tokens) {
    texts.push_back(completion_token(scored.token.bytes));
    logprobs.push_back(finite(scored.token.logprob));
    ordered_json best = ordered_json::object();
    for (const TokenLogprob& token : scored.likeliest)
      best[completion_token(token.bytes)] = finite(token.logprob);
    likeliest.push_back(std::move(best));
    offsets.push_back(offset);
    offset += n_code_points(scored.token.bytes);
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(likeliest)},
          {"text_offset", std::move(offsets)}};
}

uint64_t n_code_points(std::string_view text) {
  uint64_t n = 0;
  for (const char c : text) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

}  // namespace strata::serve
