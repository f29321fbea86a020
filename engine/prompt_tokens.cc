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

}  // namespace strata::engine
