#include "engine/prompt_tokens.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace strata::engine {
namespace {

std::vector<TokenId> encode_plainly(const Tokenizer& tokenizer, std::string_view text,
                                    bool parse_special) {
  if (text.empty()) return {};
  EncodeOptions options;
  options.add_special = false;
  options.parse_special = parse_special;
  return tokenizer.encode(text, options);
}

auto count_control(const Tokenizer& tokenizer, std::span<const TokenId> tokens) {
  return std::ranges::count_if(tokens, [&](TokenId token) { return tokenizer.is_control(token); });
}

/// Puts BOS first where the model wants one and it is not there. An EOS that the file asks for is
/// left out: an answer follows.
std::vector<TokenId> with_bos(const Tokenizer& tokenizer, std::vector<TokenId> tokens) {
  const TokenizerSpec& spec = tokenizer.spec();
  if (spec.add_bos && spec.bos != kNoToken && (tokens.empty() || tokens.front() != spec.bos)) {
    tokens.insert(tokens.begin(), spec.bos);
  }
  if (tokens.empty())
    throw Error(ErrorCode::kBadText, "the prompt is empty", "prompt", "give a text");
  return tokens;
}

bool is_mark(const Tokenizer& tokenizer, TokenId token) {
  const auto& kinds = tokenizer.spec().kinds;
  return tokenizer.is_control(token) || (token >= 0 && static_cast<size_t>(token) < kinds.size() &&
                                         kinds[static_cast<size_t>(token)] == TokenKind::kUnknown);
}

}  // namespace

std::vector<TokenId> encode_text_prompt(const Tokenizer& tokenizer, std::string_view text,
                                        bool parse_special) {
  if (text.empty())
    throw Error(ErrorCode::kBadText, "the prompt is empty", "prompt", "give a text");
  return with_bos(tokenizer, encode_plainly(tokenizer, text, parse_special));
}

std::vector<TokenId> encode_chat_prompt(const Tokenizer& tokenizer,
                                        std::span<const PromptPart> parts) {
  std::string whole;
  std::ptrdiff_t n_control_of_markup = 0;
  for (const PromptPart& part : parts) {
    whole += part.text;
    if (part.is_markup) {
      n_control_of_markup += count_control(tokenizer, encode_plainly(tokenizer, part.text, true));
    }
  }
  // Encoded as one text, words may join across the seams as they did when the model was trained.
  // Only where that finds control tokens the markup does not hold, somebody's text spells one: then
  // each part is encoded apart, and that text stays text.
  auto tokens = encode_plainly(tokenizer, whole, true);
  if (count_control(tokenizer, tokens) != n_control_of_markup) {
    tokens.clear();
    for (const PromptPart& part : parts) {
      const auto more = encode_plainly(tokenizer, part.text, part.is_markup);
      tokens.insert(tokens.end(), more.begin(), more.end());
    }
  }
  return with_bos(tokenizer, std::move(tokens));
}

void append_marked(const Tokenizer& tokenizer, TokenId token, std::string& out) {
  constexpr char kMark = '\xFF', kStrayMark = '\xFE';
  if (is_mark(tokenizer, token)) {
    out += kMark;
    out += std::to_string(token);
    out += kMark;
    return;
  }
  // A byte that stands for itself could spell a mark; neither occurs in UTF-8.
  for (const char c : tokenizer.piece(token)) out += c == kMark ? kStrayMark : c;
}

std::string marked_text(const Tokenizer& tokenizer, std::span<const TokenId> tokens) {
  std::string text;
  for (const TokenId token : tokens) append_marked(tokenizer, token, text);
  return text;
}

PromptTokens with_known_beginning(const Tokenizer& tokenizer, std::span<const TokenId> prompt,
                                  const tiers::KnownText& known) {
  PromptTokens out{.tokens = known.tokens, .is_generated = known.is_generated, .n_kept = 0};
  size_t next = 0;    // the first token of the prompt that is not taken from what is known
  std::string split;  // what the token before it has beyond the known bytes
  for (uint64_t at = 0; at < known.n_bytes; ++next) {
    std::string bytes;
    append_marked(tokenizer, prompt[next], bytes);
    at += bytes.size();
    if (at > known.n_bytes) split = bytes.substr(bytes.size() - (at - known.n_bytes));
  }
  if (!split.empty()) {
    while (next < prompt.size() && !is_mark(tokenizer, prompt[next]))
      append_marked(tokenizer, prompt[next++], split);
    EncodeOptions options;
    options.add_special = false;
    options.continues = true;
    const auto more = tokenizer.encode(split, options);
    out.tokens.insert(out.tokens.end(), more.begin(), more.end());
  }
  out.tokens.insert(out.tokens.end(), prompt.begin() + static_cast<std::ptrdiff_t>(next),
                    prompt.end());
  out.is_generated.resize(out.tokens.size());
  const auto differs = std::ranges::mismatch(out.tokens, prompt).in1 - out.tokens.begin();
  out.n_kept = static_cast<uint64_t>(
      std::count(out.is_generated.begin() + differs, out.is_generated.end(), uint8_t{1}));
  return out;
}

}  // namespace strata::engine
