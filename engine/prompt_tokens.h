// engine/prompt_tokens.h - from a request's text to the tokens a sequence is fed: where special
// tokens count and where not.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/template/chat_template.h"
#include "engine/text/tokenizer.h"
#include "tiers/text_match.h"

namespace strata::engine {

/// Text without a template: BOS where the model wants one, never an EOS at the end (an answer is to
/// follow). Errors: kBadText (empty, not UTF-8).
std::vector<TokenId> encode_text_prompt(const Tokenizer& tokenizer, std::string_view text,
                                        bool parse_special);

/// A rendered conversation: special tokens count in the template's own text and never in what users
/// and documents say. BOS is added where the model wants one and the template has not written it.
/// Errors: kBadText.
std::vector<TokenId> encode_chat_prompt(const Tokenizer& tokenizer,
                                        std::span<const PromptPart> parts);

/// Appends the bytes that a token stands for. A control token is a mark that no text can hold
/// (bytes that are not UTF-8), and never the bytes of its text.
void append_marked(const Tokenizer& tokenizer, TokenId token, std::string& out);
std::string marked_text(const Tokenizer& tokenizer, std::span<const TokenId> tokens);

/// A prompt, and where its tokens come from.
struct PromptTokens {
  std::vector<TokenId> tokens;
  std::vector<uint8_t> is_generated;  // as tokens: 1 = by a model, 0 = by the tokenizer
  // Of those generated, the ones behind the first that the tokenizer would have chosen otherwise.
  uint64_t n_kept = 0;
};

/// `prompt`, as it was tokenised, with the beginning that is known by its bytes as it was generated
/// (docs/adr/0002-saved-contexts.md): the same bytes, and the same tokens between any two control
/// tokens, but where a model generated some of them. `known.n_bytes` bytes of marked_text(prompt)
/// are those of `known.tokens`. What follows them up to the next control token is tokenised by
/// itself, unless `prompt` has the same seam.
PromptTokens with_known_beginning(const Tokenizer& tokenizer, std::span<const TokenId> prompt,
                                  const tiers::KnownText& known);

}  // namespace strata::engine
